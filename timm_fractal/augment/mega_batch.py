"""A mega-batch by compiled kernels: on a GPU, its parameters are one upload, its pixels about thirty launches.

Each step is made first, on the host, where it adds its parameters to an `Upload`, and run when that has been sent. The
pixels are those of `resample`, `Pipeline`, `Mix` and `normalize`, which do the same with torch's own operations on any
device, and of `Erase` (whose noise is another one).
"""

import functools
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._utils import device as _device
from .._utils.device import Upload
from .erasing import ERASING_MODES, EraseParams
from .mixup import MixParams
from .ops import MATRICES, NAMES, PIXELS, SHAPES, TABLES, warp
from .policy import Layer
from .resample import Crop

_logger = logging.getLogger(__name__)

_ON_LEVELS = np.array([name in (*TABLES, 'Color') for name in NAMES])
_MOVES = np.array([name in (*MATRICES, 'Sharpness') for name in NAMES])
# What is left to torch.
_APART = [number for number in range(len(NAMES)) if not _ON_LEVELS[number] and not _MOVES[number]]
_SHARPNESS, _COLOR = NAMES.index('Sharpness'), NAMES.index('Color')

# What shrinks an image more than sixtyfold is left to torch.
_MOST_TAPS = 256


@functools.cache
def _numba_kernels() -> ModuleType | None:
    try:
        from . import ops_numba
    except Exception as error:
        _logger.warning('the numba kernels cannot be used, torch does their work in more time: %r', error)
        return None
    return ops_numba


def kernels(device: torch.device) -> ModuleType | None:
    """Kernels for mega-batches on a device, Triton's or numba's; None if there are none."""
    return _numba_kernels() if device.type == 'cpu' else _device.triton_kernels(device)


def most_taps(length: float, resized: int) -> int:
    """Lines of a box, at most, that count for one line of the result."""
    return 2 * int(np.ceil(2 * max(length / resized, 1.0))) + 1


def can_resize(shape: Sequence[int], resized: tuple[int, int]) -> bool:
    """Whether the kernels resize images of this height and width."""
    return max(map(most_taps, shape, resized)) <= _MOST_TAPS


class Resize:
    """`resample` as two passes over the pixels.

    Args:
        upload: Gets the parameters.
        crop: As for `resample`.
        take: Which image of the source each box is cut out of, shape (B,).
        shape: Height and width of the images of the source.
        resized: As for `resample`.
        size: As for `resample`.
        offset: As for `resample`.
    """

    def __init__(
        self,
        upload: Upload,
        crop: Crop,
        take: npt.NDArray[np.int64],
        shape: tuple[int, int],
        resized: tuple[int, int],
        size: tuple[int, int],
        offset: tuple[int, int] = (0, 0),
    ) -> None:
        top, left, height, width, cubic, hflip, vflip = (values.numpy() for values in crop)
        self._upload, self._resized, self._size, self._offset = upload, resized, size, offset
        self._most = [most_taps(have, want) for have, want in zip(shape, resized)]
        # As `resample` chooses it.
        shorter, narrower = height - resized[0], width - resized[1]
        rows_first = (shorter > 0) & (2 * narrower < shorter)
        area = np.where(rows_first, size[0] * width, height * size[1])
        self._between = int(area.sum())
        self._take = upload.add(take)
        self._box = upload.add(np.stack([top, left, height, width], 1).astype(np.int32))
        self._flags = upload.add(np.stack([cubic, vflip, hflip], 1).astype(np.int32))
        stretch = [np.maximum(length / want, 1) for length, want in zip((height, width), resized)]
        taps = [2 * np.ceil(np.where(cubic, 2, 1) * times) + 1 for times in stretch]
        self._taps = [upload.add(np.minimum(*pair).astype(np.int32)) for pair in zip(taps, (height, width))]
        begin = np.cumsum(area) - area
        # Which axis is first, which images, and how many lines they have at most before and after the first pass.
        self._orders = [
            (axis, upload.add(chosen.astype(np.int32)), int(across[chosen].max()))
            for axis, chosen, across in (
                (1, (~rows_first).nonzero()[0], height),
                (0, rows_first.nonzero()[0], width),
            )
            if len(chosen)
        ]
        self._begins = {channels: upload.add(begin * channels) for channels in (1, 3)}

    def run(self, kernels: Any, source: Tensor, rows: int) -> Tensor:
        """uint8 (images, C, H, W) -> uint8 (rows, C, *size), of which the first B are written."""
        upload, channels = self._upload, source.shape[1]
        box, flags, take, middle = (upload[k] for k in (self._box, self._flags, self._take, self._begins[channels]))
        weights = [
            kernels.weigh(
                box, flags, axis, self._resized[axis], self._size[axis], self._offset[axis],
                upload[self._taps[axis]], self._most[axis],
            )
            for axis in (0, 1)
        ]  # fmt: skip
        between = source.new_empty(self._between * channels)
        target = source.new_empty(rows, channels, *self._size)
        for axis, index, across in self._orders:
            chosen = upload[index]
            kernels.resize(
                source, between, take, chosen, box, middle, weights[axis], self._size, axis, True, across
            )  # fmt: skip
            kernels.resize(
                between, target, take, chosen, box, middle, weights[1 - axis], self._size, 1 - axis, False,
                self._size[axis],
            )  # fmt: skip
        return target


class Layers:
    """`Pipeline` on the rows of a buffer.

    Args:
        upload: Gets the parameters.
        layers: What happens to each image.
        count: How many images there are, B.
        shape: Channels, height and width of the images.
        fill: Level of what no pixel falls on, one for each channel.

    Attributes:
        channels: Of the images.
        rows: Where each image lies at the end, int32 of shape (B,); image k begins in row k.
        room: How many rows the buffer must have.
    """

    def __init__(self, upload: Upload, layers: Sequence[Layer], count: int, shape: Sequence[int], fill: Sequence[int]):
        self._upload, self._fill = upload, fill
        self.channels = shape[0]
        self._fill_color = upload.add(np.array(fill, np.int32))
        self.rows = np.arange(count, dtype=np.int32)
        self.room = count
        self._steps: list[tuple[str, tuple[Any, ...]]] = []
        for layer in layers:
            self._record(layer, count, shape)

    def _record(self, layer: Layer, count: int, shape: Sequence[int]) -> None:
        channels, height, width = shape
        operation, argument, upload = layer.operation, layer.argument, self._upload
        asked = operation >= 0
        on_levels = asked & _ON_LEVELS[operation]
        if channels == 1:
            # Nothing to do where there is no color.
            on_levels &= operation != _COLOR
        moves = asked & _MOVES[operation]
        if on_levels.any():
            parts = (values[on_levels] for values in (self.rows, operation.astype(np.int32), argument))
            self._steps.append(('levels', tuple(map(upload.add, parts))))
        if moves.any():
            data = np.zeros((count, 6))
            data[:, 0] = argument
            for number in np.unique(operation[moves & (operation != _SHARPNESS)]):
                chosen = operation == number
                data[chosen] = MATRICES[NAMES[number]](argument[chosen], height, width)
            put = (self.rows + count) % (2 * count)
            numbers, cubic = operation.astype(np.int32), layer.cubic.astype(np.int32)
            parts = (values[moves] for values in (self.rows, put, numbers, cubic, data))
            self._steps.append(('move', (*map(upload.add, parts), self._fill_color)))
            self.rows = np.where(moves, put, self.rows)
            self.room = 2 * count
        for number in _APART:
            chosen = (operation == number).nonzero()[0]
            if len(chosen):
                rows = upload.add(self.rows[chosen].astype(np.int64))
                self._steps.append(('apart', (NAMES[number], rows, argument[chosen], layer.seed)))

    def run(self, kernels: Any, images: Tensor) -> None:
        """Work on uint8 (room, C, H, W), in place."""
        for kind, arguments in self._steps:
            if kind != 'apart':
                getattr(kernels, kind)(images, *(self._upload[k] for k in arguments))
                continue
            name, rows, argument, seed = arguments
            index = self._upload[rows]
            if name in SHAPES:
                images[index] = warp(images[index], name, argument, seed, self._fill)
            else:
                images[index] = PIXELS[name](images[index], argument)


class Finish:
    """`Mix`, `normalize` and `Erase` in one pass.

    Args:
        upload: Gets the parameters.
        rows: Where each image lies, int32 of shape (B,).
        sizes: Of the batches, in order.
        mixed: How each batch is mixed; None if there is no mixup.
        erased: What is erased of each image; None if nothing is.
        mode: See `Erase`.
    """

    def __init__(
        self,
        upload: Upload,
        rows: npt.NDArray[np.int32],
        sizes: Sequence[int],
        mixed: Sequence[MixParams] | None,
        erased: EraseParams | None,
        mode: str = 'const',
    ) -> None:
        self._upload, self._mode = upload, ERASING_MODES.index(mode)
        count = len(rows)
        stop = np.cumsum(sizes)
        # In reverse order within each batch.
        partners = np.repeat(2 * stop - sizes - 1, sizes) - np.arange(count)
        # Of pixels there are those that are mixed and those that are pasted.
        has_mixup, mixed = mixed is not None, mixed or [MixParams(1.0, None)] * len(sizes)
        lam = np.repeat([(one.lam, 1 - one.lam) for one in mixed], sizes, 0).astype(np.float32)
        kept = np.repeat([one.box is not None for one in mixed], sizes)[:, None]
        paste = np.repeat([one.box or (0, 0, 0, 0) for one in mixed], sizes, 0).astype(np.int32)
        on_pixels = np.where(kept, np.array([[1, 0]], np.float32), lam)
        self._is_mixed = has_mixup
        self._arrays = [upload.add(values) for values in (rows, rows[partners], on_pixels, paste)]
        box, color, self._seed = (np.zeros((count, 0, 4)), np.zeros((count, 0, 3)), 0) if erased is None else erased
        self._erased = [upload.add(box.astype(np.int32)), upload.add(color.astype(np.float32))]
        self._labels = [upload.add(values) for values in (partners.astype(np.int32), lam)]

    def run(self, kernels: Any, images: Tensor, table: Tensor, begin: int, count: int) -> Tensor:
        """Finish one batch.

        Args:
            kernels: See `kernels`.
            images: uint8 of shape (rows, C, H, W).
            table: Normalized levels, of shape (channels, 256).
            begin: Number of the first image of the batch.
            count: How many images it has.

        Returns:
            Shape (count, channels, H, W), of the dtype of the table.
        """
        arrays = [self._upload[k] for k in self._arrays]
        erased = [self._upload[k] for k in self._erased]
        result: Tensor = kernels.finish(
            images, *arrays, table, *erased, self._seed, self._mode, self._is_mixed, begin, count
        )
        return result

    def targets(self, kernels: Any, labels: Tensor, classes: int, smoothing: float, begin: int, count: int) -> Tensor:
        """Mixed targets of one batch: labels of all, int64 (B,) -> float32 (count, classes)."""
        partners, lam = (self._upload[k] for k in self._labels)
        result: Tensor = kernels.targets(labels, partners, lam, classes, smoothing, begin, count)
        return result
