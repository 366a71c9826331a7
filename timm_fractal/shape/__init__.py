"""Shape augmentation of one image, or of a batch of images."""

from typing import TYPE_CHECKING

from .._utils.lazy import door

if TYPE_CHECKING:
    from .transform import (
        MAX_MAGNITUDE,
        VIEWS,
        WARPS,
        Affine,
        Elastic,
        Homography,
        Polynomial,
        RandomShape,
        Warp,
        contour,
        gray,
        rgb,
        shape_op,
    )

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

__getattr__, __dir__ = door(
    __name__,
    {
        'Affine': 'transform',
        'Elastic': 'transform',
        'Homography': 'transform',
        'MAX_MAGNITUDE': 'transform',
        'Polynomial': 'transform',
        'RandomShape': 'transform',
        'VIEWS': 'transform',
        'WARPS': 'transform',
        'Warp': 'transform',
        'contour': 'transform',
        'gray': 'transform',
        'rgb': 'transform',
        'shape_op': 'transform',
    },
)
