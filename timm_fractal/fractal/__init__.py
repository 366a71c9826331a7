"""Iterated function systems and their images."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .ifs import IFSCodes

__all__ = ['IFSCodes']

__getattr__, __dir__ = lazy_exports(__name__, {'IFSCodes': 'ifs'})
