"""Checks of a folder of images by `timm-fractal doctor --data-dir`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_fractal.cli import main
from timm_fractal.cli.image_folder import examine_folder

rng = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (('train', 60), ('val', 50)):
        for name in ('2 cats', 'a dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f'{number}.png')
    return tmp_path


def said(folder: Path, status: str) -> list[str]:
    return [f'{check.text} -> {check.advice}' for check in examine_folder(folder) if check.status == status]


def test_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / 'train' / 'a dog' / 'notes.txt').write_text('x')
    assert main(['doctor', '--data-dir', str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "ok    train: 120 images of 2 classes; the smallest is '2 cats' with 60",
        "ok    val: 100 images of 2 classes; the smallest is '2 cats' with 50",
        'ok    --num-classes 2 --epochs 300: 600 steps of 50 images',
        'ok    --model test_resnet.fractal1_100 --pretrained: a small CNN to start with, see docs/your_images.md',
        'ok    accuracy on 100 test images has a standard error of up to 5.0 points',
    ]


def test_a_class_named_as_a_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm searches the folder of a training for its split, but not that of a split."""
    for split in ('train', 'val'):
        (folder / split / 'a dog').rename(folder / split / 'valid')
    assert main(['doctor', '--data-dir', str(folder)]) == 0
    said = capsys.readouterr().out
    assert 'train: 120 images of 2 classes' in said and 'val: 100 images of 2 classes' in said


def test_one_epoch_at_least(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('timm_fractal.cli.image_folder.STEPS', 1)
    assert any(text.startswith('--num-classes 2 --epochs 1: 2 steps of 50 images') for text in said(folder, 'ok'))


DOG = Path('train', 'a dog')


def test_classes_that_differ(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / 'val' / 'a dog').rename(folder / 'val' / 'a bird')
    assert main(['doctor', '--data-dir', str(folder)]) == 1
    assert 'val have different classes, only in train: a dog; only in val: a bird; timm' in capsys.readouterr().out


def test_images_that_are_not_what_they_seem(folder: Path) -> None:
    """timm drops transparency: black icons on a transparent ground are black images."""
    icon = Image.new('RGBA', (16, 16))
    icon.paste((0, 0, 0, 255), (4, 4, 9, 9))
    icon.save(folder / 'train' / 'a dog' / 'icon.png')
    (failure,), (warning,) = said(folder, 'FAIL'), said(folder, 'warn')
    assert failure.startswith(f'1 images have a single color without their transparency: {DOG / "icon.png"}')
    assert warning.startswith(f'timm drops the transparency of 1 images, such as {DOG / "icon.png"}')
    Image.new('L', (16, 16), 9).save(folder / 'train' / 'a dog' / 'icon.png')
    assert said(folder, 'warn') == [f'1 images have a single color: {DOG / "icon.png"} -> delete or replace them']
    assert said(folder, 'FAIL') == []
    # Files of the same name in two classes: one has a single color, the other is transparent.
    Image.fromarray(rng.integers(0, 256, (16, 16, 4), np.uint8)).save(folder / 'train' / '2 cats' / 'icon.png')
    assert said(folder, 'FAIL') == [] and len(said(folder, 'warn')) == 2


def test_images_that_are_skipped_or_in_both_splits(folder: Path) -> None:
    shutil.copy(folder / 'train' / 'a dog' / '3.png', folder / 'val' / 'a dog' / 'copy.png')
    Image.open(folder / 'train' / 'a dog' / '3.png').save(folder / 'val' / '2 cats' / 'x.WebP', 'webp')
    assert said(folder, 'FAIL') == []
    assert said(folder, 'warn') == [
        f'1 images are in both splits, so accuracy would be too high: {DOG / "3.png"} = '
        f'{Path("val", "a dog", "copy.png")} -> delete them in one split',
        'timm skips images of these types: .WebP; 1 here -> convert them to PNG or JPEG',
    ]


def test_images_outside_of_classes(folder: Path) -> None:
    shutil.copy(folder / 'train' / 'a dog' / '3.png', folder / 'train' / 'loose.png')
    (failure,) = said(folder, 'FAIL')
    assert failure.startswith('train has images outside of class folders: loose.png')
    assert not any('--epochs' in text for text in said(folder, 'ok'))


def test_files_that_are_damaged_or_large(folder: Path) -> None:
    damaged = folder / 'train' / 'a dog' / '7.png'
    damaged.write_bytes(damaged.read_bytes()[:40])
    (folder / 'val' / 'a dog' / 'text.jpg').write_text('no image')
    Image.fromarray(rng.integers(0, 256, (1500, 2000), np.uint8)).save(folder / 'train' / 'a dog' / 'large.jpg')
    (failure,), (warning,) = said(folder, 'FAIL'), said(folder, 'warn')
    assert failure.startswith(f'2 of the images cannot be read: {DOG / "7.png"}, ')
    assert warning.startswith(f'images of more than 2 million pixels: 1, such as {DOG / "large.jpg"}')


@pytest.mark.parametrize(
    ('split', 'status', 'message'),
    [('train', 'FAIL', 'timm would train on all of it'), ('val', 'warn', 'timm would test on the training images')],
)
def test_splits_that_are_missing(folder: Path, split: str, status: str, message: str) -> None:
    (folder / split).rename(folder / 'other')
    assert any(message in text for text in said(folder, status))


def test_classes_that_are_not_split(folder: Path) -> None:
    shutil.rmtree(folder / 'val')
    for path in (folder / 'train').iterdir():
        path.rename(folder / path.name)
    (folder / 'train').rmdir()
    (advice,) = said(folder, 'FAIL')
    assert advice.startswith(f'{folder} is not split: timm would train and test on the same images -> move part')


def test_a_split_instead_of_the_folder(folder: Path) -> None:
    (advice,) = said(folder / 'train', 'FAIL')
    assert advice == f'{folder / "train"} is one split -> give the folder that contains it, {folder}'
    (advice,) = said(folder / 'val' / 'a dog', 'FAIL')
    assert advice.endswith(f'a dog is one class -> give the folder that contains the splits, {folder}')
    (folder / 'train' / 'a dog').rename(folder / 'train' / 'train')
    assert 'is one split' in said(folder / 'train', 'FAIL')[0]


def test_no_classes_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'train').mkdir()
    assert 'has no images in folders' in said(tmp_path, 'FAIL')[0]
    for number in range(3):
        path = tmp_path / 'train' / 'one' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
    assert 'there is one class, one' in said(tmp_path, 'FAIL')[0]
    shutil.copytree(tmp_path / 'train' / 'one', tmp_path / 'train' / 'two')
    assert any('fewer training images than a batch of 50' in text for text in said(tmp_path, 'warn'))
    for name, what in (('nothing', 'does not exist'), ('train/one/0.png', 'is not a folder')):
        assert main(['doctor', '--data-dir', str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.endswith(f'{what}\n')


def test_other_names_of_the_splits(folder: Path) -> None:
    (folder / 'train').rename(folder / 'training')
    (folder / 'val').rename(folder / 'validation')
    assert said(folder, 'FAIL') == said(folder, 'warn') == []
    assert said(folder, 'ok')[1].startswith('validation: 100 images of 2 classes')
