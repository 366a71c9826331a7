"""CPU kernel: chaos game and splat, many images side by side.

The innermost loops run over images and become SIMD lanes. If images share an address sequence, each step applies maps
of the same index to all of them, which is fastest; otherwise each image chooses a map by its probabilities from the
same random number. Everything is float64 without reordering (no fastmath, no fused multiply-add), so the pixels depend
neither on the machine nor on the number of images.

Only the last patch at a position is visible. The trajectory is therefore walked backwards in blocks (the first walk,
which finds the bounding box, records the state at the start of each block); the first visit to a position on the way
back is queued, and the queue, which is shorter than the trajectory, is painted in order.
"""

import numpy as np

from .._utils.jit import kernel, part, random_bits
from ..spec import POINT, RANDOM
from .canvas import LIMIT, PADDING, ROUND_UP

#: Steps per block: 8 bits, so that a step and a position (4096 x 4096: 24 bits) fit into 32.
_BLOCK = 256
#: Finished images are removed after an eighth of the blocks, and each time that number has doubled.
_EARLY = 8


@part
def _addresses(draws, thresholds, start, count, lanes, which):  # type: ignore[no-untyped-def]
    """Write the map index of each step to ``which`` (address sequence, step)."""
    part = draws[start : start + count]
    for v in range(lanes):
        row = which[v]
        for t in range(count):
            row[t] = 0
        # Thresholds ascend: the last one exceeded counts.
        for m in range(thresholds.shape[0]):
            threshold = thresholds[m, v]
            for t in range(count):
                if part[t] > threshold:
                    row[t] = np.uint8(m + 1)


@part
def _advance_shared(maps, which, start, count, lanes, track):  # type: ignore[no-untyped-def]
    for t in range(count):
        j = which[0, np.uint64(start + t)]
        for v in range(lanes):
            x = track[t, 0, v]
            y = track[t, 1, v]
            track[t + 1, 0, v] = maps[j, 0, v] * x + maps[j, 1, v] * y + maps[j, 2, v]
            track[t + 1, 1, v] = maps[j, 3, v] * x + maps[j, 4, v] * y + maps[j, 5, v]


@part
def _advance_pair(maps, draws, thresholds, start, count, lanes, track):  # type: ignore[no-untyped-def]
    """Advance images with two maps: compute both and select one, in SIMD lanes."""
    for t in range(count):
        draw = draws[np.uint64(start + t)]
        for v in range(lanes):
            x = track[t, 0, v]
            y = track[t, 1, v]
            x0 = maps[0, 0, v] * x + maps[0, 1, v] * y + maps[0, 2, v]
            y0 = maps[0, 3, v] * x + maps[0, 4, v] * y + maps[0, 5, v]
            x1 = maps[1, 0, v] * x + maps[1, 1, v] * y + maps[1, 2, v]
            y1 = maps[1, 3, v] * x + maps[1, 4, v] * y + maps[1, 5, v]
            second = draw > thresholds[0, v]
            track[t + 1, 0, v] = x1 if second else x0
            track[t + 1, 1, v] = y1 if second else y0


@part
def _advance_own(by_image, which, count, lanes, track):  # type: ignore[no-untyped-def]
    """Advance images with more maps: look up each image's map, which still hides the latency of the recurrence."""
    for t in range(count):
        for v in range(lanes):
            j = which[v, t]
            x = track[t, 0, v]
            y = track[t, 1, v]
            track[t + 1, 0, v] = by_image[v, j, 0] * x + by_image[v, j, 1] * y + by_image[v, j, 2]
            track[t + 1, 1, v] = by_image[v, j, 3] * x + by_image[v, j, 4] * y + by_image[v, j, 5]


@part
def _advance(maps, by_image, draws, thresholds, start, count, lanes, which, track):  # type: ignore[no-untyped-def]
    """Walk ``count`` steps from track[0]; track is (steps, xy, image), maps is (map, parameter, image)."""
    if thresholds.shape[1] == 1:
        _advance_shared(maps, which, start, count, lanes, track)
    elif maps.shape[0] == 2:
        _advance_pair(maps, draws, thresholds, start, count, lanes, track)
    else:
        _addresses(draws, thresholds, start, count, lanes, which)
        _advance_own(by_image, which, count, lanes, track)


@part
def _widen(track, count, lanes, box):  # type: ignore[no-untyped-def]
    # Four steps at a time shorten the dependency chain; the last step is repeated as padding.
    for quarter in range((count + 3) // 4):
        t0 = 4 * quarter + 1
        t1, t2, t3 = min(t0 + 1, count), min(t0 + 2, count), min(t0 + 3, count)
        for k in range(2):
            for v in range(lanes):
                p0, p1, p2, p3 = track[t0, k, v], track[t1, k, v], track[t2, k, v], track[t3, k, v]
                low0 = p0 if p0 < p1 else p1
                low1 = p2 if p2 < p3 else p3
                high0 = p0 if p0 > p1 else p1
                high1 = p2 if p2 > p3 else p3
                low = low0 if low0 < low1 else low1
                high = high0 if high0 > high1 else high1
                box[2 * k, v] = low if low < box[2 * k, v] else box[2 * k, v]
                box[2 * k + 1, v] = high if high > box[2 * k + 1, v] else box[2 * k + 1, v]


@part
def _first_walk(maps, by_image, draws, thresholds, lanes, which, track, starts, box):  # type: ignore[no-untyped-def]
    """Find the state at the start of each block, and the bounding box of all points: x min, max, y min, max."""
    steps = len(draws)
    for g in range(len(starts) - 1):
        count = min(_BLOCK, steps - g * _BLOCK)
        _advance(maps, by_image, draws, thresholds, g * _BLOCK, count, lanes, which, track)
        _widen(track, count, lanes, box)
        for v in range(lanes):
            starts[g + 1, 0, v] = track[0, 0, v] = track[count, 0, v]
            starts[g + 1, 1, v] = track[0, 1, v] = track[count, 1, v]


@part
def _fit(frame, track, lanes, size, diverged):  # type: ignore[no-untyped-def]
    """Convert bounding boxes to origin and scale (pixels per unit) of x and y; mark diverged images."""
    for v in range(lanes):
        wide = frame[1, v] - frame[0, v]
        high = frame[3, v] - frame[2, v]
        # Comparisons with NaN are false.
        diverged[v] = not (wide < LIMIT and high < LIMIT and np.isfinite(track[0, 0, v] + track[0, 1, v]))
        frame[1, v] = (size - 2 * PADDING) * ROUND_UP / wide if wide > 0 else 0.0
        frame[3, v] = (size - 2 * PADDING) * ROUND_UP / high if high > 0 else 0.0


@part
def _to_bits(track, count, lanes, frame, top, left, stride, bits):  # type: ignore[no-untyped-def]
    """Convert points to indices of bits of the (flipped) canvas."""
    for t in range(count):
        for v in range(lanes):
            column = np.int32((track[t, 0, v] - frame[0, v]) * frame[1, v] + PADDING)
            row = np.int32((track[t, 1, v] - frame[2, v]) * frame[3, v] + PADDING)
            bits[t, v] = np.uint32((top - row) * stride + (column + left))


@part
def _select(bits, lane, v, count, seen, queue, length):  # type: ignore[no-untyped-def]
    """Walk a block of a lane backwards; queue (step in the block, position) at unseen positions of image v."""
    for k in range(count):
        i = count - 1 - k
        p = bits[i, lane]
        word = np.uint64(p >> np.uint32(6))
        shift = np.uint64(p & np.uint32(63))
        old = seen[v, word]
        queue[v, np.uint64(length)] = (np.uint32(i) << np.uint32(24)) | p
        # Branch-free: on a fractal, a branch would be mispredicted constantly.
        length += np.int64((old >> shift) & np.uint64(1) == np.uint64(0))
        seen[v, word] = old | (np.uint64(1) << shift)
    return length


@part
def _patches(queue, v, first, count, start, key0, key1, patches):  # type: ignore[no-untyped-def]
    """Compute the patch of each queued point: 9 random bits, not all zero; bit 3 i + j is row i, column j."""
    for k in range(count):
        h = random_bits(np.uint32(start) + (queue[v, np.uint64(first + k)] >> np.uint32(24)), key0, key1)
        patches[k] = np.uint32(1) + np.uint32(np.uint32((h >> np.uint32(9)) * np.uint32(511)) >> np.uint32(23))


@part
def _paint(queue, v, first, count, patches, words, canvas):  # type: ignore[no-untyped-def]
    for k in range(count):
        j = np.uint64(count - 1 - k)
        p = np.uint64(queue[v, np.uint64(first) + j] & np.uint32(0xFFFFFF))
        patch = np.uint64(patches[j])
        top = patch & np.uint64(7)
        middle = (patch >> np.uint64(3)) & np.uint64(7)
        bottom = patch >> np.uint64(6)
        shift = p & np.uint64(63)
        # The canvas is flipped: the patch's top row is the lowest, at the highest index.
        w2 = p >> np.uint64(6)
        w1 = w2 - words
        w0 = w1 - words
        keep = ~(np.uint64(7) << shift)
        canvas[v, w2] = (canvas[v, w2] & keep) | (top << shift)
        canvas[v, w1] = (canvas[v, w1] & keep) | (middle << shift)
        canvas[v, w0] = (canvas[v, w0] & keep) | (bottom << shift)
        if shift > np.uint64(61):
            back = np.uint64(64) - shift
            keep = ~(np.uint64(7) >> back)
            one = np.uint64(1)
            canvas[v, w2 + one] = (canvas[v, w2 + one] & keep) | (top >> back)
            canvas[v, w1 + one] = (canvas[v, w1 + one] & keep) | (middle >> back)
            canvas[v, w0 + one] = (canvas[v, w0 + one] & keep) | (bottom >> back)


@part
def _paint_from(block, v, ends, seen, queue, key0, key1, patch, words, patches, canvas):  # type: ignore[no-untyped-def]
    """Paint the patches of a block and of all later ones."""
    if patch == POINT:
        for k in range(canvas.shape[1]):
            canvas[v, k] = seen[v, k]
        return
    for g in range(block, len(ends) - 1):
        first = ends[g + 1, v]
        count = ends[g, v] - first
        if patch == RANDOM:
            _patches(queue, v, first, count, g * _BLOCK, key0, key1, patches)
        _paint(queue, v, first, count, patches, np.uint64(words), canvas)


@part
def _count(canvas, v):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for k in range(canvas.shape[1]):
        n = canvas[v, k]
        n = n - ((n >> np.uint64(1)) & np.uint64(0x5555555555555555))
        n = (n & np.uint64(0x3333333333333333)) + ((n >> np.uint64(2)) & np.uint64(0x3333333333333333))
        n = (n + (n >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += (n * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return np.int64(total)


@part
def _close_up(lanes, done, images, maps, by_image, thresholds, starts, frame):  # type: ignore[no-untyped-def]
    """Move unfinished lanes to the front; return their number."""
    kept = 0
    for v in range(lanes):
        if done[v]:
            continue
        if kept < v:
            images[kept] = images[v]
            for j in range(maps.shape[0]):
                for k in range(6):
                    maps[j, k, kept] = by_image[kept, j, k] = by_image[v, j, k]
            if thresholds.shape[1] > 1:
                for m in range(thresholds.shape[0]):
                    thresholds[m, kept] = thresholds[m, v]
            for g in range(starts.shape[0]):
                starts[g, 0, kept] = starts[g, 0, v]
                starts[g, 1, kept] = starts[g, 1, v]
            for k in range(4):
                frame[k, kept] = frame[k, v]
        kept += 1
    return kept


@kernel
def render_lanes(maps, draws, thresholds, keys, size, patch, enough, canvas):  # type: ignore[no-untyped-def]
    """Render images.

    Args:
        maps: (N, 6, B) float64, parameters a, b, e, c, d, f of x' = a x + b y + e, y' = c x + d y + f. Overwritten.
        draws: (points - 1,) float64, see `timm_fractal.fractal.ifs.AddressSequences`.
        thresholds: (N - 1, B) float64, or (N - 1, 1) if the images share an address sequence. Overwritten.
        keys: (B, 2) uint32, seeds of the patches of each image.
        size: Width and height in pixels.
        patch: `RANDOM`, `FILL` or `POINT`.
        enough: Rendering of an image may stop once it has more gray pixels than this.
        canvas: (B, size * words) uint64 of zeros, painted on; bit c of the words of a row is column c. An image that
            diverges stays black.
    """
    steps = len(draws)
    lanes = maps.shape[2]
    blocks = steps // _BLOCK + 1
    words = canvas.shape[1] // size
    by_image = np.empty((lanes, maps.shape[0], 6))
    for v in range(lanes):
        for j in range(maps.shape[0]):
            for k in range(6):
                by_image[v, j, k] = maps[j, k, v]
    if thresholds.shape[1] == 1:
        which = np.empty((1, steps), np.uint8)
        _addresses(draws, thresholds, 0, steps, 1, which)
    else:
        which = np.empty((lanes, _BLOCK), np.uint8)
    track = np.zeros((_BLOCK + 1, 2, lanes))
    starts = np.zeros((blocks + 1, 2, lanes))
    frame = np.zeros((4, lanes))
    _first_walk(maps, by_image, draws, thresholds, lanes, which, track, starts, frame)
    done = np.zeros(lanes, np.bool_)
    _fit(frame, track, lanes, size, done)
    # The image of each lane; unfinished images take over the lanes of finished ones.
    images = np.arange(lanes)
    lanes = _close_up(lanes, done, images, maps, by_image, thresholds, starts, frame)

    # A patch is offset by one pixel right and down from its point; a single pixel is not.
    shift = 0 if patch == POINT else 1
    bits = np.empty((_BLOCK, lanes), np.uint32)
    seen = np.zeros(canvas.shape, np.uint64)
    # At most one position per point and per pixel, plus one that `_select` may write without counting it.
    queue = np.empty((len(canvas), min(steps + 1, size * size) + 1), np.uint32)
    ends = np.zeros((blocks + 1, len(canvas)), np.int64)
    patches = np.empty(_BLOCK, np.uint32)
    for k in range(_BLOCK):
        patches[k] = 511
    wanted = np.zeros(len(canvas), np.int64)
    look = blocks // _EARLY if enough < size * size else blocks
    for k in range(blocks):
        if lanes == 0:
            break
        g = blocks - 1 - k
        count = min(_BLOCK, steps + 1 - g * _BLOCK)
        for v in range(lanes):
            track[0, 0, v] = starts[g, 0, v]
            track[0, 1, v] = starts[g, 1, v]
        _advance(maps, by_image, draws, thresholds, g * _BLOCK, count - 1, lanes, which, track)
        top, left, stride = np.int32(size - 1 - shift), np.int32(shift), np.int32(64 * words)
        _to_bits(track, count, lanes, frame, top, left, stride, bits)
        for v in range(lanes):
            image = images[v]
            ends[g, image] = _select(bits, v, image, count, seen, queue, ends[g + 1, image])
        if g > 0 and k != look:
            continue
        for v in range(lanes):
            image = images[v]
            positions = ends[g, image]
            done[v] = False
            if g == 0 or positions >= wanted[image]:
                key0, key1 = keys[image, 0], keys[image, 1]
                _paint_from(g, image, ends, seen, queue, key0, key1, patch, words, patches, canvas)
                if g > 0:
                    # Later points win, so these pixels are final. Further positions add fewer pixels each.
                    pixels = _count(canvas, image)
                    done[v] = pixels > enough
                    wanted[image] = positions * enough // max(pixels, 1)
        lanes = _close_up(lanes, done, images, maps, by_image, thresholds, starts, frame)
        look += look
