"""Validates files about a training (limits, types, ranges), and redacts private values."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from .._utils.atomic import check_regular
from .._utils.messages import redacted
from ..spec import MAX_SAMPLES

#: Limits of a text file beside a checkpoint: bytes, values, and depth of nesting.
MAX_TEXT, MAX_VALUES, MAX_NESTED = 2**24, 20_000, 16

#: Limits of a model described by a file: largest number, and largest number of blocks.
MAX_OPTION, MAX_DEPTH = 2**20, 1024

#: A predicate, and a description of valid values.
Rule = tuple[Callable[[Any], bool], str]

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


def integer(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high, f'an integer from {low} to {high}'


def matching(pattern: str, words: str) -> Rule:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None, words


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_SAMPLES


def _is_list_of(valid: Callable[[Any], bool], lengths: range) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and len(values) in lengths and all(map(valid, values))


MAPPING: Rule = lambda value: isinstance(value, dict), 'a mapping'
TEXT = matching('.{0,1000}', 'a string of at most 1,000 characters')
TAG = matching('[A-Za-z0-9_-]{1,96}', 'letters, digits, "_" and "-", at most 96')
_PIXELS = integer(1, 2**16)
_PER_CHANNEL: Rule = _is_list_of(_is_number, range(1, 65)), 'a list of numbers, one per channel'
_NUMBER: Rule = _is_number, f'a number from 0 to {MAX_SAMPLES}'

#: Rules for the arguments of train.py and of a model's input that are used here.
ARGUMENTS: dict[str, Rule] = {
    'model': matching('.{0,1000}', 'the name of a timm model, local-dir:FOLDER or hf-hub:OWNER/NAME'),
    'num_classes': integer(0, MAX_OPTION),
    'batch_size': integer(1, 2**31),
    'world_size': integer(1, 2**20),
    'train_num_samples': integer(1, MAX_SAMPLES),
    'epoch_repeats': _NUMBER,
    'in_chans': integer(1, 64),
    'img_size': _PIXELS,
    'input_size': (_is_list_of(_PIXELS[0], range(3, 4)), 'three integers: channels, height, width'),
    'crop_pct': _NUMBER,
    'model_kwargs': MAPPING,
    **dict.fromkeys(('mean', 'std'), _PER_CHANNEL),
    **dict.fromkeys(('interpolation', 'crop_mode', 'gp'), matching(r'[\w./:-]{0,200}', 'a word')),
    **dict.fromkeys(('dataset', 'data_dir', 'data', 'pretrained_path', 'initial_checkpoint'), TEXT),
}


def check(place: object, values: Any, rules: Mapping[str, Rule], required: bool = False) -> None:
    """Check types and ranges of the values of a file; keys without a rule are ignored.

    Args:
        place: File or subject, for messages.
        values: A mapping.
        rules: A rule for each key.
        required: Whether all keys are required; otherwise they may be missing or None.

    Raises:
        ValueError: A value is missing, has the wrong type or is out of range.
    """
    if not isinstance(values, dict):
        raise ValueError(f'{place} must be a mapping, got {type(values).__name__}')
    for key, (valid, words) in rules.items():
        value = values.get(key)
        if (required or value is not None) and not valid(value):
            raise ValueError(f'{place}: {key} must be {words}, got {str(value)[:100]!r}')


def check_values(place: object, values: dict[str, Any]) -> None:
    """Check arguments of train.py or of a model's input by `ARGUMENTS`; see `check`."""
    check(place, values, ARGUMENTS)
    channels = (values.get('input_size') or [values.get('in_chans') or 3])[0]
    for key in ('mean', 'std'):
        if values.get(key) is not None and len(values[key]) not in (1, channels):
            raise ValueError(
                f'{place}: {key} must be one number or {channels}, one per channel, got {len(values[key])}'
            )


def plain_arguments(path: Path, content: Any) -> dict[str, Any]:
    """Convert arguments of train.py from a file to plain values, at most `MAX_VALUES`, and check those used here."""
    args: dict[str, Any] = _plain(path, content, iter(range(MAX_VALUES)))
    check_values(path, args)
    return args


def _plain(path: Path, value: Any, left: Iterator[int], depth: int = 0) -> Any:
    # YAML aliases can expand to many more values than the file has bytes.
    if next(left, None) is None or depth > MAX_NESTED:
        raise ValueError(
            f'{path}: the arguments of train.py must be at most {MAX_VALUES} values, nested at most {MAX_NESTED} times'
        )
    if isinstance(value, dict):
        return {str(key): _plain(path, item, left, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(path, item, left, depth + 1) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


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
