"""Cost of the data sets: seconds until all images are in memory, milliseconds per image on access (one core).

Baseline for data sets of many fractals, in the same run: images one by one instead of 32 side by side.

python -m benchmarks.bench_datasets [names ...]
"""

import os
import statistics
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import sklearn.datasets
import torch

from benchmarks.record import Record
from benchmarks.timing import seconds
from timm_fractal import data
from timm_fractal.data import base as datasets
from timm_fractal.data import fractals
from timm_fractal.fractal import render
from timm_fractal.spec import IFSSpec, parse_name

NAMES = (
    'fractal1',
    'fractal1/fractals=1000',
    'ofdb',
    'fractaldb',
    'fractaldb/classes=100,instances=25',
    'visualatom/instances=1',
    'noise1',
    'image1',
    'image1/warp=elastic,delta=0.3',
    'image1/view=rgb',
)
PHOTO = Path(sklearn.datasets.__file__).parent / 'images' / 'china.jpg'


def create(name: str) -> datasets.SyntheticDataset:
    return data.create(name, root=PHOTO if name.startswith('image1') else None)


def readiness(name: str) -> float:
    """Return the seconds to create a data set with IFS codes that are not cached."""
    fractals.known_codes.clear()
    return seconds(lambda: create(name))


def one_by_one(name: str) -> float | None:
    """Return the time to render images one by one, for data sets of many fractals that are kept in memory."""
    spec = parse_name(name)
    if not isinstance(spec, IFSSpec) or spec.num_bases == 1 or name == 'fractaldb':
        return None
    with patch.object(render, 'LANES', 1):
        return readiness(name)


def main() -> None:
    with Record('bench_datasets', f'{os.cpu_count()} cores; 1,000 classes unless the name says otherwise') as say:
        create('fractal1/classes=40,fractals=2')[0], create('image1/classes=2,size=32')[0]  # Loads the kernels.
        for name in sys.argv[1:] or NAMES:
            ready = readiness(name)
            dataset = create(name)
            where = 'on access' if not (size := dataset.table_bytes) else f'{size / 2**20:.0f} MB'
            fresh = create(name + (',' if '/' in name else '/') + 'cache=none')
            torch.set_num_threads(1)
            times = [seconds(partial(fresh.__getitem__, k)) for k in range(min(64, len(fresh)))]
            each = 1e3 * statistics.median(times)
            alone = one_by_one(name)
            words = f'; one by one {alone:.2f} s, {alone / ready:.1f} times as long' if alone else ''
            text = f'{name:34} {ready:6.2f} s, {where:>10};  {each:5.2f} ms per image on access (median of 64){words}'
            say(text, dataset=name, ready_s=ready, access_ms=each, one_by_one_s=alone)


if __name__ == '__main__':
    main()
