"""Rendering speed with the paper's settings: 512 x 512 pixels, 100,000 points, random patches.

    python -m benchmarks.bench_render

The plain Python oracle of the tests renders the same image in the same run. Medians; one core unless stated otherwise.
"""

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import Record
from tests import oracle
from tests.test_visualatom import oracle as atom_oracle
from timm_fractal import Fractal1, VisualAtom
from timm_fractal._utils import device as _device
from timm_fractal._utils.cpu import cpu_count
from timm_fractal.data import fractals as fractals_data
from timm_fractal.data.visualatom import render_atom
from timm_fractal.fractal import ifs
from timm_fractal.fractal.ifs import Array
from timm_fractal.fractal.render import LANES, render, render_on


def median_ms(function: Callable[[], object], repeats: int = 9, images: int = 1) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3 / images


def main() -> None:
    settings = 'default fractal, 512 x 512 pixels, 100,000 points, random patches'
    with Record('bench_render', f'Medians of 9, {cpu_count()} cores; {settings}') as say:
        codes = Fractal1(f'fractal1/classes={8 * LANES}').codes
        addresses = ifs.addresses(ifs.probabilities(codes.bases[0]), 100_000)
        keys = np.random.default_rng(0).integers(0, 2**32, (8 * LANES, 2), dtype=np.uint32)
        systems = codes.systems

        few, few_keys = systems[:LANES], keys[:LANES]
        one_core = median_ms(lambda: render(systems, addresses, keys, threads=1), images=len(systems))
        all_cores = median_ms(lambda: render(systems, addresses, keys), images=len(systems))
        alone = median_ms(lambda: render(systems[:1], addresses, keys[:1]))
        torch_cpu = median_ms(lambda: render(few, addresses, few_keys, backend='torch'), repeats=3, images=LANES)

        start = time.perf_counter()
        oracle.draw(systems[0].tolist(), addresses.tolist(), keys[0].tolist(), 512, 'random')
        plain = (time.perf_counter() - start) * 1e3

        atoms = VisualAtom('visualatom/cache=none')
        shown = [atoms.atom(k) for k in range(64)]
        contours = median_ms(lambda: [render_atom(atom, (256, 256), (1, 2), 512) for atom in shown], images=64)
        start = time.perf_counter()
        for atom in shown[:2]:
            atom_oracle(atom, (256, 256), (1, 2), 512)
        plain_atom = (time.perf_counter() - start) * 1e3 / 2
        atom_same = median_ms(lambda: [render_atom(atom, (256, 256), (1, 2), 512) for atom in shown[:2]], images=2)

        thousand = []
        for _ in range(5):
            fractals_data.known_codes.clear()
            start = time.perf_counter()
            Fractal1('fractal1')
            thousand.append(time.perf_counter() - start)

        say(
            f'plain Python oracle          {plain:10.1f} ms per image (1 image)',
            what='plain Python oracle',
            value=plain,
        )
        say(
            f'numba, one core              {one_core:10.3f} ms per image   {plain / one_core:,.0f} times the oracle',
            what='numba, one core',
            value=one_core,
        )
        say(f'numba, all cores             {all_cores:10.3f} ms per image', what='numba, all cores', value=all_cores)
        say(f'numba, a single image        {alone:10.3f} ms (cache=none)', what='numba, a single image', value=alone)
        say(
            f'torch on the CPU, all cores  {torch_cpu:10.3f} ms per image',
            what='torch on the CPU, all cores',
            value=torch_cpu,
        )
        say(
            f'1,000 classes ready          {statistics.median(thousand):10.3f} s (data set constructed, all cores)',
            what='1,000 classes ready',
            value=statistics.median(thousand),
        )
        say(
            f'VisualAtom, one core         {contours:10.3f} ms per image (64); first two {atom_same:.2f}, '
            f'with Python and Pillow {plain_atom:.0f} ms: {plain_atom / atom_same:.0f} times',
            what='VisualAtom',
            value=contours,
            baseline=plain_atom,
            same=atom_same,
        )
        if torch.cuda.is_available():
            on_gpu(say, systems, addresses, keys, all_cores)


def on_gpu(
    say: Record, systems: Array, addresses: npt.NDArray[np.uint8], keys: npt.NDArray[np.uint32], host: float
) -> None:
    """Measure rendering of images that stay on the GPU, with the Triton kernel and in torch."""
    gpu = torch.device('cuda', torch.cuda.current_device())
    for kind, kernels, count in (
        ('Triton kernel', _device.triton_kernels, 8192),
        ('torch', lambda *_: None, 256),
    ):
        many, more = np.resize(systems, (count, *systems.shape[1:])), np.resize(keys, (count, 2))

        def render_all(many: Array = many, more: npt.NDArray[np.uint32] = more) -> None:
            render_on(gpu, many, addresses, more, 512, 'random')
            torch.cuda.synchronize()

        with patch.object(_device, 'triton_kernels', kernels):
            took = median_ms(render_all, repeats=3, images=count)
        say(
            f'{kind}, {count} at once: {took:.4f} ms per image, {host / took:.1f} times',
            what=kind,
            count=count,
            ms=took,
        )


if __name__ == '__main__':
    main()
