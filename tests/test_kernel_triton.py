"""The Triton kernels: the renderer against the others, interpreted without a GPU; and compilation of all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from timm_fractal import Fractal1
from timm_fractal.fractal import ifs
from timm_fractal.fractal.canvas import images_innermost, unpack
from timm_fractal.fractal.render import PATCHES, render

kernel = pytest.importorskip('timm_fractal.fractal.render_triton', reason='there is no Triton for this machine')

ROOT = Path(__file__).parents[1]
DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


@pytest.mark.slow
def test_the_kernel_is_right_here(monkeypatch):
    kernel.check(DEVICE)
    monkeypatch.setattr(kernel, 'render_lanes', lambda *arguments: arguments[-1].zero_())
    with pytest.raises(RuntimeError, match='wrong pixels: render_lanes'):
        kernel.check(DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize('patch', PATCHES)
def test_images_are_those_of_the_cpu(patch):
    """The number of images is not a multiple of the block, and one image diverges."""
    codes = Fractal1('fractal1/classes=35').codes
    systems = codes.systems.copy()
    systems[33] *= 3
    path = ifs.addresses(ifs.probabilities(codes.bases[0]), 250, 1)
    keys = np.random.default_rng(0).integers(2**32, size=(35, 2), dtype=np.uint32)
    expected = render(systems, path, keys, 48, patch)
    canvas = torch.empty(35, 48, 48, dtype=torch.uint8, device=DEVICE)
    arrays = (images_innermost(systems), path.astype(np.int64), keys.astype(np.int64))
    arguments = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    kernel.render_lanes(*arguments, 48, PATCHES.index(patch), canvas)
    assert np.array_equal(canvas.cpu().numpy(), unpack(expected.bits, 48))
    assert np.flatnonzero(expected.fill == 0).tolist() == [33]


# Everything that a launch does, except the launch itself.
COMPILE = """
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from timm.data import FastCollateMixup
from torch.utils.data import Subset
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from tests.paper import AUGMENTATION, LOADER
from timm_fractal import Fractal1
from timm_fractal.device_loader import create_device_loader
from timm_fractal._utils import device as _device
from timm_fractal.augment import kernels_triton as _kernel_augment
from timm_fractal.fractal import render_triton as _kernel_triton
from timm_fractal.augment import create_augment


CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'


class Driver:
    def get_current_target(self):
        return GPUTarget('cuda', int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def run(self, *args, warmup, **options):
    kernel = original(self, *args, warmup=True, **options)
    compiled.setdefault(self.__name__, {})[kernel.asm['ptx']] = kernel.asm['cubin']


compiled, original = {}, jit.JITFunction.run
driver.set_active(Driver())
jit.JITFunction.run = run
_device.triton_kernels = lambda device, name: _kernel_augment
for module in (_kernel_augment, _kernel_triton):
    try:
        module.check(torch.device('cpu'))
    except RuntimeError as error:
        assert 'wrong pixels' in str(error), error
generator = torch.Generator().manual_seed(0)
for channels, size, wanted in ((1, 512, 224), (3, 512, 224), (1, 100, 1), (3, 1, 7)):
    images = torch.zeros(64, channels, size, size, dtype=torch.uint8)
    augment = create_augment(wanted, is_training=True, **AUGMENTATION)
    augment.apply(images, augment.make_params(64, size, size, generator))
    create_augment(wanted).apply(images[:15])
before = {name: len(variants) for name, variants in compiled.items()}
# A training, and other batches: nothing is compiled any more after the loader has been made.
mixup = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=20)
dataset = Fractal1('fractal1/classes=20,points=500,size=128')
for dtype in (torch.float32, torch.bfloat16):
    options = dict(LOADER, collate_fn=mixup, device='cpu', img_dtype=dtype)
    loader = create_device_loader(Subset(dataset, list(range(20)) * 5), 96, 10, **options)
    loader._compile()
    made = sum(len(variants) for variants in compiled.values())
    for at_once in (64, 30, 10):
        loader.at_once = at_once
        list(loader.make_batches(generator))
    assert sum(len(variants) for variants in compiled.values()) == made
usage = {}
for name, variants in compiled.items():
    for code in variants.values():
        with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
            file.write(code), file.flush()
            command = [CUOBJDUMP, '--dump-resource-usage', file.name]
            text = subprocess.run(command, capture_output=True, text=True).stdout
        found = {key: int(value) for key, value in re.findall(r'(REG|STACK|LOCAL):(\\d+)', text)}
        usage.setdefault(name, []).append((found['REG'], found['STACK'] + found['LOCAL']))
print(json.dumps(dict(
    variants=before,
    usage={name: max(found) for name, found in usage.items()},
    contracted=[
        name for name, variants in compiled.items()
        if name != '_mix_normalize_erase' and any('fma.rn.f' in ptx for ptx in variants)
    ],
)))
"""


@pytest.mark.slow
@pytest.mark.parametrize('capability', [80, 90])
def test_all_kernels_compile_for_a_gpu_and_keep_every_rounding(capability):
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    command = [sys.executable, '-W', 'error', '-c', COMPILE, str(capability)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    names = '_bounds _look_up _make_luts _mix_normalize_erase _paste _resize _transform _unpack _weigh'
    assert sorted(found['usage']) == names.split()
    # Few variants, since each takes a third of a second to compile.
    assert max(found['variants'].values()) <= 12 and found['contracted'] == []
    # No register spills.
    assert {name: spilled for name, (_, spilled) in found['usage'].items() if spilled} == {}
    assert all(0 < registers <= 168 for registers, _ in found['usage'].values())
