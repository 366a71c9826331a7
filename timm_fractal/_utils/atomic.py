"""Atomic writes and locks: a file is complete or absent."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, else remove it.

    A symbolic link stays one: the file that it names is written.

    Raises:
        ValueError: ``path`` is a folder, a device or a pipe.
        OSError: The folder does not exist, is not writable, or the disk is full; nothing is left behind.
    """
    check_regular(path)
    path = Path(os.path.realpath(path))
    # No suffix that a reader of images would open, should the process be killed.
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_regular(path: str | Path) -> None:
    """Refuse a path that exists and is not a file: a device would be replaced, and reading a pipe may block forever.

    Raises:
        ValueError: It is a folder, a device, a pipe or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Not there, or not to be seen: opening it says which.
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: 'a folder', stat.S_ISFIFO: 'a pipe', stat.S_ISSOCK: 'a socket'}
        kind = next((words for test, words in kinds.items() if test(mode)), 'a device')
        raise ValueError(f'{path} must be a regular file, and is {kind}')


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove temporary files that killed processes have left; call it only while holding `exclusive_lock`."""
    for path in folder.glob(f'.{name}.*.tmp'):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(dest: Path) -> Iterator[None]:
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
                # Windows removes no file that is open.
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)
    except Timeout:
        raise busy from None
