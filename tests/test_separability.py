"""The measure of separability, against data sets whose separability is known."""

import logging

import pytest
from PIL import Image
from timm.data import create_dataset

from timm_fractal.cli import main
from timm_fractal.data import create, separability
from timm_fractal.spec import parse_name

SMALL = 'classes=32,size=64,points=5000,patch=fill'


@pytest.fixture(autouse=True)
def nothing_measured():
    separability._measured.clear()


def test_it_falls_with_delta():
    names = [f'fractal1/{SMALL},delta={delta}' for delta in (0, 0.01, 0.05, 0.2, 0.4)]
    values = [separability.measure(create(name)).confused for name in names]
    assert (
        values[:4] == sorted(values[:4], reverse=True) and values[0] > 0.4 and values[1] > 0.25 > 0.1 > max(values[3:])
    )


def test_a_warning_once(caplog):
    name = f'fractal1/{SMALL},delta=0.01'
    with caplog.at_level(logging.WARNING):
        create_dataset(name, split='train')
        create_dataset(name, split='train')
        create_dataset(name, split='validation')
    (record,) = [record for record in caplog.records if 'class pairs' in record.getMessage()]
    assert 'delta=0.01' in record.getMessage()
    assert 'try a larger delta, larger images or more base fractals, or see' in record.getMessage()


def test_a_warning_for_every_photograph(caplog, tmp_path, flower, photo):
    """Also for a changed one; it only suggests existing options."""
    paths = [tmp_path / 'flower.png', tmp_path / 'photo.png']
    for path, picture in zip(paths, (flower, photo)):
        picture.save(path)
    name = 'image1/classes=16,size=64,delta=0.01'
    for path in (*paths, *paths):
        create_dataset(name, root=path, split='train')
    photo.rotate(90).save(paths[0])
    create_dataset(name, root=paths[0], split='train')
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(':')[0] for message in messages] == [
        f'image1/classes=16,delta=0.01,size=64 of {path}' for path in (*paths, paths[0])
    ]
    assert all(': try a larger delta or larger images, or see' in message for message in messages)


@pytest.mark.parametrize(
    'name, root, expected',
    [
        ('fractal1', None, 'a larger delta, patch=fill, larger images or more base fractals'),
        ('fractal1/fractals=1000,patch=fill', None, 'a larger delta or larger images'),
        ('fractal1', 'base.csv', 'a larger delta, patch=fill or larger images'),
        ('image1', 'photo.jpg', 'a larger delta or larger images'),
        ('fractaldb', None, 'patch=fill or larger images'),
        ('ofdb/patch=fill', None, 'larger images'),
        ('noise1', None, 'a larger delta or larger images'),
    ],
)
def test_options_that_there_are(name, root, expected):
    assert separability.suggestions(parse_name(name), root) == expected


@pytest.mark.parametrize('name', ['fractal1', 'ofdb', f'fractal1/{SMALL},delta=0.2', 'visualatom/cache=none'])
def test_no_warning(name, caplog):
    with caplog.at_level(logging.WARNING):
        create_dataset(name, split='train')
    assert not caplog.records


def test_a_failing_measure_does_not_matter(monkeypatch):
    monkeypatch.setattr(separability, 'measure', lambda *_: 1 / 0)
    assert len(create_dataset(f'fractal1/{SMALL}', split='train')) == 32


@pytest.mark.slow
def test_doctor_says_what_to_change(capsys, tmp_path):
    assert main(['doctor', '--dataset', f'fractal1/{SMALL},delta=0.01']) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    delta = float(last.rpartition('use delta=')[2])
    assert last.startswith('warn') and 0.01 < delta < 0.4
    assert main(['doctor', '--dataset', f'fractal1/{SMALL},delta={delta}']) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith('ok')
    assert main(['doctor', '--dataset', 'fractal1/classes=16,size=32,points=5000,seed=15']) == 0
    change = capsys.readouterr().out.rpartition('-> use ')[2].strip()
    assert 'patch=fill' in change and 'delta=' in change
    assert main(['doctor', '--dataset', f'fractal1/classes=16,size=32,points=5000,seed=15,{change}']) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith('ok')
    # Few pairs are confused, and most crops are.
    assert main(['doctor', '--dataset', 'fractal1/delta=0.01']) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last.startswith('warn') and '13.0% of the pairs' in last and '11% of the crops' in last and 'use delta=' in last
    )
    assert main(['doctor', '--dataset', 'noise1/size=32']) == 0
    assert 'use another data set' in capsys.readouterr().out
    Image.linear_gradient('L').save(tmp_path / 'x.png')
    assert main(['doctor', '--dataset', 'image1/classes=8,size=64', '--data-dir', str(tmp_path)]) == 0
    assert main(['doctor', '--dataset', 'fractal2']) == 2


def test_doctor_renders_no_more_than_it_looks_at(capsys, monkeypatch):
    made = []
    real = separability.create
    monkeypatch.setattr(separability, 'create', lambda *a, **k: made.append(a[0]) or real(*a, **k))
    assert main(['doctor', '--dataset', 'fractal1/classes=100000,size=64,points=5000,patch=fill']) == 0
    assert 'the first 64 of 100,000 classes' in capsys.readouterr().out
    assert [spec.classes for spec in made] == [64, 64]


def test_the_log_names_the_classes_of_the_data_set_alone(caplog):
    """Not the classes of the data set made for the comparison."""
    with caplog.at_level('INFO', 'timm_fractal'):
        create_dataset('fractal1/classes=70,points=3000,size=32,patch=fill', split='train')
    said = [record.getMessage() for record in caplog.records if '--num-classes' in record.getMessage()]
    assert len(said) == 1 and 'train split: 70 samples, 70 classes' in said[0]
