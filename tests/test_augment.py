"""Against timm on PIL images: equal parameters give equal pixels, and sampled parameters have the same distribution."""

import functools
import math
import random

import numpy as np
import PIL
import pytest
import timm
import torch
from allpairspy import AllPairs
from PIL import Image, ImageOps
from timm.data import FastCollateMixup, create_transform
from timm.data import auto_augment as timm_augment
from timm.data.loader import PrefetchLoader
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from timm_fractal import _timm_private
from timm_fractal.augment import Erase, Evaluate, Mix, MixParams, Train, create_augment, normalize
from timm_fractal.augment.reference import NAMES, PIXELS, SHAPES, apply_layer
from timm_fractal.augment.resample import Crop, resample
from timm_fractal.augment.tables import LUTS, MATRICES
from timm_fractal.data.fractals import Fractal1

from .paper import AUGMENTATION, HALF

FILTERS = {True: Image.Resampling.BICUBIC, False: Image.Resampling.BILINEAR}
OLD = tuple(int(part) for part in timm.__version__.split('.')[:3]) < (1, 0, 31)
IMAGENET = (0.485, 0.456, 0.406)


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread, which suffices for small batches beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def fractal():
    return Fractal1('fractal1/classes=2,size=256,points=50000', input_img_mode='L')[0][0]


@pytest.fixture(scope='module')
def fractals():
    """Return RGB images, and the same as a batch with one channel."""
    dataset = Fractal1('fractal1/classes=64,size=256,points=50000')
    images = [dataset[k][0] for k in range(64)]
    return images, torch.cat([to_batch(image.convert('L')) for image in images])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def to_batch(image, count=1):
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].repeat(count, 1, 1, 1)


def to_arrays(batch):
    """Convert to RGB, int, of shape (B, H, W, 3)."""
    return batch.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().astype(int)


def to_array(image):
    return np.asarray(image.convert('RGB')).astype(int)


def seed_timm(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def distance(first, second):
    """Return the Kolmogorov-Smirnov distance, relative to its 99.9 % quantile under equal distributions."""
    values = np.concatenate([first, second])
    ranks = [np.searchsorted(np.sort(sample), values, side='right') / len(sample) for sample in (first, second)]
    critical = math.sqrt(-math.log(0.001 / 2) / 2 * (1 / len(first) + 1 / len(second)))
    return np.abs(ranks[0] - ranks[1]).max() / critical


# Crop, resize, flip.


def random_crop(rng, count, height, width):
    high, wide = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top, left = (rng.random(count) * (height - high + 1), rng.random(count) * (width - wide + 1))
    flags = (rng.random(count) < 0.5 for _ in range(3))
    numbers = (values.astype(np.int64) for values in (top, left, high, wide))
    return Crop(*(torch.from_numpy(values) for values in (*numbers, *flags)))


def pil_crop(image, crop, k, size):
    top, left, height, width, cubic, hflip, vflip = (values[k].item() for values in crop)
    image = image.crop((left, top, left + width, top + height)).resize(size[::-1], FILTERS[cubic])
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if hflip else image
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if vflip else image


def columns_first(crop, size):
    shorter, narrower = crop.height - size[0], crop.width - size[1]
    return ~((shorter > 0) & (2 * narrower < shorter)).numpy()


def comparable(crop, size):
    """Select images that Pillow resizes in our order; before version 13, it always begins with the columns."""
    recent = int(PIL.__version__.split('.')[0]) >= 13
    return columns_first(crop, size) | recent


@pytest.mark.parametrize('size', [(224, 224), (31, 50), (100, 333), (1, 1)])
def test_resample_is_that_of_pillow(image, size):
    """Tolerance: 1 level, in less than 0.1 % of the pixels."""
    count = 40
    crop = random_crop(np.random.default_rng(0), count, image.height, image.width)
    result = to_arrays(resample(to_batch(image, count), crop, size, size))
    assert 0 < columns_first(crop, size).sum() < count
    differences = [
        np.abs(result[k] - to_array(pil_crop(image, crop, k, size))) for k in comparable(crop, size).nonzero()[0]
    ]
    assert np.max(differences) <= 1 and np.mean(np.array(differences) > 0) < 0.001


def test_a_batch_is_resampled_as_its_images_one_by_one(photo):
    crop = random_crop(np.random.default_rng(1), 20, photo.height, photo.width)
    batch = to_batch(photo, 20)
    together = resample(batch, crop, (64, 48), (64, 48))
    alone = torch.cat([resample(batch[:1], Crop(*(v[k : k + 1] for v in crop)), (64, 48), (64, 48)) for k in range(20)])
    # A different number of taps changes the order of summation.
    assert (together.int() - alone.int()).abs().max() <= 1 and (together != alone).float().mean() < 1e-3


def test_weights_in_two_parts_survive_products_of_11_bits():
    """An emulation of TF32 gives the same levels, except for a few halfway between two."""
    from timm_fractal.augment import resample as _resample

    def with_11_bits(values):
        return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    yes = torch.ones(1, dtype=torch.bool)
    _, (weights,), _ = _resample._bands(torch.tensor([300]), 224, 224, 0, yes, yes, torch.device('cpu'))
    pixels = torch.randint(0, 256, (50, weights.shape[2]), generator=generator()).float()
    exact = pixels.double() @ weights.double()
    parts = [with_11_bits(part) for part in _resample._split(weights)]
    assert torch.equal(with_11_bits(pixels), pixels) and torch.equal(parts[0], _resample._split(weights)[0])
    assert (sum(pixels.double() @ part.double() for part in parts) - exact).abs().max() < 1e-3
    assert (pixels.double() @ with_11_bits(weights).double() - exact).abs().max() > 0.05


def test_nothing_to_do_changes_nothing(image):
    whole = (torch.tensor([value]) for value in (0, 0, image.height, image.width))
    for cubic in (False, True):
        crop = Crop(*whole, *(torch.tensor([flag]) for flag in (cubic, False, False)))
        size = (image.height, image.width)
        assert torch.equal(resample(to_batch(image), crop, size, size), to_batch(image))
        whole = crop[:4]


@pytest.mark.parametrize(
    'crop_mode, crop_pct, size, interpolation',
    list(AllPairs([(None, 'center', 'squash'), (None, 0.9, 1.0), (96, (96, 96), (90, 120)), ('bilinear', 'bicubic')])),
)
def test_evaluation_is_that_of_timm(photo, fractal, size, crop_pct, crop_mode, interpolation):
    options = dict(crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    if size == (90, 120) and crop_mode != 'squash' and interpolation == 'bicubic' and OLD:
        pytest.skip('before 1.0.31, timm forgot the interpolation for sizes that are not square')
    transform = create_transform(size, is_training=False, use_prefetcher=True, **options)
    ours = create_augment(size, **options)
    for image in (photo, photo.transpose(Image.Transpose.ROTATE_90), fractal):
        expected, got = torch.as_tensor(transform(image))[None].int(), ours.apply(to_batch(image)).int()
        assert got.shape == expected.shape and (got - expected).abs().max() <= 1
        assert (got != expected).float().mean() < 0.003


@pytest.mark.parametrize('size', [96, (96, 96), (90, 120)])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'random'])
def test_training_without_augmentation_is_that_of_timm(photo, size, interpolation):
    options = dict(is_training=True, no_aug=True, interpolation=interpolation)
    expected = torch.as_tensor(create_transform(size, use_prefetcher=True, **options)(photo))[None].int()
    assert (create_augment(size, **options).apply(to_batch(photo)).int() - expected).abs().max() <= 1


@pytest.mark.parametrize(
    'options', [{}, dict(scale=(0.5, 0.7), ratio=(0.9, 1.1)), dict(scale=(0.9, 1.0), ratio=(1.3, 3.0))]
)
@pytest.mark.parametrize('shape', [(512, 512), (100, 300)])
def test_crops_are_distributed_as_those_of_timm(options, shape):
    count = 8000
    seed_timm(0)
    theirs = RandomResizedCropAndInterpolation(224, **options)
    image = Image.new('L', shape[::-1])
    expected = np.array([theirs.get_params(image, theirs.scale, theirs.ratio) for _ in range(count)])[:, [0, 1, 2, 3]]
    drawn = Train(224, **options).make_params(count, *shape, generator())
    got = np.stack([values.numpy() for values in drawn.crop[:4]], 1)
    top, left, height, width = got.T
    assert (got[:, :2] >= 0).all() and (height + top <= shape[0]).all() and (width + left <= shape[1]).all()
    for value in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 0] + box[:, 2],
    ):
        assert distance(value(got), value(expected)) < 1


def test_flips_and_interpolation_have_their_probabilities():
    drawn = Train(32, hflip=0.3, vflip=0.7, interpolation='random').make_params(10_000, 64, 64, generator()).crop
    means = [values.float().mean().item() for values in (drawn.hflip, drawn.vflip, drawn.cubic)]
    np.testing.assert_allclose(means, [0.3, 0.7, 0.5], atol=0.015)
    for interpolation, cubic in (('bilinear', False), ('bicubic', True)):
        drawn = Train(32, hflip=0, interpolation=interpolation).make_params(100, 64, 64, generator()).crop
        assert (drawn.cubic == cubic).all() and not drawn.hflip.any() and not drawn.vflip.any()


# Operations.

FACTORS = [0, 1, 2, 0.1, 0.33, 0.5, 0.77, 0.9, 1.19, 1.45, 1.9]
ARGUMENTS = {
    'AutoContrast': [0],
    'Equalize': [0],
    'Invert': [0],
    'Posterize': [1, 2, 3, 4, 7, 8, 9],
    'Solarize': [0, 1, 100, 128, 255, 256],
    'SolarizeAdd': [0, 1, 99, 110, 128],
    'Brightness': FACTORS,
    'Contrast': FACTORS,
    'Color': FACTORS,
    'Sharpness': FACTORS,
    'GaussianBlur': [0.1, 0.5, 0.9, 1.3, 1.7, 2.0],
    'Rotate': [0, 30, -30, 27.3, -8.1, 0.4],
    'ShearX': [0, 0.3, -0.3, 0.271, -0.043],
    'ShearY': [0, 0.3, -0.3, 0.271, -0.043],
    'TranslateX': [0, 3, -5, 60.5, -33.7],
    'TranslateY': [0, 3, -5, 60.5, -33.7],
    'TranslateXRel': [0, 0.45, -0.41, 0.013],
    'TranslateYRel': [0, 0.45, -0.41, 0.013],
}


def pil_operation(image, name, argument, fill=(128,) * 3, cubic=True):
    """Apply timm's operation with an argument in timm's form."""
    if name in ('AutoContrast', 'Equalize', 'Invert'):
        arguments = ()
    elif name in ('Posterize', 'Solarize', 'SolarizeAdd'):
        arguments = (int(argument),)
    else:
        arguments = (float(argument),)
    return timm_augment.NAME_TO_OP[name](image, *arguments, fillcolor=fill, resample=FILTERS[cubic])


def test_all_operations_are_tested():
    kinds = LUTS.keys() | PIXELS.keys() | MATRICES.keys() | SHAPES.keys()
    assert set(NAMES) == kinds == ARGUMENTS.keys() | SHAPES.keys()


@pytest.mark.parametrize('name, cubic', [*((name, True) for name in ARGUMENTS), *((name, False) for name in MATRICES)])
def test_operations_are_those_of_timm(image, name, cubic):
    """Tolerance: none, except for bicubic warps: 1 level in less than 0.05 % of the pixels."""
    small = image.resize((120, 111), Image.Resampling.BILINEAR)
    fill = (128,) * 3 if small.mode == 'L' else (124, 116, 104)
    arguments = np.array(ARGUMENTS[name], float)
    batch = to_batch(small, len(arguments))
    apply_layer(batch, fill[: batch.shape[1]], np.full(len(arguments), NAMES.index(name)), arguments, cubic)
    got = to_arrays(batch)
    expected = [to_array(pil_operation(small.convert('RGB'), name, value, fill, cubic)) for value in arguments]
    difference = np.abs(got - np.stack(expected))
    assert difference.max() <= (name in MATRICES and cubic) and (difference > 0).mean() < 0.0005


@pytest.mark.parametrize('name', SHAPES)
def test_warps_are_those_of_the_pil_operation(image, name):
    """Tolerance: none."""
    small = image.resize((90, 71), Image.Resampling.BILINEAR)
    fill = (9,) if small.mode == 'L' else (124, 116, 104)
    # Magnitudes above 1 are clipped, as in `shape_op`.
    arguments, seed = np.array([0, 0.03, 0.27, 1, 1.5]), 4
    batch = to_batch(small, 6)
    operation = np.append(np.full(5, NAMES.index(name)), NAMES.index('Invert'))
    apply_layer(batch, fill, np.full(6, NAMES.index('Invert')), np.zeros(6))
    apply_layer(batch, fill, operation, np.append(arguments, 0), True, seed)
    got = to_arrays(batch)
    assert np.array_equal(got[5], to_array(small))
    inverse = ImageOps.invert(small)
    rng = np.random.Generator(np.random.PCG64([seed, list(SHAPES).index(name)]))
    for k, values in enumerate(SHAPES[name].sample(rng, arguments.clip(max=1))):
        params = {SHAPES[name].name: values.tolist()}
        assert np.array_equal(got[k], to_array(SHAPES[name].apply(inverse, params, fill=fill)))


@pytest.mark.parametrize('level', [0, 7, 255])
@pytest.mark.parametrize('name', ARGUMENTS)
def test_operations_on_a_flat_image(name, level):
    flat = Image.new('L', (40, 30), level)
    arguments = np.array(ARGUMENTS[name], float)
    batch = to_batch(flat, len(arguments))
    apply_layer(batch, (128,), np.full(len(arguments), NAMES.index(name)), arguments)
    got = to_arrays(batch)
    for k, value in enumerate(arguments):
        assert np.array_equal(got[k], to_array(pil_operation(flat.convert('RGB'), name, value)))


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (7, 2), (2, 2), (3, 3)])
@pytest.mark.parametrize('name', ARGUMENTS)
def test_operations_on_small_images(name, shape):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    arguments = np.array(ARGUMENTS[name], float)
    batch = to_batch(noise, len(arguments))
    apply_layer(batch, (1, 2, 3), np.full(len(arguments), NAMES.index(name)), arguments)
    got = to_arrays(batch)
    for k, value in enumerate(arguments):
        expected = to_array(pil_operation(noise, name, value, (1, 2, 3)))
        assert np.abs(got[k] - expected).max() <= (name in MATRICES)


@pytest.mark.parametrize('bits', [0, -1])
def test_posterizing_to_no_bits_is_black(photo, bits):
    batch = to_batch(photo)
    apply_layer(batch, (0, 0, 0), np.array([NAMES.index('Posterize')]), np.array([float(bits)]))
    assert not batch.any()


def test_operations_follow_each_other(image):
    """Each image has its own chain of operations.

    Tolerance: 1 level, in less than 1 % of the pixels. A geometric transform is followed only by operations that do not
    enlarge a difference: one level at the edge can change all of the result of AutoContrast or Equalize.
    """
    rng = np.random.default_rng(5)
    stretching = ('AutoContrast', 'Equalize', 'Contrast', 'Brightness', 'Color', 'Sharpness', 'Solarize', 'SolarizeAdd')
    small = image.resize((64, 64), Image.Resampling.BILINEAR)
    fill = (128,) * 3 if small.mode == 'L' else (124, 116, 104)
    tables = [*LUTS, *PIXELS]
    chains, arguments = [], []
    for k in range(60):
        # Any operations, then at most one warp, then operations that keep differences small.
        chain = [*rng.choice(tables, 3), *rng.choice(list(MATRICES), 1 if k % 2 else 0)]
        chain += ['Invert'] * (4 - len(chain)) if k % 2 == 0 else []
        chain.append(rng.choice([name for name in tables if name not in (*stretching, 'Posterize')]))
        chains.append(chain)
        arguments.append([rng.choice(ARGUMENTS[name]) for name in chain])
    batch = to_batch(small, len(chains))
    for place in range(5):
        numbers = np.array([NAMES.index(chain[place]) for chain in chains])
        apply_layer(batch, fill[: batch.shape[1]], numbers, np.array([values[place] for values in arguments], float))
    got = to_arrays(batch)
    for k, (chain, values) in enumerate(zip(chains, arguments)):
        expected = small.convert('RGB')
        for name, value in zip(chain, values):
            expected = pil_operation(expected, name, value, fill)
        difference = np.abs(got[k] - to_array(expected))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01, chain


# RandAugment and AutoAugment: sampling.

STRINGS = (
    'rand-m9-mstd0.5-inc1',
    'rand-m9-n3-mstd0.5-tweights-inc1',
    'rand-m7-mstd101-p0.8',
    'rand-n1-m12-mmax20-mstd2-inc1-p1',
    'rand-t3a-m6-n2',
    'rand-t3aw-m8-mstd1',
    'rand',
    'rand-m7-mstd0.5-n2-tshape+Rotate+ColorIncreasing',
    'v0',
    'v0r-mstd0.5',
    'original-mstd1',
    'originalr',
    '3a',
)


def canonical(name):
    """Return our name of a timm operation."""
    suffix = {'Desaturate': 'Color', 'GaussianBlurRand': 'GaussianBlur'}.get(name, name)
    return suffix.replace('Increasing', '').replace('Original', '')


def timm_policy(text, size=224, interpolation='random'):
    """Return timm's policy with operations that only log (name, argument, bicubic)."""
    options = dict(translate_const=int(size * 0.45), img_mean=(128,) * 3)
    if interpolation != 'random':
        options['interpolation'] = Image.Resampling[interpolation.upper()]
    rand = text.startswith('rand')
    create = timm_augment.rand_augment_transform if rand else timm_augment.auto_augment_transform
    policy = create(text, options)

    def record(name, log, *arguments, resample, fillcolor):
        value = arguments[0] if arguments else 0
        value = min(1, max(0, 1 - value)) if name == 'Desaturate' else value
        value = random.uniform(0.1, 2 * value) if name == 'GaussianBlurRand' else value
        cubic = random.choice(resample) if isinstance(resample, (list, tuple)) else resample
        return [*log, (canonical(name), value, cubic == Image.Resampling.BICUBIC)]

    for op in policy.ops if rand else [op for row in policy.policy for op in row]:
        op.aug_fn = functools.partial(record, op.name)
    return policy


@pytest.mark.parametrize('text', STRINGS)
def test_operations_are_drawn_as_by_timm(text):
    count = 6000
    seed_timm(1)
    policy = timm_policy(text)
    expected = [policy([]) for _ in range(count)]
    train = Train(224, auto_augment=text, interpolation='random', mean=HALF, color_jitter=None)
    layers = train.make_params(count, 224, 224, generator(2)).layers
    got = [
        [(NAMES[layer.operation[k]], layer.argument[k], layer.cubic[k]) for layer in layers if layer.operation[k] >= 0]
        for k in range(count)
    ]
    # The number, the first, and the sequence of operations.
    for kind in (len, lambda log: log[0][0] if log else '', lambda log: tuple(name for name, *_ in log)):
        outcomes = [[kind(log) for log in logs] for logs in (expected, got)]
        values = sorted(set(outcomes[0]) | set(outcomes[1]))
        table = np.array([[drawn.count(value) for value in values] for drawn in map(list, outcomes)], float)
        common = table.sum(0) >= 20
        chance = (np.diff(table, axis=0)[0] ** 2 / table.sum(0))[common].sum()
        # Chi-squared with as many degrees of freedom: mean plus five standard deviations.
        assert chance < common.sum() + 5 * math.sqrt(2 * common.sum())
    for name in {name for log in expected for name, *_ in log}:
        values = [np.array([v for log in logs for n, v, _ in log if n == name], float) for logs in (expected, got)]
        assert distance(*values) < 1.05, name
        assert name != 'GaussianBlur' or min(values[0].min(), values[1].min()) >= 0.1
    cubic = [np.mean([c for log in logs for *_, c in log]) for logs in (expected, got)]
    np.testing.assert_allclose(cubic, [0.5, 0.5], atol=0.05)


def test_weights_draw_no_operation_twice():
    layers = Train(32, auto_augment='rand-tweights-n15-p1').make_params(50, 32, 32, generator()).layers
    drawn = np.stack([layer.operation for layer in layers])
    assert drawn.shape == (15, 50) and all(len(set(column)) == 15 for column in drawn.T)
    with pytest.raises(ValueError, match='n must be at most 15, got 16'):
        Train(32, auto_augment='rand-tweights-n16-p1')


@pytest.mark.parametrize('name', sorted(n for n in timm_augment.LEVEL_TO_ARG if canonical(n) in NAMES))
@pytest.mark.parametrize('sign', [1, -1])
def test_arguments_are_those_of_timm(name, sign, monkeypatch):
    """Bit for bit, also above the highest magnitude, for both signs that timm samples."""
    for hparams in (dict(translate_const=100, translate_pct=0.4), dict(translate_const=37)):
        op = timm_augment.AugmentOp(name, magnitude=9, hparams=hparams)
        ours = _timm_private._operation(op)
        assert ours.highest == timm_augment._LEVEL_DENOM
        if name in ('AutoContrast', 'Equalize', 'Invert'):
            assert ours.argument is None and op.level_fn is None
            return
        monkeypatch.setattr(timm_augment.random, 'random', lambda: 0.25 if sign == 1 else 0.75)
        levels = np.linspace(0, 20, 101)
        expected = [op.level_fn(level, hparams) for level in levels.tolist()]
        assert ours.argument(levels, np.full(101, sign)).tolist() == [value for (value,) in expected]


def test_every_level_function_of_timm_is_known():
    """New functions of timm are refused until they are in the table."""
    functions = {getattr(f, 'func', f) for f in timm_augment.LEVEL_TO_ARG.values() if f is not None}
    names = {f.__name__ for f in functions if f.__module__ == timm_augment.__name__}
    assert names == _timm_private.LEVELS.keys()


@pytest.mark.parametrize('module', ['timm.data.auto_augment', 'somewhere.else'])
def test_an_unknown_level_function_is_refused(module, monkeypatch):
    """It may use global random generators."""

    def _new_level_to_arg(level, hparams):
        pytest.fail('called')

    _new_level_to_arg.__module__ = module
    monkeypatch.setitem(timm_augment.LEVEL_TO_ARG, 'Rotate', _new_level_to_arg)
    with pytest.raises(_timm_private.UnknownTimm, match=f'the level function {module}._new_level_to_arg'):
        Train(32, auto_augment='rand-m9')
    assert Train(32).policy is None


@pytest.mark.parametrize('strength', [0.4, (0.2, 0.0, 0.7), (0.9, 1.5, 0.1)])
def test_color_jitter_is_drawn_as_by_timm(strength):
    count = 4000
    train = Train(32, color_jitter=strength, color_jitter_prob=0.6, grayscale_prob=0.2, mean=HALF)
    layers = train.make_params(count, 32, 32, generator()).layers
    seed_timm(0)
    jitter = transforms.ColorJitter(*(strength if isinstance(strength, tuple) else (strength,) * 3))
    names = ('Brightness', 'Contrast', 'Color')
    expected = []
    for _ in range(count):
        order, *factors, _ = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)
        expected.append([(names[k], factors[k]) for k in order.tolist() if k < 3 and factors[k] is not None])
    jitters, gray = layers[:-1], layers[-1]
    assert len(jitters) == len(expected[0])
    applied = jitters[0].operation >= 0
    assert abs(applied.mean() - 0.6) < 0.03 and all(
        (layer.operation >= 0).tolist() == applied.tolist() for layer in jitters
    )
    for place, layer in enumerate(jitters):
        for name in names:
            got = layer.argument[layer.operation == NAMES.index(name)]
            wanted = [log[place][1] for log in expected if log[place][0] == name]
            assert bool(len(got)) == bool(wanted)
            if wanted:
                assert abs(len(got) / applied.sum() - len(wanted) / count) < 0.04 and distance(got, wanted) < 1
    assert abs((gray.operation >= 0).mean() - 0.2) < 0.03 and not gray.argument.any()


# The whole transform.


def pil_train(image, params, k, size, fill):
    image = pil_crop(image, params.crop, k, size)
    for layer in params.layers:
        if layer.operation[k] >= 0:
            name = NAMES[layer.operation[k]]
            if name == 'Posterize' and layer.argument[k] < 1:
                image = Image.new('RGB', image.size)
                continue
            image = pil_operation(image, name, layer.argument[k], fill, bool(layer.cubic[k]))
    return image


@pytest.mark.parametrize('mean', [HALF, IMAGENET])
@pytest.mark.parametrize('auto_augment', ['rand-m9-mstd0.5-inc1', 'rand-m6-n3-t3a-p1', 'v0', None])
def test_the_whole_transform_is_that_of_timm(image, auto_augment, mean):
    """Tolerance: 1 level for 99.97 % of the pixels and for 60 % of the images, 0.003 levels on average.

    Equalize and AutoContrast can enlarge differences beyond 1 level.
    """
    count, size = 48, (80, 96)
    options = {**AUGMENTATION, 'auto_augment': auto_augment, 'mean': mean, 'interpolation': 'random'}
    train = Train(size, **options)
    params = train.make_params(count, image.height, image.width, generator(4))
    result = train.apply(to_batch(image, count), params)
    fill = tuple(min(255, round(255 * value)) for value in mean)
    # Only a policy with warps can make a gray image colored.
    color = image.mode == 'RGB' or (mean == IMAGENET and auto_augment in ('rand-m9-mstd0.5-inc1', 'v0'))
    assert result.shape == (count, 3 if color else 1, *size)
    got = to_arrays(result)
    expected = np.stack([to_array(pil_train(image.convert('RGB'), params, k, size, fill)) for k in range(count)])
    difference = np.abs(got - expected)[comparable(params.crop, size)]
    assert len(difference) > count / 2
    assert (difference > 1).mean() < 0.0003 and difference.mean() < 0.003
    assert (difference.max(axis=(1, 2, 3)) <= 1).mean() > 0.6


def spectrum(images):
    """Return the power in eight frequency bands, mean over images."""
    images = images - images.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(images)) ** 2
    frequency = np.fft.fftfreq(images.shape[1])
    ring = (16 * np.hypot(frequency[:, None], frequency)).astype(int).clip(max=7)
    return np.array([power[:, ring == k].mean(axis=1) for k in range(8)])


def test_statistics_of_the_whole_pipeline_are_those_of_timm(fractals):
    """Mean, variance, fill and spectrum of many images: within 3.5 standard errors of timm's."""
    images, batch = fractals
    rounds, size = 8, 64
    seed_timm(3)
    theirs = create_transform(size, is_training=True, use_prefetcher=True, **AUGMENTATION)
    expected = np.stack([np.asarray(theirs(image))[0] for _ in range(rounds) for image in images]).astype(float)
    ours, source = create_augment(size, is_training=True, **AUGMENTATION), generator(3)
    got = np.concatenate(
        [ours.apply(batch, ours.make_params(len(batch), 256, 256, source))[:, 0].numpy() for _ in range(rounds)]
    ).astype(float)
    for statistic in (
        lambda x: x.mean(axis=(1, 2))[None],
        lambda x: x.var(axis=(1, 2))[None],
        lambda x: (x > 40).mean(axis=(1, 2))[None],
        lambda x: (x == 128).mean(axis=(1, 2))[None],
        lambda x: np.log(spectrum(x) + 1),
    ):
        first, second = statistic(expected), statistic(got)
        error = np.sqrt((first.var(axis=1) + second.var(axis=1)) / first.shape[1])
        assert (np.abs(first.mean(axis=1) - second.mean(axis=1)) < 3.5 * error).all()


def test_gray_images_are_treated_as_color_images_of_equal_channels(fractals):
    _, batch = fractals
    train = Train(64, **AUGMENTATION)
    params = train.make_params(len(batch), 256, 256, generator())
    gray, color = train.apply(batch, params), train.apply(batch.repeat(1, 3, 1, 1), params)
    assert gray.shape[1] == 1 and torch.equal(gray.expand(-1, 3, -1, -1), color)
    # A colored fill needs three channels.
    tinted = Train(64, **{**AUGMENTATION, 'mean': IMAGENET}).apply(batch, params)
    assert tinted.shape[1] == 3 and not torch.equal(tinted[:, 0], tinted[:, 2])


def test_the_generator_decides_and_nothing_else(fractals):
    _, batch = fractals
    collate = FastCollateMixup(mixup_alpha=1, cutmix_alpha=1, num_classes=64)
    train, mix, erase = Train(32, **AUGMENTATION, color_jitter_prob=0.5), Mix(collate), Erase(0.5, 'pixel', 2)

    def run(seed):
        source = generator(seed)
        before = batch.clone()
        images = train.apply(batch, train.make_params(len(batch), 256, 256, source))
        assert torch.equal(batch, before)
        images, target = mix.apply(images, torch.arange(64), mix.make_params(32, 32, source))
        images = normalize(images, HALF, HALF)
        return erase.apply(images, erase.make_params(len(batch), 32, 32, source)), target

    seed_timm(0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, again, other = run(7), run(7), run(8)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


# Mixup, random erasing, normalization.


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('params', [MixParams(1.0, None), MixParams(0.3, None), MixParams(0.75, (2, 12, 0, 7))])
def test_mixing_is_that_of_timm(monkeypatch, params, smoothing, channels):
    images = torch.randint(0, 256, (6, channels, 20, 16), dtype=torch.uint8, generator=generator())
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    collate = FastCollateMixup(mixup_alpha=1, cutmix_alpha=1, label_smoothing=smoothing, num_classes=5)
    monkeypatch.setattr(collate, '_params_per_batch', lambda: (params.lam, params.box is not None))
    if params.box:
        monkeypatch.setattr('timm.data.mixup.cutmix_bbox_and_lam', lambda *_, **__: (params.box, params.lam))
    # As arrays, since older versions do not support tensors.
    expected = collate([(image.numpy().copy(), label) for image, label in zip(images, labels.tolist())])
    before = images.clone()
    got = Mix(collate).apply(images, labels, params)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1]) and torch.equal(images, before)


@pytest.mark.parametrize(
    'options',
    [
        dict(mixup_alpha=0.8, cutmix_alpha=1.0),
        dict(mixup_alpha=0.2, cutmix_alpha=0.0, prob=0.7),
        dict(mixup_alpha=0.0, cutmix_alpha=0.5, correct_lam=False),
        dict(mixup_alpha=1.0, cutmix_minmax=(0.2, 0.8), switch_prob=0.3),
    ],
)
def test_mixing_is_drawn_as_by_timm(options):
    count, shape = 4000, (30, 40)
    collate = FastCollateMixup(**options)
    seed_timm(4)
    expected = []
    for _ in range(count):
        lam, cut = collate._params_per_batch()
        box = None
        if cut:
            from timm.data.mixup import cutmix_bbox_and_lam

            bounds, lam = cutmix_bbox_and_lam((3, *shape), lam, collate.cutmix_minmax, collate.correct_lam)
            box = tuple(int(bound) for bound in bounds)
        expected.append(MixParams(lam, box))
    mix, source = Mix(collate), generator(5)
    got = [mix.make_params(*shape, source) for _ in range(count)]
    for value in (
        lambda p: p.lam,
        lambda p: p.box is not None,
        *(lambda p, k=k: (p.box or (0,) * 4)[k] for k in range(4)),
    ):
        assert distance(np.array([value(p) for p in got], float), np.array([value(p) for p in expected], float)) < 1
    collate.mixup_enabled = False
    assert mix.make_params(*shape, source) == MixParams(1.0, None)


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('shape', [(32, 32), (12, 60), (5, 60)])
def test_erasing_is_drawn_as_by_timm(count, shape):
    images = 3000
    random.seed(5)
    theirs = RandomErasing(0.6, mode='const', max_count=count, device='cpu')
    expected = theirs(torch.ones(images, 1, *shape)) == 0
    erase = Erase(0.6, 'const', count)
    got = erase.apply(torch.ones(images, 1, *shape), erase.make_params(images, *shape, generator(6))) == 0
    for axes in ((1, 2, 3), (1, 2), (1, 3)):
        # The area per image, and the frequency of each row and column.
        counts = [x.sum(axes).numpy() for x in (expected, got)]
        if len(axes) == 3:
            assert distance(*counts) < 1 and abs((counts[0] > 0).mean() - (counts[1] > 0).mean()) < 0.04
        else:
            profiles = [(c > 0).mean(axis=0) for c in counts]
            np.testing.assert_allclose(*profiles, atol=0.05)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('mode, channels', [('const', 3), ('rand', 3), ('rand', 5), ('pixel', 3)])
def test_what_is_erased_becomes_what_timm_says(mode, channels, dtype):
    erase = Erase(1.0, mode, 2, channels)
    params = erase.make_params(200, 40, 40, generator())
    images = torch.full((200, channels, 40, 40), 99.0, dtype=dtype)
    assert erase.apply(images, params) is images
    kept = torch.ones(200, 40, 40, dtype=torch.bool)
    for k, boxes in enumerate(params.box.tolist()):
        for top, left, height, width in boxes:
            kept[k, top : top + height, left : left + width] = False
    assert (images.permute(1, 0, 2, 3)[:, kept] == 99).all()
    erased = images.permute(1, 0, 2, 3)[:, ~kept].float()
    if mode == 'const':
        assert not erased.any()
        return
    assert abs(erased.mean()) < 0.2 and abs(erased.std() - 1) < 0.1 and not torch.equal(erased[0], erased[1])
    top, left, height, width = params.box[0, 0]
    last = images[0, :, top : top + height, left : left + width].float()
    if params.box[0, 1, 2] == 0:
        assert (last.flatten(1).std(1) > 0.5).all() == (mode == 'pixel')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mean, std', [(HALF, HALF), (IMAGENET, (0.229, 0.224, 0.225))])
def test_normalization_is_that_of_timm(mean, std, dtype):
    levels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    loader = [(levels.expand(-1, 3, -1, -1), torch.zeros(4))]
    [(expected, _)] = PrefetchLoader(loader, mean, std, device=torch.device('cpu'), img_dtype=dtype)
    for images in (levels, levels.repeat(1, 3, 1, 1)):
        got = normalize(images, mean, std, dtype)
        assert got.dtype == dtype and torch.equal(got, expected)


# Invalid arguments.


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(auto_augment='augmix-m5'), "auto_augment='augmix-m5' is not available on the device"),
        (dict(auto_augment='rand-m9-tshapes'), "not a configuration string of timm: unknown RandAugment set 'shapes'"),
        (dict(auto_augment='ran-m9'), "did you mean 'rand'"),
        (dict(auto_augment='rand-x5'), 'not a configuration string of timm: Unknown RandAugment config section'),
        (dict(auto_augment='v0-m5'), 'not a configuration string of timm: Unknown AutoAugment config section'),
        (dict(interpolation='lanczos'), "interpolation='lanczos' is not available.*random"),
        (dict(color_jitter=(0.1, 0.1, 0.1, 0.1)), 'color_jitter=.*no hue'),
        (dict(train_crop_mode='rkrc'), "train_crop_mode='rkrc'.*only 'rrc'"),
        (dict(gaussian_blur_prob=0.2), 'gaussian_blur_prob=0.2'),
        (dict(is_training=False, crop_mode='border'), "crop_mode='border'"),
        (dict(is_training=False, crop_border_pixels=3), 'crop_border_pixels=3'),
        (dict(is_training=False, crop_pct=1.2), 'crop_pct=1.2'),
        (dict(is_training=False, interpolation='random'), "interpolation='random'"),
    ],
)
def test_what_a_device_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_augment(224, **{'is_training': True, **options})


def test_unknown_operations_are_refused(monkeypatch):
    monkeypatch.setattr(timm_augment, '_RAND_TRANSFORMS', ['Rotate', 'Sharpnes'])
    monkeypatch.setitem(timm_augment.NAME_TO_OP, 'Sharpnes', timm_augment.sharpness)
    monkeypatch.setitem(timm_augment.LEVEL_TO_ARG, 'Sharpnes', None)
    with pytest.raises(ValueError, match="operation 'Sharpnes' has no batched version; did you mean 'Sharpness'"):
        Train(224, auto_augment='rand-m9')


@pytest.mark.parametrize('training', [False, True])
def test_options_that_there_are_not(training):
    with pytest.raises(TypeError, match="unknown option 'auto_augmnt'; did you mean 'auto_augment'"):
        create_augment(64, is_training=training, auto_augmnt='rand-m9')


def test_bad_input():
    train = Train(16)
    for height, width in ((40, 60), (60, 40)):
        params = train.make_params(50, 60, 60, generator())
        with pytest.raises(ValueError, match=f'params must be for images of {height} x {width} pixels'):
            train.apply(torch.zeros(50, 1, height, width, dtype=torch.uint8), params)
    for mean, std in (((0.5,), (0.5,)), (HALF, (0.5,)), ((0.5,) * 4, (0.5,) * 4)):
        with pytest.raises(ValueError, match='mean and std must have one number for each of 3 channels'):
            normalize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), mean, std)
    with pytest.raises(ValueError, match='images must be normalized .*, got torch.uint8'):
        erase = Erase()
        erase.apply(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), erase.make_params(1, 4, 4, generator()))
    for mode in ('pair', 'elem', 'half'):
        with pytest.raises(ValueError, match=f"mixup_mode='{mode}' is not available on the device.*standard loader"):
            Mix(FastCollateMixup(mode=mode))
    with pytest.raises(ValueError, match='even number of images, got 3'):
        Mix(FastCollateMixup()).apply(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3), MixParams(0.5, None))
    for call, message in (
        (lambda: Erase(mode='pixels'), "unknown re_mode 'pixels'; did you mean 'pixel'"),
        (lambda: Erase(1.5), 're_prob must be at least 0 and at most 1, got 1.5'),
        (lambda: Erase(count=0), 're_count must be at least 1, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    train = Train(8)
    params = train.make_params(2, 16, 16, generator())
    for images in (torch.zeros(2, 1, 16, 16), torch.zeros(2, 2, 16, 16, dtype=torch.uint8), torch.zeros(0, 1, 16, 16)):
        for call in (
            lambda images=images: train.apply(images, params),
            lambda images=images: Evaluate(8).apply(images),
        ):
            with pytest.raises(ValueError, match=r'must be uint8 of shape \(B, 1 or 3, H, W\), got'):
                call()
    with pytest.raises(ValueError, match='params must be for 3 images, got 2'):
        train.apply(torch.zeros(3, 1, 16, 16, dtype=torch.uint8), params)
