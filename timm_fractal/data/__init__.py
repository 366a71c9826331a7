"""Data sets: index -> (PIL image, label)."""

from typing import TYPE_CHECKING

from .._utils.lazy import door

if TYPE_CHECKING:
    from .base import OFDB, Fractal1, FractalDB, Image1, Noise1, SyntheticDataset, create, natural_mode

__all__ = [
    'Fractal1',
    'FractalDB',
    'Image1',
    'Noise1',
    'OFDB',
    'SyntheticDataset',
    'create',
    'natural_mode',
]

__getattr__, __dir__ = door(
    __name__,
    {
        'Fractal1': 'base',
        'FractalDB': 'base',
        'Image1': 'base',
        'Noise1': 'base',
        'OFDB': 'base',
        'SyntheticDataset': 'base',
        'create': 'base',
        'natural_mode': 'base',
    },
)
