"""What a GPU reads and writes for the paper's augmentation, counted without one.

    python -m benchmarks.count_traffic

Each of torch's own operations is a pass over its tensors; Triton's kernels read their images once and write them once.
Counted are the bytes of every tensor that an operation takes or gives, from the bits of the data set to what a model
gets, as if no cache helped. Memory of 4.8 TB/s (an H200's) sets the limit that is printed with them; bench_augment
measures what is reached of it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timm.data import FastCollateMixup
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.record import Record
from tests.paper import LOADER
from timm_fractal._utils import device as _device
from timm_fractal.augment import resample as _resample
from timm_fractal.data.fractals import Fractal1
from timm_fractal.device_loader import create_device_loader

IMAGES, SIZE, BANDWIDTH = 256, 224, 4.8e12
# Nothing is read but the shape, or nothing is written but what is indexed.
FREE = ('empty', 'new_empty', 'empty_like', 'lift_fresh')
PARTS = ('index', 'index_select', 'gather')


def size(tensor: Tensor) -> int:
    """Bytes, repetitions that are not in memory left out."""
    shape = [n for n, stride in zip(tensor.shape, tensor.stride()) if stride]
    return int(np.prod(shape)) * tensor.element_size()


class Traffic(TorchDispatchMode):
    """Counts bytes and launches."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        given, taken = (
            [size(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (result, (args, kwargs))
        )
        if function.is_view or name in FREE:
            return result
        self.launches += 1
        if name in PARTS:
            self.bytes += 2 * sum(given) + sum(taken[1:])
        elif name == 'index_put_':
            self.bytes += sum(taken[1:-1]) + 2 * taken[-1]
        else:
            self.bytes += sum(given) + sum(taken)
        return result

    # Triton's kernels, which do nothing here but count.

    def resize(self, source: Tensor, target: Tensor, take: Any, put: Any, box: Tensor, *rest: Any) -> None:
        lines, places = box[:, 1], box[:, 3]
        weights = len(box) * target.shape[3] * rest[-1] * 4
        pixels = lines * (places + target.shape[3])
        self.add(2, int(pixels.sum()) * source.shape[1] + 2 * weights)

    def transform(self, images: Tensor, index: Tensor, *rest: Any) -> Tensor:
        target = images.new_empty(len(index), *images.shape[1:])
        self.add(1, 2 * size(target))
        return target

    def look_up(self, images: Tensor, index: Tensor, tables: Tensor) -> None:
        self.add(1, 2 * len(index) * size(images[0]))

    def mix(self, images: Tensor, lam: float) -> Tensor:
        self.add(1, 3 * size(images))
        return images.new_empty(images.shape)

    def add(self, launches: int, count: int) -> None:
        self.launches += launches
        self.bytes += count


@contextlib.contextmanager
def counted(kernels: bool) -> Iterator[Traffic]:
    traffic = Traffic()
    chosen = patch.object(_device, 'triton_kernels', return_value=traffic if kernels else None)
    # As on a GPU, where no cache has to hold what lies between two operations.
    with chosen, patch.dict(_resample.CHUNK, cpu=_resample.CHUNK_ELSEWHERE), traffic:
        yield traffic


def main() -> None:
    dataset = Fractal1(f'fractal1/classes={IMAGES}')
    mixup = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=IMAGES)
    loader = create_device_loader(dataset, SIZE, IMAGES, device='cpu', collate_fn=mixup, **LOADER)
    loader.at_once = IMAGES
    settings = (
        f"A batch of {IMAGES} images, the paper's augmentation, 512 to {SIZE} pixels, gray, mixup, random erasing"
    )
    with Record('count_traffic', settings) as say:
        for name, kernels in (("torch's operations", False), ("Triton's kernels", True)):
            with counted(kernels) as traffic:
                next(loader.make_batches(torch.Generator().manual_seed(0)))
            each = traffic.bytes / IMAGES / 1e6
            text = (
                f'{name:18} {each:5.1f} MB an image, {traffic.launches:4} launches: '
                f'at most {BANDWIDTH / each / 1e6:9,.0f} images/s at 4.8 TB/s'
            )
            say(text, what=name, megabytes=each, launches=traffic.launches)


if __name__ == '__main__':
    main()
