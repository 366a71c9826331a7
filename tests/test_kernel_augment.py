"""The numba and Triton kernels (on a GPU or interpreted) against Pillow and torch."""

import sys

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from timm.data import FastCollateMixup

from timm_fractal import augment
from timm_fractal._utils import console, lazy
from timm_fractal._utils import device as _device
from timm_fractal._utils.device import Upload
from timm_fractal.augment import Evaluate, Mix, MixParams, Train, TrainParams, normalize
from timm_fractal.augment import batch as _batch
from timm_fractal.augment.batch import record_layers, record_output
from timm_fractal.augment.erasing import ERASING_MODES, EraseParams
from timm_fractal.augment.policy import Layer
from timm_fractal.augment.reference import NAMES, apply_layer
from timm_fractal.augment.resample import Crop
from timm_fractal.augment.tables import LUTS, MATRICES
from timm_fractal.fractal.canvas import unpack

from .paper import AUGMENTATION, HALF
from .test_augment import (
    ARGUMENTS,
    IMAGENET,
    columns_first,
    pil_crop,
    pil_operation,
    random_crop,
    to_array,
    to_arrays,
    to_batch,
)

CPU = torch.device('cpu')
NEW_PILLOW = int(PIL.__version__.split('.')[0]) >= 13

KERNELS = 'timm_fractal.augment.kernels_triton'


@pytest.fixture(params=['numba', pytest.param('triton', marks=pytest.mark.slow)])
def kernels(request, monkeypatch):
    """Use the kernels; return their module and device."""
    module = pytest.importorskip(f'timm_fractal.augment.kernels_{request.param}', reason='not on this machine')
    monkeypatch.setattr(_batch, 'kernels', lambda device: module)
    on_gpu = request.param == 'triton' and torch.cuda.is_available()
    return module, torch.device('cuda' if on_gpu else 'cpu')


@pytest.fixture
def triton():
    return pytest.importorskip('timm_fractal.augment.kernels_triton', reason='there is no Triton for this machine')


@pytest.fixture(scope='module')
def images(photo):
    """Return a gray and a color image, and one with two levels."""
    small = photo.resize((47, 36), Image.Resampling.BILINEAR)
    return {'gray': small.convert('L'), 'color': small, 'drawing': small.convert('L').point(lambda v: 127 * (v > 99))}


def test_the_kernels_are_right_here(triton):
    triton.check(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['unpack', 'resize', 'look_up', 'transform', 'mix_normalize_erase'])
def test_a_wrong_kernel_is_noticed(name, triton, monkeypatch):
    right = getattr(triton, name)

    def wrong(*arguments):
        result = None if name in ('resize', 'look_up', 'transform') else right(*arguments)
        return result if result is None else torch.zeros_like(result)

    monkeypatch.setattr(triton, name, wrong)
    monkeypatch.setattr(torch, 'empty', torch.zeros)
    with pytest.raises(RuntimeError, match=f'wrong pixels: .*{name}'):
        triton.check(CPU)


@pytest.mark.parametrize('size', [16, 20])
def test_bits_are_unpacked(size, kernels):
    module, device = kernels
    table = torch.randint(0, 256, (5, size, -(-size // 8)), dtype=torch.uint8)
    levels = torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)[:, None], 8))
    got = module.unpack(table.to(device), torch.tensor([4, 0, 4], device=device), levels.to(device))
    assert np.array_equal(got[:, 0, :, :size].cpu().numpy(), unpack(table.numpy()[[4, 0, 4]], size))


def crop_and_resize(image, crop, size, device):
    batch = to_batch(image, len(crop.top)).to(device)
    return to_arrays(Train(size).apply(batch, TrainParams(crop, [])).cpu())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gray', 'color'])
@pytest.mark.parametrize('size', [(40, 33), (9, 60)])
def test_resizes_are_those_of_pillow(images, name, size, kernels):
    """Tolerance: none."""
    image, count = images[name], 12
    crop = random_crop(np.random.default_rng(0), count, image.height, image.width)
    result = crop_and_resize(image, crop, size, kernels[1])
    same_order = columns_first(crop, size)
    assert sum(same_order)
    for k in range(count):
        if same_order[k] or NEW_PILLOW:
            assert np.array_equal(result[k], to_array(pil_crop(image, crop, k, size)))


@pytest.mark.parametrize('channels', [1, 3])
def test_both_orders_of_the_axes_in_one_batch(images, channels, kernels):
    """Tolerance: none. Images span several tiles, and boxes are not aligned to them."""
    image, size = images['gray' if channels == 1 else 'color'].resize((150, 140)), (40, 100)
    boxes = torch.tensor([[3, 5, 130, 101], [40, 11, 57, 133], [0, 0, 140, 20]]).T
    crop = Crop(*boxes, *torch.tensor([[True, False, True], [False, True, True], [True, False, False]]))
    assert columns_first(crop, size).tolist() == [False, True, False]
    result = crop_and_resize(image, crop, size, kernels[1])
    for k in range(3):
        if NEW_PILLOW or k == 1:
            assert np.array_equal(result[k], to_array(pil_crop(image, crop, k, size)))


def test_what_shrinks_beyond_measure_is_left_to_torch(images, kernels, monkeypatch):
    monkeypatch.setattr(kernels[0], 'resize', lambda *arguments: pytest.fail('a kernel of so many taps'))
    image = images['gray'].resize((1300, 8))
    crop = random_crop(np.random.default_rng(0), 1, image.height, image.width)
    whole = Crop(*(torch.tensor([value]) for value in (0, 0, 8, 1300)), *crop[4:])
    result = crop_and_resize(image, whole, (8, 20), kernels[1])
    assert np.abs(result[0] - to_array(pil_crop(image, whole, 0, (8, 20)))).max() <= 1


def test_evaluation(images, kernels, monkeypatch):
    """Only the center crop is resized."""
    evaluate = Evaluate((24, 20), crop_pct=0.8, interpolation='bicubic')
    got = evaluate.apply(to_batch(images['color'], 2).to(kernels[1])).cpu()
    monkeypatch.setattr(_batch, 'kernels', lambda device: None)
    plain = evaluate.apply(to_batch(images['color'], 2))
    assert (got.int() - plain.int()).abs().max() <= 1 and (got != plain).float().mean() < 0.01


def apply_layers(batch, layers, fill, module, device):
    upload = Upload()
    run, rows, room = record_layers(upload, layers, len(batch), batch.shape[1:], fill)
    upload.send(device)
    buffer = torch.full((room, *batch.shape[1:]), 99, dtype=torch.uint8, device=device)
    buffer[: len(batch)] = batch.to(device)
    run(module, buffer)
    return buffer.cpu()[rows]


@pytest.mark.parametrize('kind', ['gray', 'color', 'drawing'])
@pytest.mark.parametrize('name', [*LUTS, 'Color', 'Sharpness', 'GaussianBlur'])
def test_operations_without_interpolation_are_those_of_torch(images, name, kind, kernels):
    """Tolerance: none."""
    arguments = np.array(ARGUMENTS[name], float)
    batch = to_batch(images[kind], len(arguments))
    batch[-1] = 77
    layer = Layer(np.full(len(arguments), NAMES.index(name)), arguments, np.ones(len(arguments), bool))
    expected, fill = batch.clone(), (128,) * batch.shape[1]
    apply_layer(expected, fill, *layer)
    assert torch.equal(apply_layers(batch, [layer], fill, *kernels), expected)


@pytest.mark.slow
@pytest.mark.parametrize('cubic', [False, True])
@pytest.mark.parametrize('name', MATRICES)
def test_maps_are_those_of_pillow(images, name, cubic, kernels):
    """Tolerance: 1 level in less than 0.1 % of the pixels if bicubic, else none."""
    kind = 'color' if name in ('Rotate', 'ShearX') else 'gray'
    fill = (124, 116, 104) if kind == 'color' else (128,)
    arguments = np.array(ARGUMENTS[name], float)
    count = len(arguments)
    layer = Layer(np.full(count, NAMES.index(name)), arguments, np.full(count, cubic))
    got = to_arrays(apply_layers(to_batch(images[kind], count), [layer], fill, *kernels))
    picture = images[kind].convert('RGB')
    expected = [to_array(pil_operation(picture, name, value, (fill * 3)[:3], cubic)) for value in arguments]
    difference = np.abs(got - np.stack(expected))
    assert difference.max() <= cubic and (difference > 0).mean() < 0.001


@pytest.mark.parametrize('kind', ['gray', 'color'])
def test_every_image_has_operations_of_its_own(images, kind, kernels):
    """Also no operation, and an even or odd number of changes of rows. Tolerance: none."""
    names = ['Equalize', 'TranslateX', 'Sharpness', 'Color', 'Invert', 'Affine']
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(4):
        numbers = np.array([-1, *map(NAMES.index, names)])[rng.integers(0, 7, 12)]
        layers.append(Layer(numbers, np.full(12, 0.7), np.zeros(12, bool), 5))
    batch = to_batch(images[kind], 12)
    fill = (9,) * batch.shape[1]
    expected = batch.clone()
    for layer in layers:
        apply_layer(expected, fill, *layer)
    assert torch.equal(apply_layers(batch, layers, fill, *kernels), expected)


def make_output(kernels, batch, sizes, mixed, erased, mode='const', mean=IMAGENET, dtype=torch.float32):
    """Return the images and targets of each batch from `record_output`, for images in shuffled rows."""
    module, device = kernels
    upload = Upload()
    order = np.random.default_rng(0).permutation(len(batch)).astype(np.int32)
    mix = Mix(FastCollateMixup(num_classes=5, label_smoothing=0.1))
    run = record_output(upload, order, np.arange(len(batch)) % 5, sizes, mix, mixed, mode, erased)
    upload.send(device)
    rows = torch.empty_like(batch)
    rows[order] = batch
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    table = normalize(levels, mean, (0.2, 0.3, 0.5), dtype).view(3, 256).to(device)
    return [(images.cpu(), target.cpu()) for images, target in run(module, rows.to(device), table)]


@pytest.mark.parametrize('channels, dtype', [(1, torch.float32), (3, torch.float16), (3, torch.bfloat16)])
def test_mixing_and_normalizing_are_those_of_torch(channels, dtype, kernels):
    """Tolerance: none. A lam of 0.5 gives values halfway between two levels."""
    shape = 12, channels, 23, 19
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = [4, 2, 4, 2]
    mixed = [MixParams(0.5, None), MixParams(0.937, None), MixParams(0.4, (3, 17, 0, 9)), MixParams(0.3, (0, 0, 0, 0))]
    got = make_output(kernels, batch, sizes, mixed, None, dtype=dtype)
    mix = Mix(FastCollateMixup(num_classes=5, label_smoothing=0.1))
    parts = zip(torch.split(batch, sizes), torch.split(torch.arange(12) % 5, sizes), mixed)
    for (images, target), (part, labels, params) in zip(got, parts, strict=True):
        expected, wanted = mix.apply(part, labels, params)
        assert torch.equal(images, normalize(expected, IMAGENET, (0.2, 0.3, 0.5), dtype))
        assert torch.equal(target, wanted)


@pytest.mark.parametrize('mode', ERASING_MODES)
def test_blocks_are_erased(mode, kernels):
    batch = torch.randint(0, 256, (6, 1, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = np.zeros((6, 2, 4), np.int64)
    boxes[1, 0], boxes[1, 1], boxes[5, 0] = (3, 4, 30, 20), (10, 10, 30, 40), (0, 49, 1, 1)
    color = np.random.default_rng(0).standard_normal((6, 2, 3))
    erased = torch.zeros(6, 3, 40, 50, dtype=torch.bool)
    wanted = normalize(batch, IMAGENET, (0.2, 0.3, 0.5))
    for image, block in ((1, 0), (1, 1), (5, 0)):
        top, left, high, wide = boxes[image, block]
        part = (image, slice(None), slice(top, top + high), slice(left, left + wide))
        erased[part] = True
        wanted[part] = torch.from_numpy(color[image, block]).float()[:, None, None] if mode == 'rand' else 0
    params = EraseParams(boxes, color, 2**62 + 3)
    (first, _), (second, _) = make_output(kernels, batch, [4, 2], None, params, mode)
    got = torch.cat([first, second])
    assert torch.equal(got[~erased], wanted[~erased])
    if mode == 'pixel':
        noise = got[erased]
        assert noise.numel() > 4000 and abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
        assert len(noise.unique()) > 0.99 * noise.numel()
        # Normally distributed, and independent between channels.
        ranks = torch.special.ndtr(noise.double()).sort().values
        assert (ranks - torch.arange(len(noise)) / len(noise)).abs().max() < 1.95 / len(noise) ** 0.5
        few = got[1, :, 10:30, 10:30].flatten(1).numpy()
        assert np.abs(np.corrcoef(few)[~np.eye(3, dtype=bool)]).max() < 0.2
        again, other = (
            torch.cat([part for part, _ in make_output(kernels, batch, [4, 2], None, params._replace(seed=seed), mode)])
            for seed in (2**62 + 3, 4)
        )
        assert torch.equal(again, got) and not torch.equal(other, got)
    else:
        assert torch.equal(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['drawing', 'color'])
def test_the_papers_augmentation(images, name, kernels, monkeypatch):
    """Against torch: some levels differ by 1, which later operations may amplify."""
    train, count = Train(32, **AUGMENTATION), 16
    batch = to_batch(images[name], count)
    params = train.make_params(count, *batch.shape[2:], torch.Generator().manual_seed(1))
    got = train.apply(batch.to(kernels[1]), params).cpu()
    monkeypatch.setattr(_batch, 'kernels', lambda device: None)
    difference = (got.int() - train.apply(batch, params).int()).abs()
    assert got.float().std() > 20 and difference.max() <= 8 and (difference > 0).float().mean() < 0.01


def test_a_machine_without_kernels_is_told_once(triton, monkeypatch, caplog):
    """Only one warning, also for later threads and loaders."""
    calls = []

    def broken(device):
        calls.append(device)
        raise RuntimeError('no compiler')

    monkeypatch.setattr(triton, 'check', broken)
    monkeypatch.setattr(torch.cuda, 'device', lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    _device._triton_kernels.cache_clear()
    gpu = torch.device('cuda')
    assert all(_device.triton_kernels(device, KERNELS) is None for device in [torch.device('cuda', 0), *[gpu] * 5])
    assert [record.message for record in caplog.records] == [
        "the Triton kernels do not run on cuda:0, using torch, which is slower: RuntimeError('no compiler')"
    ]
    assert calls == [torch.device('cuda', 0)]
    _device._triton_kernels.cache_clear()
    monkeypatch.setattr(triton, 'check', calls.append)
    assert _device.triton_kernels(gpu, KERNELS) is triton and _device.triton_kernels(CPU, KERNELS) is None
    _device._triton_kernels.cache_clear()


def test_gray_images_become_colored_where_a_color_is_filled_in(images, kernels):
    train = Train(32, **{**AUGMENTATION, 'mean': IMAGENET})
    batch = to_batch(images['gray'], 4).to(kernels[1])
    params = train.make_params(4, *batch.shape[2:], torch.Generator().manual_seed(1))
    assert train.apply(batch, params).shape == (4, 3, 32, 32)
    gray = Train(32, **{**AUGMENTATION, 'mean': HALF})
    assert gray.apply(batch, gray.make_params(4, *batch.shape[2:], torch.Generator())).shape == (4, 1, 32, 32)


@pytest.mark.parametrize('threads', [1, 3])
def test_threads_share_the_images(threads, images):
    """The number of images is not divisible by the number of threads."""
    assert _batch.kernels(CPU).__name__.endswith('kernels_numba')
    train = Train(20, **AUGMENTATION)
    batch = to_batch(images['color'], 7)
    params = train.make_params(7, *batch.shape[2:], torch.Generator().manual_seed(1))
    expected = train.apply(batch, params)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(train.apply(batch, params), expected)
    finally:
        torch.set_num_threads(before)


def test_without_numba_torch_does_the_work(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'timm_fractal.augment.kernels_numba', None)
    monkeypatch.delattr(augment, 'kernels_numba', raising=False)
    lazy.numba_kernels.cache_clear()
    monkeypatch.setattr(console, '_warned', set())
    train = Train(20, **AUGMENTATION)
    batch = torch.zeros(2, 1, 30, 30, dtype=torch.uint8)
    params = train.make_params(2, 30, 30, torch.Generator().manual_seed(1))
    assert _batch.kernels(CPU) is None and train.apply(batch, params).shape == (2, 1, 20, 20)
    assert [message[:20] for message in caplog.messages] == ['numba cannot be used']
    lazy.numba_kernels.cache_clear()


def test_boxes_of_five_channels_have_five_colors(kernels):
    """The colors of their own image, up to the last one."""
    module, device = kernels
    upload = Upload()
    boxes, color = np.tile(np.array([2, 3, 20, 30]), (4, 1, 1)), np.random.default_rng(0).standard_normal((4, 1, 5))
    params = EraseParams(boxes, color, 0)
    run = record_output(upload, np.arange(4, dtype=np.int32), np.arange(4), [4], None, None, 'rand', params)
    upload.send(device)
    levels = torch.zeros(5, 256, device=device)
    [(images, _)] = run(module, torch.zeros(4, 1, 24, 40, dtype=torch.uint8, device=device), levels)
    wanted = torch.zeros(4, 5, 24, 40)
    wanted[:, :, 2:22, 3:33] = torch.from_numpy(color[:, 0]).float()[..., None, None]
    assert torch.equal(images.cpu(), wanted)
