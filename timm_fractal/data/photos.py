"""``image1``: one photograph, or a few, as a data set; reading photographs as they come."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .._utils.cpu import cpu_count
from .._utils.rng import Stream, stream
from ..spec import Image1Spec
from .base import PixelDataset, Pixels, is_primary, progress_bar

_logger = logging.getLogger(__name__)

# What may be kept of photographs when the images made from them are not, in bytes.
_PHOTO_BYTES = 256 * 2**20

#: What counts as an image in a folder, by the end of its name. A single file may be anything that Pillow opens.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif')
#: Smallest width and height of a photograph, in pixels.
MIN_SIZE = 16


def list_images(path: str | Path) -> list[Path]:
    """The images that a path stands for: itself, or all images in a folder and below, sorted by their names.

    Hidden files, and files whose names do not end in one of `EXTENSIONS`, are no images.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: A folder without images.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'--data-dir: there is no file or folder {str(path)!r}')
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f'--data-dir must be a file or a folder, got {str(path)!r}, which is a device or a pipe')
        return [path]
    relative = sorted(
        found.relative_to(path).as_posix() for found in path.rglob('*') if found.suffix.lower() in EXTENSIONS
    )
    paths = [path / name for name in relative if not any(part.startswith('.') for part in Path(name).parts)]
    paths = [found for found in paths if found.is_file()]
    if not paths:
        raise ValueError(f'--data-dir: no image in the folder {str(path)!r}; looked for *{", *".join(EXTENSIONS)}')
    return paths


def read_image(path: str | Path, size: int, mode: str = 'RGB') -> Image.Image:
    """Read a photograph of any size and mode, upright.

    The whole picture is scaled to the square, width and height independently, as the bounding box of a fractal is. EXIF
    orientation is applied, CMYK and palettes are converted, 16 bits reduced to 8, and what is transparent is white.

    Args:
        path: A file that Pillow can open.
        size: Width and height of the result in pixels.
        mode: ``'L'`` or ``'RGB'``, that of the result.

    Raises:
        ValueError: No image, a damaged one, an animation, a decompression bomb, less than `MIN_SIZE` pixels wide or
            high, or a mode whose range is not known. The message says which file.
        OSError: It cannot be read.
    """
    # Opened here: what the system refuses (no such file, no permission) is told apart from what Pillow refuses.
    with open(path, 'rb') as file:
        try:
            with warnings.catch_warnings():
                # Pillow only warns of what has up to twice as many pixels as its limit.
                warnings.simplefilter('error', Image.DecompressionBombWarning)
                warnings.filterwarnings('ignore', 'Palette images with Transparency', UserWarning)
                with Image.open(file) as image:
                    _check(image)
                    # A JPEG is decoded at an eighth, a quarter or half of its size where that is enough.
                    image.draft(None, (2 * size, 2 * size))
                    image.load()
                    upright = ImageOps.exif_transpose(image)
                    return _convert(upright, mode).resize((size, size), Image.Resampling.BICUBIC)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(
                f"{path} has more pixels than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}, Pillow's limit "
                f'against decompression bombs: save it smaller ({error})'
            ) from None
        except UnidentifiedImageError:
            raise ValueError(f'{path} is no image that Pillow can read') from None
        except (OSError, SyntaxError, EOFError, ValueError) as error:
            # Pillow's decoders raise all of these for damaged files.
            raise ValueError(f'{path} cannot be used: {error}') from error


def _check(image: Image.Image) -> None:
    frames = getattr(image, 'n_frames', 1)
    # A phone's MPO file is a photograph with a second view or a depth map behind it.
    if frames > 1 and image.format != 'MPO':
        raise ValueError(f'it has {frames} frames or pages: save the one that is meant as a still image')
    if min(image.size) < MIN_SIZE:
        raise ValueError(f'it must be at least {MIN_SIZE} x {MIN_SIZE} pixels, got {image.width} x {image.height}')


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == 'F':
        raise ValueError('its pixels are floating point numbers of unknown range: save it with 8 or 16 bits')
    if image.mode.startswith('I'):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f'its pixels must be from 0 to 65535, got {deep.min()} to {deep.max()}')
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image.convert('RGBA'))
    return image.convert('RGB').convert(mode)


class Image1(PixelDataset):
    """Classes are warps of one real image ("Scaling Backwards", ECCV 2024, the section on real images).

    ``root`` is an image, or a folder of at most as many as there are classes; class k is made from image ``k % images``
    of those sorted by name. The validation split has the same warps, cropped to 95 to 100 % of each side and with other
    contrast and brightness. See `SyntheticDataset` for the other arguments, `read_image` for what is read, and
    `shape` for the warps.

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
        self._paths = list_images(root)
        if len(self._paths) > self.num_classes:
            raise ValueError(
                f'{self.spec}: classes must be at least the number of images in {root}, '
                f'got {self.num_classes} classes and {len(self._paths)} images: use classes={len(self._paths)} or more'
            )
        shape = (len(self._paths), *self._shape())
        if is_primary():
            _logger.info('%s, %s split: %d images from %s', self.spec, self.split, len(self._paths), root)
        few = np.prod(shape, dtype=np.int64) <= _PHOTO_BYTES
        self._photos = self._share(shape) if few else None
        count = len(self._paths)
        which = range(count) if self._only is None else sorted({k % count for k in self._only})
        with ThreadPoolExecutor(cpu_count()) as pool, progress_bar(f'reading {root}', len(which)) as bar:
            # All of them, kept or not: a damaged one is better found now than in the middle of a training run.
            for number, view in zip(which, pool.map(self._read, (self._paths[number] for number in which))):
                if self._photos is not None:
                    self._photos[number] = torch.from_numpy(view)
                bar.update()

    def _read(self, path: Path) -> Pixels:
        from ..shape.views import VIEWS

        view = np.array(VIEWS[self.spec.view](read_image(path, self.spec.size, self.spec.mode)))
        if view.min() == view.max():
            what = 'no contour' if self.spec.view == 'contour' else 'a single color'
            raise ValueError(f'{path} has {what}: its warps cannot be told apart')
        return view

    def _render_one(self, number: int) -> Pixels:
        from ..shape.warps import WARPS

        which = number % len(self._paths)
        photo = self._read(self._paths[which]) if self._photos is None else self._photos[which].numpy()
        warp = WARPS[self.spec.warp]
        params = warp.make_params(stream(self.spec.seed, Stream.CLASS, number), self.spec.delta)
        return self._jitter(number, np.asarray(warp.apply(Image.fromarray(photo), params)))
