"""Augments a mega-batch with compiled kernels: one copy of all parameters, and about thirty kernel launches.

Each step is first recorded on the host, which adds its parameters to an `Upload`, and runs after the upload was sent.
The pixels equal those of `resample`, `apply_layer`, `Mix`, `normalize` and, except for noise, `Erase`.
"""

from collections.abc import Callable, Sequence
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
from .mixup import MixParams, fill_targets, soft_targets
from .policy import Layer
from .reference import NAMES, PIXELS, SHAPES, warp
from .resample import Crop
from .tables import LUTS, MATRICES, count_taps, rows_first

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


def can_resize(shape: Sequence[int], resized: tuple[int, int]) -> bool:
    """Whether the kernels can resize images of this height and width."""
    return bool(count_taps(shape, resized).max() <= _MAX_TAPS)


#: Resizes with kernels: uint8 (images, C, H, W) -> uint8 (rows, C, *size), of which the first B rows are written.
Resize = Callable[[Any, Tensor, int], Tensor]


def record_resize(
    upload: Upload,
    crop: Crop,
    take: npt.NDArray[np.int64],
    shape: Sequence[int],
    resized: tuple[int, int],
    size: tuple[int, int],
    offset: tuple[int, int],
) -> Resize:
    """`resample` with kernels, in two passes over the pixels.

    Args as for `resample`, except:
        upload: Receives the parameters.
        take: Index of the source image of each box, shape (B,).
        shape: Channels, height and width of the source images.
    """
    top, left, height, width, cubic, hflip, vflip = (values.numpy() for values in crop)
    channels, most = shape[0], count_taps(shape[1:], resized).tolist()
    is_rows_first = rows_first(height, width, resized)
    area = np.where(is_rows_first, size[0] * width, height * size[1])
    box = upload.add(np.stack([top, left, height, width], 1).astype(np.int32))
    flags = upload.add(np.stack([cubic, vflip, hflip], 1).astype(np.int32))
    images, begins = upload.add(take), upload.add((np.cumsum(area) - area) * channels)
    taps = [
        upload.add(np.minimum(count_taps(length, want, cubic), length).astype(np.int32))
        for length, want in zip((height, width), resized)
    ]
    # Axis of the first pass, its images, and their maximum number of lines across that axis.
    orders = [
        (axis, upload.add(chosen.astype(np.int32)), int(across[chosen].max()))
        for axis, chosen, across in (
            (1, (~is_rows_first).nonzero()[0], height),
            (0, is_rows_first.nonzero()[0], width),
        )
        if len(chosen)
    ]

    def resize(kernels: Any, source: Tensor, rows: int) -> Tensor:
        weights = [
            kernels.weigh(
                upload[box],
                upload[flags],
                axis,
                resized[axis],
                size[axis],
                offset[axis],
                upload[taps[axis]],
                most[axis],
            )
            for axis in (0, 1)
        ]
        between = source.new_empty(int(area.sum()) * channels)
        target = source.new_empty(rows, channels, *size)
        for axis, index, across in orders:
            arguments = upload[images], upload[index], upload[box], upload[begins]
            kernels.resize(source, between, *arguments, weights[axis], size, axis, True, across)
            kernels.resize(between, target, *arguments, weights[1 - axis], size, 1 - axis, False, size[axis])
        return target

    return resize


class Layers:
    """`apply_layer` with kernels for each layer, on the rows of a buffer.

    Args:
        upload: Receives the parameters.
        layers: The operations.
        count: Number of images, B.
        shape: Channels, height and width of the images.
        fill: Fill value outside the image, one per channel.

    Attributes:
        rows: Final row of each image, int32 of shape (B,); image k starts in row k.
        room: Required rows of the buffer.
    """

    def __init__(self, upload: Upload, layers: Sequence[Layer], count: int, shape: Sequence[int], fill: Sequence[int]):
        self._upload, self._fill = upload, fill
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
        labels, values, other = (self._upload[k][begin : begin + count] for k in self._targets)
        return fill_targets(labels, values, other, self._classes)
