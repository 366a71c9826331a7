"""Uploaded files: checked before decoding, and named in messages without their paths."""

import dataclasses
from pathlib import Path

from PIL import Image, UnidentifiedImageError

#: Maximum size of a file, in bytes.
MAX_BYTES = 20 * 2**20
#: Maximum size of an image, in pixels.
MAX_PIXELS = 25_000_000
#: Formats of uploads. Pillow's other readers start programs or are rarely used.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')


@dataclasses.dataclass(frozen=True)
class Source:
    """A file or folder that a data set is made from; unequal once it has changed.

    Attributes:
        path: Its path.
        shown: Its name on the page.
        changed: Modification time in nanoseconds.
        size: Size in bytes.
    """

    path: str
    shown: str
    changed: int
    size: int

    def hide(self, message: str) -> str:
        """Replace the path in a message with the shown name.

        Examples:
            >>> Source('/tmp/x/photo.jpg', 'photo.jpg', 0, 0).hide('/tmp/x/photo.jpg is not an image')
            'photo.jpg is not an image'
        """
        return message.replace(self.path, self.shown)


def _source(path: Path, shown: str) -> Source:
    found = path.stat()
    return Source(str(path), shown, found.st_mtime_ns, found.st_size)


def local(path: str | Path) -> Source:
    """Return the file or folder given by ``--data-dir``; OSError if it does not exist."""
    return _source(Path(path), str(path))


def photograph(path: str | Path) -> Source:
    """Check an uploaded photograph by its header, without decoding it.

    Raises:
        ValueError: Too many bytes or pixels, or not an image in one of `FORMATS`.
    """
    source = _source(Path(path), Path(path).name)
    if source.size > MAX_BYTES:
        raise ValueError(f'the photograph must have at most {MAX_BYTES:,} bytes, got {source.size:,}')
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise ValueError(f'the photograph must have at most {MAX_PIXELS:,} pixels, got more than {limit:,}') from None
    except UnidentifiedImageError:
        names = ', '.join(FORMATS)
        raise ValueError(f'{source.shown} is not an image that can be shown here; formats: {names}') from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(source.hide(f'{source.shown} cannot be used: {error}')) from None
    if width * height > MAX_PIXELS:
        raise ValueError(f'the photograph must have at most {MAX_PIXELS:,} pixels, got {width} x {height}')
    return source
