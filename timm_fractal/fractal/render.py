"""Renders IFS codes to images: checks the input, allocates the output, chooses the engine."""

import itertools
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils.cpu import cpu_count
from .._utils.lazy import numba_kernels
from ..spec import PATCHES
from .canvas import Bits, images_innermost, pack, row_bytes
from .ifs import AddressSequences, Array

_logger = logging.getLogger(__name__)

#: Images rendered side by side by one thread: enough SIMD lanes to hide the latency of the recurrence.
LANES = 32
#: Images rendered at once by torch on other devices.
LANES_GPU = 256


class Rendered(NamedTuple):
    """Images rendered by `render`.

    Attributes:
        bits: The images, bit-packed, see `timm_fractal.fractal.canvas`.
        fill: Fraction of the pixels that are not black, shape (images,); 0 if the chaos game diverged.
    """

    bits: Bits
    fill: npt.NDArray[np.float64]


def render(
    systems: Array,
    addresses: npt.NDArray[np.uint8] | AddressSequences,
    keys: npt.NDArray[np.uint32],
    size: int = 512,
    patch: str = 'random',
    *,
    backend: str = 'auto',
    threads: int | None = None,
    out: Bits | None = None,
    enough: float = 1.0,
) -> Rendered:
    """Render one image per IFS with the chaos game, like the 1p-frac reference.

    Every image starts at (0, 0). The bounding box of its points, including the starting transient, is scaled to the
    canvas, x and y independently; the image is flipped top to bottom. Every point pastes a patch; later patches
    overwrite earlier ones, including with black pixels.

    Args:
        systems: Shape (B, N, 2, 3), N <= 256.
        addresses: Address sequence of all images, shape (points - 1,), see `timm_fractal.fractal.ifs.addresses`, or one
            sequence per image. Adjacent images with equal sequences are rendered faster.
        keys: Shape (B, 2), seeds of the random patches of each image.
        size: Width and height in pixels, 16 to 4096.
        patch: ``'random'``: 3 x 3 pixels, each gray or black by a random bit, not all black. ``'fill'``: 3 x 3 gray
            pixels. ``'point'``: one gray pixel.
        backend: ``'numba'`` or ``'torch'``, which render identical images; ``'auto'`` uses torch, which is slower, if
            numba cannot be imported.
        threads: Threads of the numba back end, by default all available to this process.
        out: Output array of shape (B, size, row bytes), uint8, C-contiguous.
        enough: Rendering of an image may stop once its fill exceeds this fraction.

    Examples:
        >>> from timm_fractal.fractal import ifs
        >>> from timm_fractal.fractal.canvas import unpack
        >>> system = ifs.sample(2, 3.5, np.random.default_rng(1))
        >>> path = ifs.addresses(ifs.probabilities(system), points=5000)
        >>> images = render(system[None], path, np.zeros((1, 2), np.uint32), size=64)
        >>> unpack(images.bits, 64).shape
        (1, 64, 64)
    """
    if not np.isfinite(systems).all():
        # IFS codes of classes outside ``only`` are NaN.
        raise ValueError('systems must be finite numbers')
    count, maps = systems.shape[:2]
    if out is None:
        out = np.empty((count, size, row_bytes(size)), np.uint8)
    if backend == 'auto':
        backend = 'torch' if numba_kernels(f'{__package__}.render_numba') is None else 'numba'
    if backend == 'torch':
        for places, path in _shared(addresses, count):
            # In parts, since an unpacked image takes eight times the memory.
            for start in range(0, len(places), 16 * LANES):
                part = places[start : start + 16 * LANES]
                out[part] = pack(render_on('cpu', systems[part], path, keys[part], size, patch).numpy())
    else:
        from .render_numba import render_lanes

        if not isinstance(addresses, AddressSequences):
            # Map indices, with thresholds halfway between them, replace random numbers.
            halves = np.arange(maps - 1) + 0.5
            addresses = AddressSequences(addresses.astype(np.float64), np.broadcast_to(halves, (count, maps - 1)))
        draws, all_thresholds = np.ascontiguousarray(addresses.draws), addresses.thresholds
        # The bits as 64-bit words, in the same order on little-endian machines.
        canvas = out.reshape(count, -1).view('<u8')
        settings = size, PATCHES.index(patch), math.ceil(enough * size**2)

        def block(part: slice) -> None:
            thresholds = all_thresholds[part]
            if (thresholds == thresholds[0]).all():
                thresholds = thresholds[:1]
            canvas[part] = 0
            images = images_innermost(systems[part])
            render_lanes(images, draws, thresholds.T.copy(), keys[part], *settings, canvas[part])

        parts, threads = _blocks(all_thresholds), threads or cpu_count()
        if threads == 1 or len(parts) < 2:
            for each in parts:
                block(each)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(block, parts))
    return Rendered(out, np.bitwise_count(out.view(np.uint64)).sum((1, 2), dtype=np.int64) / size**2)


def _shared(
    addresses: npt.NDArray[np.uint8] | AddressSequences, count: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Yield the indices of images that share an address sequence, and the sequence."""
    if not isinstance(addresses, AddressSequences):
        yield np.arange(count), np.ascontiguousarray(addresses, np.uint8)
        return
    _, first, which = np.unique(addresses.thresholds, axis=0, return_index=True, return_inverse=True)
    for group, image in enumerate(first.tolist()):
        yield np.flatnonzero(which.ravel() == group), addresses.addresses(image)


def _blocks(thresholds: Array) -> list[slice]:
    """Split images into blocks of at most `LANES`; larger groups that share an address sequence get separate blocks."""
    starts = [0, *(np.flatnonzero((thresholds[1:] != thresholds[:-1]).any(1)) + 1).tolist(), len(thresholds)]
    cuts = {0, len(thresholds)}
    for start, stop in itertools.pairwise(starts):
        if stop - start >= LANES // 4:
            cuts |= {start, stop}
    return [
        slice(first, min(first + LANES, stop))
        for start, stop in itertools.pairwise(sorted(cuts))
        for first in range(start, stop, LANES)
    ]


def render_on(
    device: Any,
    systems: Array,
    addresses: npt.NDArray[np.uint8] | AddressSequences,
    keys: npt.NDArray[np.uint32],
    size: int,
    patch: str,
) -> Any:
    """Render images like `render` on a torch device: (B, size, size), 0 and `GRAY`."""
    import torch

    from .._utils import device as _device
    from .._utils.device import to_device
    from . import render_torch

    device = torch.device(device)
    pixels = torch.empty((len(systems), size, size), dtype=torch.uint8, device=device)
    groups = list(_shared(addresses, len(systems)))
    if len(groups) > 1:
        for places, path in groups:
            rendered = render_on(device, systems[places], path, keys[places], size, patch)
            pixels[to_device(places, device)] = rendered
        return pixels
    kernel: Any = _device.triton_kernels(device, f'{__package__}.render_triton')
    # The torch kernel needs about 8 MB per image.
    lanes = len(systems) if kernel else LANES if device.type == 'cpu' else LANES_GPU
    steps = to_device(groups[0][1], device).long()
    for start in range(0, len(systems), lanes):
        part = slice(start, start + lanes)
        maps = to_device(images_innermost(systems[part]), device)
        seeds = to_device(keys[part].astype(np.int64), device)
        arguments = maps, steps, seeds, size, PATCHES.index(patch), pixels[part]
        with _device.on(device):
            (kernel or render_torch).render_lanes(*arguments)
    return pixels
