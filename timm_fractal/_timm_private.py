"""All private names of timm that are read; `timm_fractal.plugin` lists those that are patched.

A test and ``timm-fractal doctor`` check the names in `READ`. If one is missing, features that need it raise an error
that names it (`UnknownTimm`); everything else works.
"""

import functools
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: Versions of timm with which all names here and in `timm_fractal.plugin` were checked.
CHECKED = ('1.0.12', '1.0.20', '1.0.31')

#: Names that are read, and their use.
READ = {
    'timm.models._hub.save_config_for_hf': 'config.json of exported weights; save_for_hf is not in all versions',
    'timm.data.auto_augment.AugmentOp': 'an operation of RandAugment or AutoAugment: its attributes',
    'timm.data.auto_augment.RandAugment': 'ops, num_layers, choice_weights',
    'timm.data.auto_augment.AutoAugment': 'policy',
    'timm.data.distributed_sampler.OrderedDistributedSampler': 'order of the validation split on several ranks',
    'timm.data.distributed_sampler.RepeatAugSampler': '--aug-repeats',
    'timm.data.loader.adapt_to_chs': 'mean and std for other numbers of channels',
    'timm.data.mixup.Mixup': 'base class of FastCollateMixup, whose attributes say how to mix',
}


class UnknownTimm(RuntimeError):
    """A required name is missing in this version of timm, or has a different meaning."""

    def __init__(self, what: object) -> None:
        import timm

        super().__init__(
            f'timm {timm.__version__} is not supported by this version of timm-fractal (tested with '
            f'{", ".join(CHECKED)}): {what}. Use the standard loader, without loader=device, or another version'
        )


def find(name: str) -> Any:
    """Import a name of `READ`, or one that some versions lack.

    Raises:
        UnknownTimm: There is no such name in this version.
    """
    module, _, attribute = name.rpartition('.')
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownTimm(error) from error


def save_config(model: Any, path: Path, model_args: dict[str, Any], **more: Any) -> None:
    """Write ``config.json`` in timm's Hub format, from which timm rebuilds the model, with ``more`` entries."""
    find('timm.models._hub.save_config_for_hf')(model, path, model_config=more, model_args=model_args)
    config = json.loads(path.read_text(encoding='utf-8'))
    # Some versions repeat it here, and transformers then passes it to timm twice.
    config.get('model_args', {}).pop('num_classes', None)
    # From 1.0.31 on, it is false if this model accepts other sizes, but timm's own configurations say how it is built.
    config['pretrained_cfg']['fixed_input_size'] = model.pretrained_cfg['fixed_input_size']
    path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')


Numbers = npt.NDArray[np.float64]


def _between(level: Numbers, min_val: float = 0.0, max_val: float = 1.0, clamp: bool = True) -> Numbers:
    value = min_val + (max_val - min_val) * level
    return value.clip(min_val, max_val) if clamp else value


# timm's default for the highest magnitude.
_MAX_MAGNITUDE = 10.0

#: Vectorized versions of timm's functions from magnitude to argument, by name. Parameters: magnitudes / 10, signs (1 or
#: -1; timm samples them), timm's hparams. A test compares them with timm.
LEVELS: dict[str, Callable[..., Numbers]] = {
    '_rotate_level_to_arg': lambda level, sign, hparams: sign * (level * 30),
    '_enhance_level_to_arg': lambda level, sign, hparams: level * 1.8 + 0.1,
    '_enhance_increasing_level_to_arg': lambda level, sign, hparams: np.maximum(0.1, 1 + sign * (level * 0.9)),
    '_minmax_level_to_arg': lambda level, sign, hparams, **options: _between(level, **options),
    '_shear_level_to_arg': lambda level, sign, hparams: sign * (level * 0.3),
    '_translate_abs_level_to_arg': lambda level, sign, hparams: sign * (level * float(hparams['translate_const'])),
    '_translate_rel_level_to_arg': lambda level, sign, hparams: sign * (level * hparams.get('translate_pct', 0.45)),
    '_posterize_level_to_arg': lambda level, sign, hparams: np.trunc(level * 4),
    '_posterize_increasing_level_to_arg': lambda level, sign, hparams: 4 - np.trunc(level * 4),
    '_posterize_original_level_to_arg': lambda level, sign, hparams: np.trunc(level * 4) + 4,
    '_solarize_level_to_arg': lambda level, sign, hparams: np.minimum(256, np.trunc(level * 256)),
    '_solarize_increasing_level_to_arg': lambda level, sign, hparams: 256 - np.minimum(256, np.trunc(level * 256)),
    '_solarize_add_level_to_arg': lambda level, sign, hparams: np.minimum(128, np.trunc(level * 110)),
}


class Operation(NamedTuple):
    """One operation of a policy.

    Attributes:
        name: timm's name.
        prob: Probability of being applied if chosen.
        magnitude: Mean magnitude.
        std: Standard deviation of the magnitude; infinite for uniform from 0 to the mean.
        highest: Largest magnitude.
        argument: Maps magnitudes and signs (1 or -1) to arguments, arrays of equal shape; None without an argument.
        filters: Pillow filters to choose from for resampling.
    """

    name: str
    prob: float
    magnitude: float
    std: float
    highest: float
    argument: Callable[[Numbers, Numbers], Numbers] | None
    filters: tuple[Any, ...]


def read_policy(text: str, options: dict[str, Any]) -> tuple[list[Operation], int, Any, npt.NDArray[np.int64] | None]:
    """Parse a configuration string of RandAugment or AutoAugment, such as ``'rand-m9-mstd0.5-inc1'``, with timm.

    Args:
        text: The string.
        options: timm's ``hparams``.

    Returns:
        All operations; the number of operations applied to an image; the probabilities of choosing each, without
        replacement, or None for uniform, with replacement; and for AutoAugment indices of operations, of which one row
        is chosen, or None for RandAugment.

    Raises:
        ValueError: timm does not accept the string.
        UnknownTimm: This version of timm has different objects.
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
            return [_operation(op) for op in policy.ops], policy.num_layers, policy.choice_weights, None
        operations = [_operation(op) for row in policy.policy for op in row]
        # All rows have as many operations.
        table = np.arange(len(operations)).reshape(len(policy.policy), -1)
        return operations, table.shape[1], None, table
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise UnknownTimm(f'{type(policy).__name__}: {error}') from error


def _operation(op: Any) -> Operation:
    resample = op.kwargs['resample']
    return Operation(
        op.name,
        op.prob,
        op.magnitude,
        op.magnitude_std,
        op.magnitude_max or _MAX_MAGNITUDE,
        _argument(op.level_fn, op.hparams) if op.level_fn else None,
        tuple(resample) if isinstance(resample, (list, tuple)) else (resample,),
    )


def _argument(function: Any, hparams: dict[str, Any]) -> Callable[[Numbers, Numbers], Numbers]:
    """Vectorize a function from magnitude to argument, with the sign as an input.

    Raises:
        UnknownTimm: The function is not in `LEVELS`; it might use global random generators.
    """
    partial = function if isinstance(function, functools.partial) else functools.partial(function)
    name, module = partial.func.__name__, partial.func.__module__
    if module.startswith('timm_fractal.'):
        return lambda magnitude, sign: np.asarray(partial(magnitude, hparams)[0])
    if module != 'timm.data.auto_augment' or name not in LEVELS:
        raise UnknownTimm(f'the level function {module}.{name}')
    return lambda magnitude, sign: LEVELS[name](
        magnitude / _MAX_MAGNITUDE, sign, hparams, *partial.args, **partial.keywords
    )
