"""Files and folders."""

import hashlib
from collections.abc import Collection
from pathlib import Path

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
    check_regular(path)
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
