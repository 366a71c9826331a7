"""Shape augmentation of one image, or of a batch of images."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .transform import RandomShape, shape_op
    from .views import VIEWS, contour, gray, rgb
    from .warps import MAX_MAGNITUDE, WARPS, Affine, Elastic, Homography, Polynomial, Warp

__all__ = [
    'Affine',
    'Elastic',
    'Homography',
    'MAX_MAGNITUDE',
    'Polynomial',
    'RandomShape',
    'VIEWS',
    'WARPS',
    'Warp',
    'contour',
    'gray',
    'rgb',
    'shape_op',
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    dict.fromkeys(('RandomShape', 'shape_op'), 'transform')
    | dict.fromkeys(('VIEWS', 'contour', 'gray', 'rgb'), 'views')
    | dict.fromkeys(('MAX_MAGNITUDE', 'WARPS', 'Affine', 'Elastic', 'Homography', 'Polynomial', 'Warp'), 'warps'),
)
