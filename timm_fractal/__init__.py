"""Synthetic pre-training for timm: data sets that are rendered from a few numbers.

``import timm_fractal`` is cheap: it only makes timm know the data sets and weights (see `timm_fractal.register`).
Everything that needs numpy, torch or numba is imported on first use.

Example:
    >>> import timm_fractal
    >>> from timm.data import create_dataset
    >>> dataset = create_dataset('fractal1/classes=4,size=64,points=5000', split='train')
    >>> image, label = dataset[3]
    >>> image.size, image.mode, label
    ((64, 64), 'RGB', 3)
"""

from typing import TYPE_CHECKING

from .register import register, unregister

if TYPE_CHECKING:
    from .datasets import OFDB, Fractal1, FractalDB, Image1, Noise1
    from .ifs import Family
    from .shape import RandomShape
    from .spec import Fractal1Spec, parse_name

__version__ = '0.1.0'

__all__ = [
    'OFDB',
    'Family',
    'Fractal1',
    'Fractal1Spec',
    'FractalDB',
    'Image1',
    'Noise1',
    'RandomShape',
    'parse_name',
    'register',
    'unregister',
]

_HOME = {
    'Family': 'ifs',
    'Fractal1': 'datasets',
    'Fractal1Spec': 'spec',
    'FractalDB': 'datasets',
    'Image1': 'datasets',
    'Noise1': 'datasets',
    'OFDB': 'datasets',
    'RandomShape': 'shape',
    'parse_name': 'spec',
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'.{_HOME[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


register()
