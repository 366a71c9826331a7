# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels for a mega-batch, launched by `batch`; they replace hundreds of torch operations.

Pixels equal Pillow's: resizing uses 22-bit fixed point, positions are in double precision, and multiply-add fusion is
off (``enable_fp_fusion``), since it rounds once where Pillow rounds twice.

Images are rows of one buffer, uint8 (rows, C, H, W), with twice as many rows as images: operations on levels work in
place; those that read neighbors read one row and write another.
"""

import types
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .erasing import ERASING_MODES
from .reference import NAMES
from .tables import blend, cubic, keys_far, keys_near, luma

# Lines, pixels per line, and warps per resize program: few lines if each line has different weights.
_TILE_ACROSS = 16, 64, 4
_TILE_DOWN = 2, 128, 1
# Lines or pixels per program of other kernels; double precision needs more registers.
_LINES_WEIGHED = 32
_PIXELS_TRANSFORMED = 256
_PIXELS = 1024
_EXACT: dict[str, Any] = {'enable_fp_fusion': False}


def _code(name: str) -> Any:
    return tl.constexpr(NAMES.index(name))


_AUTO_CONTRAST, _EQUALIZE, _INVERT, _POSTERIZE = map(_code, ('AutoContrast', 'Equalize', 'Invert', 'Posterize'))
_SOLARIZE, _SOLARIZE_ADD, _BRIGHTNESS = map(_code, ('Solarize', 'SolarizeAdd', 'Brightness'))
_CONTRAST, _COLOR, _SHARPNESS = map(_code, ('Contrast', 'Color', 'Sharpness'))
_RAND, _PIXEL = (tl.constexpr(ERASING_MODES.index(mode)) for mode in ('rand', 'pixel'))


def _jit(function: Any) -> Any:
    # Triton's interpreter requires triton.language among the globals of a function.
    return triton.jit(types.FunctionType(function.__code__, globals(), function.__name__))


_blend_levels, _interpolate, _luma_of = _jit(blend), _jit(cubic), _jit(luma)
_keys_near, _keys_far = _jit(keys_near), _jit(keys_far)


@triton.jit
def _unpack(table, numbers, levels, target, words, PIXELS: tl.constexpr):
    """Look up the eight pixels of each byte of image ``numbers[n]`` of the table."""
    n = tl.program_id(1).to(tl.int64)
    word = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    wanted = word < words
    bits = tl.load(table + tl.load(numbers + n) * words + word, mask=wanted, other=0).to(tl.int32)
    tl.store(target + n * words + word, tl.load(levels + bits, mask=wanted, other=0), mask=wanted)


@triton.jit(do_not_specialize=['axis', 'resized', 'size', 'offset'])
def _weigh(box, flags, axis, resized, size, offset, first, taps, weights, TAPS: tl.constexpr, LINES: tl.constexpr):
    """Compute the first tap and the weights of each line of the result, int32 (B, size) and (B, TAPS, size).

    ``flags``: bicubic, flip of the rows (axis 0), flip of the columns (axis 1).
    """
    image = tl.program_id(0)
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    inside = line < size
    line = tl.minimum(line, size - 1)
    shown = tl.where(tl.load(flags + 3 * image + 1 + axis) != 0, size - 1 - line, line) + offset
    total = tl.load(box + 4 * image + 2 + axis)
    is_cubic = tl.load(flags + 3 * image) != 0
    scale = total.to(tl.float64) / resized
    stretch = tl.maximum(scale, 1.0)
    support = tl.where(is_cubic, 2 * stretch, stretch)
    center = (shown.to(tl.float64) + 0.5) * scale
    start = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    stop = tl.minimum((center + support + 0.5).to(tl.int32), total)
    # All taps lie within the box; surplus ones have weight 0.
    number = tl.load(taps + image)
    begin = tl.minimum(start, total - number)
    tap = begin[None, :] + tl.arange(0, TAPS)[:, None]
    t = tl.abs((tap.to(tl.float64) - center[None, :] + 0.5) * (1 / stretch))
    keys = tl.where(t < 1, _keys_near(t), tl.where(t < 2, _keys_far(t), 0.0))
    weight = tl.where(is_cubic, keys, tl.maximum(1 - t, 0.0))
    weight = tl.where((tap >= start[None, :]) & (tap < stop[None, :]), weight, 0.0)
    weight = weight / tl.sum(weight, 0)[None, :] * (1 << 22)
    whole = tl.where(weight < 0, weight - 0.5, weight + 0.5).to(tl.int32)
    tl.store(first + image * size + line, begin, mask=inside)
    place = (image * TAPS + tl.arange(0, TAPS)[:, None]) * size + line[None, :]
    # Weights that are never read are not written.
    tl.store(weights + place, whole, mask=inside[None, :] & (tl.arange(0, TAPS)[:, None] < number))


@triton.jit
def _to_level(total):
    return tl.minimum(tl.maximum(total >> 22, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize=['high', 'wide', 'channels'])
def _resize(
    source, source_image, source_channel, source_row, source_column, target, take, index, box, begins, first, taps,
    weights, high, wide, channels,
    IS_FIRST: tl.constexpr, TAPS: tl.constexpr, LINES: tl.constexpr, PLACES: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """Resize rows (AXIS 0) or columns (1) of images ``index``: the first pass writes to ``begins[n]``, the second reads
    from there.
    """
    n, channel, tile = tl.load(index + tl.program_id(0)), tl.program_id(1), tl.program_id(2)
    height, width = tl.load(box + 4 * n + 2), tl.load(box + 4 * n + 3)
    # Size of this pass's result; the first pass does not resize the other axis.
    lines = height if IS_FIRST and AXIS == 1 else high
    places = width if IS_FIRST and AXIS == 0 else wide
    if IS_FIRST:
        pixels = source + tl.load(take + n).to(tl.int64) * source_image + channel * source_channel
        pixels += tl.load(box + 4 * n) * source_row + tl.load(box + 4 * n + 1) * source_column
        row, column = source_row, source_column
        result = target + tl.load(begins + n) + channel * lines * places
    else:
        row, column = width if AXIS == 1 else wide, 1
        pixels = source + tl.load(begins + n) + channel * (high if AXIS == 1 else height) * row
        result = target + (n.to(tl.int64) * channels + channel) * high * wide
    if AXIS == 1:
        tiles = tl.cdiv(wide, PLACES)
        top, left = tile // tiles * LINES, tile % tiles * PLACES
    else:
        tiles = tl.cdiv(high, LINES)
        top, left = tile % tiles * LINES, tile // tiles * PLACES
    if (top >= lines) | (left >= places):
        return
    line, place = top + tl.arange(0, LINES), left + tl.arange(0, PLACES)
    wanted = (line < lines)[:, None] & (place < places)[None, :]
    # Padding repeats the last line and pixel, and is not stored.
    here, there = tl.minimum(line, lines - 1), tl.minimum(place, places - 1)
    entry, size, step = (there, wide, column) if AXIS == 1 else (here, high, row)
    start = tl.load(first + n * size + entry)
    # Successive taps are the same distance apart for all pixels: only the pointer advances.
    if AXIS == 1:
        offset = (here[:, None] * row + start[None, :] * column).to(tl.uint32)
    else:
        offset = (start[:, None] * row + there[None, :] * column).to(tl.uint32)
    total = tl.full((LINES, PLACES), 1 << 21, tl.int32)
    weights += n * TAPS * size
    for _ in range(tl.load(taps + n)):
        weight = tl.load(weights + entry)
        total += (weight[None, :] if AXIS == 1 else weight[:, None]) * tl.load(pixels + offset).to(tl.int32)
        weights += size
        pixels += step
    tl.store(result + line[:, None] * places + place[None, :], _to_level(total), mask=wanted)


@triton.jit
def _truncate(value):
    """Clip to 0 ... 255, and truncate."""
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)


@triton.jit
def _blend(degenerate, level, factor):
    return _truncate(_blend_levels(degenerate, level, factor))


@triton.jit
def _luma(plane, area, wanted):
    red = tl.load(plane, mask=wanted, other=0).to(tl.int32)
    green = tl.load(plane + area, mask=wanted, other=0).to(tl.int32)
    blue = tl.load(plane + 2 * area, mask=wanted, other=0).to(tl.int32)
    return _luma_of(red, green, blue)


@triton.jit
def _histogram(plane, channel, kind, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Count the levels of a channel, or of the luma for Contrast: int32 (256,)."""
    level = tl.arange(0, 256)
    histogram = tl.zeros((256,), tl.int32)
    for start in range(0, area, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        wanted = pixel < area
        if CHANNELS == 3:
            if kind == _CONTRAST:
                shown = _luma(plane + pixel, area, wanted)
            else:
                shown = tl.load(plane + channel * area + pixel, mask=wanted, other=0).to(tl.int32)
        else:
            shown = tl.load(plane + pixel, mask=wanted, other=0).to(tl.int32)
        # Padding counts as black and is subtracted.
        beyond = tl.maximum(start + PIXELS - area, 0)
        histogram += tl.histogram(tl.where(wanted, shown, 0), 256) - tl.where(level == 0, beyond, 0)
    return histogram


@triton.jit(do_not_specialize=['area'])
def _make_luts(images, rows, operation, argument, luts, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Compute LUTs, uint8 (count, CHANNELS, 256), like `make_lut` in `tables`, which explains the duplication."""
    n, channel = tl.program_id(0), tl.program_id(1)
    kind, given = tl.load(operation + n), tl.load(argument + n)
    plane = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area
    level = tl.arange(0, 256)
    histogram = tl.zeros((256,), tl.int32)
    if (kind == _AUTO_CONTRAST) | (kind == _EQUALIZE) | (kind == _CONTRAST):
        histogram = _histogram(plane, channel, kind, area, CHANNELS, PIXELS)
    low = tl.min(tl.where(histogram > 0, level, 255), 0)
    high = tl.max(tl.where(histogram > 0, level, 0), 0)

    # AutoContrast, in double precision.
    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    stretched = _truncate(level.to(tl.float64) * scale + -low.to(tl.float64) * scale)
    # Equalize, without the brightest level of the image.
    below = tl.cumsum(histogram, 0) - histogram
    step = tl.sum(tl.where(level == high, below, 0), 0) // 255
    rank = tl.minimum((step // 2 + below) // tl.maximum(step, 1), 255)
    # Contrast: around the mean.
    total = tl.sum(histogram.to(tl.int64) * level, 0)
    mean = tl.floor(total.to(tl.float64) / area + 0.5).to(tl.float32)
    factor = given.to(tl.float32)
    bits = tl.minimum(tl.maximum(given.to(tl.int32), 0), 8)
    added = tl.minimum(tl.maximum(level + given.to(tl.int32), 0), 255)

    lut = level
    lut = tl.where(kind == _AUTO_CONTRAST, tl.where(high > low, stretched, level), lut)
    lut = tl.where(kind == _EQUALIZE, tl.where(step > 0, rank, level), lut)
    lut = tl.where(kind == _INVERT, 255 - level, lut)
    lut = tl.where(kind == _POSTERIZE, (level >> (8 - bits)) << (8 - bits), lut)
    lut = tl.where(kind == _SOLARIZE, tl.where(level.to(tl.float64) < given, level, 255 - level), lut)
    lut = tl.where(kind == _SOLARIZE_ADD, tl.where(level < 128, added, level), lut)
    lut = tl.where(kind == _BRIGHTNESS, _blend(0.0, level.to(tl.float32), factor), lut)
    lut = tl.where(kind == _CONTRAST, _blend(mean, level.to(tl.float32), factor), lut)
    tl.store(luts + (n * CHANNELS + channel) * 256 + level, lut.to(tl.uint8))


@triton.jit(do_not_specialize=['area'])
def _look_up(images, rows, operation, argument, luts, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Apply the LUTs, or Color, in place."""
    n = tl.program_id(1)
    plane = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    wanted = pixel < area
    is_color = tl.load(operation + n) == _COLOR
    if CHANNELS == 3:
        luma = _luma(plane + pixel, area, wanted).to(tl.float32)
    else:
        luma = tl.zeros((PIXELS,), tl.float32)
    factor = tl.load(argument + n).to(tl.float32)
    for channel in tl.static_range(CHANNELS):
        place = plane + channel * area + pixel
        level = tl.load(place, mask=wanted, other=0).to(tl.int32)
        if is_color:
            result = _blend(luma, level.to(tl.float32), factor)
        else:
            lut = luts + (n * CHANNELS + channel) * 256
            result = tl.load(lut + level, mask=wanted, other=0).to(tl.int32)
        tl.store(place, result.to(tl.uint8), mask=wanted)


@triton.jit
def _tap(plane, row, column, height, width, wanted):
    row = tl.minimum(tl.maximum(row, 0), height - 1)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    return tl.load(plane + row * width + column, mask=wanted, other=0)


@triton.jit
def _interpolate_row(plane, row, column, part, height, width, wanted):
    before = _tap(plane, row, column - 1, height, width, wanted).to(tl.float32)
    first = _tap(plane, row, column, height, width, wanted).to(tl.float32)
    second = _tap(plane, row, column + 1, height, width, wanted).to(tl.float32)
    after = _tap(plane, row, column + 2, height, width, wanted).to(tl.float32)
    return _interpolate(before, first, second, after, part)


@triton.jit
def _sharpen(source, target, factor, pixel, height, width, CHANNELS: tl.constexpr):
    area = height * width
    wanted = pixel < area
    column, row = pixel % width, pixel // width
    # Edge pixels are not smoothed.
    inner = (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
    for channel in tl.static_range(CHANNELS):
        plane = source + channel * area
        level = tl.load(plane + pixel, mask=wanted, other=0).to(tl.int32)
        around = 4 * level
        for k in tl.static_range(9):
            around += _tap(plane, row + (k // 3 - 1), column + (k % 3 - 1), height, width, wanted).to(tl.int32)
        smooth = tl.where(inner, (around + 6) // 13, level).to(tl.float32)
        result = _blend(smooth, level.to(tl.float32), factor)
        tl.store(target + channel * area + pixel, result.to(tl.uint8), mask=wanted)


@triton.jit
def _map(source, target, data, is_cubic, fill, pixel, height, width, CHANNELS: tl.constexpr):
    """Apply Image.transform with AFFINE."""
    area = height * width
    wanted = pixel < area
    x, y = (pixel % width).to(tl.float64) + 0.5, (pixel // width).to(tl.float64) + 0.5
    across = tl.load(data) * x + tl.load(data + 1) * y + tl.load(data + 2)
    down = tl.load(data + 3) * x + tl.load(data + 4) * y + tl.load(data + 5)
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & wanted
    across, down = across - 0.5, down - 0.5
    left, top = tl.floor(across), tl.floor(down)
    right, below = across - left, down - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    for channel in tl.static_range(CHANNELS):
        plane = source + channel * area
        if is_cubic:
            fraction = right.to(tl.float32)
            before = _interpolate_row(plane, row - 1, column, fraction, height, width, inside)
            current = _interpolate_row(plane, row, column, fraction, height, width, inside)
            following = _interpolate_row(plane, row + 1, column, fraction, height, width, inside)
            after = _interpolate_row(plane, row + 2, column, fraction, height, width, inside)
            level = _truncate(_interpolate(before, current, following, after, below.to(tl.float32)))
        else:
            # In double precision, see `_transform` in `reference`.
            first = _tap(plane, row, column, height, width, inside).to(tl.float64)
            second = _tap(plane, row, column + 1, height, width, inside).to(tl.float64)
            third = _tap(plane, row + 1, column, height, width, inside).to(tl.float64)
            fourth = _tap(plane, row + 1, column + 1, height, width, inside).to(tl.float64)
            upper, lower = first + (second - first) * right, third + (fourth - third) * right
            level = (upper + (lower - upper) * below).to(tl.int32)
        level = tl.where(inside, level, tl.load(fill + channel).to(tl.int32))
        tl.store(target + channel * area + pixel, level.to(tl.uint8), mask=wanted)


@triton.jit(do_not_specialize=['height', 'width'])
def _transform(
    images, rows, put, operation, cubic, data, fill, height, width, CHANNELS: tl.constexpr, PIXELS: tl.constexpr
):
    """Transform row ``rows[n]`` by the affine map ``data[n]``, or sharpen it by ``data[n, 0]``, into row ``put[n]``."""
    n = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    source = images + tl.load(rows + n).to(tl.int64) * CHANNELS * height * width
    target = images + tl.load(put + n).to(tl.int64) * CHANNELS * height * width
    data += 6 * n
    if tl.load(operation + n) == _SHARPNESS:
        _sharpen(source, target, tl.load(data).to(tl.float32), pixel, height, width, CHANNELS)
    else:
        _map(source, target, data, tl.load(cubic + n) != 0, fill, pixel, height, width, CHANNELS)


@triton.jit
def _two_normal(first, second):
    """Convert two uniform numbers to two standard normal ones (Box-Muller, with half-angle formulas)."""
    radius = tl.sqrt(-2 * tl.log(tl.maximum(first, 1.0e-7)))
    z = 3.14159265 * (second - 0.5)
    y = z * z
    sine = z * (1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72 * (1 - y / 110)))))
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56 * (1 - y / 90 * (1 - y / 132)))))
    return radius * (1 - 2 * sine * sine), radius * 2 * sine * cosine


@triton.jit
def _contains(box, row, column):
    """Return which pixels a box (top, left, height, width) contains."""
    top, left, high, wide = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    return (row >= top) & (row < top + high) & (column >= left) & (column < left + wide)


@triton.jit
def _mix(level, other, share, rest, pasted, wanted):
    """Apply mixup with ``share`` if it is not 1, else cutmix where ``pasted``."""
    if share != 1.0:
        paired = tl.load(other, mask=wanted, other=0)
        value = level.to(tl.float32) * share + paired.to(tl.float32) * rest
        # Rounds half to even: at this magnitude, single precision has no fractional bits.
        level = ((value + 12582912.0) - 12582912.0).to(tl.int32)
    else:
        paired = tl.load(other, mask=wanted & pasted, other=0)
        level = tl.where(pasted, paired.to(tl.int32), level)
    return level


@triton.jit(do_not_specialize=['seed', 'height', 'width', 'blocks', 'begin'])
def _mix_normalize_erase(
    images, rows, partners, lam, paste, levels, erased, color, seed, target, height, width, blocks, begin,
    CHANNELS: tl.constexpr, OUTPUT: tl.constexpr, COLORS: tl.constexpr, MIX: tl.constexpr, MODE: tl.constexpr,
    PIXELS: tl.constexpr,
):  # fmt: skip
    """Arguments as for `mix_normalize_erase`; ``levels`` is its ``table``, and ``color`` has COLORS channels."""
    n = begin + tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    area = height * width
    wanted = pixel < area
    row, column = pixel // width, pixel % width
    plane = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area + pixel
    other = images + tl.load(partners + n).to(tl.int64) * CHANNELS * area + pixel
    result = target + tl.program_id(1).to(tl.int64) * OUTPUT * area + pixel
    is_erased = (row < 0) & wanted
    for block in range(blocks):
        is_erased |= _contains(erased + 4 * (n * blocks + block), row, column)
    if MIX:
        share, rest = tl.load(lam + 2 * n), tl.load(lam + 2 * n + 1)
        pasted = (row >= tl.load(paste + 4 * n)) & (row < tl.load(paste + 4 * n + 1))
        pasted &= (column >= tl.load(paste + 4 * n + 2)) & (column < tl.load(paste + 4 * n + 3))
    level = tl.zeros((PIXELS,), tl.int32)
    is_any_erased = tl.max(is_erased.to(tl.int32), 0) != 0
    for channel in tl.static_range(OUTPUT):
        if channel < CHANNELS:
            level = tl.load(plane + channel * area, mask=wanted, other=0).to(tl.int32)
            if MIX:
                level = _mix(level, other + channel * area, share, rest, pasted, wanted)
        value = tl.load(levels + channel * 256 + level, mask=wanted, other=0)
        if MODE == _PIXEL:
            if channel % 4 == 0:
                noise = tl.zeros((PIXELS,), tl.float32)
                second, third, fourth = noise, noise, noise
                # Noise is the most expensive part.
                if is_any_erased:
                    index = (n * ((OUTPUT + 3) // 4) + channel // 4) * area + pixel
                    a, b, c, d = tl.rand4x(seed, index)
                    noise, second = _two_normal(a, b)
                    third, fourth = _two_normal(c, d)
            if channel % 4 == 1:
                noise = second
            if channel % 4 == 2:
                noise = third
            if channel % 4 == 3:
                noise = fourth
            value = tl.where(is_erased, noise.to(value.dtype), value)
        elif MODE == _RAND:
            for block in range(blocks):
                here = _contains(erased + 4 * (n * blocks + block), row, column)
                shown = tl.load(color + (n * blocks + block) * COLORS + channel).to(value.dtype)
                value = tl.where(here, shown, value)
        else:
            value = tl.where(is_erased, tl.zeros_like(value), value)
        tl.store(result + channel * area, value, mask=wanted)


# Arguments of the functions below and in `kernels_numba`, for all B images of a mega-batch or b of them:
#   table      bit-packed images, uint8 (images, rows, bytes of a row); of `mix_normalize_erase`, normalized levels,
#              (channels, 256), with the dtype of the result
#   numbers    index of each image in the table, int64 (B,)
#   levels     levels of the eight pixels of each byte value, uint8 (256, 8)
#   box        top, left, height, width, int32 (B, 4)
#   flags      bicubic (else bilinear), flip of rows, flip of columns, int32 (B, 3)
#   axis       0 for rows, 1 for columns
#   resized    number of lines to resize each box to
#   offset     first line of the result in the resized box; ``size`` is the number of lines, or height and width
#   taps       `count_taps`, at most the lines of the box, int32 (B,); ``most`` is an upper bound
#   take       index of each source image, int64 (B,)
#   index      indices of the images to resize, int32 (b,)
#   begins     start of each image in the intermediate buffer, int64 (B,)
#   lines      maximum number of lines across the axis
#   images     buffer, uint8 (rows, C, H, W)
#   rows, put  rows to read, and to write to, int32 (b,), or (B,) of `mix_normalize_erase`
#   operation  index in `timm_fractal.augment.reference.NAMES`, int32 (b,); ``argument`` is float64 (b,)
#   cubic      bicubic, else bilinear, int32 (b,)
#   data       data of Image.transform with AFFINE, float64 (b, 6); for Sharpness, the factor comes first
#   fill       fill value outside the image, int32 (C,)
#   partners   row of the image that each is mixed with, int32 (B,)
#   lam        mixing coefficient and 1 minus it, float32 (B, 2)
#   paste      top, bottom, left and right of the box to paste, int32 (B, 4)
#   erased     top, left, height and width of each box, int32 (B, boxes, 4); ``color`` is float32 (B, boxes, at least 3)
#   seed       seed of the noise
#   mode       index in `timm_fractal.augment.erasing.ERASING_MODES`
#   begin      first image of the batch among the B; ``count`` is the number of its images


def unpack(table: Tensor, numbers: Tensor, levels: Tensor) -> Tensor:
    """Unpack images of a bit-packed table: uint8 (B, 1, rows, 8 * bytes of a row)."""
    rows, line = table.shape[1:]
    result = table.new_empty(len(numbers), 1, rows, 8 * line)
    grid = triton.cdiv(rows * line, _PIXELS), len(numbers)
    _unpack[grid](table, numbers, levels.view(torch.int64), result.view(torch.int64), rows * line, _PIXELS)
    return result


def weigh(
    box: Tensor, flags: Tensor, axis: int, resized: int, size: int, offset: int, taps: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weights of one axis of a resize for all images, like `resize_weights` in `tables`.

    Returns:
        The first contributing line of the box, int32 of shape (B, size); ``taps``; and the weights times 2**22, int32
        of shape (B, a power of 2, size).
    """
    count, room = len(box), triton.next_power_of_2(most)
    first = box.new_empty(count, size)
    weights = box.new_empty(count, room, size)
    grid = count, triton.cdiv(size, _LINES_WEIGHED)
    _weigh[grid](box, flags, axis, resized, size, offset, first, taps, weights, room, _LINES_WEIGHED, **_EXACT)
    return first, taps, weights


def resize(
    source: Tensor, target: Tensor, take: Tensor, index: Tensor, box: Tensor, begins: Tensor,
    weights: tuple[Tensor, Tensor, Tensor], size: tuple[int, int], axis: int, is_first: bool, lines: int,
) -> None:  # fmt: skip
    """Run one of the two passes of a resize, with the result of `weigh` for its axis.

    In the first, the source is uint8 (images, C, H, W) with any strides, and the target is flat; in the second, the
    source is flat, and the target has shape (rows, C, *size).
    """
    first, taps, numbers = weights
    channels = source.shape[1] if is_first else target.shape[1]
    strides = source.stride() if is_first else (0, 0, 0, 0)
    height, width, warps = _TILE_DOWN if axis == 0 else _TILE_ACROSS
    high, wide = (size[0], lines) if axis == 0 else (lines, size[1])
    grid = len(index), channels, triton.cdiv(high, height) * triton.cdiv(wide, width)
    _resize[grid](
        source, *strides, target, take, index, box, begins, first, taps, numbers, *size, channels,
        is_first, numbers.shape[1], height, width, axis, num_warps=warps, **_EXACT,
    )  # fmt: skip


def look_up(images: Tensor, rows: Tensor, operation: Tensor, argument: Tensor) -> None:
    """Apply an operation on levels, or Color, to some rows in place."""
    channels, area = images.shape[1], images.shape[2] * images.shape[3]
    luts = images.new_empty(len(rows), channels, 256)
    _make_luts[len(rows), channels](images, rows, operation, argument, luts, area, channels, _PIXELS, **_EXACT)
    grid = triton.cdiv(area, _PIXELS), len(rows)
    _look_up[grid](images, rows, operation, argument, luts, area, channels, _PIXELS, **_EXACT)


def transform(
    images: Tensor, rows: Tensor, put: Tensor, operation: Tensor, cubic: Tensor, data: Tensor, fill: Tensor
) -> None:
    """Apply a geometric transform or Sharpness to some rows, and write the results to others."""
    channels, height, width = images.shape[1:]
    grid = triton.cdiv(height * width, _PIXELS_TRANSFORMED), len(rows)
    _transform[grid](
        images, rows, put, operation, cubic, data, fill, height, width, channels, _PIXELS_TRANSFORMED, **_EXACT
    )  # fmt: skip


def mix_normalize_erase(
    images: Tensor, rows: Tensor, partners: Tensor, lam: Tensor, paste: Tensor, table: Tensor, erased: Tensor,
    color: Tensor, seed: int, mode: int, is_mixed: bool, begin: int, count: int,
) -> Tensor:  # fmt: skip
    """Mix, normalize and erase the images of a batch in one pass: (count, channels, H, W)."""
    channels, height, width = images.shape[1:]
    result = torch.empty(count, len(table), height, width, dtype=table.dtype, device=images.device)
    grid = triton.cdiv(height * width, _PIXELS), count
    _mix_normalize_erase[grid](
        images, rows, partners, lam, paste, table, erased, color, seed, result, height, width, erased.shape[1], begin,
        channels, len(table), color.shape[2], is_mixed, mode, _PIXELS, **_EXACT,
    )  # fmt: skip
    return result


def check(device: torch.device) -> None:
    """Run all kernels on a device; raise RuntimeError for wrong pixels, or Triton's error."""
    # A ramp, 4 levels per column and 1 per row.
    row, column = torch.arange(40, device=device)[:, None], 4 * torch.arange(48, device=device)
    image = (row + column).to(torch.uint8).repeat(2, 1, 1, 1)
    checks = (_check_unpack, _check_resize, _check_look_up, _check_transform, _check_mix_normalize_erase)
    wrong = [one.__name__.removeprefix('_check_') for one in checks if not one(image)]
    if wrong:
        raise RuntimeError('wrong pixels: ' + ', '.join(wrong))


def _like(image: Tensor, *values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=image.device)


def _check_unpack(image: Tensor) -> bool:
    bits = _like(image, *range(256), dtype=torch.uint8).view(1, 16, 16)
    ramp = _like(image, *range(256), dtype=torch.uint8)[:, None].repeat(1, 8)
    unpacked = unpack(bits, _like(image, 0, dtype=torch.int64), ramp)
    return torch.equal(unpacked[0, 0], bits[0].repeat_interleave(8, 1))


def _check_resize(image: Tensor) -> bool:
    """Halve the rows; the first image starts with its columns, the second, which is flipped, with its rows."""
    box, flags = _like(image, (0, 0, 40, 48), (0, 0, 40, 48)), _like(image, (0, 0, 0), (0, 0, 1))
    taps, numbers = _like(image, 5, 5), _like(image, 0, 1, dtype=torch.int64)
    weights = [weigh(box, flags, axis, size, size, 0, taps, 5) for axis, size in ((0, 20), (1, 48))]
    between = torch.empty(2, 40 * 48, dtype=torch.uint8, device=image.device)
    half = torch.empty(2, 1, 20, 48, dtype=torch.uint8, device=image.device)
    for axis, chosen in ((1, _like(image, 0)), (0, _like(image, 1))):
        arguments = numbers, chosen, box, numbers * between.shape[1]
        resize(image, between, *arguments, weights[axis], (20, 48), axis, True, 40 if axis else 48)
        resize(between, half, *arguments, weights[1 - axis], (20, 48), 1 - axis, False, (20, 48)[axis])
    expected = (image[0, 0, ::2].int() + image[0, 0, 1::2] + 1) // 2
    return torch.equal(half[0, 0, 1:-1].int(), expected[1:-1]) and torch.equal(half[1], half[0].flip(2))


def _check_look_up(image: Tensor) -> bool:
    images = image.clone()
    operation = _like(image, *map(NAMES.index, ('Invert', 'Equalize')))
    look_up(images, _like(image, 0, 1), operation, _like(image, 0, 0, dtype=torch.float64))
    return torch.equal(images[0], 255 - image[0]) and int(images[1].max()) == 255


def _check_transform(image: Tensor) -> bool:
    images = image.repeat(2, 1, 1, 1)
    operation = _like(image, *map(NAMES.index, ('ShearX', 'Sharpness')))
    data = _like(image, (1, 0, 0.5, 0, 1, 0), (0, 0, 0, 0, 0, 0), dtype=torch.float64)
    transform(images, _like(image, 0, 1), _like(image, 2, 3), operation, _like(image, 1, 0), data, _like(image, 7))
    # Half a pixel is 2 levels; smoothing does not change a ramp.
    return torch.equal(images[2, :, :, 1:-2], images[0, :, :, 1:-2] + 2) and torch.equal(images[3], images[1])


def _check_mix_normalize_erase(image: Tensor) -> bool:
    """Mix the second image with the first, and erase the third; the table is the identity."""
    table = torch.arange(256, dtype=torch.float32, device=image.device).repeat(3, 1)
    lam = _like(image, (1, 0), (0.75, 0.25), (1, 0), dtype=torch.float32)
    paste = _like(image, *[(0, 0, 0, 0)] * 3)
    erased = _like(image, (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 40, 48))[:, None]
    color = _like(image, *[(0, 0, 0)] * 3, dtype=torch.float32)[:, None]
    ends = torch.cat([image[:1], 255 - image[:1]])
    rows, partners = _like(image, 0, 1, 0), _like(image, 0, 0, 0)
    black, noisy = (
        mix_normalize_erase(ends, rows, partners, lam, paste, table, erased, color, 3, mode, True, 0, 3)
        for mode in (0, _PIXEL.value)
    )
    mixed = (ends[1:].float() * 0.75 + ends[:1].float() * 0.25).round().expand(-1, 3, -1, -1)
    noise = noisy[2]
    return bool(
        torch.equal(black[:1], ends[:1].float().expand(-1, 3, -1, -1))
        and torch.equal(black[1:2], mixed)
        and not black[2].any()
        and abs(noise.mean()) < 0.1
        and abs(noise.std() - 1) < 0.1
    )
