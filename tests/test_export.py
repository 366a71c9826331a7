"""Exported files: pixels and labels read by third-party readers, interruptions, refusals."""

import contextlib
import errno
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import sklearn.datasets
import webdataset
from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

from timm_fractal import Fractal1, IFSCodes
from timm_fractal.cli import export_images as export
from timm_fractal.cli import main
from timm_fractal.cli.export_images import Exported
from timm_fractal.data import create

# Eleven classes, so that sorting matters: '00010' must come after '00002'.
NAME = 'fractal1/classes=11,size=64,points=3000,instances=2,cache=none'
CANONICAL = 'fractal1/classes=11,points=3000,size=64,instances=2'
IMAGES = 22


def pixels(dataset: Any) -> dict[str, tuple[int, bytes]]:
    """Return label and RGB pixels by file name."""
    names = [Path(name).name for name in dataset.filenames()]
    return {name: (int(dataset[i][1]), dataset[i][0].convert('RGB').tobytes()) for i, name in enumerate(names)}


# The readers of timm and webdataset leave files open for the garbage collector.
by_timm = pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')


def read_by_timm(root: Path, split: str) -> dict[str, tuple[int, bytes]]:
    dataset = create_dataset('', root=str(root), split=split)
    assert len(dataset) == IMAGES
    found = pixels(dataset)
    # Close the tar that timm keeps open, before it raises a warning in the next test.
    del dataset
    gc.collect()
    return found


@pytest.fixture(scope='module')
def expected() -> dict[str, dict[str, tuple[int, bytes]]]:
    return {split: pixels(Fractal1(NAME, split)) for split in ('train', 'validation')}


@pytest.fixture(scope='module')
def whole_tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    dest = tmp_path_factory.mktemp('whole') / 'x.tar'
    export.export_images(NAME, dest)
    return dest.read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@by_timm
def test_folder_through_timm(tmp_path: Path, expected: Any) -> None:
    results = export.export_images(NAME, tmp_path / 'x', 'all')
    assert results == [Exported(CANONICAL, split, 11, IMAGES, IMAGES) for split in ('train', 'validation')]
    for split in ('train', 'validation'):
        assert read_by_timm(tmp_path / 'x', split) == expected[split]
    assert expected['train']['00003_0.png'] != expected['validation']['00003_0.png']
    assert expected['train']['00003_0.png'] != expected['train']['00003_1.png']


def test_folder_through_torchvision(tmp_path: Path, expected: Any) -> None:
    export.export_images(NAME, tmp_path)
    read = ImageFolder(str(tmp_path / 'train'))
    found = {
        Path(path).name: (label, image.tobytes()) for (path, _), (image, label) in zip(read.samples, read, strict=True)
    }
    assert found == expected['train']


@by_timm
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_tar_through_timm(tmp_path: Path, expected: Any, split: str) -> None:
    dest = tmp_path / 'x.tar'
    assert export.export_images(NAME, dest, split) == [Exported(CANONICAL, split, 11, IMAGES, IMAGES)]
    assert os.listdir(tmp_path) == ['x.tar']
    assert read_by_timm(dest, split) == expected[split]
    with tarfile.open(dest) as tar:
        assert tar.getnames()[:2] == ['dataset.json', '00000/00000_0.png']


def test_files_are_gray_and_small(tmp_path: Path) -> None:
    export.export_images('fractal1/classes=2', tmp_path)
    path = tmp_path / 'train/00001/00001_0.png'
    image = Image.open(path)
    assert (image.mode, image.size) == ('L', (512, 512))
    assert sorted(np.unique(np.asarray(image))) == [0, 127]
    plain = io.BytesIO()
    image.save(plain, 'PNG')
    assert path.stat().st_size < len(plain.getvalue())


@by_timm
def test_record_and_parameters(tmp_path: Path, expected: Any) -> None:
    export.export_images(NAME, tmp_path / 'x', params=tmp_path / 'x.json')
    assert json.loads((tmp_path / 'x/dataset.json').read_text()) == {'dataset': CANONICAL}
    codes = IFSCodes.load(tmp_path / 'x.json')
    assert codes.name == CANONICAL
    np.testing.assert_array_equal(codes.systems, Fractal1(NAME).codes.systems)
    # The saved parameters give the same files, and are recorded.
    result = export.export_images('fractal1/cache=none', tmp_path / 'y', data_dir=tmp_path / 'x.json')
    assert result[0].dataset == CANONICAL
    assert read_by_timm(tmp_path / 'y', 'train') == expected['train']
    with pytest.raises(FileExistsError, match="read from files with sha256 .*, not 'fractal1/classes=11"):
        export.export_images(NAME, tmp_path / 'y')


def test_tree_goes_on(tmp_path: Path) -> None:
    export.export_images(NAME, tmp_path / 'whole')
    export.export_images(NAME, tmp_path / 'x')
    before = files(tmp_path / 'x')
    gone = tmp_path / 'x/train/00004/00004_0.png'
    half = gone.with_name(gone.name + '.partial')
    # As left by a killed process: missing images, and half of one under a name that readers ignore.
    half.write_bytes(gone.read_bytes()[:100])
    gone.unlink()
    (tmp_path / 'x/train/00007/00007_1.png').write_bytes(b'')
    assert len(create_dataset('', root=str(tmp_path / 'x/train/00004'))) == 1
    kept = tmp_path / 'x/train/00001/00001_0.png'
    os.utime(kept, (1, 1))
    assert export.export_images(NAME, tmp_path / 'x')[0].written == 2
    assert files(tmp_path / 'x') == before == files(tmp_path / 'whole')
    assert kept.stat().st_mtime == 1
    assert export.export_images(NAME, tmp_path / 'x')[0].written == 0


def test_a_tar_is_begun_anew(tmp_path: Path, whole_tar: bytes) -> None:
    """The temporary file of a killed process is removed."""
    (tmp_path / '.x.tar.0123abcd.tmp').write_bytes(whole_tar[:5000])
    assert export.export_images(NAME, tmp_path / 'x.tar')[0].written == IMAGES
    assert (tmp_path / 'x.tar').read_bytes() == whole_tar and os.listdir(tmp_path) == ['x.tar']
    assert export.export_images(NAME, tmp_path / 'x.tar')[0] == Exported(CANONICAL, 'train', 11, IMAGES, 0)


@contextlib.contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """Make the operating system refuse a write in the middle of a file."""
    resource = pytest.importorskip('resource')
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_refused_write_leaves_no_half_file(tmp_path: Path, whole_tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole_tar)) as tar:
        sizes = [member.size for member in tar][1:]
    # Fails at the first image that is larger than the first two.
    limit = max(sizes[:2])
    failing = next(i for i, size in enumerate(sizes) if size > limit)
    words = f'after {failing} of 22 images; the same command continues there'
    with no_file_larger_than(limit), pytest.raises(OSError, match=words) as info:
        export.export_images(NAME, tmp_path)
    assert (info.value.errno, info.value.filename) == (errno.EFBIG, str(tmp_path))
    assert sorted(files(tmp_path)) == ['dataset.json'] + [f'train/{i:05d}/{i:05d}_0.png' for i in range(failing)]
    assert export.export_images(NAME, tmp_path)[0].written == IMAGES - failing


def test_refused_write_to_tar(tmp_path: Path, whole_tar: bytes) -> None:
    with no_file_larger_than(6000), pytest.raises(OSError, match=r'after \d+ of 22 images$|after \d+ of 22 images:'):
        export.export_images(NAME, tmp_path / 'x.tar')
    assert os.listdir(tmp_path) == []
    export.export_images(NAME, tmp_path / 'x.tar')
    assert (tmp_path / 'x.tar').read_bytes() == whole_tar


def interrupt_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt when a complete file is about to be renamed to this name."""
    replace = os.replace

    def interrupt(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, 'replace', interrupt)


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at('00005_0.png', monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        export.export_images(NAME, tmp_path)
    monkeypatch.undo()
    assert sorted(files(tmp_path)) == ['dataset.json'] + [f'train/{i:05d}/{i:05d}_0.png' for i in range(5)]
    assert export.export_images(NAME, tmp_path)[0].written == IMAGES - 5


@pytest.mark.parametrize('dest', ['x', 'x.tar'])
def test_refuses_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str) -> None:
    path = tmp_path / dest
    export.export_images(NAME, path)
    before = files(tmp_path)

    def render(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('it must be refused before anything is rendered')

    monkeypatch.setattr(export, 'create', render)
    other = NAME.replace('points=3000', 'points=3001')
    with pytest.raises(
        FileExistsError, match=f"contains '{CANONICAL}'.*, not '.*points=3001.*choose another destination"
    ):
        export.export_images(other, path, params=tmp_path / 'x.json')
    assert files(tmp_path) == before


def test_refuses_another_split_of_a_tar(tmp_path: Path) -> None:
    export.export_images(NAME, tmp_path / 'x.tar')
    with pytest.raises(FileExistsError, match='split train, not .* split validation'):
        export.export_images(NAME, tmp_path / 'x.tar', 'validation')


@pytest.mark.parametrize('dest', ['x', 'x.tar'])
def test_refuses_what_is_no_export(tmp_path: Path, dest: str) -> None:
    (tmp_path / 'x/train/cat').mkdir(parents=True)
    (tmp_path / 'x/train/cat/1.png').write_bytes(b'mine')
    (tmp_path / 'x.tar').write_bytes(b'mine')
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match='contains files that timm-fractal did not export'):
        export.export_images(NAME, tmp_path / dest)
    assert files(tmp_path) == before


def test_refuses_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'folder.tar').mkdir()
    with pytest.raises(NotADirectoryError, match='not a folder'):
        export.export_images(NAME, tmp_path / 'file')
    with pytest.raises(NotADirectoryError, match='not a folder'):
        export.export_images(NAME, tmp_path / 'file/x.tar')
    with pytest.raises(IsADirectoryError, match='is a folder, not a tar'):
        export.export_images(NAME, tmp_path / 'folder.tar')
    with pytest.raises(ValueError, match="a tar, which holds one split, got 'all'"):
        export.export_images(NAME, tmp_path / 'x.tar', 'all')
    with pytest.raises(ValueError, match=r'dest must be a folder or end in \.tar.*x\.tar\.gz'):
        export.export_images(NAME, tmp_path / 'x.tar.gz')
    with pytest.raises(ValueError, match="unknown split 'trian'; did you mean 'train'"):
        export.export_images(NAME, tmp_path / 'x', 'trian')
    with pytest.raises(FileNotFoundError, match=r'missing\.json'):
        export.export_images('fractal1', tmp_path / 'x', data_dir=tmp_path / 'missing.json')
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder.tar']


@pytest.mark.parametrize('dest', ['x', 'x.tar'])
def test_failure_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str) -> None:
    def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, 'Read-only file system', str(self))

    monkeypatch.setattr(Path, 'mkdir', mkdir)
    with pytest.raises(OSError, match='Read-only file system') as info:
        export.export_images(NAME, tmp_path / dest)
    assert info.value.errno == errno.EROFS
    assert list(tmp_path.iterdir()) == []


def test_real_images(tmp_path: Path) -> None:
    photos = Path(sklearn.datasets.__file__).parent / 'images'
    name = 'image1/classes=4,size=64,view=rgb'
    done = export.export_images(name, tmp_path / 'out', data_dir=photos)[0]
    assert (done.images, done.classes) == (4, 4)
    expected = create(name, root=photos)[3][0]
    with Image.open(tmp_path / 'out' / 'train' / '00003' / '00003_0.png') as image:
        assert image.mode == 'RGB' and image.tobytes() == expected.tobytes()
    assert export.export_images(name, tmp_path / 'out', data_dir=photos)[0].written == 0
    with pytest.raises(FileExistsError, match='read from files with sha256'):
        export.export_images(name, tmp_path / 'out', data_dir=photos / 'china.jpg')


def test_only_fractals_have_parameters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='params must be left out: noise1 has no fractals'):
        export.export_images('noise1/classes=3,size=64', tmp_path / 'out', params=tmp_path / 'x.json')
    export.export_images('ofdb/classes=3,size=64,points=3000', tmp_path / 'out', params=tmp_path / 'x.json')
    assert (tmp_path / 'x.json').exists()


@pytest.mark.slow
def test_two_exports_to_one_place_at_once(tmp_path):
    """The second is refused while the first writes, and finds it complete afterwards."""
    command = [
        sys.executable,
        '-m',
        'timm_fractal',
        'export',
        'fractal1/classes=1500,size=512',
        str(tmp_path / 'x.tar'),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        while first.poll() is None and not list(tmp_path.glob('.x.tar.*.tmp')):
            time.sleep(0.01)
        second = subprocess.run(command, capture_output=True, text=True)
        output = first.communicate()[0]
    assert second.returncode == 1 and 'another export is writing here' in second.stderr
    assert first.returncode == 0 and '1500 new' in output
    with tarfile.open(tmp_path / 'x.tar') as tar:
        assert len(tar.getnames()) == 1501
    assert os.listdir(tmp_path) == ['x.tar']


def test_a_finished_tar_is_checked(tmp_path):
    export.export_images(NAME, tmp_path / 'x.tar')
    content = (tmp_path / 'x.tar').read_bytes()
    (tmp_path / 'x.tar').write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=r'has \d+ of 22 files and is damaged: delete it'):
        export.export_images(NAME, tmp_path / 'x.tar')


@pytest.fixture(scope='module')
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp('shards') / 'x'
    results = export.export_images(NAME, dest, 'all', shards=3)
    assert results == [Exported(CANONICAL, split, 11, IMAGES, IMAGES) for split in ('train', 'validation')]
    return dest


def decoded(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert('RGB').tobytes()


@by_timm
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_shards_through_timm(shards: Path, monkeypatch: pytest.MonkeyPatch, expected: Any, split: str) -> None:
    # webdataset reads a drive letter of Windows as a URL scheme.
    monkeypatch.chdir(shards)
    dataset = create_dataset('wds/', root='', split=split)
    assert len(dataset) == IMAGES and sorted(dataset.filenames()) == sorted(
        name.replace('.png', '.JPEG') for name in expected[split]
    )
    assert sorted((label, image.tobytes()) for image, label in dataset) == sorted(expected[split].values())
    loaded = create_dataset('wds/', root='', split=split, is_training=True, batch_size=11)
    found = [(label, image.tobytes()) for image, label in loaded]
    assert len(found) == IMAGES and set(found) == set(expected[split].values())
    del dataset, loaded
    gc.collect()


@by_timm
def test_shards_through_webdataset(shards: Path, monkeypatch: pytest.MonkeyPatch, expected: Any) -> None:
    monkeypatch.chdir(shards)
    read = webdataset.WebDataset('train-{000000..000002}.tar', shardshuffle=False)
    found = {f'{sample["__key__"]}.png': (int(sample['cls']), decoded(sample['png'])) for sample in read}
    assert found == expected['train']


@by_timm
@pytest.mark.parametrize('streaming', [False, True])
def test_shards_through_datasets(tmp_path: Path, shards: Path, expected: Any, streaming: bool) -> None:
    """By folder, as from the Hub, whose viewer streams; and by file names."""
    options: dict[str, Any] = {'cache_dir': str(tmp_path), 'streaming': streaming}
    read = dict(datasets.load_dataset(str(shards), **options))
    assert list(read) == ['train', 'validation']
    data_files = {'train': str(shards / 'train-*.tar')}
    read['named'] = datasets.load_dataset('webdataset', data_files=data_files, **options)['train']
    for split, samples in read.items():
        found = {f'{s["__key__"]}.png': (s['cls'], s['png'].convert('RGB').tobytes()) for s in samples}
        assert found == expected['train' if split == 'named' else split]


@by_timm
@pytest.mark.parametrize('streaming', [False, True])
def test_folder_through_datasets(tmp_path: Path, expected: Any, streaming: bool) -> None:
    export.export_images(NAME, tmp_path / 'x', 'all')
    read = datasets.load_dataset(str(tmp_path / 'x'), cache_dir=str(tmp_path), streaming=streaming)
    assert list(read) == ['train', 'validation']
    for split, samples in read.items():
        assert samples.features['label'].names == [f'{k:05d}' for k in range(11)]
        found = [(sample['label'], sample['image'].convert('RGB').tobytes()) for sample in samples]
        assert sorted(found) == sorted(expected[split].values())


@by_timm
@pytest.mark.parametrize('kind', ['folder', 'shards'])
def test_through_the_reader_of_timm_for_datasets(tmp_path: Path, shards: Path, expected: Any, kind: str) -> None:
    options: dict[str, Any] = {'root': str(tmp_path / 'cache'), 'is_training': False}
    dest, names = shards, list(expected['train'])
    if kind == 'shards':
        options |= {'input_key': 'png', 'target_key': 'cls'}
    else:
        dest = tmp_path / 'x'
        export.export_images(NAME, dest, 'all')
    for split in ('train', 'validation'):
        dataset = create_dataset(f'hfds/{dest}', split=split, **options)
        assert sorted(Path(name).name for name in dataset.filenames()) == sorted(names)
        assert pixels(dataset) == expected[split]
        if kind == 'folder':
            assert dataset.reader.class_to_idx == {f'{k:05d}': k for k in range(11)}


def test_each_shard_alone_is_that_of_the_whole(tmp_path: Path, shards: Path) -> None:
    """In any order, each by a separate command."""
    done = []
    for number in (2, 0, 1):
        assert main(['export', NAME, str(tmp_path / 'x'), '--split', 'all', '--shard', f'{number}/3']) == 0
        done.append(f'train-{number:06d}.tar')
        assert sorted(path.name for path in (tmp_path / 'x').glob('train*')) == sorted(done)
    assert files(tmp_path / 'x') == files(shards) and os.listdir(tmp_path) == ['x']
    info = json.loads((shards / '_info.json').read_text())['splits']
    assert list(info) == ['train', 'validation'] and info['train']['shard_lengths'] == [8, 7, 7]
    # One split after the other, in either order.
    for split in ('validation', 'train'):
        export.export_images(NAME, tmp_path / 'y', split, shards=3)
    assert json.loads((tmp_path / 'y' / '_info.json').read_text())['splits'] == info
    assert export.export_images(NAME, tmp_path / 'y', shards=3, shard=0) == [Exported(CANONICAL, 'train', 11, 8, 0)]


def test_both_splits_at_the_same_moment(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds the list of shards locked waits, and adds to it."""
    export.export_images(NAME, tmp_path, shards=3)
    info, waits = tmp_path / '_info.json', threading.Event()
    train = info.read_bytes()
    info.unlink()
    monkeypatch.setattr(export, 'time', SimpleNamespace(sleep=lambda seconds: waits.set()))
    with ThreadPoolExecutor(1) as pool:
        with export.exclusive_lock(info):
            other = pool.submit(export.export_images, NAME, tmp_path, 'validation', shards=3)
            assert waits.wait(120) and not info.exists()
            (tmp_path / '.new').write_bytes(train)
            (tmp_path / '.new').rename(info)
        other.result(120)
    assert files(tmp_path) == files(shards)


def test_shards_show_all_classes() -> None:
    """In each shard of two rounds or more; the order must never change."""
    dataset = create('noise1/classes=100,size=16,cache=none')
    dataset.num_images = 1000
    order = export._order(dataset)
    assert sorted(order) == list(range(1000))
    rounds = order.reshape(-1, 100)
    assert all(sorted(part % 100) == list(range(100)) for part in rounds)
    assert order[:6].tolist() == [310, 87, 742, 792, 424, 749]
    # Both classes and instances are shuffled.
    assert not (np.diff(rounds % 100, axis=1) > 0).all(axis=1).any()
    assert len({tuple(part % 100) for part in rounds}) == 10 and (rounds // 100).std(axis=1).min() > 2


def test_shards_go_on(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at('train-000001.tar', monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        export.export_images(NAME, tmp_path / 'x', 'all', shards=3)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path / 'x')) == ['_info.json', 'dataset.json', 'train-000000.tar']
    # As left by a killed process.
    (tmp_path / 'x' / '.train-000001.tar.0123abcd.tmp').write_bytes(b'half')
    os.utime(tmp_path / 'x' / 'train-000000.tar', (1, 1))
    results = export.export_images(NAME, tmp_path / 'x', 'all', shards=3)
    assert [done.written for done in results] == [IMAGES - 8, IMAGES]
    assert files(tmp_path / 'x') == files(shards)
    assert (tmp_path / 'x' / 'train-000000.tar').stat().st_mtime == 1


@pytest.mark.slow
@pytest.mark.posix
def test_a_killed_export_of_shards_goes_on(tmp_path: Path) -> None:
    name = 'fractal1/classes=200,instances=4,size=256,points=9999'
    command = [sys.executable, '-m', 'timm_fractal', 'export', name, str(tmp_path / 'x'), '--shards', '40']
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not list(tmp_path.glob('x/.train-000003.tar.*.tmp')):
            time.sleep(0.002)
        first.send_signal(signal.SIGKILL)
    there = sorted(path.name for path in tmp_path.glob('x/train-*'))
    assert first.returncode == -signal.SIGKILL and 3 <= len(there) < 40
    assert list(tmp_path.glob('x/.train-*.tmp'))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f'800 train images of 200 classes, {800 - 20 * len(there)} new' in done.stdout
    export.export_images(name, tmp_path / 'y', shards=40)
    assert files(tmp_path / 'x') == files(tmp_path / 'y')


@pytest.mark.parametrize(
    'options, message',
    [
        ({'shards': 0}, 'shards must be at least 1, got 0'),
        ({'shards': -4}, 'shards must be at least 1, got -4'),
        ({'shards': 23}, 'shards must be at most 22, the images of the train split, got 23'),
        ({'shards': 2, 'shard': 3}, 'shard must be from 0 to 1, as there are 2 shards, got 3'),
        ({'shards': 2, 'shard': 2}, 'shard must be from 0 to 1, as there are 2 shards, got 2'),
        ({'shards': 2, 'shard': -1}, 'shard must be from 0 to 1, as there are 2 shards, got -1'),
        ({'shard': 0}, 'shard must be left out without shards, got 0'),
    ],
)
def test_shards_that_cannot_be(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.export_images(NAME, tmp_path / 'x', **options)
    with pytest.raises(ValueError, match=r"dest must be a folder for shards, got '.*x\.tar': use '.*x'"):
        export.export_images(NAME, tmp_path / 'x.tar', shards=2)
    assert os.listdir(tmp_path) == []


def test_a_split_with_too_few_images_is_refused_before_the_other_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='at most 50, the images of the validation split, got 51'):
        export.export_images('fractaldb/classes=2,instances=100,size=32', tmp_path / 'x', 'all', shards=51)
    assert not (tmp_path / 'x').exists()


def test_shards_are_refused_beside_others(tmp_path: Path, shards: Path) -> None:
    before = files(shards)
    other = NAME.replace('points=3000', 'points=3001')
    for name, number, words in (
        (NAME, 2, f"contains '{CANONICAL}', in 3 shards, not '{CANONICAL}', in 2 shards: choose another"),
        (NAME, None, f"contains '{CANONICAL}', in 3 shards, not '{CANONICAL}': choose another"),
        (other, 3, f"contains '{CANONICAL}', in 3 shards, not '.*points=3001.*', in 3 shards: choose another"),
    ):
        with pytest.raises(FileExistsError, match=words):
            export.export_images(name, shards, shards=number)
    assert files(shards) == before
    for name in ('train-a.tar', '_info.json', 'train/a.png'):
        dest = tmp_path / Path(name).stem
        (dest / name).parent.mkdir(parents=True)
        (dest / name).write_bytes(b'mine')
        with pytest.raises(FileExistsError, match='contains files that timm-fractal did not export'):
            export.export_images(NAME, dest, shards=3)
        assert files(dest) == {name: b'mine'}


def test_a_shard_that_is_cut_or_being_written(tmp_path: Path, shards: Path) -> None:
    export.export_images(NAME, tmp_path, shards=3)
    path = tmp_path / 'train-000001.tar'
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(OSError, match=r'has \d of 14 files and is damaged: delete it, and export again'):
        export.export_images(NAME, tmp_path, shards=3, shard=1)
    assert export.export_images(NAME, tmp_path, shards=3, shard=2)[0].written == 0
    path.unlink()
    with export.exclusive_lock(path), pytest.raises(BlockingIOError, match='another export is writing here') as info:
        export.export_images(NAME, tmp_path, shards=3, shard=1)
    assert info.value.filename == str(path)
    assert export.export_images(NAME, tmp_path, shards=3)[0].written == 7
    assert path.read_bytes() == (shards / path.name).read_bytes()
