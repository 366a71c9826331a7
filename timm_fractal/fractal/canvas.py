"""The canvas of the chaos game and the bit-packed image format, shared by all engines.

Images have two levels, black and `GRAY`, and are stored as bits, uint8 of shape (images, size, 8 * ceil(size / 64)):
bit ``c & 7`` of byte ``c >> 3`` of a row is column c. `unpack` converts them to gray images.
"""

import numpy as np
import numpy.typing as npt

from .ifs import Array

Bits = npt.NDArray[np.uint8]

#: Gray level of set pixels.
GRAY = 127
#: Margin on every side of an image, in pixels.
PADDING = 6
#: An image wider than this, in the units of the IFS, has diverged.
LIMIT = 1e9
#: Keeps extreme points on the outermost pixel despite rounding in the last bits: chaos games come ever closer to them.
ROUND_UP = 1 + 2.0**-40


def row_bytes(size: int) -> int:
    """Return the bytes per row of a bit-packed image, a multiple of 8."""
    return 8 * ((size + 63) // 64)


def unpack(bits: Bits, size: int) -> npt.NDArray[np.uint8]:
    """Unpack bit-packed images (..., size, row bytes) -> (..., size, size), values 0 and `GRAY`."""
    pixels = np.take(_GRAY_OF_BYTE, bits, axis=0)
    return pixels.reshape(*bits.shape[:-1], -1)[..., :size]


def pack(pixels: npt.NDArray[np.uint8]) -> Bits:
    """Pack gray images to bits, the inverse of `unpack`."""
    size = pixels.shape[-1]
    padding = [(0, 0)] * (pixels.ndim - 1) + [(0, 8 * row_bytes(size) - size)]
    return np.packbits(np.pad(pixels, padding), axis=-1, bitorder='little')


_GRAY_OF_BYTE = GRAY * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder='little')


def images_innermost(systems: Array) -> Array:
    """Rearrange IFS codes (B, N, 2, 3) -> (N, 6, B), the layout of the kernels."""
    return np.ascontiguousarray(systems.reshape(*systems.shape[:2], 6).transpose(1, 2, 0))
