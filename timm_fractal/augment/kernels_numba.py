# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-decorators
"""numba kernels for a mega-batch on the CPU, with the interface and results of `kernels_triton`.

Images are divided among as many threads as torch uses. Sums of pixels are integers; single and double precision are
used as in Pillow.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._utils.jit import kernel, part
from .erasing import ERASING_MODES
from .reference import NAMES
from .reference import unpack as unpack
from .tables import blend, cubic, keys_far, keys_near, luma

_AUTO_CONTRAST, _EQUALIZE, _INVERT, _POSTERIZE = map(NAMES.index, ('AutoContrast', 'Equalize', 'Invert', 'Posterize'))
_SOLARIZE, _SOLARIZE_ADD, _BRIGHTNESS = map(NAMES.index, ('Solarize', 'SolarizeAdd', 'Brightness'))
_CONTRAST, _COLOR, _SHARPNESS = map(NAMES.index, ('Contrast', 'Color', 'Sharpness'))
_RAND, _PIXEL = ERASING_MODES.index('rand'), ERASING_MODES.index('pixel')

# Rows per block when columns are resized; a block should fit into the L1 cache.
_ROWS = 64

_blend_levels, _interpolate, _keys_near, _keys_far = part(blend), part(cubic), part(keys_near), part(keys_far)
_luma_of = part(luma)


@kernel
def _weigh(begin, end, box, flags, axis, resized, offset, taps, first, weights):
    size = first.shape[1]
    row = np.empty(weights.shape[2])
    for n in range(begin, end):
        total, cubic = box[n, 2 + axis], flags[n, 0] != 0
        scale = total / resized
        stretch = max(scale, 1.0)
        support = 2 * stretch if cubic else stretch
        for line in range(size):
            shown = (size - 1 - line if flags[n, 1 + axis] else line) + offset
            center = (shown + 0.5) * scale
            start = max(np.int64(center - support + 0.5), 0)
            stop = min(np.int64(center + support + 0.5), total)
            whole = 0.0
            for tap in range(taps[n]):
                row[tap] = 0.0
                if start + tap < stop:
                    t = abs((start + tap - center + 0.5) * (1 / stretch))
                    if not cubic:
                        row[tap] = max(1 - t, 0.0)
                    elif t < 1:
                        row[tap] = _keys_near(t)
                    elif t < 2:
                        row[tap] = _keys_far(t)
                whole += row[tap]
            first[n, line] = start
            for tap in range(taps[n]):
                weight = row[tap] / whole * (1 << 22)
                weights[n, line, tap] = np.int32(weight - 0.5 if weight < 0 else weight + 0.5)


@part
def _to_level(total):
    return np.uint8(min(max(total >> 22, 0), 255))


# Indices are unsigned, since checks for negative ones would prevent vectorization.


@part
def _add_taps(total, count, values, at, step, weights, taps):
    """Add the weighted sum of ``taps`` lines of ``count`` values, which start at ``at`` and are ``step`` apart."""
    tap = 0
    while tap + 4 <= taps:
        a, b = np.int32(weights[tap]), np.int32(weights[tap + 1])
        c, d = np.int32(weights[tap + 2]), np.int32(weights[tap + 3])
        second, third, fourth = at + step, at + step + step, at + step + step + step
        for k in range(count):
            total[k] += (
                a * np.int32(values[at + k])
                + b * np.int32(values[second + k])
                + c * np.int32(values[third + k])
                + d * np.int32(values[fourth + k])
            )
        at = fourth + step
        tap += 4
    while tap < taps:
        a = np.int32(weights[tap])
        for k in range(count):
            total[k] += a * np.int32(values[at + k])
        at += step
        tap += 1


@part
def _resize_columns(pixels, origin, row, column, height, width, first, taps, weights, out, start, strip, block, total):
    """Resize lines of ``pixels``, from ``origin`` on, to len(first) values each; write them from ``out[start]`` on."""
    size, rows = np.uint64(len(first)), np.uint64(_ROWS)
    for top in range(0, height, _ROWS):
        lines = np.uint64(min(_ROWS, height - top))
        for line in range(lines):
            place = np.uint64(origin + (top + np.int64(line)) * row)
            if column == 1:
                for k in range(np.uint64(width)):
                    strip[k * rows + line] = pixels[place + k]
            else:
                for k in range(np.uint64(width)):
                    strip[k * rows + line] = pixels[place + k * np.uint64(column)]
        for k in range(size):
            for line in range(rows):
                total[line] = 1 << 21
            at = np.uint64(first[k]) * rows
            _add_taps(total, rows, strip, at, rows, weights[k], min(taps, width - first[k]))
            for line in range(rows):
                block[k * rows + line] = _to_level(total[line])
        for line in range(lines):
            to = np.uint64(start) + (np.uint64(top) + line) * size
            for k in range(size):
                out[to + k] = block[k * rows + line]


@part
def _resize_rows(pixels, origin, row, column, height, width, first, taps, weights, out, start, line_of, total):
    """Resize columns of ``pixels`` to len(first) lines of ``width`` values; write them from ``out[start]`` on."""
    places = np.uint64(width)
    if column != 1:
        # `_add_taps` needs contiguous rows.
        for line in range(height):
            place = np.uint64(origin + line * row)
            for k in range(places):
                line_of[np.uint64(line) * places + k] = pixels[place + k * np.uint64(column)]
    for line in range(len(first)):
        for k in range(places):
            total[k] = 1 << 21
        many = min(taps, height - first[line])
        if column == 1:
            at = np.uint64(origin + first[line] * row)
            _add_taps(total, places, pixels, at, np.uint64(row), weights[line], many)
        else:
            _add_taps(total, places, line_of, np.uint64(first[line]) * places, places, weights[line], many)
        to = np.uint64(start) + np.uint64(line) * places
        for k in range(places):
            out[to + k] = _to_level(total[k])


@kernel
def _resize(
    begin, end, source, strides, target, take, index, box, begins, first, taps, weights, high, wide, channels, axis,
    is_first,
):  # fmt: skip
    longest = max(box[:, 2].max(), box[:, 3].max(), high, wide)
    strip, block = np.empty(longest * _ROWS, np.uint8), np.empty(longest * _ROWS, np.uint8)
    total = np.empty(max(longest, _ROWS), np.int32)
    # Scratch memory for rows whose pixels are not contiguous.
    room = longest * longest if is_first and strides[3] != 1 and axis == 0 else 0
    line_of = np.empty(room, np.uint8)
    for i in range(begin, end):
        n = index[i]
        top, left, height, width = box[n, 0], box[n, 1], box[n, 2], box[n, 3]
        for channel in range(channels):
            # Size of the intermediate image.
            between = height * wide if (axis == 1) == is_first else high * width
            image, row, column = strides[0], strides[2], strides[3]
            origin = take[n] * image + channel * strides[1] + top * row + left * column
            start = begins[n] + channel * between
            if not is_first:
                origin, start = start, (np.int64(n) * channels + channel) * high * wide
                row, column = width if axis == 1 else wide, np.int64(1)
            lines = height if is_first else high
            places = width if is_first else wide
            if axis == 1:
                _resize_columns(
                    source, origin, row, column, lines, width, first[n], taps[n], weights[n], target, start,
                    strip, block, total,
                )  # fmt: skip
            else:
                _resize_rows(
                    source, origin, row, column, height, places, first[n], taps[n], weights[n], target, start,
                    line_of, total,
                )  # fmt: skip


@part
def _blend(degenerate, level, factor):
    return _to_uint8(_blend_levels(np.float32(degenerate), np.float32(level), factor))


@part
def _to_uint8(value):
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@part
def _luma(plane, pixel, area):
    red, green, blue = np.int32(plane[pixel]), np.int32(plane[area + pixel]), np.int32(plane[2 * area + pixel])
    return np.uint8(_luma_of(red, green, blue))


@part
def _fill_lut(kind, given, histogram, area, table):
    """Compute a LUT like `make_lut` in `tables`, which explains the duplication."""
    low, high = 255, 0
    for level in range(256):
        if histogram[level]:
            low, high = min(low, level), max(high, level)
    factor = np.float32(given)
    scale = 255.0 / (high - low) if high > low else 0.0
    offset = -low * scale
    below = 0
    for level in range(high):
        below += histogram[level]
    step, rank = below // 255, 0
    total = 0
    for level in range(256):
        total += histogram[level] * level
    mean = np.float32(np.floor(total / area + 0.5))
    bits = min(max(np.int64(given), 0), 8)
    below = 0
    for level in range(256):
        value = np.uint8(level)
        if kind == _AUTO_CONTRAST:
            if high > low:
                value = np.uint8(min(max(level * scale + offset, 0.0), 255.0))
        elif kind == _EQUALIZE:
            if step > 0:
                rank = (step // 2 + below) // step
                value = np.uint8(min(rank, 255))
            below += histogram[level]
        elif kind == _INVERT:
            value = np.uint8(255 - level)
        elif kind == _POSTERIZE:
            value = np.uint8((level >> (8 - bits)) << (8 - bits))
        elif kind == _SOLARIZE:
            value = np.uint8(level if level < given else 255 - level)
        elif kind == _SOLARIZE_ADD:
            value = np.uint8(min(max(level + np.int64(given), 0), 255) if level < 128 else level)
        elif kind == _BRIGHTNESS:
            value = _blend(0, level, factor)
        elif kind == _CONTRAST:
            value = _blend(mean, level, factor)
        table[level] = value


@kernel
def _look_up(begin, end, images, rows, operation, argument):
    """Apply operations on levels, or Color, in place; images are uint8 (rows, C, area)."""
    channels, area = images.shape[1:]
    histogram, table = np.zeros(256, np.int64), np.empty(256, np.uint8)
    for n in range(begin, end):
        kind, given = operation[n], argument[n]
        image = images[rows[n]]
        flat = image.reshape(-1)
        if kind == _COLOR:
            factor = np.float32(given)
            for pixel in range(area):
                gray = _luma(flat, pixel, area)
                for channel in range(channels):
                    flat[channel * area + pixel] = _blend(gray, flat[channel * area + pixel], factor)
            continue
        for channel in range(channels):
            plane = image[channel]
            if kind == _CONTRAST and channels == 3:
                if channel == 0:
                    histogram[:] = 0
                    for pixel in range(area):
                        histogram[_luma(flat, pixel, area)] += 1
            elif kind == _AUTO_CONTRAST or kind == _EQUALIZE or kind == _CONTRAST:
                histogram[:] = 0
                for pixel in range(area):
                    histogram[plane[pixel]] += 1
            _fill_lut(kind, given, histogram, area, table)
            for pixel in range(area):
                plane[pixel] = table[plane[pixel]]


@part
def _tap(plane, row, column):
    height, width = plane.shape
    return np.float32(plane[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])


@part
def _slide_row(plane, row, move, fill, out, padded):
    """Shift a row by ``move`` pixels, bicubic; all pixels share a fractional offset."""
    width = plane.shape[1]
    whole = np.int64(np.floor(move))
    fraction = np.float32(move - np.floor(move))
    for k in range(width + 3):
        padded[k] = plane[row, min(max(k - 1 + whole, 0), width - 1)]
    for k in range(width):
        out[row, k] = _to_uint8(_interpolate(padded[k], padded[k + 1], padded[k + 2], padded[k + 3], fraction))
    for k in range(width):
        if not 0 <= k + 0.5 + move < width:
            out[row, k] = fill


@part
def _slide_columns(plane, slope, shift, fill, out):
    """Shift each column by ``slope * x + shift`` pixels, bicubic."""
    height, width = plane.shape
    for column in range(width):
        move = slope * (column + 0.5) + shift
        whole = np.int64(np.floor(move))
        fraction = np.float32(move - np.floor(move))
        for row in range(height):
            if 0 <= row + 0.5 + move < height:
                k = row + whole
                before, first = _tap(plane, k - 1, column), _tap(plane, k, column)
                second, after = _tap(plane, k + 1, column), _tap(plane, k + 2, column)
                out[row, column] = _to_uint8(_interpolate(before, first, second, after, fraction))
            else:
                out[row, column] = fill


@part
def _interpolate_row(plane, row, column, fraction):
    before, first = _tap(plane, row, column - 1), _tap(plane, row, column)
    second, after = _tap(plane, row, column + 1), _tap(plane, row, column + 2)
    return _interpolate(before, first, second, after, fraction)


@part
def _transform_plane(plane, data, is_cubic, fill, out):
    height, width = plane.shape
    a, b, c, d, e, f = data
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            across, down = a * x + b * y + c, d * x + e * y + f
            if not (0 <= across < width and 0 <= down < height):
                out[row, column] = fill
                continue
            across, down = across - 0.5, down - 0.5
            left, top = np.floor(across), np.floor(down)
            i, k = np.int64(top), np.int64(left)
            if is_cubic:
                right = np.float32(across - left)
                before, upper = _interpolate_row(plane, i - 1, k, right), _interpolate_row(plane, i, k, right)
                lower, after = _interpolate_row(plane, i + 1, k, right), _interpolate_row(plane, i + 2, k, right)
                out[row, column] = _to_uint8(_interpolate(before, upper, lower, after, np.float32(down - top)))
            else:
                first, second = np.float64(_tap(plane, i, k)), np.float64(_tap(plane, i, k + 1))
                third, fourth = np.float64(_tap(plane, i + 1, k)), np.float64(_tap(plane, i + 1, k + 1))
                above = first + (second - first) * (across - left)
                under = third + (fourth - third) * (across - left)
                out[row, column] = np.uint8(above + (under - above) * (down - top))


@part
def _sharpen(plane, factor, out):
    height, width = plane.shape
    for row in range(height):
        if row == 0 or row == height - 1:
            for column in range(width):
                out[row, column] = _blend(plane[row, column], plane[row, column], factor)
            continue
        above, here, below = plane[row - 1], plane[row], plane[row + 1]
        for column in range(width):
            smooth = np.int32(here[column])
            if 0 < column < width - 1:
                total = 4 * smooth
                for k in range(column - 1, column + 2):
                    total += np.int32(above[k]) + np.int32(here[k]) + np.int32(below[k])
                smooth = (total + 6) // 13
            out[row, column] = _blend(smooth, here[column], factor)


@kernel
def _transform(begin, end, images, rows, put, operation, is_cubic, data, fill):
    channels, height, width = images.shape[1:]
    padded = np.empty(width + 3, np.float32)
    for n in range(begin, end):
        a, b, c, d, e, f = data[n]
        for channel in range(channels):
            plane, out, color = images[rows[n], channel], images[put[n], channel], np.uint8(fill[channel])
            if operation[n] == _SHARPNESS:
                _sharpen(plane, np.float32(a), out)
            elif is_cubic[n] and a == 1 and e == 1 and d == 0 and f == 0:
                for row in range(height):
                    _slide_row(plane, row, b * (row + 0.5) + c, color, out, padded)
            elif is_cubic[n] and a == 1 and e == 1 and b == 0 and c == 0:
                _slide_columns(plane, d, f, color, out)
            else:
                _transform_plane(plane, (a, b, c, d, e, f), is_cubic[n] != 0, color, out)


@part
def _mix_and_normalize(plane, other, lam, paste, entries, is_mixed, level, out):
    """Fill ``out`` with entries of a channel's table; ``level`` is scratch memory for a row."""
    height, width = plane.shape
    share, rest = lam
    top, bottom, left, right = paste
    for row in range(height):
        if is_mixed and share != 1:
            for k in range(width):
                value = np.float32(plane[row, k]) * share + np.float32(other[row, k]) * rest
                level[k] = np.uint8(np.rint(value))
        else:
            for k in range(width):
                level[k] = plane[row, k]
            if is_mixed and top <= row < bottom:
                for k in range(left, right):
                    level[k] = other[row, k]
        target = out[row]
        for k in range(width):
            target[k] = entries[level[k]]


@part
def _erase(box, color, noise, noise_start, mode, out):
    """Erase a box in all channels of ``out``; return the index of the next unused value of ``noise``."""
    top, left, high, wide = box
    for channel in range(len(out)):
        for row in range(top, top + high):
            for k in range(left, left + wide):
                if mode == _PIXEL:
                    out[channel, row, k] = noise[noise_start]
                    noise_start += 1
                elif mode == _RAND:
                    out[channel, row, k] = color[channel]
                else:
                    out[channel, row, k] = 0
    return noise_start


@kernel
def _mix_normalize_erase(
    begin, end, images, rows, partners, lam, paste, table, is_gray, erased, color, noise, noise_starts, mode, is_mixed,
    start, out,
):  # fmt: skip
    """Mix, normalize and erase; ``table``, ``color``, ``noise`` and ``out`` (count, channels, H, W) hold bits."""
    last = images.shape[1] - 1
    level = np.empty(images.shape[3], np.uint8)
    for k in range(begin, end):
        n = start + k
        image, other = images[rows[n]], images[partners[n]]
        for channel in range(out.shape[1]):
            if channel >= 1 and is_gray:
                out[k, channel] = out[k, 0]
                continue
            source = min(channel, last)
            _mix_and_normalize(
                image[source], other[source], lam[n], paste[n], table[channel], is_mixed, level, out[k, channel]
            )
        noise_start = noise_starts[k]
        for block in range(erased.shape[1]):
            noise_start = _erase(erased[n, block], color[n, block], noise, noise_start, mode, out[k])


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, 'timm-fractal-numba')


def _share(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call a kernel for parts of ``range(count)`` in as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    arrays = [one.detach().numpy() if isinstance(one, Tensor) else one for one in arguments]
    if threads <= 1:
        function(0, count, *arrays)
        return
    edges = np.linspace(0, count, 1 + min(4 * threads, count)).astype(int).tolist()
    list(_pool(threads).map(lambda start, stop: function(start, stop, *arrays), edges, edges[1:]))


# For the interface, see `kernels_triton`; `unpack` is torch's, which is as fast.


def weigh(box, flags, axis, resized, size, offset, taps, most):
    first = box.new_empty(len(box), size)
    weights = box.new_empty(len(box), size, most)
    _share(_weigh, len(box), box, flags, axis, resized, offset, taps, first, weights)
    return first, taps, weights


def resize(source, target, take, index, box, begins, weights, size, axis, is_first, lines):
    channels = source.shape[1] if is_first else target.shape[1]
    strides = np.array(source.stride() if is_first else (0, 0, 0, 0))
    # The images may be a view: take the underlying memory.
    flat = torch.empty(0, dtype=torch.uint8).set_(source.untyped_storage())[source.storage_offset() :]
    arguments = take, index, box, begins, *weights, *size, channels, axis, is_first
    _share(_resize, len(index), flat, strides, target.view(-1), *arguments)


def look_up(images, rows, operation, argument):
    _share(_look_up, len(rows), images.flatten(2), rows, operation, argument)


def transform(images, rows, put, operation, cubic, data, fill):
    _share(_transform, len(rows), images, rows, put, operation, cubic, data, fill)


def mix_normalize_erase(
    images, rows, partners, lam, paste, table, erased, color, seed, mode, is_mixed, begin, count
):  # fmt: skip
    height, width = images.shape[2:]
    result = torch.empty(count, len(table), height, width, dtype=table.dtype)
    counts = erased[begin : begin + count, :, 2:].prod(2).sum(1) * len(table)
    noise = torch.empty(int(counts.sum()) if mode == _PIXEL else 0)
    noise.normal_(generator=torch.Generator().manual_seed((seed + begin) % 2**63))
    # numba has no bfloat16.
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[table.element_size()]
    is_gray = images.shape[1] == 1 and bool((table == table[0]).all())
    color, noise = (values.to(table.dtype).view(bits) for values in (color, noise))
    _share(
        _mix_normalize_erase, count, images, rows, partners, lam, paste, table.view(bits), is_gray, erased, color,
        noise, counts.cumsum(0) - counts, mode, is_mixed, begin, result.view(bits),
    )  # fmt: skip
    return result
