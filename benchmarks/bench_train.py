"""timm's unedited train.py: images per second with the device loader, against a fixed batch.

    python -m benchmarks.bench_train TIMM_SOURCE
    python -m benchmarks.bench_train TIMM_SOURCE --device cpu --model test_vit --img-size 64 --batch-size 32

TIMM_SOURCE is a checkout of timm's repository. Runs alternate, each train.py in a separate process with the paper's
settings; in one of them, timm's create_loader repeats the same batch. A wrapper of the loader records when train.py
requests a batch, after waiting for the last loss. The time that the host waits for batches is also printed; waits of
the GPU only show in the rate.
"""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Record

PAPER = (
    '--aa rand-m9-mstd0.5-inc1 --mixup 0.8 --cutmix 1.0 --smoothing 0.1 --vflip 0.5 --reprob 0.5 --remode pixel '
    '--color-jitter 0.4 --train-interpolation bicubic --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --opt adamw --lr 1e-3 '
    '--warmup-epochs 0 --epochs 1 --log-interval 1000 --num-classes 1000 --seed 0'
)
# The paper's schedule: 240,000 steps of 256 images.
SAMPLES = 240_000 * 256


class Watched:
    """Wraps a loader and records when batches are requested and returned."""

    def __init__(self, loader: Any, batches: int, fixed: bool) -> None:
        self.loader, self.batches, self.fixed = loader, batches, fixed
        self.asked: list[float] = []
        self.answered: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        batch = next(batches)
        for number in range(self.batches):
            self.asked.append(time.perf_counter())
            if number and not self.fixed:
                batch = next(batches)
            self.answered.append(time.perf_counter())
            yield batch


def child(script: str, arguments: list[str], batches: int, warm_up: int, fixed: bool) -> None:
    """Run train.py in this process, and print images per second and the fraction of time waiting for batches."""
    import timm.data

    create, watched = timm.data.create_loader, []

    def create_loader(dataset: Any, *args: Any, **options: Any) -> Any:
        loader = create(dataset, *args, **options)
        if not options.get('is_training'):
            return loader
        watched.append(Watched(loader, batches, fixed))
        return watched[0]

    timm.data.create_loader = create_loader
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name='__main__')
    (loader,) = watched
    took = loader.asked[-1] - loader.asked[warm_up]
    waited = sum(answered - asked for asked, answered in zip(loader.asked[warm_up:-1], loader.answered[warm_up:-1]))
    size = int(arguments[arguments.index('--batch-size') + 1])
    print(json.dumps(dict(rate=size * (batches - warm_up - 1) / took, waiting=waited / took)))


def run(script: Path, words: list[str], batches: int, warm_up: int, fixed: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        call = (
            f'import {__spec__.name} as bench; bench.child({str(script)!r}, {words!r}, {batches}, {warm_up}, {fixed})'
        )
        environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(Path.cwd()), str(script.parent)])}
        process = subprocess.run(
            [sys.executable, '-c', call], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    result: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('timm_source', type=Path)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--model', default='vit_tiny_patch16_224')
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--batch-size', type=int, default=1024)
    parser.add_argument('--batches', type=int, default=150)
    parser.add_argument('--warm-up', type=int, default=50)
    parser.add_argument('--rounds', type=int, default=3)
    modes = ['none', 'default', 'reduce-overhead']
    parser.add_argument('--compile', choices=modes, help='mode of torch.compile (default: none on the CPU)')
    args = parser.parse_args()
    cpu = args.device == 'cpu'
    mode = args.compile or ('none' if cpu else 'default')
    size = ['--img-size', str(args.img_size), '--model-kwargs', f'img_size={args.img_size}']
    words = [
        *PAPER.split(),
        *('--model', args.model, '--device', args.device, '--batch-size', str(args.batch_size)),
        *(size if args.img_size != 224 else []),
        # Enough passes over the classes for all batches; validation has few images.
        *('--dataset', 'fractal1/loader=device', '--val-split', 'validation', '--workers', '0'),
        *('--epoch-repeats', str(-(-(args.batches + 1) * args.batch_size // 1000))),
        *([] if cpu else ['--amp', '--amp-dtype', 'bfloat16']),
        *([] if mode == 'none' else ['--torchcompile', '--torchcompile-mode', mode]),
    ]
    script = args.timm_source.resolve() / 'train.py'
    rates: dict[bool, list[float]] = {False: [], True: []}
    where = 'CPU' if cpu else torch.cuda.get_device_name()
    with Record('bench_train', f'{args.model}, batches of {args.batch_size}, {where}') as say:
        for _ in range(args.rounds):
            for fixed in (True, False):
                result = run(script, words, args.batches, args.warm_up, fixed)
                rates[fixed].append(result['rate'])
                name = 'fixed batch' if fixed else 'device loader'
                text = f'{name:15} {result["rate"]:8.0f} images/s, {result["waiting"]:.1%} of the time waiting'
                say(text, what=name, **result)
        ratio = statistics.median(ours / same for ours, same in zip(rates[False], rates[True]))
        rate = statistics.median(rates[False])
        say(f'{ratio:.1%} of the rate with a fixed batch', ratio=ratio)
        say(f"The paper's {SAMPLES / 1e6:.0f} million images would take {SAMPLES / rate / 3600:.1f} hours")


if __name__ == '__main__':
    main()
