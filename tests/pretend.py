"""A fake GPU: tensors that claim to be on it, and checks for what a real one would refuse.

Computes on the CPU. Mixing host and device tensors is an error, as on a GPU. Counts operations that block the host:
reads of numbers from the device, and copies from pageable memory.
"""

import contextlib
from collections import Counter
from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from timm_fractal._utils import device as _device

DEVICE = torch.device('cuda', 0)
# Operations that read numbers, or whose output shape depends on them.
WAITING = {'_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal', 'is_nonzero'}


class OnDevice(torch.Tensor):
    """A tensor that claims to be on the device; ``inner`` is the actual one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f'{function} after the device has gone')

    def record_stream(self, stream):
        stream.log.append(('record', self.inner.data_ptr()))


class Device(TorchDispatchMode):
    """Runs operations on device tensors.

    Attributes:
        calls: Counts of operations on the device.
        waits: Counts of operations that blocked the host.
        launching_on: Stack of the devices that kernels are launched on.
    """

    launching_on: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.waits = Counter()
        self.pinned = set()

    @contextlib.contextmanager
    def on_device(self, device):
        """Replace the context manager that sets Triton's device."""
        self.launching_on.append(device)
        try:
            yield
        finally:
            self.launching_on.pop()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        asked = kwargs.get('device')
        if asked is not None:
            kwargs['device'] = torch.device('cpu')
        to_device = bool(ours) if asked is None else torch.device(asked).type == 'cuda'
        hosts = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if name in ('_to_copy', 'copy_'):
            between = bool(hosts) and to_device or bool(ours) and not to_device
            queued = kwargs.get('non_blocking') and hosts and id(hosts[0]) in self.pinned
            waits = between and not queued
        else:
            waits = name in WAITING and bool(ours)
            mixed = ours and any(tensor.ndim for tensor in hosts)
            assert not mixed, f'{name} mixes the host and the device'
        if waits:
            self.waits[name] += 1
        if to_device and not function.is_view:
            self.calls[name] += 1

        real = {id(tensor.inner): tensor for tensor in ours}
        result = function(*tree_map(inner, args), **tree_map(inner, kwargs))
        if not to_device:
            return result
        return tree_map(lambda one: real[id(one)] if id(one) in real else outer(one), result)


def inner(value):
    """Return the actual tensor, or a tuple of them."""
    if isinstance(value, tuple):
        return tuple(map(inner, value))
    return value.inner if isinstance(value, OnDevice) else value


def outer(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value


class Stream:
    """A stream that logs waits and events."""

    def __init__(self, device=DEVICE):
        self.device = device
        self.log = []

    def wait_stream(self, other):
        self.log.append(('wait', other))

    def wait_event(self, event):
        self.log.append(('wait', event))

    def record_event(self):
        event = object()
        self.log.append(('event', event))
        return event


@contextlib.contextmanager
def device(monkeypatch):
    """Patch torch to use the fake device; yield its `Device`, with two streams and the devices that threads chose."""
    mode = Device()
    mode.side, mode.current, mode.chosen = Stream(), Stream(), []

    @contextlib.contextmanager
    def on(stream):
        # Dispatch modes are per thread.
        assert stream is mode.side
        with mode:
            yield

    def pin(tensor):
        # torch copies non-contiguous tensors through pageable memory.
        assert not isinstance(tensor, OnDevice) and tensor.is_contiguous()
        copy = tensor.clone()
        mode.pinned.add(id(copy))
        return copy

    generator = torch.Generator
    monkeypatch.setattr(torch, 'Generator', lambda device='cpu': generator())
    monkeypatch.setattr(torch.cuda, '_lazy_init', lambda: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', pin)
    monkeypatch.setattr(_device, 'on', lambda device: mode.on_device(device))
    monkeypatch.setattr(_device, 'free_bytes', lambda device: 2**33)
    monkeypatch.setattr(_device, '_side_stream', lambda device: mode.side)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: mode.current)
    monkeypatch.setattr(torch.cuda, 'stream', on)
    monkeypatch.setattr(torch.cuda, 'set_device', mode.chosen.append)
    torch._C._ensureCUDADeviceGuardSet()
    with mode:
        yield mode
