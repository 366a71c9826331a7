"""Non-blocking copies to a device, Triton kernels, and prefetching of batches."""

import contextlib
import functools
import importlib
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]

# Limits of prefetching, in bytes and batches: making a mega-batch takes longer than a training step.
_BYTES_READY = 2**29
_LEAST_READY, _MOST_READY = 2, 8
# Alignment of arrays in bytes, for which kernels are compiled.
_ALIGNED = 16


def to_device(values: Tensor | npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy a host array to a device without blocking: pinned memory, asynchronous, on the current stream.

    A copy from pageable memory would make the host wait for all queued work.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == 'cuda':
        # torch keeps the pinned block until the copy is done. Without contiguous, the copy would be pageable.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Upload:
    """Collects host arrays to copy them to a device in one transfer."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._sent: list[Tensor] = []

    def add(self, values: npt.NDArray[Any]) -> int:
        """Add an array and return its index."""
        self._arrays.append(np.ascontiguousarray(values))
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> None:
        """Copy all arrays without blocking."""
        ends = np.cumsum([-(-array.nbytes // _ALIGNED) * _ALIGNED for array in self._arrays])
        memory = np.empty(int(ends[-1]), np.uint8)
        starts = [0, *ends[:-1].tolist()]
        for start, array in zip(starts, self._arrays):
            memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        there = to_device(memory, device)
        self._sent = [
            there[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
            for start, array in zip(starts, self._arrays)
        ]

    def __getitem__(self, index: int) -> Tensor:
        return self._sent[index]


def on(device: torch.device) -> Any:
    """Make a device current for Triton, which ignores the device of its tensors."""
    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def free_bytes(device: torch.device) -> int:
    """Return the free GPU memory in bytes."""
    return int(torch.cuda.mem_get_info(device)[0])


def triton_kernels(device: torch.device, name: str) -> ModuleType | None:
    """Return the module of Triton kernels with this name; None if they do not run or fail their check on the device."""
    if device.type != 'cuda':
        return None
    return _triton_kernels(torch.cuda.current_device() if device.index is None else device.index, name)


@functools.cache
def _triton_kernels(index: int, name: str) -> ModuleType | None:
    device = torch.device('cuda', index)
    try:
        kernels = importlib.import_module(name)
        with torch.cuda.device(device):
            kernels.check(device)
    except Exception as error:
        # No Triton, no compiler, an old GPU, no free memory, ...: the torch implementation gives the same results.
        _logger.warning('the Triton kernels do not run on %s, using torch, which is slower: %r', device, error)
        return None
    return kernels


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """Return the one stream for all loaders; the caching allocator does not share memory between streams."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Prefetch batches in a thread and, on a GPU, on a side stream, while the previous ones are in use."""
    stream = _side_stream(device) if device.type == 'cuda' else None
    if stream is not None:
        # The copy of the images to the device may still be in flight.
        stream.wait_stream(torch.cuda.current_stream(device))

    def start() -> None:
        if stream is not None:
            # A new thread starts on GPU 0.
            torch.cuda.set_device(stream.device)

    def make() -> tuple[Batch | None, Any]:
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            batch = next(batches, None)
            return batch, None if stream is None else stream.record_event()

    with ThreadPoolExecutor(1, 'timm-fractal', start) as pool:
        pending: deque[Future[tuple[Batch | None, Any]]] = deque([pool.submit(make)])
        ready: int | None = None
        try:
            while True:
                batch, made = pending.popleft().result()
                if batch is None:
                    return
                if ready is None:
                    room = _BYTES_READY if stream is None else min(_BYTES_READY, free_bytes(device) // 4)
                    ready = min(max(room // batch[0].nbytes, _LEAST_READY), _MOST_READY)
                pending.extend(pool.submit(make) for _ in range(ready - len(pending)))
                if made is not None:
                    current = torch.cuda.current_stream(device)
                    current.wait_event(made)
                    for tensor in batch:
                        # Keeps the caching allocator from reusing the memory before the current stream is done with it.
                        tensor.record_stream(current)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
