"""The explorer: controls, pictures, uploads, the command for train.py, the page over HTTP."""

import contextvars
import dataclasses
import email.message
import inspect
import io
import os
import re
import runpy
import shlex
import struct
import subprocess
import sys
import types
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.explorer import explorer
from timm_fractal import Fractal1, cli, parse_name
from timm_fractal.augment import create_augment
from timm_fractal.data import create as create_of_name
from timm_fractal.data import photos, separability
from timm_fractal.data.base import watcher
from timm_fractal.explore import pictures, recipes, samples, sheets, uploads, weights
from timm_fractal.explore.controls import controls, steps, values, written
from timm_fractal.explore.turns import Superseded, Turns
from timm_fractal.fractal import codes
from timm_fractal.spec import SPECS, Spec, option

ROOT = Path(__file__).parent.parent
NAME = 'fractal1/classes=6,points=3000,size=64'

NAMES = [
    *SPECS,
    'fractal1/classes=21000,delta=0.0005,sigma=4.25,maps=3,perturb=add',
    'fractal1/loader=device,redraw=true',
    'image1/delta=1.0,view=rgb,warp=elastic',
    'visualatom/atoms=3,delta=0.25',
]


def test_every_option_has_a_control() -> None:
    for spec in SPECS.values():
        assert [control.name for control in controls(spec)] == [field.name for field in spec.fields()]
        for control in controls(spec):
            assert control.info
            if control.kind == 'slider':
                assert control.ends[0] <= control.value <= control.ends[1] and control.step > 0
            if control.kind == 'words':
                assert control.value in control.choices


def test_a_new_type_has_controls() -> None:
    @dataclasses.dataclass(frozen=True)
    class NewSpec(Spec):
        type = 'new'
        strength: float = option(0.5, 'how strong', low=0, below=2)
        count: int = option(3, 'how many', low=1)
        way: str = option('up', 'where to', choices=('up', 'down'))

    strength, count, way = controls(NewSpec)[1:4]
    assert (strength.kind, strength.ends, strength.step, strength.info) == ('slider', (0, 2), 0.01, 'how strong')
    assert (count.kind, count.info) == ('number', 'how many (at least 1)')
    assert (way.kind, way.choices) == ('words', ('up', 'down'))


def test_numbers_are_as_people_write_them() -> None:
    infos = {control.name: control.info for control in controls(SPECS['fractal1'])}
    assert infos['classes'] == 'number of perturbed fractals, one per class (at least 2, at most 1,000,000)'
    by_name = {control.name: control for control in controls(parse_name('fractal1/maps=3'))}
    assert (by_name['sigma'].ends, by_name['sigma'].step, by_name['delta'].step) == ((0, 9), 0.1, 0.01)


@pytest.mark.parametrize('name', NAMES)
def test_name_and_controls_agree(name: str) -> None:
    spec = parse_name(name)
    assert parse_name(written(spec.type, values(spec))) == spec
    # Browsers do not distinguish integers from floats.
    as_floats = [float(value) if isinstance(value, int) else value for value in values(spec)]
    assert written(spec.type, as_floats) == written(spec.type, values(spec))


@pytest.mark.parametrize(
    'kind, changes, words',
    [
        ('fractal1', {'delta': 1}, 'delta must be less than 1, got 1'),
        ('fractal1', {'sigma': 7.5}, 'sigma must be less than 3 * maps = 6'),
        ('fractal1', {'classes': 2.5}, "classes must be an integer, got '2.5'"),
        ('fractal1', {'classes': None}, 'classes must have a value'),
        ('fractal1', {'redraw': 'true'}, 'redraw=true needs loader=device'),
        ('visualatom', {'delta': 0.5}, 'delta=0.5 needs atoms'),
        ('noise1', {'size': 15}, 'size must be at least 16'),
    ],
)
def test_errors_of_controls(kind: str, changes: dict[str, Any], words: str) -> None:
    given = [changes.get(control.name, control.value) for control in controls(SPECS[kind])]
    with pytest.raises(ValueError, match=re.escape(f'{kind}: {words}')):
        parse_name(written(kind, given))


def test_steps_are_valid() -> None:
    for name in NAMES:
        spec = parse_name(name)
        for each in sheets.sweepable(spec):
            texts = steps(spec, each)
            assert texts, (name, each)
            for text in texts:
                kind: Any = type(getattr(spec, each))
                assert getattr(dataclasses.replace(spec, **{each: kind(text)}), each) == kind(text)


# Pictures.


def decode(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_classes_are_those_of_the_sheet() -> None:
    found = pictures.classes(NAME, 'validation', 4)
    assert len(found) == 4 and len(pictures.classes(NAME, 'train', 40)) == 6
    for image, expected in zip(found, sheets.tiles(NAME, 'validation', 4)):
        np.testing.assert_array_equal(decode(image), np.asarray(expected))
    # Cached by canonical name.
    assert pictures.classes(NAME + ',loader=device', 'validation', 4) is found


def test_one_class() -> None:
    large, instances = pictures.one_class(NAME, 5)
    image = np.asarray(Fractal1(NAME, input_img_mode='L')[5][0])
    np.testing.assert_array_equal(decode(large), 2 * image)
    sheet = sheets.class_sheet(NAME, 5, count=3, tile=64)
    several = Fractal1(NAME + ',instances=3', input_img_mode='L')
    right = np.asarray(sheet)[2:66, -66 * 3 - 2 + 2 : -2]
    for place in range(3):
        tile = right[:, 66 * place : 66 * place + 64]
        np.testing.assert_array_equal(tile, 2 * np.asarray(several[5 + 6 * place][0]))
    assert decode(instances).shape[0] == 2 * 194 + 2
    with pytest.raises(ValueError, match='class must be from 0 to 5, got 6'):
        pictures.one_class(NAME, 6)
    with pytest.raises(ValueError, match='class must be at most 99 on this page, got 100'):
        pictures.one_class('fractal1', 100)


def test_the_verdict_is_that_of_the_doctor() -> None:
    name = 'fractal1/classes=20,size=64,points=5000'
    found = separability.measure(create_of_name(name))
    words = pictures.verdict(name)
    assert f'{found.confused:.1%} of the pairs' in words and f'{found.nearest:.0%} of the crops' in words
    assert 'The classes can be told apart' in words and words.startswith('\N{CHECK MARK}')
    assert pictures.verdict('noise1/classes=20,size=64,delta=0.01').startswith('\N{WARNING SIGN}')
    assert 'cannot be compared' in pictures.verdict('visualatom/classes=4,size=64')
    with pytest.raises(ValueError, match='image1 needs an image: upload one in the box "Photograph"'):
        pictures.verdict('image1/classes=4,size=64')


def test_a_class_of_many_fractals_is_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = codes.find_bases
    monkeypatch.setattr(codes, 'find_bases', lambda spec, numbers: looked.extend(numbers) or real(spec, numbers))
    name = 'fractal1/fractals=1000,size=64,points=5000'
    image = sheets.class_image(name, 700)
    assert looked == [700]
    assert image.tobytes() != sheets.class_image(name, 701).tobytes()
    sheets.class_sheet(name, 700, tile=64)
    assert set(looked) == {700, 701}


@pytest.mark.parametrize('images', [1, 100])
def test_the_verdict_renders_no_more_than_it_looks_at(
    images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(images):
        Image.linear_gradient('L').rotate(3 * number).save(tmp_path / f'{number:03}.png')
    rendered: list[int] = []
    read: list[str] = []
    render, read_image = photos.Image1._render_one, photos.read_image
    monkeypatch.setattr(photos.Image1, '_render_one', lambda self, k: rendered.append(k) or render(self, k))
    monkeypatch.setattr(photos, 'read_image', lambda path, *rest: read.append(path.name) or read_image(path, *rest))
    source = uploads.local(tmp_path)
    assert 'of the pairs of classes' in pictures.verdict('image1/classes=4095,size=32', source=source)
    assert sorted(rendered) == sorted(2 * [*range(64)])
    assert sorted(set(read)) == [f'{number:03}.png' for number in range(min(64, images))]
    pictures.classes('image1/classes=4095,size=32', 'train', 32, source=source)
    assert sorted(rendered[128:]) == [*range(32)]


def test_published_weights(tmp_path: Path) -> None:
    name = 'test_vit.fractal1_1k'
    head, line, data, samples = weights.card(name).splitlines()[:4]
    assert (head, line, samples) == ('| license | apache-2.0 |', '| --- | --- |', '| samples | 1,792,000 |')
    assert data.startswith('| data set | `fractal1/')
    assert weights.picture(name).mode == 'RGB'
    path = tmp_path / 'text.jpg'
    Image.linear_gradient('L').save(tmp_path / 'gradient.png')
    found = weights.resemblances(name, str(tmp_path / 'gradient.png'))
    labels, probabilities, images = zip(*found)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert len({image.tobytes() for image in images}) == len(set(labels)) == 5
    with pytest.raises(ValueError, match='text.jpg is not an image that can be shown here'):
        path.write_text('no image')
        weights.resemblances(name, str(path))
    with pytest.raises(ValueError, match='at most 25,000,000 pixels'):
        weights.resemblances(name, str(bomb(tmp_path / 'bomb.png', 40_000, 40_000)))


def test_weights_that_do_not_say_their_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'test_vit.fractal1_1k'
    Image.linear_gradient('L').save(tmp_path / 'gradient.png')
    for said in ({}, {'dataset': 'images in a folder'}):
        entry = dataclasses.replace(weights.manifest()[name], provenance=said)
        monkeypatch.setattr(weights, 'manifest', lambda entry=entry: {name: entry})
        assert weights.card(name).count('| data set |') == len(said)
        assert {image for _, _, image in weights.resemblances(name, str(tmp_path / 'gradient.png'))} == {None}


def test_resemblances_are_those_of_the_picture_as_it_is_seen(tmp_path: Path) -> None:
    """As image1 reads it: upright, with all bits, on white."""
    name = 'test_vit.fractal1_1k'
    gradient = Image.radial_gradient('L').resize((200, 100))
    gradient.paste(0, (0, 0, 90, 40))
    seen = {}
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.rint(np.asarray(gradient) * (4095 / 255)).astype(np.uint16))
    ghost = gradient.convert('RGBA')
    ghost.putalpha(gradient.point([0] * 100 + [255] * 156))
    white = Image.composite(gradient, Image.new('L', gradient.size, 255), ghost.getchannel('A'))
    for key, image, options in (
        ('plain', gradient, {}),
        ('turned', gradient.transpose(Image.Transpose.ROTATE_90), {'exif': exif}),
        ('deep', deep, {}),
        ('white', white, {}),
        ('ghost', ghost, {}),
    ):
        image.save(tmp_path / f'{key}.png', **options)
        seen[key] = weights.resemblances(name, str(tmp_path / f'{key}.png'))
    assert seen['turned'] == seen['deep'] == seen['plain'] != seen['white'] == seen['ghost']


def test_what_is_rendered_is_bounded() -> None:
    spec, words = pictures.shown(parse_name('fractal1/size=4096,points=100000000'))
    assert spec.name() == 'fractal1/points=500000'
    assert words == 'shown with size 512 instead of 4,096, points 500,000 instead of 100,000,000'
    assert pictures.shown(parse_name('visualatom')) == (parse_name('visualatom'), '')
    with pytest.raises(ValueError, match='points must be at most 500,000 on this page'):
        pictures.sweep(NAME, 'points', ('3000', '1000000'))
    with pytest.raises(ValueError, match='values must be at most 6, got 7'):
        pictures.sweep(NAME, 'seed', tuple('1234567'))
    with pytest.raises(ValueError, match='delta must be a number'):
        pictures.sweep(NAME, 'delta', ('x',))


def test_parameters_of_many_names_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, '_FAMILIES', 2)
    for seed in range(4):
        pictures.classes(f'{NAME},seed={seed + 50}', 'train', 4)
        assert len(pictures.fractals.known_codes) <= 2


# Uploads.


def photo_file(folder: Path, color: str) -> Path:
    folder.mkdir()
    image = Image.linear_gradient('L').convert('RGB')
    image.paste(color, (20, 20, 120, 120))
    image.save(folder / 'photo.png')
    return folder / 'photo.png'


def test_visitors_do_not_mix(tmp_path: Path) -> None:
    """Files of the same name are distinguished, and so is a changed file."""
    name = 'image1/classes=4,size=64'
    first, second = (uploads.photograph(photo_file(tmp_path / color, color)) for color in ('white', 'black'))
    one, two = pictures.classes(name, 'train', 4, source=first), pictures.classes(name, 'train', 4, source=second)
    assert one != two and pictures.classes(name, 'train', 4, source=first) == one
    Path(first.path).write_bytes(Path(second.path).read_bytes())
    assert pictures.classes(name, 'train', 4, source=uploads.photograph(first.path)) == two


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def bomb(path: Path, width: int, height: int) -> Path:
    """Write a PNG file of a few bytes whose header claims this size."""
    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'')))
    return path


def test_uploads_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.setattr(Image.Image, 'load', None)
    with pytest.raises(ValueError, match='must have at most 25,000,000 pixels, got 6000 x 5000'):
        uploads.photograph(bomb(tmp_path / 'a.png', 6000, 5000))
    with pytest.raises(ValueError, match='must have at most 25,000,000 pixels, got more than'):
        uploads.photograph(bomb(tmp_path / 'b.png', 60000, 50000))
    (tmp_path / 'x.png').write_text('no image')
    (tmp_path / 'x.eps').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n')
    for name in ('x.png', 'x.eps'):
        with pytest.raises(ValueError, match=f'^{name} is not an image that can be shown here'):
            uploads.photograph(tmp_path / name)
    with open(tmp_path / 'large.png', 'wb') as file:
        file.truncate(uploads.MAX_BYTES + 1)
    with pytest.raises(ValueError, match='must have at most 20,971,520 bytes, got 20,971,521'):
        uploads.photograph(tmp_path / 'large.png')


def test_no_message_says_where_a_file_lies(tmp_path: Path) -> None:
    source = uploads.photograph(bomb(tmp_path / 'half.png', 300, 300))
    with pytest.raises(ValueError, match='^half.png cannot be used') as info:
        pictures.classes('image1', 'train', 4, source=source)
    assert str(tmp_path) not in str(info.value)


# Training samples.


def test_samples_are_those_of_the_recipe() -> None:
    arguments = (NAME, 'paper', 'test_vit')
    made = samples.samples(*arguments, seed=1)
    assert [(image.size, image.mode) for image in made] == [((160, 160), 'RGB')] * 8
    again = samples.samples(*arguments, seed=1)
    assert [image.tobytes() for image in made] == [image.tobytes() for image in again]
    assert made[0].tobytes() != samples.samples(*arguments, seed=2)[0].tobytes()


def test_samples_without_augmentation_are_the_images() -> None:
    made = samples.samples(NAME, 'no augmentation', 'test_vit')
    image = torch.from_numpy(np.array(Fractal1(NAME, input_img_mode='L')[5][0]))[None, None]
    resize = create_augment((160, 160), is_training=True, no_aug=True, interpolation='bicubic')
    expected = resize.apply(image)[0, 0].numpy()
    assert np.abs(np.asarray(made[5])[..., 0].astype(int) - expected).max() <= 1
    # Six classes: the seventh sample repeats the first.
    assert made[6].tobytes() == made[0].tobytes()


@pytest.mark.parametrize(
    'model, words',
    [
        ('vit_tiny_patch16_22', "unknown model 'vit_tiny_patch16_22'; did you mean 'vit_tiny_patch16_224'"),
        ('', "unknown model ''; for instance vit_tiny"),
        ('eva_giant_patch14_336', None),
        ('vit_so400m_patch14_siglip_gap_896', 'must be at most 640 pixels wide, got 896 x 896'),
    ],
)
def test_models(model: str, words: str | None) -> None:
    if words is None:
        assert samples.model_input(model)[0] == (336, 336)
        return
    with pytest.raises(ValueError, match=words):
        samples.model_input(model)


def test_recipe_is_that_of_the_scripts() -> None:
    script = yaml.safe_load((ROOT / 'train_scripts' / 'pretrain_vit_tiny_fractal1_1k.yaml').read_text())
    assert {key: script[key] for key in recipes.RECIPES['paper']} == recipes.RECIPES['paper']


def test_line_and_file_say_the_same() -> None:
    given = recipes.arguments(parse_name('image1/view=rgb'), 'resnet50', 'paper', 'my photo.jpg')
    line = recipes.command(given)
    first, second = line.splitlines()[:2]
    assert first == "python train.py --dataset image1/view=rgb --num-classes 1000 --data-dir 'my photo.jpg' \\"
    assert second.startswith('    --model resnet50 --mean 0.5 0.5 0.5 ')
    text = recipes.config(given)
    assert yaml.safe_load(text) == given and '&' not in text
    assert '--data-dir photo.jpg' in recipes.command(recipes.arguments(parse_name('image1'), 'resnet50', 'paper'))
    assert '--data-dir' not in recipes.command(recipes.arguments(parse_name(NAME), 'resnet50', 'paper'))
    with pytest.raises(ValueError, match="unknown recipe 'papr'; did you mean 'paper'"):
        recipes.arguments(parse_name(NAME), 'resnet50', 'papr')


SOURCE = os.environ.get('TIMM_SOURCE', '')


@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm: its train.py is not run')
@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_the_line_runs(recipe: str, tmp_path: Path) -> None:
    name = 'fractal1/classes=8,points=3000,size=64'
    line = recipes.command(recipes.arguments(parse_name(name), 'test_vit', recipe))
    words = [sys.executable, f'{SOURCE}/train.py', *shlex.split(line.replace('\\\n', ''))[2:]]
    words += shlex.split('--device cpu --epochs 1 --warmup-epochs 0 --batch-size 8 --workers 0 --output out')
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Train: 0 [   0/1' in done.stderr


# The page.


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    pytest.importorskip('gradio')
    with explorer(NAME) as address:
        yield address


def status(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_page_reads_no_file(address: str) -> None:
    assert status(f'{address}/') == 200
    for path in ('/etc/passwd', str(ROOT / 'pyproject.toml'), 'pyproject.toml', '../pyproject.toml'):
        assert status(f'{address}/gradio_api/file={path}') in (403, 404), path


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='no list of open ports')
def test_page_is_for_this_machine_alone(address: str) -> None:
    port = int(address.rpartition(':')[2])
    lines = [line.split() for table in ('tcp', 'tcp6') for line in Path('/proc/net', table).read_text().splitlines()]
    # Local addresses of listening sockets, in hexadecimal.
    listening = [words[1] for words in lines if words[3] == '0A' and words[1].endswith(f':{port:04X}')]
    assert listening == [f'0100007F:{port:04X}']


@pytest.mark.slow
def test_a_port_that_is_taken(address: str) -> None:
    port = address.rpartition(':')[2]
    command = [sys.executable, '-m', 'timm_fractal', 'explore', '--port', port]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f'port {port} at 127.0.0.1 is in use' in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.slow
def test_without_gradio() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from timm_fractal.cli import main\nsys.exit(main(['explore', 'fractal1']))"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    expected = "pip install 'timm-fractal[explore]', or in a clone pip install '.[explore]'"
    assert done.stderr == f'timm-fractal explore: the page needs Gradio: {expected}\n'


@pytest.mark.slow
def test_gradio_is_imported_when_it_is_used() -> None:
    code = (
        'import sys, timm_fractal.cli.preview, timm_fractal.explore\n'
        "from timm_fractal.cli import main\nassert main(['explore', 'fractl1']) == 2\n"
        "assert main(['explore', '--port', '0']) == 2\nassert 'gradio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_console(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr('timm_fractal.explore.page.launch', lambda *arguments: calls.append(arguments))
    assert cli.main(['explore']) == 0
    assert cli.main(['explore', 'image1', '--data-dir', 'x.jpg', '--port', '8000', '--host', '0.0.0.0']) == 0
    assert calls == [('fractal1', None, None, None), ('image1', 'x.jpg', '0.0.0.0', 8000)]


def test_links_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm_fractal.explore import page

    head = email.message.Message()
    head['Project-URL'] = 'Documentation, https://example.com/docs'
    found = types.SimpleNamespace(metadata=head)
    monkeypatch.setattr(page.metadata, 'distributions', lambda name: [found, found])
    text = page._head()
    assert text.endswith('[Paper](https://arxiv.org/abs/2408.00677) [Documentation](https://example.com/docs)')


def test_space(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm_fractal.explore.page import launch

    folder = ROOT / 'spaces' / 'explorer'
    calls: list[inspect.BoundArguments] = []

    def record(*given: Any, **options: Any) -> None:
        calls.append(inspect.signature(launch).bind(*given, **options))

    monkeypatch.setattr('timm_fractal.explore.page.launch', record)
    runpy.run_path(str(folder / 'app.py'), run_name='__main__')
    assert [call.arguments for call in calls] == [{'name': 'fractal1', 'host': '0.0.0.0', 'port': 7860}]
    _, front, text = (folder / 'README.md').read_text().split('---\n', 2)
    head = yaml.safe_load(front)
    assert head['sdk'] == 'gradio' and (folder / head['app_file']).is_file() and text.strip()
    assert len(head['short_description']) <= 60
    (line,) = (folder / 'requirements.txt').read_text().splitlines()
    extras = line.partition('[')[2].strip(']').split(',')
    assert 'explore' in extras and all(f'\n{extra} = [' in (ROOT / 'pyproject.toml').read_text() for extra in extras)


def test_a_later_turn_ends_a_rendering() -> None:
    turns, seen = Turns(), []

    def render(what: str, later: str) -> None:
        def progress(fraction: float) -> None:
            seen.append(fraction)
            if len(seen) == 2:
                turns.take('visitor', later)

        watcher.set(turns.take('visitor', what, progress))
        create_of_name('ofdb/classes=64,points=2000,size=64,seed=5')

    with pytest.raises(Superseded):
        contextvars.copy_context().run(render, 'sheet', 'sheet')
    assert len(seen) == 2 and seen[0] == 0 < seen[1] < 0.6
    seen.clear()
    contextvars.copy_context().run(render, 'sheet', 'verdict')
    assert len(seen) > 2 and watcher.get() is None
    # A visitor who has left.
    watch, other = turns.take('visitor', 'sheet'), turns.take('other', 'sheet')
    turns.forget('visitor')
    other(0.5)
    with pytest.raises(Superseded):
        watch(0.5)
