"""Reversible changes of other packages' modules."""

from collections.abc import Callable
from typing import Any

#: How to undo each change, in the order in which they were made.
Undo = list[Callable[[], None]]


def set_attribute(undo: Undo, owner: Any, name: str, value: Any) -> None:
    """Set an attribute that is there."""
    old = getattr(owner, name)
    setattr(owner, name, value)

    def restore() -> None:
        # What another plug-in has put around it since stays.
        if getattr(owner, name, None) is value:
            setattr(owner, name, old)

    undo.append(restore)


def set_item(undo: Undo, table: dict[str, Any], name: str, value: Any) -> None:
    """Set an item of a table, or add it."""
    missing = object()
    old = table.get(name, missing)
    table[name] = value

    def restore() -> None:
        if table.get(name) is value:
            if old is missing:
                del table[name]
            else:
                table[name] = old

    undo.append(restore)
