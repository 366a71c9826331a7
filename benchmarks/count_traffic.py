"""Host work and GPU memory traffic of the paper's augmentation, counted without a GPU.

    python -m benchmarks.count_traffic

A mega-batch of 8 batches of 256 images passes through the device loader, in torch, where each operation is a pass over
its tensors, and with the Triton kernels, whose launches are stubs. Counts calls (torch operations, launches and
uploads; views are free) and the bytes that they read and write, from the bits of the data set to the model input,
without caches. The printed limit assumes memory of 4.8 TB/s (H200).

The host's time per image is measured on one thread, and compared with timm's transform on images of 8 x 8 pixels, where
pixels are almost free. bench_augment and benchmarks.gpu measure actual GPU speed.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from timm.data import FastCollateMixup, create_transform
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset

from benchmarks.record import Record
from benchmarks.timing import seconds
from tests.paper import AUGMENTATION, LOADER, MIXUP
from timm_fractal.augment import batch, kernels_triton
from timm_fractal.augment import resample as _resample
from timm_fractal.data.fractals import Fractal1
from timm_fractal.device_loader import DeviceLoader, create_device_loader

BATCHES, IMAGES, SIZE, BANDWIDTH = 8, 256, 224, 4.8e12
# Operations without traffic, and operations that only read indexed parts.
FREE = ('empty', 'new_empty', 'empty_like', 'lift_fresh')
PARTS = ('index', 'index_select', 'gather')
LAUNCHERS = ('unpack', 'weigh', 'resize', 'look_up', 'transform', 'mix_normalize_erase')


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor in memory, without expanded dimensions."""
    shape = [n for n, stride in zip(tensor.shape, tensor.stride()) if stride]
    return int(np.prod(shape)) * tensor.element_size()


class Operations(TorchDispatchMode):
    """Counts torch operations and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        given, taken = (
            [size(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (result, (args, kwargs))
        )
        if function.is_view:
            return result
        self.calls += 1
        if name in FREE:
            return result
        if name in PARTS:
            self.bytes += 2 * sum(given) + sum(taken[1:])
        elif name == 'index_put_':
            self.bytes += sum(taken[1:-1]) + 2 * taken[-1]
        else:
            self.bytes += sum(given) + sum(taken)
        return result


class Kernels:
    """Stubs of the Triton kernels that count launches, and the bytes that they would read and write."""

    def __init__(self) -> None:
        self.bytes = self.launches = 0
        for name in LAUNCHERS:
            setattr(self, name, functools.partial(self._call, getattr(kernels_triton, name), getattr(self, f'_{name}')))

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """Replace a compiled kernel."""
        return self._launch

    def _launch(self, *arguments: Any, **options: Any) -> None:
        self.launches += 1

    def _call(self, function: Callable[..., Any], read_and_written: Callable[..., int], *arguments: Any) -> Any:
        self.bytes += int(read_and_written(*arguments))
        return function(*arguments)

    # Bytes, without the parameters of an image (some dozens of bytes).

    @staticmethod
    def _unpack(table: Tensor, numbers: Tensor, levels: Tensor) -> int:
        return len(numbers) * 9 * size(table[0])

    @staticmethod
    def _weigh(box: Any, flags: Any, axis: int, resized: int, wanted: int, offset: int, taps: Tensor, most: int) -> int:
        return 4 * wanted * int((taps.numpy() + 1).sum())

    @staticmethod
    def _resize(
        source: Tensor, target: Tensor, take: Any, index: Tensor, box: Tensor, middle: Any, weights: Any, wanted: Any,
        axis: int, is_first: bool, lines: int,
    ) -> int:  # fmt: skip
        first, taps, _ = weights
        channels = source.shape[1] if is_first else target.shape[1]
        chosen = index.numpy()
        height, width = box.numpy()[chosen, 2:].T
        high, wide = wanted
        # Lines along the resized axis, and across it.
        before, after = (height, high) if axis == 0 else (width, wide)
        across = (width if is_first else wide) if axis == 0 else (height if is_first else high)
        pixels = channels * ((before + after) * across).sum()
        return int(pixels + 4 * first.shape[1] * (taps.numpy()[chosen] + 1).sum())

    @staticmethod
    def _look_up(images: Tensor, rows: Tensor, operation: Tensor, argument: Tensor) -> int:
        with_histogram = np.isin(operation.numpy(), HISTOGRAMS).sum()
        return size(images[0]) * int(2 * len(rows) + with_histogram)

    @staticmethod
    def _transform(images: Tensor, rows: Tensor, *rest: Any) -> int:
        return 2 * len(rows) * size(images[0])

    @staticmethod
    def _mix_normalize_erase(images: Tensor, *rest: Any) -> int:
        table, count = rest[4], rest[-1]
        pixels = images.shape[2] * images.shape[3]
        return count * (2 * size(images[0]) + pixels * len(table) * table.element_size())


HISTOGRAMS = [kernels_triton.NAMES.index(name) for name in ('AutoContrast', 'Equalize', 'Contrast')]
COMPILED = [name for name, value in vars(kernels_triton).items() if type(value).__module__.startswith('triton.runtime')]


@contextlib.contextmanager
def in_use(kernels: Kernels | None) -> Iterator[None]:
    """Make the loader work as on a GPU, with these kernels or in torch."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(batch, 'kernels', return_value=kernels))
        # As on a GPU: chunks need not fit into a cache.
        stack.enter_context(patch.dict(_resample.CHUNK, cpu=_resample.CHUNK_GPU))
        for name in COMPILED if kernels else ():
            stack.enter_context(patch.object(kernels_triton, name, kernels))
        yield


def make_loader(device: torch.device | str = 'cpu') -> DeviceLoader:
    """Create a loader with 2,048 samples per mega-batch and the paper's augmentation."""
    dataset = Fractal1(f'fractal1/classes={IMAGES}')
    mixup = FastCollateMixup(**MIXUP, num_classes=IMAGES)
    samples = Subset(dataset, list(range(IMAGES)) * BATCHES)
    loader = create_device_loader(samples, SIZE, IMAGES, device=device, collate_fn=mixup, **LOADER)
    loader.at_once = BATCHES * IMAGES
    return loader


def run(loader: DeviceLoader) -> None:
    for _ in loader.make_batches(torch.Generator().manual_seed(0)):
        pass


def main() -> None:
    torch.set_num_threads(1)
    loader, count = make_loader(), BATCHES * IMAGES
    settings = (
        f"A mega-batch of {BATCHES} x {IMAGES} images, the paper's augmentation, 512 to {SIZE} pixels, gray, mixup, "
        'random erasing'
    )
    with Record('count_traffic', settings) as say:
        for name, kernels in (('torch', None), ('Triton kernels', Kernels())):
            with in_use(kernels), Operations() as operations:
                run(loader)
            # Plus one upload, which is not a copy on the host.
            calls = operations.calls + (kernels.launches + 1 if kernels else 0)
            each = (operations.bytes + (kernels.bytes if kernels else 0)) / count / 1e6
            text = (
                f'{name:18} {each:5.1f} MB per image, {calls:5} calls: '
                f'at most {BANDWIDTH / each / 1e6:9,.0f} images/s at 4.8 TB/s'
            )
            say(text, what=name, megabytes=each, calls=calls)
        image = Image.new('RGB', (8, 8))
        transform = create_transform(8, is_training=True, **AUGMENTATION, re_prob=0.5, re_mode='pixel')
        with in_use(Kernels()):
            ours = min(seconds(lambda: run(loader)) for _ in range(7)) / count
        theirs = min(seconds(lambda: [transform(image) for _ in range(200)]) for _ in range(7)) / 200
        text = f'host, one thread    {ours * 1e6:5.1f} us per image, timm on 8 x 8 pixels {theirs * 1e6:5.1f} us'
        say(text, what='host', microseconds=ours * 1e6, timm=theirs * 1e6)


if __name__ == '__main__':
    main()
