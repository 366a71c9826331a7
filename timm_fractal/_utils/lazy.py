"""Modules that are imported on first use: those of a package, and numba kernels."""

import functools
import logging
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

_logger = logging.getLogger(__name__)


def lazy_exports(package: str, homes: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` for a package that imports its modules on first use of their names.

    Args:
        package: ``__name__`` of the package.
        homes: Each public name, and the module that defines it. A name must differ from all names of modules: importing
            a module sets it as an attribute of the package.

    Examples:
        >>> get, names = lazy_exports('timm_fractal', {'parse_name': 'spec'})
        >>> get('parse_name').__name__, names()
        ('parse_name', ['parse_name'])
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'.{homes[name]}', package), name)

    return get, lambda: sorted(homes)


@functools.cache
def numba_kernels(module: str) -> ModuleType | None:
    """Import a module of numba kernels; None if numba cannot be used: torch computes the same, more slowly."""
    try:
        return import_module(module)
    except Exception as error:
        # Not installed, built for another numpy, half installed, ...
        from .console import warn_once

        warn_once(_logger, 'numba cannot be used (%r): using torch, which is slower', error, key='numba')
        return None
