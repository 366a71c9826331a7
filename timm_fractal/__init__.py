"""Synthetic pre-training for timm: data sets rendered from a few numbers.

``import timm_fractal`` is cheap: it only registers the data sets and weights with timm (see `register`).
Everything that needs numpy, torch or numba is imported on first use.

Examples:
    >>> import timm_fractal
    >>> from timm.data import create_dataset
    >>> dataset = create_dataset('fractal1/classes=4,size=64,points=5000', split='train')
    >>> image, label = dataset[3]
    >>> image.size, image.mode, label
    ((64, 64), 'RGB', 3)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import augment, data, hub, shape
    from ._version import __version__
    from .data import OFDB, Fractal1, FractalDB, Image1, Noise1, VisualAtom
    from .device_loader import DeviceLoader, create_device_loader
    from .fractal.ifs import IFSCodes
    from .plugin import register, unregister
    from .shape import RandomShape
    from .spec import Fractal1Spec, parse_name
else:
    try:
        from ._version import __version__
        from .plugin import register, unregister
    except Exception as error:
        # torch imports this package: a damaged installation must not break torch.
        import logging

        logging.getLogger(__name__).warning('timm_fractal is damaged, reinstall it: %r', error)

        __version__ = '0'

        def register() -> None:
            """Do nothing: the package is damaged."""

        unregister = register

#: The public interface: these names, and those in ``__all__`` of the subpackages among them. Everything else is
#: internal and may change in any release.
__all__ = [
    'DeviceLoader',
    'IFSCodes',
    'Fractal1',
    'Fractal1Spec',
    'FractalDB',
    'Image1',
    'Noise1',
    'OFDB',
    'RandomShape',
    'VisualAtom',
    '__version__',
    'augment',
    'autoload',
    'create_device_loader',
    'data',
    'hub',
    'parse_name',
    'register',
    'shape',
    'unregister',
]

# The module of each name that is not a subpackage.
_HOME = {
    **dict.fromkeys(('Fractal1', 'FractalDB', 'Image1', 'Noise1', 'OFDB', 'VisualAtom'), 'data'),
    **dict.fromkeys(('DeviceLoader', 'create_device_loader'), 'device_loader'),
    **dict.fromkeys(('Fractal1Spec', 'parse_name'), 'spec'),
    'IFSCodes': 'fractal.ifs',
    'RandomShape': 'shape',
}


# Not with `timm_fractal._utils.lazy`, which may be damaged.
def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    if name not in _HOME:
        return import_module(f'.{name}', __name__)
    return getattr(import_module(f'.{_HOME[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def autoload() -> None:
    """Do nothing; the entry point in the group ``torch.backends``, whose import registers everything with timm.

    Called by torch 2.5 or later at the end of ``import torch``, unless ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``.
    """


register()
