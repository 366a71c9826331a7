"""Run many pre-trainings, each with fine-tunings, with timm's unedited train.py; collect results; write a report.

A sweep file defines conditions (data sets to pre-train on), seeds, and fine-tunings. A condition with a seed is a unit:
a pre-training and all its fine-tunings. Snakemake runs them, on this machine or with any of its executors.

Example:
    $ python sweep.py run sweeps/micro.yaml --train-py pytorch-image-models/train.py -n 2   # two trainings in parallel
    $ python sweep.py run sweeps/micro.yaml --train-py ... -n 50 -- --executor slurm        # options of Snakemake
    $ python sweep.py list sweeps/micro.yaml --train-py ...                                 # units, samples, hours
    $ python sweep.py report sweeps/micro.yaml                                              # tables and plots

Run the same command again after an interruption: finished trainings are skipped, others resume from their last
checkpoint. A result is one line of NAME.jsonl, written when its training has finished.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

MISSING = "pip install '.[contour,demo,sweep]'"

try:
    from sweep_command import HERE, Commands, flags, like
    from sweep_data import Folders
    from sweep_file import Job, Results, Sweep, Unit, digest, key_of
    from sweep_schema import known
    from sweep_train import Failed, train

    from timm_fractal._utils.messages import escape_unencodable
except ModuleNotFoundError as error:
    sys.exit(f'sweep.py needs {error.name}: {MISSING}')
except KeyboardInterrupt:
    sys.exit(130)


class Plan:
    """The trainings of a sweep, with their commands and results, from the arguments of ``sweep.py run`` and others."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.sweep = Sweep(args.sweep)
        folders = Folders(self.sweep.file.data, args.work / 'data', dict(args.data))
        self.commands = Commands(args.work / self.sweep.name, folders, args.train_py)
        self.results = Results((args.results or args.work) / f'{self.sweep.name}.jsonl')
        self.trainings = {(unit.name, job.folder): (unit, job) for unit in self.sweep.units for job in unit.jobs}

    def units(self, only: Sequence[str] | None = None) -> list[Unit]:
        """Return the units of the given conditions, or of all, whose weights are available."""
        for condition in only or ():
            known(condition, self.sweep.file.conditions, 'condition', '--only')
        return list(available(unit for unit in self.sweep.units if not only or unit.condition in only))

    def missing(self, unit: Unit, results: Collection[tuple[Any, ...]]) -> list[Job]:
        """Return the trainings of a unit without a result."""
        return [job for job in unit.jobs if key_of(job.key) not in results]

    def todo(self, unit: Unit, results: Collection[tuple[Any, ...]]) -> list[Job]:
        """Return the trainings of a unit to run, including the pre-training if its weights are needed but missing."""
        jobs = self.missing(unit, results)
        if jobs and unit.pretrain and unit.pretrain not in jobs and not self.commands.checkpoint(unit).exists():
            jobs.insert(0, unit.pretrain)
        return jobs

    def find(self, unit: str, folder: str) -> tuple[Unit, Job]:
        """Return a training by the names of its unit and folder."""
        if (unit, folder) not in self.trainings:
            words = f'no training {unit}/{folder}; has the file changed since the run started?'
            raise ValueError(f'{self.sweep.path}: {words}')
        return self.trainings[unit, folder]

    def collect(self, path: Path) -> None:
        """Add the result of a training to the results file."""
        self.results.append(json.loads(path.read_text()))

    def check(self, units: Sequence[Unit]) -> bool:
        """Check all commands, and print the trainings left; return whether there are any.

        Raises:
            ValueError: train.py lacks an option, or the sweep file lacks something that a training needs.
        """
        results = self.results.keys()
        left = [unit for unit in units if self.missing(unit, results)]
        print(f'{self.sweep.name}: {len(units) - len(left)} of {len(units)} units finished, {self.results.path}')
        if left:
            self.commands.check(left)
            todo = [(unit, job) for unit in left for job in self.todo(unit, results)]
            samples = sum(self.commands.of(unit, job).samples for unit, job in todo)
            print(f'{len(todo)} trainings left, {samples:,} samples', *self.cost(samples), sep='\n', flush=True)
        return bool(left)

    def cost(self, samples: int) -> Iterator[str]:
        """Yield the estimated hours and price of a number of samples, if the sweep file has rates."""
        if cost := self.sweep.file.cost:
            hours = samples / cost.samples_per_second / 3600
            yield f'at {cost.samples_per_second:,g} samples/s ({cost.basis}): {hours:,.1f} hours of {cost.device}'
            if cost.price_per_hour:
                yield f'at ${cost.price_per_hour:.2f} per hour: ${hours * cost.price_per_hour:,.0f}'

    def listing(self) -> Iterator[str]:
        """Yield lines with the units of a sweep and their cost."""
        results = self.results.keys()
        total = 0
        for unit in self.sweep.units:
            samples = sum(self.commands.of(unit, job, stand_in=True).samples for job in unit.jobs)
            total += samples
            left = len(self.todo(unit, results))
            state = f'{left} of {len(unit.jobs)} trainings left' if left else 'finished'
            yield f'{unit.name:<28} {samples:>14,} samples  {state}'
        yield f'{len(self.sweep.units)} units, {total:,} samples'
        yield from self.cost(total)


def snakemake(args: argparse.Namespace, plan: Plan, units: Sequence[Unit]) -> list[str]:
    """Return the Snakemake command that runs the missing trainings of units."""
    if importlib.util.find_spec('snakemake') is None:
        raise ModuleNotFoundError(name='snakemake')
    words = [args.sweep.resolve(), '--work', args.work, '--train-py', args.train_py]
    words += ['--results', args.results.resolve()] if args.results else []
    for name, images in args.data:
        words += ['--data', f'{name}={images}']
    settings = dict(words=list(map(str, words)), conditions=sorted({unit.condition for unit in units}))
    options = ['--snakefile', HERE / 'Snakefile', '--directory', plan.commands.work, '--jobs', args.n]
    # Not `--configfile`: another run could overwrite it while jobs of this run read it.
    options += ['--config', *(f'{key}={json.dumps(value, ensure_ascii=False)}' for key, value in settings.items())]
    options += ['--scheduler', 'greedy', '--keep-going', '--rerun-incomplete']
    # File names contain the settings, so existing files are valid regardless of their age.
    options += ['--rerun-triggers', 'input']
    # Collect results again if their line is missing, in Snakemake's own process.
    options += ['--forcerun', 'collect', '--force-use-threads']
    return [sys.executable, '-m', 'snakemake', *map(str, options)]


def dry_run(plan: Plan, units: Sequence[Unit], train_py: Path) -> list[str]:
    """Run each distinct command up to its first step, on the CPU with small batches; return the errors."""
    plan.commands.check(units)
    problems = []
    seen: set[str] = set()
    for unit in units:
        for job in unit.jobs:
            alike = digest(job.settings)  # Ignores the initial weights of a fine-tuning.
            if alike in seen:
                continue
            seen.add(alike)
            command, samples, _ = plan.commands.of(unit, job, stand_in=True)
            print(f'{unit.name} {job.name}: {samples:,} samples\n  {" ".join(command)}')
            workers = min(1, job.settings.get('workers', 1))
            output = str(plan.commands.work / 'dry-run')
            cut = dict(device='cpu', batch_size=2, log_interval=1, workers=workers, output=output)
            # Replaces the interpreter or launch.sh.
            words = [word for word in command[2:] if word not in ('--amp', '--pin-mem')]
            error = first_step([sys.executable, str(train_py), *words, *flags(cut)])
            print(f'  {error or "first step done"}')
            if error:
                problems.append(f'{unit.name} {job.name}: {error}')
    return problems


def first_step(command: list[str], timeout: float = 900) -> str:
    """Run train.py until it logs its first step; return an error message, or an empty string."""
    environment = os.environ | {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1')}
    output: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    child = subprocess.Popen(command, start_new_session=True, env=environment, **output)
    timer = threading.Timer(timeout, os.killpg, (child.pid, signal.SIGKILL))
    timer.start()
    lines = ['no output']
    try:
        for line in child.stdout or ():
            if re.search(r'Train: 0 \[ *0/', line):
                return ''
            lines += [line.strip()] if line.strip() else []
        return f'ended with code {child.wait()}: {lines[-1][:300]}'
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be an integer of at least 1, got {text!r}')
    return int(text)


def pair(text: str) -> tuple[str, Path]:
    """Parse NAME=FOLDER."""
    name, equals, folder = text.partition('=')
    if not equals or not all((Path(folder) / split).is_dir() for split in ('train', 'val')):
        raise argparse.ArgumentTypeError(
            f'must be NAME=FOLDER, a folder with train/CLASS/FILE and val/CLASS/FILE, got {text!r}'
        )
    return name, Path(folder).resolve()


def folder(text: str) -> Path:
    """Parse the path of a folder, which may not exist yet."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f'must be a folder, got the file {text!r}')
    return path


def script(text: str) -> Path:
    """Parse the path of train.py or of its folder."""
    path = Path(text)
    path = path / 'train.py' if path.is_dir() else path
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f'no such file: {path}; get train.py from https://github.com/huggingface/pytorch-image-models'
        )
    return path.resolve()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    place = argparse.ArgumentParser(add_help=False)
    words = 'folder for trainings and prepared images (default: output/sweep)'
    place.add_argument('--work', type=lambda text: folder(text).resolve(), default='output/sweep', help=words)
    place.add_argument('--results', type=folder, help='folder with NAME.jsonl of each sweep (default: --work)')
    common = argparse.ArgumentParser(add_help=False, parents=[place])
    words = 'folder with train/CLASS/FILE and val/CLASS/FILE for an entry in the section data'
    common.add_argument('--data', type=pair, action='append', default=[], metavar='NAME=FOLDER', help=words)
    words = "timm's script or its folder (default: TRAIN_PY, else train.py)"
    common.add_argument('--train-py', type=script, default=os.environ.get('TRAIN_PY', 'train.py'), help=words)
    words = 'Arguments after -- are options of Snakemake.'
    run = commands.add_parser('run', parents=[common], help='run what is missing', epilog=words)
    run.add_argument('sweep', type=Path)
    run.add_argument('-n', type=count, default=1, help='number of parallel trainings')
    run.add_argument('--only', nargs='+', metavar='CONDITION', help='run only these conditions')
    run.add_argument('--unlock', action='store_true', help='remove the lock of a killed run, then run')
    words = 'run each command up to its first step, on the CPU with small batches'
    run.add_argument('--dry-run', action='store_true', help=words)
    one = commands.add_parser('train', parents=[common], help='run one training (called by Snakemake)')
    one.add_argument('sweep', type=Path)
    one.add_argument('unit')
    one.add_argument('training')
    lists = commands.add_parser('list', parents=[common], help='list units with samples, hours and cost')
    lists.add_argument('sweep', type=Path)
    report = commands.add_parser('report', parents=[place], help='write tables and plots')
    report.add_argument('sweep', type=Path, nargs='+')
    words = 'file to write, with plots in a folder of the same name (default: RESULTS/results.md)'
    report.add_argument('--page', type=Path, help=words)
    return parser


def available(units: Iterable[Unit]) -> Iterator[Unit]:
    """Yield the units whose weights are available, and print the others."""
    for unit in units:
        # hf-hub: and local-dir: are not tags.
        names = {job.settings.get('weights', ':') for job in unit.finetune}
        names = {name for name in names if ':' not in name}
        if names:
            import timm

            known_here = set(timm.list_pretrained())
            names -= known_here
        if names:
            hints = ''.join(like(name, known_here) for name in names)
            print(f'{unit.name}: skipped, timm does not know the weights {", ".join(names)}{hints}', file=sys.stderr)
        else:
            yield unit


def execute(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Run the command, and return the exit code."""
    if options and args.command != 'run':
        raise ValueError(f'arguments after -- are for Snakemake, which only "run" calls, got {" ".join(options)}')
    if args.command == 'report':
        from sweep_report import write

        results = args.results or args.work
        write([Sweep(path) for path in args.sweep], results, args.page or results / 'results.md')
        return 0
    plan = Plan(args)
    if args.command == 'list':
        print('\n'.join(plan.listing()))
        return 0
    if args.command == 'train':
        train(plan.commands, *plan.find(args.unit, args.training))
        return 0
    units = plan.units(args.only)
    if args.dry_run:
        problems = dry_run(plan, units, args.train_py)
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    if plan.check(units):
        command = snakemake(args, plan, units)
        if args.unlock:
            subprocess.run([*command, '--unlock'], check=True)
        os.execv(command[0], [*command, *options])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    escape_unencodable()
    parser = make_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index('--') if '--' in words else len(words)
    args = parser.parse_args(words[:end])
    try:
        return execute(args, words[end + 1 :])
    except ModuleNotFoundError as error:
        parser.error(f'needs {error.name}: {MISSING}')
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
