"""Calls huggingface_hub with retries while the Hub is busy, and with error messages that say what to do."""

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar('T')

#: Seconds before the second and third attempt. The client itself waits up to half a minute in each attempt.
WAITS = (1.0, 4.0)

_BUSY = (429, 500, 502, 503, 504)

# Disk full, over quota, or file too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_TOKEN = '`hf auth login`, or set HF_TOKEN'


def call_hub(what: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function of huggingface_hub.

    Args:
        what: Purpose of the call, which error messages start with.
        call: The function; all other arguments are passed to it.

    Raises:
        PermissionError: The Hub requires a token (401), or this one lacks permission (403).
        FileNotFoundError: No such repository, revision or file, or no network and not in the cache.
        ConnectionError: The Hub cannot be reached, or still limits requests (429) or fails (500 to 504).
        OSError: The disk is full.
    """
    waits = list(WAITS)
    while True:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            # The client hides the response behind a cache miss, and in uploads.
            answers = (getattr(e, 'response', None) for e in (error, error.__cause__))
            status = next((answer.status_code for answer in answers if answer is not None), None)
            if status not in _BUSY or not waits:
                if translated := _translate(what, error, status):
                    raise translated from error
                raise
        time.sleep(waits.pop(0))


def _translate(what: str, error: Exception, status: Any) -> 'OSError | None':
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    hub = constants.ENDPOINT
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        words = f'{what}: {error.strerror}: free some space, or set HF_HOME to a folder on another disk'
        return OSError(error.errno, words, error.filename)
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f'{what}: HF_HUB_OFFLINE is set, so {hub} is not contacted: unset it')
    # The Hub also answers 401 for private repositories, so that their existence is not revealed.
    if status == 401:
        is_missing = isinstance(error, RepositoryNotFoundError)
        words = 'no such repository, or it is private' if is_missing else 'not logged in'
        return PermissionError(f'{what}: {words}, or the token is invalid: {_TOKEN}')
    if status == 403:
        return PermissionError(f'{what}: your token lacks permission (403): use a repository you own, {_TOKEN}')
    if status == 404:
        return FileNotFoundError(f'{what}: no such repository, revision or file on {hub} (404)')
    if status == 429:
        return ConnectionError(f'{what}: too many requests to {hub} (429): wait a few minutes and try again')
    if status is not None and status >= 500:
        return ConnectionError(f'{what}: {hub} fails ({status}): try again later')
    if isinstance(error, LocalEntryNotFoundError):
        return FileNotFoundError(
            f'{what}: not in the cache, and {hub} cannot be reached. Unset HF_HUB_OFFLINE, or set HF_ENDPOINT to a '
            f'mirror, HF_HOME to a cache that has it, or TIMM_FRACTAL_WEIGHTS to a folder or mirror of weights'
        )
    # Versions of the client use different HTTP libraries; uploads wrap their errors.
    for cause in filter(None, (error, error.__cause__)):
        if type(cause).__module__.split('.')[0] in ('httpx', 'httpx2', 'httpcore', 'requests', 'urllib3'):
            return ConnectionError(f'{what}: {hub} cannot be reached ({type(cause).__name__}: {cause})')
    return None
