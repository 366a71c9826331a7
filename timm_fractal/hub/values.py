"""Validates files about a training (limits, types, ranges), and redacts private values."""

import re
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

from .._utils.atomic import check_regular
from .._utils.messages import redacted
from ..spec import MAX_SAMPLES

#: Limits of a text file beside a checkpoint: bytes, values, and depth of nesting.
MAX_TEXT, MAX_VALUES, MAX_NESTED = 2**24, 20_000, 16

#: Limits of a model described by a file: largest number, and largest number of blocks.
MAX_OPTION, MAX_DEPTH = 2**20, 1024

# Arguments of train.py that are always files or folders.
_PATHS = ('config', 'data', 'data_dir', 'initial_checkpoint', 'output', 'pretrained_path', 'resume')


def refuse_large(file: Path) -> None:
    """Raise a ValueError if a file beside weights is larger than `MAX_TEXT`, or not a regular file."""
    check_regular(file)
    if file.stat().st_size > MAX_TEXT:
        raise ValueError(f'{file} must have at most {MAX_TEXT:,} bytes, got {file.stat().st_size:,}')


def text(file: Path) -> str:
    """Read a text file beside weights."""
    refuse_large(file)
    return file.read_text(encoding='utf-8')


def typed(path: Path, content: Any) -> dict[str, Any]:
    """Convert arguments of train.py from a file to plain values, and check those used here.

    Raises:
        ValueError: A value has the wrong type or is out of range, or there are too many values.
    """
    if not isinstance(content, dict):
        raise ValueError(f'{path}: the arguments of train.py must be a mapping, got {type(content).__name__}')
    args = _plain(content, _Budget(path))
    check_values(path, args)
    return args


def check_values(path: Path | str, values: dict[str, Any]) -> None:
    """Check types and ranges of values about a training or a model's input.

    Args:
        path: File or subject, for messages.
        values: With timm's names; unknown ones are ignored.

    Raises:
        ValueError: A value has the wrong type or is out of range.
    """
    for key, (valid, words) in _ARGUMENTS.items():
        if values.get(key) is not None and not valid(values[key]):
            raise ValueError(f'{path}: {key} must be {words}, got {str(values[key])[:100]!r}')
    size = values.get('input_size') or [values.get('in_chans') or 3]
    for key in ('mean', 'std'):
        if values.get(key) is not None and len(values[key]) not in (1, size[0]):
            raise ValueError(f'{path}: {key} must be one number or {size[0]}, one per channel, got {len(values[key])}')


def is_integer(low: int, high: int) -> Callable[[Any], bool]:
    """Return a test for integers from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SAMPLES


def _is_list_of(valid: Callable[[Any], bool], *lengths: int) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and len(values) in lengths and all(map(valid, values))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r'[\w./:-]{0,200}', value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


_CHANNELS = range(1, 65)
_PIXELS = is_integer(1, 2**16)

# The arguments of train.py used here: a test, and its description.
_ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'model': (_is_name, 'the name of a timm model, local-dir:FOLDER or hf-hub:OWNER/NAME'),
    'dataset': (_is_name, 'a name of at most 1,000 characters'),
    'data_dir': (_is_name, 'a name of at most 1,000 characters'),
    'data': (_is_name, 'a name of at most 1,000 characters'),
    'num_classes': (is_integer(0, 2**20), f'an integer from 0 to {2**20}'),
    'batch_size': (is_integer(1, 2**31), f'an integer from 1 to {2**31}'),
    'world_size': (is_integer(1, 2**20), f'an integer from 1 to {2**20}'),
    'train_num_samples': (is_integer(1, MAX_SAMPLES), f'an integer from 1 to {MAX_SAMPLES}'),
    'epoch_repeats': (_is_number, f'a number from 0 to {MAX_SAMPLES}'),
    'in_chans': (is_integer(1, 64), 'an integer from 1 to 64'),
    'img_size': (_PIXELS, f'an integer from 1 to {2**16}'),
    'input_size': (_is_list_of(_PIXELS, 3), 'three integers: channels, height, width'),
    'mean': (_is_list_of(_is_number, *_CHANNELS), 'a list of numbers, one per channel'),
    'std': (_is_list_of(_is_number, *_CHANNELS), 'a list of numbers, one per channel'),
    'crop_pct': (_is_number, 'a number'),
    'interpolation': (_is_word, 'a word'),
    'crop_mode': (_is_word, 'a word'),
    'gp': (_is_word, 'a word'),
    'pretrained_path': (_is_name, 'a name of at most 1,000 characters'),
    'initial_checkpoint': (_is_name, 'a name of at most 1,000 characters'),
    'model_kwargs': (lambda value: isinstance(value, dict), 'a mapping'),
}


class _Budget:
    """Counts the values of a file: YAML aliases can expand to many more values than the file has bytes."""

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
    return {str(key): _plain_value(str(key), value, budget, depth + 1) for key, value in args.items()}


def _plain_value(key: str, value: Any, budget: _Budget, depth: int) -> Any:
    budget.spend(depth)
    if isinstance(value, dict):
        return _plain(value, budget, depth)
    if isinstance(value, (list, tuple)):
        return [_plain_value(key, item, budget, depth + 1) for item in value]
    return value if isinstance(value, (bool, int, float)) or value is None else str(value)


def shareable(args: dict[str, Any]) -> dict[str, Any]:
    """Remove private values from arguments of train.py: local folders, tokens and passwords.

    Examples:
        >>> shareable({'data_dir': '/home/me/photos', 'hf_token': 'hf_abc', 'dataset': 'wds/s3://key:secret@bucket/x'})
        {'data_dir': 'photos', 'hf_token': 'REDACTED', 'dataset': 'wds/s3://bucket/x'}
    """
    return {key: _shareable(key, value) for key, value in args.items()}


def _shareable(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return shareable(value)
    if isinstance(value, list):
        return [_shareable(key, item) for item in value]
    if not isinstance(value, str):
        return value
    if value and _SECRET.search(key):
        return 'REDACTED'
    # name=secret within a longer text, and tokens of the Hub.
    value = _ASSIGNED.sub(r'\1=REDACTED', value)
    value = _TOKEN.sub('REDACTED', value)
    value = _URL.sub(lambda match: _shareable_url(match[0]), value)
    if '://' in value:
        return value
    source, colon, place = value.partition(':')
    if colon and source == 'local-dir':
        return f'{source}:{_basename(place)}'
    kind, slash, place = value.partition('/')
    # A timm reader and its folder: wds//data/shards.
    if slash and kind and _is_path(place):
        return f'{kind}/{_basename(place)}'
    return _basename(value) if key in _PATHS or _is_path(value) else value


# Names of secrets, as arguments or in text such as 'hf_token=...'.
_WORD = r'(?:token|secret|passw(?:or)?d|passphrase|credential|api_?key|access_?key|private_?key|auth(?:orization)?)s?'
_SECRET = re.compile(rf'(?i)(?:^|[_-]){_WORD}$')
_ASSIGNED = re.compile(rf'(?i)\b([\w-]*{_WORD})=[^\s,;&]+')
_TOKEN = re.compile(r'\bhf_[A-Za-z0-9]{8,}\b')
_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://[^\s,;]*')


def _shareable_url(url: str) -> str:
    if url.lower().startswith('file:'):
        return _basename(url.partition('://')[2])
    return redacted(url)


def _is_path(text: str) -> bool:
    path = PureWindowsPath(text)
    return bool(path.drive or path.root) or text.startswith('~')


def _basename(path: str) -> str:
    return PureWindowsPath(path).name
