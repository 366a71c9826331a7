"""Maps options of a data set to controls of the page and back, from the fields in `timm_fractal.spec`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from ..spec import RULES, SPECS, Spec
from .sheets import with_option

#: Largest range of integers that gets a slider.
_SLIDER = 10_000


@dataclasses.dataclass(frozen=True)
class Control:
    """The control that sets an option on the page.

    Attributes:
        name: The option.
        kind: A choice of words, a slider, or a number field.
        value: The default.
        info: Its meaning and valid values.
        choices: The words.
        ends: Smallest and largest number of a slider. The rules of the data set may still refuse an end.
        step: Step of a slider.
    """

    name: str
    kind: Literal['words', 'slider', 'number']
    value: Any
    info: str
    choices: tuple[str, ...] = ()
    ends: tuple[float, float] = (0, 1)
    step: float = 1


def controls(spec: Spec | type[Spec]) -> list[Control]:
    """Return the controls for the options of a data set type, in the order of its name."""
    return [_control(spec, field) for field in spec.fields()]


def _control(spec: Any, field: 'dataclasses.Field[Any]') -> Control:
    rules, default = field.metadata, field.default
    if rules['choices']:
        return Control(field.name, 'words', default, rules['doc'], choices=tuple(rules['choices']))
    low = rules['above'] if rules['low'] is None else rules['low']
    high = rules['below'] if rules['high'] is None else rules['high']
    if field.name == 'sigma':
        high = 3 * spec.maps
    is_whole = isinstance(default, int)
    if low is None or high is None or (is_whole and high - low > _SLIDER):
        return Control(field.name, 'number', default, f'{rules["doc"]} ({_range(field)})')
    # About a hundred steps of a round size, such as 0.01 from 0 to 1.
    step = 1 if is_whole else 10.0 ** round(math.log10((high - low) / 100))
    return Control(field.name, 'slider', default, rules['doc'], ends=(low, high), step=step)


def _range(field: 'dataclasses.Field[Any]') -> str:
    bounds = ((words, field.metadata[rule]) for rule, (_, words) in RULES.items())
    return ', '.join(f'{words} {bound:,}' for words, bound in bounds if bound is not None)


def _text(value: Any) -> str:
    """Format a value as in a data set name; browsers do not distinguish integers from floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def written(kind: str, values: Sequence[Any]) -> str:
    """Return the data set name, unchecked, for values of a type's controls, in the order of `controls`.

    Raises:
        ValueError: A control has no value.

    Examples:
        >>> written('ofdb', [1000, 50000.0, 64, 'random', 0, 'auto', 'auto'])
        'ofdb/points=50000,size=64'
    """
    options = []
    for control, value in zip(controls(SPECS[kind]), values, strict=True):
        if value is None or _text(value) == '':
            raise ValueError(f'{kind}: {control.name} must have a value')
        if _text(value) != _text(control.value):
            options.append(f'{control.name}={_text(value)}')
    return '/'.join([kind] + [','.join(options)] * bool(options))


def values(spec: Spec) -> list[Any]:
    """Return the values of the controls for a specification."""
    return [getattr(spec, control.name) for control in controls(type(spec))]


def steps(spec: Spec, option: str, count: int = 5) -> list[str]:
    """Return values of an option for a sweep: all words, or numbers below and above the current one.

    Examples:
        >>> from timm_fractal.spec import parse_name
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
        with_option(spec, option, text)
    except ValueError:
        return False
    return True
