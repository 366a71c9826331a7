"""Triton's kernels against Pillow and against torch's operations: on a GPU, or interpreted, with images to match."""

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from timm.data import FastCollateMixup

from timm_fractal._utils import device as _device
from timm_fractal.augment import Evaluate, Mix, MixParams, Train
from timm_fractal.augment.ops import MATRICES, NAMES, Pipeline
from timm_fractal.augment.resample import Crop, resample

from .paper import AUGMENTATION
from .test_augment import ARGUMENTS, columns_first, pil_crop, pil_operation, random_crop, to_array, to_arrays, to_batch

kernels = pytest.importorskip('timm_fractal.augment.ops_triton', reason='there is no Triton for this machine')

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
NEW_PILLOW = int(PIL.__version__.split('.')[0]) >= 13


@pytest.fixture
def in_use(monkeypatch):
    monkeypatch.setattr(_device, 'triton_kernels', lambda device: kernels)


@pytest.fixture(scope='module')
def images(photo):
    """Gray and in colour, and a drawing of two levels."""
    small = photo.resize((47, 36), Image.Resampling.BILINEAR)
    return {'gray': small.convert('L'), 'colour': small, 'drawing': small.convert('L').point(lambda v: 127 * (v > 99))}


def test_the_kernels_are_right_here():
    kernels.check(DEVICE)


@pytest.mark.parametrize('name', ['resize', 'transform', 'look_up', 'mix'])
def test_a_wrong_kernel_is_noticed(name, monkeypatch):
    if name in ('transform', 'mix'):
        monkeypatch.setattr(kernels, name, lambda images, *arguments: images)
    else:
        monkeypatch.setattr(kernels, name, lambda *arguments: None)
    with pytest.raises(RuntimeError, match=f'wrong pixels: {name}$'):
        kernels.check(DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gray', 'colour'])
@pytest.mark.parametrize('size', [(40, 33), (9, 60)])
def test_resizes_are_those_of_pillow(images, name, size, in_use):
    """Tolerance: none."""
    image, count = images[name], 12
    crop = random_crop(np.random.default_rng(0), count, image.height, image.width)
    result = to_arrays(resample(to_batch(image, count).to(DEVICE), crop, size, size).cpu())
    same_order = columns_first(crop, size)
    assert sum(same_order)
    for k in range(count):
        if same_order[k] or NEW_PILLOW:
            assert np.array_equal(result[k], to_array(pil_crop(image, crop, k, size)))


def test_both_orders_of_the_axes(images, in_use):
    image, size = images['gray'], (9, 40)
    whole = (torch.tensor([value, value]) for value in (0, 0, image.height, image.width))
    crop = Crop(*whole, *(torch.tensor([False, flag]) for flag in (True, True, False)))
    assert not any(columns_first(crop, size))
    result = to_arrays(resample(to_batch(image, 2).to(DEVICE), crop, size, size).cpu())
    for k in range(2 * NEW_PILLOW):
        assert np.array_equal(result[k], to_array(pil_crop(image, crop, k, size)))


def test_what_shrinks_beyond_measure_is_left_to_torch(images, in_use, monkeypatch):
    monkeypatch.setattr(kernels, 'resize', lambda *arguments: pytest.fail('a kernel of so many taps'))
    image = images['gray'].resize((1300, 8))
    crop = random_crop(np.random.default_rng(0), 1, image.height, image.width)
    whole = Crop(*(torch.tensor([value]) for value in (0, 0, 8, 1300)), *crop[4:])
    result = resample(to_batch(image).to(DEVICE), whole, (8, 20), (8, 20))
    assert np.abs(to_arrays(result.cpu())[0] - to_array(pil_crop(image, whole, 0, (8, 20)))).max() <= 1


def test_evaluation(images, in_use, monkeypatch):
    """A window of what is resized."""
    evaluate = Evaluate((24, 20), crop_pct=0.8, interpolation='bicubic')
    fused = evaluate.apply(to_batch(images['colour'], 2).to(DEVICE)).cpu()
    monkeypatch.setattr(_device, 'triton_kernels', lambda device: None)
    plain = evaluate.apply(to_batch(images['colour'], 2))
    assert (fused.int() - plain.int()).abs().max() <= 1 and (fused != plain).float().mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize('cubic', [False, True])
@pytest.mark.parametrize('name', MATRICES)
def test_maps_are_those_of_pillow(images, name, cubic, in_use):
    """Tolerance: 1 level in less than 0.1 % of the pixels if they are bicubic, none if not."""
    kind = 'colour' if name in ('Rotate', 'ShearX') else 'gray'
    fill = (124, 116, 104) if kind == 'colour' else (128,)
    arguments = np.array(ARGUMENTS[name], float)
    canvas = Pipeline(to_batch(images[kind], len(arguments)).to(DEVICE), fill)
    canvas.apply(np.full(len(arguments), NAMES.index(name)), arguments, cubic)
    got = to_arrays(canvas.finish().cpu())
    picture = images[kind].convert('RGB')
    expected = [to_array(pil_operation(picture, name, value, (fill * 3)[:3], cubic)) for value in arguments]
    difference = np.abs(got - np.stack(expected))
    assert difference.max() <= cubic and (difference > 0).mean() < 0.001


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('share', [0.5, 0.3, 0.9371])
def test_mixup_is_that_of_torch(channels, share):
    """Tolerance: none; with a half there are numbers that lie half between two."""
    images = torch.randint(0, 256, (6, channels, 23, 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    collate, labels = FastCollateMixup(num_classes=6), torch.arange(6)
    expected, _ = Mix(collate).apply(images, labels, MixParams(share, None))
    assert torch.equal(kernels.mix(images.to(DEVICE), share).cpu(), expected)


@pytest.mark.parametrize('channels', [1, 3])
def test_levels_are_looked_up_for_the_images_that_are_named(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, channels, 31, 47), dtype=torch.uint8, generator=generator)
    tables = torch.randint(0, 256, (5, channels, 256), dtype=torch.uint8, generator=generator)
    got = images.clone().to(DEVICE)
    kernels.look_up(got, torch.tensor([3, 0], device=DEVICE), tables.to(DEVICE))
    expected = images.clone()
    for k in (0, 3):
        expected[k] = tables[k].gather(1, images[k].flatten(1).long()).view_as(images[k])
    assert torch.equal(got.cpu(), expected)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['drawing', 'colour'])
def test_the_papers_augmentation(images, name, in_use, monkeypatch):
    """Against torch's operations: 1 level here and there, which a later operation may stretch."""
    train, count = Train(32, **AUGMENTATION), 16
    batch = to_batch(images[name], count)
    params = train.make_params(count, *batch.shape[2:], torch.Generator().manual_seed(1))
    fused = train.apply(batch.to(DEVICE), params).cpu()
    monkeypatch.setattr(_device, 'triton_kernels', lambda device: None)
    difference = (fused.int() - train.apply(batch, params).int()).abs()
    assert fused.float().std() > 20 and difference.max() <= 8 and (difference > 0).float().mean() < 0.01


def test_a_machine_without_kernels_is_told_once(monkeypatch, caplog):
    def broken(device):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(kernels, 'check', broken)
    monkeypatch.setattr(torch.cuda, 'device', lambda device: torch.no_grad())
    _device._triton_kernels.cache_clear()
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    gpu = torch.device('cuda')
    assert _device.triton_kernels(torch.device('cuda', 0)) is None and _device.triton_kernels(gpu) is None
    assert [record.message for record in caplog.records] == [
        "the Triton kernels do not run on cuda:0, torch does their work in more time: RuntimeError('no compiler')"
    ]
    _device._triton_kernels.cache_clear()
    monkeypatch.setattr(kernels, 'check', lambda device: None)
    assert _device.triton_kernels(gpu) is kernels and _device.triton_kernels(torch.device('cpu')) is None
    _device._triton_kernels.cache_clear()
