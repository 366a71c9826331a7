"""Contact sheets as files: classes of a data set, what an option does to them, what a pre-trained model looks for."""

from pathlib import Path
from typing import Any

from PIL import Image

from .._utils.atomic import atomic_write, check_regular
from .._utils.files import check_writable
from ..explore.sheets import SWEEPS, contact_sheet, sweep

__all__ = ['SWEEPS', 'check_output', 'contact_sheet', 'save', 'sweep', 'weights_sheet']


def weights_sheet(*args: Any, **options: Any) -> Image.Image:
    """See `timm_fractal.explore.filters.weights_sheet`, which needs timm's models; sheets of data sets do not."""
    from ..explore.filters import weights_sheet

    return weights_sheet(*args, **options)


def save(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as a PNG file (atomic write).

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    with atomic_write(path) as temporary:
        sheet.save(temporary, 'PNG')


def check_output(path: str | Path) -> None:
    """Refuse before anything is rendered what `save` could not write.

    Raises:
        ValueError: The name is not that of a PNG file.
        OSError: The folder is not there or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != '.png':
        raise ValueError(f'output must end in .png, got {str(path)!r}: use {str(path.with_suffix(".png"))!r}')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'output must lie in an existing folder, got {str(path)!r}')
    check_regular(path)
    check_writable(path.parent)
