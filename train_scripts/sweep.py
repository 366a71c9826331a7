"""Run many pre-trainings, and fine-tunings of each, with timm's unedited train.py; collect the results; draw the page.

A sweep file names conditions (data sets to pre-train on), seeds, and fine-tunings. One condition with one seed is a
unit: one pre-training and all its fine-tunings.

Example:
    $ python sweep.py run sweeps/micro.yaml --train-py pytorch-image-models/train.py -n 2     # two units at a time
    $ python sweep.py run sweeps/micro.yaml --train-py ... --index 7                          # one unit: a Slurm array
    $ python sweep.py list sweeps/micro.yaml --train-py ...                                   # units, samples, hours
    $ python sweep.py report sweeps/micro.yaml                                                # tables and plots

Do the same again after an interruption: what is finished is skipped, what was killed goes on from its last checkpoint.
A result is one line of NAME.jsonl, written when a training has ended. Two sweeps may share a folder: a unit that
another process has is left to it.
"""

import argparse
import contextlib
import csv
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MISSING = "pip install '.[contour,demo]'"

try:
    import timm
    from sweep_command import HERE, Commands, flags, like
    from sweep_data import Folders
    from sweep_file import Job, Results, Sweep, Unit, canonical, digest, key_of
    from sweep_schema import known
    from tqdm import tqdm

    import timm_fractal
    from timm_fractal._utils.messages import escape_unencodable
except ModuleNotFoundError as error:
    sys.exit(f'sweep.py needs {error.name}: {MISSING}')
except KeyboardInterrupt:
    sys.exit(130)

START = '=== sweep.py starts train.py ==='


class Failed(RuntimeError):
    """train.py ended with an error."""


class Runner:
    """Runs units.

    Args:
        sweep: The sweep file.
        args: Arguments of ``sweep.py run``.
    """

    def __init__(self, sweep: Sweep, args: argparse.Namespace) -> None:
        self.sweep, self.args = sweep, args
        self.work: Path = args.work / sweep.name
        self.results = Results((args.results or args.work) / f'{sweep.name}.jsonl')
        folders = Folders(sweep.file.data, args.work / 'data', dict(args.data))
        self.commands = Commands(self.work, folders, args.train_py)
        self.children: set[subprocess.Popen[bytes]] = set()
        self.logs: dict[Path, tuple[int, int]] = {}
        self.done = 0
        self.stopped = threading.Event()

    def environment(self, job: Job) -> dict[str, str]:
        """The environment of train.py."""
        more = {'TRAIN_PY': str(self.args.train_py)}
        if processes := job.settings.get('processes'):
            more['NPROC'] = str(processes)
        if job.settings.get('device') == 'cpu':
            more['OMP_NUM_THREADS'] = os.environ.get('OMP_NUM_THREADS', '1')
        return os.environ | more

    def missing(self, unit: Unit, results: Collection[tuple[Any, ...]] | None = None) -> list[Job]:
        """Jobs of a unit without a line among the results; the keys of these are read if they are not given.

        A pre-training whose checkpoint is gone is among them as long as a fine-tuning needs it.
        """
        known = self.results.keys() if results is None else results
        jobs = [job for job in unit.jobs if key_of(job.key) not in known]
        if jobs and unit.pretrain and unit.pretrain not in jobs and not self.weights(unit).exists():
            jobs.insert(0, unit.pretrain)
        return jobs

    def weights(self, unit: Unit) -> Path:
        """Where the pre-training of a unit leaves its weights."""
        assert unit.pretrain
        return self.work / unit.name / unit.pretrain.folder / 'last.pth.tar'

    def unit(self, unit: Unit) -> str:
        """Run what is missing of a unit.

        Returns:
            ``'finished'``, ``'elsewhere'`` when another process has it, ``'not begun'`` after `stop`, or an error.
        """
        if self.stopped.is_set():
            return 'not begun'
        if not self.missing(unit):
            return 'finished'
        folder = self.work / unit.name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / 'lock', 'w') as lock:
            # train.py inherits the lock: it is held as long as a training runs, even if this process is killed.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 'elsewhere'
            try:
                for job in self.missing(unit):
                    self.job(unit, job, lock.fileno())
                    if job is not unit.pretrain:
                        for checkpoint in (folder / job.folder).glob('*.pth.tar'):
                            checkpoint.unlink()  # Only the result is needed.
            except (Failed, ValueError, OSError) as error:
                return f'{unit.name}: {error}'
        return 'finished'

    def job(self, unit: Unit, job: Job, lock: int) -> None:
        """Run train.py to its end, from its last checkpoint if there is one, and append its result."""
        if self.stopped.is_set():
            raise Failed(f'{job.name} was not begun')
        command, samples, epochs = self.commands.of(unit, job)
        folder = self.work / unit.name / job.folder
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / 'log.txt'
        self.logs[log] = (samples, epochs)
        # A pre-training is finished with its weights; who wants space may delete them.
        if finished(folder, epochs) is None or (job is unit.pretrain and not self.weights(unit).exists()):
            if resume := checkpoint(folder):
                command += ['--resume', str(resume)]
            wrote = int(log.stat().st_mtime) if log.exists() else 0
            with open(log, 'ab') as output:
                output.write(f'\n{START} {int(time.time())} {wrote}\n{json.dumps(command)}\n'.encode())
                output.flush()
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    start_new_session=True,
                    env=self.environment(job),
                )
            self.children.add(child)
            code = child.wait()
            self.children.discard(child)
            if code and self.stopped.is_set():
                raise Failed(f'{job.name} was interrupted; the same command goes on from its last checkpoint')
            if code or finished(folder, epochs) is None:
                lines = log.read_text(errors='replace').strip().split('\n')
                raise Failed(f'{job.name} ended with code {code}, see {log}: {lines[-1][:300]}')
        row = finished(folder, epochs) or {}
        self.results.append(job.key | self.result(job, command, samples, row, log))
        self.logs.pop(log)
        self.done += samples

    def result(self, job: Job, command: list[str], samples: int, row: dict[str, str], log: Path) -> dict[str, Any]:
        """What a training came to, and how it came to be."""
        dataset = job.settings.get('dataset') or job.settings.get('data') or job.settings['config']
        words = ' '.join(command).replace(str(self.work), 'WORK').replace(str(self.args.work), 'WORK')
        words = (
            words.replace(str(HERE) + '/', '')
            .replace(sys.executable, 'python')
            .replace(str(self.args.train_py), 'train.py')
        )
        words = re.sub(r' --(data-dir|resume) \S*/', lambda m: f' --{m[1]} ', words)
        numbers: dict[str, Any] = {
            key: round(float(row[key]), 4) for key in ('train_loss', 'eval_top1', 'eval_loss') if row.get(key)
        }
        if len(points := curve(log.parent / 'summary.csv')) > 1:
            numbers['curve'] = points
        return dict(
            dataset=canonical(dataset),
            samples=samples,
            train_seed=job.seed,
            **numbers,
            seconds=seconds(log),
            finished=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            hardware=hardware(job.settings),
            versions=versions(self.args.train_py),
            command=words,
        )

    def progress(self) -> int:
        """Samples trained on by now, those of running trainings included."""
        total = self.done
        for log, (samples, epochs) in list(self.logs.items()):
            with contextlib.suppress(OSError):
                with open(log, 'rb') as file:
                    file.seek(max(0, log.stat().st_size - 4096))
                    text = file.read().decode(errors='replace').rpartition(START)[2]
                if found := re.findall(r'Train: (\d+) \[ *(\d+)/(\d+) ', text):
                    epoch, step, steps = map(int, found[-1])
                    total += int(samples * min(1.0, (epoch + step / max(1, steps)) / epochs))
        return total

    def stop(self, *_: Any) -> None:
        """End the trainings that this process has started; they can be resumed."""
        self.stopped.set()
        for child in list(self.children):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    def run(self, units: Sequence[Unit]) -> list[str]:
        """Run units, ``-n`` at a time; what went wrong, in words."""
        results = self.results.keys()
        todo = [unit for unit in units if self.missing(unit, results)]
        if todo:
            self.commands.check(todo)
        print(f'{self.sweep.name}: {len(units) - len(todo)} of {len(units)} units finished, {self.results.path}')
        total = sum(self.commands.of(unit, job).samples for unit in todo for job in self.missing(unit, results))
        problems: list[str] = []
        with (
            interrupts(self.stop),
            ThreadPoolExecutor(self.args.n) as pool,
            tqdm(total=total, unit='sample', unit_scale=True, smoothing=0.1, mininterval=10) as bar,
        ):
            futures = [pool.submit(self.unit, unit) for unit in todo]
            while not all(future.done() for future in futures):
                time.sleep(min(2.0, self.args.poll))
                bar.update(max(0, self.progress() - bar.n))
                left = sum(not future.done() for future in futures)
                bar.set_postfix_str(f'{left} units left', refresh=False)
            bar.update(max(0, self.done - bar.n))
            states = [future.result() for future in futures]
        for state, unit in zip(states, todo, strict=True):
            if state == 'elsewhere':
                print(f'{unit.name}: another process has it')
            elif state not in ('finished', 'not begun'):
                problems.append(state)
        if left := states.count('not begun'):
            problems.append(f'{left} units were not begun')
        return problems

    def dry_run(self, units: Sequence[Unit]) -> list[str]:
        """Start each different command on the CPU with small batches, up to its first step; what went wrong."""
        self.commands.check(units)
        problems = []
        seen: set[str] = set()
        for unit in units:
            for job in unit.jobs:
                alike = digest(job.settings)  # Of a fine-tuning all but the weights that it begins with.
                if alike in seen:
                    continue
                seen.add(alike)
                command, samples, _ = self.commands.of(unit, job, stand_in=True)
                print(f'{unit.name} {job.name}: {samples:,} samples\n  {" ".join(command)}')
                workers = min(1, job.settings.get('workers', 1))
                cut = dict(
                    device='cpu', batch_size=2, log_interval=1, workers=workers, output=str(self.work / 'dry-run')
                )
                # Without launch.sh, if there are more processes than one.
                words = [word for word in command[2:] if word not in ('--amp', '--pin-mem')]
                error = first_step([sys.executable, str(self.args.train_py), *words, *flags(cut)])
                print(f'  {error or "first step done"}')
                if error:
                    problems.append(f'{unit.name} {job.name}: {error}')
        return problems


@contextlib.contextmanager
def interrupts(function: Callable[..., None]) -> Iterator[None]:
    """Call a function at Ctrl-C and SIGTERM, and only that."""
    before = {number: signal.signal(number, function) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def epochs_of(summary: Path) -> list[dict[str, str]]:
    """The rows of a summary.csv, in the order in which epochs ended; one that was resumed may be there twice."""
    header: list[str] = []
    rows = []
    for row in csv.reader(summary.read_text().splitlines()):
        if row and row[0] == 'epoch':  # A resumed run writes the header again.
            header = row
        else:
            rows.append(dict(zip(header, row, strict=False)))
    return rows


def curve(summary: Path) -> list[tuple[int, float]]:
    """Epochs that ended, and top-1 on the test images then; of a training that was resumed, each once."""
    rows = epochs_of(summary) if summary.exists() else []
    found = {int(row['epoch']) + 1: round(float(row['eval_top1']), 4) for row in rows if row.get('eval_top1')}
    return sorted(found.items())


def checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in the folder of a training.

    timm unlinks ``last.pth.tar`` before it renames the new one; killed in between, there is only a numbered one.
    """
    numbered = sorted(folder.glob('checkpoint-*.pth.tar'), key=lambda path: int(path.name[11:-8]))
    return next((path for path in (folder / 'last.pth.tar', *reversed(numbered)) if path.exists()), None)


def finished(folder: Path, epochs: int) -> dict[str, str] | None:
    """The last row of summary.csv of a training that has come to its end, else None."""
    log, summary = folder / 'log.txt', folder / 'summary.csv'
    if not log.exists() or not summary.exists():
        return None
    if '--result' not in log.read_text(errors='replace').rpartition(START)[2].split('\n'):
        return None
    last = (epochs_of(summary) or [{}])[-1]
    return last if last.get('epoch') == str(epochs - 1) else None


def seconds(log: Path) -> int:
    """Time that a training ran, all its attempts together: each ends with the last thing it wrote."""
    starts = re.findall(rf'{re.escape(START)} (\d+) (\d+)', log.read_text(errors='replace'))
    begins = [int(begin) for begin, _ in starts]
    ends = [int(end) for _, end in starts[1:]] + [int(log.stat().st_mtime)]
    return sum(end - begin for begin, end in zip(begins, ends, strict=True))


def hardware(settings: dict[str, Any]) -> str:
    """What a training ran on, in words."""
    if settings.get('device') == 'cpu':
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError):
            found = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
            name = found[1] if found else name
        return f'{name}, {os.environ.get("OMP_NUM_THREADS", "1")} thread'
    try:
        query = ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split('\n')[:-1]
    except (OSError, subprocess.CalledProcessError):
        return 'unknown accelerator'
    return f'{settings.get("processes", 1)} x {names[0]}'


def versions(train_py: Path) -> dict[str, str]:
    """Versions of what a training depends on; timm's is that of the package beside train.py, if there is one."""
    timm = train_py.parent / 'timm' / 'version.py'
    found = re.search(r"__version__ = '(.*)'", timm.read_text()) if timm.exists() else None
    packages = {name: importlib.metadata.version(name) for name in ('torch', 'timm', 'pillow')}
    if found:
        packages['timm'] = found[1]
    return packages | {'timm_fractal': timm_fractal.__version__, 'python': platform.python_version()}


def first_step(command: list[str], timeout: float = 900) -> str:
    """Run train.py until it logs its first step; an error message, or nothing."""
    environment = os.environ | {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1')}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
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
    """A number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1 up, got {text!r}')
    return int(text)


def pair(text: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, equals, folder = text.partition('=')
    if not equals or not all((Path(folder) / split).is_dir() for split in ('train', 'val')):
        raise argparse.ArgumentTypeError(
            f'must be NAME=FOLDER of a folder that has train/CLASS/FILE and val/CLASS/FILE, got {text!r}'
        )
    return name, Path(folder).resolve()


def folder(text: str) -> Path:
    """The path of a folder, which need not exist."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f'must be a folder, got the file {text!r}')
    return path


def script(text: str) -> Path:
    """The path of train.py, or of the folder it is in."""
    path = Path(text)
    path = path / 'train.py' if path.is_dir() else path
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f'there is no {path}: take train.py from https://github.com/huggingface/pytorch-image-models'
        )
    return path.resolve()


def listing(runner: Runner) -> Iterator[str]:
    """The units of a sweep, and what they cost."""
    cost = runner.sweep.file.cost
    results = runner.results.keys()
    total = 0
    for index, unit in enumerate(runner.sweep.units):
        samples = [runner.commands.of(unit, job, stand_in=True).samples for job in unit.jobs]
        total += sum(samples)
        left = len(runner.missing(unit, results))
        state = 'finished' if not left else f'{left} of {len(unit.jobs)} trainings to do'
        yield f'{index:4d}  {unit.name:<28} {sum(samples):>14,} samples  {state}'
    yield f'{len(runner.sweep.units)} units, {total:,} samples'
    if cost:
        hours = total / cost.samples_per_second / 3600
        yield f'at {cost.samples_per_second:,g} samples/s ({cost.basis}): {hours:,.1f} hours of {cost.device}'
        if cost.price_per_hour:
            yield f'at {cost.price_per_hour:.2f} $ an hour: {hours * cost.price_per_hour:,.0f} $'


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        '--work',
        type=lambda text: folder(text).resolve(),
        default=Path('output/sweep').resolve(),
        help='folder for trainings and prepared images (default: output/sweep)',
    )
    place.add_argument('--results', type=folder, help='folder with NAME.jsonl of each sweep (default: that of --work)')
    common = argparse.ArgumentParser(add_help=False, parents=[place])
    common.add_argument(
        '--data',
        type=pair,
        action='append',
        default=[],
        metavar='NAME=FOLDER',
        help='where the images of a name of the section data are: train/CLASS/FILE and val/CLASS/FILE',
    )
    common.add_argument(
        '--train-py',
        type=script,
        default=os.environ.get('TRAIN_PY', 'train.py'),
        help="timm's script, or the folder that it is in (default: TRAIN_PY, else train.py)",
    )
    run = commands.add_parser('run', parents=[common], help='run what is missing')
    run.add_argument('sweep', type=Path)
    run.add_argument('-n', type=count, default=1, help='units at a time')
    some = run.add_mutually_exclusive_group()
    some.add_argument('--index', type=int, help='only this unit, as for a Slurm array')
    some.add_argument('--only', nargs='+', metavar='CONDITION', help='only units of these conditions')
    run.add_argument('--dry-run', action='store_true', help='each command up to its first step, on the CPU, cut down')
    run.add_argument('--poll', type=float, default=2.0, help=argparse.SUPPRESS)
    lists = commands.add_parser('list', parents=[common], help='units with their index, samples, hours and cost')
    lists.add_argument('sweep', type=Path)
    report = commands.add_parser('report', parents=[place], help='write tables and plots')
    report.add_argument('sweep', type=Path, nargs='+')
    report.add_argument(
        '--page', type=Path, help='file to write; plots go into a folder beside it (default: RESULTS/results.md)'
    )
    return parser


def available(units: Sequence[Unit]) -> Iterator[Unit]:
    """Leave out, and say so, the units of weights that are not published, or not yet."""
    known_here = set(timm.list_pretrained())
    for unit in units:
        names = {job.settings['weights'] for job in unit.finetune if 'weights' in job.settings}
        # hf-hub: and local-dir: are no tags.
        missing = {name for name in names if ':' not in name} - known_here
        if missing:
            hints = ''.join(like(name, known_here) for name in missing)
            print(f'{unit.name}: left out, timm knows no weights {", ".join(missing)} here{hints}', file=sys.stderr)
        else:
            yield unit


def execute(args: argparse.Namespace) -> int:
    """Do what the command line says."""
    if args.command == 'report':
        from sweep_report import write

        results = args.results or args.work
        write([Sweep(path) for path in args.sweep], results, args.page or results / 'results.md')
        return 0
    runner = Runner(Sweep(args.sweep), args)
    if args.command == 'list':
        print('\n'.join(listing(runner)))
        return 0
    units = runner.sweep.units
    if args.index is not None:
        if not 0 <= args.index < len(units):
            raise ValueError(f'--index must be 0 to {len(units) - 1}, got {args.index}')
        units = [units[args.index]]
    for condition in args.only or ():
        known(condition, runner.sweep.file.conditions, 'condition', '--only')
    if args.only:
        units = [unit for unit in units if unit.condition in args.only]
    units = list(available(units))
    problems = runner.dry_run(units) if args.dry_run else runner.run(units)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    escape_unencodable()
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        return execute(args)
    except ModuleNotFoundError as error:
        parser.error(f'needs {error.name}: {MISSING}')
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
