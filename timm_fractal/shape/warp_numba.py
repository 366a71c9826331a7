"""CPU kernel: samples a uint8 image bilinearly, at positions computed row by row.

Arithmetic is in integers, except for positions, which are exact, see `warps`. Loops over a row of positions become SIMD
lanes; indices are unsigned, which avoids checks for negative ones.
"""

import numpy as np

from .._utils.jit import kernel


@kernel
def warp(pixels, lines, columns, scale, bits, fill, out):  # type: ignore[no-untyped-def]
    """Fill out (height, width, channels) from pixels (h, w, channels), both uint8 and C-contiguous.

    The position of out[r, c], in steps from the image center, is scale[k] times the dot product of lines[k, r] and
    columns[:, c] for k = x, y, divided by that of lines[2, r] and columns[:, c] if there is one. A pixel has 2 ** bits
    steps. fill has one value per channel.
    """
    height, width, channels = out.shape
    flat = pixels.reshape(-1)
    row = np.uint64(pixels.shape[1] * channels)
    steps = np.int64(1) << bits
    limit = steps - 1
    twice = 2 * bits
    half_even = (np.int64(1) << (twice - 1)) - 1
    # Edges of the image from its center, and centers of its last pixels from those of the first.
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
            # A neighbor outside the image has weight 0: read the pixel itself.
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
                # Round half to even, like torch.
                out[r, c, k] = (total + half_even + ((total >> twice) & 1)) >> twice
