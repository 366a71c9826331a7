"""Calls of huggingface_hub: tried again when the Hub is busy, and failures in words that say what to do."""

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar('T')

#: Seconds before the second and the third attempt. The client itself waits up to half a minute in each of them.
WAITS = (1.0, 4.0)

_BUSY = (429, 500, 502, 503, 504)

# A cache that cannot take any more: full, over a quota, or larger than this process may write.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_TOKEN = '`hf auth login`, or set HF_TOKEN'


def call_hub(what: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make a call of huggingface_hub.

    Args:
        what: What the call is for: the beginning of an error message.
        call: The function; it is given all other arguments.

    Raises:
        PermissionError: The Hub wants a token (401), or this one may not do that (403).
        FileNotFoundError: There is no such repository, revision or file, or no network and nothing in the cache.
        ConnectionError: The Hub cannot be reached, or stays busy (429) or broken (500 to 504).
        OSError: There is no room for a download.

    Examples:
        >>> call_hub('adding', sum, [1, 2])
        3
    """
    waits = list(WAITS)
    while True:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            # What the client does not find in its cache may have been refused before that; uploads hide answers, too.
            answers = (getattr(e, 'response', None) for e in (error, error.__cause__))
            status = next((answer.status_code for answer in answers if answer is not None), None)
            if status not in _BUSY or not waits:
                translated = _translate(what, error, status)
                if translated is None:
                    raise
                raise translated from error
        time.sleep(waits.pop(0))


def _translate(what: str, error: Exception, status: Any) -> 'OSError | None':
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    hub = constants.ENDPOINT
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        words = f'{what}: {error.strerror}: make room, or set HF_HOME to a folder that has some'
        return OSError(error.errno, words, error.filename)
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f'{what}: HF_HUB_OFFLINE is set, so {hub} is not asked: unset it')
    # The Hub answers 401 for private repositories too, so that strangers cannot tell whether one exists.
    if status == 401:
        words = (
            'no such repository, or it is private' if isinstance(error, RepositoryNotFoundError) else 'not logged in'
        )
        return PermissionError(f'{what}: {words}, or the token is not valid: {_TOKEN}')
    if status == 403:
        return PermissionError(
            f'{what}: your token may not do that there (403): use a repository of your own, {_TOKEN}'
        )
    if status == 404:
        return FileNotFoundError(f'{what}: there is no such repository, revision or file on {hub} (404)')
    if status == 429:
        return ConnectionError(
            f'{what}: {hub} has had too many requests (429): wait some minutes and do the same again'
        )
    if status is not None and status >= 500:
        return ConnectionError(f'{what}: {hub} fails ({status}): do the same again later')
    if isinstance(error, LocalEntryNotFoundError):
        return FileNotFoundError(
            f'{what}: it is not in the cache, and {hub} cannot be reached. Unset HF_HUB_OFFLINE, or set HF_ENDPOINT to '
            f'a mirror, HF_HOME to a cache that has it, or TIMM_FRACTAL_WEIGHTS to a folder or mirror of weights'
        )
    # Whichever HTTP library this version of the client is built on; uploads hide its errors behind others.
    for cause in filter(None, (error, error.__cause__)):
        if type(cause).__module__.split('.')[0] in ('httpx', 'httpx2', 'httpcore', 'requests', 'urllib3'):
            return ConnectionError(f'{what}: {hub} cannot be reached ({type(cause).__name__}: {cause})')
    return None
