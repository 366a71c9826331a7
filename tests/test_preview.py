"""Contact sheets: every tile is the image of its class."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from timm_fractal import Fractal1
from timm_fractal.cli import preview
from timm_fractal.cli.main import main
from timm_fractal.explore import sheets

NAME = 'fractal1/classes=6,size=64,points=3000'
GAP = 2


def tiles(sheet: Image.Image, tile: int, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Cut a sheet into (rows, columns, tile, tile), without the margin on the left."""
    pixels = np.asarray(sheet)
    step = tile + GAP
    left = pixels.shape[1] - columns * step
    cells = pixels[GAP:, left:].reshape(rows, step, columns, step).swapaxes(1, 2)
    return cells[:, :, :tile, :tile]


def image(name: str, k: int, split: str = 'train') -> npt.NDArray[np.uint8]:
    return np.asarray(Fractal1(name, split, input_img_mode='L')[k][0])


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_tiles_are_the_classes(split: str) -> None:
    sheet = sheets.contact_sheet(NAME, split, count=5, columns=3, tile=64)
    assert (sheet.mode, sheet.size) == ('L', (3 * 66 + GAP, 2 * 66 + GAP))
    found = tiles(sheet, 64, 2, 3)
    for k in range(5):
        np.testing.assert_array_equal(found[k // 3, k % 3], 2 * image(NAME, k, split))
    assert len(np.unique(found[1, 2])) == 1  # The sixth tile is empty.


@pytest.mark.parametrize('count, columns, rows', [(5, 5, 1), (8, 8, 1), (16, 8, 2), (24, 8, 3), (40, 8, 5)])
def test_eight_columns(count: int, columns: int, rows: int) -> None:
    sheet = sheets.contact_sheet('fractal1/classes=40,size=32,points=2000', count=count, tile=16)
    assert sheet.size == (columns * 18 + GAP, rows * 18 + GAP)


def test_small_tiles_are_means() -> None:
    sheet = sheets.contact_sheet(NAME, count=1, tile=16)
    mean = (2.0 * image(NAME, 0)).reshape(16, 4, 16, 4).mean((1, 3))
    np.testing.assert_allclose(tiles(sheet, 16, 1, 1)[0, 0], mean, atol=1)  # Pillow rounds twice.


def test_large_tiles_repeat_pixels() -> None:
    sheet = sheets.contact_sheet(NAME, count=1, tile=128)
    np.testing.assert_array_equal(tiles(sheet, 128, 1, 1)[0, 0], 2 * image(NAME, 0).repeat(2, 0).repeat(2, 1))


def test_only_what_is_shown_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def create(name: str, **options: Any) -> Any:
        names.append(name)
        return Fractal1(name, **options)

    monkeypatch.setattr(sheets, 'create', create)
    sheet = sheets.contact_sheet('fractal1/classes=1000000,instances=50,size=64,points=3000', count=3, tile=64)
    assert [spec.name() for spec in names] == ['fractal1/classes=3,points=3000,size=64,cache=shared']
    np.testing.assert_array_equal(tiles(sheet, 64, 1, 3)[0, 2], 2 * image(NAME, 2))


def test_all_classes_if_there_are_fewer() -> None:
    assert sheets.contact_sheet(NAME, count=32, tile=16).size == (6 * 18 + GAP, 18 + GAP)


def test_parameter_file(tmp_path: Path) -> None:
    Fractal1(NAME + ',delta=0.3').codes.save(tmp_path / 'x.json')
    sheet = sheets.contact_sheet('fractal1', count=2, tile=64, data_dir=tmp_path / 'x.json')
    np.testing.assert_array_equal(tiles(sheet, 64, 1, 2)[0, 1], 2 * image(NAME + ',delta=0.3', 1))


def test_sweep_rows_are_data_sets() -> None:
    sheet = sheets.sweep(NAME + ',delta=0.9', 'delta', ['0', '0.3'], columns=3, tile=64)
    found = tiles(sheet, 64, 2, 3)
    base = 'fractal1/classes=6,size=64,points=3000,delta='
    for k in range(3):
        np.testing.assert_array_equal(found[0, k], 2 * image(base + '0', k))
        np.testing.assert_array_equal(found[1, k], 2 * image(base + '0.3', k))


def test_sweep_labels_lie_beside_their_rows() -> None:
    tile = 64
    sheet = sheets.sweep(NAME, 'patch', ['fill', 'random'], columns=2, tile=tile)
    margin = np.asarray(sheet)[:, : sheet.width - 2 * (tile + GAP) - GAP]
    ink = margin > 128
    assert not ink[:, :2].any() and not ink[:, -2:].any()
    rows = np.flatnonzero(ink.any(1))
    first, second = rows[rows < tile + GAP], rows[rows >= tile + GAP]
    for own, top in ((first, GAP), (second, 2 * GAP + tile)):
        assert abs(own.mean() - (top + tile / 2)) < 4
    # 'patch=random' is a longer text than 'patch=fill'.
    assert np.flatnonzero(ink[second].any(0)).max() > np.flatnonzero(ink[first].any(0)).max()


@pytest.mark.parametrize('option', ['delta', 'sigma'])
def test_default_sweeps(option: str) -> None:
    name = 'fractal1/size=64,points=3000'
    assert sheets.sweep(name, option, columns=2, tile=16).height == 5 * 18 + GAP


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(option='detla'), "cannot sweep 'detla'; did you mean 'delta'"),
        (dict(option='classes', values=['3']), "cannot sweep 'classes'"),
        (dict(option='cache', values=['none']), "cannot sweep 'cache'"),
        (dict(option='delta', values=['x']), "delta must be a number, got 'x'"),
        (dict(option='delta', values=['1.5']), 'delta must be less than 1, got 1.5'),
        (dict(option='maps', values=['2', '1']), 'maps must be at least 2, got 1'),
        (dict(option='seed'), "values must be given for the option 'seed'"),
        (dict(option='delta', columns=0), 'columns must be from 1 to 10000, got 0'),
    ],
)
def test_sweep_refuses(arguments: Any, message: str) -> None:
    arguments = {'values': None, **arguments}
    with pytest.raises(ValueError, match=message):
        sheets.sweep(NAME, **arguments)


@pytest.mark.parametrize('argument', ['count', 'columns', 'tile'])
def test_sheet_refuses(argument: str) -> None:
    arguments: Any = {argument: 0}
    with pytest.raises(ValueError, match=f'{argument} must be from'):
        sheets.contact_sheet(NAME, **arguments)


def test_output_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"output must end in \.png, or \.gif with --sweep, got '.*x\.jpg': use '.*x\.png'"
    ):
        preview.check_output(tmp_path / 'x.jpg')
    with pytest.raises(FileNotFoundError, match='output must be in an existing folder'):
        preview.check_output(tmp_path / 'missing/x.png')
    preview.check_output(tmp_path / 'x.png')
    assert list(tmp_path.iterdir()) == []


def test_save_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = sheets.contact_sheet(NAME, count=1, tile=16)
    preview.save([sheet], tmp_path / 'x.png')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'x.png')), np.asarray(sheet))

    def save(self: Image.Image, path: Path, *args: Any) -> None:
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', save)
    with pytest.raises(OSError, match='No space'):
        preview.save([sheet], tmp_path / 'y.png')
    assert [path.name for path in tmp_path.iterdir()] == ['x.png']


def test_an_animation_has_a_frame_per_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / 'x.gif')
    assert (
        main(['preview', NAME, '--sweep', 'delta', '--values', '0,0.3', '--count', '3', '--tile', '64', '-o', path])
        == 0
    )
    with Image.open(path) as file:
        assert file.n_frames == 2 and file.info['loop'] == 0
        for frame, delta in enumerate(('0', '0.3')):
            file.seek(frame)
            sheet = sheets.contact_sheet(f'{NAME},delta={delta}', count=3, tile=64)
            picture = np.asarray(file.convert('L'))
            np.testing.assert_array_equal(picture[: sheet.height], np.asarray(sheet))
            assert (picture[sheet.height :] > 128).any()
    with pytest.raises(SystemExit):
        main(['preview', NAME, '-o', path])
    assert 'a .gif file needs --sweep OPTION' in capsys.readouterr().err
