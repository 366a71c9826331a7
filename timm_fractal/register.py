"""``timm_fractal.register()`` makes timm know this package; ``import timm_fractal.register`` gives this module."""

import sys
import types

from .plugin.hook import register, unregister

__all__ = ['register', 'unregister']


class _Callable(types.ModuleType):
    def __call__(self) -> None:
        register()


sys.modules[__name__].__class__ = _Callable
