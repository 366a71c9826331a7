"""Cost of a mega-batch of 2,048 images with the paper's recipe, counted without a GPU: calls, launches, bytes."""

import numpy as np
import pytest
import torch

from timm_fractal.shape.warps import WARPS

from . import pretend

pytest.importorskip('timm_fractal.augment.kernels_triton', reason='there is no Triton for this machine')

from benchmarks import count_traffic


@pytest.fixture(scope='module')
def loader():
    return count_traffic.make_loader()


def test_calls_and_bytes_of_a_mega_batch(loader):
    kernels = count_traffic.Kernels()
    with count_traffic.in_use(kernels), count_traffic.Operations() as operations:
        batches = list(loader.make_batches(torch.Generator().manual_seed(0)))
    assert [(tuple(images.shape), target.shape[0]) for images, target in batches] == [((256, 3, 224, 224), 256)] * 8
    assert 20 < operations.calls + kernels.launches + 1 <= 100
    # Bit-packed images in, float32 pixels out.
    least = 512 * 512 / 8 + 3 * 224 * 224 * 4
    each = kernels.bytes / 2048
    assert least < each < 3.0e6
    # torch's part: allocation of results, 2,048 shuffled indices, and the targets, of which a scatter counts as reading
    # and writing all.
    assert operations.bytes < 2048 * (8 + 3 * 4 * 256 + 200)


class Uncounted(count_traffic.Kernels):
    def _call(self, function, read_and_written, *arguments):
        return function(*arguments)


def test_a_mega_batch_is_one_upload(monkeypatch):
    """More copies to the device would need more calls and pinned blocks."""
    with pretend.device(monkeypatch) as mode:
        with count_traffic.in_use(Uncounted()):
            loader = count_traffic.make_loader(pretend.DEVICE)
            for counted in (mode.calls, mode.pinned, mode.waits):
                counted.clear()
            list(loader.make_batches(torch.Generator().manual_seed(0)))
    assert mode.calls['_to_copy'] == len(mode.pinned) == 1 and not mode.waits
    assert {*mode.calls} <= {'_to_copy', 'empty', 'new_empty', 'clone', 'scatter_'}


@pytest.mark.parametrize('name', WARPS)
def test_warps_are_sampled_in_a_batch(name):
    """Same numbers as warps sampled one by one from the same stream, scaled down alike."""
    warp = WARPS[name]
    for magnitude in (0.05, 0.3, 1.0):
        got = warp.sample(np.random.default_rng(3), np.full(50, magnitude))
        values = magnitude * warp.scale * (2 * np.random.default_rng(3).random((50, warp.count)) - 1)
        for k in range(50):
            while magnitude > warp._safe and not warp._are_valid(values[k : k + 1]):
                values[k] *= 0.9
        np.testing.assert_allclose(got, values, atol=2e-6)
    with pytest.raises(ValueError, match='magnitude must be at least 0 and at most 1'):
        warp.sample(np.random.default_rng(0), np.array([0.3, 1.1]))


@pytest.mark.parametrize('name', WARPS)
def test_one_by_one_and_in_a_batch_are_one_distribution(name):
    one = [WARPS[name].make_params(np.random.default_rng(k), 0.7)[name] for k in range(200)]
    many = WARPS[name].sample(np.random.default_rng(1), np.full(200, 0.7))
    first, second = np.abs(one).mean(1), np.abs(many).mean(1)
    error = np.sqrt((first.var() + second.var()) / 200)
    assert abs(first.mean() - second.mean()) < 4 * error
