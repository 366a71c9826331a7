"""Saves contact sheets: classes of a data set, the effect of an option, filters of a pre-trained model."""

from pathlib import Path

from PIL import Image

from .._utils.atomic import atomic_write, check_regular
from .._utils.files import check_writable
from ..explore.sheets import SWEEPS, contact_sheet, sweep

__all__ = ['SWEEPS', 'check_output', 'contact_sheet', 'save', 'sweep']


def save(sheet: Image.Image, path: str | Path) -> None:
    """Write a sheet as a PNG file, atomically.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path) as temporary:
        sheet.save(temporary, 'PNG')


def check_output(path: str | Path) -> None:
    """Check before rendering that `save` can write a file.

    Raises:
        ValueError: The name does not end in .png.
        OSError: The folder does not exist or is not writable.
    """
    path = Path(path)
    if path.suffix.lower() != '.png':
        raise ValueError(f'output must end in .png, got {str(path)!r}: use {str(path.with_suffix(".png"))!r}')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'output must be in an existing folder, got {str(path)!r}')
    check_regular(path)
    check_writable(path.parent)
