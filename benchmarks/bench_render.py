"""Rendering speed with the paper's settings: 512 x 512 pixels, 100,000 points, random patches.

    python -m benchmarks.bench_render

The plain Python oracle of the tests renders the same image in the same run. Medians; one core unless stated otherwise.
"""

import statistics
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import Record
from benchmarks.timing import median_ms, seconds
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


def fractals() -> tuple[Array, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Return IFS codes, an address sequence, and keys of patch masks."""
    codes = Fractal1(f'fractal1/classes={8 * LANES}').codes
    addresses = ifs.addresses(ifs.probabilities(codes.bases[0]), 100_000)
    keys = np.random.default_rng(0).integers(0, 2**32, (8 * LANES, 2), dtype=np.uint32)
    return codes.systems, addresses, keys


def on_cpu(say: Record) -> float:
    """Measure rendering of fractals; return the milliseconds per image on all cores."""
    systems, addresses, keys = fractals()
    plain = 1e3 * seconds(lambda: oracle.draw(systems[0].tolist(), addresses.tolist(), keys[0].tolist(), 512, 'random'))
    one_core = median_ms(lambda: render(systems, addresses, keys, threads=1), images=len(systems))
    all_cores = median_ms(lambda: render(systems, addresses, keys), images=len(systems))
    alone = median_ms(lambda: render(systems[:1], addresses, keys[:1]))
    few, few_keys = systems[:LANES], keys[:LANES]
    in_torch = median_ms(lambda: render(few, addresses, few_keys, backend='torch'), repeats=3, images=LANES)
    for what, value, more in (
        ('plain Python oracle', plain, ' per image (1 image)'),
        ('numba, one core', one_core, f' per image   {plain / one_core:,.0f} times the oracle'),
        ('numba, all cores', all_cores, ' per image'),
        ('numba, a single image', alone, ' (cache=none)'),
        ('torch on the CPU, all cores', in_torch, ' per image'),
    ):
        say(f'{what:28} {value:10.3f} ms{more}', what=what, value=value)
    return all_cores


def data_set(say: Record) -> None:
    """Measure the construction of the default data set."""

    def construct() -> None:
        fractals_data.known_codes.clear()
        Fractal1('fractal1')

    what, ready = '1,000 classes ready', statistics.median(seconds(construct) for _ in range(5))
    say(f'{what:28} {ready:10.3f} s (data set constructed, all cores)', what=what, value=ready)


def visualatom(say: Record) -> None:
    """Measure rendering of VisualAtom."""
    atoms = VisualAtom('visualatom/cache=none')
    shown = [atoms.atom(k) for k in range(64)]
    # The first two on their own as well: the oracle is slow.
    each, same = (
        median_ms(lambda atoms=some: [render_atom(atom, (256, 256), (1, 2), 512) for atom in atoms], images=len(some))
        for some in (shown, shown[:2])
    )
    plain = 1e3 * seconds(lambda: [atom_oracle(atom, (256, 256), (1, 2), 512) for atom in shown[:2]]) / 2
    text = (
        f'{"VisualAtom, one core":28} {each:10.3f} ms per image (64); first two {same:.2f}, '
        f'with Python and Pillow {plain:.0f} ms: {plain / same:.0f} times'
    )
    say(text, what='VisualAtom', value=each, baseline=plain, same=same)


def main() -> None:
    settings = 'default fractal, 512 x 512 pixels, 100,000 points, random patches'
    with Record('bench_render', f'Medians of 9, {cpu_count()} cores; {settings}') as say:
        all_cores = on_cpu(say)
        data_set(say)
        visualatom(say)
        if torch.cuda.is_available():
            on_gpu(say, all_cores)


def on_gpu(say: Record, host: float) -> None:
    """Measure rendering of images that stay on the GPU, with the Triton kernel and in torch."""
    systems, addresses, keys = fractals()
    gpu = torch.device('cuda', torch.cuda.current_device())
    for kind, kernels, count in (('Triton kernel', _device.triton_kernels, 8192), ('torch', lambda *_: None, 256)):
        many, more = np.resize(systems, (count, *systems.shape[1:])), np.resize(keys, (count, 2))

        def render_all(many: Array = many, more: npt.NDArray[np.uint32] = more) -> None:
            render_on(gpu, many, addresses, more, 512, 'random')
            torch.cuda.synchronize()

        with patch.object(_device, 'triton_kernels', kernels):
            took = median_ms(render_all, repeats=3, images=count)
        text = f'{kind}, {count} at once: {took:.4f} ms per image, {host / took:.1f} times'
        say(text, what=kind, count=count, ms=took)


if __name__ == '__main__':
    main()
