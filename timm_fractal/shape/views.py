"""Views of an image to warp: gray, color, contours."""

import importlib
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from .._utils.messages import install_extra
from .warps import check_mode


def gray(image: Image.Image) -> Image.Image:
    """Convert an image to gray, mode L (ITU-R 601 luma, as in PIL).

    Args:
        image: Mode L or RGB.

    Raises:
        ValueError: The image has another mode.

    Examples:
        >>> gray(Image.new('RGB', (4, 4), (255, 0, 0))).getpixel((0, 0))
        76
    """
    check_mode(image)
    return image.convert('L')


def rgb(image: Image.Image) -> Image.Image:
    """Convert an image to color, mode RGB; a gray one gets three equal channels.

    Args:
        image: Mode L or RGB.

    Raises:
        ValueError: The image has another mode.

    Examples:
        >>> rgb(Image.new('L', (4, 4), 7)).getpixel((0, 0))
        (7, 7, 7)
    """
    check_mode(image)
    return image.convert('RGB')


def contour(image: Image.Image, sigma: float = 2.0) -> Image.Image:
    """Return the Canny edges of an image in gray: mode L, 255 on an edge and 0 elsewhere.

    Needs scikit-image (the extra ``contour``). The thresholds are its defaults, a tenth and a fifth of the full range.

    Args:
        image: Mode L or RGB.
        sigma: Standard deviation in pixels of the Gaussian that smooths the image first, greater than 0.

    Raises:
        ValueError: The image has another mode, or ``sigma`` is out of range.
        ImportError: scikit-image is not installed.
    """
    check_mode(image)
    if not 0 < sigma < math.inf:
        raise ValueError(f'sigma must be greater than 0 and finite, got {sigma}')
    try:
        feature = importlib.import_module('skimage.feature')
    except ImportError as error:
        raise ImportError(f"the view 'contour' needs scikit-image: {install_extra('contour')}") from error
    # scikit-image loads its functions on first use, as attributes.
    edges = feature.canny(np.asarray(image.convert('L')), sigma=sigma)
    return Image.fromarray(edges.astype(np.uint8) * np.uint8(255))


#: Views by name.
VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {'gray': gray, 'rgb': rgb, 'contour': contour}
