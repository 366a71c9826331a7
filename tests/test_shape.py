import hashlib
import itertools
import json
import math
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from allpairspy import AllPairs
from PIL import Image
from timm.data.auto_augment import AugmentOp, RandAugment
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.conftest import IMAGES
from timm_fractal.data.fractals import Fractal1
from timm_fractal.shape import VIEWS, RandomShape, shape_op
from timm_fractal.shape import warps as shape
from timm_fractal.shape.warps import WARPS

NAMES = ('affine', 'homography', 'elastic', 'polynomial')
SIZES = ((61, 80), (64, 64), (33, 57), (1, 1), (200, 7))


@pytest.fixture(scope='module')
def fractal():
    return Fractal1('fractal1/classes=2,size=128,points=20000', input_img_mode='L')[0][0]


def draw(name, magnitude=0.3, seed=0):
    return WARPS[name].make_params(np.random.default_rng(seed), magnitude)


def to_tensor(image):
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1)[None]


def to_array(tensor):
    return tensor[0].permute(1, 2, 0).squeeze(-1).numpy()


# Independent implementations of the maps, for one point.


def affine(p, u, v):
    a, b, e, c, d, f = p
    return u + a * u + b * v + e, v + c * u + d * v + f


def homography(p, u, v):
    """Solve for the matrix, then multiply."""
    rows, target = [], []
    for (x, y), dx, dy in zip(((-1, -1), (1, -1), (1, 1), (-1, 1)), p[::2], p[1::2]):
        for place, row in ((x + dx, [x, y, 1, 0, 0, 0]), (y + dy, [0, 0, 0, x, y, 1])):
            rows.append([*row, -place * x, -place * y])
            target.append(place)
    matrix = np.append(np.linalg.solve(rows, target), 1).reshape(3, 3)
    x, y, w = matrix @ [u, v, 1]
    return x / w, y / w


def elastic(p, u, v):
    def spline(t):
        """Evaluate the uniform cubic B-spline as the fourth difference of a power."""
        return sum((-1) ** k * math.comb(4, k) * max(0.0, t + 2 - k) ** 3 for k in range(5)) / 6

    x, y = u, v
    for i in range(8):
        for j in range(8):
            weight = spline((v + 1.4 - 0.4 * i) / 0.4) * spline((u + 1.4 - 0.4 * j) / 0.4)
            x += p[8 * i + j] * weight
            y += p[64 + 8 * i + j] * weight
    return x, y


def polynomial(p, u, v):
    powers = [(i, j) for i in range(4) for j in range(4) if i + j <= 3]
    x = u + sum(p[k] * v**i * u**j for k, (i, j) in enumerate(powers))
    y = v + sum(p[10 + k] * v**i * u**j for k, (i, j) in enumerate(powers))
    return x, y


ORACLES = dict(affine=affine, homography=homography, elastic=elastic, polynomial=polynomial)


# Positions are multiples of 1 / 64 pixel, computed from rounded numbers.
ROUNDING = 1 / 128 + 1 / 1000


def oracle(pixels, name, params, height, width, fill):
    """Warp an image (h, w) or (h, w, 3) without reduction.

    Returns:
        The result, and the error bound of each value from rounded positions: infinite at the border of the image.
    """
    pixels = pixels.astype(float)
    result = np.full((height, width, *pixels.shape[2:]), fill, dtype=float)
    slack = np.zeros(result.shape)
    rows, columns = pixels.shape[:2]
    for r in range(height):
        for c in range(width):
            x, y = ORACLES[name](params[name], (2 * c + 1) / width - 1, (2 * r + 1) / height - 1)
            if min(abs(1 - abs(x)) * columns, abs(1 - abs(y)) * rows) / 2 < ROUNDING:
                slack[r, c] = np.inf
            if abs(x) > 1 or abs(y) > 1:
                continue
            i, j = (y + 1) / 2 * rows - 0.5, (x + 1) / 2 * columns - 0.5
            i0, j0 = math.floor(i), math.floor(j)
            around = np.array(
                [
                    [pixels[np.clip(ii, 0, rows - 1), np.clip(jj, 0, columns - 1)] for jj in (j0, j0 + 1)]
                    for ii in (i0, i0 + 1)
                ]
            )
            result[r, c] = np.einsum('i,j,ij...', [i0 + 1 - i, i - i0], [j0 + 1 - j, j - j0], around)
            slopes = np.abs(np.diff(around, axis=0)).max((0, 1)) + np.abs(np.diff(around, axis=1)).max((0, 1))
            # Twice, since the rounded position may be in the next cell.
            slack[r, c] += 2 * ROUNDING * slopes
    return result, slack


@pytest.mark.parametrize(
    'image, name, magnitude, size',
    list(AllPairs([IMAGES, NAMES, (0.1, 0.5, 1.0), ((20, 28), (31, 40), (45, 16))])),
    indirect=['image'],
)
def test_warps_are_those_of_the_oracle(image, name, magnitude, size):
    small = image.resize((31, 27), Image.Resampling.BOX, (100, 20, 228, 128) if image.width > 300 else None)
    params = draw(name, magnitude, 7)
    expected, slack = oracle(np.asarray(small), name, params, *size, fill=90)
    assert np.isinf(slack).mean() < 0.01 and slack[np.isfinite(slack)].mean() < 1
    got = np.asarray(WARPS[name].apply(small, params, size, fill=90)).astype(float)
    assert (np.abs(got - expected) <= slack + 0.501).all()
    precise = to_array(WARPS[name].apply(to_tensor(small).double(), params, size, fill=90))
    assert (np.abs(precise - expected) <= slack + 1e-9).all()


@pytest.mark.parametrize('name', NAMES)
def test_magnitude_0_is_the_identity(image, name):
    params = draw(name, 0)
    assert not any(params[name]) and '-' not in json.dumps(params)
    same = WARPS[name].apply(image, params, size=(image.height, image.width))
    assert same.mode == image.mode and same is not image and np.array_equal(same, image)
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64):
        tensor = to_tensor(image).to(dtype) / (1 if dtype == torch.uint8 else 7)
        tensor = tensor.to(dtype)
        same = WARPS[name].apply(tensor, params)
        assert same.dtype == dtype and same.data_ptr() != tensor.data_ptr() and torch.equal(same, tensor)


@pytest.mark.parametrize('name', NAMES)
def test_the_identity_may_stand_in_a_batch(photo, name):
    batch = (to_tensor(photo)[:, :, :90, :90] / 255).repeat(3, 1, 1, 1)
    warped = WARPS[name].apply(batch, [draw(name, 0), draw(name), draw(name, 0)])
    assert torch.equal(warped[0], batch[0]) and torch.equal(warped[2], batch[2])
    assert not torch.equal(warped[1], batch[1])


@pytest.mark.parametrize(
    'image, name, size, magnitude',
    list(AllPairs([IMAGES, NAMES, (None, 224, (100, 60), (37, 300), 1, 700), (0, 0.1, 0.6)])),
    indirect=['image'],
)
def test_pil_and_tensors_agree(image, name, size, magnitude):
    params = draw(name, magnitude, 3)
    tensor = to_tensor(image)
    fill = 100 if image.mode == 'L' else (10, 100, 200)
    pil = to_tensor(WARPS[name].apply(image, params, size, fill)).int()
    whole = WARPS[name].apply(tensor, params, size, fill)
    assert whole.dtype == torch.uint8 and whole.shape == pil.shape
    height, width = (size, size) if isinstance(size, int) else size or tensor.shape[-2:]
    reduced = tensor.shape[-2] >= 2 * height or tensor.shape[-1] >= 2 * width
    assert (whole.int() - pil).abs().max() <= (1 if reduced else 0)
    for dtype, scale in ((torch.float32, 1), (torch.float64, 1), (torch.float32, 255)):
        precise = WARPS[name].apply(tensor.to(dtype) / scale, params, size, [f / scale for f in np.atleast_1d(fill)])
        assert precise.dtype == dtype
        assert (precise * scale - pil).abs().max() <= (1.2 if reduced else 0.51)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [None, 512, (61, 80)])
def test_without_numba_the_pixels_are_the_same(photo, name, size, monkeypatch):
    for mode in ('L', 'RGB'):
        image, params = photo.convert(mode), draw(name, 0.5, 4)
        expected = WARPS[name].apply(image, params, size, fill=90)
        with monkeypatch.context() as patch:
            patch.setattr(shape, 'numba_kernels', lambda module: None)
            assert WARPS[name].apply(image, params, size, fill=90) == expected


@pytest.mark.slow
def test_what_torch_makes_of_the_cpu_does_not_change_the_pixels():
    """torch selects code by CPU capability, with different rounding."""
    script = (
        'import hashlib, numpy as np, torch\nfrom timm_fractal.shape.warps import WARPS\n'
        'pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 200, 301), np.uint8))\n'
        'params = [warp.make_params(np.random.default_rng(1), 0.4) for warp in WARPS.values()]\n'
        'results = [warp.apply(pixels, p, (190, 250), 90) for warp, p in zip(WARPS.values(), params)]\n'
        'print(hashlib.sha256(torch.stack(results).numpy().tobytes()).hexdigest())\n'
    )
    outputs = {
        subprocess.run(
            [sys.executable, '-c', script],
            env=os.environ | {'ATEN_CPU_CAPABILITY': capability},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for capability in ('default', 'avx2', 'avx512')
    }
    assert len(outputs) == 1


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_rounds_only_the_result(photo, name, dtype):
    tensor = to_tensor(photo)[:, :, :120, :150].float() / 255
    half = WARPS[name].apply(tensor.to(dtype), draw(name), 50)
    full = WARPS[name].apply(tensor.to(dtype).float(), draw(name), 50)
    assert half.dtype == dtype and (half.float() - full).abs().max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('size', [None, (31, 44)])
def test_a_batch_is_its_images_one_by_one(photo, name, dtype, size):
    batch = torch.stack([to_tensor(photo)[0, :, k : k + 96, 5 * k : 5 * k + 64] for k in range(0, 60, 10)]).to(dtype)
    records = [draw(name, 0.1 * k, k) for k in range(6)]
    together = WARPS[name].apply(batch, records, size, fill=(1, 2, 3))
    for k in range(6):
        alone = WARPS[name].apply(batch[k], records[k], size, fill=(1, 2, 3))
        assert alone.shape == together.shape[1:]
        torch.testing.assert_close(alone, together[k], rtol=0, atol=0 if dtype == torch.uint8 else 1e-3)
    one = WARPS[name].apply(batch, records[3], size)
    every = WARPS[name].apply(batch, [records[3]] * 6, size)
    torch.testing.assert_close(one, every, rtol=0, atol=0 if dtype == torch.uint8 else 1e-3)


@pytest.mark.parametrize('name', NAMES)
def test_records_survive_json(photo, name):
    for seed in range(20):
        params = draw(name, 0.4, seed)
        again = json.loads(json.dumps(params))
        assert again == params and len(params[name]) == WARPS[name].count
    assert np.array_equal(WARPS[name].apply(photo, params, 64), WARPS[name].apply(photo, again, 64))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('magnitude', [0.1, 0.3, 0.6, 1.0])
def test_a_warp_never_leaves_the_image_empty(name, magnitude):
    count, size = 500, 40
    rng = np.random.default_rng(1)
    records = [WARPS[name].make_params(rng, magnitude) for _ in range(count)]
    # A white image, and a spot in the center, a twelfth of the width.
    batch = torch.ones(1, 2, 48, 48)
    batch[:, 1] = 0
    batch[:, 1, 22:26, 22:26] = 1
    warped = WARPS[name].apply(batch.expand(count, -1, -1, -1), records, size)
    assert warped[:, 0].mean(dim=(1, 2)).min() >= 0.25
    assert warped[:, 1].amax(dim=(1, 2)).min() > 0


@pytest.mark.parametrize('name', NAMES)
def test_magnitude_is_the_formula_where_nothing_has_to_be_pulled_back(name):
    warp, drawn = WARPS[name], []
    for seed in range(100):
        numbers = np.random.default_rng(seed).random(warp.count)
        expected = 0.1 * warp.scale * (2 * numbers - 1)
        drawn.append(warp.make_params(np.random.default_rng(seed), 0.1)[name])
        np.testing.assert_allclose(drawn[-1], expected, atol=1e-6)
    strong = np.array([warp.make_params(np.random.default_rng(seed), 1.0)[name] for seed in range(100)])
    # All parameters are scaled by one factor.
    for weak, pulled in zip(10 * np.array(drawn), strong):
        factor = pulled @ weak / (weak @ weak)
        assert 0.05 < factor < 1.0001
        np.testing.assert_allclose(pulled, factor * weak, atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_weak_warps_need_no_look(name):
    warp = WARPS[name]
    signs = np.random.default_rng(0).choice([-1, 1], (3000, warp.count))
    if warp.count <= 8:
        signs = np.array(list(itertools.product([-1, 1], repeat=warp.count)))
    assert warp._are_valid(signs * warp.scale * warp._safe).all()
    # Strong warps do need the check.
    assert not warp._are_valid(signs * warp.scale).all()


@pytest.mark.parametrize('name', NAMES)
def test_stronger_is_farther_from_the_image(photo, name):
    gray = photo.convert('L').crop((100, 50, 400, 350))
    means = []
    for magnitude in (0, 0.05, 0.1, 0.2):
        warped = [np.asarray(WARPS[name].apply(gray, draw(name, magnitude, k)), float) for k in range(10)]
        means.append(np.mean([np.abs(array - np.asarray(gray)).mean() for array in warped]))
    assert means == sorted(means) and means[0] == 0 and means[1] > 1


def test_golden_records():
    """Identical on all machines and versions of numpy."""
    digests = {}
    for name in NAMES:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([1, 2])))
        records = [
            WARPS[name].make_params(rng, magnitude) for magnitude in (0.05, 0.1, 0.3, 0.6, 1.0) for _ in range(20)
        ]
        digests[name] = hashlib.sha256(json.dumps(records).encode()).hexdigest()[:16]
    assert digests == {
        'affine': '9f53023f89ec84cf',
        'homography': '9f794f68661dee5a',
        'elastic': '8cc0c99efe856a53',
        'polynomial': '7cf080d2ea0ca509',
    }


def test_only_random_is_drawn():
    class Counts:
        def __init__(self):
            self.calls = []

        def random(self, count):
            self.calls.append(count)
            return np.full(count, 0.75)

    for name in NAMES:
        for magnitude in (0.0, 0.5, 1.0):
            rng = Counts()
            WARPS[name].make_params(rng, magnitude)
            assert rng.calls == [WARPS[name].count]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', SIZES)
def test_every_size(name, shape):
    image = Image.effect_noise(shape[::-1], 60)
    for size in (None, 1, (3, 50)):
        warped = WARPS[name].apply(image, draw(name), size)
        assert warped.size == (image.size if size is None else (1, 1) if size == 1 else (50, 3))


def test_fill():
    away = {'affine': [0, 0, 2, 0, 0, 0]}
    warp = WARPS['affine']
    gray, colour = Image.new('L', (9, 9), 50), Image.new('RGB', (9, 9), (5, 6, 7))
    assert warp.apply(gray, away).getcolors() == [(81, 0)]
    assert warp.apply(gray, away, fill=12.6).getcolors() == [(81, 13)]
    assert warp.apply(gray, away, fill=(255, 0, 0)).getcolors() == [(81, 76)]
    assert warp.apply(colour, away, fill=200).getcolors() == [(81, (200,) * 3)]
    assert warp.apply(colour, away, fill=(1, 2, 3)).getcolors() == [(81, (1, 2, 3))]
    tensor = torch.zeros(2, 4, 5, 5)
    assert torch.equal(warp.apply(tensor, away, fill=-1.5), torch.full_like(tensor, -1.5))
    assert warp.apply(tensor, away, fill=(1, 2, 3, 4))[1, :, 0, 0].tolist() == [1, 2, 3, 4]


def test_gradients_flow():
    batch = torch.rand(2, 1, 16, 16, requires_grad=True)
    WARPS['elastic'].apply(batch, draw('elastic'), 8).sum().backward()
    assert batch.grad.abs().sum() > 0


@pytest.mark.parametrize('name', NAMES)
def test_the_image_is_not_changed(photo, name):
    image = photo.copy()
    tensor = to_tensor(photo)
    before = tensor.clone()
    WARPS[name].apply(image, draw(name), 100)
    WARPS[name].apply(tensor, draw(name), 100)
    assert np.array_equal(image, photo) and torch.equal(tensor, before)


def test_bad_input(photo):
    warp, params = WARPS['affine'], draw('affine')
    for magnitude in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='magnitude must be at least 0 and at most 1, got'):
            draw('affine', magnitude)
    for mode in ('RGBA', 'P', 'I;16', 'CMYK', '1', 'LA', 'F'):
        for call in (lambda image: warp.apply(image, params), *VIEWS.values()):
            with pytest.raises(ValueError, match=f'mode L or RGB, got {mode!r}'):
                call(Image.new(mode, (8, 8)))
    with pytest.raises(TypeError, match='PIL image or a uint8 or floating point tensor, got torch.int64'):
        warp.apply(torch.zeros(1, 1, 4, 4, dtype=torch.int64), params)
    with pytest.raises(TypeError, match='got ndarray'):
        warp.apply(np.zeros((4, 4)), params)
    for wrong in ((4, 4), (1, 1, 1, 4, 4), (0, 1, 4, 4), (1, 1, 0, 4)):
        with pytest.raises(ValueError, match='shape'):
            warp.apply(torch.zeros(wrong), params)
    for size in (0, -1, (1,), (1, 2, 3), (2.5, 3), '12'):
        with pytest.raises(ValueError, match='size must be'):
            warp.apply(photo, params, size=size)
    for wrong in (draw('elastic'), {'affine': [0.0] * 5}, {}, [params] * 2):
        with pytest.raises(ValueError, match='params must be'):
            warp.apply(photo, wrong)
    with pytest.raises(ValueError, match='one per image, 3, got 2'):
        warp.apply(torch.zeros(3, 1, 4, 4), [params] * 2)
    with pytest.raises(ValueError, match='3, got 1'):
        warp.apply(torch.zeros(3, 1, 4, 4), [params])
    with pytest.raises(ValueError, match='params must be finite'):
        warp.apply(photo, {'affine': [math.nan] * 6})
    with pytest.raises(ValueError, match='params must be finite and define a map'):
        WARPS['homography'].apply(photo, {'homography': [1.0, 1, -1, 1, -1, -1, 1, -1]})
    for fill in ((1, 2), math.inf, -1, 256):
        with pytest.raises(ValueError, match='fill must be'):
            warp.apply(photo, params, fill=fill)


def test_views(photo):
    gray = VIEWS['gray'](photo)
    assert gray.mode == 'L' and np.array_equal(gray, photo.convert('L'))
    assert np.array_equal(VIEWS['gray'](gray), gray)
    assert np.array_equal(VIEWS['rgb'](photo), photo)
    assert VIEWS['rgb'](gray).mode == 'RGB'


def test_contours_without_their_library(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage.feature', None)
    with pytest.raises(ImportError, match=r"pip install 'timm-fractal\[contour\]'"):
        VIEWS['contour'](photo)
    with pytest.raises(ValueError, match='sigma must be greater than 0'):
        VIEWS['contour'](photo, 0)


def test_contours_are_edges(photo):
    pytest.importorskip('skimage')
    half = Image.new('L', (64, 48))
    half.paste(255, (32, 0, 64, 48))
    edges = np.asarray(VIEWS['contour'](half))
    assert set(np.unique(edges)) == {0, 255}
    assert set(edges.nonzero()[1]) <= {31, 32} and (edges[4:-4].max(axis=1) == 255).all()
    drawn = VIEWS['contour'](photo)
    assert drawn.mode == 'L' and drawn.size == photo.size
    assert 0.01 < np.mean(np.asarray(drawn) == 255) < 0.2


@pytest.mark.parametrize('name', NAMES)
def test_in_pipelines_of_torchvision(photo, name):
    for compose, tensor in ((v1.Compose, v1.ToTensor()), (v2.Compose, v2.ToImage())):
        pil = compose([RandomShape(name), v1.RandomHorizontalFlip(), tensor])(photo)
        assert tuple(pil.shape) == (3, photo.height, photo.width)
        after = compose([tensor, RandomShape(name, 0.2), v2.Resize(32)])(photo)
        assert isinstance(after, type(pil)) and after.dtype == pil.dtype and after.shape[-2] == 32
    image, label = v2.Compose([v2.ToImage(), RandomShape(name)])(photo, 3)
    assert type(image) is tv_tensors.Image and label == 3
    video = tv_tensors.Video(torch.rand(2, 3, 4, 16, 16))
    assert RandomShape(name)(video).shape == video.shape


def test_random_shape_draws_from_torch(photo):
    small = photo.resize((64, 48))
    transform = pickle.loads(pickle.dumps(RandomShape('homography', 0.5, fill=(1, 2, 3))))
    torch.manual_seed(5)
    np.random.seed(0)
    first, second = np.asarray(transform(small)), np.asarray(transform(small))
    torch.manual_seed(5)
    assert np.array_equal(transform(small), first) and not np.array_equal(first, second)
    torch.manual_seed(5)
    assert np.array_equal(to_array(transform(to_tensor(small))), first)
    assert RandomShape(p=0)(small) is small
    half = RandomShape(p=0.5)
    assert 20 < sum(half(small) is small for _ in range(80)) < 60


def test_random_shape_repr_and_errors():
    assert repr(RandomShape()) == 'RandomShape(warp=affine, magnitude=0.1, p=1.0, fill=0, mask_fill=0)'
    assert repr(RandomShape('elastic', 0.3, 0.5, (1, 2, 3))) == (
        'RandomShape(warp=elastic, magnitude=0.3, p=0.5, fill=(1, 2, 3), mask_fill=0)'
    )
    assert repr(WARPS['affine']) == 'Affine()'
    with pytest.raises(ValueError, match="warp must be one of affine, homography, elastic, polynomial, got 'afine'"):
        RandomShape('afine')
    with pytest.raises(ValueError, match='magnitude must be at least 0 and at most 1, got 2'):
        RandomShape(magnitude=2)
    with pytest.raises(ValueError, match='p must be at least 0 and at most 1, got -1'):
        RandomShape(p=-1)


@pytest.mark.parametrize('name', NAMES)
def test_as_an_operation_of_timm(photo, name, monkeypatch):
    from timm.data import auto_augment

    monkeypatch.setitem(auto_augment.NAME_TO_OP, 'Shape', lambda image, *a, **k: shape_op(image, *a, warp=name, **k))
    monkeypatch.setitem(auto_augment.LEVEL_TO_ARG, 'Shape', lambda level, hparams: (level / 10 * 0.3,))
    operation = AugmentOp('Shape', prob=1, magnitude=9, hparams={'magnitude_std': 0.5, 'img_mean': (1, 2, 3)})
    policy = RandAugment([operation], num_layers=2)
    for mode in ('RGB', 'L'):
        small = photo.resize((64, 48)).convert(mode)
        random.seed(3)
        first, second = policy(small), policy(small)
        random.seed(3)
        np.random.seed(0)
        assert first.mode == mode and np.array_equal(policy(small), first) and not np.array_equal(first, second)


def test_shape_op_fills_and_clips(photo):
    small = photo.resize((64, 48))
    random.seed(0)
    filled = np.asarray(shape_op(small, 1, fillcolor=(255, 0, 255), resample=2))
    assert (filled == (255, 0, 255)).all(axis=-1).mean() > 0.05
    random.seed(0)
    assert np.array_equal(shape_op(small, 7.5, fillcolor=(255, 0, 255)), filled)
    assert np.array_equal(shape_op(small, 0), small)
    random.seed(0)
    gray = np.asarray(shape_op(Image.new('L', (64, 48)), 1, fillcolor=(255, 0, 255)))
    assert set(np.unique(gray)) == {0, 105}
    random.seed(0)
    assert shape_op(small, 1, fillcolor=None).mode == 'RGB'
    with pytest.raises(ValueError, match='magnitude must be at least 0'):
        shape_op(small, -1)
    with pytest.raises(ValueError, match='warp must be one of'):
        shape_op(small, 0.1, 'bend')
