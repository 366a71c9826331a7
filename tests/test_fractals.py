import functools
import hashlib
import itertools
import json
import logging

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from timm_fractal import OFDB, Fractal1, FractalDB, IFSCodes, parse_name
from timm_fractal._utils import console
from timm_fractal._utils.rng import Stream, stream
from timm_fractal.cli import main
from timm_fractal.data import create
from timm_fractal.data import fractals as fractals_data
from timm_fractal.fractal import codes, ifs, search
from timm_fractal.fractal.canvas import unpack
from timm_fractal.fractal.csv_codes import read_category
from timm_fractal.fractal.render import render

from . import oracle

FEW = 'points=3000,size=64'


@pytest.fixture(autouse=True)
def forget_families(monkeypatch):
    fractals_data.known_codes.clear()
    monkeypatch.setattr(console, '_warned', set())


def images(dataset):
    return unpack(np.stack([dataset.stored(number) for number in range(len(dataset))]), dataset.spec.size)


def draw_plainly(system, probs, spec, key, seed):
    """Render one image on its own, with an address sequence sampled one by one."""
    draws = np.random.RandomState(seed).random_sample(spec.points)[:-1]
    path = np.searchsorted(np.cumsum(probs[probs > 0]), draws).astype(np.uint8)
    return render(system[None], path, np.random.SeedSequence(key).generate_state(2)[None], spec.size).bits[0]


def test_classes_are_divided_over_the_fractals():
    dataset = Fractal1(f'fractal1/classes=7,fractals=3,{FEW}')
    assert dataset.codes.bases.shape == (3, 2, 2, 3)
    assert len({base.tobytes() for base in dataset.codes.bases}) == 3
    for k, system in enumerate(dataset.codes.systems):
        ratio = system / dataset.codes.bases[k % 3]
        assert (np.abs(ratio - 1) <= 0.1).all() and np.unique(ratio).size == 12


def test_every_image_has_the_address_sequence_of_its_fractal():
    dataset = Fractal1(f'fractal1/classes=5,fractals=2,instances=2,{FEW}')
    for number in range(10):
        instance, k = divmod(number, 5)
        probs = ifs.probabilities(dataset.codes.bases[k % 2])
        system, key = dataset.codes.systems[k], (20, 2, 0, k, instance)
        expected = draw_plainly(system, probs, dataset.spec, key, 100 + instance)
        assert np.array_equal(dataset.stored(number), expected)


def test_the_first_fractal_is_that_of_fractal1():
    one = Fractal1(f'fractal1/classes=9,{FEW}')
    three = Fractal1(f'fractal1/classes=9,fractals=3,{FEW}')
    assert np.array_equal(three.codes.bases[0], one.codes.bases[0])
    for k in (0, 3, 6):
        assert np.array_equal(three.stored(k), one.stored(k))


def test_as_many_fractals_as_classes():
    dataset = Fractal1(f'fractal1/classes=6,fractals=6,{FEW}')
    assert len({base.tobytes() for base in dataset.codes.bases}) == 6
    with pytest.raises(ValueError, match='fractals must be at most classes = 6, got 7'):
        parse_name('fractal1/classes=6,fractals=7')


def test_few_classes_are_the_first_of_many():
    for few, many in [
        (f'fractal1/classes=5,fractals=2,{FEW}', f'fractal1/classes=9,fractals=2,{FEW}'),
        (f'ofdb/classes=5,{FEW}', f'ofdb/classes=9,{FEW}'),
    ]:
        assert np.array_equal(images(create(few)), images(create(many))[:5])


@pytest.mark.parametrize(
    'name', [f'fractal1/classes=50,fractals=20,{FEW}', f'ofdb/classes=30,seed=1,{FEW}', f'fractal1/classes=40,{FEW}']
)
def test_a_class_needs_no_other(name, monkeypatch):
    looked = []
    find = codes.find_bases
    monkeypatch.setattr(codes, 'find_bases', lambda spec, numbers: looked.extend(numbers) or find(spec, numbers))
    some = create(name, only=[29, 7])
    assert looked == sorted({29 % some.spec.num_bases, 7 % some.spec.num_bases})
    assert not fractals_data.known_codes and some._table is None
    whole = create(name)
    for k in (7, 29):
        assert np.array_equal(some.stored(k), whole.stored(k))
    with pytest.raises(ValueError, match='finite'):
        some.stored(8 if some.spec.num_bases > 1 else 39)


def test_a_search_that_fails_is_one_search(monkeypatch):
    searched = set()
    search_base = search._search_base
    monkeypatch.setattr(search, '_search_base', lambda spec, number: searched.add(number) or search_base(spec, number))
    monkeypatch.setattr(search, 'MAX_BASES', 40)
    with pytest.raises(ValueError, match='none of 40 base fractals sampled from seed=2 covers more than 5%'):
        Fractal1('fractal1/classes=300,fractals=300,sigma=2,seed=2')
    assert searched == {0}


def test_only_classes_that_there_are():
    with pytest.raises(ValueError, match=r'only must contain classes from 0 to 4, got \[5, 9\]'):
        Fractal1(f'fractal1/classes=5,{FEW}', only=[5, 9])


def test_codes_that_are_known_are_not_searched_for_again(monkeypatch):
    name = 'fractal1/classes={},fractals={},' + FEW
    whole = Fractal1(name.format(30, 20))
    monkeypatch.setattr('timm_fractal.data.fractals.find_codes', lambda *_: pytest.fail('searched'))
    for classes, bases in ((25, 20), (20, 20), (8, 8)):
        some = Fractal1(name.format(classes, bases), 'validation')
        assert some.codes.name == str(some.spec) and some.codes.bases.shape[0] == bases
        assert np.array_equal(some.codes.systems, whole.codes.systems[:classes])
    with pytest.raises(pytest.fail.Exception, match='searched'):
        Fractal1(name.format(8, 7))


def test_a_base_survives_perturbation_as_trials_one_by_one_say():
    """The plain rule: at least 4 of 16 trials must not be too empty, independent of order and batching."""
    spec = parse_name('fractal1/fractals=12,classes=12,seed=3')
    found = search.find_bases(spec, list(range(12)))
    for number in (0, 5, 11):
        for attempt in itertools.count():
            base = ifs.sample(2, 3.5, stream(3, Stream.BASE, attempt, number)).round(9)
            rng = stream(3, Stream.TRIAL, attempt, number)
            systems = np.stack([base, *(ifs.perturb(base, 0.1, rng) for _ in range(16))])
            key = np.random.SeedSequence((3, Stream.PATCHES, 0, 0, 0)).generate_state(2)
            fill = render(systems, ifs.addresses(ifs.probabilities(base), 100_000), np.tile(key, (17, 1))).fill
            if fill[0] > 0.05 and (fill[1:] > 0.05).sum() >= 4:
                break
        assert np.array_equal(found[number], base)


def test_categories_are_what_the_search_finds():
    """The table for seed 0 equals the result of the search, and every system passes its test."""
    found = search._found(search._FOUND)
    assert found.shape == (21_000,)
    numbers = (0, 1, 2, 999, 1000, 20_999)
    searched = search._search_together(functools.partial(search._random_search, 0), iter(numbers), len(numbers))
    assert searched == {k: found[k] for k in numbers}
    key = np.zeros((1, 2), np.uint32)
    for system in OFDB('ofdb/classes=40,size=32').codes.systems:
        path = ifs.addresses(ifs.probabilities(system), 100_000)
        assert render(system[None], path, key, 512, 'point').fill[0] >= 0.2


@pytest.mark.parametrize('seed', search._FOUND_SEEDS)
def test_bases_are_what_the_search_finds(seed):
    """Every hundredth base in the table, which has two seeds, is searched again."""
    reference = parse_name(f'fractal1/fractals=1000,seed={seed}').on_reference_canvas()
    numbers = range(0, 1000, 100)
    found = search._search_together(functools.partial(search._sample_base, reference), iter(numbers), len(numbers))
    assert search._found(search._FOUND_BASES).shape == (2, 1000)
    for number in numbers:
        with pytest.raises(StopIteration) as table:
            next(search._search_base(reference, number))
        assert np.array_equal(found[number], table.value.value)


def test_classes_are_what_the_search_finds(monkeypatch):
    """Every thousandth class in the table of the default data set is searched again."""
    numbers = range(0, 21_000, 1_000)

    def find(name):
        found = codes.find_codes(parse_name(name), lambda count, step: [range(count)], only=numbers)
        return found.systems[numbers]

    assert len(search._found(search._FOUND_CLASSES)) == 21_000
    known = find('fractal1/classes=21000')
    assert np.array_equal(find('fractal1/classes=25000,size=64'), known)
    assert not np.array_equal(find('fractal1/classes=21000,perturb=add'), known)
    monkeypatch.setattr(codes, 'default_attempts', lambda reference: np.zeros(0, np.uint8))
    assert np.array_equal(find('fractal1/classes=21000'), known)


def test_searched_systems_are_uniform():
    systems = [ifs.sample_uniform(np.random.default_rng(k)) for k in range(3000)]
    maps = [int((ifs.probabilities(system) > 0).sum()) for system in systems]
    assert np.bincount(maps)[2:] == pytest.approx(np.full(6, 500), rel=0.2)
    values = np.concatenate([system[:n].ravel() for system, n in zip(systems, maps)])
    assert np.histogram(values, 10, (-1, 1))[0] == pytest.approx(np.full(10, len(values) / 10), rel=0.05)
    assert not any(system[n:].any() for system, n in zip(systems, maps))


def test_another_seed_searches_for_itself():
    zero, one = (OFDB(f'ofdb/classes=3,size=32,seed={seed}').codes.systems for seed in (0, 1))
    assert not any(np.array_equal(a, b) for a, b in zip(zero, one))
    again = OFDB('ofdb/classes=2,size=32,seed=1').codes.systems
    assert np.array_equal(one[:2], again)


def test_a_system_with_fewer_maps_never_takes_a_missing_one():
    system = OFDB('ofdb/classes=40,size=32').codes.systems
    few = next(s for s in system if not s[6].any())
    path = ifs.addresses(ifs.probabilities(few), 100_000)
    assert path.max() == np.flatnonzero(ifs.probabilities(few)).max() < 6


def test_instances_scale_one_parameter_and_flip():
    dataset = FractalDB(f'fractaldb/classes=2,instances=100,{FEW},patch=fill')
    system = dataset.codes.systems[1]
    probs = ifs.probabilities(system)
    path = ifs.addresses(probs, 3000)
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
    lost = 0
    for instance in range(100):
        scaled = system.copy()
        if instance % 25:
            place = places[(instance % 25 - 1) // 4]
            scaled[(slice(None), *place)] *= (0.8, 0.9, 1.1, 1.2)[(instance % 25 - 1) % 4]
        expected = render(scaled[None], path, np.zeros((1, 2), np.uint32), 64, 'fill')
        if expected.fill[0] <= 0.05:
            lost += 1
            expected = render(system[None], path, np.zeros((1, 2), np.uint32), 64, 'fill')
        picture = unpack(expected.bits[0], 64)
        flip = instance // 25 % 4
        picture = picture[:: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1]
        assert np.array_equal(unpack(dataset.stored(2 * instance + 1), 64), picture), instance
    assert lost < 25


def test_an_instance_that_would_be_empty_is_not_scaled():
    # A map whose linear part is nearly a rotation, so that the chaos game diverges for some scalings.
    edge = np.zeros((7, 2, 3))
    edge[:2] = [[[0.9, 0.4, 0.3], [-0.4, 0.9, 0.1]], [[0.3, 0.0, -0.8], [0.0, 0.3, 0.6]]]
    spec = parse_name(f'fractaldb/classes=2,instances=25,{FEW},patch=fill')
    given = IFSCodes(str(spec), np.stack([edge, edge]), np.stack([edge, edge]))
    scaled = edge * codes.WEIGHTS[:, None]
    # Judged on the reference's canvas.
    judged = render(scaled, ifs.addresses(ifs.probabilities(edge), 100_000), np.zeros((25, 2), np.uint32), 512)
    lost, kept = judged.fill < 0.045, judged.fill > 0.055  # In between, it depends on the random patches.
    assert lost.any() and kept[0]
    drawn = codes.render_images(spec, 'train', given, range(0, 50, 2))
    alone = render(scaled, ifs.addresses(ifs.probabilities(edge), 3000), np.zeros((25, 2), np.uint32), 64, 'fill')
    assert np.array_equal(drawn.bits[kept], alone.bits[kept])
    assert all(np.array_equal(bits, alone.bits[0]) for bits in drawn.bits[lost])


def test_flips_of_widths_that_are_no_whole_words():
    name = 'fractaldb/classes=2,instances=100,points=3000,patch=fill'
    for size in (50, 64, 100):
        dataset = FractalDB(f'{name},size={size}')
        plain, flipped = (unpack(dataset.stored(2 * instance), size) for instance in (0, 25))
        assert np.array_equal(flipped, plain[:, ::-1]) and flipped.any()


def test_ofdb_is_one_instance_of_fractaldb():
    assert np.array_equal(
        images(OFDB(f'ofdb/classes=6,{FEW}')), images(FractalDB(f'fractaldb/classes=6,instances=1,{FEW}'))
    )


def test_fractaldb_is_drawn_on_access_and_validated_on_less():
    dataset = FractalDB('fractaldb')
    assert len(dataset) == 1_000_000 and dataset._table is None
    assert dataset[999_999][1] == 999
    assert len(FractalDB(f'fractaldb/classes=10,{FEW}', 'validation')) == 250
    assert len(FractalDB(f'fractaldb/classes=10,instances=3,{FEW}', 'validation')) == 30


@pytest.mark.parametrize('name', [f'fractal1/classes=4,fractals=2,{FEW}', f'ofdb/classes=4,{FEW}'])
def test_parameters_are_saved_and_drawn_again(name, tmp_path):
    dataset = create(name)
    dataset.codes.save(tmp_path / 'codes.json')
    fractals_data.known_codes.clear()
    kind = name.split('/')[0]
    again = create(kind, root=tmp_path / 'codes.json')
    assert again.spec == dataset.spec
    assert np.array_equal(images(again), images(dataset))


def test_parameters_of_another_type_are_refused(tmp_path):
    OFDB(f'ofdb/classes=4,{FEW}').codes.save(tmp_path / 'codes.json')
    with pytest.raises(ValueError, match="not for fractal1: 'ofdb/classes=4"):
        Fractal1('fractal1', root=tmp_path / 'codes.json')
    content = json.loads((tmp_path / 'codes.json').read_text())
    (tmp_path / 'codes.json').write_text(json.dumps(content | {'bases': content['bases'][:2]}))
    with pytest.raises(ValueError, match=r'is damaged .* of shape \(2, 7, 2, 3\) and \(4, 7, 2, 3\)'):
        OFDB('ofdb', root=tmp_path / 'codes.json')


# Three maps of a category as published: a, b, c, d, e, f, p of x' = a x + b y + e, y' = c x + d y + f.
ROWS = np.array(
    [
        [0.6, -0.5, 0.5, 0.6, 0.2, 0.5, 0.5],
        [-0.4, 0.7, -0.6, -0.5, 0.6, -0.2, 0.3],
        [0.5, -0.4, -0.3, -0.6, -0.6, -0.3, 0.2],
    ]
)


def category(k):
    """Return the rows of a category of two or three maps, with probabilities not proportional to area."""
    return ROWS[: 2 + k % 2] * [*np.full(6, 1 - 0.02 * k), 1 / ROWS[: 2 + k % 2, 6].sum()]


def write_csv(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, 'wb') as file:
        np.savetxt(file, rows, delimiter=',')  # 18 decimals, as in the authors' search.
    return path


@pytest.fixture
def published(tmp_path):
    """Write seven categories in subfolders; in text order, ``csv10`` and ``10.csv`` would come too early."""
    places = ('csv0/0.csv', 'csv0/1.csv', 'csv0/3.csv', 'csv2/9.csv', 'csv2/10.csv', 'csv10/11.csv', 'csv10/12.csv')
    for k in reversed(range(7)):
        write_csv(tmp_path / 'codes' / places[k], category(k))
    return tmp_path / 'codes'


def draw_as_published(rows, key, spec, weights=1.0, seed=100):
    """Render an image with the authors' loop and the oracle's canvas."""
    rows = rows.copy()
    rows[:, :6] *= weights
    reached, total = [], 0.0
    for p in rows[:, 6]:
        total += p
        reached.append(total)
    path = []
    for draw in np.random.RandomState(seed).random_sample(spec.points)[:-1]:
        for j in range(len(rows)):
            if draw <= reached[j]:
                path.append(j)
                break
    system = [[(a, b, e), (c, d, f)] for a, b, c, d, e, f, _ in rows]
    return np.array(oracle.draw(system, path, np.random.SeedSequence(key).generate_state(2), spec.size, spec.patch))


@pytest.mark.parametrize('cache', ['auto', 'none'])
def test_categories_as_published(published, cache):
    dataset = OFDB(f'ofdb/classes=7,{FEW},cache={cache}', root=published)
    assert len(dataset) == dataset.num_classes == 7 and dataset.codes.bases.shape == (7, 3, 2, 3)
    assert [path.name for path in dataset.files] == [f'{n}.csv' for n in (0, 1, 3, 9, 10, 11, 12)]
    for k in range(7):
        expected = draw_as_published(category(k), (0, Stream.PATCHES, 0, k, 0), dataset.spec)
        assert np.array_equal(np.asarray(dataset.image(k, 'L')), expected)
        assert dataset[k][1] == k
    # Probabilities from areas give different images.
    other = IFSCodes('', dataset.codes.bases, dataset.codes.systems)
    assert not np.array_equal(codes.render_images(dataset.spec, 'train', other, [0]).bits[0], dataset.stored(0))
    few = OFDB(f'ofdb/classes=3,{FEW},cache={cache}', root=published)
    assert np.array_equal(images(few), images(dataset)[:3])


def test_instances_of_published_categories(published):
    dataset = FractalDB(f'fractaldb/classes=7,instances=100,{FEW},patch=fill', root=published)
    places = [(a, weight) for a in range(6) for weight in (0.8, 0.9, 1.1, 1.2)]
    for instance in range(100):
        weights = np.ones(6)
        if instance % 25:
            weights[places[instance % 25 - 1][0]] = places[instance % 25 - 1][1]
        k, flip = instance % 7, instance // 25 % 4
        expected = draw_as_published(category(k), (0,), dataset.spec, weights)
        expected = expected[:: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1]
        assert np.array_equal(np.asarray(dataset.image(7 * instance + k, 'L')), expected)


@pytest.mark.parametrize('patch', ['random', 'fill'])
def test_a_category_is_the_base_of_perturbations(published, patch):
    path = published / 'csv2' / '9.csv'
    name = f'fractal1/classes=5,{FEW},patch={patch}'
    datasets_ = {split: Fractal1(name, split, root=path) for split in ('train', 'validation')}
    system, probs = category(3)[:, [[0, 1, 4], [2, 3, 5]]], category(3)[:, 6]
    for split, dataset in datasets_.items():
        assert np.array_equal(dataset.codes.bases, system[None]) and len(dataset) == 5
        assert (np.abs(dataset.codes.systems / system - 1) <= 0.1).all()
        for k in range(5):
            codes, seed = dataset.codes.systems[k], {'train': 100, 'validation': 100 + 2**31}[split]
            rows = np.column_stack([codes[:, :, :2].reshape(-1, 4), codes[:, :, 2], probs])
            key = (20, Stream.PATCHES, split == 'validation', k, 0)
            assert np.array_equal(
                np.asarray(dataset.image(k, 'L')), draw_as_published(rows, key, dataset.spec, 1, seed)
            )
    assert np.array_equal(*(dataset.codes.systems for dataset in datasets_.values()))
    # Codes of different or default bases are not confused in the cache.
    assert not np.array_equal(
        Fractal1(name, root=published / 'csv0/1.csv').codes.systems, datasets_['train'].codes.systems
    )
    assert Fractal1(name).codes.systems.shape == (5, 2, 2, 3)


@pytest.mark.parametrize(
    'name, root',
    [
        (f'ofdb/classes=5,{FEW}', '.'),
        (f'fractaldb/classes=5,instances=30,{FEW}', '.'),
        (f'fractal1/classes=5,delta=0.2,{FEW}', 'csv0/1.csv'),
    ],
)
def test_published_codes_everywhere(name, root, published, tmp_path, capsys):
    """Equal images when saved as JSON, exported, previewed, measured, and on the device."""
    root = published / root
    kind, dataset = name.split('/')[0], create(name, root=root)
    dataset.codes.save(tmp_path / 'codes.json')
    for split in ('train', 'validation'):
        again = create(kind, split, root=tmp_path / 'codes.json')
        assert again.spec == dataset.spec and len(again.codes.probs) == again.spec.num_bases
        assert np.array_equal(images(again), images(create(name, split, root=root)))
    options = ['--data-dir', str(root)]
    exported = ['--params', str(tmp_path / 'params.json')]
    assert main(['export', name, str(tmp_path / 'out'), *options, *exported]) == 0
    assert (tmp_path / 'params.json').read_text() == (tmp_path / 'codes.json').read_text()
    with Image.open(tmp_path / 'out/train/00004/00004_0.png') as image:
        assert np.array_equal(np.asarray(image), np.asarray(dataset.image(4, 'L')))
    assert 'data_dir' in json.loads((tmp_path / 'out/dataset.json').read_text())
    assert main(['preview', name, *options, '-o', str(tmp_path / 'sheet.png')]) == 0
    assert main(['doctor', '--dataset', name, *options]) == 0
    assert f'{dataset.spec}: ' in capsys.readouterr().out
    device = timm.data.create_dataset(f'{name},loader=device', root=root, split='train')
    loader = timm.data.create_loader(
        device, (1, 64, 64), 5, mean=(0.0,), std=(1.0,), crop_pct=1.0, device=torch.device('cpu')
    )
    pixels, labels = next(iter(loader))
    assert labels.tolist() == list(range(5))
    assert np.array_equal((255 * pixels[:, 0]).round().numpy(), images(dataset)[:5])


def test_redrawn_samples_have_the_probabilities_that_were_read(tmp_path):
    """A map of probability 0 has no effect; one proportional to its area would."""
    rows = np.concatenate([category(0), [[0.9, 0, 0, 0.9, 5, 5, 0]]])
    names = [write_csv(tmp_path / f'{n}.csv', rows[:n]) for n in (2, 3)]
    name = 'fractal1/classes=4,delta=0,size=64,points=20000,patch=fill,loader=device,redraw=true'
    for path in names:
        dataset = Fractal1(name, root=path)
        options = dict(is_training=True, no_aug=True, mean=(0.0,), std=(1.0,), device=torch.device('cpu'))
        (drawn, _), *_ = timm.data.create_loader(dataset, (1, 64, 64), 4, **options)
        overlap = (drawn[:, 0].numpy() > 0) & (np.asarray(dataset.image(0, 'L')) > 0)
        assert overlap.sum() > 0.9 * (drawn > 0).sum() > 0


@pytest.mark.parametrize(
    'text',
    [
        '\ufeff{}\r\n{}\r\n{}\r\n',
        'a,b,c,d,e,f,p\n{}\n{}\n{}',
        '# a, b, c, d, e, f, p\n\n{}\n\n  \n{}\n,,,,,,\n{}\n\n',
    ],
)
def test_ways_to_write_a_category(text, tmp_path):
    rows = [' , '.join(f'{value:.3E}' for value in row) for row in ROWS]
    (tmp_path / 'x.csv').write_bytes(text.format(*rows).encode())
    system, p = read_category(tmp_path / 'x.csv')
    assert np.array_equal(system[:, :, :2].reshape(3, 4), ROWS[:, :4])
    assert np.array_equal(system[:, :, 2], ROWS[:, 4:6]) and np.array_equal(p, ROWS[:, 6])


ROW = '.1,.2,.3,.4,.5,.6,.7\n'


@pytest.mark.parametrize(
    'content, message',
    [
        ('', r'3\.csv is empty: a category has a row a, b, c, d, e, f, p'),
        ('a,b,c,d,e,f,p\n', r'3\.csv is empty'),
        (ROW + '.1,.2,.3,.4,.5,.6\n', r'3\.csv, line 2 must have 7 columns, a,b,c,d,e,f,p, got 6'),
        (ROW + '\n' + ROW[:-1] + ',1\n', r'3\.csv, line 3 must have 7 columns, .* got 8'),
        (ROW.replace(',', ';'), r'3\.csv, line 1 must have 7 columns, .* got 1'),
        ('image,label,c,d,e,f,g\n' + ROW, r"3\.csv, line 1: a must be a number, got 'image'"),
        ('a,b,e,c,d,f,p\n' + ROW, r"3\.csv, line 1: a must be a number, got 'a'"),
        (ROW + 'a,b,c,d,e,f,p\n', r"3\.csv, line 2: a must be a number, got 'a'"),
        (ROW + '.1,.2,x,.4,.5,.6,.7\n', r"3\.csv, line 2: c must be a number, got 'x'"),
        (ROW + '.1,.2,.3,nan,.5,.6,.7\n', r'3\.csv, line 2: d must be a finite number, got nan'),
        (ROW + '.1,.2,.3,.4,-inf,.6,.7\n', r'3\.csv, line 2: e must be a finite number, got -inf'),
        (ROW + '.1,.2,.3,.4,.5,,.7\n', r"3\.csv, line 2: f must be a number, got ''"),
        (ROW + '.1,.2,.3,.4,.5,.6,-.1\n', r'3\.csv, line 2: p must be at least 0, got -0.1'),
        ('.1,.2,.3,.4,.5,.6,0\n' * 2, r'3\.csv: p must be greater than 0 for at least one map'),
        (ROW * 65, r'3\.csv must have at most 64 rows, one for each map, got 65'),
        ('#' * 200_000, r'3\.csv is not a category: it has more than 100,000 bytes'),
        (b'\x89PNG\xff\xfe', r'3\.csv is not a category: it is not text'),
    ],
)
def test_bad_categories(content, message, published):
    (published / 'csv0' / '3.csv').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        OFDB(f'ofdb/classes=7,{FEW}', root=published)
    assert len(OFDB(f'ofdb/classes=2,{FEW}', root=published)) == 2  # Other files are not read.


@pytest.mark.parametrize(
    'name, root, error, message',
    [
        ('ofdb', '.', ValueError, r'got 1000 classes and 7 files: use classes=7'),
        (f'fractaldb/classes=8,{FEW}', '.', ValueError, 'got 8 classes and 7 files: use classes=7'),
        ('ofdb/classes=2', 'csv0/1.csv', ValueError, 'is a single category, but at least 2 are needed'),
        ('ofdb/classes=2', 'empty', ValueError, 'must be a folder of CSV files, .* which has none: leave it out'),
        ('ofdb/classes=2', 'missing', FileNotFoundError, 'missing'),
        ('fractal1', 'missing.csv', FileNotFoundError, r'missing\.csv'),
        (
            'fractal1/maps=3,sigma=4',
            'csv0/1.csv',
            ValueError,
            r'1\.csv defines the base fractal: leave out maps and sigma',
        ),
        ('fractal1/fractals=2', 'csv0/1.csv', ValueError, 'defines the base fractal: leave out fractals'),
        (
            'fractal1',
            'dot.csv',
            ValueError,
            r'the base fractal in the file must cover more than 5% of the image, got 0.\d%',
        ),
        ('image1', 'csv0/1.csv', ValueError, r'1\.csv is not an image Pillow can read'),
    ],
)
def test_roots_that_do_not_fit(name, root, error, message, published):
    (published / 'empty').mkdir()
    write_csv(published / 'dot.csv', ROWS[:2] * [0.1, 0.1, 0.1, 0.1, 1, 1, 1]) if root == 'dot.csv' else None
    with pytest.raises(error, match=message):
        create(name, root=published / root)


def test_probabilities_of_a_parameter_file_are_checked(published, tmp_path):
    OFDB(f'ofdb/classes=2,{FEW}', root=published).codes.save(tmp_path / 'codes.json')
    content = json.loads((tmp_path / 'codes.json').read_text())
    for probs in ([[0.5, 0.5, 0]], [[1, 0, 0], [0.5, 0.6, 0]], [[1, 0, 0], [1.5, -0.5, 0]], [[1, 0], [1, 0]]):
        (tmp_path / 'codes.json').write_text(json.dumps(content | {'probabilities': probs}))
        with pytest.raises(ValueError, match=r"'probabilities' must be nonnegative numbers of shape \(2, 3\)"):
            OFDB('ofdb', root=tmp_path / 'codes.json')


def test_what_is_odd_about_a_folder_is_said_once(published, caplog):
    (published / 'README.md').write_text('x')
    (published / '._1.csv').write_text('what a system leaves behind')
    write_csv(published / 'csv0' / '1.csv', category(1) * [1, 1, 1, 1, 1, 1, 2])
    with caplog.at_level(logging.WARNING):
        for split in ('train', 'validation'):
            twice = OFDB(f'ofdb/classes=7,{FEW}', split, root=published)
    assert [record.getMessage() for record in caplog.records] == [
        f'ofdb: skipped files in {published} that are not CSV files: README.md',
        f'the probabilities p in 1 of 7 files in {published / "csv0"} do not sum to 1 and are divided by their sum '
        f'(1.csv: 2)',
    ]
    assert twice.codes.probs.sum(1) == pytest.approx(np.ones(7), abs=1e-15)


@pytest.mark.parametrize(
    'name, what', [('fractal1', ', which is not a file of IFS codes'), ('noise1', ''), ('visualatom', '')]
)
def test_a_folder_that_is_not_read_is_named(name, what, published, caplog):
    with caplog.at_level(logging.WARNING):
        for split in ('train', 'validation'):
            dataset = timm.data.create_dataset(f'{name}/classes=2,size=64,cache=none', root=str(published), split=split)
    assert caplog.records[0].getMessage() == f'{name}: ignored --data-dir {published}{what}'
    assert not any('nothing is read' in record.getMessage() for record in caplog.records[1:])
    assert dataset.files == ()


# Hashes of the data sets. A change here changes every data set ever named: never update them in passing.
@pytest.mark.parametrize(
    'name, split, expected',
    [
        ('fractal1/classes=6,fractals=4,size=128,seed=15', 'train', '36ce04582a97a9f0'),
        ('ofdb/classes=4', 'train', '4f64d7847d492b1d'),
        ('ofdb/classes=4,size=100,seed=1', 'validation', '92bb4d10b2de6882'),
        ('fractaldb/classes=2,instances=100,size=64,points=5000', 'train', '6ed37505fe4c9dfb'),
        ('fractaldb/classes=2,size=64,points=5000', 'validation', '515a08676a50edd0'),
    ],
)
def test_same_name_same_bytes(name, split, expected):
    dataset = create(name, split)
    stored = b''.join(np.ascontiguousarray(dataset.stored(number)).tobytes() for number in range(len(dataset)))
    assert hashlib.sha256(stored).hexdigest()[:16] == expected
