"""Pre-train a small vision transformer on one fractal, then see whether it helps with handwritten digits.

Runs in a few minutes on a CPU with two cores, with timm's public factories alone, called as timm's train.py calls them:
the data set is a name for `create_dataset`, the weights are a file for `create_model`. The pre-trained model and an
untrained twin then learn the ten digits from 5 and from 20 examples of each, and are tested on all other digits.

The comparison is meant to be fair: for each seed both twins get the same new head, examples, order, augmentation and
number of steps, and the recipe of fine-tuning was chosen for the untrained twin, with other seeds than those reported
here. The spread is that over the seeds of fine-tuning (examples, head, order); there is one pre-training run.

Example:
    $ python train_scripts/quickstart.py
    $ ls demo-output
    fractals.png  model.safetensors  results.json  results.png
"""

import argparse
import contextlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import save_image
from tqdm import tqdm

import timm_fractal

# A small canvas with filled 3 x 3 patches: strokes that are still there when a crop is reduced to 32 pixels.
DATASET = 'fractal1/classes=100,delta=0.2,size=48,points=10000,patch=fill'
# 16 tokens of 8 x 8 gray pixels, width 64, 6 blocks.
MODEL: dict[str, Any] = dict(model_name='test_vit', img_size=32, patch_size=8, in_chans=1)
INPUT_SIZE = (1, 32, 32)
PRETRAIN_LR, PRETRAIN_BATCH = 1e-3, 64
FINETUNE_LR, FINETUNE_BATCH = 2e-3, 32
SHOTS = (5, 20)
TWINS = ('untrained', 'pretrained')


class Digits(torch.utils.data.Dataset[tuple[Any, int]]):
    """Gray images in an array, as PIL images for the transform that `create_loader` sets."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def make_loader(dataset: Any, batch_size: int, gray: float, workers: int = 0, **options: Any) -> Any:
    """timm's loader; ``gray`` is the mean and the standard deviation that spread the pixels over [-1, 1]."""
    options |= dict(mean=(gray,), std=(gray,), num_workers=workers, persistent_workers=workers > 0)
    options |= dict(color_jitter=None, interpolation='bilinear', crop_pct=1.0, device=torch.device('cpu'))
    return create_loader(dataset, INPUT_SIZE, batch_size, **options)


def train(model: torch.nn.Module, loader: Any, lr: float, loss_fn: torch.nn.Module, title: str = '') -> list[float]:
    """One pass over a loader with AdamW, warm-up and a cosine schedule; a bar if it has a title; the losses."""
    steps = dict(step_on_epochs=False, updates_per_epoch=len(loader))
    optimizer = create_optimizer_v2(model, opt='adamw', lr=lr, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched='cosine', num_epochs=1, warmup_epochs=0.1, **steps)
    losses = []
    model.train()
    for step, (images, targets) in enumerate(tqdm(loader, desc=title, unit='batch', disable=not title)):
        scheduler.step_update(step)
        loss = loss_fn(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def accuracy(model: torch.nn.Module, loader: Any) -> float:
    """Percentage of a data set that the model gets right."""
    model.eval()
    right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in loader)
    return 100 * right / len(loader.dataset)


def pretrain(args: argparse.Namespace, weights: Path) -> dict[str, Any]:
    """Pre-train on the fractal and save the model; the result holds how to load it."""
    random_seed(0)
    start = time.perf_counter()
    options = dict(root=None, input_img_mode='L')
    dataset: Any = create_dataset(DATASET, split='train', is_training=True, repeats=args.samples / 100, **options)
    fractals = [pil_to_tensor(dataset[k][0]).float() for k in range(dataset.num_classes)]
    save_image(fractals, weights.with_name('fractals.png'), nrow=20, normalize=True, pad_value=0.3)

    augmentation = dict(is_training=True, scale=(0.2, 1.0), hflip=0.5, vflip=0.5)
    loader = make_loader(dataset, PRETRAIN_BATCH, 0.25, args.workers, **augmentation)
    model = timm.create_model(**MODEL, num_classes=dataset.num_classes)
    losses = train(model, loader, PRETRAIN_LR, torch.nn.CrossEntropyLoss(), 'pre-training')

    # A file appears under its name only when it is complete.
    unfinished = weights.with_suffix('.unfinished')
    save_file(model.state_dict(), unfinished, metadata={'format': 'pt', 'dataset': str(dataset.spec)})
    unfinished.replace(weights)
    overlay = dict(file=str(weights), num_classes=dataset.num_classes, input_size=INPUT_SIZE)
    reloaded = timm.create_model(**MODEL, pretrained=True, pretrained_cfg_overlay=overlay)
    validation = create_dataset(DATASET, split='validation', is_training=False, **options)
    return dict(
        dataset=str(dataset.spec),
        classes=dataset.num_classes,
        samples=len(losses) * PRETRAIN_BATCH,
        losses=losses,
        validation_top1=accuracy(reloaded, make_loader(validation, 100, 0.25)),
        seconds=time.perf_counter() - start,
        overlay=overlay,
    )


def finetune(weights: dict[str, Any], shots: int, seed: int, steps: int) -> float:
    """Learn the digits from a few examples of each; accuracy on all others. The twins differ in ``weights`` alone."""
    torch.set_num_threads(1)  # As in main; this may be another process.
    digits = load_digits()
    images, labels = np.uint8(digits.images * 255 / 16), digits.target
    order = np.random.default_rng(seed).permutation(len(labels))
    few = np.concatenate([order[labels[order] == digit][:shots] for digit in range(10)])
    others = np.setdiff1d(order, few)
    examples = np.resize(few, steps * FINETUNE_BATCH)  # Over and over again.

    random_seed(seed)
    model = timm.create_model(**MODEL, num_classes=10, **weights)
    random_seed(seed)  # Another draw would do too, as long as it is the same for both twins.
    augmentation = dict(is_training=True, scale=(0.8, 1.0), hflip=0.0)
    loader = make_loader(Digits(images[examples], labels[examples]), FINETUNE_BATCH, 0.5, **augmentation)
    train(model, loader, FINETUNE_LR, LabelSmoothingCrossEntropy(0.1))
    return accuracy(model, make_loader(Digits(images[others], labels[others]), 256, 0.5))


def plot(losses: list[float], top1: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Loss of pre-training on the left, accuracy on digits of every seed on the right."""
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    width = max(1, len(losses) // 50)
    left.plot(losses, alpha=0.3, label='each step')
    left.plot(np.arange(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, 'valid'), label='mean')
    left.set(title=DATASET, xlabel='step of pre-training', ylabel='cross-entropy')
    left.legend()
    for side, (twin, color) in enumerate(zip(TWINS, ('tab:gray', 'tab:blue'), strict=True)):
        for group, shots in enumerate(SHOTS):
            values, x = top1[twin][str(shots)], group + 0.4 * side - 0.2
            right.bar(x, np.mean(values), 0.36, color=color, alpha=0.5, label=None if group else twin)
            right.plot(x + np.linspace(-0.1, 0.1, len(values)), values, 'o', color=color, markeredgecolor='black')
    right.set(title='handwritten digits', ylabel='accuracy on all other digits (%)', ylim=(0, 100))
    right.set_xticks(range(len(SHOTS)), [f'{shots} examples per class' for shots in SHOTS])
    right.legend(loc='lower right')
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='folder for the results')
    parser.add_argument('--samples', type=int, default=150_000, help='images seen in pre-training')
    parser.add_argument('--steps', type=int, default=400, help='steps of each fine-tuning')
    parser.add_argument('--seeds', type=int, default=5, help='number of fine-tunings of each kind')
    parser.add_argument('--workers', type=int, default=2, help='processes that load data and fine-tune')
    args = parser.parse_args()
    if args.samples < PRETRAIN_BATCH or args.steps < 1 or args.seeds < 1:
        parser.error(f'--samples must be at least {PRETRAIN_BATCH}, --steps and --seeds at least 1')
    torch.set_num_threads(1)  # Layers this small gain little from more, and lose much when the cores are shared.
    args.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    result = pretrain(args, args.output / 'model.safetensors')
    losses, last = result['losses'], max(1, len(result['losses']) // 20)
    print(f'{result["dataset"]}: {result["samples"]} images in {result["seconds"]:.0f} s,', end=' ')
    print(f'loss {losses[0]:.2f} -> {np.mean(losses[-last:]):.2f},', end=' ')
    print(f'{result["validation_top1"]:.0f} % of the validation split right (chance: {100 / result["classes"]:g} %)')

    weights = dict(untrained={}, pretrained=dict(pretrained=True, pretrained_cfg_overlay=result.pop('overlay')))
    runs = [(twin, shots, seed) for seed in range(args.seeds) for shots in SHOTS for twin in TWINS]
    calls = [(weights[twin], shots, seed, args.steps) for twin, shots, seed in runs]
    with contextlib.ExitStack() as stack:
        run_all: Any = map
        if args.workers > 0:
            processes = ProcessPoolExecutor(args.workers, multiprocessing.get_context('spawn'))
            run_all = stack.enter_context(processes).map
        scores = tqdm(run_all(finetune, *zip(*calls, strict=True)), desc='fine-tuning', total=len(calls), unit='model')
        top1: dict[str, dict[str, list[float]]] = {twin: {str(shots): [] for shots in SHOTS} for twin in TWINS}
        for (twin, shots, _), score in zip(runs, scores, strict=True):
            top1[twin][str(shots)].append(score)
    for shots in SHOTS:
        untrained, pretrained = (np.array(top1[twin][str(shots)]) for twin in TWINS)
        print(f'{shots:2} examples per class:', end=' ')
        for twin, values in zip(TWINS, (untrained, pretrained), strict=True):
            print(f'{twin} {values.mean():.1f} +- {values.std(ddof=len(values) > 1):.1f} %,', end=' ')
        print(f'{(pretrained - untrained).mean():+.1f}; better in {sum(pretrained > untrained)} of {args.seeds} seeds')

    versions = dict(timm=timm.__version__, torch=torch.__version__, timm_fractal=timm_fractal.__version__)
    result |= dict(finetune_steps=args.steps, seeds=list(range(args.seeds)), digits_top1=top1, versions=versions)
    result |= dict(total_seconds=time.perf_counter() - start)
    (args.output / 'results.json').write_text(json.dumps(result, indent=1) + '\n')
    plot(losses, top1, args.output / 'results.png')
    print(f'{result["total_seconds"]:.0f} s in all; see {args.output}/')


if __name__ == '__main__':
    main()
