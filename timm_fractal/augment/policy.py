"""RandAugment and AutoAugment in batches: timm reads its strings and makes the arguments, here they are drawn."""

import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import auto_augment as timm_augment

from .._utils.messages import nearest
from .ops import MATRICES, NAMES, SHAPES, Numbers

#: The automatic policies that timm's strings can begin with, AugMix apart.
POLICIES = ('rand', 'v0', 'v0r', 'original', 'originalr', '3a')


class Layer(NamedTuple):
    """One operation for each image of a batch; arrays of shape (B,).

    Attributes:
        operation: Place in `timm_fractal.augment.ops.NAMES`, -1 for none.
        argument: What timm's operation gets: a factor, degrees, a threshold, ...
        cubic: Whether it interpolates bicubic, for those that interpolate; if not, bilinear.
        seed: Where the parameters of a warp of `timm_fractal.shape` come from, int64; None where there is no such warp.
    """

    operation: npt.NDArray[np.int64]
    argument: Numbers
    cubic: npt.NDArray[np.bool_]
    seed: npt.NDArray[np.int64] | None = None


def refuse(option: str, value: Any, available: str) -> NoReturn:
    """Say that an option of timm cannot be honoured on a device."""
    raise ValueError(
        f'{option}={value!r} is not available on the device ({available}): use the ordinary loader for it, '
        f'without loader=device in the name of the data set'
    )


class Policy:
    """RandAugment or AutoAugment, as timm understands its string.

    Attributes:
        fill: What a warp fills in: one level, or three if it is a colour.
    """

    def __init__(self, text: str, size: tuple[int, int], interpolation: str, mean: Sequence[float]) -> None:
        name = text.split('-')[0]
        if name not in POLICIES:
            refuse('auto_augment', text, nearest(name, POLICIES))
        level = tuple(min(255, round(255 * value)) for value in mean)
        options: dict[str, Any] = dict(translate_const=int(min(size) * 0.45), img_mean=level)
        if interpolation != 'random':
            options['interpolation'] = Image.Resampling[interpolation.upper()]
        create = timm_augment.rand_augment_transform if name == 'rand' else timm_augment.auto_augment_transform
        try:
            policy = create(text, options)
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(f'auto_augment={text!r} is no configuration string of timm: {error}') from None
        self._weights: Numbers | None = None
        self._table: npt.NDArray[np.int64] | None = None
        if name == 'rand':
            self._ops = list(policy.ops)
            self._layers = policy.num_layers
            self._weights = policy.choice_weights
            if self._weights is not None and self._layers > len(self._ops):
                raise ValueError(f'auto_augment={text!r}: n must be at most {len(self._ops)}, got {self._layers}')
        else:
            self._ops = [op for row in policy.policy for op in row]
            self._layers = max(len(row) for row in policy.policy)
            numbers = iter(range(len(self._ops)))
            rows = [[next(numbers) for _ in row] for row in policy.policy]
            self._table = np.array([row + [-1] * (self._layers - len(row)) for row in rows])
        self._draws = [_Operation(op, text) for op in self._ops]
        warps = any(draw.name in (*MATRICES, *SHAPES) for draw in self._draws)
        self._seeds = any(draw.name in SHAPES for draw in self._draws)
        self.fill: tuple[int, ...] = level if warps and len(set(level)) > 1 else level[:1]

    def draw(self, count: int, rng: np.random.Generator) -> list[Layer]:
        """Draw what happens to each of ``count`` images, layer by layer."""
        if self._table is not None:
            chosen = self._table[rng.integers(len(self._table), size=count)]
        elif self._weights is not None:
            # The largest of log(weight) + Gumbel noise: draws without replacement.
            keys = np.log(self._weights) + rng.gumbel(size=(count, len(self._ops)))
            chosen = keys.argsort(1)[:, ::-1][:, : self._layers]
        else:
            chosen = rng.integers(len(self._ops), size=(count, self._layers))
        return [self._draw_layer(column, rng) for column in chosen.T]

    def _draw_layer(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Layer:
        count = len(chosen)
        uniform, normal = rng.random((4, count)), rng.standard_normal(count)
        operation, argument, cubic = np.full(count, -1), np.zeros(count), np.zeros(count, np.bool_)
        for number in np.unique(chosen[chosen >= 0]):
            draw = self._draws[number]
            which = (chosen == number).nonzero()[0]
            if draw.prob < 1:
                which = which[uniform[0, which] <= draw.prob]
            operation[which] = NAMES.index(draw.name)
            argument[which] = draw.arguments(uniform[1, which], normal[which], uniform[2, which])
            cubic[which] = draw.cubic[(uniform[3, which] * len(draw.cubic)).astype(np.int64)]
        return Layer(operation, argument, cubic, rng.integers(2**63 - 1, size=count) if self._seeds else None)


class _Operation:
    """One of timm's ``AugmentOp``s: how its arguments are distributed."""

    def __init__(self, op: Any, text: str) -> None:
        self.name = {'Desaturate': 'Color', 'GaussianBlurRand': 'GaussianBlur'}.get(op.name, op.name)
        self.name = self.name.removesuffix('Increasing').removesuffix('Original')
        if self.name not in NAMES:
            refuse('auto_augment', text, f'its operation {op.name!r} has no batched version; {nearest(op.name, NAMES)}')
        self.prob: float = op.prob
        self._timm_name = op.name
        self._magnitude, self._std = op.magnitude, op.magnitude_std
        self._highest = op.magnitude_max or timm_augment._LEVEL_DENOM
        self._options = op.hparams
        self._levels = level_functions(op.level_fn) if op.level_fn else None
        resample = op.kwargs['resample']
        filters = resample if isinstance(resample, (list, tuple)) else (resample,)
        self.cubic = np.array([one == Image.Resampling.BICUBIC for one in filters])

    def arguments(self, uniform: Numbers, normal: Numbers, sign: Numbers) -> Numbers:
        """Arguments made of numbers that are uniform from 0 to 1 and standard normal, arrays of one shape."""
        if self._levels is None:
            return np.zeros_like(uniform)
        if self._std == math.inf:
            magnitude = uniform * self._magnitude
        elif self._std > 0:
            magnitude = self._magnitude + self._std * normal
        else:
            magnitude = np.full_like(uniform, self._magnitude)
        magnitude = magnitude.clip(0, self._highest)
        pairs = zip(magnitude.tolist(), (sign > 0.5).tolist())
        argument = np.array([self._levels[negative](level, self._options)[0] for level, negative in pairs], np.float64)
        if self._timm_name == 'Desaturate':
            argument = (1 - argument).clip(0, 1)
        elif self._timm_name == 'GaussianBlurRand':
            # timm draws the radius once more, inside of its operation.
            argument = 0.1 + (2 * argument - 0.1) * uniform
        return argument


Level = Callable[[float, dict[str, Any]], tuple[float]]


@functools.cache
def _level_scope(sign: int) -> dict[str, Any]:
    """timm's functions from a magnitude to arguments, with the sign that they draw handed in."""
    if not hasattr(timm_augment, '_randomly_negate'):
        raise RuntimeError('timm.data.auto_augment has no _randomly_negate any more: use the ordinary loader')
    # A function that drew anything else would fail.
    return rescoped(timm_augment, _randomly_negate=lambda value: sign * value, random=None)


def level_functions(function: Any) -> tuple[Level, Level]:
    """One of timm's functions from a magnitude to arguments twice, with the positive and with the negative sign."""
    partial = function if isinstance(function, functools.partial) else functools.partial(function)
    if partial.func.__module__ != timm_augment.__name__:
        # Of this package, which draws no sign.
        return partial, partial
    plus, minus = (_level_scope(sign)[partial.func.__name__] for sign in (1, -1))
    return (
        functools.partial(plus, *partial.args, **partial.keywords),
        functools.partial(minus, *partial.args, **partial.keywords),
    )


def rescoped(module: types.ModuleType, **names: Any) -> dict[str, Any]:
    """A module's functions once more, in a scope where some names stand for something else.

    So timm's own code, in the version at hand, draws from the generator that it is given here.
    """
    scope = {**vars(module), **names}
    for name, value in vars(module).items():
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and name not in names:
            scope[name] = types.FunctionType(value.__code__, scope, name, value.__defaults__, value.__closure__)
    return scope
