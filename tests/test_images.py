"""Real photographs, from the sample images of scikit-learn and scikit-image."""

import io
import math
import shutil
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import tifffile
from PIL import Image, ImageOps

from timm_fractal._utils import console
from timm_fractal.data.base import jitter
from timm_fractal.data.noise import noise_image, perturb_pixels
from timm_fractal.data.photos import EXTENSIONS, list_images, open_image, read_image

CHINA = Path(sklearn.datasets.__file__).parent / 'images' / 'china.jpg'
ASTRONAUT = skimage.data.astronaut()


def rng(seed=0):
    return np.random.default_rng(seed)


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean()


def plain(image, size=96, mode='RGB'):
    return image.convert(mode).resize((size, size), Image.Resampling.BICUBIC)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize('size', [64, 512, 700])
def test_a_photograph_of_any_size_fills_the_square(size, mode):
    with Image.open(CHINA) as photo:
        expected = plain(photo, size, mode)
    image = read_image(CHINA, size, mode)
    assert image.size == (size, size) and image.mode == mode
    # Decoding a JPEG at half its size differs slightly from reducing it.
    assert difference(image, expected) < (2 if size == 64 else 0.1)


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_modes(tmp_path):
    photo = Image.fromarray(ASTRONAUT)
    expected = plain(photo)
    cmyk = read_image(save(photo.convert('CMYK'), tmp_path / 'cmyk.jpg', quality=95), 96)
    assert difference(cmyk, expected) < 4
    palette = read_image(save(photo.quantize(256), tmp_path / 'palette.png'), 96)
    assert difference(palette, expected) < 6
    gray = read_image(save(photo.convert('L'), tmp_path / 'gray.png'), 96)
    assert difference(gray, plain(photo.convert('L'))) == 0
    one = read_image(save(photo.convert('1'), tmp_path / 'one.png'), 96)
    assert difference(one, plain(photo.convert('1'))) == 0
    opaque = photo.copy()
    opaque.putalpha(255)
    assert difference(read_image(save(opaque, tmp_path / 'alpha.png'), 96), expected) == 0
    assert difference(read_image(save(photo, tmp_path / 'photo.webp', lossless=True), 96), expected) == 0
    assert difference(read_image(save(photo, tmp_path / 'photo.bmp'), 96), expected) == 0


def test_sixteen_bits_are_reduced(tmp_path):
    gray = np.asarray(Image.fromarray(ASTRONAUT).convert('L'))
    for name, deep in (('png', gray.astype(np.uint16) * 257), ('tif', gray.astype(np.uint16) * 257)):
        path = save(Image.fromarray(deep), tmp_path / f'deep.{name}')
        with Image.open(path) as image:
            assert image.mode.startswith('I')
        assert difference(read_image(path, 96, 'L'), plain(Image.fromarray(gray), mode='L')) == 0


def png16(path, levels, exif=b'', transparent=()):
    """Write a 16-bit PNG file, gray or color, with or without opacity, which Pillow cannot."""
    levels = np.atleast_3d(levels)
    height, width, channels = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in levels)
    chunks = [
        (b'IHDR', struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)),
        *([(b'eXIf', exif)] if exif else []),
        *([(b'tRNS', struct.pack(f'>{len(transparent)}H', *transparent))] if transparent else []),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    ]
    parts = (struct.pack('>I', len(d)) + name + d + struct.pack('>I', zlib.crc32(name + d)) for name, d in chunks)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(parts))
    return path


COLOR = ASTRONAUT[100:200, 150:230]
GRAY = np.asarray(Image.fromarray(COLOR).convert('L'))


def deep(pixels, bits):
    return np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint16)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('pixels', [GRAY, COLOR], ids=['gray', 'color'])
def test_what_is_kept_in_sixteen_bits_is_seen(pixels, bits, tmp_path, caplog):
    """All levels, in all common file formats, with a single log message."""
    levels = deep(pixels, bits)
    paths = [png16(tmp_path / 'x.png', levels)]
    for number, options in enumerate([{}, dict(byteorder='>'), dict(compression='zlib')]):
        paths.append(tmp_path / f'{number}.tif')
        tifffile.imwrite(paths[-1], levels, **options)
    if pixels is GRAY:
        paths += [tmp_path / 'x.pgm', tmp_path / 'int.tif', tmp_path / 'float.tif', tmp_path / 'unit.tif']
        Image.fromarray(levels).save(paths[-4])
        Image.fromarray(levels.astype(np.int32)).save(paths[-3])
        Image.fromarray(levels.astype(np.float32)).save(paths[-2])
        Image.fromarray((levels / 65535).astype(np.float32)).save(paths[-1])
    expected = np.asarray(Image.fromarray(pixels).convert('RGB'))
    assert pixels.max() > 230
    for path in paths:
        assert np.array_equal(np.asarray(open_image(path)), expected), path
    words = f'x.png has levels up to {levels.max()} in 16 bits: read as a {bits}-bit image and scaled'
    assert [words in record.getMessage() for record in caplog.records] == [True] * (bits < 16)


@pytest.mark.parametrize('shift', [0, 4])
def test_opacity_is_as_deep_as_the_colors_or_deeper(shift, tmp_path):
    opacity = np.full(GRAY.shape, 65535, np.uint16)
    opacity[:20] = 0
    for pixels in (GRAY, COLOR):
        expected = np.array(Image.fromarray(pixels).convert('RGB'))
        expected[:20] = 255
        path = png16(tmp_path / 'x.png', np.dstack([deep(pixels, 12), opacity >> shift]))
        assert np.array_equal(np.asarray(open_image(path)), expected)


def test_shallow_levels_are_upright_and_their_transparent_level_is_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for pixels in (GRAY, COLOR):
        levels = np.atleast_3d(deep(pixels, 12))
        expected = np.array(Image.fromarray(pixels).convert('RGB'))
        expected[(levels == levels[5, 5]).all(-1)] = 255
        path = png16(tmp_path / 'x.png', levels, exif.tobytes().removeprefix(b'Exif\0\0'), levels[5, 5].tolist())
        assert np.array_equal(np.asarray(open_image(path)), np.rot90(expected, -1))


def test_floating_point_numbers_of_another_range_are_scaled(tmp_path, caplog):
    for low, high in ((-1, 1), (0, 1e6), (-300, 8000)):
        values = (low + (high - low) * (GRAY.astype(float) - GRAY.min()) / np.ptp(GRAY)).astype(np.float32)
        path = save(Image.fromarray(values), tmp_path / f'{high}.tif')
        expected = np.rint(255 * (GRAY.astype(float) - GRAY.min()) / np.ptp(GRAY))
        assert np.abs(np.asarray(open_image(path).convert('L')) - expected).max() <= 1
    (record,) = caplog.records
    assert record.getMessage().endswith('1.tif has pixels from -1 to 1: scaled to the full range of brightness')


def test_heic_is_read_with_its_package(tmp_path, monkeypatch):
    def register():
        Image.register_open('TEST', lambda file, name: Image.new('RGB', (32, 32), 'red'), lambda head: b'heic' in head)

    monkeypatch.setattr(Image, 'ID', list(Image.ID))
    monkeypatch.setattr(Image, 'OPEN', dict(Image.OPEN))
    monkeypatch.setitem(sys.modules, 'pillow_heif', types.SimpleNamespace(register_heif_opener=register))
    assert open_image(heic(tmp_path)).getpixel((5, 5)) == (255, 0, 0)


def test_what_is_transparent_is_white(tmp_path):
    for mode in ('RGBA', 'LA'):
        image = Image.new(mode, (64, 64), 0)
        image.paste(Image.new(mode, (32, 64), (50, 255) if mode == 'LA' else (50, 50, 50, 255)), (0, 0))
        read = np.asarray(read_image(save(image, tmp_path / f'{mode}.png'), 64, 'L'))
        assert (read[:, :30] == 50).all() and (read[:, 34:] == 255).all()
    palette = Image.fromarray(np.repeat([[0, 1]], 32, axis=1).repeat(64, 0).astype(np.uint8), 'L').convert('P')
    path = save(palette, tmp_path / 'palette.png', transparency=0)
    assert (np.asarray(read_image(path, 64, 'L'))[:, :30] == 255).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photographs_are_upright(orientation, tmp_path):
    photo = Image.fromarray(ASTRONAUT[:, :300])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(photo, tmp_path / 'photo.jpg', exif=exif, quality=95)
    with Image.open(path) as image:
        expected = plain(ImageOps.exif_transpose(image))
    assert difference(read_image(path, 96), expected) < 2
    assert (difference(read_image(path, 96), plain(photo)) < 3) == (orientation == 1)


def truncated(tmp_path):
    path = tmp_path / 'truncated.jpg'
    path.write_bytes(CHINA.read_bytes()[:30_000])
    return path


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(console, '_warned', set())


def not_an_image(tmp_path):
    path = tmp_path / 'notes.jpg'
    path.write_text('not an image')
    return path


def animated(tmp_path):
    frames = [Image.new('L', (32, 32), level) for level in (0, 100, 200)]
    return save(frames[0], tmp_path / 'animated.gif', save_all=True, append_images=frames[1:])


def tiny(tmp_path):
    return save(Image.new('RGB', (1, 1)), tmp_path / 'tiny.png')


def not_a_number(tmp_path):
    return save(Image.new('F', (64, 64), math.nan), tmp_path / 'float.tif')


def separate_planes(tmp_path):
    planes = np.moveaxis(257 * ASTRONAUT.astype(np.uint16), 2, 0)
    tifffile.imwrite(tmp_path / 'planes.tif', planes, photometric='rgb', planarconfig='separate')
    return tmp_path / 'planes.tif'


def dark_ink(tmp_path):
    inks = np.dstack([ASTRONAUT, ASTRONAUT[..., 0]]).astype(np.uint16)
    tifffile.imwrite(tmp_path / 'inks.tif', inks, photometric='separated')
    return tmp_path / 'inks.tif'


def heic(tmp_path):
    path = tmp_path / 'IMG_1.HEIC'
    path.write_bytes(b'\0\0\0\x1cftypheic\0\0\0\0mif1heic' + bytes(100))
    return path


def damaged_png(tmp_path):
    file = io.BytesIO()
    Image.fromarray(ASTRONAUT).save(file, 'PNG')
    content = bytearray(file.getvalue())
    content[len(content) // 2] ^= 255
    path = tmp_path / 'damaged.png'
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    'make, message',
    [
        (truncated, 'truncated'),
        (not_an_image, 'is not an image Pillow can read'),
        (animated, 'it has 3 frames or pages: save one of them as a still image'),
        (tiny, 'it must be at least 16 x 16 pixels, got 1 x 1'),
        (not_a_number, 'some of its pixels are not finite numbers'),
        (separate_planes, 'are in separate planes, which Pillow misreads'),
        (dark_ink, r'its 16 bits \(CMYK;16L\) cannot be read in full, and it is nearly black'),
        (heic, r'IMG_1\.HEIC is not an image Pillow can read: for HEIC, pip install pillow-heif;'),
        (damaged_png, 'cannot be used'),
    ],
)
def test_bad_images_are_refused(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        read_image(path, 64)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('factor', [1.5, 3])
def test_decompression_bombs_are_refused(factor, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', int(640 * 427 / factor))
    with pytest.raises(ValueError, match=r'more pixels than PIL\.Image\.MAX_IMAGE_PIXELS = \d+'):
        read_image(CHINA, 64)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 640 * 427)
    assert read_image(CHINA, 64).size == (64, 64)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / 'missing.jpg', 64)
    with pytest.raises(FileNotFoundError, match=r"--data-dir: no such file or folder: '.*missing.jpg'"):
        list_images(tmp_path / 'missing.jpg')
    with pytest.raises(ValueError, match='no image in the folder'):
        list_images(tmp_path)


def test_folders_are_searched_for_images_in_the_order_of_names(tmp_path, caplog):
    for name in ('b/2.JPG', 'b/10.jpg', 'a.png', 'c.txt', '.hidden.jpg', '.git/x.png', 'z.webp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHINA, tmp_path / name)
    (tmp_path / 'folder.png').mkdir()
    for name in ('notes.txt', 'b/film.mov', 'raw.dng'):
        (tmp_path / name).write_text('no image')
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ['a.png', 'b/10.jpg', 'b/2.JPG', 'z.webp']
    assert list_images(CHINA) == [CHINA] and len(list_images(tmp_path)) == 4
    (record,) = caplog.records
    words = f'skipped files in {tmp_path} without an image extension: b/film.mov, c.txt, notes.txt, raw.dng'
    assert record.getMessage() == words
    assert {'.jpg', '.png'} <= set(EXTENSIONS)


def test_noise_has_the_distribution_that_it_says():
    uniform = noise_image('uniform', 512, rng())
    assert np.bincount(uniform.ravel(), minlength=256) == pytest.approx(np.full(256, 1024), rel=0.2)
    gaussian = noise_image('gaussian', 512, rng())
    levels = np.arange(0, 255, 15)
    expected = [(1 + math.erf((level + 0.5 - 127.5) / (42.5 * 2**0.5))) / 2 for level in levels]
    assert [(gaussian <= level).mean() for level in levels] == pytest.approx(expected, abs=0.003)


def test_perturbed_pixels_are_within_delta():
    image = noise_image('uniform', 128, rng())
    changed = perturb_pixels(image, 0.1, rng(1))
    ratio = changed[image > 100] / image[image > 100]
    assert 0.89 < ratio.min() < 0.92 and 1.08 < ratio.max() < 1.11
    assert np.array_equal(perturb_pixels(image, 0, rng(1)), image)
    assert perturb_pixels(np.full((64, 64), 250, np.uint8), 0.5, rng()).max() == 255


def test_jitter_is_small_and_its_middle_is_the_identity():
    photo = read_image(CHINA, 128, 'L')
    assert difference(jitter(photo, [1, 0, 0, 0.5, 0.5]), photo) == 0
    assert difference(jitter(photo, [1, 0, 0, 0.5, 1]), photo) == pytest.approx(13, abs=1)
    for mode in ('L', 'RGB'):
        results = [jitter(photo.convert(mode), rng(k).random(5).tolist()) for k in range(20)]
        assert all(result.mode == mode and result.size == (128, 128) for result in results)
        assert len({result.tobytes() for result in results}) == 20
        assert max(difference(result, photo.convert(mode)) for result in results) < 25
