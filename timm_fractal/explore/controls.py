"""Options of a data set <-> controls of the page. All of it is read from the fields in `timm_fractal.spec`."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from ..spec import SPECS, Spec, parse_name

#: Whole numbers up to this many apart are chosen with a slider.
_SLIDER = 10_000


@dataclasses.dataclass(frozen=True)
class Control:
    """How an option is set on the page.

    Attributes:
        name: The option.
        kind: One of a few words, a number between two ends, or any number.
        value: The default.
        info: What it means and which values are valid.
        choices: The words.
        ends: Smallest and largest number of a slider. An end that is not a valid value is refused by the rules of the
            data set, with their words.
        step: Of a slider.
    """

    name: str
    kind: Literal['words', 'slider', 'number']
    value: Any
    info: str
    choices: tuple[str, ...] = ()
    ends: tuple[float, float] = (0, 1)
    step: float = 1


def controls(spec: type[Spec]) -> list[Control]:
    """Controls for the options of a data set type, in the order of its name.

    Examples:
        >>> [control.kind for control in controls(SPECS['image1'])][:4]
        ['number', 'words', 'slider', 'words']
    """
    return [_control(field) for field in spec.fields()]


def _control(field: 'dataclasses.Field[Any]') -> Control:
    rules, default = field.metadata, field.default
    if rules['choices']:
        return Control(field.name, 'words', default, rules['doc'], choices=tuple(rules['choices']))
    info = f'{rules["doc"]} ({_range(field)})' if _range(field) else rules['doc']
    low = rules['above'] if rules['low'] is None else rules['low']
    high = rules['below'] if rules['high'] is None else rules['high']
    is_whole = isinstance(default, int)
    if low is None or high is None or (is_whole and high - low > _SLIDER):
        return Control(field.name, 'number', default, info)
    return Control(
        field.name, 'slider', default, info, ends=(low, high), step=1 if is_whole else round((high - low) / 1000, 12)
    )


def _range(field: 'dataclasses.Field[Any]') -> str:
    rules = field.metadata
    words = {'low': 'at least', 'above': 'greater than', 'high': 'at most', 'below': 'less than'}
    return ', '.join(f'{word} {_text(rules[rule])}' for rule, word in words.items() if rules[rule] is not None)


def _text(value: Any) -> str:
    """A value as it is written in a name: a browser has one kind of number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a name, or the controls of a type, say.

    Attributes:
        name: The name, tidied if it is valid.
        kind: The data set type; '' if it is not known.
        spec: The specification; None if it is not valid.
        error: The text of the error, else ''.
        option: Which option the error is about; '' if none, or if that cannot be said.
    """

    name: str
    kind: str
    spec: Spec | None = None
    error: str = ''
    option: str = ''


def read_name(name: str) -> Reading:
    """Read a data set name.

    Examples:
        >>> read_name('fractal1/delta=2').error, read_name('fractal1/delta=2').option
        ('fractal1: delta must be less than 1, got 2.0', 'delta')
    """
    name = name.strip()
    kind = name.lower().removeprefix('torch/').partition('/')[0]
    kind = kind if kind in SPECS else ''
    try:
        spec = parse_name(name)
    except ValueError as error:
        return Reading(name, kind, error=str(error), option=_option(kind, str(error)))
    return Reading(spec.name(), kind, spec)


def read_controls(kind: str, values: Sequence[Any]) -> Reading:
    """Read the values of the controls of a data set type, in the order of `controls`.

    Examples:
        >>> read_controls('ofdb', [1000, 50000, 64, 'random', 0, 'auto', 'auto']).name
        'ofdb/points=50000,size=64'
    """
    options = []
    for control, value in zip(controls(SPECS[kind]), values, strict=True):
        if value is None or _text(value) == '':
            error = f'{kind}: {control.name} must have a value, got nothing'
            return Reading(kind, kind, error=error, option=control.name)
        if _text(value) != _text(control.value):
            options.append(f'{control.name}={_text(value)}')
    return read_name('/'.join([kind] + [','.join(options)] * bool(options)))


def _option(kind: str, error: str) -> str:
    """The option that an error of a specification begins with."""
    first = re.match(rf'{re.escape(kind)}: (?:unknown )?(\w+)', error)
    return first[1] if kind and first and first[1] in {control.name for control in controls(SPECS[kind])} else ''


def values(spec: Spec) -> list[Any]:
    """Values of the controls that show a specification."""
    return [getattr(spec, control.name) for control in controls(type(spec))]


def steps(spec: Spec, option: str, count: int = 5) -> list[str]:
    """Values of an option for a sweep: all words, or numbers below and above the present one.

    Examples:
        >>> steps(parse_name('fractal1'), 'points'), steps(parse_name('image1'), 'seed')
        (['25000', '50000', '100000', '200000', '400000'], ['0', '1', '2', '3', '4'])
    """
    (control,) = (control for control in controls(type(spec)) if control.name == option)
    if control.choices:
        return list(control.choices)
    present = getattr(spec, option)
    whole = isinstance(control.value, int)
    if present:
        numbers = [present * 2.0 ** (step - count // 2) for step in range(count)]
    else:
        numbers = [step * (1 if whole else (control.ends[1] - control.ends[0]) / (2 * count)) for step in range(count)]
    texts = dict.fromkeys(str(round(number)) if whole else f'{number:.4g}' for number in numbers)
    return [text for text in texts if _is_valid(spec, option, text)]


def _is_valid(spec: Spec, option: str, text: str) -> bool:
    try:
        kind: Any = type(getattr(spec, option))
        dataclasses.replace(spec, **{option: kind(text)})
    except ValueError:
        return False
    return True
