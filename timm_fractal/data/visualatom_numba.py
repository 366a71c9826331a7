"""CPU kernel: the contours of one VisualAtom image."""

import numpy as np

from .._utils.jit import kernel, part, random_bits


@part
def _perlin(bits):  # type: ignore[no-untyped-def]
    """Compute one-dimensional Perlin noise from 32 random bits: two 4-bit gradients and a 24-bit position."""
    t = (bits >> np.uint32(8)) / 2.0**24
    fade = t * t * t * (t * (t * 6 - 15) + 10)
    left = -1.0 if bits & np.uint32(8) else (bits & np.uint32(7)) + 1.0
    right = -1.0 if bits & np.uint32(128) else ((bits >> np.uint32(4)) & np.uint32(7)) + 1.0
    a, b = left * t, right * (t - 1)
    return 0.4 * (a + fade * (b - a))


@part
def _paint(out, x, y, gray):  # type: ignore[no-untyped-def]
    if 0 <= x < out.shape[1] and 0 <= y < out.shape[0]:
        out[y, x] = gray


@part
def _line(out, x, y, x1, y1, gray):  # type: ignore[no-untyped-def]
    """Draw Bresenham's line, one pixel wide, including both ends."""
    dx, dy = abs(x1 - x), abs(y1 - y)
    step_x = 1 if x1 > x else -1
    step_y = 1 if y1 > y else -1
    # The longer axis advances in each step, the shorter one when the error is not negative.
    along_x, along_y = (step_x, 0) if dx > dy else (0, step_y)
    more, fewer = max(dx, dy), min(dx, dy)
    error = 2 * fewer - more
    for _ in range(more + 1):
        _paint(out, x, y, gray)
        if error >= 0:
            x += step_x - along_x
            y += step_y - along_y
            error -= 2 * more
        error += 2 * fewer
        x += along_x
        y += along_y


@kernel
def render_contours(x, y, cos, sin, waves, eta, spacing, orbits, key0, key1, scale, out):  # type: ignore[no-untyped-def]
    """Render closed contours on top of each other, each farther out than the one before.

    Args:
        x: (V,) float64, the first vertices; overwritten.
        y: As ``x``.
        cos: (V,) float64, outward directions.
        sin: As ``cos``.
        waves: (V,) float64, movement of each vertex in addition to ``eta`` and ``spacing``.
        eta: Amplitude of the noise.
        spacing: Movement without noise.
        orbits: Number of contours.
        key0: uint32; with ``key1``, seed of the noise and gray levels.
        key1: uint32.
        scale: Pixels per unit of the coordinates.
        out: (size, size) uint8 of zeros, painted on.
    """
    count = len(x)
    for orbit in range(orbits):
        gray = random_bits(orbit, key1, key0) >> np.uint32(24)
        for v in range(count):
            index = 2 * (orbit * count + v)
            x[v] += cos[v] * (spacing + eta + waves[v] - eta * _perlin(random_bits(index, key0, key1)))
            y[v] += sin[v] * (spacing + eta + waves[v] - eta * _perlin(random_bits(index + 1, key0, key1)))
        # Truncated, as Pillow does.
        first_x, first_y = int(scale * x[0]), int(scale * y[0])
        here_x, here_y = first_x, first_y
        for v in range(1, count):
            there_x, there_y = int(scale * x[v]), int(scale * y[v])
            _line(out, here_x, here_y, there_x, there_y, gray)
            here_x, here_y = there_x, there_y
        _line(out, here_x, here_y, first_x, first_y, gray)
