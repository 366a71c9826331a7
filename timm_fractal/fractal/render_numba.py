"""CPU kernel: chaos game and splat, many images side by side.

All images of a call share one address sequence, so one step moves all of them by the same map of their own system: the
innermost loops run over images and become SIMD lanes. Everything is float64 without reordering (no fastmath, no fused
multiply-add), so the pixels do not depend on the machine nor on the number of images.

Only the last patch at a position can be seen. The trajectory is therefore walked block by block from its end (the first
walk, which finds the bounding box, leaves the state at the start of each block); the first visit to a position on that
way back is queued, and the queue, shorter than the trajectory, is painted in order.
"""

import numpy as np

from .._utils.jit import kernel, part
from ..spec import POINT, RANDOM
from .render import LIMIT, ROUND_UP

#: Steps walked at a time: 8 bits, so that a step and a position (4096 x 4096: 24 bits) fit into 32.
_BLOCK = 256


@part
def _advance(maps, addresses, start, count, track):  # type: ignore[no-untyped-def]
    """Walk `count` steps from track[0]; track is (steps, xy, image), maps is (map, parameter, image)."""
    for t in range(count):
        j = addresses[np.uint64(start + t)]
        for v in range(track.shape[2]):
            x = track[t, 0, v]
            y = track[t, 1, v]
            track[t + 1, 0, v] = maps[j, 0, v] * x + maps[j, 1, v] * y + maps[j, 2, v]
            track[t + 1, 1, v] = maps[j, 3, v] * x + maps[j, 4, v] * y + maps[j, 5, v]


@part
def _widen(track, count, box):  # type: ignore[no-untyped-def]
    for t in range(1, count + 1):
        for v in range(track.shape[2]):
            x = track[t, 0, v]
            y = track[t, 1, v]
            box[0, v] = x if x < box[0, v] else box[0, v]
            box[1, v] = x if x > box[1, v] else box[1, v]
            box[2, v] = y if y < box[2, v] else box[2, v]
            box[3, v] = y if y > box[3, v] else box[3, v]


@part
def _to_bits(track, count, frame, padding, top, left, stride, bits):  # type: ignore[no-untyped-def]
    """Position of each point as the index of a bit of the (flipped) canvas."""
    for t in range(count):
        for v in range(track.shape[2]):
            column = np.int32((track[t, 0, v] - frame[0, v]) * frame[1, v] + padding)
            row = np.int32((track[t, 1, v] - frame[2, v]) * frame[3, v] + padding)
            bits[t, v] = np.uint32((top - row) * stride + (column + left))


@part
def _select(bits, v, count, seen, queue, length):  # type: ignore[no-untyped-def]
    """Walk a block backwards; queue (step in the block, position) of the positions that were not seen yet."""
    for k in range(count):
        i = count - 1 - k
        p = bits[i, v]
        word = np.uint64(p >> np.uint32(6))
        shift = np.uint64(p & np.uint32(63))
        old = seen[v, word]
        queue[v, np.uint64(length)] = (np.uint32(i) << np.uint32(24)) | p
        # No branch: on a fractal it would be mispredicted all the time.
        length += np.int64((old >> shift) & np.uint64(1) == np.uint64(0))
        seen[v, word] = old | (np.uint64(1) << shift)
    return length


@part
def _patches(queue, v, first, count, start, key0, key1, patches):  # type: ignore[no-untyped-def]
    """The random patch of each queued point: 9 bits, not all zero; bit 3 i + j is the pixel in row i, column j."""
    for k in range(count):
        h = np.uint32(np.uint32(start) + (queue[v, np.uint64(first + k)] >> np.uint32(24)))
        h = np.uint32(h + key0)
        h = np.uint32(h ^ (h >> np.uint32(16)))
        h = np.uint32(h * np.uint32(0x7FEB352D))
        h = np.uint32(h ^ key1)
        h = np.uint32(h ^ (h >> np.uint32(15)))
        h = np.uint32(h * np.uint32(0x846CA68B))
        h = np.uint32(h ^ (h >> np.uint32(16)))
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


@kernel
def render_lanes(maps, addresses, keys, size, padding, patch, canvas, diverged):  # type: ignore[no-untyped-def]
    """Render images.

    Args:
        maps: (N, 6, B) float64, parameters a, b, e, c, d, f of x' = a x + b y + e, y' = c x + d y + f. Overwritten
            with zeros where an image diverges.
        addresses: (points - 1,) uint8.
        keys: (B, 2) uint32, key of the patches of each image.
        size: Width and height in pixels.
        padding: Pixels kept free on every side.
        patch: `RANDOM`, `FILL` or `POINT`.
        canvas: (B, size * words) uint64 of zeros, painted on; bit c of the words of a row is column c.
        diverged: (B,) bool, written.
    """
    steps = len(addresses)
    lanes = maps.shape[2]
    blocks = steps // _BLOCK + 1
    words = canvas.shape[1] // size
    track = np.zeros((_BLOCK + 1, 2, lanes))
    starts = np.zeros((blocks + 1, 2, lanes))
    box = np.zeros((4, lanes))
    for g in range(blocks):
        count = min(_BLOCK, steps - g * _BLOCK)
        _advance(maps, addresses, g * _BLOCK, count, track)
        _widen(track, count, box)
        for v in range(lanes):
            starts[g + 1, 0, v] = track[0, 0, v] = track[count, 0, v]
            starts[g + 1, 1, v] = track[0, 1, v] = track[count, 1, v]

    frame = np.zeros((4, lanes))
    for v in range(lanes):
        wide = box[1, v] - box[0, v]
        high = box[3, v] - box[2, v]
        # Comparisons with a NaN, or of the last state if it is one, are false.
        diverged[v] = not (wide < LIMIT and high < LIMIT and np.isfinite(track[0, 0, v] + track[0, 1, v]))
        if diverged[v]:
            # All its points stay at the origin.
            for j in range(maps.shape[0]):
                for k in range(6):
                    maps[j, k, v] = 0.0
            for g in range(blocks):
                starts[g, 0, v] = 0.0
                starts[g, 1, v] = 0.0
        else:
            frame[0, v] = box[0, v]
            frame[2, v] = box[2, v]
            frame[1, v] = (size - 2 * padding) * ROUND_UP / wide if wide > 0 else 0.0
            frame[3, v] = (size - 2 * padding) * ROUND_UP / high if high > 0 else 0.0

    # A patch lies one pixel right and down of its point, a single point lies where it is.
    shift = 0 if patch == POINT else 1
    bits = np.empty((_BLOCK, lanes), np.uint32)
    seen = np.zeros(canvas.shape, np.uint64)
    # No more positions than points or pixels, and a place for the one that `_select` writes in vain.
    queue = np.empty((lanes, min(steps + 1, size * size) + 1), np.uint32)
    ends = np.zeros((blocks + 1, lanes), np.int64)
    for k in range(blocks):
        g = blocks - 1 - k
        count = min(_BLOCK, steps + 1 - g * _BLOCK)
        for v in range(lanes):
            track[0, 0, v] = starts[g, 0, v]
            track[0, 1, v] = starts[g, 1, v]
        _advance(maps, addresses, g * _BLOCK, count - 1, track)
        _to_bits(
            track,
            count,
            frame,
            float(padding),
            np.int32(size - 1 - shift),
            np.int32(shift),
            np.int32(64 * words),
            bits,
        )
        for v in range(lanes):
            ends[g, v] = _select(bits, v, count, seen, queue, ends[g + 1, v])

    patches = np.empty(_BLOCK, np.uint32)
    for k in range(_BLOCK):
        patches[k] = 511
    for v in range(lanes):
        if diverged[v]:
            continue
        if patch == POINT:
            for k in range(canvas.shape[1]):
                canvas[v, k] = seen[v, k]
            continue
        for g in range(blocks):
            first = ends[g + 1, v]
            count = ends[g, v] - first
            if patch == RANDOM:
                _patches(queue, v, first, count, g * _BLOCK, keys[v, 0], keys[v, 1], patches)
            _paint(queue, v, first, count, patches, np.uint64(words), canvas)
