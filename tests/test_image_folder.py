"""Checks of a folder of images by `timm-fractal doctor --data-dir`."""

from pathlib import Path

import pytest
from PIL import Image

from timm_fractal.cli import main
from timm_fractal.cli.image_folder import examine_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (('train', 60), ('val', 50)):
        for name in ('2 cats', 'a dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new('RGB', (16, 16)).save(tmp_path / split / name / f'{number}.png')
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
        'ok    --num-classes 2 --epochs 300: about 600 steps of 50 images',
        'ok    --model test_resnet.fractal1_100 --pretrained: a small CNN to start with, see docs/your_images.md',
        'ok    accuracy on 100 test images has a standard error of up to 5.0 points',
    ]


def test_classes_that_differ(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / 'val' / 'a dog').rename(folder / 'val' / 'a bird')
    assert main(['doctor', '--data-dir', str(folder)]) == 1
    assert 'FAIL  train and val have different classes: a bird, a dog only in one' in capsys.readouterr().out


def test_files_that_are_damaged_or_large(folder: Path) -> None:
    damaged = folder / 'train' / 'a dog' / '7.png'
    damaged.write_bytes(damaged.read_bytes()[:40])
    (folder / 'val' / 'a dog' / 'text.jpg').write_text('no image')
    Image.new('L', (2000, 1500)).save(folder / 'train' / 'a dog' / 'large.jpg')
    (failure,), (warning,) = said(folder, 'FAIL'), said(folder, 'warn')
    assert failure.startswith(f'2 of the images cannot be read: {str(damaged)[:50]}')
    assert warning.startswith('images of more than 2 million pixels: 1, such as large.jpg')


@pytest.mark.parametrize(
    ('split', 'status', 'message'),
    [('train', 'FAIL', 'timm would train on all of it'), ('val', 'warn', 'timm would test on the training images')],
)
def test_splits_that_are_missing(folder: Path, split: str, status: str, message: str) -> None:
    (folder / split).rename(folder / 'other')
    assert any(message in text for text in said(folder, status))


def test_a_split_instead_of_the_folder(folder: Path) -> None:
    (advice,) = said(folder / 'train', 'FAIL')
    assert advice == f'{folder / "train"} is one split -> give the folder that contains it, {folder}'


def test_no_classes_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'train').mkdir()
    assert 'has no images in folders' in said(tmp_path, 'FAIL')[0]
    for number in range(3):
        path = tmp_path / 'train' / 'one' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('L', (16, 16)).save(path)
    assert 'there is one class, one' in said(tmp_path, 'FAIL')[0]
    assert any('fewer training images than a batch of 50' in text for text in said(tmp_path, 'warn'))
    assert main(['doctor', '--data-dir', str(tmp_path / 'nothing')]) == 1
    assert 'there is no folder' in capsys.readouterr().err


def test_other_names_of_the_splits(folder: Path) -> None:
    (folder / 'train').rename(folder / 'training')
    (folder / 'val').rename(folder / 'validation')
    assert said(folder, 'FAIL') == said(folder, 'warn') == []
    assert said(folder, 'ok')[1].startswith('validation: 100 images of 2 classes')
