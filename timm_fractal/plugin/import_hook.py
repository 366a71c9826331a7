"""Import hook: patches a module right after its import, and can undo that. It imports nothing of this package."""

import importlib.abc
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_logger = logging.getLogger('timm_fractal')

#: Functions that undo the changes, in the order of the changes.
Undo = list[Callable[[], None]]


def set_item(undo: Undo, table: dict[str, Any], name: str, value: Any) -> None:
    """Set or add an item of a dict, or a global name of a module, given its ``vars``."""
    missing = object()
    old = table.get(name, missing)
    table[name] = value

    def restore() -> None:
        # Keep the wrapper of another plug-in.
        if table.get(name) is value:
            if old is missing:
                del table[name]
            else:
                table[name] = old

    undo.append(restore)


class _Loader(importlib.abc.Loader):
    """Wraps a module's loader, and patches the module after execution."""

    def __init__(self, inner: Any, hook: 'Hook') -> None:
        self.inner, self.hook = inner, hook

    def create_module(self, spec: 'ModuleSpec') -> 'ModuleType | None':
        create = getattr(self.inner, 'create_module', None)
        module: ModuleType | None = None if create is None else create(spec)
        return module

    def exec_module(self, module: 'ModuleType') -> None:
        # Restore the original loader, for access to the source and for reloading.
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        module.__loader__ = self.inner
        self.inner.exec_module(module)
        self.hook.loaded(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Hook(importlib.abc.MetaPathFinder):
    """Patches one module right after it has been imported.

    Args:
        host: Module name.
        landmark: An attribute that it has once its import is complete.
        patcher: Name of a module whose ``patch(module, undo)`` appends functions that undo the changes to ``undo``.
        what: The feature that is unavailable if patching fails.
    """

    def __init__(self, host: str, landmark: str, patcher: str, what: str) -> None:
        self.host, self.landmark, self.patcher, self.what = host, landmark, patcher, what
        self.undo: Undo = []
        self.searching = False
        self.patched: Any = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> 'ModuleSpec | None':
        # Submodules of a patched host count as well: reloading one would restore timm's functions. Another hook may
        # restart the search within ours.
        is_part = self.undo and fullname.startswith(f'{self.host}.')
        if self.searching or (fullname != self.host and not is_part):
            return None
        self.searching = True
        try:
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
            specs = (finder.find_spec(fullname, path, target) for finder in others)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self.searching = False
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _Loader(spec.loader, self)
        return spec

    def arm(self) -> None:
        if self in sys.meta_path:
            return
        for other in list(sys.meta_path):
            # A hook from before a reload of this module.
            if type(other).__module__ == __name__ and getattr(other, 'host', None) == self.host:
                other.disarm()  # type: ignore[attr-defined]
        sys.meta_path.insert(0, self)
        host = sys.modules.get(self.host)
        if hasattr(host, self.landmark):
            self.apply(host)

    def loaded(self, module: Any) -> None:
        """Patch after the import of the host, or of a submodule of the patched host."""
        if module.__name__ == self.host:
            self.apply(module)
        elif self.patched is not None and sys.modules.get(self.host) is self.patched:
            self.apply(self.patched)

    def disarm(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.restore()

    def restore(self) -> None:
        """Undo the patch, except for attributes that others have changed since."""
        self.patched = None
        while self.undo:
            self.undo.pop()()

    def apply(self, host: Any) -> None:
        """Patch the host; on failure, undo everything and log a warning."""
        self.restore()
        try:
            importlib.import_module(self.patcher).patch(host, self.undo)
            self.patched = host
        except Exception as error:
            self.disarm()
            words = 'timm_fractal is damaged or incompatible with this version of timm: its %s are not available (%r)'
            _logger.warning(words, self.what, error)
            _logger.debug('traceback', exc_info=True)
