# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels; render the same images as `render_numba`.

One lane renders one image, point by point: a GPU has lanes for thousands of images. It plays the chaos game twice, for
the bounding box and for the patches, which is cheaper than storing the points. Later patches overwrite earlier ones
because the writes of a lane are ordered. Multiply-add fusion is off (``enable_fp_fusion``), so all points are equal bit
for bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..spec import PATCHES, POINT, RANDOM
from . import canvas as _canvas
from . import render_torch

_LANES = 32
_RANDOM, _POINT = tl.constexpr(RANDOM), tl.constexpr(POINT)
_GRAY, _PADDING = tl.constexpr(_canvas.GRAY), tl.constexpr(_canvas.PADDING)


@triton.jit
def _step(maps, path, t, count, image, wanted, x, y):
    place = maps + tl.load(path + t).to(tl.int64) * 6 * count + image
    a = tl.load(place, mask=wanted, other=0)
    b = tl.load(place + count, mask=wanted, other=0)
    e = tl.load(place + 2 * count, mask=wanted, other=0)
    c = tl.load(place + 3 * count, mask=wanted, other=0)
    d = tl.load(place + 4 * count, mask=wanted, other=0)
    f = tl.load(place + 5 * count, mask=wanted, other=0)
    return a * x + b * y + e, c * x + d * y + f


@triton.jit
def _bounds(maps, path, steps, count, low, high, LANES: tl.constexpr):
    """Write the minimum and maximum coordinates, float64 (2, images)."""
    image = tl.program_id(0) * LANES + tl.arange(0, LANES)
    wanted = image < count
    x = tl.zeros((LANES,), tl.float64)
    y = tl.zeros((LANES,), tl.float64)
    left, right, bottom, top = x, x, y, y
    for t in range(steps):
        x, y = _step(maps, path, t, count, image, wanted, x, y)
        left, right = tl.minimum(left, x), tl.maximum(right, x)
        bottom, top = tl.minimum(bottom, y), tl.maximum(top, y)
    tl.store(low + image, left, mask=wanted)
    tl.store(low + count + image, bottom, mask=wanted)
    tl.store(high + image, right, mask=wanted)
    tl.store(high + count + image, top, mask=wanted)


@triton.jit
def _paste(
    maps, path, steps, count, keys, start, scale, diverged, canvas, size, PATCH: tl.constexpr, LANES: tl.constexpr
):
    image = tl.program_id(0) * LANES + tl.arange(0, LANES)
    wanted = image < count
    wanted &= tl.load(diverged + image, mask=wanted, other=1) == 0
    left, bottom = tl.load(start + image, mask=wanted, other=0), tl.load(start + count + image, mask=wanted, other=0)
    wide, high = tl.load(scale + image, mask=wanted, other=0), tl.load(scale + count + image, mask=wanted, other=0)
    first, second = tl.load(keys + 2 * image, mask=wanted, other=0), tl.load(keys + 2 * image + 1, mask=wanted, other=0)
    first, second = first.to(tl.uint32), second.to(tl.uint32)
    plane = canvas + image.to(tl.int64) * size * size
    x = tl.zeros((LANES,), tl.float64)
    y = tl.zeros((LANES,), tl.float64)
    for t in range(steps + 1):
        column = ((x - left) * wide + _PADDING).to(tl.int32)
        row = size - 1 - ((y - bottom) * high + _PADDING).to(tl.int32)
        corner = plane + row * size + column
        if PATCH == _POINT:
            tl.store(corner, tl.full((LANES,), _GRAY, tl.uint8), mask=wanted)
        else:
            if PATCH == _RANDOM:
                h = (first ^ (first >> 16)) * 0x7FEB352D
                h = h ^ second
                h = (h ^ (h >> 15)) * 0x846CA68B
                h = h ^ (h >> 16)
                bits = (1 + (((h >> 9) * 511) >> 23)).to(tl.int32)
            else:
                bits = tl.full((LANES,), 511, tl.int32)
            for i in tl.static_range(3):
                for j in tl.static_range(3):
                    level = ((bits >> (3 * i + j)) & 1) * _GRAY
                    tl.store(corner + (j + 1 - (i + 1) * size), level.to(tl.uint8), mask=wanted)
        first += 1
        # ``path`` has an extra address for the last iteration.
        x, y = _step(maps, path, t, count, image, wanted, x, y)


def render_lanes(maps: Tensor, addresses: Tensor, keys: Tensor, size: int, patch: int, canvas: Tensor) -> None:
    """See `timm_fractal.fractal.render_torch.render_lanes`."""
    count = maps.shape[2]
    path = torch.cat([addresses, addresses.new_zeros(1)])
    low, high = (torch.empty(2, count, dtype=torch.float64, device=maps.device) for _ in range(2))
    grid = (triton.cdiv(count, _LANES),)
    options = dict(num_warps=1, enable_fp_fusion=False)
    _bounds[grid](maps, path, len(addresses), count, low, high, _LANES, **options)
    start, scale, diverged = render_torch.frame(low, high, size)
    canvas.zero_()
    _paste[grid](
        maps, path, len(addresses), count, keys, start, scale, diverged.byte(), canvas, size, patch,
        _LANES, **options,
    )  # fmt: skip


def check(device: torch.device) -> None:
    """Compare the kernels with torch on a device; raise RuntimeError for wrong pixels, or Triton's error."""
    maps = torch.tensor([[0.5, 0.25, 0, -0.25, 0.5, 0.5], [0.25, -0.5, 0.5, 0.5, 0.375, 0]], dtype=torch.float64)
    maps = (maps[..., None] * torch.tensor([1, 0.9, 8], dtype=torch.float64)).to(device)
    path = (torch.arange(100, device=device) * 37 % 11 % 2).long()
    keys = torch.arange(6, device=device).view(3, 2) * 715827882
    for patch in range(len(PATCHES)):
        images = [torch.zeros(3, 32, 32, dtype=torch.uint8, device=device) for _ in range(2)]
        for kernel, image in zip((render_lanes, render_torch.render_lanes), images):
            kernel(maps, path, keys, 32, patch, image)
        if not torch.equal(*images):
            raise RuntimeError('wrong pixels: render_lanes')
