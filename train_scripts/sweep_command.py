"""From a training of a sweep file to the command line of timm's unedited train.py."""

import difflib
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweep_data import Folders
from sweep_file import Job, Unit
from sweep_schema import OWN, at, load, nearest

from timm_fractal import parse_name
from timm_fractal.spec import SPECS

HERE = Path(__file__).resolve().parent

#: Training images of data sets that train.py downloads.
IMAGES = {'torch/cifar10': 50_000, 'torch/cifar100': 50_000}


class Command(NamedTuple):
    """A run of train.py.

    Attributes:
        words: The command line.
        samples: How many samples it trains on.
        epochs: In how many epochs.
    """

    words: list[str]
    samples: int
    epochs: int


class Commands:
    """Writes command lines.

    Args:
        work: Folder for trainings.
        folders: The folders of images.
        train_py: timm's script.
    """

    def __init__(self, work: Path, folders: Folders, train_py: Path) -> None:
        self.work, self.folders, self.train_py = work, folders, train_py

    def folder(self, unit: Unit, job: Job) -> Path:
        """Where train.py writes."""
        return self.work / unit.name / job.folder

    def line(self, unit: Unit, job: Job) -> Path:
        """The result of a training, before it is collected."""
        return self.work / unit.name / f'{job.folder}.json'

    def checkpoint(self, unit: Unit) -> Path:
        """Where the pre-training of a unit leaves its weights."""
        assert unit.pretrain
        return self.folder(unit, unit.pretrain) / 'last.pth.tar'

    def weights(self, unit: Unit) -> Path:
        """The weights that fine-tunings begin with."""
        assert unit.pretrain
        return self.work / unit.name / f'{unit.pretrain.folder}.pth.tar'

    def of(self, unit: Unit, job: Job, stand_in: bool = False) -> Command:
        """The command of a job; with ``stand_in`` one for a dry run, with noise for images.

        Raises:
            ValueError: Something that it needs is not in the sweep file.
        """
        return at(f'{unit.name}, {job.name}', self._of, unit, job, stand_in)

    def _of(self, unit: Unit, job: Job, stand_in: bool) -> Command:
        settings, options = job.settings, dict(job.options)
        config = recipe(job)
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
            raise ValueError(f'{" and ".join(budgets)} exclude each other')
        if 'samples' in settings or 'steps' in settings:
            if images is None:
                name = merged.get('dataset', '')
                raise ValueError(
                    f'{budgets[0]} needs data of the sweep file or a dataset whose number of images is known (others '
                    f'need epochs), got {name!r}; {nearest(name.partition("/")[0], [*SPECS, *IMAGES])}'
                )
            options |= schedule(settings, images, batch, repeat='dataset' in merged)
        if stand_in and 'dataset' in merged and not ours:
            # train.py would download it.
            folder = self.folders.noise(whole(merged, 'num_classes'))
            options |= dict(dataset='', data_dir=folder, dataset_download=False)
        if 'weights' in settings:
            options |= dict(model=settings['weights'], pretrained=not stand_in)
        merged = config | options
        epochs = whole(merged, 'epochs', ' (or samples, or steps)')
        if settings.get('processes'):
            words = ['sh', str(HERE / 'launch.sh')]
        else:
            words = [sys.executable, str(self.train_py)]
        if config:
            words += ['-c', str(HERE / settings['config'])]
        repeats = max(1.0, merged.get('epoch_repeats', 1.0))
        samples = int((images or 0) * repeats) // batch * batch * epochs
        place = dict(seed=job.seed, output=str(self.work / unit.name), experiment=job.folder)
        if job.name != 'pretrain' and unit.pretrain and not stand_in:
            place |= dict(pretrained=True, pretrained_path=str(self.weights(unit)))
        return Command(words + flags(options | place), samples, epochs)

    def check(self, units: Sequence[Unit]) -> None:
        """Refuse options that train.py does not have, before the first training.

        Raises:
            ValueError: An unknown option, or a train.py that does not run.
        """
        command = [sys.executable, str(self.train_py), '--help']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or 'no output').split('\n')[-1]
            raise ValueError(f'{self.train_py} --help ended with code {done.returncode}: {last}')
        valid = {word.replace('-', '_') for word in re.findall(r'(?<!\S)--([a-z0-9-]+)', done.stdout)}
        for unit in units:
            for job in unit.jobs:
                for option in [*recipe(job), *job.options]:
                    if option not in valid:
                        raise ValueError(
                            f'{unit.name}, {job.name}: train.py has no option {option!r}{like(option, valid | OWN)}'
                        )


def whole(options: dict[str, Any], name: str, instead: str = '') -> int:
    """A number of options that must be there, from 1 up."""
    value = options.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f'{name}{instead} must be given, a whole number from 1 up, got {value!r}')
    return value


def recipe(job: Job) -> dict[str, Any]:
    """The recipe that a job names, or nothing."""
    if 'config' not in job.settings:
        return {}
    path = HERE / job.settings['config']
    content = load(path, path.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
        raise ValueError(f'{path}: a recipe must be a mapping, got {content!r:.100}')
    return content


def flags(options: dict[str, Any]) -> list[str]:
    """Options of train.py as words of a command line."""
    words = []
    for key, value in options.items():
        flag = '--' + key.replace('_', '-')
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [flag, *(f'{name}={each}' for name, each in value.items())]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is not False and value is not None:
            words += [flag, str(value)] if str(value) else [f'{flag}=']
    return words


def schedule(settings: dict[str, Any], images: int, batch: int, repeat: bool) -> dict[str, Any]:
    """Options of train.py for a number of samples or steps; an epoch ends with a checkpoint.

    Args:
        settings: Its ``samples`` are wanted, one checkpoint every ``interval`` of them; or its ``steps``.
        images: Number of different images.
        batch: Images per step.
        repeat: Whether an epoch may be many rounds over the images.

    Raises:
        ValueError: The batch is more than all images, or the samples are less than one round.
    """
    if not repeat and batch > images:
        raise ValueError(f'batch_size must be at most {images}, the number of images, got {batch}')
    if 'steps' in settings:
        epochs = max(1, round(settings['steps'] / max(1, images // batch)))
        options = dict(epochs=epochs, warmup_epochs=round(0.1 * epochs), val_interval=epochs)
        return {key: value for key, value in options.items() if key not in settings}
    samples, least = settings['samples'], max(images, batch)
    if samples < images // batch * batch or samples < batch:
        raise ValueError(f'samples must be at least {least}, one batch and one round over all images, got {samples}')
    if not repeat:
        return dict(epochs=round(samples / (images // batch * batch)))
    epochs = max(1, min(round(samples / settings.get('interval', samples)), samples // least))
    steps = max(1, round(samples / epochs / batch))
    repeats = max(1.0, -(-steps * batch * 1000 // images) / 1000)  # Three digits, rounded up: drop-last does the rest.
    return dict(epochs=epochs, epoch_repeats=repeats)


def like(word: str, valid: Iterable[str]) -> str:
    """Word the end of a message about an unknown word, where there are too many valid ones to name them all."""
    near = difflib.get_close_matches(str(word), list(valid), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''
