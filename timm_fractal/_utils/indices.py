"""Checks of sample indices, for data sets and loaders."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def check_index(index: Any, samples: int) -> int:
    """Convert an index of a data set to a sample number from 0; negative indices count from the end.

    Args:
        index: A Python, numpy or torch integer.
        samples: Number of samples.

    Raises:
        TypeError: Not an integer. Booleans are refused as well: they come from masks.
        IndexError: Not in ``[-samples, samples)``.

    Examples:
        >>> check_index(-1, 12), check_index(np.int64(3), 12)
        (11, 3)
    """
    number = index if type(index) is int else _whole(index)
    if not -samples <= number < samples:
        raise IndexError(f'index {number} is out of range for {samples} samples')
    return number % samples


def _whole(index: Any) -> int:
    # operator.index accepts booleans.
    if isinstance(index, bool) or 'bool' in str(getattr(index, 'dtype', '')):
        raise TypeError(f'index must be an integer, got {index}: for a mask, take np.flatnonzero(mask)')
    try:
        return operator.index(index)
    except TypeError:
        raise TypeError(f'index must be an integer, got {index!r}') from None


def check_indices(indices: Any, samples: int) -> npt.NDArray[np.int64]:
    """Apply `check_index` to many indices, such as those of a torch Subset; returns int64 of shape (B,)."""
    if isinstance(indices, torch.Tensor) and indices.ndim == 1:
        indices = indices.numpy(force=True)
    if not (isinstance(indices, np.ndarray) and indices.dtype.kind == 'i' and indices.ndim == 1):
        return np.fromiter((check_index(index, samples) for index in indices), np.int64, len(indices))
    for extreme in (indices.min(), indices.max()) if len(indices) else ():
        check_index(extreme, samples)
    return indices.astype(np.int64) % samples
