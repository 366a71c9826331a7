"""What the package costs before the first image: imports, the autoload stub, compilation.

    python -m tests.benchmarks.bench_start

Every figure is the median over fresh processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile

IMPORT = 'import time; s = time.perf_counter(); import timm_fractal; print(time.perf_counter() - s)'
# What `import torch` does at its end, after it has listed the entry points of everybody.
STUB = (
    'import torch, time; s = time.perf_counter()\n'
    'from timm_fractal._autoload import autoload; autoload(); print(time.perf_counter() - s)'
)
TORCH = 'import time; s = time.perf_counter(); import torch; print(time.perf_counter() - s)'
FIRST = (
    'import time, timm.data; s = time.perf_counter()\n'
    'timm.data.create_dataset("fractal1/classes=2", split="train")[0]; print(time.perf_counter() - s)'
)


def median_ms(code: str, repeats: int = 9, **environment: str) -> float:
    command = [sys.executable, '-c', code]
    times = []
    for _ in range(repeats):
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        times.append(float(run.stdout))
    return statistics.median(times) * 1e3


def cold_ms(repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            times.append(median_ms(FIRST, 1, NUMBA_CACHE_DIR=folder))
    return statistics.median(times)


def main() -> None:
    off = {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}
    print(f'import timm_fractal, alone             {median_ms(IMPORT, **off):8.1f} ms')
    print(f'import torch, without the stub         {median_ms(TORCH, **off):8.1f} ms')
    print(f'the stub, at the end of import torch   {median_ms(STUB, **off):8.1f} ms')
    print(f'first image, numba cache cold          {cold_ms():8.0f} ms (numba imported, kernel compiled, 2 classes)')
    print(f'first image, numba cache warm          {median_ms(FIRST, 5):8.0f} ms (numba imported, kernel loaded)')


if __name__ == '__main__':
    main()
