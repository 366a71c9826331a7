"""Iterated function systems and their images."""

from typing import TYPE_CHECKING

from .._utils.lazy import door

if TYPE_CHECKING:
    from .ifs import Family
    from .render import Rendered, render, unpack

__all__ = [
    'Family',
    'Rendered',
    'render',
    'unpack',
]

__getattr__, __dir__ = door(
    __name__,
    {
        'Family': 'ifs',
        'Rendered': 'render',
        'render': 'render',
        'unpack': 'render',
    },
)
