"""Atomic writes of tars, and of files in a folder, for other programs to read."""

import contextlib
import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from .atomic import atomic_write, remove_leftovers

# Suffix of unfinished files, which a killed process leaves behind. Data set readers ignore it; a truncated image would
# fail in the middle of a training run.
_PARTIAL = '.partial'


def write_file(folder: Path, name: str, content: bytes) -> None:
    """Write a file in a folder atomically, and create its subfolders.

    The temporary name is fixed, so that the file of a killed process is overwritten.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def write_tar(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Yield a function that adds a member, given its name and content, to a tar; written atomically.

    The bytes depend on the members only. Call it while holding `exclusive_lock`: temporary files of killed processes
    are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    with atomic_write(path) as temporary:
        with open(temporary, 'wb') as file, tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:

            def add(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                # So that a full disk fails at the image that does not fit.
                file.flush()

            yield add
            tar.close()
            file.flush()
            os.fsync(file.fileno())


def check_complete(path: Path, names: Set[str]) -> None:
    """Raise an OSError if members of a finished tar are missing or truncated."""
    size, there = path.stat().st_size, 0
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        there = sum(member.name in names and member.offset_data + member.size <= size for member in tar)
    if there < len(names):
        words = f'has {there} of {len(names)} files and is damaged: delete it, and export again'
        raise OSError(errno.EIO, words, str(path))


def first_member(path: Path, name: str) -> bytes:
    """Return the content of the first member of a tar; empty if it has another name, or the file is not a tar."""
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        first = tar.next()
        file = tar.extractfile(first) if first is not None and first.name == name else None
        return b'' if file is None else file.read()
    return b''
