"""All names of timm that are read and not part of its public interface; `timm_fractal.plugin` has what is patched.

`READ` lists the names, a test and ``timm-fractal doctor`` walk it. Where one of them is missing, what needs it is
refused with an error that names it (`UnknownTimm`); everything else goes on.
"""

import functools
import json
import random
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Versions of timm that every name here and in `timm_fractal.plugin` was checked with.
CHECKED = ('1.0.12', '1.0.20', '1.0.31')

#: Names that are read, and what for.
READ = {
    'timm.models._hub.save_config_for_hf': 'config.json of exported weights; save_for_hf is not in all versions',
    'timm.data.auto_augment._LEVEL_DENOM': 'the highest magnitude of an operation that names none',
    'timm.data.auto_augment._randomly_negate': 'the sign of an argument, which the device loader samples itself',
    'timm.data.auto_augment.AugmentOp': 'an operation of RandAugment or AutoAugment: its attributes',
    'timm.data.auto_augment.RandAugment': 'ops, num_layers, choice_weights',
    'timm.data.auto_augment.AutoAugment': 'policy',
    'timm.data.distributed_sampler.OrderedDistributedSampler': 'order of the validation split on several ranks',
    'timm.data.distributed_sampler.RepeatAugSampler': '--aug-repeats',
    'timm.data.loader.adapt_to_chs': 'mean and std for other numbers of channels',
    'timm.data.mixup.Mixup': 'base class of FastCollateMixup, whose attributes say how to mix',
    'timm.data.mixup.mixup_target': 'soft targets',
}

#: Names that are not in all of these versions.
OPTIONAL = {'timm.data.scheduled_sampler.ScheduledBatchSampler': 'batches of different sizes'}


class UnknownTimm(RuntimeError):
    """This version of timm lacks a name that is needed, or it has another meaning."""

    def __init__(self, what: object) -> None:
        import timm

        super().__init__(
            f'timm {timm.__version__} is not known to this version of timm-fractal (checked with '
            f'{", ".join(CHECKED)}): {what}. Use the ordinary loader, without loader=device, or another version'
        )


def find(name: str) -> Any:
    """Import a name of `READ` or `OPTIONAL`.

    Raises:
        UnknownTimm: There is no such name in this version.
    """
    module, _, attribute = name.rpartition('.')
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownTimm(error) from error


def save_config(model: Any, path: Path, model_args: dict[str, Any], **more: Any) -> None:
    """Write ``config.json`` as timm does for the Hub, from which it builds the same model again.

    Args:
        model: Its ``pretrained_cfg`` says what is known about the weights.
        path: The file.
        model_args: What the architecture is given to be this model.
        more: Other entries of the file.
    """
    find('timm.models._hub.save_config_for_hf')(model, path, model_config=more, model_args=model_args)
    config = json.loads(path.read_text(encoding='utf-8'))
    # Some versions repeat it here, and transformers then gives it to timm twice.
    config.get('model_args', {}).pop('num_classes', None)
    path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')


Level = Callable[[float, dict[str, Any]], tuple[float]]


class Operation(NamedTuple):
    """One operation of a policy.

    Attributes:
        name: timm's name of it.
        prob: Probability that it is applied when it is chosen.
        magnitude: Mean magnitude.
        std: Standard deviation of the magnitude; infinite for uniform from 0 to the mean.
        highest: Largest magnitude.
        options: What ``levels`` gets beside the magnitude.
        levels: From a magnitude to the argument, with the positive and with the negative sign; None for no argument.
        filters: Pillow's filters that it chooses from when it resamples.
    """

    name: str
    prob: float
    magnitude: float
    std: float
    highest: float
    options: dict[str, Any]
    levels: tuple[Level, Level] | None
    filters: tuple[Any, ...]


class Policy(NamedTuple):
    """RandAugment or AutoAugment.

    Attributes:
        operations: All of them.
        layers: How many are applied to an image.
        weights: Probability of each to be chosen, without replacement; None for equal ones, with replacement.
        rows: For AutoAugment, sequences of places in ``operations``, one of which is chosen; None for RandAugment.
    """

    operations: list[Operation]
    layers: int
    weights: Any
    rows: list[list[int]] | None


def read_policy(text: str, options: dict[str, Any]) -> Policy:
    """Let timm read a configuration string, and say what it has understood.

    Args:
        text: For instance ``'rand-m9-mstd0.5-inc1'``.
        options: timm's ``hparams``.

    Raises:
        ValueError: The string is none of timm's.
        UnknownTimm: What timm makes of it is not what it was.
    """
    from timm.data import auto_augment

    is_rand = text.split('-')[0] == 'rand'
    make = auto_augment.rand_augment_transform if is_rand else auto_augment.auto_augment_transform
    try:
        policy: Any = make(text, options)
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(f'auto_augment={text!r} is not a configuration string of timm: {error}') from None
    try:
        if is_rand:
            return Policy([_operation(op) for op in policy.ops], policy.num_layers, policy.choice_weights, None)
        numbers = iter(range(sum(map(len, policy.policy))))
        rows = [[next(numbers) for _ in row] for row in policy.policy]
        return Policy([_operation(op) for row in policy.policy for op in row], max(map(len, rows)), None, rows)
    except (AttributeError, TypeError, KeyError) as error:
        raise UnknownTimm(f'{type(policy).__name__}: {error}') from error


def _operation(op: Any) -> Operation:
    resample = op.kwargs['resample']
    return Operation(
        op.name,
        op.prob,
        op.magnitude,
        op.magnitude_std,
        op.magnitude_max or find('timm.data.auto_augment._LEVEL_DENOM'),
        op.hparams,
        _levels(op.level_fn, op.hparams) if op.level_fn else None,
        tuple(resample) if isinstance(resample, (list, tuple)) else (resample,),
    )


def _levels(function: Any, hparams: dict[str, Any]) -> tuple[Level, Level]:
    """One of timm's functions from a magnitude to arguments, with the sign that it samples given.

    Raises:
        UnknownTimm: It samples anything else, or from another place: the global generators would be used in silence.
    """
    from timm.data import auto_augment

    partial = function if isinstance(function, functools.partial) else functools.partial(function)
    plus = minus = partial
    # Those of this package sample no sign.
    if partial.func.__module__ == auto_augment.__name__:
        scopes = [_scope(sign) for sign in (1, -1)]
        plus, minus = (
            functools.partial(scope[partial.func.__name__], *partial.args, **partial.keywords) for scope in scopes
        )
    results = [functools.partial(signed, level, hparams) for level in (0.0, 5.0, 10.0) for signed in (plus, minus)]
    if not all(map(_is_determined, results)):
        raise UnknownTimm(f'timm.data.auto_augment.{partial.func.__name__} samples more than a sign')
    if any(len(result()) > 1 for result in results):
        raise UnknownTimm(f'{partial.func.__name__} gives several arguments')
    return plus, minus


def _is_determined(call: Callable[[], object]) -> bool:
    """Whether a call leaves the global generators alone; if not, they are put back.

    Other threads may use them meanwhile: a call that samples does so every time.
    """
    first = random.getstate(), np.random.get_state()
    for _ in range(10):
        before = random.getstate(), repr(np.random.get_state())
        call()
        if (random.getstate(), repr(np.random.get_state())) == before:
            return True
    random.setstate(first[0])
    np.random.set_state(first[1])
    return False


@functools.cache
def _scope(sign: int) -> dict[str, Any]:
    """The functions of timm.data.auto_augment, with the sign that ``_randomly_negate`` samples given."""
    find('timm.data.auto_augment._randomly_negate')
    module = import_module('timm.data.auto_augment')
    scope: dict[str, Any] = {**vars(module), '_randomly_negate': lambda value: sign * value, 'random': None}
    for name, value in vars(module).items():
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and name != '_randomly_negate':
            scope[name] = types.FunctionType(value.__code__, scope, name, value.__defaults__, value.__closure__)
    return scope
