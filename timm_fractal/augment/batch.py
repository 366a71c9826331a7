"""Augments a mega-batch with compiled kernels: one transfer of all parameters, and about thirty kernel launches.

Each ``record_`` function adds the parameters of a step to an `Upload`, and returns a function that runs the step once
the upload is sent. Pixels equal those of `resample`, `apply_layer`, `Mix`, `normalize` and, except for noise, `Erase`.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._utils import device as _device
from .._utils.device import Batch, Upload
from .._utils.lazy import numba_kernels
from .erasing import ERASING_MODES, EraseParams
from .mixup import Mix, MixParams, fill_targets, soft_targets
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
    """Return whether the kernels can resize images of this height and width."""
    return bool(count_taps(shape, resized).max() <= _MAX_TAPS)


def record_resize(
    upload: Upload,
    crop: Crop,
    take: npt.NDArray[np.int64],
    shape: Sequence[int],
    resized: tuple[int, int],
    size: tuple[int, int],
    offset: tuple[int, int],
) -> Callable[[Any, Tensor, int], Tensor]:
    """Record `resample` with kernels, in two passes over the pixels.

    Args as for `resample`, except:
        take: Index of the source image of each box, shape (B,).
        shape: Channels, height and width of the source images.

    Returns:
        A function from the kernels, the source (uint8, (images, C, H, W)) and a number of rows to uint8 (rows, C,
        *size), of which the first B rows are written.
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
    # Axis of the first pass, the images that start with it, and their maximum number of lines across that axis.
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


def record_layers(
    upload: Upload, layers: Sequence[Layer], count: int, shape: Sequence[int], fill: Sequence[int]
) -> tuple[Callable[[Any, Tensor], None], npt.NDArray[np.int32], int]:
    """Record `apply_layer` with kernels for each layer, on the rows of a buffer.

    Args:
        upload: Receives the parameters.
        layers: The operations.
        count: Number of images, B; image k starts in row k.
        shape: Channels, height and width of the images.
        fill: Fill value outside the image, one per channel.

    Returns:
        A function of the kernels and the buffer, uint8 (rows, C, H, W), which works in place; the final row of each
        image, int32 of shape (B,); and the required number of rows.
    """
    channels, height, width = shape
    color = upload.add(np.array(fill, np.int32))
    rows, room = np.arange(count, dtype=np.int32), count
    steps: list[tuple[str, tuple[Any, ...]]] = []
    for layer in layers:
        operation, argument, numbers = layer.operation, layer.argument, layer.operation.astype(np.int32)
        given = operation >= 0
        maps_levels = given & _MAPS_LEVELS[operation]
        if channels == 1:
            # Color does nothing on gray images.
            maps_levels &= operation != _COLOR
        if maps_levels.any():
            parts = (values[maps_levels] for values in (rows, numbers, argument))
            steps.append(('look_up', tuple(map(upload.add, parts))))
        reads_neighbors = given & _READS_NEIGHBORS[operation]
        if reads_neighbors.any():
            data = np.zeros((count, 6))
            data[:, 0] = argument
            for number in np.unique(operation[reads_neighbors & (operation != _SHARPNESS)]):
                chosen = operation == number
                data[chosen] = MATRICES[NAMES[number]](argument[chosen], height, width)
            put = (rows + count) % (2 * count)
            parts = (values[reads_neighbors] for values in (rows, put, numbers, layer.cubic.astype(np.int32), data))
            steps.append(('transform', (*map(upload.add, parts), color)))
            rows, room = np.where(reads_neighbors, put, rows), 2 * count
        for number in _TORCH_OPS:
            chosen = (operation == number).nonzero()[0]
            if len(chosen):
                index = upload.add(rows[chosen].astype(np.int64))
                steps.append(('torch', (NAMES[number], index, argument[chosen], layer.seed)))

    def run(kernels: Any, images: Tensor) -> None:
        for kind, arguments in steps:
            if kind != 'torch':
                getattr(kernels, kind)(images, *(upload[k] for k in arguments))
                continue
            name, place, argument, seed = arguments
            index = upload[place]
            if name in SHAPES:
                images[index] = warp(images[index], name, argument, seed, fill)
            else:
                images[index] = PIXELS[name](images[index], argument)

    return run, rows, room


def record_output(
    upload: Upload,
    rows: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int64],
    sizes: Sequence[int],
    mix: Mix | None,
    mixed: Sequence[MixParams] | None,
    mode: str,
    erased: EraseParams | None,
) -> Callable[[Any, Tensor, Tensor], Iterator[Batch]]:
    """Record `Mix`, `normalize` and `Erase` with kernels, in one pass per batch.

    Args:
        upload: Receives the parameters.
        rows: Row of each image, int32 of shape (B,).
        labels: int64 of shape (B,).
        sizes: Batch sizes, in order.
        mix: Gives the number of classes and the label smoothing; None for integer labels.
        mixed: Mixing parameters of each batch; None without mixup.
        mode: See `Erase`.
        erased: Erasing parameters; None without erasing.

    Returns:
        A generator function of the kernels, the images, uint8 (rows, C, H, W), and the normalized levels, shape
        (channels, 256). It yields batches of the levels' dtype, made lazily, so that only those in use take memory.
    """
    count, stop, is_mixed = len(rows), np.cumsum(sizes), mixed is not None
    # Images are mixed with their batch in reverse order.
    partners = np.repeat(2 * stop - sizes - 1, sizes) - np.arange(count)
    mixed = mixed or [MixParams(1.0, None)] * len(sizes)
    lam = np.repeat([(one.lam, 1 - one.lam) for one in mixed], sizes, 0).astype(np.float32)
    is_pasted = np.repeat([one.box is not None for one in mixed], sizes)[:, None]
    paste = np.repeat([one.box or (0, 0, 0, 0) for one in mixed], sizes, 0).astype(np.int32)
    # With cutmix, lam only applies to the labels.
    on_pixels = np.where(is_pasted, np.array([[1, 0]], np.float32), lam)
    box, color, seed = (np.zeros((count, 0, 4)), np.zeros((count, 0, 3)), 0) if erased is None else erased
    before = [upload.add(values) for values in (rows, rows[partners], on_pixels, paste)]
    after = [upload.add(box.astype(np.int32)), upload.add(color.astype(np.float32))]
    own: tuple[Tensor, ...] = (torch.from_numpy(labels),)
    if mix is not None:
        other, both = torch.from_numpy(labels[partners]), torch.from_numpy(lam)
        own = soft_targets(own[0], other, both, mix.collate.num_classes, mix.collate.label_smoothing)
    targets = [upload.add(values.numpy()) for values in own]

    def run(kernels: Any, images: Tensor, levels: Tensor) -> Iterator[Batch]:
        for begin, size in zip(stop - sizes, sizes):
            with _device.on(images.device):
                batch = kernels.mix_normalize_erase(
                    images, *(upload[k] for k in before), levels, *(upload[k] for k in after),
                    seed, ERASING_MODES.index(mode), is_mixed, int(begin), size,
                )  # fmt: skip
                parts = [upload[k][begin : begin + size] for k in targets]
                target = parts[0] if mix is None else fill_targets(mix.collate.num_classes, *parts)
            yield batch, target

    return run
