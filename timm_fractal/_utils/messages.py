"""Building blocks of messages, and output streams that can encode them."""

import difflib
import io
import re
import sys
from collections.abc import Iterable


def nearest(word: str, valid: Iterable[str]) -> str:
    """Suggest the nearest valid word and list all of them, for an error message about an unknown one.

    Examples:
        >>> nearest('fractal2', ['fractal1', 'image1'])
        "did you mean 'fractal1'? Valid: fractal1, image1"
    """
    valid = list(valid)
    close = difflib.get_close_matches(str(word)[:100], valid, n=1, cutoff=0.5)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    return f'{hint}Valid: {", ".join(valid)}'


def listed(names: Iterable[object]) -> str:
    """Join the first five names, for a message.

    Examples:
        >>> listed('abcdefg')
        'a, b, c, d, e, ... (7 in total)'
    """
    words = [str(name)[:200] for name in names]
    return ', '.join(words) or 'nothing' if len(words) <= 5 else f'{", ".join(words[:5])}, ... ({len(words)} in total)'


def redacted(url: str) -> str:
    """Remove user, password, query and fragment from a URL, which may be secret.

    Text without a scheme, such as a path, is returned unchanged.

    Examples:
        >>> redacted('HTTPS://me:secret@example.com/weights?sig=123')
        'https://example.com/weights'
    """
    address = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)', url)
    if not address:
        return url
    scheme, place, path = address.groups()
    # User and password before an @ may contain a slash.
    return f'{scheme.lower()}://{(place + path).rpartition("@")[2]}'


def install_extra(extra: str) -> str:
    """Return the command that installs an optional dependency, for a release and for a clone of the repository."""
    return f"pip install 'timm-fractal[{extra}]', or in a clone pip install '.[{extra}]'"


def escape_unencodable() -> None:
    """Make stdout and stderr escape characters that they cannot encode instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ('strict', 'surrogateescape'):
            stream.reconfigure(errors='backslashreplace')
