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
        if hasattr(args, 'name'):
            # Before torch is imported, so that a typo is reported immediately.
            parse_name(args.name)
        code: int = args.run(args)
        return code
    except (ValueError, ImportError, OSError, MemoryError, RuntimeError) as error:
        _print(f'timm-fractal {args.command}: {_message(error)}', file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        _print(f'\ntimm-fractal {args.command}: interrupted; run the same command again to continue', file=sys.stderr)
        return 130


def _print(*words: str, file: Any = None, **options: Any) -> None:
    """Print; ignore errors of a closed or full stream."""
    stream = file or sys.stdout
    try:
        print(*words, file=stream, **options | {'flush': True})
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


def _add_dataset(parser: Any, default: str | None = None) -> None:
    words = "data set name, e.g. fractal1 or 'fractal1/delta=0.05'"
    parser.add_argument('name', metavar='NAME', nargs='?' if default else None, default=default, help=words)
    parser.add_argument(
        '--data-dir',
        metavar='PATH',
        help='files that the data set is made from: image, folder of images, CSV files of IFS codes, or parameter file',
    )


def _add_preview(commands: Any) -> None:
    parser = _add_command(commands, 'preview', _preview, 'render a contact sheet of the classes', _PREVIEW_EXAMPLES)
    _add_dataset(parser, default='fractal1')
    parser.add_argument(
        '--weights',
        metavar='NAME',
        help='show filters and attention of these weights, on the first class of the data set',
    )
    parser.add_argument(
        '-o', '--output', metavar='FILE', default='fractals.png', help='PNG file, or GIF with --sweep (%(default)s)'
    )
    parser.add_argument('--count', type=int, metavar='N', help='number of classes (32)')
    parser.add_argument('--columns', type=int, metavar='N', help='images per row; in a sweep, classes (8)')
    parser.add_argument('--split', default='train', choices=('train', 'validation'), help='split (%(default)s)')
    parser.add_argument('--tile', type=int, metavar='PX', help='size of an image (128; with --weights 64)')
    parser.add_argument('--sweep', metavar='OPTION', help='one row, or frame, per value of an option, e.g. delta')
    parser.add_argument(
        '--values',
        metavar='V,V,...',
        help='values of the sweep; delta, sigma and options with words as values have defaults',
    )


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
    preview.check_output(args.output)
    tile = args.tile if args.tile is not None else 64 if args.weights else 128
    count = 32 if args.count is None else args.count
    options: dict[str, Any] = dict(split=args.split, tile=tile, data_dir=args.data_dir)
    values = [value.strip() for value in args.values.split(',')] if args.values else None
    if values and not all(values):
        args.parser.error(f'--values must be separated by single commas, got {args.values!r}')
    if args.weights:
        from ..explore.weights import weights_sheet

        columns = 13 if args.columns is None else args.columns
        frames = [weights_sheet(args.weights, args.name, columns=columns, tile=tile, data_dir=args.data_dir)]
    elif animated:
        frames = preview.animate(args.name, args.sweep, values, count=count, columns=args.columns, **options)
    elif args.sweep:
        columns = 8 if args.columns is None else args.columns
        frames = [preview.sweep(args.name, args.sweep, values, columns=columns, **options)]
    else:
        frames = [preview.contact_sheet(args.name, count=count, columns=args.columns, **options)]
    preview.save(frames, args.output)
    _print(f'{args.output}: {frames[0].width} x {frames[0].height} pixels')
    return 0


def _add_explore(commands: Any) -> None:
    summary = 'open a web page to explore the data sets'
    parser = _add_command(commands, 'explore', _explore, summary, _EXPLORE_EXAMPLES)
    _add_dataset(parser, default='fractal1')
    parser.add_argument('--host', metavar='ADDRESS', help='address to listen on (GRADIO_SERVER_NAME, else 127.0.0.1)')
    parser.add_argument(
        '--port', type=int, metavar='N', help='port (GRADIO_SERVER_PORT, else the first free one from 7860)'
    )


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
    parser.add_argument(
        '--split',
        default='train',
        choices=('train', 'validation', 'all'),
        help='split (%(default)s); all: folders only',
    )
    shards = parser.add_mutually_exclusive_group()
    shards.add_argument('--shards', type=int, metavar='N', help='write N WebDataset shards into the folder DEST')
    shards.add_argument(
        '--shard', type=_parse_shard, metavar='I/N', help='write only shard I of N, from 0/N: one task of a job array'
    )
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


def _add_weights(parser: Any, kind: str) -> None:
    parser.add_argument('path', metavar=kind, help='file with the weights')
    parser.add_argument('dest', metavar='DEST', nargs='?', help='folder (ARCHITECTURE.TAG)')
    parser.add_argument('--tag', help='name after ARCHITECTURE. (default: from the data set or the file)')
    head = parser.add_mutually_exclusive_group()
    head.add_argument('--head', action='store_true', default=True, help='keep the head (default)')
    head.add_argument('--no-head', dest='head', action='store_false', help='drop the head')
    parser.add_argument('--license', metavar='SPDX', help='license of the weights, e.g. apache-2.0 (unknown)')
    parser.add_argument(
        '--result', metavar='NAME=VALUE', action='append', default=[], help='a result for the model card; repeatable'
    )
    parser.add_argument('--manifest', metavar='FILE.json', help='add the weights to this manifest and its folder')


def _options(args: Any, *names: str) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in ('head', 'tag', *names)}
    return options | {'results': args.result} | ({'license': args.license} if args.license else {})


def _finish_weights(args: Any, folder: Path) -> int:
    from ..hub import folder as hub
    from ..hub import manifest as weights

    _print(f"{folder}: load with timm.create_model('local-dir:{folder}', pretrained=True)")
    if not args.license:
        _print('license: unknown; set it with --license, for example --license apache-2.0')
    if args.manifest:
        entry = hub.entry_of(folder, file=weights.HUB_FILE)
        entry = weights.add(entry, folder / weights.HUB_FILE, args.manifest)
        _print(f'{args.manifest}: {entry.name}, {entry.size:,} bytes, sha256 {entry.sha256}')
    return 0


def _add_export_weights(commands: Any) -> None:
    parser = _add_command(
        commands,
        'export-weights',
        _export_weights,
        'export a checkpoint of train.py as a folder that timm loads',
        _EXPORT_WEIGHTS_EXAMPLES,
    )
    _add_weights(parser, 'CHECKPOINT')
    ema = parser.add_mutually_exclusive_group()
    ema.add_argument(
        '--use-ema', action='store_true', default=None, help='export the EMA weights (default if there are any)'
    )
    ema.add_argument('--no-ema', dest='use_ema', action='store_false', help='export the weights without EMA')
    parser.add_argument('--recipe', metavar='TEXT', help='training recipe, for the model card')
    parser.add_argument('--hardware', metavar='TEXT', help='training hardware, for the model card')
    parser.add_argument('--curves', metavar='PNG', help='image of accuracy curves, for the model card')
    parser.add_argument(
        '--label-names', metavar='PATH', help='names of the classes: my_images/train, or a file with a name per line'
    )
    parser.add_argument('--dtype', help='float16 or bfloat16 halve the size (default: as trained)')


def _export_weights(args: Any) -> int:
    from ..hub import folder as hub

    return _finish_weights(
        args,
        hub.export_weights(
            args.path, args.dest, **_options(args, 'use_ema', 'recipe', 'hardware', 'dtype', 'curves', 'label_names')
        ),
    )


def _add_convert(commands: Any) -> None:
    summary = "convert an authors' checkpoint into a folder that timm loads"
    _add_weights(_add_command(commands, 'convert', _convert, summary, _CONVERT_EXAMPLES), 'FILE')


def _convert(args: Any) -> int:
    from ..hub import folder as hub

    return _finish_weights(args, hub.convert(args.path, args.dest, **_options(args)))


def _add_publish(commands: Any) -> None:
    parser = _add_command(
        commands,
        'publish',
        _publish,
        'upload a folder written by export-weights or convert to the Hub',
        _PUBLISH_EXAMPLES,
    )
    parser.add_argument('folder', metavar='DIR', help='folder written by export-weights or convert')
    parser.add_argument('--repo-id', metavar='OWNER/NAME', required=True, help='repository; created if necessary')
    parser.add_argument('--private', action='store_true', help='create a private repository')
    parser.add_argument('--create-pr', action='store_true', help='open a pull request instead of committing')
    parser.add_argument('--revision', metavar='BRANCH', help='branch to commit to (main); created if necessary')
    parser.add_argument('--dry-run', action='store_true', help='check everything, upload nothing')


def _publish(args: Any) -> int:
    from ..hub import publish

    options = {name: getattr(args, name) for name in ('private', 'create_pr', 'revision', 'dry_run')}
    done = publish(args.folder, args.repo_id, **options)
    _print(
        f'{args.folder}: uploaded and verified, {done.url}'
        if done.url
        else f'{args.folder}: ready for {args.repo_id}, not uploaded'
    )
    if done.unchecked:
        _print(f'the Hub did not validate the model card: {done.unchecked}')
    if done.entry:
        _print('entry for a manifest of weights, such as that of timm-fractal:')
        _print(json.dumps(done.entry, indent=2))
    return 0


def _add_doctor(commands: Any) -> None:
    parser = _add_command(
        commands, 'doctor', _doctor, 'check the set-up, a data set, or a folder of images', _DOCTOR_EXAMPLES
    )
    parser.add_argument(
        '--dataset',
        dest='name',
        default=argparse.SUPPRESS,
        metavar='NAME',
        help='check whether its classes are separable',
    )
    parser.add_argument(
        '--data-dir',
        metavar='PATH',
        help='files of the data set, as for preview; without --dataset: a folder of images to check before training',
    )
    parser.add_argument(
        '--seeds',
        type=seed_range,
        metavar='FIRST:END',
        help='rank the fractals of these seeds, e.g. 0:100; with --dataset (fractal1)',
    )


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

    name = getattr(args, 'name', None)
    if args.seeds is not None:
        if args.data_dir:
            args.parser.error('--seeds cannot be combined with --data-dir: a fractal from a file has no seed')
        for line in doctor.rank_seeds(name or 'fractal1', args.seeds):
            _print(line)
        return 0
    failed = False
    if name is not None:
        checks = doctor.examine_dataset(name, args.data_dir)
    elif args.data_dir:
        from .image_folder import examine_folder

        checks = examine_folder(args.data_dir)
    else:
        checks = doctor.run()
    for check in checks:
        _print(f'{check.status:<5} {check.text}' + (f' -> {check.advice}' if check.advice else ''), flush=True)
        failed |= check.status == 'FAIL'
    return int(failed)
