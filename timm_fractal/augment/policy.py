"""RandAugment and AutoAugment for batches: timm parses its strings; operations and arguments are sampled here."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image

from .._timm_private import Operation, read_policy
from .._utils.messages import nearest
from .reference import NAMES, SHAPES
from .sampling import Numbers
from .tables import MATRICES

#: Prefixes of timm's configuration strings, except AugMix.
POLICIES = ('rand', 'v0', 'v0r', 'original', 'originalr', '3a')


class Layer(NamedTuple):
    """One operation for each image of a batch; arrays of shape (B,).

    Attributes:
        operation: Index in `timm_fractal.augment.reference.NAMES`, -1 for none.
        argument: Argument of timm's operation: a factor, degrees, a threshold, ...
        cubic: Whether geometric transforms are bicubic, else bilinear.
        seed: Seed of the warps of `timm_fractal.shape`.
    """

    operation: npt.NDArray[np.int64]
    argument: Numbers
    cubic: npt.NDArray[np.bool_]
    seed: int = 0


def refuse(option: str, value: Any, available: str) -> NoReturn:
    """Raise a ValueError for an option of timm that is not available on the device."""
    raise ValueError(
        f'{option}={value!r} is not available on the device ({available}): use the standard loader, '
        f'without loader=device in the data set name'
    )


def check_choice(option: str, value: Any, valid: Sequence[str]) -> None:
    """Refuse an unavailable value, and suggest the nearest valid one."""
    if value not in valid:
        refuse(option, value, nearest(str(value), valid))


class Policy:
    """RandAugment or AutoAugment, from timm's configuration string.

    Attributes:
        fill: Fill value outside the image: one level, or three for a color.
    """

    def __init__(self, text: str, size: tuple[int, int], interpolation: str, mean: Sequence[float]) -> None:
        name = text.split('-')[0]
        if name not in POLICIES:
            refuse('auto_augment', text, nearest(name, POLICIES))
        level = tuple(min(255, round(255 * value)) for value in mean)
        options: dict[str, Any] = dict(translate_const=int(min(size) * 0.45), img_mean=level)
        if interpolation != 'random':
            options['interpolation'] = Image.Resampling[interpolation.upper()]
        self._operations, self._layers, self._weights, self._table = read_policy(text, options)
        count = len(self._operations)
        if self._weights is not None and self._layers > count:
            raise ValueError(f'auto_augment={text!r}: n must be at most {count}, got {self._layers}')
        self._names = [_name(op, text) for op in self._operations]
        self._seeds = not SHAPES.keys().isdisjoint(self._names)
        fills = self._seeds or not MATRICES.keys().isdisjoint(self._names)
        self.fill: tuple[int, ...] = level if fills and len(set(level)) > 1 else level[:1]

    def sample(self, count: int, rng: np.random.Generator) -> list[Layer]:
        """Sample the operations for ``count`` images, layer by layer."""
        if self._table is not None:
            chosen = self._table[rng.integers(len(self._table), size=count)]
        elif self._weights is not None:
            # Gumbel top-k: the largest log(weight) + Gumbel noise are samples without replacement.
            keys = np.log(self._weights) + rng.gumbel(size=(count, len(self._operations)))
            chosen = keys.argsort(1)[:, ::-1][:, : self._layers]
        else:
            chosen = rng.integers(len(self._operations), size=(count, self._layers))
        return [self._sample_layer(column, rng) for column in chosen.T]

    def _sample_layer(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Layer:
        count = len(chosen)
        uniform, normal = rng.random((4, count)), rng.standard_normal(count)
        operation, argument, cubic = np.full(count, -1), np.zeros(count), np.zeros(count, np.bool_)
        for number in np.unique(chosen):
            op = self._operations[number]
            which = (chosen == number).nonzero()[0]
            if op.prob < 1:
                which = which[uniform[0, which] <= op.prob]
            operation[which] = NAMES.index(self._names[number])
            argument[which] = _arguments(op, uniform[1, which], normal[which], uniform[2, which])
            is_cubic = np.array([one == Image.Resampling.BICUBIC for one in op.filters])
            cubic[which] = is_cubic[(uniform[3, which] * len(is_cubic)).astype(np.int64)]
        return Layer(operation, argument, cubic, int(rng.integers(2**63 - 1)) if self._seeds else 0)


def _name(op: Operation, text: str) -> str:
    """Return the name of timm's operation in `NAMES`, where variants differ only in their arguments."""
    name = {'Desaturate': 'Color', 'GaussianBlurRand': 'GaussianBlur'}.get(op.name, op.name)
    name = name.removesuffix('Increasing').removesuffix('Original')
    if name not in NAMES:
        refuse('auto_augment', text, f'operation {op.name!r} has no batched version; {nearest(op.name, NAMES)}')
    return name


def _arguments(op: Operation, uniform: Numbers, normal: Numbers, sign: Numbers) -> Numbers:
    """Compute arguments from uniform, standard normal and uniform random numbers of equal shape."""
    if op.argument is None:
        return np.zeros_like(uniform)
    if op.std == math.inf:
        magnitude = uniform * op.magnitude
    else:
        magnitude = op.magnitude + op.std * normal
    argument = op.argument(magnitude.clip(0, op.highest), np.where(sign > 0.5, -1.0, 1.0))
    if op.name == 'Desaturate':
        argument = (1 - argument).clip(0, 1)
    elif op.name == 'GaussianBlurRand':
        # timm samples the radius inside its operation.
        argument = 0.1 + (2 * argument - 0.1) * uniform
    return argument
