"""Time per image of the paper's augmentation: the device loader against timm's loader on PIL images.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_augment

Both start from the same rendered images in memory and end with model inputs: augmented, mixed, normalized, erased. On
the CPU with one thread and no workers, alternating in one run: with the numba kernels, and in torch. On a GPU, the
Triton kernels and the whole device loader are measured as well.
"""

import statistics
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timm.data import FastCollateMixup, create_dataset, create_loader

from benchmarks.record import Record
from benchmarks.timing import alternate, epoch_of, seconds
from tests.paper import AUGMENTATION, HALF, LOADER, MIXUP
from timm_fractal._utils import device as _device
from timm_fractal.augment import Erase, batch, create_augment, normalize
from timm_fractal.data.fractals import Fractal1

IMAGES, BATCH, ROUNDS, SIZE = 128, 32, 5, 224
# Without random erasing, which is a separate step.
PAPER = dict(is_training=True, **AUGMENTATION)
# Gray, bit-packed; and RGB.
DATASETS = {'gray': 'fractal1/classes={}', 'RGB': 'noise1/classes={}'}


def on_device(table: torch.Tensor, at_once: int, generator: torch.Generator) -> Callable[[], Any]:
    """Return a function that augments a table of images, ``at_once`` at a time."""
    augment, erase = create_augment(SIZE, **PAPER), Erase(0.5, 'pixel')

    def make_part(part: torch.Tensor) -> torch.Tensor:
        count, _, height, width = part.shape
        images = augment.apply(part, augment.make_params(count, height, width, generator))
        return erase.apply(normalize(images, HALF, HALF), erase.make_params(count, SIZE, SIZE, generator))

    return lambda: [make_part(part) for part in table.split(at_once)]


def make_loader(name: str, batch_size: int, device: str, **options: Any) -> Any:
    """Create timm's loader, or the device loader if named."""
    dataset = create_dataset(name, split='train', **options)
    mixup = FastCollateMixup(**MIXUP, num_classes=dataset.num_classes)
    arguments = dict(**LOADER, collate_fn=mixup, num_workers=0, device=torch.device(device))
    return create_loader(dataset, (3, SIZE, SIZE), batch_size, **arguments)


def epoch(name: str, without_kernels: bool = False) -> Callable[[], Any]:
    """Return a function that runs an epoch on the CPU."""
    run = epoch_of(make_loader(name, BATCH, 'cpu'))
    return patch.object(batch, 'kernels', lambda device: None)(run) if without_kernels else run


def main() -> None:
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    settings = (
        f"The paper's augmentation, 512 to {SIZE} pixels, {IMAGES} images in batches of {BATCH}, one CPU thread, "
        f'medians of {ROUNDS} rounds'
    )
    with Record('bench_augment', settings) as say:
        for kind, pattern in DATASETS.items():
            name = pattern.format(IMAGES)
            ways = {
                "timm's loader": epoch(name),
                'device loader': epoch(f'{name},loader=device'),
                'device loader, torch': epoch(f'{name},loader=device', without_kernels=True),
            }
            times = alternate(ways, ROUNDS)
            for way, took in times.items():
                ratio = statistics.median(other / own for other, own in zip(times["timm's loader"], took))
                each = 1e3 * statistics.median(took) / IMAGES
                text = f"{kind:4} {way:20} {each:6.2f} ms per image, {ratio:.2f} times as fast as timm's"
                say(text, what=f'{kind}, {way}', ms=each, ratio=ratio)
        if torch.cuda.is_available():
            dataset = Fractal1(f'fractal1/classes={IMAGES}')
            gray = torch.from_numpy(np.stack([np.asarray(dataset[k][0])[..., 0] for k in range(IMAGES)]))[:, None]
            on_gpu(say, gray, generator)
        else:
            say('no GPU here')


def on_gpu(say: Record, gray: torch.Tensor, generator: torch.Generator) -> None:
    """Measure images per second with and without the Triton kernels, and the device loader."""
    gpu = torch.device('cuda', torch.cuda.current_device())
    ways = {'Triton kernels': _device.triton_kernels(gpu, 'timm_fractal.augment.kernels_triton'), 'torch': None}
    for count in (256, 1024, 4096):
        make = on_device(gray.to(gpu).repeat(count // IMAGES, 1, 1, 1), count, generator)
        took: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 2):
            for name, kernels in ways.items():
                with patch.object(_device, 'triton_kernels', return_value=kernels):
                    once = seconds(make, torch.cuda.synchronize)
                if turn > 1:
                    took[name].append(once)
        for name, times in took.items():
            rate = count / statistics.median(times)
            say(f'{name:18} {count:5} at once {rate:9.0f} images/s', what=name, at_once=count, images_per_s=rate)
    for options in ('classes=1000', 'classes=21000', 'classes=1000,redraw=true'):
        rate, table = device_loader_rate(options)
        text = f'device loader, {options:24} {rate:9.0f} images/s, data set of {table / 1e6:.0f} MB'
        say(text, what=f'device loader, {options}', images_per_s=rate, table_bytes=table)


def device_loader_rate(options: str) -> tuple[float, int]:
    """Return images per second of the whole loader (batches of 256, mixup and cutmix), and bytes of the data set."""
    before = torch.cuda.memory_allocated()
    loader = make_loader(f'fractal1/loader=device,{options}', 256, 'cuda', num_samples=256_000)
    table = torch.cuda.memory_allocated() - before
    times = [seconds(epoch_of(loader), torch.cuda.synchronize) for _ in range(3)]
    return 256 * len(loader) / statistics.median(times), table


if __name__ == '__main__':
    main()
