"""Reversible changes to modules of other packages."""

from collections.abc import Callable
from typing import Any

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
