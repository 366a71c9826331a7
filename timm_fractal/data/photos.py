"""``image1``: one or a few photographs as a data set; a reader for photographs of all kinds."""

import logging
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .._utils.console import is_primary, progress_bar, warn_once
from .._utils.cpu import cpu_count
from .._utils.files import list_files
from .._utils.messages import listed
from .._utils.rng import Stream, stream
from ..spec import Image1Spec
from .base import PixelDataset, Pixels

_logger = logging.getLogger(__name__)

# Maximum size of the photographs kept in memory, in bytes.
_PHOTO_BYTES = 256 * 2**20

#: Extensions of image files in a folder. A single file may be anything that Pillow opens.
EXTENSIONS = (
    *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif'),
    *('.heic', '.heif'),
)
#: Smallest width and height of a photograph, in pixels.
MIN_SIZE = 16

# Bit depths of cameras and scanners. Levels stored in 16 bits are scaled from the smallest of these that holds them.
_DEPTHS = (8, 10, 12, 14, 16)
# Pillow keeps the upper byte of 16-bit colors; reading with the opposite byte order gives the lower one.
_OPPOSITE = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}
_LOWER_BYTES = {f'{mode};16{a}': f'{mode};16{b}' for mode in ('RGB', 'RGBX', 'RGBA') for a, b in _OPPOSITE.items()}
# Gray and alpha, 16 bits each, are read as four bytes per pixel.
_LOWER_BYTES['LA;16B'] = 'RGBA'
# TIFF tags: bits per sample, and planar configuration (2: separate planes).
_BITS, _PLANAR = 258, 284
# Brands of HEIC and AVIF files, bytes 8 to 11.
_HEIF_BRANDS = (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1', b'avif', b'avis')


def list_images(path: str | Path) -> list[Path]:
    """List the images at a path: the file itself, or all images in a folder and its subfolders, sorted by name.

    Hidden files are skipped, and so are files without one of `EXTENSIONS`, with a warning.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: The folder has no images.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'--data-dir: no such file or folder: {str(path)!r}')
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f'--data-dir must be a file or a folder, got the device or pipe {str(path)!r}')
        return [path]
    paths, others = list_files(path, EXTENSIONS)
    if not paths:
        raise ValueError(f'--data-dir: no image in the folder {str(path)!r}; looked for *{", *".join(EXTENSIONS)}')
    if others:
        words = 'skipped files in %s without an image extension: %s'
        warn_once(_logger, words, path, listed(others))
    return paths


def read_image(path: str | Path, size: int, mode: str = 'RGB') -> Image.Image:
    """Read a photograph, see `open_image`, as a square image of mode ``'L'`` or ``'RGB'``.

    Width and height are scaled independently, like the bounding box of a fractal.
    """
    # JPEGs are decoded at 1/8, 1/4 or 1/2 of their size if that is enough.
    image = open_image(path, enough=2 * size)
    return image.convert(mode).resize((size, size), Image.Resampling.BICUBIC)


def open_image(path: str | Path, enough: int | None = None, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Read a photograph of any size and mode as it is meant to be seen: upright, 8 bits, on white.

    EXIF orientation is applied, CMYK and palettes are converted, and transparent pixels become white. Higher bit depths
    are reduced to 8 bits; if a file uses fewer bits than it stores, say 12 of 16, these are scaled to the full range of
    brightness, with a warning. Floating point values are brightness from 0 to 1, or 16-bit levels from 0 to 65535; any
    others are scaled so that the smallest is black and the largest white.

    Args:
        path: A file that Pillow can open, or a HEIC file if the package pillow-heif is installed.
        enough: Width and height in pixels above which the decoder may drop detail.
        formats: Pillow names of the allowed formats, by default all.

    Returns:
        An image of mode RGB.

    Raises:
        ValueError: Not an image, damaged, an animation, a decompression bomb, less than `MIN_SIZE` pixels wide or high,
            or a bit depth that cannot be read in full. The message names the file.
        OSError: It cannot be read.
    """
    # Opened here to distinguish system errors (no such file, no permission) from Pillow's.
    with open(path, 'rb') as file:
        try:
            with _open(file, formats) as image:
                _check(image)
                if enough is not None:
                    image.draft(None, (enough, enough))
                raw = _raw_mode(image)
                image.load()
                upright = ImageOps.exif_transpose(image)
                if ';16' in raw and not image.mode.startswith('I'):
                    upright = _shallow_color(upright, raw, file, path)
                elif image.mode == 'F' or image.mode.startswith('I'):
                    upright = _shallow_gray(upright, path)
                return _opaque(upright).convert('RGB')
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(
                f"{path} has more pixels than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}, Pillow's limit "
                f'against decompression bombs: save a smaller version ({error})'
            ) from None
        except UnidentifiedImageError:
            hint = 'for HEIC, pip install pillow-heif; AVIF needs Pillow 11.3 or later; or save it as JPEG or PNG'
            advice = f': {hint}' if _is_heif(file) else ''
            raise ValueError(f'{path} is not an image Pillow can read{advice}') from None
        except (OSError, SyntaxError, EOFError, ValueError) as error:
            # Pillow's decoders raise all of these for damaged files.
            raise ValueError(f'{path} cannot be used: {error}') from error


def _open(file: IO[bytes], formats: tuple[str, ...] | None) -> Image.Image:
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if formats is not None or not _is_heif(file):
            raise
        try:
            import_module('pillow_heif').register_heif_opener()
        except ImportError:
            raise UnidentifiedImageError from None
        file.seek(0)
        return Image.open(file)


def _is_heif(file: IO[bytes]) -> bool:
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b'ftyp' and head[8:] in _HEIF_BRANDS


def _check(image: Image.Image) -> None:
    # Pillow only warns about images up to twice its limit. Filters for warnings cannot be changed in a thread.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f'it has {image.width} x {image.height}')
    frames = getattr(image, 'n_frames', 1)
    # A phone's MPO file is a photograph followed by a second view or a depth map.
    if frames > 1 and image.format != 'MPO':
        raise ValueError(f'it has {frames} frames or pages: save one of them as a still image')
    tags = getattr(image, 'tag_v2', {})
    if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (8,))) > 8 and len(getattr(image, 'tile', ())) > 1:
        # Uncompressed planes are separate tiles; compressed ones go through libtiff as a single tile.
        raise ValueError(
            'its colors of more than 8 bits are in separate planes, which Pillow misreads: save it '
            'with interleaved colors'
        )
    if min(image.size) < MIN_SIZE:
        raise ValueError(f'it must be at least {MIN_SIZE} x {MIN_SIZE} pixels, got {image.width} x {image.height}')


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's raw mode of an image that is not loaded, the pixel format in the file; '' if unknown."""
    tiles = getattr(image, 'tile', None)
    mode = tiles[0][3] if tiles else ''
    mode = mode[0] if isinstance(mode, tuple) and mode else mode
    return mode if isinstance(mode, str) else ''


def _shallow_color(upright: Image.Image, raw: str, file: IO[bytes], path: str | Path) -> Image.Image:
    """Scale 16-bit colors that use 14 bits or fewer; Pillow has kept only the upper 8 of 16."""
    upper = np.asarray(upright)
    # Levels from 64 * 256 on use more than 14 bits.
    if upper.ndim < 3 or upper[..., :3].max() >= 64:
        return upright
    file.seek(0)
    with Image.open(file) as image:
        lower = _lower_bytes(image, raw)
    deep = 256 * upper.astype(np.uint16) + lower
    shallow = upper.copy()
    shallow[..., :3] = _scale(deep[..., :3], path)
    if isinstance(key := upright.info.get('transparency'), tuple):
        shallow[(deep == key).all(-1)] = 255
    # Alpha has the depth of the colors, or all 16 bits.
    if shallow.shape[2] == 4 and upper[..., 3].max() < 64:
        shallow[..., 3] = _scale(deep[..., 3], path)
    return Image.fromarray(shallow, upright.mode)


def _lower_bytes(image: Image.Image, raw: str) -> Pixels:
    """Read the lower bytes of 16-bit colors, upright, in the shape of the upper ones."""
    other = _LOWER_BYTES.get(raw)
    if other is None or getattr(image, 'tag_v2', {}).get(_PLANAR) == 2:
        raise ValueError(f'its 16 bits ({raw}) cannot be read in full, and it is nearly black: save it with 8 bits')
    again: Any = image
    for i, tile in enumerate(again.tile):
        *place, mode = tile
        place.append((other, *mode[1:]) if isinstance(mode, tuple) else other)
        # Before Pillow 11, tiles are plain tuples.
        again.tile[i] = type(tile)(*place) if hasattr(tile, 'extents') else tuple(place)
    image.load()
    lower = np.asarray(ImageOps.exif_transpose(image))
    return lower[..., [1, 1, 1, 3]] if raw == 'LA;16B' else lower


def _shallow_gray(image: Image.Image, path: str | Path) -> Image.Image:
    deep = np.asarray(image)
    low, high = deep.min(), deep.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError('some of its pixels are not finite numbers')
    if image.mode == 'F':
        if low < 0 or high > 65535:
            words = '%s has pixels from %g to %g: scaled to the full range of brightness'
            warn_once(_logger, words, path, low, high, key=Path(path).parent)
            return Image.fromarray(np.rint((deep - low) * (255 / ((high - low) or 1))).astype(np.uint8))
        deep = np.rint(deep.astype(np.float64) * (65535 if high <= 1 else 1)).astype(np.uint16)
    elif low < 0 or high > 65535:
        raise ValueError(f'its pixels must be from 0 to 65535, got {low} to {high}')
    shallow = _scale(deep.astype(np.uint16), path)
    if isinstance(key := image.info.get('transparency'), int):
        shallow[deep == key] = 255
    return Image.fromarray(shallow)


def _scale(deep: npt.NDArray[Any], path: str | Path) -> Pixels:
    """Reduce levels to 8 bits, from the smallest bit depth that holds them."""
    largest = int(deep.max())
    bits = next(bits for bits in _DEPTHS if largest < 2**bits)
    if bits < 16:
        # One warning per folder, for the first such image.
        words = '%s has levels up to %d in 16 bits: read as a %d-bit image and scaled to the full range of brightness'
        warn_once(_logger, words, path, largest, bits, key=(Path(path).parent, bits))
    top = 2**bits - 1
    levels = ((np.arange(2**bits) * 255 + top // 2) // top).astype(np.uint8)
    return np.asarray(levels[deep])


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image.convert('RGBA'))


class Image1(PixelDataset):
    """Classes are warps of one real image ("Scaling Backwards", ECCV 2024, the section on real images).

    ``root`` is an image, or a folder of at most as many images as classes; class k is made from image ``k % images``,
    sorted by name. The validation split has the same warps, cropped to 95 to 100 % of each side, with different
    contrast and brightness. See `SyntheticDataset` for the other arguments, `open_image` for image formats, and `shape`
    for the warps.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.linear_gradient('L').save(file)
        ...     dataset = Image1('image1/classes=4,size=64', root=file.name)
        >>> len(dataset), dataset[3][0].mode
        (4, 'RGB')
    """

    spec_type = Image1Spec
    spec: Image1Spec

    def _open(self, root: str | Path | None) -> None:
        if root is None:
            raise ValueError('image1 needs an image: --data-dir photo.jpg, or a folder of images (root= in Python)')
        self.files = list_images(root)
        if len(self.files) > self.num_classes:
            raise ValueError(
                f'{self.spec}: classes must be at least the number of images in {root}, '
                f'got {self.num_classes} classes and {len(self.files)} images: use classes={len(self.files)} or more'
            )
        if is_primary():
            _logger.info('%s, %s split: %d images from %s', self.spec, self.split, len(self.files), root)
        shape = (len(self.files), *self._shape())
        self._photos = self._share(shape) if math.prod(shape) <= _PHOTO_BYTES else None
        which = sorted({k % len(self.files) for k in self.only or range(len(self.files))})
        with ThreadPoolExecutor(cpu_count()) as pool, progress_bar(f'reading {root}', len(which)) as bar:
            # All are read, even if not kept: damaged files are reported now, not in the middle of training.
            for number, view in zip(which, pool.map(self._read, (self.files[number] for number in which))):
                if self._photos is not None:
                    self._photos[number] = torch.from_numpy(view)
                bar.update()

    def _read(self, path: Path) -> Pixels:
        from ..shape.views import VIEWS

        view = np.array(VIEWS[self.spec.view](read_image(path, self.spec.size, self.spec.mode)))
        if view.min() == view.max():
            what = 'no contour' if self.spec.view == 'contour' else 'a single color'
            raise ValueError(f'{path} has {what}: all of its warps would look the same')
        return view

    def _render_one(self, number: int) -> Pixels:
        from ..shape.warps import WARPS

        which = number % len(self.files)
        photo = self._read(self.files[which]) if self._photos is None else self._photos[which].numpy()
        warp = WARPS[self.spec.warp]
        params = warp.make_params(stream(self.spec.seed, Stream.CLASS, number), self.spec.delta)
        return self._jitter(number, np.asarray(warp.apply(Image.fromarray(photo), params)))
