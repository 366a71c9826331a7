"""Startup cost of the package before the first image: imports, the autoload stub, compilation.

    python -m benchmarks.bench_start

All figures are medians over new processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.record import Record

IMPORT = 'import time; s = time.perf_counter(); import timm_fractal; print(time.perf_counter() - s)'
# What `import torch` does at the end, after listing all entry points.
STUB = (
    'import torch, time; s = time.perf_counter()\n'
    'import timm_fractal; timm_fractal.autoload(); print(time.perf_counter() - s)'
)
TORCH = 'import time; s = time.perf_counter(); import torch; print(time.perf_counter() - s)'
FIRST = (
    'import time, timm.data; s = time.perf_counter()\n'
    'timm.data.create_dataset("fractal1/classes=2", split="train")[0]; print(time.perf_counter() - s)'
)


def median_ms(code: str, repeats: int = 9, **environment: str) -> float:
    command = [sys.executable, '-c', code]
    options: dict[str, Any] = dict(env=os.environ | environment, text=True)
    return 1e3 * statistics.median(float(subprocess.check_output(command, **options)) for _ in range(repeats))


def cold_ms(repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            times.append(median_ms(FIRST, 1, NUMBA_CACHE_DIR=folder))
    return statistics.median(times)


def main() -> None:
    off = {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}
    rows = {
        'import timm_fractal': median_ms(IMPORT, **off),
        'import torch, without the stub': median_ms(TORCH, **off),
        'the stub at the end of import torch': median_ms(STUB, **off),
        'first image, numba cache cold': cold_ms(),
        'first image, numba cache warm': median_ms(FIRST, 5),
    }
    with Record('bench_start', 'Medians over new processes, milliseconds') as say:
        for what, value in rows.items():
            say(f'{what:38} {value:8.1f} ms', what=what, ms=value)


if __name__ == '__main__':
    main()
