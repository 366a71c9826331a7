"""IFS codes as published by the authors of FractalDB and OFDB: one CSV file per category, one row per map.

A row is ``a, b, c, d, e, f, p`` of the map ``x' = a x + b y + e, y' = c x + d y + f``, which is chosen with
probability p.
"""

import codecs
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._utils.console import warn_once
from .ifs import Array

COLUMNS = ('a', 'b', 'c', 'd', 'e', 'f', 'p')
#: Maximum number of maps, like that of the option ``maps`` of ``fractal1``.
MAX_MAPS = 64
#: Maximum size of a file in bytes; published ones have about 500.
MAX_BYTES = 100_000
# Tolerance for the sum of probabilities rounded in a file.
_SUM_TOLERANCE = 0.01

_logger = logging.getLogger(__name__)


def in_order(paths: Sequence[Path]) -> list[Path]:
    """Sort files in natural order, as the authors number categories: ``2.csv`` before ``10.csv``.

    Examples:
        >>> [path.name for path in in_order([Path('10.csv'), Path('2.csv'), Path('csv0/11.csv')])]
        ['2.csv', '10.csv', '11.csv']
    """

    def key(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
        parts = re.findall(r'[0-9]+|[^0-9]+', path.as_posix())
        return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], path.as_posix()

    return sorted(paths, key=key)


def read_category(path: Path) -> tuple[Array, Array]:
    """Read one category.

    Blank lines and a first line with the names of `COLUMNS` are skipped.

    Returns:
        The IFS, shape (N, 2, 3), and the p of its maps as in the file, shape (N,).

    Raises:
        ValueError: The file is empty, or a row is not seven valid numbers. The message names the file and line.
        OSError: It cannot be read.
    """
    with open(path, 'rb') as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f'{path} is not a category: it has more than {MAX_BYTES:,} bytes')
    try:
        lines = content.removeprefix(codecs.BOM_UTF8).decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f'{path} is not a category: it is not text') from None
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        words = [word.strip() for word in line.split(',')]
        if not any(words) or (not rows and [word.strip(' #"').lower() for word in words] == list(COLUMNS)):
            continue
        rows.append(_row(words, f'{path}, line {number}'))
    if not rows:
        raise ValueError(f'{path} is empty: a category has a row {", ".join(COLUMNS)} for each of its maps')
    if len(rows) > MAX_MAPS:
        raise ValueError(f'{path} must have at most {MAX_MAPS} rows, one for each map, got {len(rows)}')
    table = np.array(rows)
    if not table[:, 6].any():
        raise ValueError(f'{path}: p must be greater than 0 for at least one map')
    return np.concatenate([table[:, :4].reshape(-1, 2, 2), table[:, 4:6, None]], axis=2), table[:, 6]


def _row(words: list[str], place: str) -> list[float]:
    if len(words) != len(COLUMNS):
        raise ValueError(f'{place} must have {len(COLUMNS)} columns, {",".join(COLUMNS)}, got {len(words)}')
    row = []
    for column, word in zip(COLUMNS, words):
        try:
            value = float(word)
        except ValueError:
            raise ValueError(f'{place}: {column} must be a number, got {word[:50]!r}') from None
        if not math.isfinite(value):
            raise ValueError(f'{place}: {column} must be a finite number, got {word}')
        row.append(value)
    if row[6] < 0:
        raise ValueError(f'{place}: p must be at least 0, got {row[6]}')
    return row


def read_categories(paths: Sequence[Path]) -> tuple[Array, Array]:
    """Read categories, and normalize probabilities to sum to 1, with a warning; missing maps have probability 0.

    Returns:
        IFS of shape (K, N, 2, 3), where N is the largest number of maps, and probabilities of shape (K, N).
    """
    categories = [read_category(path) for path in paths]
    odd = [(path.name, p.sum()) for path, (_, p) in zip(paths, categories) if abs(p.sum() - 1) > _SUM_TOLERANCE]
    if odd:
        warn_once(
            _logger,
            'the probabilities p in %d of %d files in %s do not sum to 1 and are divided by their sum (%s: %g)',
            *(len(odd), len(paths), paths[0].parent, *odd[0]),
        )
    maps = max(len(system) for system, _ in categories)
    systems, probs = np.zeros((len(categories), maps, 2, 3)), np.zeros((len(categories), maps))
    for k, (system, p) in enumerate(categories):
        systems[k, : len(system)] = system
        # Sums that equal 1 up to rounding are left unchanged.
        probs[k, : len(p)] = p if abs(math.fsum(p) - 1) < 1e-9 else p / math.fsum(p)
    return systems, probs
