"""Triton's kernels: that of the renderer against the others, interpreted where there is no GPU, and all compiled."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from timm_fractal import Fractal1, ifs
from timm_fractal.render import GRAY, PADDING, PATCHES, _parameters, render, unpack

kernel = pytest.importorskip('timm_fractal._kernel_triton', reason='there is no Triton for this machine')

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def test_the_kernel_is_right_here(monkeypatch):
    kernel.check(DEVICE)
    monkeypatch.setattr(kernel, 'draw', lambda *arguments: arguments[-2].zero_())
    with pytest.raises(RuntimeError, match='wrong pixels: draw'):
        kernel.check(DEVICE)


@pytest.mark.parametrize('patch', PATCHES)
def test_images_are_those_of_the_cpu(patch):
    """Not a whole number of blocks, and one image that runs away."""
    family = Fractal1('fractal1/classes=35').family
    systems = family.systems.copy()
    systems[33] *= 3
    path = ifs.addresses(ifs.probabilities(family.bases[0]), 250, 1)
    keys = np.random.default_rng(0).integers(2**32, size=(35, 2), dtype=np.uint32)
    expected = render(systems, path, keys, 48, patch)
    canvas = torch.empty(35, 48, 48, dtype=torch.uint8, device=DEVICE)
    diverged = torch.empty(35, dtype=torch.bool, device=DEVICE)
    arrays = (_parameters(systems), path.astype(np.int64), keys.astype(np.int64))
    arguments = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    kernel.draw(*arguments, 48, PADDING, PATCHES[patch], GRAY, canvas, diverged)
    assert np.array_equal(canvas.cpu().numpy(), unpack(expected.bits, 48))
    assert diverged.tolist() == expected.diverged.tolist() and diverged[33] and diverged.sum() == 1


COMPILE = """
import importlib
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

BYTES = dict.fromkeys(('images', 'source', 'target', 'fill', 'tables', 'canvas', 'diverged'), 'u8')
DOUBLES = dict.fromkeys(('data', 'maps', 'low', 'high', 'start', 'scale'), 'fp64')
POINTERS = BYTES | DOUBLES | dict(first='i32', weights='i32')
NUMBERS = ('size', 'taps', 'resized', 'offset', 'height', 'width', 'area', 'steps', 'count', 'padding')
CONSTANTS = dict(TAPS=16, LINES=32, PLACES=32, CHANNELS=3, CUBIC=True, PIXELS=256, PATCH=0, GRAY=127, LANES=32)
NAMES = dict(augment=('_weigh', '_resize', '_map', '_look_up'), triton=('_bounds', '_paste'))
for module, names in NAMES.items():
    for name in names:
        kernel = getattr(importlib.import_module(f'timm_fractal._kernel_{module}'), name)
        types, constants = {}, {}
        for argument in kernel.arg_names:
            if argument in CONSTANTS:
                types[argument], constants[argument] = 'constexpr', CONSTANTS[argument]
            elif argument in NUMBERS or argument.startswith(('source_', 'target_')):
                types[argument] = 'i32'
            else:
                types[argument] = '*' + POINTERS.get(argument, 'i64')
        for architecture in (80, 90):
            source, target = ASTSource(kernel, types, constants), GPUTarget('cuda', architecture, 32)
            binary = compile(source, target=target, options=dict(enable_fp_fusion=False)).asm
            print(name, architecture, len(binary['cubin']) > 1000, 'fma.rn.f' in binary['ptx'])
"""


def test_all_kernels_compile_for_gpus_and_keep_every_rounding():
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    run = subprocess.run([sys.executable, '-c', COMPILE], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    kernels = ('_weigh', '_resize', '_map', '_look_up', '_bounds', '_paste')
    assert run.stdout.splitlines() == [f'{name} {arch} True False' for name in kernels for arch in (80, 90)]
