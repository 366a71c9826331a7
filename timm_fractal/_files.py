"""Files that are whole or not there at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Union


@contextlib.contextmanager
def whole_file(path: Union[str, Path]) -> Iterator[Path]:
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
