"""Checks of ``timm-fractal doctor``: each reports a fact and, if it is a problem, advice."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

from .._utils.messages import redacted
from .._version import __version__


class Check(NamedTuple):
    """One line of ``timm-fractal doctor``."""

    status: str
    text: str
    advice: str = ''


def run() -> Iterator[Check]:
    """Run all checks; one that raises an error counts as failed, and the others still run."""
    for examine in CHECKS:
        try:
            yield from examine()
        except Exception as error:
            yield Check('FAIL', f'{examine.__name__.strip("_").replace("_", " ")}: {_one_line(error)}')


def _one_line(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


def _judge(status: str, text: str, advice: str) -> Check:
    return Check(status, text, '' if status == 'ok' else advice)


def examine_dataset(name: str, data_dir: str | Path | None = None) -> Iterator[Check]:
    """Check whether the classes of a data set are separable, and suggest changes.

    Args:
        name: Data set name.
        data_dir: ``--data-dir`` of a training script.

    Raises:
        ValueError: The data set cannot be created.
    """
    from ..data import formula, ranking, separability
    from ..spec import Formula, parse_name

    spec = parse_name(name)
    found = separability.measure(separability.first_classes(spec, data_dir), data_dir)
    k, fill = found.emptiest
    yield Check('ok', f'{spec}: {found.fill:.1%} of the pixels are not black ({fill:.1%} in class {k}, the emptiest)')
    if ranking.can_measure(spec, data_dir):
        score = ranking.measure(spec, data_dir).score
        advice = '' if score > 0 else f'rank others with timm-fractal doctor --dataset {spec} --seeds 0:100'
        yield Check('ok', f'the fractal has a score of {score:+.1f}: {ranking.EVIDENCE}', advice)
    count = min(separability.CLASSES, spec.num_classes)
    classes = f'the first {count} of {spec.num_classes:,}' if count < spec.num_classes else f'{count}'
    text = f'{classes} classes: {found}'
    if spec.random_position:
        yield Check('ok', f'{text}; not meaningful here, as instances are at random positions')
    elif found.confused <= separability.LIMIT and found.nearest >= separability.FEWEST:
        yield Check('ok', text)
    else:
        change = separability.suggest_options(spec, data_dir)
        nothing = f'another data set: none of the options tried helps ({separability.suggestions(spec, data_dir)})'
        yield Check('warn', text, f'use {change or nothing}')
    if isinstance(spec, Formula):
        for fact, advice in formula.examine(spec):
            yield Check('warn' if advice else 'ok', fact, advice)


#: Number of best seeds to show.
BEST = 10


def rank_seeds(name: str, seeds: range) -> Iterator[str]:
    """Rank the base fractals of several seeds by a score that correlates with transfer.

    Args:
        name: Name of a data set with one base fractal; its seed is included.
        seeds: Seeds to compare.

    Yields:
        The lines of a table, best first, and how reliable the score is.

    Raises:
        ValueError: The data set does not have exactly one base fractal.
    """
    from .._utils.console import progress_bar
    from ..data import ranking
    from ..spec import parse_name

    spec: Any = parse_name(name)
    if not ranking.can_measure(spec):
        raise ValueError(f'--seeds ranks data sets with one base fractal, such as fractal1, got {spec}')
    wanted = sorted({*seeds, spec.seed})
    with progress_bar('measuring fractals', len(wanted), 'fractal') as bar:
        measured = {}
        for seed, quality in ranking.rank(spec, wanted):
            bar.update()
            measured[seed] = quality
    found = {seed: quality for seed, quality in measured.items() if quality is not None}
    none = [seed for seed in measured if seed not in found]
    order = sorted(found, key=lambda seed: -found[seed].score)
    yield f'{"seed":>10} {"score":>6} {"overlap":>8} {"contrast":>9}'
    for seed in [*order[:BEST], *order[BEST:][-1:]]:
        quality = found[seed]
        yield f'{seed:>10} {quality.score:>+6.1f} {quality.overlap:>8.2f} {quality.contrast:>9.3f}'
    if spec.seed in found:
        yield f'seed={spec.seed} of {spec} ranks {order.index(spec.seed) + 1} of {len(order)}'
    if none:
        yield f'no fractal found for {len(none)} of the seeds: {", ".join(map(str, none[:10]))}'
    yield ranking.EVIDENCE


def _versions() -> Iterator[Check]:
    yield Check('ok', f'timm-fractal {__version__}, python {sys.version.split()[0]}')
    oldest = _oldest_versions()
    for name in ('torch', 'torchvision', 'timm', 'numpy', 'numba', 'pillow'):
        try:
            import_module('PIL' if name == 'pillow' else name)
            version = metadata.version(name)
        except Exception as error:
            # Without numba the renderer falls back to torch.
            status = 'warn' if name == 'numba' else 'FAIL'
            yield Check(status, f'{name} cannot be imported ({_one_line(error)})', f'pip install --upgrade {name}')
            continue
        wanted = oldest.get(name, '0')
        if _numbers(version) < _numbers(wanted):
            yield Check('FAIL', f'{name} {version} is older than {wanted}', f"pip install '{name}>={wanted}'")
        else:
            yield Check('ok', f'{name} {version}')


def _oldest_versions() -> dict[str, str]:
    try:
        requirements = metadata.requires('timm-fractal') or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r'([\w.-]+)\s*>=\s*([\d.]+)', text) for text in requirements if 'extra' not in text)
    return {match[1].lower(): match[2] for match in found if match}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r'\d+', version.split('+')[0])[:3])


def _torchvision() -> Iterator[Check]:
    advice = 'install torch and torchvision together, from the same index: pip install --upgrade torch torchvision'
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        yield Check('FAIL', f'torchvision does not match torch ({_one_line(error)})', advice)
    else:
        yield Check('ok', 'torchvision matches torch')


_ALTERNATIVE = 'import timm_fractal in the script, or train.py --device-modules timm_fractal --dataset torch/fractal1'


def _autoload_obstacle() -> tuple[str, str]:
    """Return why ``import torch`` does not load this package, and advice; both empty if it does."""
    if not any(point.name == 'timm_fractal' for point in metadata.entry_points(group='torch.backends')):
        return 'the entry point is not installed', 'pip install timm-fractal'
    switch = os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD', '1')
    if switch != '1':
        return f'TORCH_DEVICE_BACKEND_AUTOLOAD={switch}', f'unset it, or {_ALTERNATIVE}'
    if _numbers(metadata.version('torch')) < (2, 5):
        return 'torch is older than 2.5', _ALTERNATIVE
    return '', ''


def _autoload() -> Iterator[Check]:
    obstacle, advice = _autoload_obstacle()
    if obstacle:
        yield Check('warn', f'autoload is off: {obstacle}', advice)
    else:
        yield Check('ok', 'autoload is on: the data sets work in unedited scripts')


_FRESH = """
from timm.data import create_dataset
print(len(create_dataset('fractal1/classes=2,size=32,points=500', split='train')))
"""


def _timm_internals() -> Iterator[Check]:
    import timm

    from .. import _timm_private
    from ..plugin import augment, data, models

    names = [*_timm_private.READ, *augment.PATCHED, *data.PATCHED, *models.PATCHED]
    missing = []
    for name in names:
        try:
            _timm_private.find(name)
        except _timm_private.UnknownTimm:
            missing.append(name)
    if missing:
        text = f'timm {timm.__version__} lacks {", ".join(missing)}: features that need them raise an error'
        yield Check('FAIL', text, f'install a tested version: {", ".join(_timm_private.CHECKED)}')
    else:
        yield Check('ok', f'timm has all {len(names)} internal names used')


def _fresh_process() -> Iterator[Check]:
    # Not in the current folder, which may contain another timm.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, '-c', _FRESH], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode == 0 and done.stdout.split()[-1:] == ['2']:
        yield Check('ok', 'timm finds fractal1 in a script that does not import timm_fractal')
        return
    last = done.stderr.strip().splitlines()[-1:] or ['no message']
    if _autoload_obstacle()[0]:
        yield Check('warn', 'timm does not find fractal1 by itself, since autoload is off', _ALTERNATIVE)
    else:
        yield Check('FAIL', f'timm does not find fractal1 in a new process ({last[0][:200]})', _ALTERNATIVE)


def _posterize() -> Iterator[Check]:
    from PIL import Image, ImageOps
    from timm.data.auto_augment import NAME_TO_OP

    image = Image.new('RGB', (2, 2), 'white')
    try:
        ImageOps.posterize(image, 0)
        reason = 'no fix needed for this Pillow'
    except ValueError:
        reason = 'fixed for this Pillow'
    operations: dict[str, Any] = NAME_TO_OP
    try:
        for name, operation in operations.items():
            if name.startswith('Posterize'):
                operation(image, 0)
    except ValueError as error:
        yield Check('FAIL', f"RandAugment's posterize fails with 0 bits ({error})", "pip install 'pillow<13'")
    else:
        yield Check('ok', f"RandAugment's posterize accepts 0 bits: {reason}")


def _numba_cache() -> Iterator[Check]:
    try:
        from ..fractal.render_numba import render_lanes
    except Exception as error:
        yield Check('warn', f'numba cannot be used ({error!r}): torch renders, which is slower', 'reinstall numba')
        return
    folder = getattr(getattr(render_lanes, 'stats', None), 'cache_path', None)
    if folder is None:
        text = "numba's cache directory is not writable: every process spends a few seconds compiling"
        yield Check('warn', text, 'set NUMBA_CACHE_DIR to a writable folder')
    else:
        yield Check('ok', f'compiled code is cached in {folder}')


def _speed() -> Iterator[Check]:
    import numpy as np

    from ..data.fractals import Fractal1
    from ..fractal import ifs
    from ..fractal.render import LANES, render

    # This compiles the kernels.
    dataset: Any = Fractal1(f'fractal1/classes={LANES},cache=none')
    codes, spec = dataset.codes, dataset.spec
    path = ifs.addresses(ifs.probabilities(codes.bases[0]), spec.points)
    keys = np.zeros((LANES, 2), np.uint32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        render(codes.systems, path, keys, spec.size, threads=1)
        times.append(1e3 * (time.perf_counter() - start) / LANES)
    each = statistics.median(times)
    text = f'rendering takes {each:.1f} ms per image and core ({spec.size} x {spec.size}, {spec.points:,} points)'
    yield _judge('warn' if each > 20 else 'ok', text, 'check that numba is installed and the machine is idle')


def _shared_memory() -> Iterator[Check]:
    folder = Path('/dev/shm')
    if not folder.is_dir():
        yield Check('ok', 'shared memory is not limited by /dev/shm')
        return
    free = shutil.disk_usage(folder).free / 1e6
    text = f'{free:,.0f} MB of shared memory free; 1,000 classes take 33 MB per split and rank, 21,000 690 MB'
    status = 'FAIL' if free < 33 else 'warn' if free < 690 else 'ok'
    yield _judge(status, text, 'docker run --shm-size=8g, or add cache=none to the data set name')


def types() -> Iterator[Check]:
    from ..spec import SPECS

    found, problems = SPECS.load_all()
    for name in found.keys() - SPECS.built_in.keys():
        yield Check('ok', f'data set {name} from {found[name].__module__}')
    for problem in problems:
        yield Check('warn', ' '.join(problem.split())[:300], 'fix or uninstall that package; the other data sets work')


def _weights() -> Iterator[Check]:
    from ..hub import manifest as weights

    entries = weights.manifest().values()
    embedded = [entry for entry in entries if entry.file]
    for entry in embedded:
        weights.check_file(weights.MANIFEST.parent / str(entry.file), entry)
    text = f'pre-trained weights: {len(entries)}, of which {len(embedded)} are installed with the package and intact'
    source = os.environ.get(weights.SOURCE)
    if source and not weights.is_address(source) and not Path(source).expanduser().is_dir():
        words = f'{weights.SOURCE}={redacted(source)} is not a folder'
        yield Check('FAIL', words, f'unset {weights.SOURCE}, or set it to a folder or URL')
    yield Check('ok', text + (f'; {weights.SOURCE}={redacted(source)} is searched first' if source else ''))


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _versions,
    _torchvision,
    _autoload,
    _timm_internals,
    _fresh_process,
    _posterize,
    _numba_cache,
    _speed,
    _shared_memory,
    types,
    _weights,
)
