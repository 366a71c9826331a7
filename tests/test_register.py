"""Patches of timm, in fresh processes where the order of imports matters."""

import inspect
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from timm.data import auto_augment, dataset_factory, loader

import timm_fractal
from timm_fractal import Fractal1
from timm_fractal.spec import SPECS

SMALL = 'fractal1/classes=12,points=3000,size=64'


def run(code, *options, env=None):
    return subprocess.run([sys.executable, *options, '-c', code], capture_output=True, text=True, check=True, env=env)


def test_timm_gives_our_data_set():
    dataset = timm.data.create_dataset(SMALL, split='train')
    assert isinstance(dataset, Fractal1) and dataset.split == 'train' and len(dataset) == 12
    assert timm.data.create_dataset(SMALL).split == 'validation'
    assert timm.data.create_dataset(name=SMALL.upper(), root=None, split='val').spec == dataset.spec


def test_exactly_the_calls_of_train_py():
    train = timm.data.create_dataset(
        SMALL,
        root=None,
        split='train',
        is_training=True,
        class_map='',
        download=False,
        batch_size=4,
        seed=42,
        repeats=2.0,
        input_img_mode='RGB',
        input_key=None,
        target_key=None,
        num_samples=None,
        trust_remote_code=False,
    )
    validation = timm.data.create_dataset(
        SMALL,
        root=None,
        split='validation',
        is_training=False,
        class_map='',
        download=False,
        batch_size=4,
        input_img_mode='RGB',
        input_key=None,
        target_key=None,
        num_samples=5,
        trust_remote_code=False,
    )
    assert (len(train), len(validation)) == (24, 5)
    # Computed once; both are views if a data set with more classes was made before.
    assert np.shares_memory(train.codes.systems, validation.codes.systems)


def test_timms_seed_does_not_change_images():
    first, second = (timm.data.create_dataset(SMALL, split='train', seed=seed) for seed in (1, 2))
    assert all(first[k][0] == second[k][0] for k in range(12))


@pytest.mark.parametrize(
    'options', [dict(class_map='map.txt'), dict(load_bytes=True), dict(input_key='image'), dict(target_key='label')]
)
def test_options_without_meaning_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} cannot be used with the rendered data set '{SMALL}'"):
        timm.data.create_dataset(SMALL, split='train', **options)


def test_unknown_argument():
    with pytest.raises(TypeError, match="'num_sample'"):
        timm.data.create_dataset(SMALL, split='train', num_sample=3)


@pytest.mark.parametrize('name', ['fractal1/', 'fractal1/detla=0.1', 'torch/fractal1/delta=2'])
def test_bad_names_are_refused_before_any_work(name, monkeypatch):
    monkeypatch.setattr('timm_fractal.fractal.codes.render', lambda *args: pytest.fail('rendered'))
    with pytest.raises(ValueError, match='fractal1'):
        timm.data.create_dataset(name, split='train')


def test_torch_names():
    dataset = timm.data.create_dataset(f'torch/{SMALL}', split='train')
    assert isinstance(dataset, Fractal1) and len(dataset) == 12
    make = dataset_factory._TORCH_BASIC_DS['fractal1']
    dataset = make(train=False, root=None, download=False)
    assert dataset.split == 'validation' and len(dataset) == 1000


def test_other_names_are_timms(tmp_path):
    for kind in ('train', 'validation'):
        for k in ('a', 'b'):
            (tmp_path / kind / k).mkdir(parents=True)
            Image.new('RGB', (8, 8)).save(tmp_path / kind / k / 'image.png')
    for name in ('', 'folder', 'fractal2', 'fractal1x'):
        dataset = timm.data.create_dataset(name, root=str(tmp_path), split='train')
        assert type(dataset) is timm.data.ImageDataset and len(dataset) == 2
    with pytest.raises(TypeError):
        timm.data.create_dataset('other', root=None, split='train')


@pytest.mark.parametrize('name', ['fractal2', 'Fractal', 'fractal1?delta=0.1', 'fractal-1/delta=0.1'])
def test_misspelt_types_are_explained(name):
    with pytest.raises(ValueError, match="unknown data set .* did you mean 'fractal1'"):
        timm.data.create_dataset(name, split='train')


def test_wrappers_look_like_the_originals():
    assert list(inspect.signature(timm.data.create_dataset).parameters)[:3] == ['name', 'root', 'split']
    assert timm.data.create_dataset.__doc__ == timm.data.create_dataset.__wrapped__.__doc__
    assert timm.data.create_dataset is dataset_factory.create_dataset
    assert timm.data.create_loader is loader.create_loader


def test_unregister_leaves_timm_as_it_was():
    tables = auto_augment.NAME_TO_OP, auto_augment.LEVEL_TO_ARG
    names = ('create_dataset', 'create_loader')
    wrapped = [getattr(timm.data, name) for name in names]
    table, operations = dict(dataset_factory._TORCH_BASIC_DS), dict(auto_augment.NAME_TO_OP)
    try:
        timm_fractal.unregister()
        assert [getattr(timm.data, name) for name in names] == [function.__wrapped__ for function in wrapped]
        assert dataset_factory.create_dataset is timm.data.create_dataset
        assert table.keys() - dataset_factory._TORCH_BASIC_DS.keys() == SPECS.keys()
        assert all(operation.__module__ == 'timm.data.auto_augment' for operation in auto_augment.NAME_TO_OP.values())
        assert all('Elastic' not in table for table in tables)
        assert not hasattr(auto_augment.rand_augment_choices, '__wrapped__')
        timm_fractal.unregister()
    finally:
        timm_fractal.register()
    timm_fractal.register()
    assert timm.data.create_dataset.__wrapped__ is wrapped[0].__wrapped__
    assert auto_augment.NAME_TO_OP.keys() == operations.keys()


def make_loader(dataset, **options):
    settings = dict(input_size=(3, 32, 32), batch_size=4, num_workers=1, device=torch.device('cpu'))
    return timm.data.create_loader(dataset, **settings | options)


def test_loader_needs_no_workers():
    batches = list(make_loader(timm.data.create_dataset(SMALL, split='validation'), num_workers=0))
    assert len(batches) == 3
    assert torch.cat([target for _, target in batches]).tolist() == list(range(12))
    assert batches[0][0].shape == (4, 3, 32, 32)


def test_loader_of_other_data_sets_is_timms(tmp_path):
    (tmp_path / 'a').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'a' / 'image.png')
    dataset = timm.data.create_dataset('', root=str(tmp_path))
    mixup = timm.data.FastCollateMixup(mixup_alpha=0.8, num_classes=0)
    assert len(make_loader(dataset, collate_fn=mixup)) == 1


def test_mixup_with_fewer_classes_is_refused():
    dataset = timm.data.create_dataset(SMALL, split='train')
    mixup = timm.data.FastCollateMixup(mixup_alpha=0.8, num_classes=11)
    with pytest.raises(ValueError, match='--num-classes must be at least .* got 11, use --num-classes 12'):
        make_loader(dataset, is_training=True, collate_fn=mixup)
    mixup = timm.data.FastCollateMixup(mixup_alpha=0.8, num_classes=12)
    images, targets = next(iter(make_loader(dataset, is_training=True, collate_fn=mixup)))
    assert images.shape == (4, 3, 32, 32) and targets.shape == (4, 12)


def test_the_papers_augmentation_always_works():
    """At magnitude 10 without noise, PosterizeIncreasing always uses 0 bits."""
    transform = timm.data.rand_augment_transform('rand-m10-inc1-n8', {})
    image = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    random.seed(0)
    np.random.seed(0)
    assert all(transform(image).size == (16, 16) for _ in range(200))


@pytest.mark.parametrize('name', ['Posterize', 'PosterizeIncreasing', 'PosterizeOriginal'])
def test_posterize_is_timms_but_for_zero_bits(name):
    operation = auto_augment.NAME_TO_OP[name]
    for mode in ('L', 'RGB'):
        image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)
        for bits in range(1, 9):
            assert operation(image, bits) == auto_augment.posterize(image, bits)
        black = operation(image, 0)
        assert black.mode == mode and not np.asarray(black).any()


def operations(config, **hparams):
    return [op.name for op in timm.data.rand_augment_transform(config, hparams).ops]


def test_warps_are_operations_of_timms_strings():
    warps = ['Affine', 'Homography', 'Elastic', 'Polynomial']
    assert operations('rand-m9-n2-tshape') == warps
    assert operations('rand-m9-tElastic') == ['Elastic']
    assert operations('rand-m9-tElastic+Rotate+ColorIncreasing') == ['Elastic', 'Rotate', 'ColorIncreasing']
    assert operations('rand-m9-inc1-tdefault+shape') == auto_augment._RAND_INCREASING_TRANSFORMS + warps
    assert operations('rand-m9-tdefault+Affine') == [*auto_augment._RAND_TRANSFORMS, 'Affine']
    # timm's own strings are unchanged.
    assert operations('rand-m9-tRotate') == operations('rand-m9') == auto_augment._RAND_TRANSFORMS
    assert operations('rand-m9-t3a') == auto_augment._RAND_3A
    for typo, hint in (('tshapes', 'shape'), ('tElastc', 'Elastic'), ('tdefault+shpe', 'shape')):
        with pytest.raises(ValueError, match=f"unknown RandAugment set '{typo[1:].replace('+', '.')}'.*{hint}"):
            operations(f'rand-m9-{typo}')
    with pytest.raises(ValueError, match=r"unknown operation 'Rotat' in .* 'shape\+Rotat'; did you mean 'Rotate'\?"):
        operations('rand-m9-tshape+Rotat')


@pytest.mark.parametrize('level', [0, 5, 10])
def test_magnitude_of_a_warp_grows_with_the_level(level, monkeypatch):
    seen = []
    monkeypatch.setattr(
        'timm_fractal.shape.transform.shape_op', lambda image, magnitude, warp, **kw: seen.append(magnitude)
    )
    transform = timm.data.rand_augment_transform(f'rand-m{level}-n1-p1-tPolynomial', {})
    transform(Image.new('RGB', (8, 8)))
    assert seen == [pytest.approx(0.03 * level)]


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_warps_and_timms_operations_together(mode):
    fill = (124, 116, 104) if mode == 'RGB' else 128
    config = 'rand-m9-mstd0.5-n2-tshape+Rotate+Invert'
    transform = timm.data.rand_augment_transform(config, dict(img_mean=fill))
    image = Image.linear_gradient('L').convert(mode)
    random.seed(0)
    np.random.seed(0)
    results = [transform(image) for _ in range(40)]
    assert all(result.size == image.size and result.mode == mode for result in results)
    assert len({result.tobytes() for result in results}) > 25
    pickle.loads(pickle.dumps(transform))(image)  # For spawned workers.


@pytest.mark.slow
def test_two_ranks_see_every_sample_once(tmp_path):
    """With real processes and gloo: the shards are disjoint and complete, and all ranks have the same images."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path / 'store'), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f'rank{rank}.pt', weights_only=True) for rank in range(2)]
    assert sorted(ranks[0]['labels'] + ranks[1]['labels']) == list(range(12))
    assert torch.equal(ranks[0]['sums'], ranks[1]['sums'])
    assert ranks[0]['gathered'] == [ranks[0]['labels'], ranks[1]['labels']]


def _rank(rank, store, folder):
    from timm.data import create_dataset

    torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    dataset = create_dataset(SMALL, split='train')
    batches = make_loader(dataset, batch_size=2, is_training=True, distributed=True)
    labels = torch.cat([target for _, target in batches]).tolist()
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, labels)
    sums = torch.stack([torch.from_numpy(dataset.stored(k)).long().sum() for k in range(12)])
    torch.save(dict(labels=labels, sums=sums, gathered=gathered), f'{folder}/rank{rank}.pt')
    torch.distributed.destroy_process_group()


# In fresh processes.

USE = f"assert len(create_dataset('{SMALL}', split='train')) == 12"


@pytest.mark.slow
@pytest.mark.parametrize(
    'code',
    [
        f'from timm.data import create_dataset; {USE}',
        f'import torch; from timm.data import create_dataset; {USE}',
        f'import timm; from timm.data import create_dataset; {USE}',
        f'from timm.data.dataset_factory import create_dataset; {USE}',
        f'import importlib.util; importlib.util.find_spec("timm.data"); from timm.data import create_dataset; {USE}',
        f'import timm_fractal; from timm.data import create_dataset; {USE}',
    ],
)
def test_an_unedited_script_finds_the_data_set(code):
    run(code)


@pytest.mark.slow
def test_without_the_autoload():
    environment = {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}
    late = (
        'import importlib; from timm.data import create_dataset\n'
        'importlib.import_module("timm_fractal")  # as --device-modules does\n'
    )
    for code in (
        f'import timm_fractal; from timm.data import create_dataset; {USE}',
        f'import timm.data, timm_fractal; from timm.data import create_dataset; {USE}',
        f"{late}assert len(create_dataset('torch/fractal1', split='train', download=False)) == 1000",
    ):
        run(code, env=environment)
    with pytest.raises(subprocess.CalledProcessError):
        run(f'from timm.data import create_dataset; {USE}', env=environment)


def test_import_is_light():
    heavy = "{'numpy', 'torch', 'timm', 'numba', 'PIL', 'tqdm', 'safetensors'} & sys.modules.keys()"
    for module in ('timm_fractal', 'timm_fractal.spec'):
        run(f'import sys, {module}; assert not {heavy}, {heavy}')


def test_torch_alone_pulls_in_nothing():
    run("import sys, torch; assert 'timm_fractal' in sys.modules; assert not {'timm', 'numba'} & sys.modules.keys()")


@pytest.mark.slow
def test_a_timm_of_another_shape_is_reported_and_works():
    code = (
        'import timm.data.dataset_factory as factory; timm_fractal = __import__("timm_fractal")\n'
        'timm_fractal.unregister(); del factory._TORCH_BASIC_DS; timm_fractal.register()\n'
        'assert not hasattr(timm.data.create_dataset, "__wrapped__")\n'
    )
    error = run(f'import timm, timm.data; {code}').stderr
    assert 'timm_fractal is damaged or incompatible with this version of timm' in error


def test_a_failing_import_of_timm_stays_its_own_failure(tmp_path):
    (tmp_path / 'timm').mkdir()
    (tmp_path / 'timm' / '__init__.py').write_text('from . import data')
    (tmp_path / 'timm' / 'data.py').write_text('raise ImportError("broken timm")')
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import timm_fractal\ntry: import timm\n'
    assert run(f'{code}except ImportError as error: print(error)').stdout == 'broken timm\n'


_PROXY = """
import importlib.util, sys

class Proxy:  # Like wrapt's: what is assigned to it reaches the loader inside.
    def __init__(self, inner): object.__setattr__(self, 'inner', inner)
    def __getattr__(self, name): return getattr(self.inner, name)
    def __setattr__(self, name, value): setattr(self.inner, name, value)
    def exec_module(self, module):
        self.inner.exec_module(module)
        print('theirs')

class Finder:
    busy = False
    def find_spec(self, name, path=None, target=None):
        if name != 'timm.data' or self.busy: return None
        self.busy = True
        try: spec = importlib.util.find_spec(name)
        finally: self.busy = False
        spec.loader = Proxy(spec.loader)
        return spec
"""


@pytest.mark.slow
@pytest.mark.parametrize('order', ['theirs first', 'ours first'])
def test_beside_another_import_hook(order):
    """Both are called, in either order."""
    install = 'sys.meta_path.insert(0, Finder())\n'
    steps = [install, 'import timm_fractal\n']
    code = _PROXY + ''.join(steps if order == 'theirs first' else steps[::-1])
    code += "import timm.data\nprint(timm.data.create_dataset('fractal1/classes=2,size=64,points=3000', split='train'))"
    environment = {**os.environ, 'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split('\n')[0] == 'theirs' and 'samples=2' in done.stdout


@pytest.mark.parametrize('kind', ['Mixup', 'NaFlexMixup'])
def test_too_few_outputs_without_the_prefetcher(kind):
    if not hasattr(timm.data, kind):
        pytest.skip('a timm without NaFlex')
    mix = getattr(timm.data, kind)(mixup_alpha=0.8, num_classes=2)
    labels = torch.tensor([0, 1, 2, 5])
    with pytest.raises(ValueError, match='--num-classes must be at least .* a label is 5, got --num-classes 2'):
        if kind == 'Mixup':
            mix(torch.zeros(4, 3, 8, 8), labels)
        else:
            mix([torch.zeros(3, 8, 8)] * 4, labels)


_COUNT = """
def layers(function):
    count = 0
    while hasattr(function, '__wrapped__'):
        function, count = function.__wrapped__, count + 1
    return count

def check():
    import timm.data
    from timm.data import dataset_factory
    for create in (timm.data.create_dataset, dataset_factory.create_dataset):
        assert len(create('fractal1/classes=2,size=64,points=3000', split='train')) == 2
        assert layers(create) == 1
    assert layers(timm.data.create_loader) == 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'what',
    [
        'importlib.reload(timm.data)',
        'importlib.reload(timm.data.dataset_factory)',
        'importlib.reload(timm.data.loader)',
        'importlib.reload(importlib.import_module("timm_fractal.plugin")).register()',
        'importlib.reload(importlib.import_module("timm_fractal.plugin.import_hook")); '
        'importlib.reload(importlib.import_module("timm_fractal.plugin")).register()',
        '[sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "timm"]',
        '[sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "timm_fractal"]; '
        'import timm_fractal',
    ],
)
def test_loaded_again(what):
    run(f'import importlib, sys, timm_fractal, timm.data\n{_COUNT}\ncheck()\n{what}\ncheck()\n{what}\ncheck()')


@pytest.mark.slow
def test_beside_a_plug_in_that_hides_signatures():
    """An earlier wrapper is called; a later one stays when ours is removed."""
    run(
        'import timm.data, torch\n'
        'import sys; timm_fractal = __import__("timm_fractal"); timm_fractal.unregister()\n'
        'raw = timm.data.create_dataset, timm.data.create_loader\n'
        'timm.data.create_dataset = lambda *a, **k: raw[0](*a, **k)\n'
        'timm.data.create_loader = lambda *a, **k: raw[1](*a, **k)\n'
        'timm_fractal.register()\n'
        'for suffix in ("", ",loader=device"):\n'
        '    d = timm.data.create_dataset("fractal1/classes=4,size=64,points=900" + suffix, None, "train", repeats=2)\n'
        '    assert len(d) == 8\n'
        '    loader = timm.data.create_loader(d, (3, 32, 32), 4, num_workers=0, device=torch.device("cpu"))\n'
        '    assert next(iter(loader))[0].shape == (4, 3, 32, 32)\n'
        'ours = timm.data.create_dataset\n'
        'timm.data.create_dataset = later = lambda *a, **k: ours(*a, **k)\n'
        'timm_fractal.unregister()\n'
        'assert timm.data.create_dataset is later\n'
    )


@pytest.mark.slow
def test_a_timm_with_more_arguments():
    """A new argument is ignored at its default; any other value raises an error that names it."""
    run(
        'import functools, inspect, timm.data, torch; timm_fractal = __import__("timm_fractal")\n'
        'timm_fractal.unregister()\n'
        'raw = timm.data.create_loader\n'
        'def create_loader(*args, polish="high", **kwargs): return raw(*args, **kwargs)\n'
        'p = inspect.Parameter("polish", inspect.Parameter.KEYWORD_ONLY, default="high")\n'
        's = inspect.signature(raw)\n'
        'create_loader.__signature__ = s.replace(parameters=[*s.parameters.values(), p])\n'
        'timm.data.create_loader = create_loader\n'
        'timm_fractal.register()\n'
        'd = timm.data.create_dataset("fractal1/classes=4,size=64,points=3000,loader=device", split="train")\n'
        'make = functools.partial(timm.data.create_loader, d, (3, 32, 32), 4, device=torch.device("cpu"))\n'
        'make(); make(polish="high")\n'
        'try: make(polish="low")\n'
        'except ValueError as error: assert "polish" in str(error)\n'
        'else: raise AssertionError\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plugin/import_hook.py', 'spec.py', 'hub/pretrained/manifest.json'])
@pytest.mark.parametrize('damage', ['missing', 'broken'])
def test_a_damaged_installation_leaves_torch_and_timm_alone(tmp_path, name, damage):
    shutil.copytree(Path(timm_fractal.__file__).parent, tmp_path / 'timm_fractal')
    file = tmp_path / 'timm_fractal' / name
    file.unlink() if damage == 'missing' else file.write_text('{ nonsense')
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, timm.data, timm.models; print("fine")'
    done = run(code)
    assert done.stdout == 'fine\n' and 'Traceback' not in done.stderr
    assert 1 <= done.stderr.count('timm_fractal') and ('damaged' in done.stderr)


@pytest.mark.slow
def test_a_script_that_has_bound_the_functions_before():
    """As in train.py with --device-modules: options in the names and loader=device work."""
    run(
        'from timm.data import create_dataset, create_loader\n'
        'import importlib, torch; importlib.import_module("timm_fractal")\n'
        'for prefix in ("torch/", ""):\n'
        '    d = create_dataset(prefix + "fractal1/classes=4,size=64,points=900,loader=device", split="train")\n'
        '    assert len(d) == 4\n'
        'loader = create_loader(d, (3, 32, 32), 4, device=torch.device("cpu"))\n'
        'assert type(loader).__name__ == "DeviceLoader"\n'
        'importlib.import_module("timm_fractal").unregister()\n'
        'assert not hasattr(create_dataset, "__wrapped__")\n',
        env=os.environ | {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'},
    )


@pytest.mark.slow
def test_beside_a_lazy_loader():
    """importlib's LazyLoader executes a module on first attribute access."""
    run(
        'import importlib.util, sys, timm_fractal, timm\n'
        'for name in [name for name in sys.modules if name.startswith("timm.data")]: del sys.modules[name]\n'
        'spec = importlib.util.find_spec("timm.data")\n'
        'spec.loader = importlib.util.LazyLoader(spec.loader)\n'
        'module = importlib.util.module_from_spec(spec)\n'
        'sys.modules["timm.data"] = module\n'
        'spec.loader.exec_module(module)\n'
        'assert len(module.create_dataset("fractal1/classes=2,size=64,points=900", split="train")) == 2\n'
    )
