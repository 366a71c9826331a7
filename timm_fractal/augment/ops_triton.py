# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels: what `resample` and `ops` do in dozens of passes over the pixels, in one.

Each stands for a function of those two modules, takes what it takes and gives what Pillow gives: resizing is in
Pillow's fixed point, 22 bits, and equal to it; positions are in double precision, and nothing is contracted to
multiply-add (``enable_fp_fusion``), which would round once where Pillow rounds twice.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Edges of the tile of a program that resizes, and pixels of others: double precision needs registers.
_TILE = 32
_PIXELS_MAPPED = 256
_PIXELS_LOOKED_UP = 1024
_EXACT: dict[str, Any] = {'enable_fp_fusion': False}


@triton.jit(do_not_specialize=['resized', 'size', 'offset'])
def _weigh(box, cubic, flip, first, weights, resized, size, offset, TAPS: tl.constexpr, LINES: tl.constexpr):
    """First tap and weights of each line of the result, int32 (B, size) and (B, TAPS, size)."""
    image = tl.program_id(0)
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    inside = line < size
    line = tl.minimum(line, size - 1)
    shown = tl.where(tl.load(flip + image) != 0, size - 1 - line, line) + offset
    total = tl.load(box + 4 * image + 3)
    is_cubic = tl.load(cubic + image) != 0
    scale = total.to(tl.float64) / resized
    stretch = tl.maximum(scale, 1.0)
    support = tl.where(is_cubic, 2 * stretch, stretch)
    center = (shown.to(tl.float64) + 0.5) * scale
    start = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    stop = tl.minimum((center + support + 0.5).to(tl.int32), total)
    tap = start[None, :] + tl.arange(0, TAPS)[:, None]
    t = tl.abs((tap.to(tl.float64) - center[None, :] + 0.5) * (1 / stretch))
    # Keys' kernel with a = -1/2, or a triangle.
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weight = tl.where(is_cubic, tl.where(t < 1, near, tl.where(t < 2, far, 0.0)), tl.maximum(1 - t, 0.0))
    weight = tl.where(tap < stop[None, :], weight, 0.0)
    weight = weight / tl.sum(weight, 0)[None, :] * (1 << 22)
    whole = tl.where(weight < 0, weight - 0.5, weight + 0.5).to(tl.int32)
    tl.store(first + image * size + line, start, mask=inside)
    place = (image * TAPS + tl.arange(0, TAPS)[:, None]) * size + line[None, :]
    tl.store(weights + place, whole, mask=inside[None, :] & (tap >= 0))


@triton.jit(do_not_specialize=['source_image', 'source_channel', 'target_image', 'target_channel', 'size', 'taps'])
def _resize(
    source,
    source_image,
    source_channel,
    source_line,
    source_place,
    target,
    target_image,
    target_channel,
    target_line,
    target_place,
    take,
    put,
    box,
    first,
    weights,
    size,
    taps,
    TAPS: tl.constexpr,
    LINES: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Resize along the places of each line: image ``take[n]`` of the source becomes image ``put[n]`` of the target.

    ``box[n]``: first line, lines, first place, places.
    """
    n, channel, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    across = tl.cdiv(size, PLACES)
    line = tile // across * LINES + tl.arange(0, LINES)
    place = tile % across * PLACES + tl.arange(0, PLACES)
    lines = tl.load(box + 4 * n + 1)
    origin = tl.load(box + 4 * n + 2)
    last = origin + tl.load(box + 4 * n + 3) - 1
    wanted = (line < lines)[:, None] & (place < size)[None, :]
    start = origin + tl.load(first + n * size + place, mask=place < size, other=0)
    pixels = source + tl.load(take + n) * source_image + channel * source_channel
    pixels += (tl.load(box + 4 * n) + line)[:, None] * source_line
    total = tl.full((LINES, PLACES), 1 << 21, tl.int32)
    for tap in range(taps):
        weight = tl.load(weights + (n * TAPS + tap) * size + place, mask=place < size, other=0)
        column = tl.minimum(start + tap, last)
        total += weight[None, :] * tl.load(pixels + column[None, :] * source_place, mask=wanted, other=0).to(tl.int32)
    level = tl.minimum(tl.maximum(total >> 22, 0), 255)
    result = target + tl.load(put + n) * target_image + channel * target_channel
    result += line[:, None] * target_line + place[None, :] * target_place
    tl.store(result, level.to(tl.uint8), mask=wanted)


@triton.jit
def _cubic(before, first, second, after, part):
    straight = second - before
    square = 2 * (before - first) + second - after
    cube = first - before + after - second
    return first + part * (straight + part * (square + part * cube))


@triton.jit
def _tap(plane, row, column, height, width, wanted):
    row = tl.minimum(tl.maximum(row, 0), height - 1)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    return tl.load(plane + row * width + column, mask=wanted, other=0)


@triton.jit
def _line(plane, row, column, part, height, width, wanted):
    return _cubic(
        _tap(plane, row, column - 1, height, width, wanted).to(tl.float32),
        _tap(plane, row, column, height, width, wanted).to(tl.float32),
        _tap(plane, row, column + 1, height, width, wanted).to(tl.float32),
        _tap(plane, row, column + 2, height, width, wanted).to(tl.float32),
        part,
    )


@triton.jit
def _map(
    images,
    index,
    data,
    fill,
    target,
    height,
    width,
    CHANNELS: tl.constexpr,
    CUBIC: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Image ``index[n]`` under the affine map ``data[n]`` becomes image n of the target."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    area = height * width
    x, y = (pixel % width).to(tl.float64) + 0.5, (pixel // width).to(tl.float64) + 0.5
    data += 6 * n
    across = tl.load(data) * x + tl.load(data + 1) * y + tl.load(data + 2)
    down = tl.load(data + 3) * x + tl.load(data + 4) * y + tl.load(data + 5)
    wanted = pixel < area
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & wanted
    across, down = across - 0.5, down - 0.5
    left, top = tl.floor(across), tl.floor(down)
    right, below = across - left, down - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    source = tl.load(index + n)
    for channel in tl.static_range(CHANNELS):
        plane = images + (source * CHANNELS + channel) * area
        if CUBIC:
            part = right.to(tl.float32)
            value = _cubic(
                _line(plane, row - 1, column, part, height, width, inside),
                _line(plane, row, column, part, height, width, inside),
                _line(plane, row + 1, column, part, height, width, inside),
                _line(plane, row + 2, column, part, height, width, inside),
                below.to(tl.float32),
            )
            value = tl.minimum(tl.maximum(value, 0.0), 255.0)
        else:
            # Half of these levels may be whole numbers, which must not be left to single precision.
            first = _tap(plane, row, column, height, width, inside).to(tl.float64)
            second = _tap(plane, row, column + 1, height, width, inside).to(tl.float64)
            third = _tap(plane, row + 1, column, height, width, inside).to(tl.float64)
            fourth = _tap(plane, row + 1, column + 1, height, width, inside).to(tl.float64)
            upper, lower = first + (second - first) * right, third + (fourth - third) * right
            value = upper + (lower - upper) * below
        level = tl.where(inside, value.to(tl.int32), tl.load(fill + channel).to(tl.int32))
        tl.store(target + (n * CHANNELS + channel) * area + pixel, level.to(tl.uint8), mask=wanted)


@triton.jit
def _look_up(images, index, tables, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    n, channel = tl.program_id(0), tl.program_id(1)
    pixel = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)
    plane = tl.load(index + n) * CHANNELS + channel
    wanted = pixel < area
    place = images + plane * area + pixel
    level = tl.load(place, mask=wanted, other=0).to(tl.int32)
    tl.store(place, tl.load(tables + plane * 256 + level, mask=wanted, other=0), mask=wanted)


@triton.jit
def _mix(images, target, share, rest, count, image, PIXELS: tl.constexpr):
    """Mix each of ``count`` pixels with the same pixel of the image at the same distance from the end of the batch."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    wanted = pixel < count
    other = count - image - pixel // image * image + pixel % image
    first = tl.load(images + pixel, mask=wanted, other=0).to(tl.float32) * share
    value = first + tl.load(images + other, mask=wanted, other=0).to(tl.float32) * rest
    # To the nearest whole number, half to even: there single precision has no more bits.
    value = (value + 12582912.0) - 12582912.0
    tl.store(target + pixel, value.to(tl.uint8), mask=wanted)


def resize(
    source: Tensor,
    target: Tensor,
    take: Tensor,
    put: Tensor,
    box: Tensor,
    lines: int,
    cubic: Tensor,
    flip: Tensor,
    resized: int,
    offset: int,
    taps: int,
) -> None:
    """One pass of a resize, along the last axis, into a target.

    Args:
        source: uint8 of shape (B, C, lines, places), with any strides.
        target: uint8 of shape (B', C, lines, size), with any strides, written.
        take: Numbers of the images in the source, int64 of shape (b,), on the device as all that follow.
        put: Their numbers in the target.
        box: First line, lines, first place, places of what is resized, int64 of shape (b, 4).
        lines: The most lines that a box has.
        cubic: Whether to resize bicubic, int64 of shape (b,).
        flip: Whether to mirror the places, int64 of shape (b,).
        resized: Places that every box is resized to.
        offset: The first of them that the target shows.
        taps: Places of a box, at most, that count for one of the result.
    """
    count, size, padded = len(take), target.shape[3], triton.next_power_of_2(taps)
    first = torch.empty(count, size, dtype=torch.int32, device=source.device)
    weights = torch.empty(count, padded, size, dtype=torch.int32, device=source.device)
    blocks = triton.cdiv(size, _TILE)
    _weigh[(count, blocks)](box, cubic, flip, first, weights, resized, size, offset, padded, _TILE, **_EXACT)
    grid = count, source.shape[1], blocks * triton.cdiv(lines, _TILE)
    _resize[grid](
        source, *source.stride(), target, *target.stride(), take, put, box, first, weights, size, taps,
        padded, _TILE, _TILE, **_EXACT,
    )  # fmt: skip


def transform(images: Tensor, index: Tensor, data: Tensor, cubic: bool, fill: Tensor) -> Tensor:
    """Images ``index`` (b,) under affine maps (b, 6) of double precision, see `timm_fractal.augment.ops._transform`."""
    channels, height, width = images.shape[1:]
    target = images.new_empty(len(index), channels, height, width)
    grid = triton.cdiv(height * width, _PIXELS_MAPPED), len(index)
    _map[grid](images, index, data, fill, target, height, width, channels, cubic, _PIXELS_MAPPED, **_EXACT)
    return target


def look_up(images: Tensor, index: Tensor, tables: Tensor) -> None:
    """Apply LUTs (B, C, 256) in place to images ``index`` (b,)."""
    channels, area = images.shape[1], images.shape[2] * images.shape[3]
    grid = len(index), channels, triton.cdiv(area, _PIXELS_LOOKED_UP)
    _look_up[grid](images, index, tables, area, channels, _PIXELS_LOOKED_UP, **_EXACT)


def mix(images: Tensor, share: float) -> Tensor:
    """Mixup of a batch with itself in reverse order, see `timm_fractal.augment.Mix.apply`."""
    images = images.contiguous()
    target = torch.empty_like(images)
    count = images.numel()
    grid = (triton.cdiv(count, _PIXELS_LOOKED_UP),)
    _mix[grid](images, target, share, 1 - share, count, images[0].numel(), _PIXELS_LOOKED_UP, **_EXACT)
    return target


def check(device: torch.device) -> None:
    """Try all kernels on a device; raises RuntimeError if one is wrong, and whatever Triton raises."""
    # A slope, 4 levels a column and 1 a row.
    row, column = torch.arange(40, device=device)[:, None], 4 * torch.arange(48, device=device)
    image = (row + column).to(torch.uint8).repeat(2, 1, 1, 1)
    index, zero = torch.arange(2, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    box = index[:, None] * 0 + torch.tensor([0, 40, 0, 48], device=device)
    half, mirrored = torch.zeros_like(image[..., :24]), torch.zeros_like(image)
    resize(image, half, index, index, box, 40, zero, zero, 24, 0, 5)
    resize(image, mirrored, index, index, box, 40, zero + 1, zero + 1, 48, 0, 5)
    shift = torch.tensor([1, 0, 0.5, 0, 1, 0], dtype=torch.float64, device=device).expand(2, -1).contiguous()
    moved = torch.cat([transform(image, index, shift, cubic, image[0, 0, 0]) for cubic in (False, True)])
    inverse = image.clone()
    look_up(inverse, index, (255 - torch.arange(256, device=device)).to(torch.uint8).expand(2, 1, -1).contiguous())
    pair = torch.cat([image[:1], inverse[:1]])
    results = {
        'resize': torch.equal(half[..., 1:-1] - 2, image[..., 2:-2:2]) and torch.equal(mirrored, image.flip(3)),
        'transform': torch.equal(moved[..., 1:-2] - 2, image.repeat(2, 1, 1, 1)[..., 1:-2]),
        'look_up': torch.equal(inverse, 255 - image),
        'mix': torch.equal(mix(pair, 0.75), (pair * 0.75 + pair.flip(0) * 0.25).round().to(torch.uint8)),
    }
    if not all(results.values()):
        raise RuntimeError('wrong pixels: ' + ', '.join(name for name, right in results.items() if not right))
