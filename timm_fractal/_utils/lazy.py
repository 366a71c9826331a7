"""Packages that import their modules on first use."""

from collections.abc import Callable
from importlib import import_module


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
