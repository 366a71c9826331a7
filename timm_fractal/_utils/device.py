"""What keeps a device busy: the host copies to it without waiting, and makes batches while others are in use."""

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

# How many batches lie ready: what is made of several at once takes longer than one is in use.
_BYTES_READY = 2**29
_LEAST_READY, _MOST_READY = 2, 8


def to_device(values: Tensor | npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy from the host to a device, behind the work that is queued there already.

    From memory that is not pinned the host would wait for all of that work, once for each copy.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == 'cuda':
        # torch keeps pinned memory until the copy is through. What has gaps it would copy once more, to other memory.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def triton_kernels(device: torch.device, name: str = 'augment.ops_triton') -> ModuleType | None:
    """Triton's kernels, the module ``timm_fractal.{name}``, if they run on this device and are right there."""
    if device.type != 'cuda':
        return None
    return _triton_kernels(torch.cuda.current_device() if device.index is None else device.index, name)


@functools.cache
def _triton_kernels(index: int, name: str) -> ModuleType | None:
    device = torch.device('cuda', index)
    try:
        kernels = importlib.import_module(f'timm_fractal.{name}')
        with torch.cuda.device(device):
            kernels.check(device)
    except Exception as error:
        # No Triton for this machine, no compiler for it, a GPU that is too old, ...: there is another way for all.
        _logger.warning('the Triton kernels do not run on %s, torch does their work in more time: %r', device, error)
        return None
    return kernels


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """One for all loaders and epochs: memory that torch has used on one stream it does not use on another."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, made by a thread and, on a GPU, on a stream of its own, while the last ones are in use.

    A training loop waits for its loss in every step, and in that time neither the host nor all of the GPU is busy.
    """
    stream = _side_stream(device) if device.type == 'cuda' else None
    if stream is not None:
        # The images may be on their way to the device still.
        stream.wait_stream(torch.cuda.current_stream(device))

    def start() -> None:
        if stream is not None:
            # A thread begins on the first GPU, whichever its process works on.
            torch.cuda.set_device(stream.device)

    def make() -> tuple[Batch | None, Any]:
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            batch = next(batches, None)
            return batch, None if stream is None else stream.record_event()

    with ThreadPoolExecutor(1, 'timm-fractal', start) as pool:
        pending: deque[Future[tuple[Batch | None, Any]]] = deque([pool.submit(make)])
        try:
            while True:
                batch, made = pending.popleft().result()
                if batch is None:
                    return
                ready = min(max(_BYTES_READY // batch[0].nbytes, _LEAST_READY), _MOST_READY)
                pending.extend(pool.submit(make) for _ in range(ready - len(pending)))
                if made is not None:
                    current = torch.cuda.current_stream(device)
                    current.wait_event(made)
                    for tensor in batch:
                        # Its memory is not to be had for the next batch before the current stream is done with it.
                        tensor.record_stream(current)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
