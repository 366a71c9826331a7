"""Prints the figures of benchmarks, and appends them to a file of JSON lines."""

import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

#: The output file, with one line per run of a benchmark.
FILE = Path(os.environ.get('BENCHMARKS_JSON', 'benchmark-results.jsonl'))
PACKAGES = ('timm-fractal', 'timm', 'torch', 'numpy', 'numba', 'pillow')


def machine() -> dict[str, Any]:
    """Describe the machine."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        models = [line.partition(':')[2].strip() for line in info.read_text().splitlines() if 'model name' in line]
        cpu = models[0] if models else cpu
    return dict(
        cpu=cpu,
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.platform(terse=True),
        python=platform.python_version(),
    )


class Record:
    """Prints figures, and appends them to `FILE` when the benchmark ends.

    Args:
        benchmark: Its name.
        settings: Description of what is measured.
    """

    def __init__(self, benchmark: str, settings: str) -> None:
        self.content = dict(
            benchmark=benchmark,
            settings=settings,
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            machine=machine(),
            versions={name: metadata.version(name) for name in PACKAGES},
            figures=[],
        )
        print(settings, flush=True)

    def __call__(self, text: str, **figures: Any) -> None:
        """Print a line, and record its figures."""
        print(text, flush=True)
        if figures:
            self.content['figures'].append(figures)  # type: ignore[attr-defined]

    def __enter__(self) -> 'Record':
        return self

    def __exit__(self, *_: object) -> None:
        # Also if the benchmark failed, to keep the figures measured so far.
        with open(FILE, 'a+b') as file:
            # The last line may lack its newline, after a killed run or in an editor.
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b'\n':
                file.write(b'\n')
            file.write(json.dumps(self.content).encode() + b'\n')
