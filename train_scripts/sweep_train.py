"""One training of a sweep: runs train.py to its end, and writes the result with its provenance as a line of JSON."""

import contextlib
import csv
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sweep_command import HERE, Commands
from sweep_file import Job, Unit, canonical

import timm_fractal
from timm_fractal._utils.atomic import atomic_write

START = '=== sweep.py starts train.py ==='


class Failed(RuntimeError):
    """train.py ended with an error."""


def train(commands: Commands, unit: Unit, job: Job) -> None:
    """Run a training to its end, from its last checkpoint if there is one; write its result, and weights to begin with.

    Raises:
        Failed: train.py ended with an error.
        ValueError: There is no command for it.
        OSError: The disk is full, or the folder is not writable.
    """
    folder = commands.folder(unit, job)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        # train.py inherits the lock, so it is held as long as train.py runs, even after kill -9 of all else.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{unit.name}, {job.name}: still running since an earlier run; waiting for its end', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        line = finish(commands, unit, job, lock.fileno())
        if job is unit.pretrain:
            link(commands.checkpoint(unit), commands.weights(unit))
        with atomic_write(commands.line(unit, job)) as path, open(path, 'w') as file:
            file.write(json.dumps(line) + '\n')
            file.flush()
            os.fsync(file.fileno())
        if job is not unit.pretrain:
            for file in folder.glob('*.pth.tar'):
                file.unlink()  # Only the result is needed.


def finish(commands: Commands, unit: Unit, job: Job, lock: int) -> dict[str, Any]:
    """Run train.py unless it has already finished; return the line of the result."""
    command, samples, epochs = commands.of(unit, job)
    folder = commands.folder(unit, job)
    log = folder / 'log.txt'
    # A pre-training is finished with its weights, which may have been deleted.
    if finished(folder, epochs) is None or (job is unit.pretrain and not commands.checkpoint(unit).exists()):
        if resume := checkpoint(folder):
            command += ['--resume', str(resume)]
        wrote = int(log.stat().st_mtime) if log.exists() else 0
        with open(log, 'ab') as output:
            output.write(f'\n{START} {int(time.time())} {wrote}\n{json.dumps(command)}\n'.encode())
            output.flush()
            code = call(command, output, environment(job, commands.train_py), lock)
        if code or finished(folder, epochs) is None:
            lines = log.read_text(errors='replace').strip().split('\n')
            raise Failed(f'{unit.name}, {job.name}: train.py ended with code {code}, see {log}: {lines[-1][:300]}')
    row = finished(folder, epochs) or {}
    return job.key | result(commands, job, command, samples, row, log)


def call(command: list[str], output: Any, env: dict[str, str], lock: int) -> int:
    """Run a command and return its exit status; a signal that ends this process ends the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(lock,), env=env)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()


def link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target) as path:
            shutil.copyfile(source, path)


def environment(job: Job, train_py: Path) -> dict[str, str]:
    """The environment of train.py."""
    more = {'TRAIN_PY': str(train_py)}
    if processes := job.settings.get('processes'):
        more['NPROC'] = str(processes)
    if job.settings.get('device') == 'cpu':
        more['OMP_NUM_THREADS'] = os.environ.get('OMP_NUM_THREADS', '1')
    return os.environ | more


def result(
    commands: Commands, job: Job, command: list[str], samples: int, row: dict[str, str], log: Path
) -> dict[str, Any]:
    """What a training came to, and how it came to be."""
    dataset = job.settings.get('dataset') or job.settings.get('data') or job.settings['config']
    words = ' '.join(command).replace(str(commands.work), 'WORK').replace(str(commands.work.parent), 'WORK')
    words = (
        words.replace(str(HERE) + '/', '').replace(sys.executable, 'python').replace(str(commands.train_py), 'train.py')
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
        finished=datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.timezone.utc).isoformat(
            timespec='seconds'
        ),
        hardware=hardware(job.settings),
        versions=versions(commands.train_py),
        command=words,
    )


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
