"""Atomic writes and locks."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` if the block succeeds, else remove it.

    For a symbolic link, its target is written.

    Raises:
        ValueError: ``path`` is a folder, a device or a pipe.
        OSError: The folder does not exist, is not writable, or the disk is full; nothing is left behind.
    """
    check_regular(path)
    path = Path(os.path.realpath(path))
    # If the process is killed, the suffix keeps image readers from opening the file.
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_regular(path: str | Path) -> None:
    """Check that a path is a regular file or does not exist: a device would be replaced, reading a pipe may block.

    Raises:
        ValueError: It is a folder, a device, a pipe or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Missing or not accessible: opening it will tell.
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: 'a folder', stat.S_ISFIFO: 'a pipe', stat.S_ISSOCK: 'a socket'}
        kind = next((words for test, words in kinds.items() if test(mode)), 'a device')
        raise ValueError(f'{path} must be a regular file, but is {kind}')


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove temporary files of killed processes; call it only while holding `exclusive_lock`."""
    for path in folder.glob(f'.{name}.*.tmp'):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(dest: Path) -> Iterator[None]:
    """Hold a lock file, so that only one process exports to a destination.

    It is beside the destination, or in it if that is a folder in one that is not writable, such as a mounted volume.

    Raises:
        BlockingIOError: Another running process holds the lock.
    """
    from filelock import FileLock, Timeout

    dest = dest.absolute()
    if not dest.parent.is_dir():
        dest.parent.mkdir(parents=True, exist_ok=True)
    path = dest.with_name(f'.{dest.name}.lock')
    if dest.is_dir() and not os.access(dest.parent, os.W_OK):
        path = dest / '.export-lock'
    busy = BlockingIOError(errno.EAGAIN, 'another export is writing here: wait until it has finished', str(dest))
    try:
        with FileLock(path, timeout=0):
            if not path.exists():
                # The other process has just finished and removed its lock file.
                raise busy
            try:
                yield
            finally:
                # Windows does not remove open files.
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)
    except Timeout:
        raise busy from None
