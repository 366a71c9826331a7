"""Augments a mega-batch with compiled kernels: one copy of all parameters, and about thirty kernel launches.

Each step is first recorded on the host, which adds its parameters to an `Upload`, and runs after the upload was sent.
The pixels equal those of `resample`, `apply_layer`, `Mix`, `normalize` and, except for noise, `Erase`.
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
from .._utils.lazy import numba_kernels
from .erasing import ERASING_MODES, EraseParams
from .mixup import MixParams, SoftTargets, fill_targets, soft_targets
from .policy import Layer
from .reference import NAMES, PIXELS, SHAPES, warp
from .resample import Crop
from .tables import LUTS, MATRICES, count_taps, rows_first

_logger = logging.getLogger(__name__)

_MAPS_LEVELS = np.array([name in (*LUTS, 'Color') for name in NAMES])
_READS_NEIGHBORS = np.array([name in (*MATRICES, 'Sharpness') for name in NAMES])
# Operations without a kernel.
_TORCH_OPS = (~_MAPS_LEVELS & ~_READS_NEIGHBORS).nonzero()[0].tolist()
_SHARPNESS, _COLOR = NAMES.index('Sharpness'), NAMES.index('Color')

# Resizes with more taps (to less than 1/60 of the size) run in torch.
_MAX_TAPS = 256


def kernels(device: torch.device) -> ModuleType | None:
    """Return the Triton or numba kernels for a device; None if there are none."""
    if device.type == 'cpu':
        return numba_kernels(f'{__package__}.kernels_numba')
    return _device.triton_kernels(device, f'{__package__}.kernels_triton')


@functools.cache
def _max_taps(shape: tuple[int, int], resized: tuple[int, int]) -> list[int]:
    """Return the maximum numbers of taps of rows and columns, for boxes in images of this height and width."""
    return [int(count_taps(have, want)) for have, want in zip(shape, resized)]


def can_resize(shape: Sequence[int], resized: tuple[int, int]) -> bool:
    """Whether the kernels can resize images of this height and width."""
    return max(_max_taps((shape[0], shape[1]), resized)) <= _MAX_TAPS


class Resize:
    """`resample` with kernels, in two passes over the pixels.

    Args as for `resample`, except:
        upload: Receives the parameters.
        take: Index of the source image of each box, shape (B,).
        shape: Height and width of the source images.
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
        self._most = _max_taps(shape, resized)
        is_rows_first = rows_first(height, width, resized)
        area = np.where(is_rows_first, size[0] * width, height * size[1])
        self._between = int(area.sum())
        self._take = upload.add(take)
        self._box = upload.add(np.stack([top, left, height, width], 1).astype(np.int32))
        self._flags = upload.add(np.stack([cubic, vflip, hflip], 1).astype(np.int32))
        self._taps = [
            upload.add(np.minimum(count_taps(length, want, cubic), length).astype(np.int32))
            for length, want in zip((height, width), resized)
        ]
        begin = np.cumsum(area) - area
        # Axis of the first pass, its images, and their maximum number of lines across that axis.
        self._orders = [
            (axis, upload.add(chosen.astype(np.int32)), int(across[chosen].max()))
            for axis, chosen, across in (
                (1, (~is_rows_first).nonzero()[0], height),
                (0, is_rows_first.nonzero()[0], width),
            )
            if len(chosen)
        ]
        self._begins = {channels: upload.add(begin * channels) for channels in (1, 3)}

    def run(self, kernels: Any, source: Tensor, rows: int) -> Tensor:
        """Resize uint8 (images, C, H, W) -> uint8 (rows, C, *size), of which the first B rows are written."""
        upload, channels = self._upload, source.shape[1]
        box, flags, take, begins = (upload[k] for k in (self._box, self._flags, self._take, self._begins[channels]))
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
                source, between, take, chosen, box, begins, weights[axis], self._size, axis, True, across
            )  # fmt: skip
            kernels.resize(
                between, target, take, chosen, box, begins, weights[1 - axis], self._size, 1 - axis, False,
                self._size[axis],
            )  # fmt: skip
        return target


class Layers:
    """`apply_layer` with kernels for each layer, on the rows of a buffer.

    Args:
        upload: Receives the parameters.
        layers: The operations.
        count: Number of images, B.
        shape: Channels, height and width of the images.
        fill: Fill value outside the image, one per channel.

    Attributes:
        channels: Channels of the images.
        rows: Final row of each image, int32 of shape (B,); image k starts in row k.
        room: Required rows of the buffer.
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
        given = operation >= 0
        maps_levels = given & _MAPS_LEVELS[operation]
        if channels == 1:
            # Color does nothing on gray images.
            maps_levels &= operation != _COLOR
        reads_neighbors = given & _READS_NEIGHBORS[operation]
        if maps_levels.any():
            parts = (values[maps_levels] for values in (self.rows, operation.astype(np.int32), argument))
            self._steps.append(('look_up', tuple(map(upload.add, parts))))
        if reads_neighbors.any():
            data = np.zeros((count, 6))
            data[:, 0] = argument
            for number in np.unique(operation[reads_neighbors & (operation != _SHARPNESS)]):
                chosen = operation == number
                data[chosen] = MATRICES[NAMES[number]](argument[chosen], height, width)
            put = (self.rows + count) % (2 * count)
            numbers, cubic = operation.astype(np.int32), layer.cubic.astype(np.int32)
            parts = (values[reads_neighbors] for values in (self.rows, put, numbers, cubic, data))
            self._steps.append(('transform', (*map(upload.add, parts), self._fill_color)))
            self.rows = np.where(reads_neighbors, put, self.rows)
            self.room = 2 * count
        for number in _TORCH_OPS:
            chosen = (operation == number).nonzero()[0]
            if len(chosen):
                rows = upload.add(self.rows[chosen].astype(np.int64))
                self._steps.append(('torch', (NAMES[number], rows, argument[chosen], layer.seed)))

    def run(self, kernels: Any, images: Tensor) -> None:
        """Apply the layers to uint8 (room, C, H, W), in place."""
        for kind, arguments in self._steps:
            if kind != 'torch':
                getattr(kernels, kind)(images, *(self._upload[k] for k in arguments))
                continue
            name, rows, argument, seed = arguments
            index = self._upload[rows]
            if name in SHAPES:
                images[index] = warp(images[index], name, argument, seed, self._fill)
            else:
                images[index] = PIXELS[name](images[index], argument)


class Output:
    """Makes the batches of a mega-batch: `Mix`, `normalize` and `Erase` in one pass per batch.

    Args:
        upload: Receives the parameters.
        rows: Row of each image, int32 of shape (B,).
        sizes: Batch sizes, in order.
        mixed: Mixing parameters of each batch; None without mixup.
        erased: Erasing parameters; None without erasing.
        mode: See `Erase`.
        targets: Labels, int64 of shape (B,), number of classes and label smoothing; None without mixup.
    """

    def __init__(
        self,
        upload: Upload,
        rows: npt.NDArray[np.int32],
        sizes: Sequence[int],
        mixed: Sequence[MixParams] | None,
        erased: EraseParams | None,
        mode: str = 'const',
        targets: tuple[npt.NDArray[np.int64], int, float] | None = None,
    ) -> None:
        self._upload, self._mode = upload, ERASING_MODES.index(mode)
        count = len(rows)
        stop = np.cumsum(sizes)
        # Images are mixed with their batch in reverse order.
        partners = np.repeat(2 * stop - sizes - 1, sizes) - np.arange(count)
        self._is_mixed, mixed = mixed is not None, mixed or [MixParams(1.0, None)] * len(sizes)
        lam = np.repeat([(one.lam, 1 - one.lam) for one in mixed], sizes, 0).astype(np.float32)
        is_pasted = np.repeat([one.box is not None for one in mixed], sizes)[:, None]
        paste = np.repeat([one.box or (0, 0, 0, 0) for one in mixed], sizes, 0).astype(np.int32)
        # With cutmix, lam only applies to the labels.
        on_pixels = np.where(is_pasted, np.array([[1, 0]], np.float32), lam)
        self._arrays = [upload.add(values) for values in (rows, rows[partners], on_pixels, paste)]
        box, color, self._seed = (np.zeros((count, 0, 4)), np.zeros((count, 0, 3)), 0) if erased is None else erased
        self._erased = [upload.add(box.astype(np.int32)), upload.add(color.astype(np.float32))]
        if targets is not None:
            labels, self._classes, smoothing = targets
            own, other, both = (torch.from_numpy(values) for values in (labels, labels[partners], lam))
            parts = soft_targets(own, other, both, self._classes, smoothing)
            self._targets = [upload.add(values.numpy()) for values in parts]

    def images(self, kernels: Any, images: Tensor, table: Tensor, begin: int, count: int) -> Tensor:
        """Make the images of one batch.

        Args:
            kernels: See `kernels`.
            images: uint8 of shape (rows, C, H, W).
            table: Normalized levels, shape (channels, 256).
            begin: Index of the first image of the batch.
            count: Number of images in the batch.

        Returns:
            Shape (count, channels, H, W), with the dtype of the table.
        """
        arrays = [self._upload[k] for k in self._arrays]
        erased = [self._upload[k] for k in self._erased]
        result: Tensor = kernels.mix_normalize_erase(
            images, *arrays, table, *erased, self._seed, self._mode, self._is_mixed, begin, count
        )
        return result

    def targets(self, begin: int, count: int) -> Tensor:
        """Make the mixed targets of one batch, float32 (count, classes)."""
        parts = SoftTargets(*(self._upload[k][begin : begin + count] for k in self._targets))
        return fill_targets(parts, self._classes)
