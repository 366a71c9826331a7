"""Finds the model that weights fit: builds it on the meta device from a training's arguments, and compares shapes."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

from .._utils.messages import nearest
from .checkpoint import Shapes, Tensors
from .origin import Origin, check_architecture
from .values import MAX_DEPTH, MAX_OPTION, check

#: Architectures that `recognize` tries: those trained by the authors of 1p-frac, OFDB and FractalDB.
KNOWN = tuple(
    f'{name}_224'
    for name in (
        *(f'vit_{size}_patch{patch}' for size in ('tiny', 'small', 'base', 'large') for patch in (16, 32)),
        *(f'deit_{size}_distilled_patch16' for size in ('tiny', 'small', 'base')),
        *(f'swin_{size}_patch4_window7' for size in ('tiny', 'small', 'base')),
    )
    if name != 'vit_tiny_patch32'
)


def build(args: dict[str, Any], start: Origin, num_classes: int | None = None, **options: Any) -> Any:
    """Build the untrained model that train.py builds from its arguments.

    Args:
        args: Arguments of train.py.
        start: The initial model.
        num_classes: Overrides the one in the arguments.
        options: Additional options of the architecture.

    Raises:
        ValueError: Unknown architecture, or it does not accept these arguments.
    """
    described = _describe(args, start, options)
    # As in train.py, the number of classes overrides that of the initial weights.
    described['num_classes'] = args.get('num_classes') if num_classes is None else num_classes
    try:
        return timm.create_model(start.architecture, pretrained_cfg=start.cfg or None, **described)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        words = ', '.join(f'{key}={value!r}' for key, value in described.items() if value is not None)
        raise ValueError(f'timm cannot build {start.architecture} with {words} ({error})') from error


def _describe(args: dict[str, Any], start: Origin, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the architecture, without the number of classes."""
    name, channels = start.architecture, (args.get('input_size') or (args.get('in_chans') or 3,))[0]
    described = architecture_options(name, start.model_args, f'{start.name}: model_args')
    described |= architecture_options(name, args.get('model_kwargs') or {}, 'model_kwargs')
    described.pop('num_classes', None)
    described['in_chans'] = channels
    for option, flag in (('global_pool', 'gp'), ('bn_eps', 'bn_eps')):
        if args.get(flag):
            described[option] = args[flag]
    return described | options


class Fitted(NamedTuple):
    """A model that fits a checkpoint.

    Attributes:
        model: Untrained, on the meta device if timm supports that.
        model_args: Arguments, in addition to the number of classes, with which timm builds the same model.
        options: The part of ``model_args`` that was not passed to train.py.
    """

    model: Any
    model_args: dict[str, Any]
    options: dict[str, Any]


def fit(path: Path, args: dict[str, Any], start: Origin, tensors: Tensors) -> Fitted:
    """Find the model that train.py built from its arguments, and check that it fits the weights.

    Versions of train.py differ in whether ``--img-size`` changes the model, and whether a model initialized from
    one-channel weights has one channel or three; the shapes of the weights decide.

    Raises:
        ValueError: The weights do not fit; the message says where.
    """
    found, likely = shapes_of(tensors), None
    for options in _candidates(args, start):
        try:
            model = on_meta(build, args, start, **options)
        except ValueError:
            if not options:
                raise
            continue
        likely = model if likely is None else likely
        if shapes_of(model.state_dict()) == found:
            model_args, cfg = _describe(args, start, options), model.pretrained_cfg
            if cfg.get('fixed_input_size') and 'img_size' in _parameters(start.architecture):
                # Without the tag, timm would use the size of the architecture's default weights.
                model_args.setdefault('img_size', tuple(cfg['input_size'][1:]))
            return Fitted(model, model_args, options)
    hint = ''
    if '.' in start.name and ':' not in start.name and not start.cfg:
        hint = f'. {start.name} is unknown here: install the versions of timm and timm-fractal it was trained with'
    refuse_differences(path, start.name, likely, found, hint)
    raise AssertionError('unreachable: the shapes differ')


def _candidates(args: dict[str, Any], start: Origin) -> list[dict[str, Any]]:
    """Return candidate options in addition to the arguments, most likely first."""
    sizes: list[dict[str, Any]] = [{}]
    asked = tuple(args['input_size'][1:]) if args.get('input_size') else args.get('img_size')
    if asked and 'img_size' not in (args.get('model_kwargs') or {}) and 'img_size' in _parameters(start.architecture):
        sizes.append({'img_size': asked})
    channels: list[dict[str, Any]] = [{}]
    began = (start.cfg.get('input_size') or (3,))[0]
    if not (args.get('in_chans') or args.get('input_size')) and began != 3:
        channels.append({'in_chans': began})
    return [size | more for more in channels for size in sizes]


def architecture_options(name: str, options: Any, source: str) -> dict[str, Any]:
    """Validate model options read from a file: only those that describe the architecture are allowed.

    timm also accepts files to load, URLs and functions here. Allowed are parameters of the architecture's class, with
    plain values; lists become tuples. ``source`` is the name of the options in the file, for messages.

    Raises:
        ValueError: Unknown architecture, unknown option, or an invalid value.

    Examples:
        >>> architecture_options('test_vit', {'img_size': [64, 64]}, 'model_kwargs')
        {'img_size': (64, 64)}
    """
    check_architecture(name)
    check(source, options, {})
    known = _parameters(name, options.get('use_naflex') is True)
    for key, value in options.items():
        if key not in known:
            words = nearest(str(key), known)[:300]
            raise ValueError(f'{source}: {str(key)[:100]!r} is not an option of {name}; {words}')
        _check_option(f'{source}: {key}', value, MAX_DEPTH if 'depth' in key or 'layers' in key else MAX_OPTION)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


@functools.cache
def _parameters(name: str, use_naflex: bool = False) -> frozenset[str]:
    try:
        model = on_meta(timm.create_model, name, pretrained=False, **{'use_naflex': True} if use_naflex else {})
    except TypeError as error:
        raise ValueError(f'timm {timm.__version__} has no {name} with use_naflex ({error})') from error
    kinds = [kind for kind in type(model).__mro__ if issubclass(kind, torch.nn.Module)]
    found = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    if type(model).__name__ == 'NaFlexVit':
        # Its options are fields of a dataclass.
        found |= {field.name for field in dataclasses.fields(timm.models.naflexvit.NaFlexVitCfg)} | {'use_naflex'}
    # Some functions that build a model take this for all its batch norms.
    return frozenset(found | {'bn_eps'}) - {'self', 'args', 'kwargs', 'device', 'dtype', 'cfg'}


def _check_option(what: str, value: Any, most: int, nested: int = 2) -> None:
    if isinstance(value, (list, tuple)) and nested and len(value) <= MAX_DEPTH:
        for item in value:
            _check_option(what, item, most, nested - 1)
    elif isinstance(value, str):
        if not re.fullmatch(r'[A-Za-z0-9_-]{0,64}', value):
            raise ValueError(f'{what} must be letters, digits, "_" and "-", at most 64, got {value[:100]!r}')
    elif isinstance(value, (int, float)):
        if not -most <= value <= most:
            raise ValueError(f'{what} must be at most {most}, got {value}')
    elif value is not None:
        raise ValueError(f'{what} must be a number, a string or a list of them, got {type(value).__name__}')


def on_meta(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Build a model on the meta device, or on the CPU if timm cannot (1.0.20 and older read tensor values)."""
    try:
        with torch.device('meta'):
            return make(*args, **kwargs)
    except RuntimeError:
        return make(*args, **kwargs)


def shapes_of(tensors: Tensors) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(expected: Shapes, found: Shapes) -> list[str]:
    """Describe the differences between two sets of tensors.

    Examples:
        >>> differences({'a': (2,), 'b': (1,)}, {'a': (3,)})
        ['a has shape (3,), expected (2,)', 'b is missing']
    """
    words = [
        f'{name} has shape {found[name]}, expected {shape}'
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    words += [f'{name} is missing' for name in expected if name not in found]
    return words + [f'unexpected {name}' for name in found if name not in expected]


def refuse_differences(path: Path, name: str, model: Any, found: Shapes, hint: str = '') -> None:
    """Raise a ValueError if the tensors in a file do not fit the model ``name``."""
    words = differences(shapes_of(model.state_dict()), found)
    if words:
        more = f' and {len(words) - 3} more' if len(words) > 3 else ''
        raise ValueError(f'{path} does not fit {name}: {"; ".join(words[:3])}{more}{hint}')


def recognize(path: Path, tensors: Tensors) -> tuple[str, int]:
    """Infer the architecture from the names and shapes of weights.

    Returns:
        Its name in timm, and the number of classes of the head, 0 without a head.

    Raises:
        ValueError: No known architecture fits; the message names the nearest.
    """
    found = shapes_of(tensors)
    classes = next((found[name][0] for name in ('head.weight', 'head.fc.weight') if name in found), 0)
    unlike: dict[str, list[str]] = {}
    for name in filter(timm.is_model, KNOWN):
        model = on_meta(timm.create_model, name, num_classes=classes)
        unlike[name] = differences(shapes_of(model.state_dict()), found)
        if not unlike[name]:
            return name, classes
    best = min(unlike, key=lambda name: len(unlike[name]))
    raise ValueError(
        f'{path} fits none of the architectures that the authors trained; the nearest is {best}, but '
        f'{"; ".join(unlike[best][:3])}. For weights you trained, use export-weights, with args.yaml beside them. '
        f'Known: {", ".join(unlike)}'
    )
