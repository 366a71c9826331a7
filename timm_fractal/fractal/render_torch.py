"""Kernel in torch operations, for any device; renders the same images as `render_numba`.

The recurrence looks sequential, but affine maps compose: the address sequence is cut into chunks, the maps of all
chunks are composed in parallel, a short scan over the chunks gives the state at the start of each, and all chunks are
walked in parallel. These states may be off in the last bit, so every walk begins `_WARM_UP` steps early: the maps are
contractive, and by the start of the chunk the walk has converged to the sequential one. The last of several patches on
a pixel wins: a scatter of (point index, bit) with maximum.
"""

import math

import torch
from torch import Tensor

from ..spec import FILL, POINT
from .canvas import GRAY, LIMIT, PADDING, ROUND_UP

_WARM_UP = 64
_MASK32 = 0xFFFFFFFF


def patch_bits(keys: Tensor, index: Tensor) -> Tensor:
    """Return the patch of each point: 9 random bits, not all zero; bit 3 i + j is row i, column j.

    32-bit arithmetic in int64, since torch has few operations on unsigned integers.
    """
    h = (index + keys[..., 0]) & _MASK32
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK32
    h = h ^ keys[..., 1]
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _MASK32
    h = h ^ (h >> 16)
    return 1 + (((h >> 9) * 511) >> 23)


def _trajectory(maps: Tensor, addresses: Tensor) -> Tensor:
    """Return all points, starting with (0, 0): (points, 2, B)."""
    steps, images = max(1, len(addresses)), maps.shape[2]
    chunk = max(1, math.isqrt(steps))
    chunks = -(-steps // chunk)
    # Map N is the identity, padding for the first warm-up and the end of the last chunk.
    identity = torch.eye(2, 3, dtype=maps.dtype, device=maps.device).flatten()
    maps = torch.cat([maps, identity[None, :, None].expand(1, 6, images)])
    padded = addresses.new_full((_WARM_UP + chunks * chunk,), len(maps) - 1)
    padded[_WARM_UP : _WARM_UP + len(addresses)] = addresses
    windows = padded.unfold(0, chunk + _WARM_UP, chunk)

    whole = maps[windows[:, 0]]
    for t in range(1, chunk):
        a, b, e, c, d, f = maps[windows[:, t]].unbind(1)
        p, q, r, s, u, v = whole.unbind(1)
        whole = torch.stack(
            [a * p + b * s, a * q + b * u, a * r + b * v + e, c * p + d * s, c * q + d * u, c * r + d * v + f], 1
        )
    starts = torch.zeros(chunks, 2, images, dtype=maps.dtype, device=maps.device)
    for k in range(chunks - 1):
        a, b, e, c, d, f = whole[k]
        x, y = starts[k]
        starts[k + 1, 0] = a * x + b * y + e
        starts[k + 1, 1] = c * x + d * y + f

    x, y = starts.unbind(1)
    points = torch.zeros(1 + chunks * chunk, 2, images, dtype=maps.dtype, device=maps.device)
    walks = points[1:].view(chunks, chunk, 2, images)
    for t in range(chunk + _WARM_UP):
        a, b, e, c, d, f = maps[windows[:, t]].unbind(1)
        x, y = a * x + b * y + e, c * x + d * y + f
        if t >= _WARM_UP:
            walks[:, t - _WARM_UP, 0] = x
            walks[:, t - _WARM_UP, 1] = y
    return points[: len(addresses) + 1]


def frame(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return origin and scale (pixels per unit) of the canvas, float64 (2, B), and which images diverged, bool (B,)."""
    span = high - low
    diverged = ~((span < LIMIT).all(0))
    # Points of diverged images and images without extent stay in a corner.
    scale = (size - 2 * PADDING) * ROUND_UP / torch.where(diverged | (span == 0), torch.inf, span)
    return torch.where(diverged, 0.0, low), scale, diverged


def render_lanes(maps: Tensor, addresses: Tensor, keys: Tensor, size: int, patch: int, canvas: Tensor) -> None:
    """Render images.

    Args:
        maps: (N, 6, B) float64, parameters a, b, e, c, d, f of x' = a x + b y + e, y' = c x + d y + f.
        addresses: (points - 1,) int64.
        keys: (B, 2) int64 in [0, 2^32), seeds of the patches of each image.
        size: Width and height in pixels.
        patch: `RANDOM`, `FILL` or `POINT`.
        canvas: (B, size, size) uint8, written; an image that diverges is black.
    """
    points = _trajectory(maps, addresses)
    start, scale, diverged = frame(points.amin(0), points.amax(0), size)
    points = torch.where(diverged, 0.0, points)
    column, row = ((points - start) * scale + PADDING).long().unbind(1)

    flat = torch.full((maps.shape[2], size * size), -1, dtype=torch.int32, device=maps.device)
    corner = ((size - 1 - row) * size + column).T
    if patch == POINT:
        flat.scatter_(1, corner, 1)
    else:
        index = torch.arange(len(points), device=maps.device)
        bits = torch.full_like(corner, 511) if patch == FILL else patch_bits(keys[:, None], index)
        order = (2 * index).int()
        for i in range(3):
            for j in range(3):
                value = order + ((bits >> (3 * i + j)) & 1).int()
                flat.scatter_reduce_(1, corner + (j + 1 - (i + 1) * size), value, 'amax')
    lit = (flat > 0) & (flat & 1 == 1) & ~diverged[:, None]
    canvas.copy_(lit.view_as(canvas)).mul_(GRAY)
