"""Files that are whole or not there at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; it becomes ``path`` when the block ends well, and is removed when not.

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
    """Remove what killed processes have left of `atomic_write`; only where no other process can be writing."""
    for path in folder.glob(f'.{name}.*.tmp'):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(dest: Path) -> Iterator[None]:
    """Hold a lock beside a destination: two exports to one place would end each other's files.

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
                # The other one has just ended, and taken its lock along.
                raise busy
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout:
        raise busy from None
