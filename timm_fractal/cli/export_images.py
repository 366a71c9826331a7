"""Data sets as files: a folder of PNG images, or one tar, for programs that read files.

timm's own readers find the labels in the folder names, `torchvision.datasets.ImageFolder` too.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .._utils.atomic import atomic_write, check_regular, exclusive_lock, remove_leftovers
from .._utils.cpu import cpu_count
from .._utils.messages import nearest
from ..data import create
from ..spec import parse_name

SPLITS = ('train', 'validation')

#: Says in a tree, and as the first member of a tar, which data set it is; timm's readers look at image files only.
RECORD = 'dataset.json'

# Suffix of unfinished files. No reader of data sets opens it: a killed process leaves its unfinished file behind, and
# half an image would be found in the middle of a training run.
_PARTIAL = '.partial'

# Runs of equal bytes are all that there is to find in a two-valued image. Measured on 128 images of the default data
# set, per image and core: 3.7 ms and 22.2 KB; Pillow's default (level 6) 12.9 ms and 25.0 KB, level 1 3.9 ms and
# 32.6 KB, level 9 129 ms and 23.2 KB.
_RUN_LENGTH = 3

# Images that are encoded ahead of the one that is written.
_CHUNK = 256

Writer = tuple[Callable[[str], bool], Callable[[str, bytes], None]]


class Exported(NamedTuple):
    """What an export has done for one split.

    Attributes:
        dataset: Canonical name of the data set.
        split: ``'train'`` or ``'validation'``.
        classes: Number of classes.
        images: Number of images, all of them complete now.
        written: How many of them were not there before.
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
) -> list[Exported]:
    """Write a data set as image files.

    An interrupted export to a folder is continued by the same call: a PNG file that exists is complete. A tar has its
    name only when it is complete, and is begun anew.

    Args:
        name: Data set name, for instance ``'fractal1/delta=0.05'``.
        dest: A folder, which gets ``<split>/<class>/<class>_<instance>.png``; or a name that ends in ``.tar``, whose
            members are ``<class>/<class>_<instance>.png``.
        split: ``'train'``, ``'validation'`` or, for a folder, ``'all'``. Every reader takes a tar for one split.
        data_dir: What ``--data-dir`` is in a training script: an image, a folder of images, or IFS codes.
        params: Where to save the parameters of the data set too, see `timm_fractal.ifs.IFSCodes.save`.

    Returns:
        One entry per split.

    Raises:
        ValueError: An argument is out of range, or the data set cannot be rendered.
        FileExistsError: ``dest`` holds something else; nothing was written.
        OSError: It cannot be written. Complete files stay.

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
    splits = _check_arguments(dest, split)
    check_writable(dest.parent if _is_tar(dest) else dest)
    if params is not None:
        check_regular(params)
        check_writable(Path(params).parent)
    spec = parse_name(name)
    if params is not None and not spec.has_codes:
        raise ValueError(f'params must be left out: {spec.type} has no fractals whose parameters could be saved')
    record = {'dataset': str(spec)}
    if data_dir is None:
        # Rendering takes minutes: refuse before, where the name alone says what the data set is.
        for part in splits:
            _refuse_other(dest, record, part)
    # How batches are made has no part in files.
    images: Any = dataclasses.replace(spec.canonical(), **{'cache': spec.non_pixel_options()['cache']})
    results = []
    with exclusive_lock(dest):
        for part in splits:
            dataset: Any = create(images, split=part, root=data_dir, input_img_mode=spec.mode)
            record['dataset'] = str(dataset.spec)
            if dataset.files:
                record['data_dir'] = _digest(dataset.files, Path(str(data_dir)))
            _refuse_other(dest, record, part)
            if params is not None and part == splits[0]:
                dataset.codes.save(params)
            results.append(_export_split(dataset, dest, record, part))
    return results


def _digest(files: Sequence[Path], data_dir: Path) -> str:
    """What was read, by its sha256."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(b'' if path == data_dir else path.relative_to(data_dir).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_writable(folder: Path) -> None:
    """Find out early, before minutes of rendering, that nothing can be written to a folder.

    Args:
        folder: The folder; if it does not exist, the nearest one above it that does is looked at.

    Raises:
        OSError: It is not a folder, or this process may not write to it.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, 'this is not a folder', str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, 'no permission to write here', str(existing))


def _is_tar(dest: Path) -> bool:
    return dest.suffix == '.tar'


def _check_arguments(dest: Path, split: str) -> tuple[str, ...]:
    if split not in (*SPLITS, 'all'):
        raise ValueError(f'unknown split {split!r}; {nearest(split, (*SPLITS, "all"))}')
    # timm takes a file for a tar by this very suffix.
    if dest.suffix.lower() in ('.tar', '.tgz', '.gz', '.bz2', '.xz', '.zst', '.zip') and not _is_tar(dest):
        raise ValueError(f'dest must be a folder or end in .tar, which is all that timm reads, got {str(dest)!r}')
    if not _is_tar(dest):
        return SPLITS if split == 'all' else (split,)
    if split == 'all':
        raise ValueError("split must be 'train' or 'validation' for a tar, which holds one split, got 'all'")
    return (split,)


def _refuse_other(dest: Path, record: dict[str, str], split: str) -> None:
    """Raise if there is anything at the destination but this data set, or part of it."""
    if _is_tar(dest):
        record = {**record, 'split': split}
    for path, content in _contents(dest, split):
        try:
            other = json.loads(content)
        except ValueError:
            raise FileExistsError(errno.EEXIST, 'holds something that timm-fractal did not export', str(path)) from None
        if other != record:
            words = f'holds {_describe(other)}, not {_describe(record)}: choose another destination'
            raise FileExistsError(errno.EEXIST, words, str(path))


def _contents(dest: Path, split: str) -> Iterator[tuple[Path, bytes]]:
    """Yield what is already at the destination, with its record; an empty record if it has none."""
    # Reading a pipe would never end.
    check_regular(dest if _is_tar(dest) and not dest.is_dir() else dest / RECORD)
    if not _is_tar(dest):
        if (dest / RECORD).exists():
            yield dest, (dest / RECORD).read_bytes()
        elif (dest / split).is_dir() and any((dest / split).iterdir()):
            yield dest / split, b''
    elif dest.is_dir():
        raise IsADirectoryError(errno.EISDIR, 'this is a folder, not a tar', str(dest))
    elif dest.exists():
        yield dest, _record_in_tar(dest)


def _describe(record: Any) -> str:
    if not isinstance(record, dict):
        return repr(record)
    extra = {'split': 'split {}', 'data_dir': 'made from files with sha256 {:.8}...'}
    parts = [repr(record.get('dataset'))] + [words.format(record[key]) for key, words in extra.items() if key in record]
    return ', '.join(parts)


def _export_split(dataset: Any, dest: Path, record: dict[str, str], split: str) -> Exported:
    names: list[str] = dataset.filenames()
    writer = _write_tree(dest, record)
    if _is_tar(dest):
        # The split is the tar's: in a name it would be one more folder above the label.
        names = [name.partition('/')[2] for name in names]
        writer = _write_tar(dest, {**record, 'split': split})
    there = written = 0
    if _is_tar(dest) and dest.exists():
        _check_complete(dest, names)
        return Exported(record['dataset'], split, dataset.num_classes, len(names), 0)
    try:
        with writer as (present, write):
            missing = [i for i, name in enumerate(names) if not present(name)]
            there = len(names) - len(missing)
            with contextlib.closing(_encode(dataset, missing, split)) as encoded:
                for i, png in encoded:
                    write(names[i], png)
                    written += 1
    except OSError as error:
        progress = f'after {there + written} of {len(names)} images'
        if not _is_tar(dest):
            progress += '; the same command continues there'
        raise OSError(error.errno or errno.EIO, f'{error.strerror or error} {progress}', str(dest)) from error
    return Exported(record['dataset'], split, dataset.num_classes, len(names), written)


def _encode(dataset: Any, numbers: list[int], split: str) -> Generator[tuple[int, bytes], None, None]:
    """PNG files of some samples, in order. Pillow encodes without holding the interpreter lock: threads help."""
    bar = tqdm(
        desc=f'writing {split}', total=len(dataset), initial=len(dataset) - len(numbers), unit='img', disable=None
    )
    with bar, ThreadPoolExecutor(cpu_count()) as pool:
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            for i, png in zip(chunk, pool.map(lambda i: _png(dataset[i][0]), chunk), strict=True):
                yield i, png
                bar.update()


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, 'PNG', compress_type=_RUN_LENGTH)
    return file.getvalue()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _write_tree(dest: Path, record: dict[str, str]) -> Iterator[Writer]:
    dest.mkdir(parents=True, exist_ok=True)
    remove_leftovers(dest, RECORD)
    if not (dest / RECORD).exists():
        with atomic_write(dest / RECORD) as temporary:
            temporary.write_text(json.dumps(record) + '\n', encoding='utf-8')

    def write(name: str, png: bytes) -> None:
        path = dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Always the same name: what a killed process has left is overwritten when the export goes on.
        partial = _partial(path)
        try:
            partial.write_bytes(png)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    # An empty file is what some file systems make, when the power fails, of a file that was renamed but not flushed.
    yield lambda name: _size(dest / name) > 0, write


@contextlib.contextmanager
def _write_tar(dest: Path, record: dict[str, str]) -> Iterator[Writer]:
    dest.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(dest.parent, dest.name)
    with atomic_write(dest) as temporary:
        with open(temporary, 'wb') as file, tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:

            def write(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                # So that a full disk is noticed with the image that it concerns.
                file.flush()

            write(RECORD, json.dumps(record).encode())
            yield lambda name: False, write
            tar.close()
            file.flush()
            os.fsync(file.fileno())


def _check_complete(path: Path, names: list[str]) -> None:
    """Raise if a finished tar lacks images: somebody has cut it."""
    size, there = path.stat().st_size, 0
    wanted = set(names)
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        there = sum(member.name in wanted and member.offset_data + member.size <= size for member in tar)
    if there < len(names):
        words = f'has {there} of {len(names)} images and is damaged: delete it, and export again'
        raise OSError(errno.EIO, words, str(path))


def _record_in_tar(path: Path) -> bytes:
    with contextlib.suppress(tarfile.ReadError), tarfile.open(path, 'r:') as tar:
        first = tar.next()
        file = tar.extractfile(first) if first is not None and first.name == RECORD else None
        return b'' if file is None else file.read()
    return b''
