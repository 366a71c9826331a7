"""Copies to a device that do not block the host, Triton kernels, and prefetching of batches."""

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

# Batches that are prefetched: a mega-batch takes longer to make than one batch is in use.
_BYTES_READY = 2**29
_LEAST_READY, _MOST_READY = 2, 8
# Where arrays may begin, in bytes: kernels are compiled for this alignment alone.
_ALIGNED = 16


def to_device(values: Tensor | npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy a host array to a device without blocking: pinned memory, asynchronous, on the current stream.

    A copy from pageable memory would make the host wait for all work that is queued.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == 'cuda':
        # torch keeps the pinned block until the copy is done. Non-contiguous memory would be copied to pageable memory.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Upload:
    """Arrays of the host that are copied to a device all at once.

    Examples:
        >>> upload = Upload()
        >>> place = upload.add(np.arange(3))
        >>> upload.send(torch.device('cpu'))
        >>> upload[place]
        tensor([0, 1, 2])
    """

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._sent: list[Tensor] = []

    def add(self, values: npt.NDArray[Any]) -> int:
        """Return the place at which the array will be."""
        self._arrays.append(np.ascontiguousarray(values))
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> None:
        """Copy everything, without blocking."""
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

    def __getitem__(self, place: int) -> Tensor:
        return self._sent[place]


def on(device: torch.device) -> Any:
    """Context in which Triton launches on a device: it takes the current one, wherever its tensors are."""
    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def free_bytes(device: torch.device) -> int:
    """Free GPU memory."""
    return int(torch.cuda.mem_get_info(device)[0])


def triton_kernels(device: torch.device, name: str) -> ModuleType | None:
    """Return the Triton kernels in a module of this name; None if they do not run, or fail their check, here."""
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
        # No Triton, no compiler, a GPU that is too old, no free memory, ...: torch's operations do the same.
        _logger.warning('the Triton kernels do not run on %s, torch does their work in more time: %r', device, error)
        return None
    return kernels


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """One stream for all loaders: the caching allocator does not reuse memory of one stream on another."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Prefetch batches in a thread and, on a GPU, on a side stream, while the previous ones are in use.

    A training loop waits for its loss in every step; that time is used.
    """
    stream = _side_stream(device) if device.type == 'cuda' else None
    if stream is not None:
        # The copy of the images to the device may still be in flight.
        stream.wait_stream(torch.cuda.current_stream(device))

    def start() -> None:
        if stream is not None:
            # A new thread starts on GPU 0, whichever its process uses.
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
                        # The caching allocator must not reuse its memory before the current stream is done with it.
                        tensor.record_stream(current)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
