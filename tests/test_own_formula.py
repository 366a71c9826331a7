"""Users' data set types: registered in Python, and by an installed package."""

import dataclasses
import hashlib
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import create_dataset, create_loader

from timm_fractal import parse_name
from timm_fractal._utils import console
from timm_fractal.cli import doctor, export_images, main
from timm_fractal.data import Formula, base, class_generator, create, formula, option, register
from timm_fractal.explore import pictures
from timm_fractal.explore.controls import controls, values, written
from timm_fractal.spec import SPECS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / 'examples' / 'own_formula'
SOURCE = os.environ.get('TIMM_SOURCE', '')


@dataclasses.dataclass(frozen=True)
class Dots(Formula):
    """Dots at positions of the class, and as many at positions of the instance."""

    type = 'dots'

    instances: int = option(2, 'images per class: other dots', low=1, high=100)
    dots: int = option(200, 'number of dots', low=1, high=10_000)


def render_dots(spec, k, instance, generator):
    image = np.zeros((spec.size, spec.size), np.uint8)
    for rng in (class_generator(spec, k), generator):
        y, x = (spec.size * rng.random((2, spec.dots))).astype(int)
        image[y, x] = 255
    return image


@dataclasses.dataclass(frozen=True)
class Colors(Formula):
    """One color per class."""

    type = 'colors'
    mode = 'RGB'
    classes: int = option(10, 'number of colors', low=2, high=100)


def render_colors(spec, k, instance, generator):
    return np.tile((256 * generator.random(3)).astype(np.uint8), (spec.size, spec.size, 1))


@pytest.fixture
def dots(types):
    register(Dots, render_dots)
    register(Colors, render_colors)
    return 'dots/classes=6,size=32'


def images(dataset):
    return np.stack([dataset.stored(number) for number in range(dataset.num_images)])


def test_a_name_with_options_and_errors(dots):
    assert str(parse_name('Dots/SIZE=32,dots=9,classes=6,cache=none')) == 'dots/classes=6,dots=9,size=32'
    assert [field.name for field in Dots.fields()] == (
        ['classes', 'instances', 'dots', 'size', 'seed', 'cache', 'loader']
    )
    for name, words in (
        ('dots/dot=3', "dots: unknown option 'dot'; did you mean 'dots'"),
        ('dots/dots=0', 'dots: dots must be at least 1, got 0'),
        ('dot', "unknown data set 'dot'; did you mean 'dots'"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_name(name)


def test_splits_and_classes(dots):
    train, validation = (create_dataset(dots, split=split, input_img_mode='L') for split in ('train', 'validation'))
    assert len(train) == len(validation) == 12 and train.num_classes == 6 and train[8][1] == 2
    assert len(create('dots/instances=100,classes=2,size=16', 'validation')) == 2 * 25
    both = [images(dataset) for dataset in (train, validation)]
    assert len({image.tobytes() for image in np.concatenate(both)}) == 24
    # All images of a class have its dots.
    for k in range(6):
        of_class = class_generator(train.spec, k).random((2, 200))
        y, x = (32 * of_class).astype(int)
        assert all((part[instance * 6 + k][y, x] == 255).all() for part in both for instance in range(2))
    # Class k does not depend on the number of classes or the cache.
    more = create('dots/classes=9,size=32,cache=none', input_img_mode='L')
    assert all(np.array_equal(more.stored(i * 9 + k), both[0][i * 6 + k]) for i in range(2) for k in range(6))
    assert train.table_bytes == 12 * 32 * 32 and more.table_bytes == 0


def test_one_image_a_class(dots):
    """In the validation split, it is cropped, with changed contrast and brightness, as in image1 and noise1."""
    train, validation = (create('colors/size=32', split) for split in ('train', 'validation'))
    assert train[3][0].mode == 'RGB' and train.stored(3).shape == (32, 32, 3)
    rng = base.stream(0, 11, 3)
    assert train.stored(3)[5, 7].tolist() == (256 * rng.random(3)).astype(int).tolist()
    expected = base.jitter(train.image(3), base.stream(0, 12, 3).random(5).tolist())
    assert np.array_equal(validation.stored(3), np.asarray(expected))


def test_bytes_never_change(dots):
    digests = [
        hashlib.sha256(images(create(name, split)).tobytes()).hexdigest()[:16]
        for name, split in ((dots, 'train'), (dots, 'validation'), ('colors/size=16,seed=3', 'train'))
    ]
    assert digests == ['73f0acb874014c3f', 'c0527a74e438fa14', '24b6cf7c8358ff89']


def test_generators_of_classes(dots):
    spec = parse_name(dots)
    draws = [class_generator(spec, *key).random() for key in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    draws += [class_generator(dataclasses.replace(spec, seed=1), 0).random()]
    assert len(set(draws)) == 7


def test_loaders(dots):
    options = dict(input_size=(3, 32, 32), batch_size=4, device=torch.device('cpu'))
    expected = torch.from_numpy(images(create(dots, 'validation'))).float()
    for suffix, workers in (('', 2), (',loader=device', 0)):
        dataset = create_dataset(dots + suffix, split='validation')
        loader = create_loader(dataset, num_workers=workers, mean=(0,) * 3, std=(1,) * 3, crop_pct=1.0, **options)
        batches, labels = (torch.cat(part) for part in zip(*loader))
        assert labels.tolist() == [*range(6)] * 2
        assert torch.equal((255 * batches[:, 0]).round(), expected)


def test_tools(dots, tmp_path, capsys):
    assert [control.name for control in controls(Dots)] == [field.name for field in Dots.fields()]
    spec = parse_name(dots)
    assert parse_name(written('dots', values(spec))) == spec
    assert pictures.classes(dots, 'train', 4)[0][:4] == b'\x89PNG' and 'pairs of classes' in pictures.verdict(dots)
    assert pictures.sweep('colors/size=16', 'seed', ('0', '1')) and len(pictures.one_class(dots, 3)) == 2
    assert main(['preview', dots, '-o', str(tmp_path / 'dots.png')]) == 0
    export_images.export_images('colors/size=16', tmp_path / 'out', split='all')
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 20
    assert main(['preview', 'dots/dot=3']) == 2 and "did you mean 'dots'" in capsys.readouterr().err


def check(frozen=True, base=Formula, **body):
    """Register a type with one fault."""
    options = body.pop('options', {})
    body = {'type': 'odd', '__module__': __name__, '__annotations__': {k: t for k, (t, _) in options.items()}} | body
    cls = type('Odd', (base,), body | {k: default for k, (_, default) in options.items()})
    register(dataclasses.dataclass(frozen=True)(cls) if frozen else cls, render_dots)


@pytest.mark.parametrize(
    'odd, error, words',
    [
        (dict(type='fractal1'), ValueError, r"Odd: type 'fractal1' is taken by timm_fractal.spec.Fractal1Spec: choose"),
        (dict(type='dots'), ValueError, "type 'dots' is taken by tests.test_own_formula.Dots"),
        (dict(type='torch'), ValueError, "type 'torch' is taken by timm"),
        (dict(type='cifar10'), ValueError, "type 'cifar10' is taken by timm"),
        (dict(type='My-Type'), ValueError, "type must be a lower-case letter .* got 'My-Type'"),
        (dict(frozen=False), TypeError, 'Odd must be a frozen dataclass: put @dataclasses.dataclass'),
        (dict(base=object), TypeError, 'must be a class derived from timm_fractal.data.Formula'),
        (dict(options={'n': (int, 3)}), TypeError, r'n must be declared by option, as in n: int = option\(3'),
        (dict(options={'N': (int, option(3, 'x'))}), ValueError, "option 'N' must have a lower-case name"),
        (dict(options={'n': (bool, option(True, 'x'))}), TypeError, 'n must be an int, a float or a str, got True'),
        (dict(options={'n': (float, option(1, 'x'))}), TypeError, 'n is declared as float, but its default is 1'),
        (dict(options={'n': (str, option('a', 'x'))}), ValueError, r'n is a string and needs choices=\(...\)'),
        (dict(options={'n': (str, option('A', 'x', choices=('A',)))}), ValueError, 'choices of n must be lower-case'),
        (dict(options={'n': (int, option(3, 'x', low=4))}), ValueError, 'odd: n must be at least 4, got 3'),
        (dict(mode='CMYK'), ValueError, "mode must be 'L' or 'RGB', got 'CMYK'"),
    ],
)
def test_a_type_that_cannot_be_registered(dots, odd, error, words):
    with pytest.raises(error, match=words):
        check(**odd)
    assert 'odd' not in SPECS


def test_register_says_what_render_must_be(dots):
    for render in (lambda spec, k: 0, 3):
        with pytest.raises(TypeError, match=r'render must be a function of \(spec, k, instance, generator\)'):
            register(Dots, render)
    register(Dots, render_dots)  # Like running a notebook cell again.


_calls = []


def fails(spec, k, instance, generator):
    raise ZeroDivisionError('no dots')


def returns_floats(spec, k, instance, generator):
    return generator.random((spec.size, spec.size))


def returns_colors(spec, k, instance, generator):
    return np.zeros((spec.size, spec.size, 3), np.uint8)


def returns_a_list(spec, k, instance, generator):
    return [[0] * spec.size] * spec.size


def has_a_state(spec, k, instance, generator):
    _calls.append(k)
    return np.full((spec.size, spec.size), len(_calls) % 256, np.uint8)


@pytest.mark.parametrize(
    'render, words',
    [
        (fails, 'dots/.*: render for class 0, instance 0, failed: ZeroDivisionError: no dots'),
        (
            returns_floats,
            r'must return uint8 of shape \(16, 16\), got float64 of shape \(16, 16\): scale it to 0 to 255',
        ),
        (returns_colors, r"got uint8 of shape \(16, 16, 3\): for color, set mode = 'RGB'"),
        (returns_a_list, 'must return a numpy array, got list'),
        (has_a_state, 'render returned a different image of class 0 when called again'),
    ],
)
@pytest.mark.parametrize('cache', ['shared', 'none'])
def test_a_formula_that_is_wrong_is_refused_when_the_data_set_is_made(dots, render, words, cache):
    register(Dots, render)
    with pytest.raises(ValueError, match=words):
        create_dataset(f'dots/classes=3,size=16,cache={cache}', split='train')


def test_a_slow_formula_is_reported(dots, monkeypatch, caplog):
    monkeypatch.setattr(console, '_warned', set())
    monkeypatch.setattr(formula, 'SLOW_TABLE', 0)
    monkeypatch.setattr(formula, 'SLOW_IMAGE', 0)
    create(dots)
    assert (
        'dots/classes=6,size=32, train split: render takes' in caplog.text and 'all 12 take up to 1 min' in caplog.text
    )
    create(f'{dots},cache=none', 'validation')
    assert 'on access: a worker delivers at most' in caplog.text and 'cache=shared keeps them all' in caplog.text


def test_local_functions_cannot_be_sent_to_workers(dots):
    register(Dots, lambda *arguments: render_dots(*arguments))
    dataset = create(dots)
    with pytest.raises(TypeError, match='not forked need the class of the options and render at the top level of a'):
        pickle.dumps(dataset)
    register(Dots, render_dots)
    again = pickle.loads(pickle.dumps(create(dots)))
    assert np.array_equal(images(again), images(dataset))


def is_alone(spec, k, instance, generator):
    _threads.add(threading.get_ident())
    return render_dots(spec, k, instance, generator)


_threads = set()


@dataclasses.dataclass(frozen=True)
class Alone(Formula):
    """Rendered in one thread."""

    type = 'alone'
    thread_safe = False
    dots: int = option(200, 'number of dots', low=1, high=10_000)


def test_a_formula_that_must_not_run_in_threads(dots):
    register(Alone, is_alone)
    assert len(create('alone/classes=9,size=16')) == 9
    assert _threads == {threading.get_ident()}


def depends_on_classes(spec, k, instance, generator):
    return np.full((spec.size, spec.size), 255 * k // spec.classes, np.uint8)


@pytest.mark.slow
def test_doctor_examines_what_one_data_set_does_not_show(dots):
    register(Dots, depends_on_classes)
    lines = {check.text: check for check in doctor.examine_dataset('dots/classes=6,size=16')}
    assert lines['classes depend on the number of classes'].status == 'warn'
    assert 'from generator' in lines['validation images equal training images'].advice
    (line,) = (check for text, check in lines.items() if text.startswith('another process cannot render it'))
    assert "unknown data set 'dots'" in line.text and 'install the package' in line.advice


# Installed packages.


def install(folder, name, entry, code=''):
    """Write what an installed package consists of: metadata and a module."""
    info = folder / f'{name}-1.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1\n')
    (info / 'entry_points.txt').write_text(f'[timm_fractal.datasets]\n{entry}\n')
    if code:
        (folder / f'{entry.split("=")[1].strip()}.py').write_text(code)


@pytest.fixture
def site(tmp_path, monkeypatch, types):
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return site


RINGS = (EXAMPLE / 'radial_contours.py').read_text().replace("'radial'", "'rings'")


def test_an_installed_type_is_imported_when_it_is_asked_for(site):
    install(site, 'my-rings', 'rings = my_rings_1', RINGS)
    assert 'rings' in SPECS and 'rings' in [*SPECS] and 'my_rings_1' not in sys.modules
    with pytest.raises(ValueError, match="unknown data set 'ring'; did you mean 'rings'"):
        parse_name('ring')
    assert 'my_rings_1' not in sys.modules
    assert len(create_dataset('torch/rings/classes=3,instances=2,size=32', split='train')) == 6
    assert sys.modules['my_rings_1'].RadialContours is SPECS['rings']
    assert any(check.text == 'data set rings from my_rings_1' for check in doctor.types())


@pytest.mark.parametrize(
    'entry, code, words',
    [
        ('rings = my_rings_2', 'import nothing_of_that_name', 'ModuleNotFoundError: No module named'),
        ('rings = my_rings_3', '1 / 0', 'ZeroDivisionError'),
        ('rings = my_rings_4', 'x = 1', "importing 'my_rings_4' registers no type of that name"),
        ('rings = my_rings_5', RINGS.replace("'rings'", "'noise1'"), "type 'noise1' is taken"),
        ('rings = my_rings_6', '', 'ModuleNotFoundError'),
    ],
)
def test_a_broken_package_is_reported_for_its_own_type_alone(site, entry, code, words, caplog):
    install(site, 'my-rings', entry, code)
    assert len(create_dataset('fractal1/classes=2,size=32,points=500', split='train')) == 2
    assert 'rings' not in caplog.text
    with pytest.raises(ValueError, match=f"data set 'rings' of the package my-rings cannot be loaded: .*{words}"):
        parse_name('rings/size=32')
    assert 'rings' not in SPECS.loaded() and "data set 'rings' of the package my-rings cannot" in caplog.text


def test_two_packages_with_one_name(site):
    for number in (7, 8):
        install(site, f'rings{number}', f'rings = my_rings_{number}', RINGS)
    with pytest.raises(ValueError, match="'rings' is in several packages, rings7 and rings8: uninstall all but one"):
        parse_name('rings')


def test_a_package_cannot_take_a_name_of_ours(site, caplog):
    install(site, 'my-noise', 'noise1 = my_noise', RINGS.replace("'rings'", "'noise1'"))
    assert parse_name('noise1').__class__.__module__ == 'timm_fractal.spec' and [*SPECS].count('noise1') == 1
    SPECS.loaded()
    assert "data set 'noise1' of the package my-noise is ignored: the name is taken" in caplog.text
    assert [check.status for check in doctor.types()] == ['warn']


def test_a_name_that_nobody_can_write(site):
    install(site, 'my-rings', 'Rings = my_rings_10', RINGS)
    with pytest.raises(ValueError, match="unknown data set 'rings'"):
        parse_name('Rings')
    _, problems = SPECS.load_all()
    assert problems == [
        "data set 'Rings' of the package my-rings is ignored: a name must be lower-case letters, digits and _"
    ]


def test_types_of_others_cost_nothing_at_import(site):
    install(site, 'my-rings', 'rings = my_rings_9', 'raise SystemExit("imported")')
    code = (
        'import sys, timm_fractal, timm_fractal.spec, timm_fractal.data; '
        "assert not {'numpy', 'torch', 'importlib.metadata'} & sys.modules.keys(), sys.modules.keys()"
    )
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(site), str(ROOT)])}
    subprocess.run([sys.executable, '-c', code], check=True, env=environment)


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Install the example with pip into a separate folder."""
    site = tmp_path_factory.mktemp('installed')
    options = ['--quiet', '--no-deps', '--no-index', '--no-build-isolation', '--target', str(site)]
    subprocess.run([sys.executable, '-m', 'pip', 'install', *options, str(EXAMPLE)], check=True)
    return os.environ | {'PYTHONPATH': os.pathsep.join([str(site), str(ROOT)]), 'OMP_NUM_THREADS': '1'}


WORKERS = """
import torch
from timm.data import create_dataset, create_loader

def batches(workers, context, suffix=''):
    dataset = create_dataset('radial/classes=6,instances=2,size=32' + suffix, split='validation')
    if workers:
        torch.multiprocessing.set_start_method(context, force=True)
    loader = create_loader(dataset, (3, 32, 32), 4, num_workers=workers, device=torch.device('cpu'), crop_pct=1.0)
    return torch.cat([images for images, _ in loader])

if __name__ == '__main__':
    expected = batches(0, '')
    assert expected.std() > 0.3
    for workers, context, suffix in (
        (4, 'fork', ''), (2, 'spawn', ''), (2, 'spawn', ',cache=none'), (0, '', ',loader=device')
    ):
        assert torch.allclose(batches(workers, context, suffix), expected, atol=1e-6), (workers, context, suffix)
    print('same')
"""


@pytest.mark.slow
def test_the_example_with_workers(installed, tmp_path):
    """0 and 4 workers, forked and spawned, and the device loader give the same batches."""
    (tmp_path / 'script.py').write_text(WORKERS)
    command = [sys.executable, 'script.py']
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert done.stdout == 'same\n', done.stderr


@pytest.mark.slow
def test_the_example_at_the_console(installed, tmp_path):
    def run(*arguments):
        command = [sys.executable, '-m', 'timm_fractal', *arguments]
        return subprocess.run(command, cwd=tmp_path, env=installed, check=True, capture_output=True, text=True).stdout

    lines = run('doctor', '--dataset', 'radial/size=32').splitlines()
    assert all(line.startswith('ok') for line in lines) and len(lines) == 6
    assert 'another process renders the same images' in lines[-1]
    run('export', 'radial/classes=4,instances=3,size=32', 'images', '--split', 'all')
    assert len(list((tmp_path / 'images').rglob('*.png'))) == 24


@pytest.mark.slow
def test_the_example_in_a_sweep(installed, tmp_path):
    text = (ROOT / 'tests' / 'test_sweep.py').read_text().split('TINY = """')[1].split('"""')[0]
    (tmp_path / 'train.py').write_text('')
    output = []
    for name in ('radial/classes=16,instances=2,size=48', 'radial/clases=16'):
        (tmp_path / 'tiny.yaml').write_text(re.sub(r"'fractal1/.*?'", f"'{name}'", text))
        command = [
            sys.executable,
            str(ROOT / 'train_scripts' / 'sweep.py'),
            'list',
            'tiny.yaml',
            '--train-py',
            'train.py',
        ]
        done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
        output.append((done.returncode, done.stdout + done.stderr))
    (code, good), (_, bad) = output
    assert code == 0, good
    assert "radial: unknown option 'clases'; did you mean 'classes'" in bad


@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm: its train.py is not run')
@pytest.mark.parametrize('suffix', ['', ',loader=device'])
def test_the_example_in_train_py(installed, tmp_path, suffix):
    words = (
        f'{SOURCE}/train.py --dataset radial/classes=20,instances=2,size=64{suffix} --num-classes 20 --model test_vit '
        f'--img-size 64 --model-kwargs img_size=64 --device cpu --workers 2 --epochs 1 --batch-size 10 --output out'
    )
    subprocess.run([sys.executable, *words.split()], cwd=tmp_path, env=installed, check=True, capture_output=True)
    assert list(tmp_path.glob('out/*/summary.csv'))


def test_the_example_is_as_short_as_is_said():
    assert len((EXAMPLE / 'radial_contours.py').read_text().splitlines()) == 44
    assert 'in 44 lines' in (ROOT / 'docs' / 'own_formula.md').read_text()
