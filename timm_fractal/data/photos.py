"""Images that are no fractals: photographs as they come, and noise. All are square uint8 arrays of one size."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

#: What counts as an image in a folder, by the end of its name. A single file may be anything that Pillow opens.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif')
#: Smallest width and height of a photograph, in pixels.
MIN_SIZE = 16


def list_images(path: Union[str, Path]) -> list[Path]:
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


def read_image(path: Union[str, Path], size: int, mode: str = 'RGB') -> Image.Image:
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


def noise_image(kind: str, size: int, rng: np.random.Generator) -> Pixels:
    """Draw an image whose pixels are independent.

    Args:
        kind: ``'gaussian'``: mean 127.5 and standard deviation 42.5, cut at 0 and 255. ``'uniform'``: all gray levels
            from 0 to 255 are equally likely.
        size: Width and height in pixels.
        rng: Source of randomness; only ``random()`` is used.

    Returns:
        Shape (size, size).

    Example:
        >>> image = noise_image('gaussian', 256, np.random.default_rng(0))
        >>> float(image.mean().round(1)), float(image.std().round(1))
        (127.5, 42.4)
    """
    draws = rng.random((size, size))
    if kind == 'uniform':
        return (256 * draws).astype(np.uint8)
    # The gray level is the number of boundaries, halfway between levels, that the draw is beyond.
    below = [(1 + math.erf((level + 0.5 - 127.5) / (42.5 * math.sqrt(2)))) / 2 for level in range(255)]
    return np.searchsorted(below, draws).astype(np.uint8)


def perturb_pixels(image: Pixels, delta: float, rng: np.random.Generator) -> Pixels:
    """Multiply every pixel by its own U(1 - delta, 1 + delta), as `ifs.perturb` does with parameters; at most 255."""
    factors = (1 - delta) + 2 * delta * rng.random(image.shape)
    return np.minimum(np.rint(image * factors), 255).astype(np.uint8)


def jitter(image: Image.Image, draws: Sequence[float]) -> Image.Image:
    """Small noise of the validation split: a crop of 95 to 100 % of each side, contrast +- 10 %, brightness +- 5 %.

    Args:
        image: Mode L or RGB.
        draws: Five numbers in [0, 1): side and place of the crop, contrast, brightness.

    Returns:
        An image of the same size and mode.
    """
    side, left, top, contrast, brightness = draws
    side = 0.95 + 0.05 * side
    gain, shift = 0.9 + 0.2 * contrast, 255 * 0.1 * (brightness - 0.5)
    width, height = image.size
    x, y = left * (1 - side) * width, top * (1 - side) * height
    box = (x, y, x + side * width, y + side * height)
    levels = [min(255, max(0, round(127.5 + gain * (level - 127.5) + shift))) for level in range(256)]
    cropped = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    return cropped.point(levels * len(image.getbands()))
