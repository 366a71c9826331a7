"""Milliseconds per warp of one image on one core: ours against torchvision's v2 transforms, alternating in one run.

    python -m benchmarks.bench_shape

Each call samples parameters and warps a PIL image. If the size changes, torchvision warps then resizes, or resizes then
warps, whichever is faster; ours does both at once.
"""

import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

from benchmarks.record import Record
from benchmarks.timing import alternate
from timm_fractal.shape.warps import WARPS

ROUNDS, BLOCK = 15, 8
SIZES = ((512, 224), (224, 224), (512, 512))
BILINEAR = v2.InterpolationMode.BILINEAR
#: torchvision's counterparts. It has none for polynomials; they are compared with its perspective transform.
THEIRS: dict[str, Callable[[], Any]] = {
    'affine': lambda: v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 10, interpolation=BILINEAR),
    'homography': lambda: v2.RandomPerspective(0.2, p=1.0, interpolation=BILINEAR),
    'elastic': lambda: v2.ElasticTransform(interpolation=BILINEAR),
    'polynomial': lambda: v2.RandomPerspective(0.2, p=1.0, interpolation=BILINEAR),
}


def ours(name: str, rng: np.random.Generator, size: int, image: Image.Image) -> Any:
    return WARPS[name].apply(image, WARPS[name].make_params(rng, 0.1), size)


def main() -> None:
    # As in a loader's worker.
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    photo = Image.fromarray(load_sample_image('china.jpg'))
    settings = f'Medians of {ROUNDS} blocks of {BLOCK} alternating warps, including sampling, one core, milliseconds'
    with Record('bench_shape', settings) as say:
        say(f'{"":30}  ours  torchvision')
        for mode, (have, want), name in itertools.product(('L', 'RGB'), SIZES, WARPS):
            image = photo.convert(mode).resize((have, have))
            theirs = THEIRS[name]()
            calls = {'ours': partial(ours, name, rng, want, image)}
            if have == want:
                calls['theirs'] = partial(theirs, image)
            else:
                resize = v2.Resize(want)
                calls['theirs, then resize'] = partial(v2.Compose([theirs, resize]), image)
                calls['resize, then theirs'] = partial(v2.Compose([resize, theirs]), image)
            times = alternate(calls, ROUNDS, BLOCK)
            took = {name: 1e3 * statistics.median(values) for name, values in times.items()}
            mine = took.pop('ours')
            best = min(took, key=lambda key: took[key])
            what = type(theirs).__name__ + best.removeprefix('theirs').replace('resize, then theirs', ' after resize')
            numbers = f'{mine:9.2f} {took[best]:9.2f}  {what}: {took[best] / mine:.1f} times'
            figures = dict(ms=mine, baseline=what, baseline_ms=took[best])
            say(f'{mode:3} {have} -> {want} {name:12} {numbers}', what=f'{name} {mode} {have} {want}', **figures)


if __name__ == '__main__':
    main()
