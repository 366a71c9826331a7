"""Data sets of pixels: one real image, and noise."""

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from torch.utils.data import DataLoader

from timm_fractal import Image1, Noise1
from timm_fractal._utils.rng import Stream, stream
from timm_fractal.data import create, photos
from timm_fractal.data.noise import noise_image
from timm_fractal.data.photos import read_image
from timm_fractal.shape import VIEWS, WARPS

PHOTOS = Path(sklearn.datasets.__file__).parent / 'images'
CHINA, FLOWER = PHOTOS / 'china.jpg', PHOTOS / 'flower.jpg'
SMALL = 'image1/classes=6,size=64'


def pixels(dataset):
    return np.stack([np.asarray(image) for image, _ in dataset])


def digest(dataset):
    return hashlib.sha256(pixels(dataset).tobytes()).hexdigest()[:16]


def make(name, split='train', **options):
    root = CHINA if name.startswith('image1') else None
    return create(name, split=split, **{'root': root} | options)


@pytest.fixture
def folder(tmp_path):
    for i, photo in enumerate((CHINA, FLOWER, CHINA)):
        shutil.copy(photo, tmp_path / f'{i}.jpg')
    with Image.open(CHINA) as image:
        image.rotate(90, expand=True).save(tmp_path / '2.jpg', quality=95)
    return tmp_path


@pytest.mark.parametrize('warp', list(WARPS))
@pytest.mark.parametrize('view', list(VIEWS))
def test_a_class_is_one_warp_of_the_view(warp, view):
    dataset = make(f'image1/classes=4,size=128,warp={warp},view={view},delta=0.3,seed=2')
    photo = VIEWS[view](read_image(CHINA, 128, 'RGB' if view == 'rgb' else 'L'))
    for k, (image, label) in enumerate(dataset):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((2, 11, k))))
        expected = WARPS[warp].apply(photo, WARPS[warp].make_params(rng, 0.3))
        assert label == k and image.mode == 'RGB'
        assert np.array_equal(np.asarray(image), np.asarray(expected.convert('RGB')))
    assert len(np.unique(pixels(dataset), axis=0)) == 4


# Hashes for a lossless image, which all versions of Pillow decode alike.
@pytest.mark.parametrize(
    'name, split, expected',
    [
        ('image1/classes=4,size=64', 'train', 'da0511b2792276b3'),
        ('image1/classes=4,size=64', 'validation', '664780b4326a5c4c'),
        ('image1/classes=4,size=64,view=rgb,warp=elastic,delta=0.3,seed=1', 'train', 'c0b86adc0d4cb92e'),
        ('image1/classes=4,size=64,view=contour,warp=polynomial', 'train', 'b5ea5c6d2e47c3f1'),
        ('image1/classes=4,size=64,warp=homography,delta=0.1', 'train', 'aeebd081033c3c1b'),
        ('noise1/classes=4,size=64', 'train', '0bacb5454df55032'),
        ('noise1/classes=4,size=64,noise=uniform,delta=0.5', 'validation', '05b05107a3ac7b45'),
    ],
)
def test_same_name_same_bytes(name, split, expected, tmp_path):
    path = tmp_path / 'image.png'
    y, x = np.mgrid[:80, :80].astype(np.uint8)
    Image.fromarray(np.stack([3 * x, 3 * y, (x // 16 + y // 16) % 2 * 255], axis=2)).save(path)
    assert digest(make(name, split, root=path if name.startswith('image1') else None)) == expected


NAMES = [SMALL, f'{SMALL},view=rgb,warp=elastic', 'noise1/classes=6,size=64', 'noise1/classes=6,size=64,noise=uniform']


@pytest.mark.parametrize('split', ['train', 'validation'])
@pytest.mark.parametrize('name', NAMES)
def test_a_class_does_not_depend_on_the_number_of_classes_nor_on_the_cache(name, split):
    few, many, fresh = (make(n, split) for n in (name, name.replace('=6,', '=20,'), f'{name},cache=none'))
    assert few._table is not None and fresh._table is None
    assert np.array_equal(pixels(few), pixels(many)[:6])
    assert np.array_equal(pixels(few), pixels(fresh))


@pytest.mark.parametrize('name', NAMES)
def test_splits_share_their_classes(name):
    train, validation = (pixels(make(f'{name},delta=0.3', split)).astype(float) for split in ('train', 'validation'))
    assert all((train[k] != validation[k]).any() for k in range(6))
    if name.startswith('image1'):
        distances = np.abs(train[:, None] - validation[None]).mean(axis=tuple(range(2, train.ndim + 1)))
        assert np.array_equal(distances.argmin(0), np.arange(6))


def test_a_perturbed_pixel_is_within_delta_of_the_one_image():
    dataset = make('noise1/classes=3,size=64,delta=0.2', input_img_mode='L')
    images = pixels(dataset).astype(float)
    base = noise_image('gaussian', 64, stream(0, Stream.IMAGE))
    bright = base > 60
    ratio = images[:, bright] / base[bright]
    assert 0.79 < ratio.min() < 0.82 and ratio.max() < 1.21
    assert np.corrcoef(ratio[0], ratio[1])[0, 1] == pytest.approx(0, abs=0.06)


def test_classes_are_divided_over_the_images_of_a_folder(folder):
    dataset = Image1(f'{SMALL},delta=0', root=folder, input_img_mode='L')
    photos = [np.asarray(read_image(folder / f'{i}.jpg', 64, 'L')) for i in range(3)]
    assert len(np.unique(photos, axis=0)) == 3
    for k, (image, _) in enumerate(dataset):
        assert np.array_equal(np.asarray(image), photos[k % 3])
    with pytest.raises(ValueError, match=r'got 2 classes and 3 images: use classes=3 or more'):
        Image1('image1/classes=2,size=64', root=folder)
    (folder / '9.jpg').write_bytes(CHINA.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r'9\.jpg cannot be used: .*truncated'):
        Image1(SMALL, root=folder)


def test_many_images_are_read_on_access(folder, monkeypatch):
    kept = Image1(f'{SMALL},cache=none', root=folder)
    monkeypatch.setattr(photos, '_PHOTO_BYTES', 3 * 64 * 64 - 1)
    read = Image1(f'{SMALL},cache=none', root=folder)
    assert kept._photos is not None and read._photos is None
    assert np.array_equal(pixels(kept), pixels(read))


def test_21k_classes_are_not_21k_images_in_memory():
    dataset = make('image1/classes=21000')
    assert len(dataset) == 21_000 and dataset._table is None
    assert dataset._photos.numel() == 512 * 512
    image, label = dataset[20_999]
    assert label == 20_999 and image.size == (512, 512)


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(root=None), ValueError, 'image1 needs an image: --data-dir photo.jpg'),
        (dict(root='missing.jpg'), FileNotFoundError, "no such file or folder: 'missing.jpg'"),
        (dict(root=__file__), ValueError, 'is not an image Pillow can read'),
        (dict(name='image1/warp=afine'), ValueError, "unknown warp 'afine'; did you mean 'affine'"),
        (dict(name='image1/view=grey'), ValueError, "unknown view 'grey'; did you mean 'gray'"),
        (dict(name='image1/delta=1.5'), ValueError, 'delta must be at most 1, got 1.5'),
        (dict(name='noise1/noise=gauss'), ValueError, "unknown noise 'gauss'; did you mean 'gaussian'"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        create(**dict(name='image1', root=CHINA) | options)


def test_images_whose_warps_cannot_be_told_apart_are_refused(tmp_path):
    Image.new('RGB', (64, 64), 'black').save(tmp_path / 'black.png')
    with pytest.raises(ValueError, match=r'black\.png has a single color: all of its warps would look the same'):
        Image1(SMALL, root=tmp_path / 'black.png')
    Image.linear_gradient('L').save(tmp_path / 'smooth.png')
    with pytest.raises(ValueError, match=r'smooth\.png has no contour'):
        Image1(f'{SMALL},view=contour', root=tmp_path / 'smooth.png')


def collate(samples):
    return [(image.tobytes(), label) for image, label in samples]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('name', [f'{SMALL},cache=none', SMALL, 'noise1/classes=6,size=64,cache=none'])
@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_give_the_same_bytes(method, name):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f'{method} does not exist on this system')
    dataset = make(name, 'validation')
    expected = collate(dataset)
    loader = DataLoader(dataset, 2, num_workers=2, multiprocessing_context=method, collate_fn=collate)
    assert sum(loader, []) == expected


@pytest.mark.slow
def test_another_process_and_another_cpu_give_the_same_bytes():
    """torch selects code by CPU capability, with different rounding."""
    name = 'image1/classes=8,size=200,delta=0.3,warp='
    script = (
        'import sys, hashlib\nfrom timm_fractal import Image1\nfrom timm_fractal.shape import WARPS\n'
        f'images = [Image1("{name}" + warp, root=r"{CHINA}") for warp in WARPS]\n'
        'print(hashlib.sha256(b"".join(image.tobytes() for dataset in images for image, _ in dataset)).hexdigest())\n'
    )
    run = [sys.executable, '-c', script]
    digests = {
        subprocess.run(run, env=os.environ | environment, capture_output=True, text=True, check=True).stdout
        for environment in (dict(ATEN_CPU_CAPABILITY='default', OMP_NUM_THREADS='1'), dict(RANK='1'))
    }
    assert len(digests) == 1


def test_global_generators_are_left_alone():
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    list(make(f'{SMALL},cache=none', 'validation'))
    list(make('noise1/classes=3,size=64', 'validation'))
    assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before


def test_pickled_data_sets_are_the_same():
    for name in NAMES:
        dataset = make(f'{name},cache=none')
        assert np.array_equal(pixels(pickle.loads(pickle.dumps(dataset))), pixels(dataset))


def test_gray_input():
    for view in ('gray', 'rgb', 'contour'):
        rgb, gray = (make(f'{SMALL},view={view}', input_img_mode=mode) for mode in ('RGB', 'L'))
        for k in range(6):
            assert rgb[k][0].convert('L') == gray[k][0]


def test_noise_reads_nothing(tmp_path):
    assert np.array_equal(
        pixels(Noise1('noise1/classes=3,size=64', root=tmp_path)), pixels(make('noise1/classes=3,size=64'))
    )
