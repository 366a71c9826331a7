"""Converts trainings of a sweep file to command lines of timm's unedited train.py."""

import argparse
import difflib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sweep_data import Folders
from sweep_file import HERE, Job, Unit, recipe
from sweep_schema import OWN, at, nearest
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from timm_fractal import parse_name
from timm_fractal.spec import SPECS

#: Number of training images in data sets that train.py downloads.
IMAGES = {'torch/cifar10': 50_000, 'torch/cifar100': 50_000}


class Command(NamedTuple):
    """A run of train.py: its command line, and how much it trains."""

    words: list[str]
    samples: int
    epochs: int


class Commands:
    """Makes command lines, with ``work`` as the folder for trainings."""

    def __init__(self, work: Path, folders: Folders, train_py: Path) -> None:
        self.work, self.folders, self.train_py = work, folders, train_py

    def folder(self, unit: Unit, job: Job) -> Path:
        return self.work / unit.name / job.folder

    def line(self, unit: Unit, job: Job) -> Path:
        """Return the path of a training's result before it is collected."""
        return self.work / unit.name / f'{job.folder}.json'

    def checkpoint(self, unit: Unit) -> Path:
        """Return the checkpoint of a unit's pre-training."""
        assert unit.pretrain
        return self.folder(unit, unit.pretrain) / 'last.pth.tar'

    def weights(self, unit: Unit) -> Path:
        """Return the initial weights of a unit's fine-tunings."""
        assert unit.pretrain
        return self.work / unit.name / f'{unit.pretrain.folder}.pth.tar'

    def of(self, unit: Unit, job: Job, stand_in: bool = False) -> Command:
        """Return the command of a job; with ``stand_in``, one for a dry run with noise images."""
        return at(f'{unit.name}, {job.name}', self._of, unit, job, stand_in)

    def _of(self, unit: Unit, job: Job, stand_in: bool) -> Command:
        settings, options = job.settings, dict(job.options)
        config = recipe(settings)
        for option, value in options.items():
            if not on(value) and on(config.get(option)):
                words = f'{settings["config"]} sets it to {config[option]}, and train.py has no option that undoes it'
                raise ValueError(f'{option} cannot be {json.dumps(value)}: {words}')
        merged = config | options
        batch = whole(merged, 'batch_size') * settings.get('processes', 1)
        images = None
        if 'data' in settings:
            tune = job.key.get('finetune_seed', 0)
            folder, images, classes = self.folders.get(settings['data'], settings.get('shots'), tune, stand_in)
            options['data_dir'] = folder
            if classes is not None and 'num_classes' not in merged:
                options['num_classes'] = classes
        ours = merged.get('dataset', '').partition('/')[0] in SPECS
        if ours:
            spec = parse_name(merged['dataset'])
            images = spec.num_classes * spec.num_instances
            options.setdefault('num_classes', spec.num_classes)
        elif 'dataset' in merged:
            images = IMAGES.get(merged['dataset'])
        budgets = [key for key in ('epochs', 'samples', 'steps') if key in settings]
        if len(budgets) > 1:
            raise ValueError(f'{" and ".join(budgets)} cannot be combined')
        if 'samples' in settings or 'steps' in settings:
            if images is None:
                name = merged.get('dataset', '')
                raise ValueError(
                    f'{budgets[0]} needs data of the sweep file or a dataset with a known number of images (use epochs '
                    f'for others), got {name!r}; {nearest(name.partition("/")[0], [*SPECS, *IMAGES])}'
                )
            options |= schedule(settings, images, batch, repeat='dataset' in merged)
        if stand_in and 'dataset' in merged and not ours:
            # train.py would download it.
            folder = self.folders.noise(whole(merged, 'num_classes'))
            options |= dict(dataset='', data_dir=folder, dataset_download=False)
        if 'weights' in settings:
            options |= dict(model=settings['weights'], pretrained=not stand_in)
        merged = config | options
        whole(merged, 'epochs', ' (or samples, or steps)')
        epochs = epochs_with_warmup(merged)
        script = ['sh', HERE / 'launch.sh'] if settings.get('processes') else [sys.executable, self.train_py]
        words = list(map(str, script))
        if config:
            words += ['-c', str(HERE / settings['config'])]
        repeats = max(1.0, merged.get('epoch_repeats', 1.0))
        samples = int((images or 0) * repeats) // batch * batch * epochs
        place = dict(seed=job.seed, output=str(self.work / unit.name), experiment=job.folder)
        if job.name != 'pretrain' and unit.pretrain and not stand_in:
            place |= dict(pretrained=True, pretrained_path=str(self.weights(unit)))
        return Command(words + flags(options | place), samples, epochs)

    def check(self, units: Sequence[Unit]) -> None:
        """Check the options of all trainings against those of train.py."""
        command = [sys.executable, str(self.train_py), '--help']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or 'no output').split('\n')[-1]
            raise ValueError(f'{self.train_py} --help ended with code {done.returncode}: {last}')
        valid = {word.replace('-', '_') for word in re.findall(r'(?<!\S)--([a-z0-9-]+)', done.stdout)}
        for unit in units:
            for job in unit.jobs:
                for option in [*recipe(job.settings), *job.options]:
                    if option not in valid:
                        words = f'train.py has no option {option!r}{like(option, valid | OWN)}'
                        raise ValueError(f'{unit.name}, {job.name}: {words}')


def whole(options: dict[str, Any], name: str, instead: str = '') -> int:
    """Return a required option, an integer of at least 1."""
    value = options.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f'{name}{instead} must be given, an integer of at least 1, got {value!r}')
    return value


def epochs_with_warmup(options: dict[str, Any]) -> int:
    """Return the number of epochs that train.py runs, which some schedules lengthen by warm-up, cool-down or cycles."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    kwargs = scheduler_kwargs(argparse.Namespace(**{'sched': 'cosine'} | options | {'sched_on_updates': False}))
    return int(create_scheduler_v2(optimizer, **kwargs)[1])


def on(value: Any) -> bool:
    """Return whether an option with this value is on the command line."""
    return value is not False and value is not None


def flags(options: dict[str, Any]) -> list[str]:
    """Convert options of train.py to command-line arguments."""
    words = []
    for key, value in options.items():
        flag = '--' + key.replace('_', '-')
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [flag, *(f'{name}={each}' for name, each in value.items())]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif on(value):
            words += [flag, str(value)] if str(value) else [f'{flag}=']
    return words


def schedule(settings: dict[str, Any], images: int, batch: int, repeat: bool) -> dict[str, Any]:
    """Return options of train.py for a number of samples or steps; each epoch ends with a checkpoint.

    Args:
        settings: Requested ``samples``, with a checkpoint every ``interval`` samples; or ``steps``.
        images: Number of distinct images.
        batch: Images per step.
        repeat: Whether an epoch may be several passes over the images.
    """
    if not repeat and batch > images:
        raise ValueError(f'batch_size must be at most {images}, the number of images, got {batch}')
    if 'steps' in settings:
        epochs = max(1, round(settings['steps'] / max(1, images // batch)))
        options = dict(epochs=epochs, warmup_epochs=round(0.1 * epochs), val_interval=epochs)
        return {key: value for key, value in options.items() if key not in settings}
    samples, least = settings['samples'], max(images, batch)
    if samples < images // batch * batch or samples < batch:
        raise ValueError(f'samples must be at least {least}, one batch and one pass over all images, got {samples}')
    if not repeat:
        return dict(epochs=round(samples / (images // batch * batch)))
    epochs = max(1, min(round(samples / settings.get('interval', samples)), samples // least))
    steps = max(1, round(samples / epochs / batch))
    # Rounded up to three digits; drop-last cuts the rest.
    repeats = max(1.0, -(-steps * batch * 1000 // images) / 1000)
    return dict(epochs=epochs, epoch_repeats=repeats)


def like(word: str, valid: Iterable[str]) -> str:
    """Suggest the nearest valid word for a message, without listing all of them."""
    near = difflib.get_close_matches(str(word), list(valid), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''
