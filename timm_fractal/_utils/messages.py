"""Building blocks of messages, and output streams that can encode them."""

import difflib
import io
import re
import sys
from collections.abc import Iterable


def nearest(word: str, valid: Iterable[str]) -> str:
    """Word the end of an error message about an unknown word: the nearest valid one, then all of them.

    Examples:
        >>> nearest('fractal2', ['fractal1', 'image1'])
        "did you mean 'fractal1'? Valid: fractal1, image1"
    """
    valid = list(valid)
    close = difflib.get_close_matches(str(word)[:100], valid, n=1, cutoff=0.5)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    return f'{hint}Valid: {", ".join(valid)}'


def redacted(url: str) -> str:
    """Remove from an address what may be secret: user and password, query and fragment.

    Anything without a scheme, a path say, stays as it is.

    Examples:
        >>> redacted('HTTPS://me:secret@example.com/weights?sig=123')
        'https://example.com/weights'
    """
    address = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)', url)
    if not address:
        return url
    scheme, place, path = address.groups()
    # Before an @ stand a user and a password, which may contain a slash.
    return f'{scheme.lower()}://{(place + path).rpartition("@")[2]}'


def install_extra(extra: str) -> str:
    """The command that installs an optional dependency: of a release, or in a clone of the repository."""
    return f"pip install 'timm-fractal[{extra}]', or in a clone pip install '.[{extra}]'"


def escape_unencodable() -> None:
    """Let stdout and stderr escape the characters that their encoding lacks, instead of failing at the first."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ('strict', 'surrogateescape'):
            stream.reconfigure(errors='backslashreplace')
