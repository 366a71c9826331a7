"""Training with timm's loader and with loader=device: losses on the same problem, several seeds.

    OMP_NUM_THREADS=1 python -m benchmarks.compare_loaders

Both sample from the same distributions with different random numbers, so the curves agree within the spread of seeds.
"""

import argparse
import statistics
import warnings
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.utils import random_seed

from benchmarks.record import Record

DATASET = 'fractal1/classes=20,delta=0.2,points=10000,size=48,patch=fill,instances=10'
EPOCHS, REPEATS, BATCH = 12, 13, 64
AUGMENTATION = dict(
    is_training=True,
    scale=(0.3, 1.0),
    vflip=0.5,
    color_jitter=0.4,
    auto_augment='rand-m5-mstd0.5-inc1-n1',
    re_prob=0.25,
    re_mode='pixel',
    interpolation='bicubic',
)


def make_loader(name: str, split: str, **options: Any) -> Any:
    dataset = create_dataset(name, split=split, repeats=REPEATS if split == 'train' else 0)
    options |= dict(mean=(0.25,) * 3, std=(0.25,) * 3, device=torch.device('cpu'), num_workers=0)
    return create_loader(dataset, (3, 32, 32), BATCH, **options)


def train(name: str, seed: int) -> list[float]:
    """Train a model; return the mean loss of each epoch, followed by the validation accuracy in percent."""
    random_seed(seed)
    model = timm.create_model('test_vit', img_size=32, patch_size=8, num_classes=20)
    loader, validation = make_loader(name, 'train', **AUGMENTATION), make_loader(name, 'validation', crop_pct=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, EPOCHS * len(loader))
    results = []
    for _ in range(EPOCHS):
        losses = []
        for images, targets in loader:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        results.append(statistics.mean(losses))
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in validation)
    return [*results, 100 * right / len(validation.dataset)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seeds', type=int, default=4, help='trainings with each loader')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    runs = {kind: [train(f'{DATASET},loader={kind}', s) for s in range(args.seeds)] for kind in ('auto', 'device')}
    settings = f'{DATASET}, {EPOCHS} epochs of {200 * REPEATS} samples, seeds 0 to {args.seeds - 1}: mean +- deviation'
    with Record('compare_loaders', settings) as say:
        say('epoch             ' + '  '.join(f'{kind:>15}' for kind in runs))
        for row in [*range(2, EPOCHS, 3), EPOCHS]:
            what = f'loss, epoch {row + 1:2}' if row < EPOCHS else 'validation top-1'
            columns = [[run[row] for run in results] for results in runs.values()]
            cells = [f'{statistics.mean(values):7.3f} +- {statistics.stdev(values):.3f}' for values in columns]
            say(f'{what:18}' + '  '.join(f'{cell:>15}' for cell in cells), what=what, **dict(zip(runs, columns)))


if __name__ == '__main__':
    main()
