"""Warnings and progress bars, shown by one process of a job."""

import contextlib
import logging
import os
import sys
from typing import Any

from tqdm import tqdm


def is_primary() -> bool:
    """Return whether this process logs and shows progress: rank 0 of its job."""
    return (os.environ.get('RANK') or '0') == '0'


def warn_once(logger: logging.Logger, message: str, *values: Any, key: Any = None) -> None:
    """Log a warning, on rank 0 and once per ``key``, by default the message and values."""
    key = (message, *map(str, values)) if key is None else (message, key)
    if is_primary() and key not in _warned:
        _warned.add(key)
        logger.warning(message, *values)


_warned: set[Any] = set()


class _Bar(tqdm):  # type: ignore[misc]
    """A progress bar that never fails: a closed or missing stream must not abort rendering."""

    def update(self, n: float | None = 1) -> bool | None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            shown: bool | None = super().update(n)
            return shown
        return None

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            super().close()


def progress_bar(what: str, count: int, unit: str = 'img') -> Any:
    """Make a progress bar that appears after a second, on rank 0 only."""
    options: dict[str, Any] = dict(desc=what, total=count, unit=unit, delay=1)
    try:
        return _Bar(**options, disable=None if is_primary() and sys.stderr is not None else True)
    except (AttributeError, OSError, ValueError):
        return _Bar(**options, disable=True)
