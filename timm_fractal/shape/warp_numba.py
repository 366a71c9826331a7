"""CPU kernels: an image of bytes, sampled between its pixels at positions that are computed along the way; valid warps.

Integers throughout, but for the positions; those are exact, see `timm_fractal.shape`. Loops over a line of positions
become SIMD lanes; indices are unsigned, since signed ones would be looked at for being negative.
"""

import numpy as np

from .._utils.jit import kernel, part


@kernel
def warp(pixels, lines, columns, scale, bits, fill, out):  # type: ignore[no-untyped-def]
    """Fill out (height, width, channels) from pixels (h, w, channels), both uint8 and C-contiguous.

    The position of out[r, c] in steps from the middle of the image is, for k = x, y, the scalar product of lines[k, r]
    and columns[:, c], over that of lines[2, r] and columns[:, c] if there is one, times scale[k]. A pixel has 2 ** bits
    steps. fill has one value for each channel.
    """
    height, width, channels = out.shape
    flat = pixels.reshape(-1)
    row = np.uint64(pixels.shape[1] * channels)
    steps = np.int64(1) << bits
    limit = steps - 1
    twice = 2 * bits
    half_even = (np.int64(1) << (twice - 1)) - 1
    # Of the positions that show the image, and of the middles of its last pixels.
    edge_x, edge_y = float(steps * pixels.shape[1] // 2), float(steps * pixels.shape[0] // 2)
    last_x, last_y = steps * (pixels.shape[1] - 1), steps * (pixels.shape[0] - 1)
    us, vs = np.empty(width), np.empty(width)
    below = np.empty(width)
    for r in range(height):
        us[:] = 0.0
        vs[:] = 0.0
        below[:] = 0.0
        for i in range(len(columns)):
            a, b = lines[0, r, i], lines[1, r, i]
            for c in range(width):
                us[c] += a * columns[i, c]
                vs[c] += b * columns[i, c]
        if len(lines) == 3:
            for i in range(len(columns)):
                for c in range(width):
                    below[c] += lines[2, r, i] * columns[i, c]
            for c in range(width):
                us[c] /= below[c]
                vs[c] /= below[c]
        for c in range(width):
            us[c] = np.rint(us[c] * scale[0])
            vs[c] = np.rint(vs[c] * scale[1])
        for c in range(width):
            if not (abs(us[c]) <= edge_x and abs(vs[c]) <= edge_y):
                for k in range(channels):
                    out[r, c, k] = fill[k]
                continue
            u = min(max(np.int64(us[c]) + (last_x >> 1), 0), last_x)
            v = min(max(np.int64(vs[c]) + (last_y >> 1), 0), last_y)
            # A neighbour of weight 0 may lie outside: the pixel itself stands in.
            right = np.uint64(channels if u < last_x else 0)
            down = row if v < last_y else np.uint64(0)
            place = np.uint64(v >> bits) * row + np.uint64(u >> bits) * np.uint64(channels)
            u &= limit
            v &= limit
            for k in range(channels):
                at = place + np.uint64(k)
                above = (steps - u) * flat[at] + u * flat[at + right]
                under = (steps - u) * flat[at + down] + u * flat[at + down + right]
                total = (steps - v) * above + v * under
                # To the nearest level, to the even one of two: as torch rounds.
                out[r, c, k] = (total + half_even + ((total >> twice) & 1)) >> twice


@part
def _is_valid(identity, delta, scale, per_cell, least, covered):  # type: ignore[no-untyped-def]
    """See ``Warp._is_an_image``: the fields are identity + scale * delta, each of shape (2, corners, corners)."""
    corners = identity.shape[1]
    x, y = identity[0] + scale * delta[0], identity[1] + scale * delta[1]
    for i in range(corners - 1):
        for j in range(corners - 1):
            down_x, down_y = (x[i + 1, j + 1] - x[i, j]) * per_cell, (y[i + 1, j + 1] - y[i, j]) * per_cell
            up_x, up_y = (x[i, j + 1] - x[i + 1, j]) * per_cell, (y[i, j + 1] - y[i + 1, j]) * per_cell
            area = up_x * down_y - up_y * down_x
            squares = up_x * up_x + down_x * down_x + up_y * up_y + down_y * down_y
            # Not a number fails, too.
            if not (area >= least and area * area - least * squares + least * least >= 0):
                return False
    inside, far = 0, 0.0
    for i in range(corners):
        for j in range(corners):
            inside += max(abs(x[i, j]), abs(y[i, j])) <= 1
            far = max(far, scale * abs(delta[0, i, j]), scale * abs(delta[1, i, j]))
    if inside < covered:
        return False
    if far < 1:
        return True
    # Around the edge of the canvas, and how often that goes around the middle.
    last, turns = corners - 1, 0.0
    for k in range(4 * last):
        a, b = _edge(k, last)
        c, d = _edge((k + 1) % (4 * last), last)
        turns += np.arctan2(x[a, b] * y[c, d] - y[a, b] * x[c, d], x[a, b] * x[c, d] + y[a, b] * y[c, d])
    return turns > np.pi


@part
def _edge(k, last):  # type: ignore[no-untyped-def]
    side, along = k // last, k % last
    if side == 0:
        return 0, along
    if side == 1:
        return along, last
    if side == 2:
        return last, last - along
    return last - along, 0


@kernel
def shrinks(identity, deltas, per_cell, least, covered, factor, most):  # type: ignore[no-untyped-def]
    """How often each warp must be multiplied by ``factor`` until it is valid, at most so often, int64 (B,)."""
    result = np.zeros(len(deltas), np.int64)
    for k in range(len(deltas)):
        scale = 1.0
        while result[k] < most and not _is_valid(identity, deltas[k], scale, per_cell, least, covered):
            result[k] += 1
            scale *= factor
    return result
