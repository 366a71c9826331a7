import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from timm_fractal import Fractal1, IFSCodes, parse_name
from timm_fractal._utils.rng import stream
from timm_fractal.data import base as datasets
from timm_fractal.data import fractals as fractals_data
from timm_fractal.fractal import ifs
from timm_fractal.fractal.render import render

SMALL = 'fractal1/classes=12,points=3000,size=64'


@pytest.fixture(autouse=True)
def forget_families():
    fractals_data.known_codes.clear()


def digest(*arrays):
    return hashlib.sha256(b''.join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def pixels(dataset):
    return np.stack([np.asarray(image) for image, _ in dataset])


# Hashes of the data sets. A change here changes every data set ever named: never update them in passing.
@pytest.mark.parametrize(
    'name, split, expected',
    [
        ('fractal1/classes=8', 'train', '4a4e35b4956550f9'),
        ('fractal1/classes=8', 'validation', 'c5b2eeed8c1afe4a'),
        ('fractal1/classes=8,seed=15', 'train', 'd625cdd94fe9cb3a'),
        ('fractal1/classes=8,seed=15', 'validation', 'f6beea68b6d3ff8e'),
        ('fractal1/classes=8,patch=fill,perturb=add,seed=3', 'train', '3c986b8b3c80702b'),
        (
            'fractal1/classes=4,maps=3,sigma=5.0,delta=0.2,points=20000,size=200,seed=15,instances=2',
            'train',
            '026b2fb5af5a3328',
        ),
        ('fractal1/classes=8,patch=point,size=96,seed=15', 'train', '3013002f19525b51'),
    ],
)
def test_same_name_same_bytes(name, split, expected):
    dataset = Fractal1(name, split)
    assert digest(*(dataset.stored(number) for number in range(len(dataset)))) == expected


def test_base_fractal_of_the_default_data_set():
    """The published fractal was never saved; ours is fixed here."""
    base = Fractal1('fractal1/classes=2').codes.bases[0]
    expected = [
        [[-0.24254555, 0.053251574, 0.440932779], [-0.04154578, 0.103279252, 0.911327294]],
        [[-0.992096432, 0.073384724, 0.53144386], [-0.07357071, -0.986387574, 0.1282792]],
    ]
    np.testing.assert_array_equal(base, expected)


def _stack(dataset):
    return np.stack([dataset.stored(number) for number in range(len(dataset))])


def test_samples_are_images_and_labels():
    dataset = Fractal1(SMALL)
    assert len(dataset) == 12 and dataset.num_classes == 12
    for index, (image, label) in enumerate(dataset):
        assert isinstance(image, Image.Image) and image.mode == 'RGB' and image.size == (64, 64)
        assert label == index and type(label) is int
        array = np.asarray(image)
        assert set(np.unique(array)) == {0, 127}
        assert (array == array[:, :, :1]).all()
        assert (array > 0).mean() > 0.05
    assert dataset[-1][1] == 11
    for index in (12, -13):
        with pytest.raises(IndexError, match=f'index {index} is out of range for 12 samples'):
            dataset[index]


@pytest.mark.parametrize('size', [64, 100])
def test_gray_images_have_the_same_pixels(size):
    name = f'fractal1/classes=3,points=3000,size={size}'
    rgb, gray = (pixels(Fractal1(name, input_img_mode=mode)) for mode in ('RGB', 'L'))
    assert gray.shape == (3, size, size)
    assert np.array_equal(rgb[..., 1], gray)


def test_classes_differ_and_splits_share_them():
    name = 'fractal1/classes=12,patch=fill'
    train, validation = (pixels(Fractal1(name, split, input_img_mode='L')) > 0 for split in ('train', 'validation'))

    def overlap(a, b):
        return (a & b).sum() / (a | b).sum()

    own = [overlap(train[k], validation[k]) for k in range(12)]
    other = [overlap(train[j], validation[k]) for k in range(12) for j in range(12) if j != k]
    assert min(own[k] - max(other[11 * k : 11 * k + 11]) for k in range(12)) > 0.05
    assert all((train[k] != validation[k]).any() for k in range(12))


def test_validation_has_other_patches():
    """Pixels cannot be memorized: inside the common support they agree as often as two fair coins."""
    splits = ('train', 'validation')
    supports = [pixels(Fractal1('fractal1/classes=6,patch=fill', split, input_img_mode='L')) > 0 for split in splits]
    lit = [pixels(Fractal1('fractal1/classes=6', split, input_img_mode='L')) > 0 for split in splits]
    common = supports[0] & supports[1]
    assert (lit[0] == lit[1])[common].mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_a_class_does_not_depend_on_the_number_of_classes(split):
    many = Fractal1('fractal1/classes=40,points=3000,size=64', split)
    few = Fractal1(SMALL, split)
    assert np.array_equal(_stack(few), _stack(many)[:12])
    assert np.array_equal(few.codes.systems, many.codes.systems[:12])


@pytest.mark.slow
def test_1k_is_a_prefix_of_21k():
    few = Fractal1('fractal1/points=2000,size=32')
    many = Fractal1('fractal1/points=2000,size=32,classes=21000')
    assert len(many) == 21_000 and many[20_999][1] == 20_999
    assert np.array_equal(_stack(few), many._table[:1000].numpy())


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_cache_does_not_change_images(split):
    cached, fresh = (Fractal1(f'{SMALL},instances=2,cache={cache}', split) for cache in ('shared', 'none'))
    assert cached._table is not None and fresh._table is None
    assert np.array_equal(_stack(cached), _stack(fresh))


def test_large_validation_sets_are_rendered_on_access(monkeypatch):
    monkeypatch.setitem(datasets._CACHE_BYTES, 'validation', 12 * 64 * 8 - 1)
    assert Fractal1(SMALL, 'validation')._table is None
    assert Fractal1(SMALL, 'train')._table is not None
    assert Fractal1(f'{SMALL},cache=shared', 'validation')._table is not None


def test_validation_images_do_not_depend_on_what_was_drawn_before():
    alone = _stack(Fractal1(SMALL, 'validation'))
    fractals_data.known_codes.clear()
    Fractal1(SMALL, 'train')
    assert np.array_equal(_stack(Fractal1(SMALL, 'validation')), alone)


def test_instances_share_a_shape_and_nothing_else():
    dataset = Fractal1(f'{SMALL},instances=3')
    assert len(dataset) == 36
    assert [label for _, label in dataset] == list(range(12)) * 3
    bits = _stack(dataset)
    assert np.array_equal(bits[:12], _stack(Fractal1(SMALL)))
    assert len({image.tobytes() for image in bits}) == 36
    for number in (13, 25):
        instance, k = divmod(number, 12)
        path = ifs.addresses(ifs.probabilities(dataset.codes.bases[0]), 3000, 100 + instance)
        shape = render(dataset.codes.systems[k : k + 1], path, np.zeros((1, 2), np.uint32), 64, 'fill').bits[0]
        assert not np.any(bits[number] & ~shape)


@pytest.mark.parametrize(
    'options, length',
    [
        (dict(repeats=0.0), 12),
        (dict(repeats=0.5), 12),
        (dict(repeats=3), 36),
        (dict(repeats=2.5), 30),
        (dict(num_samples=5), 5),
        (dict(num_samples=30), 30),
        (dict(num_samples=5, repeats=2), 10),
    ],
)
def test_length(options, length):
    dataset = Fractal1(SMALL, **options)
    assert len(dataset) == length
    samples = list(dataset)
    assert [label for _, label in samples] == [index % 12 for index in range(length)]
    assert samples[-1][0] == Fractal1(SMALL)[(length - 1) % 12][0]


def test_transforms_are_applied():
    dataset = Fractal1(SMALL, transform=lambda image: image.size, target_transform=lambda label: -label)
    assert dataset[5] == ((64, 64), -5)


@pytest.mark.parametrize('split', ['train', 'training', 'validation', 'val', 'valid', 'eval', 'evaluation'])
def test_timms_names_of_splits(split):
    assert Fractal1(SMALL, split).split == ('train' if split.startswith('train') else 'validation')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(split='trian'), "unknown split 'trian'; did you mean 'train'"),
        (dict(split='test'), "unknown split 'test'; .*Valid: train, training, validation, val, valid"),
        (dict(input_img_mode='rgb'), "input_img_mode must be one of RGB, L, got 'rgb'"),
        (dict(num_samples=0), 'num_samples must be at least 1, got 0'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Fractal1(SMALL, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, message',
    [
        (
            'fractal1/points=1,seed=7',
            r'class 0 shows no shape on this canvas, only \d of its pixels .*points=1.*: use more points',
        ),
        ('fractal1/points=1,seed=7,cache=none', 'class 0 shows no shape on this canvas'),
        ('fractal1/sigma=0.05,points=500', 'none of 1000 base fractals sampled from seed=20 covers more than 5%'),
        (
            'fractal1/delta=0.3,sigma=0.6,seed=2,maps=2,classes=2',
            r'none of 1000 .* \(sigma=0.6, maps=2\): use another seed or a larger sigma',
        ),
    ],
)
def test_fractals_that_cannot_be_drawn(name, message):
    with pytest.raises(ValueError, match=message):
        Fractal1(name)


@pytest.mark.parametrize(
    'canvas', ['size=64', 'points=2000,size=40,patch=point', 'size=1024,patch=fill', 'instances=2']
)
def test_one_fractal_whatever_the_canvas(canvas):
    """At this delta, every second perturbation is rejected on the reference's canvas and sampled again."""
    name = 'fractal1/classes=40,delta=0.4,fractals=3,seed=15'
    expected = Fractal1(name).codes
    fractals_data.known_codes.clear()
    for split in ('validation', 'train'):
        found = Fractal1(f'{name},{canvas}', split)
        assert np.array_equal(found.codes.bases, expected.bases)
        assert np.array_equal(found.codes.systems, expected.systems)
        assert found.codes.name == str(found.spec)


@pytest.mark.slow
def test_base_that_cannot_be_perturbed_names_seed_and_delta(monkeypatch):
    honest = ifs.perturb
    monkeypatch.setattr(
        ifs, 'perturb', lambda base, delta, *args: honest(base, delta, *args) * (1 if delta == 0.1 else 9)
    )
    with pytest.raises(ValueError, match=r'class 0 is empty or diverges .*\(seed=20, delta=0.2\): use another seed'):
        Fractal1(f'{SMALL},delta=0.2')


def test_empty_classes_are_redrawn_in_their_place():
    """At this delta, every second perturbation diverges or is too empty."""
    name = 'fractal1/classes=300,delta=0.4,points=3000,size=96,seed=15'
    dataset = Fractal1(name)
    base, systems = dataset.codes.bases[0], dataset.codes.systems
    draws = []
    for k in range(300):
        attempts = (ifs.perturb(base, 0.4, stream(15, 1, k, draw)) for draw in range(100))
        draws.append(next(draw for draw, system in enumerate(attempts) if np.array_equal(system, systems[k])))
    assert 100 < np.count_nonzero(draws) < 200
    fresh = Fractal1(f'{name},cache=none')
    for k in np.flatnonzero(draws)[:20]:
        assert np.array_equal(dataset.stored(k), fresh.stored(k))
        assert (np.asarray(dataset[k][0]) > 0).mean() > 0.05


def test_parameters_are_saved_and_drawn_again(tmp_path):
    original = Fractal1(f'{SMALL},seed=3')
    original.codes.save(tmp_path / 'codes.json')
    fractals_data.known_codes.clear()
    for split in ('train', 'validation'):
        loaded = Fractal1('fractal1', split, root=tmp_path / 'codes.json')
        assert loaded.spec == original.spec and len(loaded) == 12
        assert np.array_equal(_stack(loaded), _stack(Fractal1(f'{SMALL},seed=3', split)))
    assert len(Fractal1(f'{SMALL},seed=3,cache=none', root=str(tmp_path / 'codes.json'))) == 12


def test_edited_parameters_are_what_is_drawn(tmp_path):
    codes = Fractal1(SMALL).codes
    IFSCodes(codes.name, codes.bases, codes.systems[::-1].copy()).save(tmp_path / 'codes.json')
    loaded = Fractal1('fractal1', root=tmp_path / 'codes.json')
    assert np.array_equal(loaded.codes.systems[0], codes.systems[-1])
    assert not np.array_equal(loaded.stored(0), Fractal1(SMALL).stored(0))
    assert np.array_equal(loaded.stored(0), Fractal1('fractal1/cache=none', root=tmp_path / 'codes.json').stored(0))


def test_parameter_files_that_do_not_fit(tmp_path):
    codes = Fractal1(SMALL).codes
    path = tmp_path / 'codes.json'
    codes.save(path)
    with pytest.raises(ValueError, match=r"holds 'fractal1/classes=12.*', not 'fractal1/delta=0.2': use the name"):
        Fractal1('fractal1/delta=0.2', root=path)
    IFSCodes(codes.name, codes.bases, codes.systems[:3]).save(path)
    with pytest.raises(ValueError, match=r'is damaged or not for fractal1: .* shape \(1, 2, 2, 3\) and \(3, 2, 2, 3\)'):
        Fractal1('fractal1', root=path)
    path.write_text('{"dataset": ')
    with pytest.raises(ValueError, match='is not a parameter file of timm-fractal, or is damaged'):
        Fractal1('fractal1', root=path)
    with pytest.raises(FileNotFoundError):
        Fractal1('fractal1', root=tmp_path / 'missing.json')
    assert len(Fractal1(SMALL, root=tmp_path)) == 12  # launch scripts always pass a folder


def collate(samples):
    return [(image.tobytes(), label) for image, label in samples]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('cache', ['shared', 'none'])
@pytest.mark.parametrize(
    'method', ['fork', *(pytest.param(name, marks=pytest.mark.slow) for name in ('spawn', 'forkserver'))]
)
def test_workers_give_the_same_bytes(method, cache):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f'{method} does not exist on this system')
    dataset = Fractal1(f'{SMALL},cache={cache}')
    expected = collate(dataset)
    for workers in (1, 4):
        loader = DataLoader(dataset, 5, num_workers=workers, multiprocessing_context=method, collate_fn=collate)
        assert sum(loader, []) == expected


@pytest.mark.slow
def test_workers_share_the_memory_of_the_table():
    """With 12 MB of images, a copy per worker is clearly measurable."""
    dataset = Fractal1('fractal1/classes=384,points=20000')
    assert dataset._table.is_shared()
    table = dataset._table.numel()
    loader = DataLoader(dataset, 96, num_workers=2, multiprocessing_context='spawn', collate_fn=private_bytes)
    growth = [after - before for before, after in loader]
    assert len(growth) == 4
    assert max(growth) < 0.5 * table, (growth, table)


def private_bytes(samples):
    """Return the private bytes of the process before and after reading all images."""
    dataset = torch.utils.data.get_worker_info().dataset
    before = _private()
    for number in range(384):
        dataset.stored(number).sum()
    return before, _private()


def _private():
    with open('/proc/self/smaps_rollup') as file:
        lines = dict(line.split(':') for line in file if line.startswith('Private'))
    return sum(int(value.split()[0]) for value in lines.values()) * 1024


if not os.path.exists('/proc/self/smaps_rollup'):
    test_workers_share_the_memory_of_the_table = pytest.mark.skip('needs /proc')(
        test_workers_share_the_memory_of_the_table
    )


@pytest.mark.slow
def test_another_process_gives_the_same_bytes():
    script = (
        'import sys, hashlib, random, numpy, torch; numpy.random.seed(1); torch.manual_seed(2); random.seed(3)\n'
        'from timm_fractal import Fractal1\n'
        f'images = b"".join(image.tobytes() for image, _ in Fractal1("{SMALL}", sys.argv[1]))\n'
        'print(hashlib.sha256(images).hexdigest())\n'
    )
    for split in ('train', 'validation'):
        expected = hashlib.sha256(b''.join(image.tobytes() for image, _ in Fractal1(SMALL, split))).hexdigest()
        for environment in (dict(PYTHONHASHSEED='1'), dict(LOCAL_WORLD_SIZE='64', RANK='3')):
            run = [sys.executable, '-c', script, split]
            output = subprocess.run(run, env=os.environ | environment, capture_output=True, text=True, check=True)
            assert output.stdout.strip() == expected


def test_global_generators_are_left_alone():
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    list(Fractal1(f'{SMALL},cache=none'))
    assert (np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()) == before


def test_pickled_data_sets_are_the_same():
    dataset = Fractal1(SMALL)
    assert np.array_equal(_stack(pickle.loads(pickle.dumps(dataset))), _stack(dataset))


def test_no_shared_memory_is_explained(monkeypatch):
    def full(self):
        raise RuntimeError('unable to allocate shared memory(shm): No space left on device (28)')

    monkeypatch.setattr(torch.Tensor, 'share_memory_', full)
    with pytest.raises(MemoryError, match=r'not enough shared memory for 0 MB of images .*--shm-size.*cache=none'):
        Fractal1(SMALL)


def test_file_names():
    dataset = Fractal1(f'{SMALL},instances=2', 'val')
    assert dataset.filename(13) == 'validation/00001/00001_1.png'
    assert dataset.filename(13, basename=True) == '00001_1.png'
    assert len(set(dataset.filenames())) == 24


def test_repr_names_the_data_set():
    assert repr(Fractal1(f'{SMALL},cache=none')) == (
        "Fractal1('fractal1/classes=12,points=3000,size=64,cache=none', split='train', samples=12)"
    )


def test_log_names_the_option_that_the_model_needs(caplog):
    with caplog.at_level('INFO', 'timm_fractal'):
        Fractal1(SMALL)
    assert [record.getMessage() for record in caplog.records] == [
        f'{SMALL}, train split: 12 samples, 12 classes; train with --num-classes 12'
    ]


@pytest.mark.parametrize(
    'options',
    [dict(repeats=float('inf')), dict(repeats=1e300), dict(repeats=float('nan')), dict(num_samples=10**30)],
)
def test_an_epoch_that_cannot_be_counted(options):
    with pytest.raises(ValueError, match=r'repeats \(--epoch-repeats\)'):
        Fractal1(SMALL, **options)


def test_a_split_that_is_no_word():
    with pytest.raises(ValueError, match='unknown split None'):
        Fractal1(SMALL, split=None)


def test_negative_zero_has_the_name_of_zero():
    assert str(parse_name('fractal1/delta=-0.0')) == str(parse_name('fractal1/delta=0')) == 'fractal1/delta=0.0'


@pytest.mark.slow
@pytest.mark.parametrize('stream', ['None', "__import__('io').StringIO()"])
def test_without_a_stream_for_progress_images_are_rendered(stream):
    code = (
        # numpy 2.0 cannot be imported without stderr.
        'import sys, timm_fractal.fractal.render_numba\nfrom timm_fractal import Fractal1\n'
        f's = {stream}\nif s is not None: s.close()\nsys.stderr = s\nprint(len(Fractal1("{SMALL}")))'
    ).replace('{SMALL}', SMALL)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == '12'
