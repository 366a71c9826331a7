"""Weights: exports checkpoints to folders that timm loads, and publishes them on the Hub."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .folder import FILES, LICENSE, check, convert, entry_of, export_weights, reference_output
    from .upload import Published, publish

__all__ = [
    'FILES',
    'LICENSE',
    'Published',
    'check',
    'convert',
    'entry_of',
    'export_weights',
    'publish',
    'reference_output',
]

__getattr__, __dir__ = lazy_exports(
    __name__, {name: 'upload' if name in ('Published', 'publish') else 'folder' for name in __all__}
)
