# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels for a mega-batch: what `resample`, `ops`, `Mix`, `normalize` and `Erase` do in hundreds of passes.

`mega_batch` launches them. They give what Pillow gives: resizing is in Pillow's fixed point, 22 bits, and equal to it;
positions are in double precision, and nothing is contracted to multiply-add (``enable_fp_fusion``), which would round
once where Pillow rounds twice.

Images that are augmented lie in the rows of one buffer, uint8 (rows, C, H, W), twice as many rows as images: an
operation on levels works in place, one that needs neighbors reads one row and writes another.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ops import NAMES

# Lines, places and warps of a program that resizes: few lines where every line has weights of its own.
_TILE_ACROSS = 16, 64, 4
_TILE_DOWN = 2, 128, 1
# Pixels of others: double precision needs registers.
_WEIGHED = 32
_PIXELS_MOVED = 256
_PIXELS = 1024
_EXACT: dict[str, Any] = {'enable_fp_fusion': False}

_AUTO_CONTRAST = tl.constexpr(NAMES.index('AutoContrast'))
_EQUALIZE = tl.constexpr(NAMES.index('Equalize'))
_INVERT = tl.constexpr(NAMES.index('Invert'))
_POSTERIZE = tl.constexpr(NAMES.index('Posterize'))
_SOLARIZE = tl.constexpr(NAMES.index('Solarize'))
_SOLARIZE_ADD = tl.constexpr(NAMES.index('SolarizeAdd'))
_BRIGHTNESS = tl.constexpr(NAMES.index('Brightness'))
_CONTRAST = tl.constexpr(NAMES.index('Contrast'))
_COLOR = tl.constexpr(NAMES.index('Color'))
_SHARPNESS = tl.constexpr(NAMES.index('Sharpness'))

# Modes of random erasing, as in `timm_fractal.augment.erasing.ERASING_MODES`.
_RAND, _PIXEL = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _unpack(table, numbers, levels, target, words, PIXELS: tl.constexpr):
    """Eight pixels for each byte of image ``numbers[n]`` of the table."""
    n = tl.program_id(1).to(tl.int64)
    word = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    wanted = word < words
    bits = tl.load(table + tl.load(numbers + n) * words + word, mask=wanted, other=0).to(tl.int32)
    tl.store(target + n * words + word, tl.load(levels + bits, mask=wanted, other=0), mask=wanted)


# Resize.


@triton.jit(do_not_specialize=['axis', 'resized', 'size', 'offset'])
def _weigh(box, flags, axis, resized, size, offset, first, taps, weights, TAPS: tl.constexpr, LINES: tl.constexpr):
    """First tap and weights of each line of the result along an axis, int32 (B, size) and (B, TAPS, size).

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
    # So many lines from the first one on are inside of the box; those that do not count have the weight 0.
    number = tl.load(taps + image)
    begin = tl.minimum(start, total - number)
    tap = begin[None, :] + tl.arange(0, TAPS)[:, None]
    t = tl.abs((tap.to(tl.float64) - center[None, :] + 0.5) * (1 / stretch))
    # Keys' kernel with a = -1/2, or a triangle.
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weight = tl.where(is_cubic, tl.where(t < 1, near, tl.where(t < 2, far, 0.0)), tl.maximum(1 - t, 0.0))
    weight = tl.where((tap >= start[None, :]) & (tap < stop[None, :]), weight, 0.0)
    weight = weight / tl.sum(weight, 0)[None, :] * (1 << 22)
    whole = tl.where(weight < 0, weight - 0.5, weight + 0.5).to(tl.int32)
    tl.store(first + image * size + line, begin, mask=inside)
    place = (image * TAPS + tl.arange(0, TAPS)[:, None]) * size + line[None, :]
    # What nobody reads is not written.
    tl.store(weights + place, whole, mask=inside[None, :] & (tl.arange(0, TAPS)[:, None] < number))


@triton.jit
def _to_level(total):
    return tl.minimum(tl.maximum(total >> 22, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize=['high', 'wide', 'channels'])
def _across(
    source,
    source_image,
    source_channel,
    source_row,
    source_column,
    target,
    take,
    index,
    box,
    middle,
    first,
    taps,
    weights,
    high,
    wide,
    channels,
    IS_FIRST: tl.constexpr,
    TAPS: tl.constexpr,
    LINES: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Resize the columns of images ``index``: of the source to what lies at ``middle[n]``, or of that to the target."""
    n, channel, tile = tl.load(index + tl.program_id(0)), tl.program_id(1), tl.program_id(2)
    height, width = tl.load(box + 4 * n + 2), tl.load(box + 4 * n + 3)
    across = tl.cdiv(wide, PLACES)
    line = tile // across * LINES + tl.arange(0, LINES)
    place = tile % across * PLACES + tl.arange(0, PLACES)
    if IS_FIRST:
        lines = height
        pixels = source + tl.load(take + n).to(tl.int64) * source_image + channel * source_channel
        pixels += tl.load(box + 4 * n) * source_row + tl.load(box + 4 * n + 1) * source_column
        row, column = source_row, source_column
        result = target + tl.load(middle + n) + channel * height * wide
    else:
        lines = high
        pixels = source + tl.load(middle + n) + channel * high * width
        row, column = width, 1
        result = target + (n.to(tl.int64) * channels + channel) * high * wide
    if tile // across * LINES >= lines:
        return
    wanted = (line < lines)[:, None] & (place < wide)[None, :]
    # What lies beyond the end shows the last line and place again, and is not stored.
    here, there = tl.minimum(line, lines - 1), tl.minimum(place, wide - 1)
    start = tl.load(first + n * wide + there)
    total = tl.full((LINES, PLACES), 1 << 21, tl.int32)
    # From one tap to the next all move by the same distance: it is added once, not for every pixel.
    offset = (here[:, None] * row + start[None, :] * column).to(tl.uint32)
    weights += n * TAPS * wide
    for _ in range(tl.load(taps + n)):
        weight = tl.load(weights + there)
        total += weight[None, :] * tl.load(pixels + offset).to(tl.int32)
        weights += wide
        pixels += column
    tl.store(result + line[:, None] * wide + place[None, :], _to_level(total), mask=wanted)


@triton.jit(do_not_specialize=['high', 'wide', 'channels'])
def _down(
    source,
    source_image,
    source_channel,
    source_row,
    source_column,
    target,
    take,
    index,
    box,
    middle,
    first,
    taps,
    weights,
    high,
    wide,
    channels,
    IS_FIRST: tl.constexpr,
    TAPS: tl.constexpr,
    LINES: tl.constexpr,
    PLACES: tl.constexpr,
):
    """As `_across`, for the rows."""
    n, channel, tile = tl.load(index + tl.program_id(0)), tl.program_id(1), tl.program_id(2)
    height, width = tl.load(box + 4 * n + 2), tl.load(box + 4 * n + 3)
    if IS_FIRST:
        places = width
        pixels = source + tl.load(take + n).to(tl.int64) * source_image + channel * source_channel
        pixels += tl.load(box + 4 * n) * source_row + tl.load(box + 4 * n + 1) * source_column
        row, column = source_row, source_column
        result = target + tl.load(middle + n) + channel * high * width
    else:
        places = wide
        pixels = source + tl.load(middle + n) + channel * height * wide
        row, column = wide, 1
        result = target + (n.to(tl.int64) * channels + channel) * high * wide
    up = tl.cdiv(high, LINES)
    line = tile % up * LINES + tl.arange(0, LINES)
    place = tile // up * PLACES + tl.arange(0, PLACES)
    if tile // up * PLACES >= places:
        return
    wanted = (line < high)[:, None] & (place < places)[None, :]
    here, there = tl.minimum(line, high - 1), tl.minimum(place, places - 1)
    start = tl.load(first + n * high + here)
    total = tl.full((LINES, PLACES), 1 << 21, tl.int32)
    # From one tap to the next all move by the same distance: it is added once, not for every pixel.
    offset = (start[:, None] * row + there[None, :] * column).to(tl.uint32)
    weights += n * TAPS * high
    for _ in range(tl.load(taps + n)):
        weight = tl.load(weights + here)
        total += weight[:, None] * tl.load(pixels + offset).to(tl.int32)
        weights += high
        pixels += row
    tl.store(result + line[:, None] * places + place[None, :], _to_level(total), mask=wanted)


# Operations on levels.


@triton.jit
def _blend(degenerate, level, factor):
    """Image.blend, the fraction dropped."""
    value = degenerate + factor * (level - degenerate)
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)


@triton.jit
def _luma(plane, area, wanted):
    red = tl.load(plane, mask=wanted, other=0).to(tl.int32)
    green = tl.load(plane + area, mask=wanted, other=0).to(tl.int32)
    blue = tl.load(plane + 2 * area, mask=wanted, other=0).to(tl.int32)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


@triton.jit(do_not_specialize=['area'])
def _tables(images, rows, operation, argument, tables, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """LUT of each image in a layer and of each channel, uint8 (count, CHANNELS, 256)."""
    n, channel = tl.program_id(0), tl.program_id(1)
    kind, given = tl.load(operation + n), tl.load(argument + n)
    plane = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area
    level = tl.arange(0, 256)
    histogram = tl.zeros((256,), tl.int32)
    if (kind == _AUTO_CONTRAST) | (kind == _EQUALIZE) | (kind == _CONTRAST):
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
            # Beyond the image there is black, too; it is taken away again.
            beyond = tl.maximum(start + PIXELS - area, 0)
            histogram += tl.histogram(tl.where(wanted, shown, 0), 256) - tl.where(level == 0, beyond, 0)
    low = tl.min(tl.where(histogram > 0, level, 255), 0)
    high = tl.max(tl.where(histogram > 0, level, 0), 0)

    # AutoContrast, in double precision.
    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    stretched = level.to(tl.float64) * scale + -low.to(tl.float64) * scale
    contrast = tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32)
    # Equalize: the brightest level that is present does not count.
    below = tl.cumsum(histogram, 0) - histogram
    step = tl.sum(tl.where(level == high, below, 0), 0) // 255
    rank = tl.minimum((step // 2 + below) // tl.maximum(step, 1), 255)
    # Contrast, around the mean.
    total = tl.sum(histogram.to(tl.int64) * level, 0)
    mean = tl.floor(total.to(tl.float64) / area + 0.5).to(tl.float32)
    factor = given.to(tl.float32)
    bits = tl.minimum(tl.maximum(given.to(tl.int32), 0), 8)
    added = tl.minimum(tl.maximum(level + given.to(tl.int32), 0), 255)

    table = level
    table = tl.where(kind == _AUTO_CONTRAST, tl.where(high > low, contrast, level), table)
    table = tl.where(kind == _EQUALIZE, tl.where(step > 0, rank, level), table)
    table = tl.where(kind == _INVERT, 255 - level, table)
    table = tl.where(kind == _POSTERIZE, (level >> (8 - bits)) << (8 - bits), table)
    table = tl.where(kind == _SOLARIZE, tl.where(level.to(tl.float64) < given, level, 255 - level), table)
    table = tl.where(kind == _SOLARIZE_ADD, tl.where(level < 128, added, level), table)
    table = tl.where(kind == _BRIGHTNESS, _blend(0.0, level.to(tl.float32), factor), table)
    table = tl.where(kind == _CONTRAST, _blend(mean, level.to(tl.float32), factor), table)
    tl.store(tables + (n * CHANNELS + channel) * 256 + level, table.to(tl.uint8))


@triton.jit(do_not_specialize=['area'])
def _look_up(images, rows, operation, argument, tables, area, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
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
            table = tables + (n * CHANNELS + channel) * 256
            result = tl.load(table + level, mask=wanted, other=0).to(tl.int32)
        tl.store(place, result.to(tl.uint8), mask=wanted)


# Operations that need neighbors.


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
def _three(plane, row, column, height, width, wanted):
    return (
        _tap(plane, row, column - 1, height, width, wanted).to(tl.int32)
        + _tap(plane, row, column, height, width, wanted).to(tl.int32)
        + _tap(plane, row, column + 1, height, width, wanted).to(tl.int32)
    )


@triton.jit(do_not_specialize=['height', 'width'])
def _move(
    images,
    rows,
    put,
    operation,
    cubic,
    data,
    fill,
    height,
    width,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Row ``rows[n]`` under the affine map ``data[n]``, or sharpened by ``data[n, 0]``, becomes row ``put[n]``."""
    n = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    area = height * width
    wanted = pixel < area
    source = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area
    target = images + tl.load(put + n).to(tl.int64) * CHANNELS * area
    data += 6 * n
    here, there = pixel % width, pixel // width
    if tl.load(operation + n) == _SHARPNESS:
        factor = tl.load(data).to(tl.float32)
        # The edge stays.
        inner = (here > 0) & (here < width - 1) & (there > 0) & (there < height - 1)
        for channel in tl.static_range(CHANNELS):
            plane = source + channel * area
            level = tl.load(plane + pixel, mask=wanted, other=0).to(tl.int32)
            around = 4 * level
            for step in tl.static_range(3):
                around += _three(plane, there + (step - 1), here, height, width, wanted)
            # No sum of whole numbers over 13 lies half between two of them.
            smooth = tl.where(inner, (around + 6) // 13, level).to(tl.float32)
            result = _blend(smooth, level.to(tl.float32), factor)
            tl.store(target + channel * area + pixel, result.to(tl.uint8), mask=wanted)
        return
    x, y = here.to(tl.float64) + 0.5, there.to(tl.float64) + 0.5
    across = tl.load(data) * x + tl.load(data + 1) * y + tl.load(data + 2)
    down = tl.load(data + 3) * x + tl.load(data + 4) * y + tl.load(data + 5)
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height) & wanted
    across, down = across - 0.5, down - 0.5
    left, top = tl.floor(across), tl.floor(down)
    right, below = across - left, down - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    is_cubic = tl.load(cubic + n) != 0
    for channel in tl.static_range(CHANNELS):
        plane = source + channel * area
        if is_cubic:
            part = right.to(tl.float32)
            value = _cubic(
                _line(plane, row - 1, column, part, height, width, inside),
                _line(plane, row, column, part, height, width, inside),
                _line(plane, row + 1, column, part, height, width, inside),
                _line(plane, row + 2, column, part, height, width, inside),
                below.to(tl.float32),
            )
            level = tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)
        else:
            # Half of these levels may be whole numbers, which must not be left to single precision.
            first = _tap(plane, row, column, height, width, inside).to(tl.float64)
            second = _tap(plane, row, column + 1, height, width, inside).to(tl.float64)
            third = _tap(plane, row + 1, column, height, width, inside).to(tl.float64)
            fourth = _tap(plane, row + 1, column + 1, height, width, inside).to(tl.float64)
            upper, lower = first + (second - first) * right, third + (fourth - third) * right
            level = (upper + (lower - upper) * below).to(tl.int32)
        level = tl.where(inside, level, tl.load(fill + channel).to(tl.int32))
        tl.store(target + channel * area + pixel, level.to(tl.uint8), mask=wanted)


# What a model gets.


@triton.jit
def _two_normal(first, second):
    """Two standard normal numbers of two uniform ones (Box and Muller). Cosine and sine come from half the angle."""
    radius = tl.sqrt(-2 * tl.log(tl.maximum(first, 1.0e-7)))
    z = 3.14159265 * (second - 0.5)
    y = z * z
    sine = z * (1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72 * (1 - y / 110)))))
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56 * (1 - y / 90 * (1 - y / 132)))))
    return radius * (1 - 2 * sine * sine), radius * 2 * sine * cosine


@triton.jit(do_not_specialize=['seed', 'height', 'width', 'blocks', 'begin'])
def _finish(
    images,
    rows,
    partners,
    lam,
    paste,
    levels,
    erased,
    color,
    seed,
    target,
    height,
    width,
    blocks,
    begin,
    CHANNELS: tl.constexpr,
    OUTPUT: tl.constexpr,
    MIX: tl.constexpr,
    MODE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Mixup or cutmix, normalization by the table ``levels`` (OUTPUT, 256), and random erasing, in one pass.

    ``lam[n]``: mixing coefficient and the rest to 1; ``paste[n]``: first and last + 1 row, first and last + 1 column.
    """
    place = tl.program_id(1).to(tl.int64)
    n = begin + tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    area = height * width
    wanted = pixel < area
    row, column = pixel // width, pixel % width
    plane = images + tl.load(rows + n).to(tl.int64) * CHANNELS * area + pixel
    other = images + tl.load(partners + n).to(tl.int64) * CHANNELS * area + pixel
    result = target + place * OUTPUT * area + pixel
    is_erased = (row < 0) & wanted
    for block in range(blocks):
        box = erased + 4 * (n * blocks + block)
        top, left, high, wide = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
        is_erased |= (row >= top) & (row < top + high) & (column >= left) & (column < left + wide)
    if MIX:
        share, rest = tl.load(lam + 2 * n), tl.load(lam + 2 * n + 1)
        pasted = (row >= tl.load(paste + 4 * n)) & (row < tl.load(paste + 4 * n + 1))
        pasted &= (column >= tl.load(paste + 4 * n + 2)) & (column < tl.load(paste + 4 * n + 3))
    level = tl.zeros((PIXELS,), tl.int32)
    some = tl.max(is_erased.to(tl.int32), 0) != 0
    for channel in tl.static_range(OUTPUT):
        if channel < CHANNELS:
            level = tl.load(plane + channel * area, mask=wanted, other=0).to(tl.int32)
            if MIX:
                if share != 1.0:
                    paired = tl.load(other + channel * area, mask=wanted, other=0)
                    value = level.to(tl.float32) * share + paired.to(tl.float32) * rest
                    # To the nearest whole number, half to even: there single precision has no more bits.
                    level = ((value + 12582912.0) - 12582912.0).to(tl.int32)
                else:
                    paired = tl.load(other + channel * area, mask=wanted & pasted, other=0)
                    level = tl.where(pasted, paired.to(tl.int32), level)
        value = tl.load(levels + channel * 256 + level, mask=wanted, other=0)
        if MODE == _PIXEL:
            # Only where there is something to erase: noise takes longer than all the rest.
            if channel % 4 == 0:
                noise = tl.zeros((PIXELS,), tl.float32)
                second, third, fourth = noise, noise, noise
                if some:
                    a, b, c, d = tl.rand4x(seed, (n * ((OUTPUT + 3) // 4) + channel // 4) * area + pixel)
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
                box = erased + 4 * (n * blocks + block)
                top, left, high, wide = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
                here = (row >= top) & (row < top + high) & (column >= left) & (column < left + wide)
                shown = tl.load(color + (n * blocks + block) * 3 + channel).to(value.dtype)
                value = tl.where(here, shown, value)
        else:
            value = tl.where(is_erased, tl.zeros_like(value), value)
        tl.store(result + channel * area, value, mask=wanted)


@triton.jit(do_not_specialize=['on', 'off', 'classes', 'begin'])
def _targets(labels, partners, lam, target, on, off, classes, begin, CLASSES: tl.constexpr):
    """Mixed targets with label smoothing, float32 (B, classes)."""
    n = begin + tl.program_id(1)
    number = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    own, other = tl.load(labels + n), tl.load(labels + tl.load(partners + n))
    share, rest = tl.load(lam + 2 * n), tl.load(lam + 2 * n + 1)
    value = tl.where(number == own, on, off) * share + tl.where(number == other, on, off) * rest
    tl.store(target + tl.program_id(1).to(tl.int64) * classes + number, value, mask=number < classes)


def unpack(table: Tensor, numbers: Tensor, levels: Tensor) -> Tensor:
    """Unpack images ``numbers`` of a bit-packed table.

    Args:
        table: uint8 of shape (images, rows, bytes of a row).
        numbers: int64 of shape (B,).
        levels: Of the eight bits of each byte, uint8 of shape (256, 8).

    Returns:
        uint8 of shape (B, 1, rows, 8 * bytes of a row).
    """
    rows, line = table.shape[1:]
    result = table.new_empty(len(numbers), 1, rows, 8 * line)
    grid = triton.cdiv(rows * line, _PIXELS), len(numbers)
    _unpack[grid](table, numbers, levels.view(torch.int64), result.view(torch.int64), rows * line, _PIXELS)
    return result


def weigh(
    box: Tensor, flags: Tensor, axis: int, resized: int, size: int, offset: int, taps: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of one axis of a resize.

    Args:
        box: Top, left, height, width of each image, int32 of shape (B, 4).
        flags: Whether it is bicubic, and its flips, int32 of shape (B, 3).
        axis: 0 for rows, 1 for columns.
        resized: Lines that every box is resized to.
        size: Lines that are wanted of them.
        offset: The first of those.
        taps: Lines of the box, at most, that count for one of the result, not more than it has, int32 of shape (B,).
        most: The largest that ``taps`` can be.

    Returns:
        The first line of the box that counts, int32 of shape (B, size); ``taps``; and weights of 22 bits, int32 of
        shape (B, a power of 2, size).
    """
    count, room = len(box), triton.next_power_of_2(most)
    first = box.new_empty(count, size)
    weights = box.new_empty(count, room, size)
    grid = count, triton.cdiv(size, _WEIGHED)
    _weigh[grid](box, flags, axis, resized, size, offset, first, taps, weights, room, _WEIGHED, **_EXACT)
    return first, taps, weights


def resize(
    source: Tensor,
    target: Tensor,
    take: Tensor,
    index: Tensor,
    box: Tensor,
    middle: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    axis: int,
    is_first: bool,
    lines: int,
) -> None:
    """One pass of a resize, of images ``index``.

    Args:
        source: uint8, of shape (images, C, H, W) with any strides if the pass is the first, else flat.
        target: uint8, flat if the pass is the first, else of shape (rows, C, *size).
        take: Which image of the source it is, int64 of shape (B,).
        index: Which of the B are resized, int32 of shape (b,).
        box: See `weigh`.
        middle: Where each image begins between the passes, int64 of shape (B,).
        weights: What `weigh` returned for the axis.
        size: Height and width of the result.
        axis: 0 to resize the rows, 1 the columns.
        is_first: Whether the pass is the first of two.
        lines: The most lines across the axis that an image has.
    """
    first, taps, numbers = weights
    channels = source.shape[1] if is_first else target.shape[1]
    strides = source.stride() if is_first else (0, 0, 0, 0)
    kernel, (height, width, warps) = (_down, _TILE_DOWN) if axis == 0 else (_across, _TILE_ACROSS)
    high, wide = (size[0], lines) if axis == 0 else (lines, size[1])
    grid = len(index), channels, triton.cdiv(high, height) * triton.cdiv(wide, width)
    kernel[grid](
        source, *strides, target, take, index, box, middle, first, taps, numbers, *size, channels,
        is_first, numbers.shape[1], height, width, num_warps=warps, **_EXACT,
    )  # fmt: skip


def levels(images: Tensor, rows: Tensor, operation: Tensor, argument: Tensor) -> None:
    """Apply to each of some rows an operation on levels, or Color, in place.

    Args:
        images: uint8 of shape (rows, C, H, W).
        rows: int32 of shape (b,).
        operation: Place in `timm_fractal.augment.ops.NAMES`, int32 of shape (b,).
        argument: float64 of shape (b,).
    """
    channels, area = images.shape[1], images.shape[2] * images.shape[3]
    tables = images.new_empty(len(rows), channels, 256)
    _tables[len(rows), channels](images, rows, operation, argument, tables, area, channels, _PIXELS, **_EXACT)
    grid = triton.cdiv(area, _PIXELS), len(rows)
    _look_up[grid](images, rows, operation, argument, tables, area, channels, _PIXELS, **_EXACT)


def move(
    images: Tensor, rows: Tensor, put: Tensor, operation: Tensor, cubic: Tensor, data: Tensor, fill: Tensor
) -> None:
    """Transform or sharpen some rows, into others.

    Args:
        images: uint8 of shape (rows, C, H, W).
        rows: int32 of shape (b,).
        put: Rows that are written, int32 of shape (b,).
        operation: Place in `timm_fractal.augment.ops.NAMES`, int32 of shape (b,).
        cubic: Whether to interpolate bicubic, int32 of shape (b,).
        data: What Image.transform calls the data of AFFINE, float64 of shape (b, 6); for Sharpness first its factor.
        fill: Level of what no pixel falls on, int32 of shape (C,).
    """
    channels, height, width = images.shape[1:]
    grid = triton.cdiv(height * width, _PIXELS_MOVED), len(rows)
    _move[grid](
        images, rows, put, operation, cubic, data, fill, height, width, channels, _PIXELS_MOVED, **_EXACT
    )  # fmt: skip


def finish(
    images: Tensor,
    rows: Tensor,
    partners: Tensor,
    lam: Tensor,
    paste: Tensor,
    table: Tensor,
    erased: Tensor,
    color: Tensor,
    seed: int,
    mode: int,
    is_mixed: bool,
    begin: int,
    count: int,
) -> Tensor:
    """Mix, normalize and erase images of a batch.

    Args:
        images: uint8 of shape (rows, C, H, W).
        rows: Of each image, int32 of shape (B,).
        partners: Of what it is mixed with.
        lam: Mixing coefficient and the rest to 1, float32 of shape (B, 2).
        paste: First and last + 1 row, first and last + 1 column of what is pasted, int32 of shape (B, 4).
        table: Normalized levels, of shape (channels, 256), of the dtype of the result.
        erased: Top, left, height and width of each block, int32 of shape (B, blocks, 4).
        color: Of each block, float32 of shape (B, blocks, 3).
        seed: Of the noise.
        mode: Place in `timm_fractal.augment.erasing.ERASING_MODES`.
        is_mixed: Whether there is anything to mix.
        begin: Number of the first image of the batch among the B.
        count: How many images it has.

    Returns:
        Shape (count, channels, H, W).
    """
    channels, height, width = images.shape[1:]
    blocks = erased.shape[1]
    result = torch.empty(count, len(table), height, width, dtype=table.dtype, device=images.device)
    grid = triton.cdiv(height * width, _PIXELS), count
    _finish[grid](
        images, rows, partners, lam, paste, table, erased, color, seed, result, height, width, blocks, begin,
        channels, len(table), is_mixed, mode, _PIXELS, **_EXACT,
    )  # fmt: skip
    return result


def targets(
    labels: Tensor, partners: Tensor, lam: Tensor, classes: int, smoothing: float, begin: int, count: int
) -> Tensor:
    """Targets of the mixed images of a batch, float32 of shape (count, classes).

    Args:
        labels: int64 of shape (B,).
        partners: Place of the other label, int32 of shape (B,).
        lam: See `finish`.
        classes: How many there are.
        smoothing: Label smoothing.
        begin: Number of the first image of the batch among the B.
        count: How many images it has.
    """
    result = torch.empty(count, classes, device=labels.device)
    off = smoothing / classes
    grid = triton.cdiv(classes, _PIXELS), count
    _targets[grid](labels, partners, lam, result, 1 - smoothing + off, off, classes, begin, _PIXELS, **_EXACT)
    return result


def check(device: torch.device) -> None:
    """Try all kernels on a device; raises RuntimeError if one is wrong, and whatever Triton raises."""

    def there(*values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    def named(*names: str) -> Tensor:
        return there(*map(NAMES.index, names))

    # A slope, 4 levels a column and 1 a row.
    row, column = torch.arange(40, device=device)[:, None], 4 * torch.arange(48, device=device)
    slope = (row + column).to(torch.uint8)
    image = slope.repeat(2, 1, 1, 1)
    pair, numbers = there(0, 1), there(0, 1, dtype=torch.int64)

    bits = there(*range(256), dtype=torch.uint8).view(1, 16, 16)
    ramp = there(*range(256), dtype=torch.uint8)[:, None].repeat(1, 8)
    unpacked = unpack(bits, there(0, dtype=torch.int64), ramp)

    # One image begins with its columns, the other with its rows.
    box, flags, most = there((0, 0, 40, 48), (0, 0, 40, 48)), there((0, 0, 0), (0, 0, 1)), 5
    weights = [weigh(box, flags, axis, size, size, 0, there(5, 5), most) for axis, size in ((0, 20), (1, 48))]
    between = torch.empty(2, 40 * 48, dtype=torch.uint8, device=device)
    half = torch.empty(2, 1, 20, 48, dtype=torch.uint8, device=device)
    for axis, chosen in ((1, pair[:1]), (0, pair[1:])):
        middle = numbers * between.shape[1]
        arguments = numbers, chosen.clone(), box, middle
        across = 40 if axis else 48
        resize(image, between, *arguments, weights[axis], (20, 48), axis, True, across)
        resize(between, half, *arguments, weights[1 - axis], (20, 48), 1 - axis, False, (20, 48)[axis])

    images = image.repeat(2, 1, 1, 1)
    levels(images, pair, named('Invert', 'Equalize'), there(0, 0, dtype=torch.float64))
    shift = there((1, 0, 0.5, 0, 1, 0), (1, 0, 0, 0, 0, 0), dtype=torch.float64)
    move(images, there(0, 1), there(2, 3), named('ShearX', 'Sharpness'), there(1, 0), shift, there(7))

    # Levels as they are; the second image is mixed with the first, the third is erased.
    table = torch.arange(256, dtype=torch.float32, device=device).repeat(3, 1)
    lam, paste = there((1, 0), (0.75, 0.25), (1, 0), dtype=torch.float32), there(*[(0, 0, 0, 0)] * 3)
    erased = there((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 40, 48))[:, None]
    color = there(*[(0, 0, 0)] * 3, dtype=torch.float32)[:, None]
    ends = torch.cat([image[:1], 255 - image[:1]])
    rows, partners = there(0, 1, 0), there(0, 0, 0)
    finished = [
        finish(ends, rows, partners, lam, paste, table, erased, color, 3, mode, True, 0, 3)
        for mode in (0, _PIXEL.value)
    ]
    mixed = (ends[1:].float() * 0.75 + ends[:1].float() * 0.25).round().expand(-1, 3, -1, -1)
    noise = finished[1][2]
    target = targets(numbers, there(0, 0), lam, 3, 0.0, 0, 2)
    expected = there((1, 0, 0), (0.25, 0.75, 0), dtype=torch.float32)
    results = {
        'unpack': torch.equal(unpacked[0, 0], bits[0].repeat_interleave(8, 1)),
        'resize': torch.equal(half[0, 0, 1:-1].int(), (2 * row[:20] + 1 + column).int()[1:-1])
        and torch.equal(half[1], half[0].flip(2)),
        'levels': torch.equal(images[0], 255 - image[0]) and int(images[1].max()) == 255,
        'move': torch.equal(images[2, :, :, 1:-2] + 2, images[0, :, :, 1:-2])
        and int((images[3].int() - images[1].int()).abs().max()) < 128
        and torch.equal(images[3, :, 0], images[1, :, 0]),
        'finish': torch.equal(finished[0][:1], ends[:1].float().expand(-1, 3, -1, -1))
        and torch.equal(finished[0][1:2], mixed)
        and not finished[0][2].any()
        and abs(noise.mean()) < 0.1
        and abs(noise.std() - 1) < 0.1,
        'targets': torch.equal(target, expected),
    }
    if not all(results.values()):
        raise RuntimeError('wrong pixels: ' + ', '.join(name for name, right in results.items() if not right))
