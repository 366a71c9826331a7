"""Iterated function systems and their images."""

from typing import TYPE_CHECKING

from .._utils.lazy import door

if TYPE_CHECKING:
    from .ifs import Family

__all__ = ['Family']

__getattr__, __dir__ = door(__name__, {'Family': 'ifs'})
