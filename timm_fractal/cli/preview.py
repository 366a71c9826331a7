"""Saves contact sheets as PNG or GIF files."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .._utils.atomic import atomic_write, check_regular
from .._utils.files import check_writable


def save(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Write a sheet as a PNG file, or several as a GIF animation, atomically.

    Raises:
        OSError: It cannot be written.
    """
    first, *others = frames
    with atomic_write(path) as temporary:
        if is_animation(path):
            # Milliseconds; the last frame stays longer.
            duration = [300] * len(others) + [1500]
            first.save(temporary, 'GIF', save_all=True, append_images=others, duration=duration, loop=0)
        else:
            first.save(temporary, 'PNG')


def is_animation(path: str | Path) -> bool:
    """Return whether a file name is that of an animation."""
    return Path(path).suffix.lower() == '.gif'


def check_output(path: str | Path) -> None:
    """Check before rendering that `save` can write a file.

    Raises:
        ValueError: The name does not end in .png or .gif.
        OSError: The folder does not exist or is not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in ('.png', '.gif'):
        raise ValueError(
            f'output must end in .png, or .gif with --sweep, got {str(path)!r}: use {str(path.with_suffix(".png"))!r}'
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f'output must be in an existing folder, got {str(path)!r}')
    check_regular(path)
    check_writable(path.parent)
