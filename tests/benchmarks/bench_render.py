"""How fast images are drawn, at the paper's settings: 512 x 512 pixels, 100,000 points, random patches.

    python -m tests.benchmarks.bench_render

The plain Python oracle of the tests draws the same image in the same run. Medians; one core unless said otherwise.
"""

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from tests import oracle
from timm_fractal import Fractal1
from timm_fractal._utils import device as _device
from timm_fractal._utils.cpu import cpu_count
from timm_fractal.data import fractals as fractals_data
from timm_fractal.fractal import ifs
from timm_fractal.fractal import render_numba as _kernel_numba
from timm_fractal.fractal.ifs import Array
from timm_fractal.fractal.render import LANES, render, render_on

BLOCK = _kernel_numba._BLOCK


def median_ms(function: Callable[[], object], repeats: int = 9, images: int = 1) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3 / images


@njit(nogil=True, error_model='numpy')
def iterate(maps, addresses, track, box, frame, bits):  # type: ignore[no-untyped-def]
    """What the kernel does without drawing: both walks, the bounding box, the positions."""
    for start in range(0, len(addresses), BLOCK):
        count = min(BLOCK, len(addresses) - start)
        _kernel_numba._advance(maps, addresses, start, count, track)
        _kernel_numba._widen(track, count, box)
        _kernel_numba._advance(maps, addresses, start, count, track)
        _kernel_numba._to_bits(track, count, frame, 6.0, np.int32(510), np.int32(1), np.int32(512), bits)


def main() -> None:
    print(f'Medians of 9, {cpu_count()} cores; default fractal, 512 x 512 pixels, 100,000 points, random patches')
    family = Fractal1(f'fractal1/classes={8 * LANES}').family
    addresses = ifs.addresses(ifs.probabilities(family.bases[0]), 100_000)
    keys = np.random.default_rng(0).integers(0, 2**32, (8 * LANES, 2), dtype=np.uint32)
    systems = family.systems

    few, few_keys = systems[:LANES], keys[:LANES]
    one_core = median_ms(lambda: render(systems, addresses, keys, threads=1), images=len(systems))
    all_cores = median_ms(lambda: render(systems, addresses, keys), images=len(systems))
    alone = median_ms(lambda: render(systems[:1], addresses, keys[:1]))
    torch_cpu = median_ms(lambda: render(few, addresses, few_keys, backend='torch'), repeats=3, images=LANES)

    maps = np.ascontiguousarray(few.reshape(LANES, 2, 6).transpose(1, 2, 0))
    track, box, frame = np.zeros((BLOCK + 1, 2, LANES)), np.zeros((4, LANES)), np.zeros((4, LANES))
    bits = np.empty((BLOCK, LANES), np.uint32)
    walk = median_ms(lambda: iterate(maps, addresses, track, box, frame, bits), images=LANES)

    start = time.perf_counter()
    oracle.draw(systems[0].tolist(), addresses.tolist(), keys[0].tolist(), 512, 'random')
    plain = (time.perf_counter() - start) * 1e3

    thousand = []
    for _ in range(5):
        fractals_data.families.clear()
        start = time.perf_counter()
        Fractal1('fractal1')
        thousand.append(time.perf_counter() - start)

    print(f'plain Python oracle          {plain:10.1f} ms an image (1 image)')
    print(f'numba, one core              {one_core:10.3f} ms an image   {plain / one_core:,.0f} times the oracle')
    print(f'  of which iteration         {walk:10.3f} ms')
    print(f'  of which splatting         {one_core - walk:10.3f} ms')
    print(f'numba, all cores             {all_cores:10.3f} ms an image')
    print(f'numba, a single image        {alone:10.3f} ms (cache=none)')
    print(f'torch on the CPU, all cores  {torch_cpu:10.3f} ms an image')
    print(f'1,000 classes ready          {statistics.median(thousand):10.3f} s (data set constructed, all cores)')
    if torch.cuda.is_available():
        on_gpu(systems, addresses, keys, all_cores)


def on_gpu(systems: Array, addresses: npt.NDArray[np.uint8], keys: npt.NDArray[np.uint32], host: float) -> None:
    """Images that stay on the GPU, with Triton's kernel and with torch's operations."""
    gpu = torch.device('cuda', torch.cuda.current_device())
    for kind, fused, count in (
        ("Triton's kernel", _device.triton_kernels, 8192),
        ("torch's operations", lambda *_: None, 256),
    ):
        many, more = np.resize(systems, (count, *systems.shape[1:])), np.resize(keys, (count, 2))

        def draw(many: Array = many, more: npt.NDArray[np.uint32] = more) -> None:
            render_on(gpu, many, addresses, more, 512, 'random')
            torch.cuda.synchronize()

        with patch.object(_device, 'triton_kernels', fused):
            took = median_ms(draw, repeats=3, images=count)
        print(
            f'{torch.cuda.get_device_name()}, {kind}, {count} at once: {took:.4f} ms an image, {host / took:.1f} times'
        )


if __name__ == '__main__':
    main()
