"""Tar archives and files that other programs read: complete or absent, whatever happens while they are written."""

import contextlib
import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from .atomic import atomic_write, remove_leftovers

# Suffix of unfinished files in a folder. No reader of data sets opens it: a killed process leaves its unfinished file
# behind, and half an image would be found in the middle of a training run.
_PARTIAL = '.partial'


def write_file(folder: Path, name: str, content: bytes) -> None:
    """Write a file in a folder or below, whose folders are made.

    It has a fixed temporary name until it is complete: what a killed process has left is overwritten by the next.
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
    """Yield a function that adds a member, by its name and content, to a tar that gets its name when it is complete.

    Its bytes depend on the members only. Call it while holding `exclusive_lock`: what killed processes have left is
    removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    with atomic_write(path) as temporary:
        with open(temporary, 'wb') as file, tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:

            def add(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                # So that a full disk is noticed with the image that it concerns.
                file.flush()

            yield add
            tar.close()
            file.flush()
            os.fsync(file.fileno())


def check_complete(path: Path, names: Set[str]) -> None:
    """Refuse a finished tar that lacks members: somebody has cut it.

    Args:
        path: The tar.
        names: The members it must have.

    Raises:
        OSError: Members are missing, or cut off.
    """
    size, there = path.stat().st_size, 0
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        there = sum(member.name in names and member.offset_data + member.size <= size for member in tar)
    if there < len(names):
        words = f'has {there} of {len(names)} files and is damaged: delete it, and export again'
        raise OSError(errno.EIO, words, str(path))


def first_member(path: Path, name: str) -> bytes:
    """The content of the first member of a tar; nothing if it has another name, or the file is not a tar."""
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        first = tar.next()
        file = tar.extractfile(first) if first is not None and first.name == name else None
        return b'' if file is None else file.read()
    return b''
