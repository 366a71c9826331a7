"""Packages that import their modules on first use."""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType


def lazy_exports(package: str, homes: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` for a package that imports its modules on first use of their names.

    Args:
        package: ``__name__`` of the package.
        homes: Each public name, and the module that defines it.

    Examples:
        >>> get, names = lazy_exports('timm_fractal', {'parse_name': 'spec'})
        >>> get('parse_name').__name__, names()
        ('parse_name', ['parse_name'])
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(f'.{homes[name]}', package), name)

    if set(homes) & set(homes.values()):
        sys.modules[package].__class__ = _keeping(homes)
    return get, lambda: sorted(homes)


def _keeping(homes: dict[str, str]) -> type[ModuleType]:
    """Return the class of a package with a public name that is also the name of its module."""

    class Package(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            # Importing a submodule sets it as an attribute of the package, which would hide the public name.
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    return Package
