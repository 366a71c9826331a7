"""Checkpoints of training scripts, read without running what may be in them, and the models that they fit."""

import argparse
import csv
import dataclasses
import functools
import inspect
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

import timm
import torch
import yaml
from safetensors import SafetensorError, safe_open
from timm.models import clean_state_dict

from .._utils.messages import nearest
from ..spec import MAX_SAMPLES, parse_name

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

#: Architectures that `recognise` knows: those that the authors of 1p-frac, OFDB and FractalDB have trained.
KNOWN = tuple(
    f'{name}_224'
    for name in (
        *(f'vit_{size}_patch{patch}' for size in ('tiny', 'small', 'base', 'large') for patch in (16, 32)),
        *(f'deit_{size}_distilled_patch16' for size in ('tiny', 'small', 'base')),
        *(f'swin_{size}_patch4_window7' for size in ('tiny', 'small', 'base')),
    )
    if name != 'vit_tiny_patch32'
)


#: The largest text file beside a checkpoint, in bytes, and how many values the arguments in it may be.
MAX_TEXT, MAX_VALUES, MAX_NESTED = 2**24, 20_000, 16

#: The largest number that describes an architecture, and the largest number of blocks: no file makes a model of more.
MAX_OPTION, MAX_DEPTH = 2**20, 1024

_Module = torch.nn.Module

# Arguments of train.py that are files or folders, even where they do not look so.
_PATHS = ('config', 'data', 'data_dir', 'initial_checkpoint', 'output', 'pretrained_path', 'resume')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is in a checkpoint.

    Attributes:
        path: The file.
        tensors: The weights, under timm's names.
        args: train.py's arguments, or nothing if the file does not say.
        epochs: Number of epochs that were trained, if the file says it.
        ema: Whether they are the EMA weights.
        loss: Mean training loss of the last of these epochs, if ``summary.csv`` lies beside the file.
    """

    path: Path
    tensors: Tensors
    args: dict[str, Any]
    epochs: int | None = None
    ema: bool = False
    loss: float | None = None

    @property
    def samples(self) -> int | None:
        """Number of samples that were seen, as the arguments say: the last, incomplete batch of an epoch is dropped."""

        try:
            spec: Any = parse_name(self.args['dataset'])
            rounds, length = self.args.get('epoch_repeats') or 0, self.args.get('train_num_samples')
            length = int((length or spec.num_classes * spec.num_instances) * max(1.0, rounds))
            batch = self.args['batch_size'] * (self.args.get('world_size') or 1)
        except (KeyError, ValueError, AttributeError, TypeError):
            return None
        return None if self.epochs is None else self.epochs * (length // batch * batch)


def read(path: Path, use_ema: bool | None = None) -> Checkpoint:
    """Read a checkpoint of train.py, or a safetensors file.

    Args:
        path: ``*.pth.tar`` and the like, or ``*.safetensors``. The arguments of the training are taken from the
            checkpoint, from the metadata ``train_args`` of the safetensors file, or from ``args.yaml`` beside it.
        use_ema: Take the moving average of the weights; by default, if there is one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds code, or has no weights of the kind asked for.
    """
    if not path.is_file():
        words = 'is a folder: name a file in it, such as last.pth.tar' if path.is_dir() else 'no such file'
        raise FileNotFoundError(f'{path}: {words}')
    if path.suffix == '.safetensors':
        if use_ema:
            raise ValueError(f'{path}: --use-ema has no meaning for a safetensors file, which holds one set of weights')
        tensors, metadata = _read_safetensors(path)
        return Checkpoint(path, tensors, _args_within(path, metadata) or _args_beside(path))
    content = unpickle(path)
    if is_bare(content):
        # What timm's avg_checkpoints.py and clean_checkpoint.py write.
        if use_ema:
            raise ValueError(f'{path}: --use-ema has no meaning for a bare state dict, which is one set of weights')
        return Checkpoint(path, check_tensors(path, content), _args_beside(path))
    key = 'state_dict_ema' if use_ema or (use_ema is None and content.get('state_dict_ema')) else 'state_dict'
    tensors = content.get(key) or {}
    if not tensors:
        hint = ': a file of the authors of a method, use convert' if 'model' in content else ''
        raise ValueError(f'{path}: no {key!r} in this checkpoint, it has: {listed(content)}{hint}')
    args = content.get('args')
    args = _typed(path, vars(args)) if isinstance(args, argparse.Namespace) else _args_beside(path)
    epochs = None
    for name in ('epoch', 'version'):
        if not (content.get(name) is None or _is_whole(0, MAX_SAMPLES)(content[name])):
            raise ValueError(f'{path}: {name} must be a whole number, got {str(content[name])[:100]!r}')
    if content.get('epoch') is not None:
        epochs = content['epoch'] + ((content.get('version') or 1) > 1)
    loss = _loss_beside(path, epochs)
    return Checkpoint(path, check_tensors(path, tensors), args, epochs, key == 'state_dict_ema', loss)


def is_bare(content: dict[Any, Any]) -> bool:
    """Whether what was read from a checkpoint is tensors by name, and nothing else."""
    return bool(content) and all(isinstance(value, torch.Tensor) for value in content.values())


def listed(names: Iterable[Any]) -> str:
    """The first names, for a message.

    Examples:
        >>> listed('abcdefg')
        'a, b, c, d, e, ... (7 in all)'
    """
    words = [str(name)[:50] for name in names]
    return ', '.join(words) or 'nothing' if len(words) <= 5 else f'{", ".join(words[:5])}, ... ({len(words)} in all)'


def unpickle(path: Path) -> dict[str, Any]:
    """Load what torch has saved, as data only: a file with code in it is refused, and nothing of it is run."""
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # About sparse tensors, which are refused below.
            warnings.filterwarnings('ignore', 'Validating sparse', UserWarning)
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        names = _foreign(path)
        words = f'it wants to call {listed(names)}' if names else 'it is no file of torch, or damaged'
        raise ValueError(f'{path} is refused: {words}. Only tensors and plain values are read') from error
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # Whatever else the reader stumbles over.
        words = f'{type(error).__name__}: {_first_line(error)}'
        raise ValueError(f'{path} is damaged, or no checkpoint of torch ({words})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: a checkpoint must be a dict, got {type(content).__name__}')
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive whose members are not what was written; torch does not compare their CRC-32."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # torch stores, and compresses nothing: there is no more to read than the file is long.
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            damaged = packed[0] if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f'{path} is damaged ({_first_line(error)}): copy it again') from error
    if damaged is not None:
        rule = 'is compressed, which torch never does' if packed else 'does not have the CRC-32 it was written with'
        raise ValueError(f'{path} is damaged: {damaged[:100]!r} in it {rule}; copy it again')


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _foreign(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        # Not the format of torch: what it would call cannot be listed.
        return []


def check_tensors(path: Path, tensors: Any) -> Tensors:
    """Take off the prefixes of wrappers; all values must be tensors."""
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f'{path}: the weights must be a dict of tensors, got {type(tensors).__name__}')
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f'{path}: names of tensors must be text, got {str(name)[:100]!r}')
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f'{path}: {name[:100]!r} must be a plain tensor, not sparse, without data or quantised')
    cleaned: Tensors = clean_state_dict(tensors)
    return cleaned


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework='pt') as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f'{path} is truncated, or no safetensors file ({error})') from error


def shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors of a safetensors file, which must be complete."""
    try:
        with safe_open(path, framework='pt') as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f'{path} is truncated, or no safetensors file ({error})') from error


def _args_within(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        content = json.loads(metadata.get('train_args', '{}'))
        if not isinstance(content, dict):
            raise ValueError(f'it is of type {type(content).__name__}')
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the metadata 'train_args' must be a JSON object ({error})") from error
    return _typed(path, content)


def _args_beside(path: Path) -> dict[str, Any]:
    file = path.with_name('args.yaml')
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(_text(file))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f'{file} is no YAML file of plain values ({_first_line(error)})') from error
    return _typed(file, content)


def refuse_large(file: Path) -> None:
    """Raise a ValueError if a file beside weights is larger than `MAX_TEXT`."""
    if file.stat().st_size > MAX_TEXT:
        raise ValueError(f'{file} must have at most {MAX_TEXT:,} bytes, got {file.stat().st_size:,}')


def _text(file: Path) -> str:
    refuse_large(file)
    return file.read_text(encoding='utf-8')


def _loss_beside(path: Path, epochs: int | None) -> float | None:
    file = path.with_name('summary.csv')
    if epochs is None or not file.is_file():
        return None
    try:
        rows = csv.DictReader(_text(file).splitlines())
        losses = [row['train_loss'] for row in rows if row.get('epoch') == str(epochs - 1) and row.get('train_loss')]
        return float(losses[-1]) if losses else None
    except (csv.Error, ValueError, TypeError) as error:
        raise ValueError(f'{file} is no summary of train.py ({_first_line(error)}): mend it or move it away') from error


def _typed(path: Path, content: Any) -> dict[str, Any]:
    """Arguments of train.py as they were read from a file: plain values, those that are used here of the right type.

    Raises:
        ValueError: A value that is used here has another type or is out of range, or there are too many values.
    """
    if not isinstance(content, dict):
        raise ValueError(f'{path}: the arguments of train.py must be names and values, got {type(content).__name__}')
    args = _plain(content, _Budget(path))
    check_values(path, args)
    return args


def check_values(path: Path, values: dict[str, Any]) -> None:
    """Raise a ValueError if what a file says of a training or of a model's input has another type, or is out of range.

    Args:
        path: The file, for the message.
        values: In timm's terms; those that are not known are not looked at.
    """
    for key, (valid, words) in _ARGUMENTS.items():
        if values.get(key) is not None and not valid(values[key]):
            raise ValueError(f'{path}: {key} must be {words}, got {str(values[key])[:100]!r}')
    size = values.get('input_size') or [values.get('in_chans') or 3]
    for key in ('mean', 'std'):
        if values.get(key) is not None and len(values[key]) not in (1, size[0]):
            raise ValueError(f'{path}: {key} must be one number or {size[0]}, one per channel, got {len(values[key])}')


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SAMPLES


def _are(valid: Callable[[Any], bool], *lengths: int) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and len(values) in lengths and all(map(valid, values))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r'[\w./:-]{0,200}', value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


_CHANNELS = range(1, 65)
_PIXELS = _is_whole(1, 2**16)

# What is used of the arguments of train.py: which values are valid, and that in words.
_ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'model': (_is_word, "the name of one of timm's architectures"),
    'dataset': (_is_name, 'a name of at most 1,000 characters'),
    'data_dir': (_is_name, 'a name of at most 1,000 characters'),
    'data': (_is_name, 'a name of at most 1,000 characters'),
    'num_classes': (_is_whole(0, 2**20), f'a whole number from 0 to {2**20}'),
    'batch_size': (_is_whole(1, 2**31), f'a whole number from 1 to {2**31}'),
    'world_size': (_is_whole(1, 2**20), f'a whole number from 1 to {2**20}'),
    'train_num_samples': (_is_whole(1, MAX_SAMPLES), f'a whole number from 1 to {MAX_SAMPLES}'),
    'epoch_repeats': (_is_number, f'a number from 0 to {MAX_SAMPLES}'),
    'in_chans': (_is_whole(1, 64), 'a whole number from 1 to 64'),
    'img_size': (_PIXELS, f'a whole number from 1 to {2**16}'),
    'input_size': (_are(_PIXELS, 3), 'three whole numbers: channels, height, width'),
    'mean': (_are(_is_number, *_CHANNELS), 'a list of numbers, one per channel'),
    'std': (_are(_is_number, *_CHANNELS), 'a list of numbers, one per channel'),
    'crop_pct': (_is_number, 'a number'),
    'interpolation': (_is_word, 'a word'),
    'crop_mode': (_is_word, 'a word'),
    'gp': (_is_word, 'a word'),
    'model_kwargs': (lambda value: isinstance(value, dict), 'names and values'),
}


class _Budget:
    """How much may be read from a file whose values can stand for many more than it has bytes."""

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, MAX_VALUES

    def spend(self, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or depth > MAX_NESTED:
            raise ValueError(
                f'{self.path}: the arguments of train.py must be at most {MAX_VALUES} values, nested at most '
                f'{MAX_NESTED} times'
            )


def _plain(args: dict[Any, Any], budget: _Budget, depth: int = 0) -> dict[str, Any]:
    return {
        str(key): PureWindowsPath(value).name
        if key in _PATHS and isinstance(value, str)
        else _plain_value(value, budget, depth + 1)
        for key, value in args.items()
    }


def _plain_value(value: Any, budget: _Budget, depth: int) -> Any:
    """For YAML and JSON. A path says where on one machine something was: its last part is enough for others."""
    budget.spend(depth)
    if isinstance(value, dict):
        return _plain(value, budget, depth)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item, budget, depth + 1) for item in value]
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    text = str(value)
    path = PureWindowsPath(text)
    return path.name if path.drive or path.root or text.startswith('~') else text


def build(args: dict[str, Any], num_classes: int | None = None, **options: Any) -> Any:
    """Build the untrained model that train.py makes from its arguments.

    Args:
        args: At least ``model``.
        num_classes: In place of that of the arguments.
        options: More for the architecture.

    Raises:
        ValueError: There is no such architecture, or it does not take these arguments.

    Examples:
        >>> build({'model': 'test_vit', 'num_classes': 7, 'model_kwargs': {'img_size': 64}}).num_classes
        7
    """
    # The tag of the weights that the training began with says nothing about the architecture.
    name = str(args['model']).partition('.')[0]
    described = architecture_options(name, args.get('model_kwargs') or {}, 'model_kwargs')
    size = args.get('input_size') or (args.get('in_chans') or 3,)
    options = dict(described, in_chans=size[0], global_pool=args.get('gp'), **options)
    options['num_classes'] = args.get('num_classes') if num_classes is None else num_classes
    try:
        return timm.create_model(name, **options)
    except (AssertionError, RuntimeError, TypeError) as error:
        words = ', '.join(f'{key}={value!r}' for key, value in options.items() if value is not None)
        raise ValueError(f'timm cannot build {name} with {words} ({error})') from error


def architecture_options(name: str, options: Any, source: str) -> dict[str, Any]:
    """Options of a model that were read from a file, if they describe its architecture and nothing else.

    timm takes much more in their place: other files to load, addresses, functions. What may pass are the parameters of
    the class that the architecture is made of, with plain values.

    Args:
        name: An architecture of timm, without a tag.
        options: What the file says.
        source: What the file calls them, for messages.

    Returns:
        The options, lists as tuples.

    Raises:
        ValueError: There is no such architecture, or an option is none of it.

    Examples:
        >>> architecture_options('test_vit', {'img_size': [64, 64]}, 'model_kwargs')
        {'img_size': (64, 64)}
    """

    if not timm.is_model(name):
        raise ValueError(f'unknown architecture {name[:100]!r}; {nearest(name[:100], timm.list_models())[:200]} ...')
    if not isinstance(options, dict):
        raise ValueError(f'{source} must be names and values, got {type(options).__name__}')
    known = _parameters(name)
    for key, value in options.items():
        if key not in known:
            raise ValueError(f'{source}: {str(key)[:100]!r} is no option of {name}; {nearest(str(key), known)[:300]}')
        _check_option(f'{source}: {key}', value, MAX_DEPTH if 'depth' in key or 'layers' in key else MAX_OPTION)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


@functools.cache
def _parameters(name: str) -> frozenset[str]:
    """Parameters of the class of an architecture that describe it."""
    model = on_meta(timm.create_model, name, pretrained=False)
    found = (inspect.signature(kind.__init__).parameters for kind in type(model).__mro__ if issubclass(kind, _Module))
    return frozenset(name for parameters in found for name in parameters) - {
        'self',
        'args',
        'kwargs',
        'device',
        'dtype',
    }


def _check_option(what: str, value: Any, most: int, nested: int = 2) -> None:
    if isinstance(value, (list, tuple)) and nested and len(value) <= MAX_DEPTH:
        for item in value:
            _check_option(what, item, most, nested - 1)
    elif isinstance(value, str):
        if not re.fullmatch(r'[A-Za-z0-9_-]{0,64}', value):
            raise ValueError(f'{what} must be a word, got {value[:100]!r}')
    elif isinstance(value, (int, float)):
        if not -most <= value <= most:
            raise ValueError(f'{what} must be at most {most}, got {value}')
    elif value is not None:
        raise ValueError(f'{what} must be a number, a word or a list of them, got {type(value).__name__}')


def on_meta(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make a model that has shapes and no memory.

    timm 1.0.20 and older ask tensors for their values while they build: there it is a model with memory.
    """
    try:
        with torch.device('meta'):
            return make(*args, **kwargs)
    except RuntimeError:
        return make(*args, **kwargs)


def model_shapes(model: Any) -> Shapes:
    """Names and shapes of what a model's ``state_dict`` holds."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def differences(expected: Shapes, found: Shapes) -> list[str]:
    """In words, where two sets of tensors differ.

    Examples:
        >>> differences({'a': (2,), 'b': (1,)}, {'a': (3,)})
        ['a has shape (3,) and must have (2,)', 'b is missing']
    """
    words = [
        f'{name} has shape {found[name]} and must have {shape}'
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    words += [f'{name} is missing' for name in expected if name not in found]
    return words + [f'{name} is too many' for name in found if name not in expected]


def refuse_differences(path: Path, architecture: str, expected: Shapes, found: Shapes) -> None:
    """Raise a ValueError if tensors do not fit."""
    words = differences(expected, found)
    if words:
        more = f' and {len(words) - 3} more' if len(words) > 3 else ''
        raise ValueError(f'{path} does not fit {architecture}: {"; ".join(words[:3])}{more}')


def recognise(path: Path, tensors: Tensors, known: Iterable[str] = KNOWN) -> tuple[str, int]:
    """Find the architecture of weights from their names and shapes.

    Returns:
        timm's name of it, and the number of classes of the head, 0 if there is none.

    Raises:
        ValueError: It is none of those that are known; the message names the nearest.
    """
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    classes = next((found[name][0] for name in ('head.weight', 'head.fc.weight') if name in found), 0)
    nearest: dict[str, list[str]] = {}
    for name in known:
        if timm.is_model(name):
            nearest[name] = differences(model_shapes(on_meta(timm.create_model, name, num_classes=classes)), found)
            if not nearest[name]:
                return name, classes
    best = min(nearest, key=lambda name: len(nearest[name]))
    raise ValueError(
        f'{path} is none of the architectures {", ".join(nearest)}. The nearest is {best}, but '
        f'{"; ".join(nearest[best][:3])}. For weights of a training of your own use export-weights, with its args.yaml '
        f'beside them'
    )
