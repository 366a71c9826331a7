"""Prefetching and non-blocking copies: on a fake GPU, and with threads on the CPU."""

import functools
import threading
import time

import numpy as np
import pytest
import timm.data
import torch
from timm.data import FastCollateMixup
from torch.utils._pytree import tree_map

from timm_fractal import Fractal1
from timm_fractal._utils import device as _device
from timm_fractal.fractal import ifs
from timm_fractal.fractal.canvas import unpack
from timm_fractal.fractal.render import PATCHES, render, render_on
from timm_fractal.shape import warps as shape
from timm_fractal.shape.warps import WARPS

from . import paper, pretend

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')


def GPU(test):
    return pytest.mark.gpu(NEEDS_GPU(test))


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a real one')
CPU = torch.device('cpu')
NAMES = {
    'gray': 'fractal1/classes=12,points=3000,size=64,loader=device',
    'color': 'noise1/classes=12,size=64,loader=device',
    'redrawn': 'fractal1/classes=12,points=150,size=64,fractals=5,loader=device,redraw=true',
}


def batches(count):
    for k in range(count):
        yield torch.tensor([k]), torch.tensor([-k])


def test_batches_that_are_made_ahead_are_the_same():
    got = list(_device.prefetch(batches(7), CPU))
    assert [(images.item(), labels.item()) for images, labels in got] == [(k, -k) for k in range(7)]
    assert list(_device.prefetch(batches(0), CPU)) == []


@pytest.mark.parametrize('room, ready', [(1, 2), (8 * 5, 5), (8 * 100, 8)])
def test_batches_are_made_while_others_are_in_use(room, ready, monkeypatch):
    """As many batches, of 8 bytes each, as there is room for."""
    monkeypatch.setattr(_device, '_BYTES_READY', room)
    made = []

    def watched():
        for batch in batches(20):
            made.append(threading.get_ident())
            yield batch

    ahead = _device.prefetch(watched(), CPU)
    next(ahead)
    deadline = time.monotonic() + 10
    while len(made) < 1 + ready and time.monotonic() < deadline:
        time.sleep(0.01)
    # One in use, ``ready`` prefetched, and no more.
    time.sleep(0.1)
    assert len(made) == 1 + ready and {*made} != {threading.get_ident()} and len({*made}) == 1


def test_an_error_in_the_thread_reaches_the_training_loop():
    def broken():
        yield from batches(2)
        raise ValueError('no third batch')

    ahead = _device.prefetch(broken(), CPU)
    assert [next(ahead)[0].item() for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match='no third batch'):
        next(ahead)


def test_an_epoch_that_is_left_early_leaves_no_thread():
    before = threading.active_count()
    ahead = _device.prefetch(batches(100), CPU)
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_the_copy_of_an_array_on_the_cpu():
    array = torch.arange(3).numpy()
    assert torch.equal(_device.to_device(array, CPU), torch.arange(3)) and _device.triton_kernels(CPU, 'any') is None


def with_inner(function):
    """Wrap a kernel for tensors of the fake device."""

    def call(*arguments):
        assert pretend.Device.launching_on[-1:] == [pretend.DEVICE]
        return tree_map(pretend.outer, function(*pretend.inner(arguments)))

    return call


@pytest.fixture(params=['torch', 'triton'])
def kernels(request, monkeypatch):
    """Use torch, or Triton's interpreted kernels, on the fake device."""

    class Kernels:
        pass

    found = Kernels if request.param == 'triton' else None
    if request.param == 'triton':
        for kind, names in {
            'augment.kernels_triton': ('unpack', 'weigh', 'resize', 'look_up', 'transform', 'mix_normalize_erase'),
            'fractal.render_triton': ('render_lanes',),
        }.items():
            module = pytest.importorskip(f'timm_fractal.{kind}', reason='there is no Triton for this machine')
            for name in names:
                setattr(Kernels, name, staticmethod(with_inner(getattr(module, name))))

    def triton_kernels(device, name):
        return found if device.type == 'cuda' else None

    monkeypatch.setattr(_device, 'triton_kernels', triton_kernels)
    return request.param


def epoch(name, device, split='train', **options):
    torch.manual_seed(5)
    dataset = timm.data.create_dataset(name, split=split)
    options = dict(mean=paper.HALF, std=paper.HALF) | options
    return timm.data.create_loader(dataset, (3, 32, 32), 4, device=device, **options)


TRAINING = {
    'paper': dict(paper.LOADER),
    'warps': dict(is_training=True, auto_augment='rand-m9-mstd0.5-n2-tshape+Invert'),
    '3-augment': dict(is_training=True, auto_augment='3a', color_jitter=0.3, re_prob=1.0, re_mode='rand', re_count=2),
    'plain': dict(is_training=True, re_prob=0.5, re_mode='const', interpolation='random'),
}


@NO_GPU
def test_the_pretended_device_notices_mistakes(monkeypatch):
    with pretend.device(monkeypatch) as mode:
        row = torch.arange(3, device=pretend.DEVICE)
        assert (row + 1).device == pretend.DEVICE and _device.to_device(torch.ones(3), pretend.DEVICE).shape == (3,)
        assert not mode.waits and mode.calls['add'] == 1
        with pytest.raises(AssertionError, match='add mixes the host and the device'):
            row + torch.arange(3)
        torch.ones(3).to(pretend.DEVICE)
        assert row.max().item() == 2 and row.cpu().tolist() == [0, 1, 2]
        row[:2] = torch.zeros(2)
        assert mode.waits == {'_to_copy': 2, '_local_scalar_dense': 1, 'copy_': 1}


@pytest.mark.slow
@NO_GPU
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('case', [*TRAINING, 'evaluation'])
def test_a_gpu_gets_what_the_cpu_gets_and_nothing_waits_for_it(name, case, kernels, monkeypatch):
    """Some levels differ by 1, which later operations may amplify."""
    collate = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=12)
    options = dict(split='validation') if case == 'evaluation' else dict(collate_fn=collate, **TRAINING[case])
    if options.get('re_mode') == 'pixel':
        # Kernels differ in their noise.
        options['re_mode'] = 'rand'
    expected = list(epoch(NAMES[name], CPU, **options))
    fresh = functools.cache(shape._basis_of_pixels.__wrapped__)
    monkeypatch.setattr(shape, '_basis_of_pixels', fresh)
    with pretend.device(monkeypatch) as mode:
        loader = epoch(NAMES[name], pretend.DEVICE, **options)
        # The first epoch copies constants to the device.
        list(loader)
        loader._passed = -1, 0
        mode.waits.clear()
        mode.side.log.clear()
        mode.current.log.clear()
        got = list(loader)
        assert not mode.waits
        assert {*mode.chosen} == {pretend.DEVICE}, 'the device of the thread'
        # The current stream waits for each batch and records its memory; the side stream waits for the table only.
        assert mode.side.log[0] == ('wait', mode.current) and {what for what, _ in mode.side.log[1:]} == {'event'}
        made = [event for _, event in mode.side.log[1:]]
        kept = [('record', tensor.inner.data_ptr()) for batch in got for tensor in batch]
        expected_log = [[('wait', event), *kept[2 * k : 2 * k + 2]] for k, event in enumerate(made[: len(got)])]
        assert mode.current.log == sum(expected_log, [])
    assert len(got) == len(expected) == 3
    for (images, labels), (other, targets) in zip(got, expected):
        assert images.device == labels.device == pretend.DEVICE
        assert torch.equal(labels.inner, targets)
        difference = (images.inner - other).abs()
        assert difference.max() < 8 * 2 / 255 and (difference > 0).float().mean() < 0.02


# On a real GPU.


@GPU
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('case', [*TRAINING, 'evaluation'])
def test_a_real_gpu_gets_what_the_cpu_gets_and_nothing_waits_for_it(name, case):
    """Erasing samples its noise on the device: batches are compared without it, and only made with it."""
    collate = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=12)
    options = dict(split='validation') if case == 'evaluation' else dict(collate_fn=collate, **TRAINING[case])
    options['re_prob'] = 0.0
    expected = list(epoch(NAMES[name], CPU, **options))
    loader = epoch(NAMES[name], torch.device('cuda'), **options)
    noisy = epoch(NAMES[name], torch.device('cuda'), **options | dict(re_prob=1.0, re_mode='pixel', re_count=2))
    # The first epoch compiles.
    list(loader), list(noisy)
    loader._passed = -1, 0
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        got = list(loader)
        noisy = list(noisy)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(images.isfinite().all() for images, _ in noisy)
    for (images, labels), (other, targets) in zip(got, expected, strict=True):
        assert images.is_cuda and torch.equal(labels.cpu(), targets)
        difference = (images.cpu() - other).abs()
        assert difference.max() < 8 * 2 / 255 and (difference > 0).float().mean() < 0.02


@GPU
def test_the_kernels_run_on_this_gpu(caplog):
    _device._triton_kernels.cache_clear()
    for name in ('augment.kernels_triton', 'fractal.render_triton'):
        assert _device.triton_kernels(torch.device('cuda', 0), f'timm_fractal.{name}') is not None, caplog.text


@GPU
@pytest.mark.parametrize('patch', PATCHES)
def test_a_gpu_draws_the_same_fractals(patch):
    codes = Fractal1('fractal1/classes=40').codes
    path = ifs.addresses(ifs.probabilities(codes.bases[0]), 100_000, 1)
    keys = np.random.default_rng(0).integers(2**32, size=(40, 2), dtype=np.uint32)
    host = unpack(render(codes.systems, path, keys, patch=patch).bits, 512)
    device = render_on('cuda', codes.systems, path, keys, 512, patch)
    assert np.array_equal(host, device.cpu().numpy())


@GPU
@pytest.mark.parametrize('name', WARPS)
def test_a_gpu_warps_to_the_same_bytes(name, photo):
    params = WARPS[name].make_params(np.random.default_rng(0), 0.3)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    for size in (None, 224, (100, 60)):
        assert torch.equal(WARPS[name].apply(image.cuda(), params, size).cpu(), WARPS[name].apply(image, params, size))
