"""Memory of the table of images, in the main process and all loader workers in total.

    python -m benchmarks.bench_memory [classes]

Linux only: proportional set sizes, which count shared memory once.
"""

import sys
import time
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.record import Record
from timm_fractal import Fractal1

WORKERS = 4


def memory(pid: str = 'self') -> int:
    """Return the proportional set size of a process in bytes."""
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('Pss:'))


def collate(samples: Any) -> int:
    return len(samples)


def together(dataset: Any, method: str) -> int:
    """Return the memory of this process and of workers that have read all images."""
    options = dict(num_workers=WORKERS, multiprocessing_context=method, collate_fn=collate, persistent_workers=True)
    loader: Any = DataLoader(dataset, 16, **options)
    for _ in loader:
        pass
    return memory() + sum(memory(str(worker.pid)) for worker in loader._iterator._workers)


def main() -> None:
    classes = int(sys.argv[1]) if len(sys.argv) > 1 else 21_000
    methods = ('fork', 'spawn')
    few = Fractal1('fractal1/classes=2')
    without = {method: together(few, method) for method in methods}
    start = time.perf_counter()
    many = Fractal1(f'fractal1/classes={classes}')
    ready = time.perf_counter() - start
    with Record('bench_memory', f'fractal1/classes={classes}: ready in {ready:.1f} s') as say:
        for method in methods:
            images = (together(many, method) - without[method]) / 1e6
            text = f'{images:6.0f} MB for the images, in the main process and {WORKERS} workers ({method}) in total'
            say(text, method=method, megabytes=images)


if __name__ == '__main__':
    main()
