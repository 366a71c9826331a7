"""Decorators for numba kernels: without the GIL, cached on disk if possible."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_logger = logging.getLogger(__name__)

_OPTIONS: dict[str, Any] = dict(nogil=True, error_model='numpy')

# Functions called by kernels only compile faster without Python and C wrappers.
_PART_OPTIONS: dict[str, Any] = dict(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
#: Decorator of a function called by kernels.
part: Any = njit(**_PART_OPTIONS)


class _Kernel:
    """A function compiled by numba, recompiled if numba's cache is damaged."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        try:
            self.dispatcher: Any = njit(cache=True, **_OPTIONS)(function)
            self.is_cached = True
        except RuntimeError:
            # No cache folder is writable: compile once per process.
            self.dispatcher = njit(**_OPTIONS)(function)
            self.is_cached = False

    def __call__(self, *args: Any) -> Any:
        try:
            return self.dispatcher(*args)
        except Exception as error:
            if not self.is_cached:
                raise
            folder = self.dispatcher.stats.cache_path
            _logger.warning('the compiled code in %s cannot be used (%r): delete that folder', folder, error)
            self.dispatcher, self.is_cached = njit(**_OPTIONS)(self.function), False
            return self.dispatcher(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dispatcher, name)


#: Decorator of a kernel.
kernel: Any = _Kernel


@part
def random_bits(index, key0, key1):  # type: ignore[no-untyped-def]
    """Mix a counter and two keys, all uint32, to 32 random bits."""
    h = np.uint32(np.uint32(index) + key0)
    h = np.uint32(np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)) ^ key1)
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))
