"""The calls of timm's train.py, in order and with all arguments, for every data set and both loaders.

test_train_py.py runs the unedited train.py, but needs a checkout of timm.
"""

import inspect
from pathlib import Path

import pytest
import sklearn.datasets
import timm
import timm.data.loader
import torch
from timm.data import FastCollateMixup, create_dataset, create_loader, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.models import load_checkpoint, safe_model_name
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, accuracy, random_seed

from timm_fractal.device_loader import DeviceLoader

PHOTO = Path(sklearn.datasets.__file__).parent / 'images' / 'china.jpg'
DEVICE = torch.device('cpu')
NAMES = [
    'fractal1/classes=8,size=64,points=3000',
    'torch/ofdb/classes=8,size=64,points=3000',
    'fractaldb/classes=8,instances=2,size=64,points=3000',
    'visualatom/classes=8,instances=2,size=64',
    'image1/classes=8,size=64',
    'noise1/classes=8,size=64',
]


def known(arguments):
    """Drop arguments that this version of timm lacks."""
    return {k: v for k, v in arguments.items() if k in inspect.signature(timm.data.loader.create_loader).parameters}


def set_epoch(loader, epoch):
    if hasattr(loader.dataset, 'set_epoch'):
        loader.dataset.set_epoch(epoch)
    if hasattr(getattr(loader, 'batch_sampler', None), 'set_epoch'):
        loader.batch_sampler.set_epoch(epoch)
    elif hasattr(loader.sampler, 'set_epoch'):
        loader.sampler.set_epoch(epoch)


def train(name, folder, loader):
    random_seed(42, 0)
    model = timm.create_model(
        'test_vit', pretrained=False, in_chans=3, num_classes=8, drop_rate=0.0, img_size=32, patch_size=8
    )
    config = resolve_data_config(dict(mean=(0.5,) * 3, std=(0.5,) * 3), model=model, verbose=False)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=2e-3, weight_decay=0.05)
    common = dict(class_map='', download=False, batch_size=8, input_img_mode='RGB', input_key=None, target_key=None)
    common |= dict(root=str(PHOTO) if 'image1' in name else None, trust_remote_code=False)
    dataset = create_dataset(name, split='train', is_training=True, seed=42, repeats=4.0, num_samples=None, **common)
    held_out = create_dataset(name, split='validation', is_training=False, num_samples=None, **common)
    mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_minmax=None, prob=1.0, switch_prob=0.5, mode='batch')
    collate = FastCollateMixup(**mixup, label_smoothing=0.1, num_classes=8)
    shared = dict(mean=config['mean'], std=config['std'], pin_memory=False, img_dtype=torch.float32, device=DEVICE)
    shared |= dict(distributed=False, use_prefetcher=True, input_size=(3, 32, 32), batch_size=8)
    sizes = dict(input_size_choices=None, batch_size_choices=None, batch_choice_weights=None, batch_choice_seed=42)
    sizes |= dict(batch_choice_schedule='random', batch_schedule_epochs=None, batch_schedule_spread=1.0)
    sizes |= dict(batch_schedule_random_mix=0.0, num_batches=None)
    augmentation = dict(
        is_training=True,
        no_aug=False,
        re_prob=0.5,
        re_mode='pixel',
        re_count=1,
        re_split=False,
        train_crop_mode=None,
        scale=(0.08, 1.0),
        ratio=(0.75, 1.3333),
        hflip=0.5,
        vflip=0.5,
        color_jitter=0.4,
        color_jitter_prob=None,
        grayscale_prob=0.0,
        gaussian_blur_prob=0.0,
        auto_augment='rand-m9-mstd0.5-inc1',
        num_aug_repeats=0,
        num_aug_splits=0,
        interpolation='random',
        num_workers=0,
        worker_seeding='all',
        collate_fn=collate,
        use_multi_epochs_loader=False,
    )
    batches = create_loader(dataset, **known(shared | sizes | augmentation))
    evaluation = dict(is_training=False, interpolation='bicubic', num_workers=0, crop_pct=1.0)
    validation = create_loader(held_out, **known(shared | evaluation))
    assert isinstance(batches, DeviceLoader) == isinstance(validation, DeviceLoader) == (loader == 'device')
    scheduler, epochs = create_scheduler_v2(optimizer, sched='cosine', num_epochs=2, updates_per_epoch=len(batches))
    saver = CheckpointSaver(model=model, optimizer=optimizer, checkpoint_dir=str(folder), recovery_dir=str(folder))
    losses, right = [], []
    for epoch in range(epochs):
        set_epoch(batches, epoch)
        if epoch == 1 and batches.mixup_enabled:
            batches.mixup_enabled = False
        model.train()
        for images, target in batches:
            assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
            assert target.shape == (8, 8)
            loss = SoftTargetCrossEntropy()(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.inference_mode():
            right += [float(accuracy(model(images), target)[0]) for images, target in validation]
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=right[-1])
    again = timm.create_model('test_vit', num_classes=8, img_size=32, patch_size=8)
    load_checkpoint(again, str(folder / 'last.pth.tar'), weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    assert safe_model_name('test_vit') == 'test_vit' and len(losses) == 2 * len(batches)
    return losses


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('loader', ['auto', 'device'])
@pytest.mark.parametrize('name', [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_training(name, loader, tmp_path):
    losses = train(f'{name},loader={loader}', tmp_path, loader)
    assert all(0 < loss < 20 for loss in losses) and len(set(losses)) == len(losses)
