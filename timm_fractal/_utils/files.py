"""Files and folders."""

import errno
import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .atomic import check_regular


def list_files(folder: Path, extensions: Collection[str]) -> tuple[list[Path], list[str]]:
    """List the files in a folder and its subfolders with one of the (lower-case) extensions, sorted by name.

    Returns:
        These files, and the names of others relative to the folder. Hidden files are left out.
    """
    found, others = [], []
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*')):
        if any(part.startswith('.') for part in name.split('/')) or not (folder / name).is_file():
            continue
        if (folder / name).suffix.lower() in extensions:
            found.append(folder / name)
        else:
            others.append(name)
    return found, others


def sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits, without loading the file into memory.

    Raises:
        ValueError: It is a folder, a device or a pipe.
    """
    digest = hashlib.sha256()
    add_to_digest(digest, path)
    return digest.hexdigest()


def add_to_digest(digest: Any, path: Path) -> None:
    """Update a digest of `hashlib` with a file, without loading the file into memory.

    Raises:
        ValueError: It is a folder, a device or a pipe.
    """
    check_regular(path)
    with open(path, 'rb') as file:
        while part := file.read(2**20):
            digest.update(part)


def check_writable(folder: Path) -> None:
    """Check before rendering, which takes minutes, that a folder is writable.

    Args:
        folder: The folder; if it does not exist, its nearest existing parent is checked.

    Raises:
        OSError: It is not a folder, or this process may not write to it.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, 'not a folder', str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, 'no permission to write here', str(existing))
