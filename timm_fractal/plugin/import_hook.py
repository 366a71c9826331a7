"""Import hook: patches a module right after its import, whoever imports it, and undoes that.

It is armed before the module is imported, and imports nothing itself.
"""

import importlib.abc
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .patches import Undo

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_logger = logging.getLogger('timm_fractal')


class _Loader(importlib.abc.Loader):
    """Wraps the import loader of one module, whichever it is: patches after it has run."""

    def __init__(self, inner: Any, hook: 'Hook') -> None:
        self.inner, self.hook = inner, hook

    def create_module(self, spec: 'ModuleSpec') -> 'ModuleType | None':
        create = getattr(self.inner, 'create_module', None)
        module: ModuleType | None = None if create is None else create(spec)
        return module

    def exec_module(self, module: 'ModuleType') -> None:
        # From now on the module is its own loader's again, for whoever asks for its source or loads it again.
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
        host: Name of the module.
        landmark: An attribute that it has when its import is over.
        patch: What patches it; it appends to a list how to undo each change.
        what: The feature that is unavailable if that fails.
    """

    def __init__(self, host: str, landmark: str, patch: Callable[[Any, Undo], None], what: str) -> None:
        self.host, self.landmark, self.patch, self.what = host, landmark, patch, what
        self.undo: Undo = []
        self.searching = False
        self.patched: Any = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> 'ModuleSpec | None':
        # Parts of a host that is patched already: one that is loaded again takes its own functions back.
        if fullname != self.host and not (self.undo and fullname.startswith(f'{self.host}.')):
            return None
        if self.searching:
            # Another hook that searches from the beginning, while it is asked by this one.
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
            # Of this module before it was loaded again.
            if type(other).__module__ == __name__ and getattr(other, 'host', None) == self.host:
                other.disarm()  # type: ignore[attr-defined]
        sys.meta_path.insert(0, self)
        host = sys.modules.get(self.host)
        if hasattr(host, self.landmark):
            self.apply(host)

    def loaded(self, module: Any) -> None:
        """Patch after an import: of the host, or of a part of the host that is patched."""
        if module.__name__ == self.host:
            self.apply(module)
        elif self.patched is not None and sys.modules.get(self.host) is self.patched:
            self.apply(self.patched)

    def disarm(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.restore()

    def restore(self) -> None:
        """Undo the patch where nobody has changed it since."""
        self.patched = None
        while self.undo:
            self.undo.pop()()

    def apply(self, host: Any) -> None:
        """Patch; if this timm does not fit, undo everything and log one warning."""
        self.restore()
        try:
            self.patch(host, self.undo)
            self.patched = host
        except Exception as error:
            self.disarm()
            words = 'timm_fractal does not fit this version of timm, or is damaged: its %s are not available (%r)'
            _logger.warning(words, self.what, error)
            _logger.debug('the error in full', exc_info=True)
