"""The console script ``timm-fractal``: parses arguments and prints. Heavy imports wait until a command needs them."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, Optional

from . import __version__
from .spec import parse_name

_EXAMPLES = """examples:
  timm-fractal preview fractal1/delta=0.05 -o fractals.png
  timm-fractal preview fractal1 --sweep delta -o delta.png
  timm-fractal export fractal1/classes=100 data/fractal100 --split all
  timm-fractal doctor

A data set name is a type, or type/option=value,option=value as in 'fractal1/delta=0.05,classes=21000,seed=3'.
"""

_PREVIEW_EXAMPLES = """examples:
  timm-fractal preview fractal1 -o fractals.png
  timm-fractal preview fractal1/sigma=4,seed=7 --count 64 --columns 16 --tile 96
  timm-fractal preview fractal1 --sweep delta --values 0.01,0.05,0.1,0.2,0.4
  timm-fractal preview fractal1 --sweep seed --values 0,1,2,3,4,5
  timm-fractal preview image1 --data-dir photo.jpg --sweep warp
"""

_EXPORT_EXAMPLES = """examples:
  timm-fractal export fractal1 data/fractal1 --split all
  timm-fractal export fractal1 fractal1-train.tar --params fractal1.json

An interrupted export is continued by the same command.
"""

_DOCTOR_EXAMPLES = """example:
  timm-fractal doctor

The exit code is 1 if a line says FAIL, else 0.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the console script.

    Args:
        argv: Arguments without the program's name, by default those of the process.

    Returns:
        Exit code: 0, or 1 for what the machine refuses (files, memory), 2 for what the user asked wrongly, 130 if
        interrupted.

    Example:
        >>> main(['preview', 'fractal2'])
        2
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if hasattr(args, 'name'):
            # Before torch is imported: a typo is answered at once.
            parse_name(args.name)
        code: int = args.run(args)
        return code
    except (ValueError, OSError, MemoryError) as error:
        print(f'timm-fractal {args.command}: {_message(error)}', file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        words = 'interrupted; the same command continues' if args.command == 'export' else 'interrupted'
        print(f'\ntimm-fractal {args.command}: {words}', file=sys.stderr)
        return 130


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'timm-fractal',
        description='Synthetic pre-training for timm: look at the data sets, write them as files, check the set-up.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for add in (_add_preview, _add_export, _add_doctor):
        add(commands)
    return parser


def _add_command(commands: Any, name: str, run: Callable[[Any], int], summary: str, epilog: str) -> Any:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + '.',
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_dataset(parser: Any) -> None:
    parser.add_argument('name', metavar='NAME', help="data set name, e.g. fractal1 or 'fractal1/delta=0.05'")
    parser.add_argument(
        '--data-dir',
        metavar='PATH',
        help='image, folder of images or file of parameters that the data set is made from',
    )


def _add_preview(commands: Any) -> None:
    parser = _add_command(commands, 'preview', _preview, 'draw a contact sheet of the classes', _PREVIEW_EXAMPLES)
    _add_dataset(parser)
    parser.add_argument('-o', '--output', metavar='FILE', default='fractals.png', help='PNG file (%(default)s)')
    parser.add_argument('--count', type=int, metavar='N', help='number of classes (32)')
    parser.add_argument('--columns', type=int, metavar='N', help='images in a row; in a sweep, of classes (8)')
    parser.add_argument('--split', default='train', choices=('train', 'validation'), help='split (%(default)s)')
    parser.add_argument('--tile', type=int, metavar='PX', default=128, help='size of an image (%(default)s)')
    parser.add_argument('--sweep', metavar='OPTION', help='one row per value of this option, e.g. delta or sigma')
    parser.add_argument('--values', metavar='V,V,...', help='values of the sweep; delta and sigma have defaults')


def _preview(args: Any) -> int:
    if args.sweep and args.count is not None:
        args.parser.error('--count has no meaning with --sweep: use --columns')
    if args.values and not args.sweep:
        args.parser.error('--values has no meaning without --sweep OPTION')
    from . import preview

    preview.check_output(args.output)
    options: dict[str, Any] = dict(split=args.split, tile=args.tile, data_dir=args.data_dir)
    if args.sweep:
        values = [value.strip() for value in args.values.split(',')] if args.values else None
        sheet = preview.sweep(
            args.name, args.sweep, values, columns=8 if args.columns is None else args.columns, **options
        )
    else:
        count = 32 if args.count is None else args.count
        sheet = preview.contact_sheet(args.name, count=count, columns=args.columns, **options)
    preview.save(sheet, args.output)
    print(f'{args.output}: {sheet.width} x {sheet.height} pixels')
    return 0


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, 'export', _export, 'write a data set as PNG files', _EXPORT_EXAMPLES)
    _add_dataset(parser)
    parser.add_argument('dest', metavar='DEST', help='folder, or a name that ends in .tar')
    parser.add_argument(
        '--split',
        default='train',
        choices=('train', 'validation', 'all'),
        help='split (%(default)s); all: folders only',
    )
    parser.add_argument('--params', metavar='FILE.json', help='save the parameters of the fractals here too')


def _export(args: Any) -> int:
    from .export import export

    results = export(args.name, args.dest, args.split, data_dir=args.data_dir, params=args.params)
    for done in results:
        print(f'{args.dest}: {done.images} {done.split} images of {done.classes} classes, {done.written} of them new')
    print(f'dataset: {results[0].dataset}')
    dest = Path(args.dest)
    if dest.is_file() or (dest / 'train').is_dir():
        # Asked for a split that is not there, timm would validate on what is.
        alone = " --val-split ''" if not (dest / 'validation').is_dir() else ''
        print(f'train with: --data-dir {shlex.quote(args.dest)} --num-classes {results[0].classes}{alone}')
    return 0


class Check(NamedTuple):
    """One line of ``timm-fractal doctor``."""

    status: str
    text: str
    advice: str = ''


def _add_doctor(commands: Any) -> None:
    _add_command(commands, 'doctor', _doctor, 'check the set-up', _DOCTOR_EXAMPLES)


def _doctor(args: Any) -> int:
    failed = False
    for examine in _CHECKS:
        try:
            for check in examine():
                print(f'{check.status:<5} {check.text}' + (f' -> {check.advice}' if check.advice else ''), flush=True)
                failed |= check.status == 'FAIL'
        except Exception as error:
            print(f'FAIL  {examine.__name__.strip("_").replace("_", " ")}: {_one_line(error)}', flush=True)
            failed = True
    return int(failed)


def _one_line(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


#: What is imported, by the name of its distribution.
_MODULES = {
    'torch': 'torch',
    'torchvision': 'torchvision',
    'timm': 'timm',
    'numpy': 'numpy',
    'numba': 'numba',
    'pillow': 'PIL',
}


def _versions() -> Iterator[Check]:
    yield Check('ok', f'timm-fractal {__version__}, python {sys.version.split()[0]}')
    oldest = _oldest_versions()
    for name, module in _MODULES.items():
        # Without numba the renderer falls back to torch.
        status = 'warn' if name == 'numba' else 'FAIL'
        try:
            import_module(module)
            version = metadata.version(name)
        except Exception as error:
            yield Check(status, f'{name} cannot be imported ({_one_line(error)})', f'pip install --upgrade {name}')
            continue
        wanted = oldest.get(name, '0')
        if _numbers(version) < _numbers(wanted):
            yield Check('FAIL', f'{name} {version} is older than {wanted}', f"pip install '{name}>={wanted}'")
        else:
            yield Check('ok', f'{name} {version}')


def _oldest_versions() -> dict[str, str]:
    """The versions that this package's own metadata ask for."""
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


_OTHER_DOOR = 'import timm_fractal in the script, or train.py --device-modules timm_fractal --dataset torch/fractal1'


def _autoload_obstacle() -> tuple[str, str]:
    """Why ``import torch`` does not load this package, and what to do; empty if it does."""
    if not any(point.name == 'timm_fractal' for point in metadata.entry_points(group='torch.backends')):
        return 'the entry point is not installed', 'pip install timm-fractal'
    switch = os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD', '1')
    if switch != '1':
        return f'TORCH_DEVICE_BACKEND_AUTOLOAD={switch}', f'unset it, or {_OTHER_DOOR}'
    if _numbers(metadata.version('torch')) < (2, 5):
        return 'torch is older than 2.5', _OTHER_DOOR
    return '', ''


def _autoload() -> Iterator[Check]:
    obstacle, advice = _autoload_obstacle()
    if obstacle:
        yield Check('warn', f'autoload is off: {obstacle}', advice)
    else:
        yield Check('ok', 'autoload is on: unedited scripts know the data sets')


_FRESH = (
    'from timm.data import create_dataset; '
    "print(len(create_dataset('fractal1/classes=2,size=32,points=500', split='train')))"
)


def _fresh_process() -> Iterator[Check]:
    # Away from the current folder, in which there may be another timm.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, '-c', _FRESH], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode == 0 and done.stdout.split()[-1:] == ['2']:
        yield Check('ok', 'timm knows fractal1 in a script that does not import timm_fractal')
        return
    last = done.stderr.strip().splitlines()[-1:] or ['no message']
    if _autoload_obstacle()[0]:
        yield Check('warn', 'timm does not know fractal1 by itself, since autoload is off', _OTHER_DOOR)
    else:
        yield Check('FAIL', f'timm does not know fractal1 in a fresh process ({last[0][:200]})', _OTHER_DOOR)


def _posterize() -> Iterator[Check]:
    from PIL import Image, ImageOps
    from timm.data.auto_augment import NAME_TO_OP

    image = Image.new('RGB', (2, 2), 'white')
    try:
        ImageOps.posterize(image, 0)
        reason = 'this Pillow needs no repair'
    except ValueError:
        reason = 'repaired for this Pillow'
    operations: dict[str, Any] = {name: op for name, op in NAME_TO_OP.items() if name.startswith('Posterize')}
    try:
        for operation in operations.values():
            operation(image, 0)
    except ValueError as error:
        yield Check('FAIL', f"RandAugment's posterize fails with 0 bits ({error})", "pip install 'pillow<13'")
    else:
        yield Check('ok', f"RandAugment's posterize takes 0 bits: {reason}")


def _numba_cache() -> Iterator[Check]:
    try:
        from ._kernel_numba import draw
    except ImportError:
        return  # Reported with the versions.
    folder = getattr(getattr(draw, 'stats', None), 'cache_path', None)
    if folder is None:
        advice = 'set NUMBA_CACHE_DIR to a folder that can be written to'
        yield Check('warn', 'no place for compiled code: every process compiles for some seconds', advice)
    else:
        yield Check('ok', f'compiled code is kept in {folder}')


def _speed() -> Iterator[Check]:
    import numpy as np

    from . import ifs
    from .datasets import Fractal1
    from .render import LANES, render

    # The first use compiles.
    dataset: Any = Fractal1(f'fractal1/classes={LANES},cache=none')
    family, spec = dataset.family, dataset.spec
    path = ifs.addresses(ifs.probabilities(family.bases[0]), spec.points)
    keys = np.zeros((LANES, 2), np.uint32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        render(family.systems, path, keys, spec.size, threads=1)
        times.append(1e3 * (time.perf_counter() - start) / LANES)
    each = sorted(times)[len(times) // 2]
    text = f'rendering takes {each:.1f} ms per image and core ({spec.size} x {spec.size}, {spec.points:,} points)'
    if each > 20:
        yield Check('warn', text, 'is numba installed, and is a core free?')
    else:
        yield Check('ok', text)


def _shared_memory() -> Iterator[Check]:
    folder = Path('/dev/shm')
    if not folder.is_dir():
        yield Check('ok', 'shared memory is not limited by /dev/shm')
        return
    free = shutil.disk_usage(folder).free / 1e6
    text = f'{free:,.0f} MB of shared memory free; a split of 1,000 classes takes 33 MB, of 21,000 690 MB, per rank'
    advice = 'docker run --shm-size=8g, or cache=none in the name of the data set'
    if free < 33:
        yield Check('FAIL', text, advice)
    elif free < 690:
        yield Check('warn', text, advice)
    else:
        yield Check('ok', text)


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _versions,
    _torchvision,
    _autoload,
    _fresh_process,
    _posterize,
    _numba_cache,
    _speed,
    _shared_memory,
)
