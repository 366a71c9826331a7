"""A GPU that is not there: tensors that say they are on it, and a check of what a real one would refuse.

The arithmetic is done on the CPU. A tensor of the host among those of the device is an error, as on a GPU. What makes
the host wait is counted: a number read from the device, or a copy from memory that is not pinned.
"""

import contextlib
from collections import Counter
from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from timm_fractal._utils import device as _device

DEVICE = torch.device('cuda', 0)
# What has to know how many numbers are not zero, and what reads numbers.
WAITING = {'_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal', 'is_nonzero'}


class OnDevice(torch.Tensor):
    """A tensor that says that it is on the device; ``inner`` is where it really is."""

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
    """Computes for tensors of the device.

    Attributes:
        calls: What ran on the device, and how often.
        waits: What the host waited for.
        launching_on: Devices that a kernel would be launched on, the last one counts.
    """

    launching_on: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.waits = Counter()
        self.pinned = set()

    @contextlib.contextmanager
    def on_device(self, device):
        """In place of the context that says where Triton launches."""
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
    """What is computed with, of a tensor or of a tuple of them."""
    if isinstance(value, tuple):
        return tuple(map(inner, value))
    return value.inner if isinstance(value, OnDevice) else value


def outer(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value


class Stream:
    """A stream that writes down who waits for what."""

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
    """The device, as long as this lasts; gives what it notices, with two streams and the devices threads chose."""
    mode = Device()
    mode.side, mode.current, mode.chosen = Stream(), Stream(), []

    @contextlib.contextmanager
    def on(stream):
        # Each thread has modes of its own.
        assert stream is mode.side
        with mode:
            yield

    def pin(tensor):
        # What has gaps keeps them, and takes a way through memory that is not pinned.
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
