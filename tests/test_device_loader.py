"""The device loader against timm's own loader over the same data set, on the CPU."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import timm.data
import torch
from PIL import Image
from timm.data import FastCollateMixup
from torch.utils.data import DistributedSampler

from timm_fractal import Fractal1
from timm_fractal.device_loader import DeviceLoader, ShuffleSampler, create_device_loader

from . import paper

SMALL = 'fractal1/classes=12,points=3000,size=64'
HALF = dict(mean=paper.HALF, std=paper.HALF)


PHOTOS = Path(sklearn.datasets.__file__).parent / 'images'


def create(name=f'{SMALL},loader=device', batch_size=4, split='train', repeats=0, num_samples=None, **options):
    root = PHOTOS if name.startswith('image1') else None
    dataset = timm.data.create_dataset(name, root=root, split=split, repeats=repeats, num_samples=num_samples)
    common = dict(input_size=(3, 32, 32), num_workers=0, device=torch.device('cpu'), **HALF)
    return timm.data.create_loader(dataset, batch_size=batch_size, **{**common, **options})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(42)


@pytest.fixture
def ranks(monkeypatch):
    """Return a function that makes this process one of several ranks."""

    def choose(rank, count):
        monkeypatch.setattr('torch.distributed.is_available', lambda: True)
        monkeypatch.setattr('torch.distributed.get_world_size', lambda *_: count)
        monkeypatch.setattr('torch.distributed.get_rank', lambda *_: rank)
        torch.manual_seed(42 + rank)

    return choose


def numbers(loader):
    """Return the sample numbers of an epoch in order."""
    return [index for batch in loader.batch_sampler for index in batch]


def test_timm_gives_our_loader_when_the_name_says_so():
    loader = create(**paper.LOADER)
    assert isinstance(loader, DeviceLoader) and isinstance(loader.dataset, Fractal1)
    assert not isinstance(create(SMALL, **paper.LOADER), DeviceLoader)
    assert repr(loader).startswith('DeviceLoader(Fractal1(') and "device='cpu'" in repr(loader)


def test_the_loader_is_no_part_of_what_identifies_the_images():
    assert str(create().dataset.spec) == str(create(SMALL).dataset.spec) == SMALL
    # Both are views of one array if the process has computed more classes of this fractal before.
    assert np.shares_memory(create().dataset.codes.systems, create(SMALL).dataset.codes.systems)


@pytest.mark.parametrize('split', ['train', 'validation'])
@pytest.mark.parametrize('options', [{}, dict(interpolation='bicubic', crop_pct=0.95), dict(num_samples=7)])
def test_evaluation_is_that_of_timm(split, options):
    ours, theirs = (create(name, 5, split, **options) for name in (f'{SMALL},loader=device', SMALL))
    assert len(ours) == len(theirs) and not hasattr(ours.sampler, 'set_epoch')
    pairs = list(zip(ours, theirs, strict=True))
    assert len(pairs) == len(ours)
    for (images, labels), (expected, targets) in pairs:
        assert images.dtype == expected.dtype and images.shape == expected.shape
        # One of 255 levels, in a range of 2.
        assert (images - expected).abs().max() < 1.01 * 2 / 255 and (images != expected).float().mean() < 0.01
        assert torch.equal(labels, targets)


@pytest.mark.parametrize('cache', ['auto', 'none'])
@pytest.mark.parametrize(
    'name',
    [
        'fractal1/classes=6,fractals=2,points=3000,size=64',
        'ofdb/classes=6,points=3000,size=72',
        'fractaldb/classes=3,instances=4,points=3000,size=64',
        'noise1/classes=6,size=64',
        'visualatom/classes=3,instances=4,size=64',
        'image1/classes=6,size=64',
        'image1/classes=6,size=64,view=rgb,warp=elastic',
    ],
)
def test_every_data_set(name, cache):
    ours, theirs = (create(f'{name},cache={cache}{loader}', 5, 'validation') for loader in (',loader=device', ''))
    assert isinstance(ours, DeviceLoader)
    for (images, labels), (expected, targets) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, targets)
        assert (images - expected).abs().max() < 2.01 / 255
    images, targets = next(iter(create(f'{name},loader=device', 3, **paper.LOADER)))
    assert images.shape == (3, 3, 32, 32) and images.isfinite().all() and images.std() > 0.1


def test_training_without_augmentation_gives_every_image_to_its_label():
    loader = create(batch_size=3, is_training=True, no_aug=True, re_prob=1.0)
    plain = {label: image for image, label in create(batch_size=1, crop_pct=1.0)}
    plain = {label.item(): image[0] for label, image in plain.items()}
    seen = []
    for images, labels in loader:
        for image, label in zip(images, labels.tolist()):
            assert torch.equal(image, plain[label])
            seen.append(label)
    assert sorted(seen) == list(range(12)) and seen != sorted(seen)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_batch_of_the_papers_training(dtype):
    collate = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=12)
    loader = create(collate_fn=collate, img_dtype=dtype, repeats=8, **paper.LOADER)
    batches = list(loader)
    assert len(batches) == len(loader) == 24
    for images, targets in batches:
        assert images.shape == (4, 3, 32, 32) and images.dtype == dtype and images.is_contiguous()
        assert targets.shape == (4, 12) and torch.allclose(targets.sum(1), torch.ones(4), atol=1e-5)
    together = torch.cat([images for images, _ in batches]).float()
    # After erasing with noise, mixing and warping, all images differ; channels differ in the noise only.
    assert len({image.numpy().tobytes() for image in together}) == len(together)
    differ = (together[:, 0] != together[:, 1]).flatten(1).any(1).float().mean()
    assert 0.35 < differ < 0.65 and -1 < together.mean() < 0 and together.std() > 0.3


def test_last_batch_and_length():
    for batch_size, training, length in ((5, True, 2), (5, False, 3), (12, True, 1), (13, False, 1)):
        loader = create(batch_size=batch_size, is_training=training)
        sizes = [len(labels) for _, labels in loader]
        assert len(loader) == len(sizes) == length
        assert sum(sizes) == (12 // batch_size * batch_size if training else 12)


def test_an_epoch_has_every_sample_once_per_repeat():
    labels = torch.cat([labels for _, labels in create(repeats=3, batch_size=6, is_training=True)])
    assert torch.bincount(labels).tolist() == [3] * 12


def test_several_batches_are_made_at_once(monkeypatch):
    """Their number only changes the random numbers."""
    options = {
        **paper.LOADER,
        'auto_augment': None,
        'color_jitter': None,
        'scale': (1, 1),
        'ratio': (1, 1),
        're_prob': 0,
    }
    batches = {}
    for count in (1, 8, 1000):
        monkeypatch.setattr('timm_fractal.device_loader._AT_ONCE', {'cpu': count})
        loader = create(repeats=3, **{**options, 'hflip': 0, 'vflip': 0})
        calls = []
        (augment,) = loader.augments
        original = augment.make_params
        augment.make_params = lambda count, *rest, calls=calls, original=original: (
            calls.append(count) or original(count, *rest)
        )
        batches[count] = list(loader)
        assert calls == {1: [4] * 9, 8: [8, 8, 8, 8, 4], 1000: [36]}[count]
    for other in (8, 1000):
        for (images, labels), (expected, targets) in zip(batches[1], batches[other], strict=True):
            assert torch.equal(images, expected) and torch.equal(labels, targets)


@pytest.mark.slow
@pytest.mark.parametrize('schedule', ['constant', 'progressive'])
def test_batches_of_several_sizes(schedule):
    pytest.importorskip('timm.data.scheduled_sampler')
    options = dict(
        input_size_choices=[16, (3, 24, 24), (32, 40)],
        batch_size_choices=[8, 6, 4],
        batch_choice_schedule=schedule,
        batch_schedule_epochs=3,
        repeats=20,
        is_training=True,
    )
    ours, theirs = (create(name, **options) for name in (f'{SMALL},loader=device', SMALL))
    assert len(ours) == len(theirs)
    for epoch in range(3):
        shapes = []
        for loader in (ours, theirs):
            loader.batch_sampler.set_epoch(epoch)
            shapes.append([images.shape for images, _ in loader])
        assert shapes[0] == shapes[1] and len(set(shapes[0])) > 1
    with pytest.raises(ValueError, match=r'input_size_choices=.* is not available on the device.*only for training'):
        create(**{**options, 'is_training': False})
    assert ours.batch_sampler.average_batch_size == theirs.batch_sampler.average_batch_size
    # The batch sampler determines the samples of an epoch, however they are grouped.
    [first, again] = [[labels.tolist() for _, labels in ours] for _ in range(2)]
    assert first == again == [[index % 12 for index, _ in batch] for batch in ours.batch_sampler]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('count', [2, 3])
def test_ranks_share_the_samples(ranks, count, training):
    orders, images = [], []
    for rank in range(count):
        ranks(rank, count)
        loader = create(batch_size=2, distributed=True, **{**paper.LOADER, 'is_training': training})
        if training:
            assert isinstance(loader.sampler, DistributedSampler)
            loader.sampler.set_epoch(3)
        orders.append(numbers(loader))
        images.append(torch.cat([batch for batch, _ in loader]))
    assert sorted(sum(orders, [])) == list(range(12))
    assert not torch.equal(images[0], images[1])


def test_repeated_augmentation(ranks):
    counts = []
    for rank in range(2):
        ranks(rank, 2)
        loader = create(repeats=64, distributed=True, num_aug_repeats=2, is_training=True)
        counts.append(len(numbers(loader)))
        # Neighbors are the same sample, one for each rank.
        assert len(set(numbers(loader)[:100])) == 100
    assert counts == [384, 384]
    with pytest.raises(
        ValueError, match=r'num_aug_repeats=2 \(--aug-repeats\) is only for training in several processes'
    ):
        create(num_aug_repeats=2, is_training=True)


@pytest.mark.parametrize('distributed', [False, True])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(ranks, distributed):
    ranks(0, 2 if distributed else 1)
    collate = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=12)

    def epochs(*which):
        torch.manual_seed(42)
        loader = create(collate_fn=collate, distributed=distributed, batch_size=2, **paper.LOADER)
        result = []
        for epoch in which:
            # Other code may use random numbers between epochs.
            torch.rand(3), np.random.rand(5)
            loader.sampler.set_epoch(epoch)
            result.append(list(loader))
        return result

    def same(first, second):
        return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))

    whole, resumed = epochs(0, 1, 2, 3), epochs(2, 3)
    assert same(whole[2], resumed[0]) and same(whole[3], resumed[1])
    assert not same(whole[0], whole[1])


def test_the_data_set_hears_of_the_epoch_for_the_sampler():
    loader = create(**paper.LOADER)
    loader.dataset.set_epoch(3)
    assert loader.sampler.epoch == 3
    assert not hasattr(create(split='validation').dataset, 'set_epoch')
    assert not hasattr(create(SMALL, **paper.LOADER).dataset, 'set_epoch')


def test_epochs_that_nobody_sets_differ():
    loader = create(batch_size=12, **paper.LOADER)
    [(first, _)], [(second, _)] = loader, loader
    assert not torch.equal(first, second)
    torch.manual_seed(43)
    [(other, _)] = create(batch_size=12, **paper.LOADER)
    torch.manual_seed(42)
    [(again, _)] = create(batch_size=12, **paper.LOADER)
    assert not torch.equal(first, other) and torch.equal(first, again)


def test_the_seed_of_the_run_decides_what_is_drawn():
    first, second = create(**paper.LOADER), create(**paper.LOADER)
    assert first.seed == second.seed == first.sampler.seed == 42
    second.seed = 43
    for (images, labels), (others, targets) in zip(first, second, strict=True):
        assert torch.equal(labels, targets) and not torch.equal(images, others)


def test_shuffling():
    sampler = ShuffleSampler(range(1000), seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(7)
    assert first == again != list(sampler) and sorted(sampler) == sorted(first) == list(range(1000))
    assert abs(np.corrcoef(first, range(1000))[0, 1]) < 0.1 and len(sampler) == 1000


def test_global_generators_are_left_alone():
    loader = create(**paper.LOADER)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert len(list(loader)) == 3
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_mixup_can_be_switched_off():
    collate = FastCollateMixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=12)
    loader = create(collate_fn=collate, is_training=True)
    assert loader.mixup_enabled
    loader.mixup_enabled = False
    assert not loader.mixup_enabled and not collate.mixup_enabled
    values = np.unique(torch.cat([targets for _, targets in loader]).numpy().round(5))
    np.testing.assert_allclose(values, [0.1 / 12, 0.9 + 0.1 / 12], atol=1e-4)
    without = create(is_training=True)
    without.mixup_enabled = True
    assert not without.mixup_enabled


@pytest.mark.parametrize('classes', [12, 3])
def test_other_options_of_the_data_set(classes):
    name = f'fractal1/classes={classes},instances=2,points=3000,size=72,cache=none,loader=device'
    labels = torch.cat([labels for _, labels in create(name, batch_size=2)])
    assert labels.tolist() == [*range(classes)] * 2
    ours = torch.cat([images for images, _ in create(name, batch_size=5)])
    theirs = torch.cat([images for images, _ in create(name.replace(',loader=device', ''), batch_size=5)])
    assert (ours - theirs).abs().max() < 1.01 * 2 / 255


def test_channels():
    dataset = Fractal1(f'{SMALL},loader=device')
    for input_size, mean, channels in (
        ((1, 32, 32), (0.5,), 1),
        ((3, 32, 40), (0.4, 0.5, 0.6), 3),
        (32, (0.5,) * 3, 3),
    ):
        loader = timm.data.create_loader(
            dataset, input_size, 4, mean=mean, std=mean, device=torch.device('cpu'), is_training=True
        )
        images, _ = next(iter(loader))
        assert images.shape[:2] == (4, channels)
        assert images.shape[2:] == ((32, 32) if isinstance(input_size, int) else input_size[1:])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(auto_augment='augmix-m5-w3'), "auto_augment='augmix-m5-w3'"),
        (dict(collate_fn=FastCollateMixup(mode='elem', num_classes=12)), "mixup_mode='elem'"),
        (dict(collate_fn=len), 'collate_fn=<built-in function len>'),
        (dict(re_split=True), 're_split=True.*leave out --resplit'),
        (dict(num_aug_splits=3), 'num_aug_splits=3.*leave out --aug-splits'),
        (dict(tf_preprocessing=True), 'tf_preprocessing=True'),
        (dict(train_crop_mode='rkrr'), "train_crop_mode='rkrr'"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message) as error:
        create(**{'is_training': True, **options})
    assert 'is not available on the device' in str(error.value) and 'use the standard loader' in str(error.value)
    with pytest.raises(ValueError, match='use --num-classes 12'):
        create(is_training=True, collate_fn=FastCollateMixup(num_classes=3))


def test_options_of_a_newer_timm_are_refused_if_they_ask_for_something():
    dataset = Fractal1(SMALL)
    for training in (True, False):
        loader = create_device_loader(dataset, 32, 4, is_training=training, device='cpu', novelty=None)
        assert len(loader) == 3
        with pytest.raises(ValueError, match='novelty=3 is not available on the device'):
            create_device_loader(dataset, 32, 4, is_training=training, device='cpu', novelty=3)


def test_augmentation_splits_are_refused():
    """train.py wraps the data set in timm's AugMixDataset."""
    dataset = timm.data.create_dataset(f'{SMALL},loader=device', split='train')
    wrapped = timm.data.AugMixDataset(dataset, num_splits=3)
    with pytest.raises(ValueError, match='AugMixDataset with .*: loader=device supports .* leave out --aug-splits'):
        timm.data.create_loader(wrapped, (3, 32, 32), 4, is_training=True, num_aug_splits=3)


def test_a_device_without_double_precision_is_refused():
    with pytest.raises(ValueError, match="device='mps' is not available on the device.*cpu and cuda are"):
        create_device_loader(Fractal1(SMALL), 32, 4, device='mps')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(
        ValueError, match=r"device='cuda', timm's default, is not available: use device=torch.device\('cpu'\)"
    ):
        timm.data.create_loader(Fractal1(f'{SMALL},loader=device'), 32, 4)


@pytest.mark.parametrize('redraw', [False, True])
def test_the_log_tells_where_batches_come_from(redraw, caplog):
    caplog.set_level('INFO', 'timm_fractal')
    create(f'{SMALL},loader=device{",redraw=true" * redraw}', is_training=True)
    what = 'each sample is rendered anew' if redraw else '12 images take 0 MB'
    assert caplog.messages[-1] == f'{SMALL}, train split: device loader on cpu, {what}'


def test_target_transforms_are_refused():
    dataset = Fractal1(f'{SMALL},loader=device', target_transform=float)
    with pytest.raises(ValueError, match='target_transform='):
        timm.data.create_loader(dataset, 32, 4, device=torch.device('cpu'))


def test_parameter_files_keep_the_loader(tmp_path):
    path = tmp_path / 'codes.json'
    Fractal1(SMALL).codes.save(path)
    spec = Fractal1('fractal1/loader=device', root=path).spec
    assert spec.loader == 'device' and dataclasses.replace(spec, loader='auto') == Fractal1(SMALL).spec


def redrawn(patch, fractals=1):
    """Return by class the three images of an epoch with redraw and without augmentation, and the stored image."""

    def by_class(name, repeats):
        seen = [[] for _ in range(12)]
        for images, targets in create(name, 12, is_training=True, no_aug=True, repeats=repeats):
            for image, target in zip(images, targets.tolist()):
                seen[target].append(image)
        return torch.stack([torch.stack(images) for images in seen])

    name = f'fractal1/classes=12,points=20000,size=64,patch={patch},fractals={fractals},loader=device'
    return by_class(f'{name},redraw=true', 3), by_class(name, 1)[:, 0]


def test_redrawn_samples_have_noise_of_their_own():
    seen, stored = redrawn('random')
    for images, kept in zip(seen, stored, strict=True):
        assert len({image.numpy().tobytes() for image in [*images, kept]}) == 4


@pytest.mark.parametrize('fractals', [1, 12])
def test_redrawn_samples_have_the_shape_of_their_class(fractals):
    seen, stored = redrawn('fill', fractals)
    for k, images in enumerate(seen):
        distance = (images[:, None] - stored[None]).abs().mean((0, 2, 3, 4))
        assert distance.argmin() == k and distance[k] > 0


def test_a_resumed_run_sees_the_same_redrawn_samples():
    runs = []
    for start in (0, 1):
        torch.manual_seed(42)
        loader = create(f'{SMALL},loader=device,redraw=true', 6, **paper.LOADER)
        for epoch in range(start, 2):
            loader.sampler.set_epoch(epoch)
            images = torch.cat([images for images, _ in loader])
        runs.append(images)
    assert torch.equal(*runs)


def test_validation_is_not_redrawn():
    pairs = zip(create(f'{SMALL},loader=device,redraw=true', 5, 'validation'), create(SMALL, 5, 'validation'))
    assert all((ours - theirs).abs().max() < 2.01 / 255 for (ours, _), (theirs, _) in pairs)


def test_redraw_needs_the_device():
    with pytest.raises(ValueError, match='redraw=true needs loader=device, got loader=auto'):
        timm.data.create_dataset('fractal1/redraw=true', split='train')


@pytest.mark.parametrize('name, room', [(SMALL, 10), ('image1/classes=12,size=64,view=rgb', 3)])
def test_as_many_images_at_once_as_there_is_room_for(name, room, monkeypatch):
    name = f'{name},loader=device'
    assert create(name).at_once == 32
    monkeypatch.setattr('timm_fractal.device_loader._BYTES_AT_ONCE', 10 * 64**2)
    loader = create(name, batch_size=2, is_training=True)
    groups = [len(group) for _, group in loader._groups()]
    assert loader.at_once == room and sum(groups) == len(loader) == 6 and max(groups) == room // 2


def test_subsets_give_the_samples_of_their_indices():
    dataset = Fractal1('fractal1/classes=6,size=64,points=3000,loader=device')
    inner = torch.utils.data.Subset(dataset, [5, 3, 1, 0])
    outer = torch.utils.data.Subset(inner, [2, 0, 3])
    options = dict(batch_size=2, mean=(0.5,), std=(0.5,), device=torch.device('cpu'))
    whole = next(iter(timm.data.create_loader(dataset, (1, 64, 64), **options | dict(batch_size=6))))[0]
    loader = timm.data.create_loader(outer, (1, 64, 64), **options)
    assert isinstance(loader, DeviceLoader) and len(loader) == 2 and loader.dataset is outer
    images, labels = (torch.cat(parts) for parts in zip(*loader))
    assert labels.tolist() == [1, 5, 0] and torch.equal(images, whole[[1, 5, 0]])
    train, _ = torch.utils.data.random_split(dataset, [4, 2], torch.Generator().manual_seed(0))
    loader = timm.data.create_loader(train, (1, 64, 64), is_training=True, **options)
    assert sorted(torch.cat([labels for _, labels in loader]).tolist()) == sorted(train.indices)


class OwnSubset(torch.utils.data.Subset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, -label

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    'indices',
    [
        [-1, -2],
        [0, 3, 0, 3, 3],
        range(-1, 3),
        (1, 2),
        np.array([-5, 4], np.int8),
        np.array([1, 2], np.uint64),
        np.array([1.0, 2.0]),
        np.array([True, False, True, False, True]),
        [True, False, True, False, True],
        torch.tensor([1, -1]),
        torch.tensor([[1], [2]]),
        torch.tensor([1.0]),
        torch.tensor([True, False]),
        [torch.tensor(3), np.int32(-1)],
        [0, 5],
        [0, -6],
        [0, 7.5],
        [10**30],
        ['1'],
        [None],
    ],
)
@pytest.mark.parametrize('nested', [False, True])
def test_an_index_means_to_the_loader_what_it_means_to_the_data_set(indices, nested):
    """Invalid indices raise the same error in both."""
    dataset = Fractal1('fractal1/classes=12,size=64,points=3000,loader=device', num_samples=5, repeats=1)
    subset = torch.utils.data.Subset(dataset, indices)
    if nested:
        subset = torch.utils.data.Subset(subset, [-1, 0])
    error = None
    try:
        for index in indices:
            dataset[index]
        expected = [subset[i][1] for i in range(len(subset))]
    except (TypeError, IndexError) as refused:
        error = type(refused)
    options = dict(mean=(0.5,), std=(0.5,), device=torch.device('cpu'))
    if error is None:
        found = torch.cat([labels for _, labels in timm.data.create_loader(subset, (1, 64, 64), 2, **options)]).tolist()
        assert found == expected and len(found) == len(subset)
    else:
        with pytest.raises(error, match='^index '):
            timm.data.create_loader(subset, (1, 64, 64), 2, **options)


def test_labels_of_negative_indices():
    dataset = Fractal1('fractal1/classes=12,size=64,points=3000,loader=device', num_samples=5)
    options = dict(mean=(0.5,), std=(0.5,), device=torch.device('cpu'))
    subset = torch.utils.data.Subset(dataset, [-1, -2])
    assert [labels.tolist() for _, labels in timm.data.create_loader(subset, (1, 64, 64), 2, **options)] == [[4, 3]]


@pytest.mark.parametrize(
    'wrap, message',
    [
        (lambda d: torch.utils.data.Subset(d, []), 'dataset must have at least one sample, got an empty Subset'),
        (lambda d: OwnSubset(d, [1, 2]), 'dataset=.*OwnSubset.*only a plain Subset is'),
    ],
)
def test_subsets_that_are_refused(wrap, message):
    dataset = wrap(Fractal1('fractal1/classes=6,size=64,points=3000,loader=device'))
    with pytest.raises(ValueError, match=message):
        timm.data.create_loader(dataset, (3, 64, 64), 2, device=torch.device('cpu'))


@pytest.mark.parametrize('wrap', [lambda d: torch.utils.data.ConcatDataset([d, d]), lambda d: _Wrapper(_Wrapper(d))])
def test_what_wraps_a_data_set_is_named(wrap):
    dataset = wrap(Fractal1('fractal1/classes=6,size=64,points=3000,loader=device'))
    with pytest.raises(ValueError, match=f'{type(dataset).__name__} with .*loader=device supports one data set'):
        timm.data.create_loader(dataset, (3, 64, 64), 2, device=torch.device('cpu'))


class _Wrapper(torch.utils.data.Dataset):
    def __init__(self, dataset):
        self.dataset = dataset


@pytest.mark.skipif(not hasattr(timm.data, 'create_naflex_loader'), reason='a timm without NaFlex')
def test_naflex_is_refused():
    dataset = Fractal1('fractal1/classes=6,size=64,points=3000,loader=device')
    with pytest.raises(ValueError, match='NaFlex loader with .* leave out --naflex-loader, or loader=device'):
        timm.data.create_naflex_loader(dataset, patch_size=16, batch_size=2, is_training=True)


def test_samples_one_by_one_say_that_the_option_has_no_effect(caplog):
    dataset = Fractal1('fractal1/classes=3,size=64,points=3000,loader=device,redraw=true')
    for _ in torch.utils.data.DataLoader(dataset, collate_fn=list):
        pass
    assert [record.message for record in caplog.records if 'only affect' in record.message] == [
        'fractal1/classes=3,points=3000,size=64,loader=device,redraw=true: samples are read one by one; loader=device '
        'and redraw only affect batches of timm.data.create_loader'
    ]


def test_a_colored_data_set_in_gray(tmp_path):
    """As with --in-chans 1 in train.py."""
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / 'x.png')
    name = 'image1/view=rgb,classes=3,size=64'
    options = dict(batch_size=3, mean=(0.5,), std=(0.5,), device=torch.device('cpu'), crop_pct=1.0)
    batches = []
    for suffix in ('', ',loader=device'):
        dataset = timm.data.create_dataset(name + suffix, root=tmp_path / 'x.png', split='train', input_img_mode='L')
        loader = timm.data.create_loader(dataset, (1, 64, 64), use_prefetcher=False, num_workers=0, **options)
        batches.append(next(iter(loader))[0])
    assert batches[0].shape == (3, 1, 64, 64)
    torch.testing.assert_close(*batches, rtol=0, atol=1e-5)


@pytest.mark.parametrize('by_torch', [False, True])
def test_boxes_of_five_channels_have_five_colors(by_torch, monkeypatch):
    """Of their own image, whether kernels erase or torch does."""
    if by_torch:
        monkeypatch.setattr('timm_fractal.augment.Train.kernels', lambda *_: None)
    loader = create(batch_size=12, is_training=True, input_size=(5, 32, 32), re_prob=1.0, re_mode='rand')
    images, _ = next(iter(loader))
    colors = []
    for image in images:
        # The images are gray, only boxes are not.
        [*_, first] = inside = image[:, (image != image[:1]).any(0)].T
        assert len(inside) > 9 and (inside == first).all()
        colors += first.tolist()
    assert len(set(colors)) == 12 * 5


@pytest.mark.parametrize(
    'name, options, message',
    [
        (
            f'{SMALL},loader=device',
            dict(batch_size=13),
            'an epoch has 12 samples, fewer than a batch of 13: use --epoch-',
        ),
        (
            f'{SMALL},loader=device',
            dict(input_size_choices=[32, 48], batch_size_choices=[4]),
            'batch_size_choices and input_size_choices must be equally many, at least one: got 1 and 2',
        ),
        (f'{SMALL},loader=device', dict(input_size_choices=[]), 'must be equally many, at least one: got 0 and 0'),
        (
            'image1/view=rgb,classes=6,size=64,loader=device',
            dict(input_size=(4, 32, 32)),
            'images have 3 channels, but the model has in_chans=4: use --in-chans 3, or --input-img-mode L',
        ),
    ],
)
def test_what_timm_refuses_is_refused(name, options, message):
    if 'input_size_choices' in options and not hasattr(timm.data.loader, 'ScheduledBatchSampler'):
        pytest.skip('a timm without input sizes that change')
    with pytest.raises(ValueError, match=message):
        create(name, is_training=True, **options)


def test_a_part_of_the_classes_is_refused():
    dataset = Fractal1(f'{SMALL},loader=device', only=[1, 2])
    with pytest.raises(ValueError, match=r'only=\[1, 2\] is not available on the device \(only None is: use a Subset'):
        timm.data.create_loader(dataset, (3, 32, 32), 2, device=torch.device('cpu'))


def test_a_million_large_images_are_refused():
    dataset = timm.data.create_dataset('visualatom/loader=device,size=4096,cache=none', split='train')
    words = r'1,000,000 images of 16,777,216 bytes, 15,625.0 GB in total, do not fit on cpu: use fewer classes'
    with pytest.raises(MemoryError, match=words):
        timm.data.create_loader(dataset, (3, 32, 32), 8, is_training=True, device=torch.device('cpu'))
