"""Parts of error messages."""

import difflib
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
    import re

    m = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?([^?#]*)', url)
    return f'{m[1].lower()}://{m[2]}' if m else url
