"""A page in a browser on which the data sets can be seen: options, classes, sweeps, augmented samples."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .page import launch, make_page
    from .sheets import contact_sheet, sweep

__all__ = ['contact_sheet', 'launch', 'make_page', 'sweep']

__getattr__, __dir__ = lazy_exports(
    __name__, {'contact_sheet': 'sheets', 'launch': 'page', 'make_page': 'page', 'sweep': 'sheets'}
)
