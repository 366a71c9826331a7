"""Packages that import their modules on first use."""

from collections.abc import Callable
from importlib import import_module


def door(package: str, homes: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package whose names live in modules that are imported on first use.

    Args:
        package: ``__name__`` of the package.
        homes: Each name and the module of the package that has it.

    Examples:
        >>> get, names = door('timm_fractal', {'parse_name': 'spec'})
        >>> get('parse_name').__name__, names()
        ('parse_name', ['parse_name'])
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'.{homes[name]}', package), name)

    return get, lambda: sorted(homes)
