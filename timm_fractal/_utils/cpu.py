"""CPU threads."""

import os


def cpu_count() -> int:
    """Return the number of CPU threads for this process; ranks on one machine share them equally.

    Raises:
        ValueError: The environment variable ``LOCAL_WORLD_SIZE`` is not an integer from 1.
    """
    mask = getattr(os, 'sched_getaffinity', None)
    cpus = len(mask(0)) if mask else os.cpu_count() or 1
    text = os.environ.get('LOCAL_WORLD_SIZE') or '1'
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'the environment variable LOCAL_WORLD_SIZE must be an integer from 1, got {text[:100]!r}')
    return max(1, cpus // int(text))
