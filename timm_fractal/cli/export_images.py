"""Exports data sets as files: a folder of PNG images, a tar, or WebDataset shards.

In folders and tars, the folder names are the labels, as timm, `torchvision.datasets.ImageFolder` and Hugging Face
`datasets` expect. In shards, each image has a file with its label; ``_info.json`` lists the shards for timm.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._utils.archive import check_complete, first_member, write_file, write_tar
from .._utils.atomic import atomic_write, check_regular, exclusive_lock, remove_leftovers
from .._utils.console import progress_bar
from .._utils.cpu import cpu_count
from .._utils.files import add_to_digest, check_writable
from .._utils.messages import nearest
from .._utils.rng import Stream, stream
from ..data import create
from ..spec import parse_name

SPLITS = ('train', 'validation')

#: Identifies the data set: a file in a folder, or the first member of a tar. timm's readers ignore it.
RECORD = 'dataset.json'

#: Lists the shards and their numbers of images, for timm's reader.
INFO = '_info.json'

# zlib's strategy Z_RLE: a two-valued image has no redundancy but runs of equal bytes. Measured on 128 images of the
# default data set, per image and core: 3.7 ms and 22.2 KB; Pillow's default (level 6) 12.9 ms and 25.0 KB, level 1
# 3.9 ms and 32.6 KB, level 9 129 ms and 23.2 KB.
_RUN_LENGTH = 3

# Pixels rendered and encoded ahead of writing.
_CHUNK_PIXELS = 2**27

# Maps an image number and its PNG to the files of that image, by name.
Layout = Callable[[int, bytes], dict[str, bytes]]


class Exported(NamedTuple):
    """Counts of an export of one split.

    Attributes:
        dataset: Canonical name of the data set.
        split: ``'train'`` or ``'validation'``.
        classes: Number of classes.
        images: Number of images requested; all are complete.
        written: Number of them that this call wrote.
    """

    dataset: str
    split: str
    classes: int
    images: int
    written: int


def export_images(
    name: str,
    dest: str | Path,
    split: str = 'train',
    *,
    data_dir: str | Path | None = None,
    params: str | Path | None = None,
    shards: int | None = None,
    shard: int | None = None,
) -> list[Exported]:
    """Write a data set as image files.

    To resume an interrupted export, repeat the call: files get their names only when they are complete.

    Args:
        name: Data set name, for instance ``'fractal1/delta=0.05'``.
        dest: A folder, for ``<split>/<class>/<class>_<instance>.png``, or with ``shards``, ``<split>-<shard>.tar``;
            or a name ending in ``.tar``, with members ``<class>/<class>_<instance>.png``.
        split: ``'train'``, ``'validation'``, or for a folder ``'all'``; readers treat a tar as one split.
        data_dir: ``--data-dir`` of a training script: an image, a folder of images, or IFS codes.
        params: File to which the IFS codes are saved as well, see `timm_fractal.IFSCodes.save`.
        shards: Number of WebDataset shards, of equal size up to one image. The images are shuffled in a fixed order; a
            shard with twice as many images as classes has all classes.
        shard: Write only this shard, from 0; processes that share only ``dest`` can write one each.

    Returns:
        One entry per split.

    Raises:
        ValueError: An argument is out of range, or the data set cannot be rendered.
        FileExistsError: ``dest`` contains something else; nothing was written.
        OSError: A file cannot be written; complete files are kept.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_images('fractal1/classes=3,size=64,points=5000', folder)[0]
        ...     sorted(path.name for path in Path(folder).glob('train/*/*'))
        Exported(dataset='fractal1/classes=3,points=5000,size=64', split='train', classes=3, images=3, written=3)
        ['00000_0.png', '00001_0.png', '00002_0.png']
    """
    if not str(dest):
        raise ValueError("dest must be a folder or a name that ends in .tar, got ''")
    dest = Path(dest)
    splits = _check_arguments(dest, split, shards, shard)
    check_writable(dest.parent if _is_tar(dest) else dest)
    if params is not None:
        check_regular(params)
        check_writable(Path(params).parent)
    spec = parse_name(name)
    if params is not None and spec.reads != 'codes':
        raise ValueError(f'params must be left out: {spec.type} has no fractals whose parameters could be saved')
    record: dict[str, Any] = {'dataset': str(spec)} | ({} if shards is None else {'shards': shards})
    if data_dir is None:
        # Checked before rendering, which takes minutes, if the name alone determines the data set.
        for part in splits:
            _refuse_other(dest, record, part)
    # Without a cache, only the shards of this process are rendered.
    images = dataclasses.replace(spec.canonical(), cache=spec.cache if shards is None else 'none')
    results: list[Exported] = []
    # Each shard has its own lock.
    with exclusive_lock(dest) if shards is None else contextlib.nullcontext():
        datasets: Any = (create(images, split=part, root=data_dir, input_img_mode=spec.mode) for part in splits)
        if shards is not None:
            datasets = list(datasets)
            # The validation split may have fewer images: check both before writing.
            for dataset in datasets:
                if shards > dataset.num_images:
                    words = f'{dataset.num_images}, the images of the {dataset.split} split'
                    raise ValueError(f'{dataset.spec}: shards must be at most {words}, got {shards}')
        for dataset in datasets:
            record['dataset'] = str(dataset.spec)
            if dataset.files:
                record['data_dir'] = _digest(dataset.files, Path(str(data_dir)))
            _refuse_other(dest, record, dataset.split)
            if params is not None and not results:
                dataset.codes.save(params)
            results.append(_export_split(dataset, dest, record, shard))
    return results


def _digest(files: Sequence[Path], data_dir: Path) -> str:
    """Return the sha256 of the input files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(b'' if path == data_dir else path.relative_to(data_dir).as_posix().encode())
        add_to_digest(digest, path)
    return digest.hexdigest()


def _is_tar(dest: Path) -> bool:
    # timm recognizes tars by this suffix only.
    return dest.suffix == '.tar'


def _check_arguments(dest: Path, split: str, shards: int | None, shard: int | None) -> tuple[str, ...]:
    if split not in (*SPLITS, 'all'):
        raise ValueError(f'unknown split {split!r}; {nearest(split, (*SPLITS, "all"))}')
    if dest.suffix.lower() in ('.tar', '.tgz', '.gz', '.bz2', '.xz', '.zst', '.zip') and not _is_tar(dest):
        raise ValueError(f'dest must be a folder or end in .tar, the only archive that timm reads, got {str(dest)!r}')
    if shards is not None and shards < 1:
        raise ValueError(f'shards must be at least 1, got {shards}')
    if shard is not None and not (shards and 0 <= shard < shards):
        valid = f'from 0 to {shards - 1}, as there are {shards} shards' if shards else 'left out without shards'
        raise ValueError(f'shard must be {valid}, got {shard}')
    if shards is not None and _is_tar(dest):
        raise ValueError(f'dest must be a folder for shards, got {str(dest)!r}: use {str(dest.with_suffix(""))!r}')
    if split == 'all' and _is_tar(dest):
        raise ValueError("split must be 'train' or 'validation' for a tar, which holds one split, got 'all'")
    return SPLITS if split == 'all' else (split,)


def _refuse_other(dest: Path, record: dict[str, Any], split: str) -> None:
    """Raise an error if the destination contains anything but this data set, or part of it."""
    path, content = dest, b''
    if _is_tar(dest):
        if dest.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'is a folder, not a tar', str(dest))
        if not dest.exists():
            return
        # Reading a pipe may block.
        check_regular(dest)
        record, content = {**record, 'split': split}, first_member(dest, RECORD)
    elif (dest / RECORD).exists():
        check_regular(dest / RECORD)
        content = (dest / RECORD).read_bytes()
    else:
        foreign = [f'{split}/*'] + ([f'{split}-*.tar', INFO] if 'shards' in record else [])
        path = next((path for pattern in foreign for path in dest.glob(pattern)), dest)
        if path == dest:
            return
    try:
        other = json.loads(content)
    except ValueError:
        raise FileExistsError(errno.EEXIST, 'contains files that timm-fractal did not export', str(path)) from None
    if other != record:
        words = f'contains {_describe(other)}, not {_describe(record)}: choose another destination'
        raise FileExistsError(errno.EEXIST, words, str(path))


def _describe(record: Any) -> str:
    if not isinstance(record, dict):
        return repr(record)
    extra = {'split': 'split {}', 'shards': 'in {} shards', 'data_dir': 'read from files with sha256 {:.8}...'}
    parts = [repr(record.get('dataset'))] + [words.format(record[key]) for key, words in extra.items() if key in record]
    return ', '.join(parts)


def _export_split(dataset: Any, dest: Path, record: dict[str, Any], shard: int | None) -> Exported:
    split: str = dataset.split
    names: list[str] = dataset.filenames()
    parts: dict[Path, Any] = {dest: range(len(names))}
    if 'shards' in record:
        numbers = np.array_split(_order(dataset), record['shards'])
        parts = {dest / f'{split}-{s:06d}.tar': part for s, part in enumerate(numbers)}

    def layout(i: int, png: bytes) -> dict[str, bytes]:
        if 'shards' in record:
            key = Path(names[i]).stem
            return {f'{key}.png': png, f'{key}.cls': b'%d' % (i % dataset.num_classes)}
        # Without the split: readers take the first folder in a tar as the label.
        return {names[i].partition('/')[2] if _is_tar(dest) else names[i]: png}

    ours = list(parts.items())[slice(None) if shard is None else slice(shard, shard + 1)]
    missing = {path: _missing(path, numbers, layout) for path, numbers in ours}
    images = sum(len(numbers) for _, numbers in ours)
    there = images - sum(map(len, missing.values()))
    written = 0
    try:
        if not _is_tar(dest):
            _write_records(dest, record, split, parts)
        with progress_bar(f'writing {split}', images - there) as bar, ThreadPoolExecutor(cpu_count()) as pool:
            for path in filter(missing.get, missing):
                with _writer(path, record, split) as write:
                    for i, png in _encode(dataset, missing[path], pool):
                        for name, content in layout(i, png).items():
                            write(name, content)
                        written += 1
                        bar.update()
    except BlockingIOError:
        raise
    except OSError as error:
        progress = f'after {there + written} of {images} images'
        if not _is_tar(dest):
            progress += f'; the same command continues {"with this shard" if "shards" in record else "there"}'
        raise OSError(error.errno or errno.EIO, f'{error.strerror or error} {progress}', str(dest)) from error
    return Exported(record['dataset'], split, dataset.num_classes, images, written)


def _order(dataset: Any) -> Any:
    """Return the numbers of all images, shuffled in rounds of ``num_classes`` images with one of each class.

    Readers shuffle within a buffer only, which must contain many classes.
    """
    numbers = np.arange(dataset.num_images).reshape(-1, dataset.num_classes)
    # Sorts by the generator's raw output, since numpy's shuffle may change: first instances, then classes.
    keys = stream(0, Stream.ORDER).bit_generator.random_raw(2 * dataset.num_images).reshape(2, *numbers.shape)
    for axis in (0, 1):
        numbers = np.take_along_axis(numbers, np.argsort(keys[axis], axis, kind='stable'), axis)
    return numbers.ravel()


def _missing(path: Path, numbers: Any, layout: Layout) -> list[int]:
    """Return the images missing from a folder or tar."""
    wanted = [int(i) for i in numbers]
    if not _is_tar(path):
        # After a power failure, a renamed but unflushed file may be empty.
        return [i for i in wanted if not all(_size(path / name) for name in layout(i, b''))]
    if not path.exists():
        return wanted
    check_complete(path, {name for i in wanted for name in layout(i, b'')})
    return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _encode(dataset: Any, numbers: list[int], pool: Executor) -> Iterator[tuple[int, bytes]]:
    """Yield image numbers with PNG files, in order, encoded in threads: Pillow releases the GIL."""
    step = min(dataset.step, max(cpu_count(), _CHUNK_PIXELS // dataset.spec.size**2))
    for start in range(0, len(numbers), step):
        chunk = numbers[start : start + step]
        yield from zip(chunk, pool.map(_png, dataset.images(chunk, dataset.input_img_mode)), strict=True)


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, 'PNG', compress_type=_RUN_LENGTH)
    return file.getvalue()


@contextlib.contextmanager
def _writer(path: Path, record: dict[str, Any], split: str) -> Iterator[Callable[[str, bytes], object]]:
    """Yield a function that writes a file, given its name and content, to a folder, tar or shard."""
    if not _is_tar(path):
        yield functools.partial(write_file, path)
        return
    is_shard = 'shards' in record
    with exclusive_lock(path) if is_shard else contextlib.nullcontext(), write_tar(path) as add:
        if not is_shard:
            add(RECORD, json.dumps({**record, 'split': split}).encode())
        yield add


def _write_records(dest: Path, record: dict[str, Any], split: str, parts: dict[Path, Any]) -> None:
    """Write the record of a folder, and add the shards of a split to the list of shards."""
    dest.mkdir(parents=True, exist_ok=True)
    if not (dest / RECORD).exists():
        _write_json(dest / RECORD, record)
    if 'shards' not in record:
        remove_leftovers(dest, RECORD)
        return
    lengths = [len(numbers) for numbers in parts.values()]
    names = [shard.name for shard in parts]
    entry = {'name': split, 'num_samples': sum(lengths), 'filenames': names, 'shard_lengths': lengths}
    path = dest / INFO
    while _splits(path).get(split) != entry:
        # Another process may be adding the other split, which takes milliseconds.
        with contextlib.suppress(BlockingIOError), exclusive_lock(path):
            _write_json(path, {'splits': _splits(path) | {split: entry}})
        time.sleep(0.01)


def _splits(path: Path) -> dict[str, Any]:
    splits: dict[str, Any] = json.loads(path.read_bytes())['splits'] if path.exists() else {}
    return splits


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content) + '\n', encoding='utf-8')
