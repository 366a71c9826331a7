"""Sweep files, their trainings, and files of results."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from sweep_schema import OWN, File, Rest, at, load, parse

from timm_fractal import parse_name
from timm_fractal._utils.atomic import check_regular
from timm_fractal.hub.manifest import manifest

HERE = Path(__file__).resolve().parent

# Options that do not affect a result, so changing them does not invalidate it.
ASIDE = {'workers', 'log_interval', 'checkpoint_hist', 'pin_mem', 'val_interval', 'device'}
ASIDE |= {'seeds', 'stage', 'label', 'only'}


@dataclass(frozen=True)
class Job:
    """One run of train.py.

    Attributes:
        name: ``'pretrain'``, or the fine-tuning with its seed: ``'digits-5-s0'``.
        settings: Its settings in the sweep file, including those of the condition.
        seed: ``--seed``.
        key: Key of its line in the results.
    """

    name: str
    settings: dict[str, Any]
    seed: int
    key: dict[str, Any]

    @property
    def folder(self) -> str:
        """Name of its folder, which includes a digest of the settings."""
        return f'{self.name}-{self.key["settings"]}'

    @property
    def options(self) -> dict[str, Any]:
        """The settings that are options of train.py."""
        return {key: value for key, value in self.settings.items() if key not in OWN}


@dataclass(frozen=True)
class Unit:
    """One condition with one seed."""

    condition: str
    seed: int
    pretrain: Job | None
    finetune: tuple[Job, ...]

    @property
    def name(self) -> str:
        return f'{self.condition}-s{self.seed}'

    @property
    def jobs(self) -> list[Job]:
        """All its trainings in order."""
        return [job for job in (self.pretrain, *self.finetune) if job]


class Sweep:
    """A sweep file; errors name the path and the location."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path)
        text = at(str(path), path.read_text, 'utf-8-sig')
        raw = load(path, text)
        if isinstance(raw, dict) and isinstance(raw.get('vars'), dict):
            raw = load(path, Template(text).safe_substitute(raw['vars']))
        self.file: File = at(str(path), parse, raw)
        self.name = self.file.name
        units = [unit for condition in self.file.conditions for unit in self._units(condition)]
        # By stage, then one seed of every condition before the next seed.
        units.sort(key=lambda unit: (self.file.conditions[unit.condition].stage, unit.seed))
        self.units = units

    def meaning(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Resolve the names in settings to what affects a result: images, digest of weights, contents of a recipe."""
        meaning = recipe(settings) | {key: value for key, value in settings.items() if key != 'config'}
        if 'data' in settings:
            images = self.file.data[settings['data']]
            meant = self.file.data[images.of].given if isinstance(images, Rest) else {}
            meant |= images.given | {'name': settings['data']}
            meaning['data'] = {key: value for key, value in meant.items() if key != 'download'}
        if 'weights' in settings and (entry := manifest().get(settings['weights'])):
            meaning['weights'] = {'name': entry.name, 'sha256': entry.sha256}
        return meaning

    def _units(self, condition: str) -> Iterator[Unit]:
        own = self.file.conditions[condition]
        settings = self.file.pretrain.given | own.given if own.trains else {}
        # Published weights instead of a pre-training.
        weights = {} if own.weights is None else {'weights': own.weights}
        tasks = self.file.finetune if own.only is None else own.only
        # Published weights are one pre-training.
        default = self.file.seeds if own.weights is None else self.file.seeds[:1]
        meaning = self.meaning(settings)
        for seed in own.seeds or default:
            key = dict(sweep=self.name, condition=condition, seed=seed)
            pretrain = Job('pretrain', settings, seed, key | {'settings': digest(meaning)})
            finetune = []
            for task, training in self.file.finetune.items():
                if task in tasks:
                    tuning = training.given | weights
                    both = digest([meaning, self.meaning(tuning)])
                    for tune in self.file.finetune_seeds:
                        more = dict(finetune=task, finetune_seed=tune, settings=both)
                        finetune.append(Job(f'{task}-s{tune}', tuning, 100 * seed + tune, key | more))
            yield Unit(condition, seed, pretrain if own.trains else None, tuple(finetune))


def recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """Load the recipe of a training; empty if it has none."""
    if 'config' not in settings:
        return {}
    path = HERE / settings['config']
    content = load(path, path.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
        raise ValueError(f'{path}: a recipe must be a mapping, got {content!r:.100}')
    return content


def digest(settings: Any) -> str:
    """Return a short digest of settings, which tells whether a result is up to date."""
    if isinstance(settings, list):
        return hashlib.sha256(''.join(map(digest, settings)).encode()).hexdigest()[:10]
    kept = {key: value for key, value in settings.items() if key not in ASIDE}
    if 'dataset' in kept:
        kept['dataset'] = canonical(kept['dataset'])
    return fingerprint(kept)


def fingerprint(content: Any) -> str:
    """Return a short digest of JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def canonical(dataset: str) -> str:
    """Return the canonical name of what is trained on; names of other data sets are unchanged."""
    with contextlib.suppress(ValueError):
        return parse_name(dataset).provenance
    return dataset


class Results:
    """A file of JSON lines that is only appended to, safe against kill -9 and concurrent writers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Return all complete lines."""
        if not self.path.exists():
            return []
        check_regular(self.path)
        *lines, last = self.path.read_bytes().split(b'\n')
        found = []
        for number, line in enumerate([*lines, last[: whole(last)]], 1):
            if not line.strip():
                continue
            place = f'{self.path}, line {number}'
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f'{place}: must be JSON: {error}') from error
            if not isinstance(content, dict):
                raise ValueError(f'{place}: must be a JSON object, got {content!r:.100}')
            for key in KEY:
                if isinstance(content.get(key), (list, dict)):
                    raise ValueError(f'{place}: {key} must be a string or a number, got {content[key]!r:.100}')
            found.append(content)
        return found

    def keys(self) -> set[tuple[Any, ...]]:
        """Return the keys of all lines."""
        return set(map(key_of, self.read()))

    def append(self, line: dict[str, Any]) -> None:
        """Append a line, unless one with the same key exists; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'a+b') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            last = content[content.rfind(b'\n') + 1 :]
            if torn := len(last) - whole(last):
                file.truncate(len(content) - torn)
            if key_of(line) in self.keys():
                return
            # An editor may have removed the last newline.
            file.write(b'\n' * (whole(last) > 0) + json.dumps(line).encode() + b'\n')
            file.flush()
            os.fsync(file.fileno())


# Identifies a training.
KEY = ('sweep', 'condition', 'seed', 'finetune', 'finetune_seed', 'settings')


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of `KEY` in a line."""
    return tuple(line.get(key) for key in KEY)


def whole(last: bytes) -> int:
    """Return the valid length of the text after the last newline: all of it if it is JSON, else 0 (torn)."""
    try:
        return len(last) if isinstance(json.loads(last), dict) else 0
    except (ValueError, RecursionError):
        return 0
