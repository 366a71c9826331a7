"""What a sweep file may say. All else is refused before the first training: the place, and the nearest valid word."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from timm_fractal import parse_name
from timm_fractal._utils.messages import nearest
from timm_fractal.spec import SPECS

# A word that becomes the name of a folder or a file.
Name = Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]*$')]
Seed = Annotated[int, Field(ge=0)]
# The default of a key that may be left out, but not be empty.
ABSENT: Any = None


class Strict(BaseModel):
    """A mapping of which all keys are known."""

    model_config = ConfigDict(strict=True, extra='forbid')

    @model_validator(mode='before')
    @classmethod
    def _known(cls, values: Any) -> Any:
        if cls.model_config['extra'] == 'forbid' and isinstance(values, dict):
            for key in values:
                known(key, cls.model_fields, 'key')
        return values


class Training(Strict):
    """A pre-training, a condition or a fine-tuning. Keys that are not here are options of train.py."""

    model_config = ConfigDict(strict=True, extra='allow')

    data: str = ABSENT
    samples: PositiveInt = ABSENT
    interval: PositiveInt = ABSENT
    shots: PositiveInt = ABSENT
    steps: PositiveInt = ABSENT
    seeds: Annotated[list[Seed], Field(min_length=1)] = ABSENT
    stage: int = 0
    config: str = ABSENT
    processes: PositiveInt = ABSENT
    label: str = ABSENT
    only: list[str] = ABSENT
    weights: str = ABSENT

    @model_validator(mode='after')
    def _dataset(self) -> 'Training':
        dataset = (self.model_extra or {}).get('dataset', '')
        if dataset.partition('/')[0] in SPECS:
            parse_name(dataset)
        return self


class Digits(Strict):
    """scikit-learn's handwritten digits."""

    kind: Literal['digits']


class Images(Strict):
    """A folder of images: the first ``reserve`` of each class to fine-tune on, ``test`` to test on."""

    kind: Literal['folder']
    classes: PositiveInt
    reserve: PositiveInt
    test: PositiveInt
    download: Literal['CIFAR10'] = ABSENT


class Rest(Strict):
    """Images of a folder that are not reserved."""

    kind: Literal['rest']
    of: str
    classes: PositiveInt
    count: PositiveInt


class Photo(Strict):
    """One photograph."""

    kind: Literal['photo']


class Row(Strict):
    """A row of a table, a bar or a point of a plot."""

    condition: str
    label: str = ABSENT
    series: str = ABSENT
    x: float | Literal['samples'] = ABSENT
    published: float | str = ABSENT


class Finding(Strict):
    """One table and one plot of the page."""

    title: str
    question: str
    limits: str
    rows: Annotated[list[Row | str], Field(min_length=1)]
    axis: str = ABSENT
    log: bool = False
    curves: bool = False
    tasks: Annotated[list[str], Field(min_length=1)] = ABSENT
    expect: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []


class Cost(Strict):
    """What an estimate is made from."""

    samples_per_second: PositiveFloat
    basis: str
    device: str
    price_per_hour: PositiveFloat = ABSENT


class File(Strict):
    """A sweep file."""

    name: Name
    title: str = ABSENT
    about: str = ABSENT
    vars: dict[str, Any] = {}
    data: dict[Name, Annotated[Digits | Images | Rest | Photo, Field(discriminator='kind')]] = {}
    pretrain: Training = Training()
    conditions: Annotated[dict[Name, Training | None], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    finetune: dict[Name, Training]
    finetune_seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    findings: list[Finding] = []
    cost: Cost = ABSENT

    @model_validator(mode='after')
    def _references(self) -> 'File':
        """Names of data, fine-tunings and conditions that are used are there."""
        trainings = {'pretrain': self.pretrain}
        trainings |= {f'conditions.{name}': own or Training() for name, own in self.conditions.items()}
        trainings |= {f'finetune.{name}': own for name, own in self.finetune.items()}
        for place, training in trainings.items():
            if training.data:
                known(training.data, self.data, 'data', place)
            for task in training.only or []:
                known(task, self.finetune, 'fine-tuning', place)
        for name, data in self.data.items():
            if isinstance(data, Rest):
                folders = [key for key, base in self.data.items() if isinstance(base, Images)]
                known(data.of, folders, 'folder', f'data.{name}')
        for number, finding in enumerate(self.findings):
            place = f'findings.{number}'
            rows = [row if isinstance(row, str) else row.condition for row in finding.rows]
            for condition in rows:
                known(condition, self.conditions, 'condition', place)
            for task in finding.tasks or []:
                known(task, self.finetune, 'fine-tuning', place)
            for condition in (name for pair in finding.expect for name in pair):
                known(condition, rows, 'row', place)
        return self


# Keys of a condition or a fine-tuning that are not options of train.py.
OWN = frozenset(Training.model_fields)


def known(word: Any, valid: Iterable[str], what: str, place: str = '') -> None:
    """Refuse a word that is not among those that are valid."""
    valid = list(valid)
    if word not in valid:
        raise ValueError(f'{place}: '.removeprefix(': ') + f'unknown {what} {word!r}; {nearest(word, valid)}')


class Loader(yaml.SafeLoader):
    """YAML in which no key is there twice: the first would be lost in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                raise yaml.MarkedYAMLError(problem=f'{key!r} is there {count} times', problem_mark=node.start_mark)
        return node


def check(raw: Any) -> None:
    """Refuse what is no sweep file.

    Raises:
        ValueError: The first thing that is wrong, and where.
    """
    if not isinstance(raw, dict):
        raise ValueError(
            f'a sweep file must be a mapping with the keys {", ".join(File.model_fields)}, got {raw!r:.100}'
        )
    try:
        File.model_validate(raw)
    except ValidationError as error:
        raise ValueError(next(problems(error))) from None


def problems(error: ValidationError) -> Iterator[str]:
    """What is wrong, in words."""
    for problem in error.errors():
        place = '.'.join(map(str, problem['loc']))
        message = problem['msg'].removeprefix('Value error, ')
        if problem['type'] != 'value_error' and problem['type'] != 'missing':
            message += f', got {problem["input"]!r}'[:200]
        yield f'{place}: {message}' if place else message
