"""Schema of sweep files. Errors name the location and the nearest valid word, before the first training."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from timm_fractal import parse_name
from timm_fractal._utils.messages import nearest
from timm_fractal.spec import MAX_SAMPLES, SPECS

# Becomes part of a file name.
Name = Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]*$')]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


# A condition without any of these keys has no pre-training.
PRETRAINS = frozenset({'dataset', 'data', 'config'})


def absent(description: str) -> Any:
    """Declare an optional key, which must not be empty."""
    return Field(None, description=description)


class Strict(BaseModel):
    """A mapping that accepts known keys only."""

    model_config = ConfigDict(strict=True, extra='forbid')

    @model_validator(mode='before')
    @classmethod
    def _known(cls, values: Any) -> Any:
        if cls.model_config['extra'] == 'forbid' and isinstance(values, dict):
            for key in values:
                known(key, cls.model_fields, 'key')
        return values

    @property
    def given(self) -> dict[str, Any]:
        """The keys in the file, without defaults."""
        return self.model_dump(exclude_unset=True)


class Training(Strict):
    """A pre-training, a condition or a fine-tuning. All other keys are options of train.py, with underscores."""

    model_config = ConfigDict(strict=True, extra='allow')

    data: str = absent('images to train on: a key of the section `data`')
    config: str = absent('recipe, relative to `train_scripts`')
    samples: PositiveInt = absent('samples to train on, at least one pass over all images; instead of `epochs`')
    interval: PositiveInt = absent('samples between checkpoints (default: all)')
    steps: PositiveInt = absent('steps to train for, rounded to whole epochs; by default, a tenth of them is warm-up')
    shots: PositiveInt = absent('images per class')
    processes: PositiveInt = absent('number of GPUs, used by `launch.sh`')
    weights: str = absent('of a condition: published weights instead of a pre-training')
    only: list[str] = absent('of a condition: its fine-tunings (default: all)')
    seeds: Seeds = absent(
        'of a condition: overrides `seeds` of the file; with `weights`, one (default: the first of the file)'
    )
    stage: int = Field(0, description='of a condition: lower stages run first')
    label: str = absent('of a condition: its name in tables and plots')

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are options of train.py."""
        return self.model_extra or {}

    @property
    def trains(self) -> bool:
        """Whether a condition with these keys has a pre-training."""
        return not PRETRAINS.isdisjoint(self.given)


class Digits(Strict):
    """scikit-learn's handwritten digits; all that are not trained on are tested on."""

    kind: Literal['digits']
    classes: ClassVar[int] = 10


class Images(Strict):
    """A folder with ``train/CLASS/FILE`` and ``val/CLASS/FILE``, given by ``--data NAME=FOLDER``."""

    kind: Literal['folder']
    classes: PositiveInt = Field(description='number of classes')
    reserve: PositiveInt = Field(
        description='number of images per class reserved for fine-tuning, which samples from them by its seed'
    )
    test: PositiveInt = Field(description='number of images per class in `val` used for testing')
    download: Literal['CIFAR10', 'FashionMNIST'] = absent('data set that torchvision downloads if no folder is given')


class Rest(Strict):
    """The images of a folder after the reserved ones, for pre-training."""

    kind: Literal['rest']
    of: str = Field(description='key of the folder in this section')
    count: PositiveInt = Field(description='images per class')


class Photo(Strict):
    """The photograph of Eileen Collins in scikit-image (NASA, public domain)."""

    kind: Literal['photo']


Data = Digits | Images | Rest | Photo


class Row(Strict):
    """A row of a table, and a bar or point of a plot; a string is short for a condition."""

    condition: str
    label: str = absent('overrides the label of the condition')
    series: str = absent('points of the same series form a line')
    x: float | Literal['samples'] = absent('position on the axis; `samples`: its pre-training samples')
    published: float | str = absent("the paper's figure")

    @model_validator(mode='before')
    @classmethod
    def _word(cls, values: Any) -> Any:
        return {'condition': values} if isinstance(values, str) else values


class Finding(Strict):
    """A table and a plot of the page."""

    title: str
    question: str = Field(description='text above the table')
    conclusion: str = absent('what follows from it, in one or two sentences at the top of the page')
    limits: str = Field(description='text below the plot: limitations')
    rows: list[Row] = Field(min_length=1)
    tasks: Annotated[list[str], Field(min_length=1)] = absent('fine-tunings to show (default: all)')
    axis: str = absent('label of the axis of `x`; rows without `x` are horizontal lines')
    log: bool = Field(False, description='whether the axis is logarithmic')
    curves: bool = Field(False, description='whether to plot accuracy during fine-tuning')
    population: str = absent('prefix of conditions to show as a population: best and worst, spread, variance')
    expect: list[Pair] = Field([], description='pairs of conditions: is the first better than the second?')

    @model_validator(mode='after')
    def _axis(self) -> 'Finding':
        if not self.axis and (self.population or any(row.x is not None or row.series for row in self.rows)):
            raise ValueError('a population, and rows with x or series, need an axis')
        return self


class Gain(Strict):
    """A row of the summary: what pre-training gains on one fine-tuning."""

    title: str = Field(description='the data and the number of images')
    model: str = Field(description='the model and the resolution')
    task: str = Field(description='name of the fine-tuning')
    against: str = Field(description='the condition without pre-training')
    starts: dict[str, str] = Field(min_length=1, description='conditions by the name of their column')
    held_out: bool = Field(False, description='neither fractals nor recipes were chosen on this data')


class Cost(Strict):
    """Rates for the estimate of ``sweep.py list``."""

    samples_per_second: PositiveFloat
    basis: str = Field(description='source of the rate')
    device: str = Field(description='device that the hours refer to')
    price_per_hour: PositiveFloat = absent('in dollars')


class File(Strict):
    """A sweep file."""

    name: Name
    title: str = absent('heading on the page')
    about: str = absent('text below the heading')
    vars: dict[str, Any] = Field({}, description='variables: `$NAME` is replaced anywhere in the file')
    data: dict[Name, Annotated[Data, Field(discriminator='kind')]] = Field(
        {}, description='folders of images by name, see below'
    )
    pretrain: Training = Field(Training(), description='settings of all pre-trainings')
    conditions: dict[Name, Training] = Field(
        min_length=1,
        description='settings of individual pre-trainings by name: a `dataset`, `data` or `config`; without any of '
        'them, or with `weights`, nothing is pre-trained',
    )
    seeds: Seeds = Field([0], description='pre-training seeds')
    finetune: dict[Name, Training] = Field(description='trainings after each pre-training, by name')
    finetune_seeds: Seeds = Field([0], description='fine-tuning seeds')
    findings: list[Finding] = Field(
        [], description='contents of `sweep.py report`, which also needs `title` and `about`'
    )
    summary: list[Gain] = Field([], description='rows of the summary at the top of the page')
    cost: Cost = absent('rates for `sweep.py list`')

    @field_validator('conditions', mode='before')
    @classmethod
    def _empty(cls, values: Any) -> Any:
        """Treat an empty condition as one without keys."""
        if isinstance(values, dict):
            return {name: {} if own is None else own for name, own in values.items()}
        return values

    @model_validator(mode='after')
    def _references(self) -> 'File':
        """Check that all names exist."""
        trainings = {'pretrain': self.pretrain}
        trainings |= {f'conditions.{name}': own for name, own in self.conditions.items()}
        trainings |= {f'finetune.{name}': own for name, own in self.finetune.items()}
        for place, training in trainings.items():
            if training.data is not None:
                known(training.data, self.data, 'data', place)
            for task in training.only or []:
                known(task, self.finetune, 'fine-tuning', place)
            for option, (kinds, words) in OPTIONS.items():
                value = training.options.get(option)
                if value is not None and (type(value) not in kinds or (type(value) is not str and value < 0)):
                    raise ValueError(f'{place}.{option}: must be {words}, got {value!r:.100}')
            dataset = str(training.options.get('dataset', ''))
            for variable in re.findall(r'\$(\w+)', dataset):
                known(variable, self.vars, 'variable', place)
            if dataset.partition('/')[0] in SPECS:
                at(place, parse_name, dataset)
            if training.weights is not None and len(training.seeds or [0]) > 1:
                words = f'seeds must be one, got {len(training.seeds)}: published weights are one pre-training'
                raise ValueError(f'{place}: {words}; for more fine-tunings, give finetune_seeds')
            if training.weights is not None and training.trains:
                raise ValueError(f'{place}: weights cannot be combined with a pre-training (dataset, data or config)')
            if place.startswith('conditions.') and not training.trains and training.options:
                hint = nearest(next(iter(training.options)), ['dataset', *Training.model_fields])
                raise ValueError(
                    f'{place}: without dataset, data or config nothing is pre-trained, and '
                    f'{", ".join(map(repr, training.options))} would have no effect; {hint}'
                )
        for name, data in self.data.items():
            if isinstance(data, Rest):
                folders = [key for key, base in self.data.items() if isinstance(base, Images)]
                known(data.of, folders, 'folder', f'data.{name}')
        for number, finding in enumerate(self.findings):
            place = f'findings.{number}'
            rows = [row.condition for row in finding.rows]
            for condition in rows:
                known(condition, self.conditions, 'condition', place)
            for task in finding.tasks or []:
                known(task, self.finetune, 'fine-tuning', place)
            for condition in (name for pair in finding.expect for name in pair):
                known(condition, rows, 'row', place)
        for number, gain in enumerate(self.summary):
            place = f'summary.{number}'
            known(gain.task, self.finetune, 'fine-tuning', place)
            for condition in (gain.against, *gain.starts.values()):
                known(condition, self.conditions, 'condition', place)
        return self


# Options of train.py that are used here as well.
OPTIONS: dict[str, tuple[tuple[type, ...], str]] = {
    'dataset': ((str,), 'the name of a data set'),
    'model': ((str,), 'the name of a model'),
    'epoch_repeats': ((int, float), 'a number from 0'),
    'epochs': ((int,), 'an integer from 0'),
    'num_classes': ((int,), 'an integer from 0'),
}

# Keys of a condition or a fine-tuning that are not options of train.py.
OWN = frozenset(Training.model_fields)


def known(word: Any, valid: Iterable[str], what: str, place: str = '') -> None:
    """Raise a ValueError for a word that is not valid."""
    valid = list(valid)
    if word not in valid:
        raise ValueError(f'{place}: '.removeprefix(': ') + f'unknown {what} {word!r}; {nearest(word, valid)}')


def at(place: str, function: Any, *args: Any) -> Any:
    """Call a function, and prepend the location to its ValueError."""
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError(f'{place}: {error}') from error


class Loader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys instead of silently ignoring the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(key.value for key in keys)
        for key in reversed(keys):
            if counts[key.value] > 1:
                raise yaml.MarkedYAMLError(problem=f'duplicate key {key.value!r}', problem_mark=key.start_mark)
        return node


def load(path: Path, text: str) -> Any:
    """Load YAML as plain data: strings, numbers, lists and mappings."""
    try:
        content = yaml.load(text, Loader)
    except RecursionError:
        raise ValueError(f'{path}: values must be nested at most {MAX_NESTED} times') from None
    except yaml.MarkedYAMLError as error:
        line = f', line {error.problem_mark.line + 1}' if error.problem_mark else ''
        raise ValueError(f'{path}{line}: {error.problem}') from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error
    check_plain(str(path), content)
    return content


#: Maximum number of values in a file, after expanding aliases, and maximum depth of nesting.
MAX_VALUES, MAX_NESTED = 100_000, 16


def check_plain(place: str, content: Any) -> None:
    """Refuse YAML values that train.py does not accept: dates, bytes, sets, numbers that are not finite."""
    left = MAX_VALUES
    todo: list[tuple[str, Any, int]] = [(place, content, 0)]
    while todo:
        place, value, depth = todo.pop()
        left -= 1
        if left < 0 or depth > MAX_NESTED:
            raise ValueError(f'{place}: must be at most {MAX_VALUES} values, nested at most {MAX_NESTED} times')
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError(f'{place}: keys must be strings, got {str(key)[:100]}: put it in quotes')
                todo.append((f'{place}: {key}', item, depth + 1))
        elif isinstance(value, list):
            todo += [(place, item, depth + 1) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'{place}: must be a finite number, got {value}')
        elif isinstance(value, int) and abs(value) > MAX_SAMPLES:
            raise ValueError(f'{place}: must be at most {MAX_SAMPLES}, got a larger number')
        elif not isinstance(value, (str, int, float, type(None))):
            kind = type(value).__name__
            raise ValueError(f'{place}: must be a string, a number, a list or a mapping, got {kind} {str(value)[:100]}')


def parse(raw: Any) -> File:
    """Validate the content of a sweep file; the message of an error has a line for each problem."""
    if not isinstance(raw, dict):
        keys = ', '.join(File.model_fields)
        raise ValueError(f'a sweep file must be a mapping with the keys {keys}, got {raw!r:.100}')
    try:
        return File.model_validate(raw)
    except ValidationError as error:
        raise ValueError('\n'.join(problems(error))) from None


def problems(error: ValidationError) -> Iterator[str]:
    """Format the problems of a validation."""
    for problem in error.errors():
        place = list(map(str, problem['loc']))
        if place[:1] == ['data'] and len(place) > 3:
            del place[2]  # The kind, inserted by pydantic.
        kind, got = problem['type'], f', got {problem["input"]!r}'[:200]
        message = problem['msg'].removeprefix('Value error, ')
        if kind == 'missing':
            message = 'must be given'
        elif kind == 'union_tag_invalid':
            place.append('kind')
            kinds = [word.strip("' ") for word in problem['ctx']['expected_tags'].split(',')]
            message = f'unknown {problem["ctx"]["tag"]!r}; {nearest(problem["ctx"]["tag"], kinds)}'
        elif kind == 'string_pattern_mismatch':
            place = [word for word in place if word != '[key]']
            message = f'must be letters, digits, ".", "_" and "-", starting with a letter or digit{got}'
        elif kind != 'value_error':
            message = message.replace('Input should be', 'must be').replace('dictionary', 'mapping') + got
        yield f'{".".join(place)}: {message}'.removeprefix(': ')
