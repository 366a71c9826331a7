"""Runs one training of a sweep with train.py, and writes the result with its provenance as a line of JSON."""

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
    """train.py failed."""


def train(commands: Commands, unit: Unit, job: Job) -> None:
    """Run a training, resuming from its last checkpoint if any; write its result, and weights for fine-tuning."""
    folder = commands.folder(unit, job)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        # train.py inherits the lock, which is held as long as it runs, even after kill -9 of all other processes.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{unit.name}, {job.name}: still running from an earlier run; waiting', flush=True)
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
    """Run train.py unless it has already finished; return the result."""
    command, samples, epochs = commands.of(unit, job)
    folder = commands.folder(unit, job)
    log = folder / 'log.txt'
    # A finished pre-training runs again if its weights were deleted.
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
    """Run a command and return its exit status; SIGTERM to this process also terminates the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(lock,), env=env)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target) as path:
            shutil.copyfile(source, path)


def environment(job: Job, train_py: Path) -> dict[str, str]:
    """Return the environment variables of train.py."""
    more = {'TRAIN_PY': str(train_py)}
    if processes := job.settings.get('processes'):
        more['NPROC'] = str(processes)
    if job.settings.get('device') == 'cpu':
        more['OMP_NUM_THREADS'] = os.environ.get('OMP_NUM_THREADS', '1')
    return os.environ | more


def result(
    commands: Commands, job: Job, command: list[str], samples: int, row: dict[str, str], log: Path
) -> dict[str, Any]:
    """Return the result of a training and its provenance."""
    dataset = job.settings.get('dataset') or job.settings.get('data') or job.settings['config']
    words = ' '.join(command)
    places = {commands.work: 'WORK', commands.work.parent: 'WORK', f'{HERE}/': '', sys.executable: 'python'}
    for place, name in {**places, commands.train_py: 'train.py'}.items():
        words = words.replace(str(place), name)
    words = re.sub(r' --(data-dir|resume) \S*/', lambda m: f' --{m[1]} ', words)
    numbers: dict[str, Any] = {
        key: round(float(row[key]), 4) for key in ('train_loss', 'eval_top1', 'eval_loss') if row.get(key)
    }
    if len(points := curve(log.parent / 'summary.csv')) > 1:
        numbers['curve'] = points
    finished_at = datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.timezone.utc)
    return dict(
        dataset=canonical(dataset),
        samples=samples,
        train_seed=job.seed,
        **numbers,
        seconds=seconds(log),
        finished=finished_at.isoformat(timespec='seconds'),
        hardware=hardware(job.settings),
        versions=versions(commands.train_py),
        command=words,
    )


def epochs_of(summary: Path) -> list[dict[str, str]]:
    """Return the rows of a summary.csv in order; after resuming, an epoch may occur twice."""
    header: list[str] = []
    rows = []
    for row in csv.reader(summary.read_text().splitlines()):
        if row and row[0] == 'epoch':  # A resumed run writes the header again.
            header = row
        else:
            rows.append(dict(zip(header, row, strict=False)))
    return rows


def curve(summary: Path) -> list[tuple[int, float]]:
    """Return the top-1 on the test images after each epoch."""
    rows = epochs_of(summary) if summary.exists() else []
    found = {int(row['epoch']) + 1: round(float(row['eval_top1']), 4) for row in rows if row.get('eval_top1')}
    return sorted(found.items())


def checkpoint(folder: Path) -> Path | None:
    """Return the last complete checkpoint in the folder of a training.

    timm removes ``last.pth.tar`` before it renames the new one; if killed in between, only a numbered one exists.
    """
    numbered = sorted(folder.glob('checkpoint-*.pth.tar'), key=lambda path: int(path.name[11:-8]))
    return next((path for path in (folder / 'last.pth.tar', *reversed(numbered)) if path.exists()), None)


def finished(folder: Path, epochs: int) -> dict[str, str] | None:
    """Return the last row of summary.csv of a finished training, else None."""
    log, summary = folder / 'log.txt', folder / 'summary.csv'
    if not log.exists() or not summary.exists():
        return None
    if '--result' not in log.read_text(errors='replace').rpartition(START)[2].split('\n'):
        return None
    last = (epochs_of(summary) or [{}])[-1]
    return last if last.get('epoch') == str(epochs - 1) else None


def seconds(log: Path) -> int:
    """Return the total time of all attempts of a training; each ends with its last output."""
    starts = re.findall(rf'{re.escape(START)} (\d+) (\d+)', log.read_text(errors='replace'))
    begins = [int(begin) for begin, _ in starts]
    ends = [int(end) for _, end in starts[1:]] + [int(log.stat().st_mtime)]
    return sum(end - begin for begin, end in zip(begins, ends, strict=True))


def hardware(settings: dict[str, Any]) -> str:
    """Describe the hardware of a training."""
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
    """Return the versions of dependencies; timm's is that of the package beside train.py, if any."""
    timm = train_py.parent / 'timm' / 'version.py'
    found = re.search(r"__version__ = '(.*)'", timm.read_text()) if timm.exists() else None
    packages = {name: importlib.metadata.version(name) for name in ('torch', 'timm', 'pillow')}
    if found:
        packages['timm'] = found[1]
    return packages | {'timm_fractal': timm_fractal.__version__, 'python': platform.python_version()}
