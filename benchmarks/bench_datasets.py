"""What the data sets cost: seconds until all images are in memory, milliseconds of an image on access (one core).

python -m benchmarks.bench_datasets [names ...]
"""

import os
import statistics
import sys
import time
from pathlib import Path

import sklearn.datasets
import torch

from benchmarks.record import Record
from timm_fractal.data import base as datasets

NAMES = (
    'fractal1',
    'fractal1/fractals=1000',
    'ofdb',
    'fractaldb',
    'visualatom/instances=1',
    'noise1',
    'image1',
    'image1/warp=elastic,delta=0.3',
    'image1/view=rgb',
)
PHOTO = Path(sklearn.datasets.__file__).parent / 'images' / 'china.jpg'


def create(name: str) -> datasets.SyntheticDataset:
    return datasets.create(name, root=PHOTO if name.startswith('image1') else None)


def main() -> None:
    with Record('bench_datasets', f'{os.cpu_count()} cores; 1,000 classes but where the name says otherwise') as say:
        create('fractal1/classes=2')[0], create('image1/classes=2,size=32')[0]  # Loads the kernels.
        for name in sys.argv[1:] or NAMES:
            start = time.perf_counter()
            dataset = create(name)
            ready = time.perf_counter() - start
            where = 'on access' if not (size := dataset.table_bytes) else f'{size / 2**20:.0f} MB'
            fresh = create(name + (',' if '/' in name else '/') + 'cache=none')
            torch.set_num_threads(1)
            times = []
            for k in range(min(64, len(fresh))):
                start = time.perf_counter()
                fresh[k]
                times.append(time.perf_counter() - start)
            each = 1e3 * statistics.median(times)
            say(
                f'{name:32} {ready:6.2f} s, {where:>10};  {each:5.2f} ms an image on access (median of 64)',
                dataset=name,
                ready_s=ready,
                access_ms=each,
            )


if __name__ == '__main__':
    main()
