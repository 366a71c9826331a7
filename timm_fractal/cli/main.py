"""The console script ``timm-fractal``: parses arguments and prints. Commands import what they need."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._utils.messages import escape_unencodable, install_extra
from .._version import __version__
from ..spec import parse_name

_EXAMPLES = """examples:
  timm-fractal preview fractal1/delta=0.05 -o fractals.png
  timm-fractal preview fractal1 --sweep delta -o delta.png
  timm-fractal explore
  timm-fractal export fractal1/classes=100 data/fractal100 --split all
  timm-fractal export-weights output/train/fractal/last.pth.tar my_model
  timm-fractal publish my_model --repo-id me/my_model
  timm-fractal doctor

A data set name is a type, or type/option=value,option=value, for example
'fractal1/delta=0.05,classes=21000,seed=3'.
"""

_PREVIEW_EXAMPLES = """examples:
  timm-fractal preview fractal1 -o fractals.png
  timm-fractal preview fractal1/sigma=4,seed=7 --count 64 --columns 16 --tile 96
  timm-fractal preview fractal1 --sweep delta --values 0.01,0.05,0.1,0.2,0.4
  timm-fractal preview fractal1 --sweep seed --values 0,1,2,3,4,5
  timm-fractal preview image1 --data-dir photo.jpg --sweep warp
  timm-fractal preview fractal1 --sweep delta --count 24 -o delta.gif
  timm-fractal preview --weights test_vit.fractal1_1k -o weights.png
"""

_EXPLORE_EXAMPLES = f"""examples:
  timm-fractal explore
  timm-fractal explore fractal1/delta=0.05,seed=3 --port 8000
  timm-fractal explore image1 --data-dir photo.jpg

It needs Gradio:
{install_extra('explore')}.
Only this machine can reach the page, unless --host or GRADIO_SERVER_NAME is
set.
"""

_EXPORT_EXAMPLES = """examples:
  timm-fractal export fractal1 data/fractal1 --split all
  timm-fractal export fractal1 fractal1-train.tar --params fractal1.json
  timm-fractal export fractaldb data/fractaldb --split all --shards 64
  timm-fractal export fractaldb data/fractaldb --split all --shard 0/64

To resume an interrupted export, run the same command again.
"""

_EXPORT_WEIGHTS_EXAMPLES = """examples:
  timm-fractal export-weights last.pth.tar my_model --tag fractal1_1k
  timm-fractal export-weights last.pth.tar --tag mine --label-names images/train
  timm-fractal export-weights last.pth.tar my_model --result accuracy=91.5
  timm-fractal export-weights last.pth.tar my_model --manifest my/manifest.json

Load it with timm.create_model('local-dir:my_model', pretrained=True).
"""

_CONVERT_EXAMPLES = """example:
  timm-fractal convert vit_tiny_with_1p-frac.pth my_model --tag 1pfrac_1k

The file is read as data; files that contain code are refused.
"""

_PUBLISH_EXAMPLES = """examples:
  timm-fractal publish my_model --repo-id me/my_model --dry-run
  timm-fractal publish my_model --repo-id me/my_model --private

The token comes from `hf auth login` or HF_TOKEN. To complete an interrupted
upload, run the same command again.
"""

# Lines of the model card that a dry run shows.
_CARD_LINES = 12

_DOCTOR_EXAMPLES = """examples:
  timm-fractal doctor
  timm-fractal doctor --dataset fractal1/delta=0.01
  timm-fractal doctor --data-dir my_images
  timm-fractal doctor --dataset fractal1/sigma=4 --seeds 0:100

The exit code is 1 if a line starts with FAIL, else 0.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script.

    Args:
        argv: Arguments without the program name, by default those of the process.

    Returns:
        Exit code: 0 for success, 1 for errors of the system (files, memory), 2 for invalid input, 130 if interrupted.

    Examples:
        >>> main(['preview', 'fractal2'])
        2
    """
    escape_unencodable()
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        # Before torch is imported, so that a typo is reported immediately.
        if hasattr(args, 'name'):
            _check_name(args.name)
        if hasattr(args, 'path'):
            os.stat(args.path)
        return int(args.run(args))
    except (ValueError, ImportError, OSError, MemoryError, RuntimeError) as error:
        _print(f'timm-fractal {args.command}: {_message(error)}', file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        _print(f'\ntimm-fractal {args.command}: interrupted; run the same command again to continue', file=sys.stderr)
        return 130


def _check_name(name: str) -> None:
    try:
        parse_name(name)
    except ValueError as error:
        hint = f'; {name} is a path: give it with --data-dir' if os.path.exists(name) else ''
        raise ValueError(f'{error}{hint}') from None


def _print(*words: str, file: Any = None, sep: str = ' ') -> None:
    """Print; ignore errors of a closed or full stream."""
    stream = file or sys.stdout
    try:
        print(*words, file=stream, sep=sep, flush=True)
    except (AttributeError, OSError, ValueError):
        # Otherwise, the interpreter flushes it at exit and fails with a different exit code.
        if stream is sys.stdout:
            sys.stdout = open(os.devnull, 'w')


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    return str(error)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'timm-fractal',
        description='Synthetic pre-training for timm: view data sets, export files, publish weights.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for add in (_add_preview, _add_explore, _add_export, _add_export_weights, _add_convert, _add_publish, _add_doctor):
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


def _given(args: Any, *names: str) -> dict[str, Any]:
    """Return the options that were given, so that the called function's defaults apply to others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _add_dataset(parser: Any, default: str | None = None) -> None:
    words = "data set name, e.g. fractal1 or 'fractal1/delta=0.05'"
    parser.add_argument('name', metavar='NAME', nargs='?' if default else None, default=default, help=words)
    words = 'files that the data set is made from: image, folder of images, CSV files of IFS codes, or parameter file'
    parser.add_argument('--data-dir', metavar='PATH', help=words)


def _add_preview(commands: Any) -> None:
    parser = _add_command(commands, 'preview', _preview, 'render a contact sheet of the classes', _PREVIEW_EXAMPLES)
    _add_dataset(parser, default='fractal1')
    add = parser.add_argument
    words = 'show filters and attention of these weights, on the first class of the data set'
    add('--weights', metavar='NAME', help=words)
    words = 'PNG file, or GIF with --sweep (%(default)s)'
    add('-o', '--output', metavar='FILE', default='fractals.png', help=words)
    add('--count', type=int, metavar='N', help='number of classes (32)')
    add('--columns', type=int, metavar='N', help='images per row; in a sweep, classes (8)')
    add('--split', default='train', choices=('train', 'validation'), help='split (%(default)s)')
    add('--tile', type=int, metavar='PX', help='size of an image (128; with --weights 64)')
    add('--sweep', metavar='OPTION', help='one row, or frame, per value of an option, e.g. delta')
    words = 'values of the sweep; delta, sigma and options with words as values have defaults'
    add('--values', metavar='V,V,...', help=words)


def _preview(args: Any) -> int:
    from . import preview

    animated = preview.is_animation(args.output)
    if animated and not args.sweep:
        args.parser.error('a .gif file needs --sweep OPTION: one frame per value')
    if args.sweep and args.count is not None and not animated:
        args.parser.error('--count cannot be combined with --sweep, except in a .gif file: use --columns')
    if args.values and not args.sweep:
        args.parser.error('--values needs --sweep OPTION')
    if args.weights and (args.sweep or args.count is not None or args.split != 'train'):
        args.parser.error('--sweep, --count and --split cannot be combined with --weights')
    values = [value.strip() for value in args.values.split(',')] if args.values else None
    if values and not all(values):
        args.parser.error(f'--values must be separated by single commas, got {args.values!r}')
    preview.check_output(args.output)
    given = _given(args, 'columns', 'tile', 'data_dir')
    if args.weights:
        from ..explore.weights import weights_sheet

        frames = [weights_sheet(args.weights, args.name, **given)]
    else:
        from ..explore import sheets

        given |= _given(args, 'split')
        if animated:
            frames = sheets.animate(args.name, args.sweep, values, **given, **_given(args, 'count'))
        elif args.sweep:
            frames = [sheets.sweep(args.name, args.sweep, values, **given)]
        else:
            frames = [sheets.contact_sheet(args.name, **given, **_given(args, 'count'))]
    preview.save(frames, args.output)
    _print(f'{args.output}: {frames[0].width} x {frames[0].height} pixels')
    return 0


def _add_explore(commands: Any) -> None:
    summary = 'open a web page to explore the data sets'
    parser = _add_command(commands, 'explore', _explore, summary, _EXPLORE_EXAMPLES)
    _add_dataset(parser, default='fractal1')
    parser.add_argument('--host', metavar='ADDRESS', help='address to listen on (GRADIO_SERVER_NAME, else 127.0.0.1)')
    words = 'port (GRADIO_SERVER_PORT, else the first free one from 7860)'
    parser.add_argument('--port', type=int, metavar='N', help=words)


def _explore(args: Any) -> int:
    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f'--port must be from 1 to 65535, got {args.port}')
    from ..explore.page import launch

    launch(args.name, args.data_dir, args.host, args.port)
    return 0


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, 'export', _export, 'write a data set as PNG files', _EXPORT_EXAMPLES)
    _add_dataset(parser)
    parser.add_argument('dest', metavar='DEST', help='folder, or .tar file')
    splits, words = ('train', 'validation', 'all'), 'split (%(default)s); all: folders only'
    parser.add_argument('--split', default='train', choices=splits, help=words)
    shards = parser.add_mutually_exclusive_group()
    shards.add_argument('--shards', type=int, metavar='N', help='write N WebDataset shards into the folder DEST')
    words = 'write only shard I of N, from 0/N: one task of a job array'
    shards.add_argument('--shard', type=_parse_shard, metavar='I/N', help=words)
    parser.add_argument('--params', metavar='FILE.json', help='also save the IFS codes to this file')


def _parse_shard(text: str) -> tuple[int, int]:
    try:
        shard, shards = map(int, text.split('/'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be I/N, as in 0/64, got {text!r}') from None
    return shard, shards


def _export(args: Any) -> int:
    from .export_images import export_images

    shard, shards = args.shard or (None, args.shards)
    options = dict(data_dir=args.data_dir, params=args.params, shards=shards, shard=shard)
    results = export_images(args.name, args.dest, args.split, **options)
    for done in results:
        _print(f'{args.dest}: {done.images} {done.split} images of {done.classes} classes, {done.written} new')
    _print(f'dataset: {results[0].dataset}')
    dest = Path(args.dest)
    pattern, kind = ('{}-*.tar', '--dataset wds/ ') if shards else ('{}', '')
    train, validation = (any(dest.glob(pattern.format(split))) for split in ('train', 'validation'))
    if dest.is_file() or (train and shard is None):
        # Without this, timm would validate on the split that exists.
        alone = " --val-split ''" if not validation else ''
        _print(f'train with: {kind}--data-dir {shlex.quote(args.dest)} --num-classes {results[0].classes}{alone}')
    return 0


_WEIGHTS = ('head', 'tag', 'license', 'results')


def _add_weights(parser: Any, kind: str) -> None:
    add = parser.add_argument
    add('path', metavar=kind, help='file with the weights')
    add('dest', metavar='DEST', nargs='?', help='folder (ARCHITECTURE.TAG)')
    add('--tag', help='name after ARCHITECTURE. (default: from the data set or the file)')
    head = parser.add_mutually_exclusive_group()
    head.add_argument('--head', action='store_true', default=True, help='keep the head (default)')
    head.add_argument('--no-head', dest='head', action='store_false', help='drop the head')
    add('--license', metavar='SPDX', help='license of the weights, e.g. apache-2.0 (unknown)')
    words = 'a result for the model card; repeatable'
    add('--result', dest='results', metavar='NAME=VALUE', action='append', help=words)
    add('--manifest', metavar='FILE.json', help='add the weights to this manifest and its folder')


def _finish_weights(args: Any, folder: Path) -> int:
    from ..hub import entry_of
    from ..hub import manifest as weights

    _print(f"{folder}: load with timm.create_model('local-dir:{folder}', pretrained=True)")
    if not args.license:
        _print('license: unknown; set it with --license, for example --license apache-2.0')
    if args.manifest:
        entry = entry_of(folder, file=weights.HUB_FILE)
        weights.add(entry, folder / weights.HUB_FILE, args.manifest)
        _print(f'{args.manifest}: {entry.name}, {entry.size:,} bytes, sha256 {entry.sha256}')
    return 0


def _add_export_weights(commands: Any) -> None:
    summary = 'export a checkpoint of train.py as a folder that timm loads'
    parser = _add_command(commands, 'export-weights', _export_weights, summary, _EXPORT_WEIGHTS_EXAMPLES)
    _add_weights(parser, 'CHECKPOINT')
    ema = parser.add_mutually_exclusive_group()
    words = 'export the EMA weights (default if there are any)'
    ema.add_argument('--use-ema', action='store_true', default=None, help=words)
    ema.add_argument('--no-ema', dest='use_ema', action='store_false', help='export the weights without EMA')
    parser.add_argument('--recipe', metavar='TEXT', help='training recipe, for the model card')
    parser.add_argument('--hardware', metavar='TEXT', help='training hardware, for the model card')
    parser.add_argument('--curves', metavar='PNG', help='image of accuracy curves, for the model card')
    words = 'names of the classes: my_images/train, or a file with a name per line'
    parser.add_argument('--label-names', metavar='PATH', help=words)
    parser.add_argument('--dtype', help='float16 or bfloat16 halve the size (default: as trained)')


def _export_weights(args: Any) -> int:
    from ..hub import export_weights

    options = _given(args, *_WEIGHTS, 'use_ema', 'recipe', 'hardware', 'dtype', 'curves', 'label_names')
    return _finish_weights(args, export_weights(args.path, args.dest, **options))


def _add_convert(commands: Any) -> None:
    summary = "convert an authors' checkpoint into a folder that timm loads"
    _add_weights(_add_command(commands, 'convert', _convert, summary, _CONVERT_EXAMPLES), 'FILE')


def _convert(args: Any) -> int:
    from ..hub import convert

    return _finish_weights(args, convert(args.path, args.dest, **_given(args, *_WEIGHTS)))


def _add_publish(commands: Any) -> None:
    summary = 'upload a folder written by export-weights or convert to the Hub'
    parser = _add_command(commands, 'publish', _publish, summary, _PUBLISH_EXAMPLES)
    add = parser.add_argument
    add('folder', metavar='DIR', help='folder written by export-weights or convert')
    add('--repo-id', metavar='OWNER/NAME', required=True, help='repository; created if necessary')
    add('--private', action='store_true', help='create a private repository')
    add('--create-pr', action='store_true', help='open a pull request instead of committing')
    add('--revision', metavar='BRANCH', help='branch to commit to (main); created if necessary')
    add('--dry-run', action='store_true', help='check everything, upload nothing')
    add('--manifest', action='store_true', help='also print an entry for a manifest of weights')


def _publish(args: Any) -> int:
    from ..hub import FILES, publish

    done = publish(args.folder, args.repo_id, **_given(args, 'private', 'create_pr', 'revision', 'dry_run'))
    if args.dry_run:
        _print(f'{args.folder}: complete; not uploaded to {args.repo_id}')
        for path in (path for path in (Path(args.folder, file) for file in FILES) if path.exists()):
            _print(f'{path.stat().st_size:>13,} bytes  {path.name}')
        path = Path(args.folder, 'README.md')
        lines = path.read_text(encoding='utf-8').splitlines()
        _print(*lines[:_CARD_LINES], f'... ({len(lines)} lines, all in {path})', sep='\n')
    else:
        _print(f'{args.folder}: uploaded and verified, {done.url}')
    if args.manifest and done.entry:
        _print('entry for a manifest of weights, such as that of timm-fractal:')
        _print(json.dumps(done.entry, indent=2))
    if done.unchecked:
        _print(f'timm-fractal publish: the Hub did not check the model card: {done.unchecked}', file=sys.stderr)
    return int(bool(done.unchecked))


def _add_doctor(commands: Any) -> None:
    summary = 'check the set-up, a data set, or a folder of images'
    parser = _add_command(commands, 'doctor', _doctor, summary, _DOCTOR_EXAMPLES)
    # Only for a better message than "unrecognized arguments".
    parser.add_argument('bare', nargs='?', help=argparse.SUPPRESS)
    words = 'check whether its classes are separable'
    parser.add_argument('--dataset', dest='name', default=argparse.SUPPRESS, metavar='NAME', help=words)
    words = 'your images, to check before training; with --dataset: its files, as for preview'
    parser.add_argument('--data-dir', metavar='PATH', help=words)
    words = 'rank the fractals of seeds, e.g. 0:100 (0 to 99), of --dataset (default: fractal1)'
    parser.add_argument('--seeds', type=seed_range, metavar='FIRST:END', help=words)


def seed_range(text: str) -> range:
    """Parse seeds given as ``FIRST:END``, the end excluded, for argparse."""
    first, colon, end = text.partition(':')
    if not (colon and first.isascii() and first.isdecimal() and end.isascii() and end.isdecimal()):
        raise argparse.ArgumentTypeError(f'must be FIRST:END such as 0:100, got {text!r}')
    seeds = range(int(first), int(end))
    if not 1 <= len(seeds) <= 10_000:
        raise argparse.ArgumentTypeError(f'FIRST:END must be 1 to 10,000 seeds, got {text!r}')
    return seeds


def _doctor(args: Any) -> int:
    from . import doctor

    if args.bare:
        option = '--data-dir' if os.path.exists(args.bare) else '--dataset'
        args.parser.error(f'{args.bare} needs an option before it: {option} {args.bare}')
    name = getattr(args, 'name', None)
    if args.seeds is not None:
        if args.data_dir:
            args.parser.error('--seeds cannot be combined with --data-dir: a fractal from a file has no seed')
        for line in doctor.rank_seeds(name or 'fractal1', args.seeds):
            _print(line)
        return 0
    if name is not None:
        checks = doctor.examine_dataset(name, args.data_dir)
    elif args.data_dir:
        from .image_folder import examine_folder

        checks = examine_folder(args.data_dir)
    else:
        checks = doctor.run()
    failed = False
    for check in checks:
        _print(f'{check.status:<5} {check.text}' + (f' -> {check.advice}' if check.advice else ''))
        failed |= check.status == 'FAIL'
    return int(failed)
