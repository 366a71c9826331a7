"""A page in a browser on which the data sets can be seen: options, classes, sweeps, augmented samples."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .page import launch

__all__ = ['launch']

__getattr__, __dir__ = lazy_exports(__name__, {'launch': 'page'})
