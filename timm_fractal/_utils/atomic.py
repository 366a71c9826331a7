"""Atomic writes and locks: a file is complete or absent."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, else remove it.

    Raises:
        OSError: The folder does not exist, is not writable, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    # No suffix that a reader of images would open, should the process be killed.
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove temporary files that killed processes have left; call it only while holding `alone`."""
    for path in folder.glob(f'.{name}.*.tmp'):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(dest: Path) -> Iterator[None]:
    """Hold a lock file beside a destination, so that two processes do not export to it at once.

    Raises:
        BlockingIOError: Another process holds it. One that was killed does not.
    """
    from filelock import FileLock, Timeout

    dest = dest.absolute()
    if not dest.parent.is_dir():
        dest.parent.mkdir(parents=True, exist_ok=True)
    path = dest.with_name(f'.{dest.name}.lock')
    busy = BlockingIOError(errno.EAGAIN, 'another export is writing this: wait until it has ended', str(dest))
    try:
        with FileLock(path, timeout=0):
            if not path.exists():
                # The other process has just finished and removed its lock file.
                raise busy
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout:
        raise busy from None
