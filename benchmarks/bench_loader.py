"""Images per second of one loader worker with the paper's augmentation: rendered data set against PNG files.

    python -m benchmarks.bench_loader

timm reads the same images as PNG files with the same transforms, alternating in one run: RGB files as written by the
reference generator, and gray files as written by `timm-fractal export`.
"""

import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader

from benchmarks.record import Record
from benchmarks.timing import alternate, epoch_of
from tests import paper

CLASSES, BATCH, ROUNDS = 256, 32, 7


def epoch(dataset: Any) -> Callable[[], None]:
    """Return a function that runs an epoch without prefetcher, which normalizes and erases on the device."""
    options = dict(num_workers=1, device=torch.device('cpu'), **paper.LOADER)
    batches = create_loader(dataset, (3, 224, 224), BATCH, **options).loader
    return epoch_of(batches)


def png_files(rendered: Any, folder: str, mode: str) -> Any:
    for index in range(CLASSES):
        image, label = rendered[index]
        path = Path(folder, mode, f'{label:05d}', f'{index}.png')
        path.parent.mkdir(parents=True)
        image.convert(mode).save(path)
    return create_dataset('', root=str(Path(folder, mode)), split='train')


def main() -> None:
    warnings.simplefilter('ignore')
    name = f'fractal1/classes={CLASSES}'
    with tempfile.TemporaryDirectory() as folder:
        datasets = {'rendered': create_dataset(name, split='train')}
        datasets['RGB PNG files'] = png_files(datasets['rendered'], folder, 'RGB')
        datasets['gray PNG files'] = png_files(datasets['rendered'], folder, 'L')
        # The first epoch, which is not counted, starts the worker.
        times = alternate({name: epoch(dataset) for name, dataset in datasets.items()}, ROUNDS)
    what = f"the paper's augmentation to 224 pixels, {CLASSES} images, medians of {ROUNDS} alternating rounds"
    with Record('bench_loader', f'One worker, {what}') as say:
        for name, took in times.items():
            ratio = statistics.median(other / own for other, own in zip(took, times['rendered']))
            rate, each = CLASSES / statistics.median(took), statistics.median(took) / CLASSES * 1e3
            text = f'{name:15} {rate:6.0f} images/s {each:6.2f} ms per image; rendered is {ratio:.2f} times as fast'
            say(text, what=name, images_per_s=rate, ratio=ratio)


if __name__ == '__main__':
    main()
