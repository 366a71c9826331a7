"""GPU benchmark: everything that needs a GPU, in at most ten minutes, most important first.

    python -m benchmarks.gpu TIMM_SOURCE --json gpu.jsonl
    python -m benchmarks.gpu TIMM_SOURCE --json dry-run.jsonl --device cpu

TIMM_SOURCE is a checkout of timm's repository. Each part, even one that fails, appends its figures to the file before
the next one starts. On the CPU, all sizes are reduced, to test that all parts run.

1. Versions, clocks, free memory.
2. The tests that need a GPU.
3. A mega-batch with the paper's recipe: host time, GPU time, and time per kernel.
4. The device loader, with two sizes of mega-batch.
5. The unedited train.py: the recipe, larger batches with compilation, and CUDA graphs, each against training on a fixed
   batch.
6. Peak memory.
7. A verdict for each goal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data import FastCollateMixup, create_dataset, create_loader

from benchmarks import record
from benchmarks.bench_train import SAMPLES
from benchmarks.record import Record
from benchmarks.timing import epoch_of, seconds
from tests.paper import LOADER, MIXUP

BATCH, CLASSES = 256, 1000
# Images per second with the full recipe, and fraction of the rate with a fixed batch.
GOAL_RATE, GOAL_PART = 100_000, 0.95
# Timeout of a part in seconds.
LIMIT = 150


class Shared:
    """Settings and results shared by all parts.

    Attributes:
        figures: Results for the verdict.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.script, self.json = args.timm_source.resolve(), args.json.resolve()
        self.device = torch.device(args.device)
        self.is_gpu = self.device.type == 'cuda'
        self.size = 224 if self.is_gpu else 32
        self.batch = BATCH if self.is_gpu else 16
        self.figures: dict[str, float] = {}

    def make_loader(self, samples: int) -> Any:
        options = f'classes={CLASSES}' if self.is_gpu else 'classes=16,size=64'
        dataset = create_dataset(f'fractal1/{options},loader=device', split='train', num_samples=samples)
        mixup = FastCollateMixup(**MIXUP, num_classes=dataset.num_classes)
        arguments = dict(LOADER, collate_fn=mixup, device=self.device, img_dtype=torch.bfloat16)
        return create_loader(dataset, (3, self.size, self.size), self.batch, **arguments)

    def synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def versions(shared: Shared, say: Record) -> None:
    from torch.utils.collect_env import get_pretty_env_info

    say(get_pretty_env_info(), what='environment')
    if shared.is_gpu:
        asked = 'name,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total,memory.free,driver_version'
        command = ['nvidia-smi', f'--query-gpu={asked}', '--format=csv']
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        say(run.stdout, what='clocks', csv=run.stdout)


def tests(shared: Shared, say: Record) -> None:
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', 'tests/test_device.py']
    command += ['tests/test_kernel_augment.py', 'tests/test_kernel_triton.py', '-m', 'gpu or not slow', '-n', '4']
    run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    last = run.stdout.strip().splitlines()[-1]
    say(last if not run.returncode else run.stdout[-4000:], what='tests', passed=run.returncode == 0, summary=last)
    shared.figures['tests'] = float(run.returncode == 0)


def mega_batch(shared: Shared, say: Record) -> None:
    loader = shared.make_loader(8 * shared.batch)
    loader.at_once = 8 * shared.batch
    generator = torch.Generator().manual_seed(0)

    def make() -> int:
        return sum(len(images) for images, _ in loader.make_batches(generator))

    for _ in range(3):
        make()
    shared.synchronize()
    host, gpu = [], []
    for _ in range(10):
        # With an empty queue, the host time does not depend on the GPU; the events measure the GPU time, unless the
        # host is slower.
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if shared.is_gpu else []
        for event in events[:1]:
            event.record()
        start = time.perf_counter()
        count = make()
        host.append((time.perf_counter() - start) / count * 1e6)
        for event in events[1:]:
            event.record()
        shared.synchronize()
        if events:
            gpu.append(events[0].elapsed_time(events[1]) / count * 1e3)
    for what, times in (('host', host), ('GPU including host', gpu)):
        if times:
            each = statistics.median(times)
            say(f'{what}: {each:.2f} us per image, median of {len(times)} mega-batches', what=what, microseconds=each)
    activities = [torch.profiler.ProfilerActivity.CUDA if shared.is_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        count = sum(make() for _ in range(5))
        shared.synchronize()
    total = 0.0
    rows = sorted(profile.key_averages(), key=_device_time, reverse=True)
    for row in rows[:20]:
        each = _device_time(row) / count
        total += each
        say(f'{each:8.3f} us per image  {row.key[:80]}', what='kernel', kernel=row.key[:80], microseconds=each)
    shared.figures['us of kernels'] = total
    say(f'{total:8.3f} us per image in all kernels: {1e6 / total:,.0f} images/s', what='kernels', microseconds=total)


def _device_time(row: Any) -> float:
    # The names in older versions of torch.
    found = getattr(row, 'self_device_time_total', None) or getattr(row, 'self_cuda_time_total', 0)
    return float(found or row.self_cpu_time_total)


def loader(shared: Shared, say: Record) -> None:
    for at_once in (2048, 512) if shared.is_gpu else (64, 16):
        made = shared.make_loader(100 * shared.batch * (10 if shared.is_gpu else 1) // 10)
        made.at_once = at_once
        times = [seconds(epoch_of(made), shared.synchronize) for _ in range(4)]
        # The first epoch is a warm-up.
        rate = shared.batch * len(made) / statistics.median(times[1:])
        text = f'device loader, {at_once} at once: {rate:,.0f} images/s'
        say(text, what='loader', at_once=at_once, images_per_s=rate)
        shared.figures['loader rate'] = max(rate, shared.figures.get('loader rate', 0.0))


def train(shared: Shared, say: Record) -> None:
    """Run each case in a separate process, with the minimum number of rounds for a ratio."""
    cases = {
        'recipe': ['--batch-size', '256', '--compile', 'none'],
        'batches of 1024, compiled': ['--batch-size', '1024', '--compile', 'default'],
        'batches of 1024, CUDA graphs': ['--batch-size', '1024', '--compile', 'reduce-overhead'],
    }
    if not shared.is_gpu:
        small = ['--device', 'cpu', '--model', 'test_vit', '--img-size', '64', '--batches', '6', '--warm-up', '2']
        cases = {'reduced': ['--batch-size', '8', '--compile', 'none', *small]}
    for name, words in cases.items():
        command = [sys.executable, '-m', 'benchmarks.bench_train', str(shared.script), '--rounds', '1', *words]
        environment = os.environ | {'BENCHMARKS_JSON': str(shared.json)}
        try:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
            if run.returncode:
                raise RuntimeError(run.stderr[-2000:])
        except Exception as error:
            say(f'{name}: {error!r}', what=f'train.py, {name}', error=repr(error))
            continue
        say(f'{name}:\n{run.stdout.rstrip()}')
        figures = json.loads(shared.json.read_text().splitlines()[-1])['figures']
        ratio = figures[-1]['ratio']
        rate = next(one['rate'] for one in figures if one['what'] == 'device loader')
        say(f'{name}: {rate:,.0f} images/s', what=f'train.py, {name}', images_per_s=rate, ratio=ratio)
        shared.figures['ratio'] = max(ratio, shared.figures.get('ratio', 0.0))
        shared.figures['train rate'] = max(rate, shared.figures.get('train rate', 0.0))


def memory(shared: Shared, say: Record) -> None:
    if not shared.is_gpu:
        say('no GPU: not measured')
        return
    torch.cuda.reset_peak_memory_stats(shared.device)
    before = torch.cuda.memory_allocated(shared.device)
    epoch_of(shared.make_loader(20 * BATCH))()
    shared.synchronize()
    peak = (torch.cuda.max_memory_allocated(shared.device) - before) / 2**20
    say(f'peak memory of the loader {peak:,.0f} MB, including prefetched batches', what='memory', megabytes=peak)


def verdict(shared: Shared, say: Record) -> None:
    figures = shared.figures
    rate, part, trained = (figures.get(name) for name in ('loader rate', 'ratio', 'train rate'))
    goals: list[tuple[str, float | None, Callable[[float], bool]]] = [
        ('GPU tests pass', figures.get('tests'), bool),
        (f'{GOAL_RATE:,} images/s from the loader', rate, lambda value: value >= GOAL_RATE),
        (f'{GOAL_PART:.0%} of the rate with a fixed batch', part, lambda value: value >= GOAL_PART),
    ]
    for goal, value, reached in goals:
        if value is None:
            say(f'not measured  {goal}', goal=goal, reached=None)
        else:
            text = 'reached     ' if reached(value) else 'not reached '
            say(f'{text}  {goal}: {value:,.3g}', goal=goal, reached=reached(value), value=value)
    if trained:
        hours = SAMPLES / trained / 3600
        say(f"{hours:.1f} hours for the paper's {SAMPLES / 1e6:.0f} million samples", goal='hours', value=hours)


PARTS = (versions, tests, mega_batch, loader, train, memory, verdict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('timm_source', type=Path)
    parser.add_argument('--json', type=Path, default=Path('gpu.jsonl'), help='file of JSON lines')
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--only', nargs='+', choices=[part.__name__ for part in PARTS])
    args = parser.parse_args()
    if not (args.timm_source / 'train.py').is_file():
        parser.error(f'timm_source must be a checkout of timm with a train.py, got {args.timm_source}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no GPU found; --device cpu runs with reduced sizes')
    record.FILE = args.json
    shared, failed = Shared(args), 0
    for part in PARTS:
        if args.only and part.__name__ not in args.only:
            continue
        start = time.perf_counter()
        with Record(f'gpu, {part.__name__}', f'-- {part.__name__}') as say:
            try:
                part(shared, say)
            except Exception as error:
                failed += 1
                say(f'failed: {error!r}', what='failure', error=repr(error))
            took = time.perf_counter() - start
            say(f'   {took:.0f} s', what='seconds', seconds=took)
    return min(failed, 1)


if __name__ == '__main__':
    raise SystemExit(main())
