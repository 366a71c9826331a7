"""Pre-train a small vision transformer on one fractal, and measure whether that helps with handwritten digits.

Takes a few minutes on a CPU with two cores. Everything uses timm's public factories as train.py does: the data set is a
name for `create_dataset`, the weights are a file for `create_model`. The pre-trained model and an identical one from
scratch are then trained on 5 and 20 examples of each digit, and tested on all others.

For each seed, both models get the same head, examples, order, augmentation and number of steps. Learning rate, batch
size and augmentation are the best for training from scratch among a few tried with other seeds. The spread is over
fine-tuning seeds; there is one pre-training run. Part of the gain is faster early training: with three times the steps
(--steps 2400), the model from scratch catches up.

Example:
    $ python train_scripts/quickstart.py
    $ ls demo-output
    fractals.png  model.safetensors  results.json  results.png
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import dispatch_clip_grad, random_seed
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import save_image
from tqdm import tqdm

import timm_fractal

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

# A small canvas with filled 3 x 3 patches gives strokes that remain visible when a crop is reduced to 32 pixels.
DATASET = 'fractal1/classes=100,delta=0.2,points=10000,size=48,patch=fill'
MODEL: dict[str, Any] = dict(model_name='test_vit', img_size=32, patch_size=8, in_chans=1)  # 16 tokens, 6 blocks of 64.
PRETRAIN: dict[str, Any] = dict(batch_size=64, gray=0.25, is_training=True, scale=(0.2, 1.0), hflip=0.5, vflip=0.5)
FINETUNE: dict[str, Any] = dict(batch_size=16, gray=0.5, is_training=True, scale=(0.8, 1.0), hflip=0.0)


class Digits(torch.utils.data.Dataset[tuple[Any, int]]):
    """A subset of scikit-learn's 8 x 8 digits, as images for the transform set by `create_loader`."""

    def __init__(self, indices: Any) -> None:
        digits = load_digits()
        self.images, self.labels = np.uint8(digits.images[indices] * 255 / 16), digits.target[indices]
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def make_loader(dataset: Any, gray: float, num_workers: int = 0, **options: Any) -> Any:
    """Create timm's loader; ``gray`` is the mean and standard deviation that map the pixels to [-1, 1]."""
    options |= dict(mean=(gray,), std=(gray,), color_jitter=None, interpolation='bilinear', crop_pct=1.0)
    options |= dict(num_workers=num_workers, persistent_workers=num_workers > 0, device=torch.device('cpu'))
    return create_loader(dataset, input_size=(1, 32, 32), **options)


def train(model: torch.nn.Module, loader: Any, lr: float, loss_fn: torch.nn.Module, bar: bool = False) -> list[float]:
    """Train for one pass over a loader with AdamW, 10 % warm-up and a cosine schedule; return the losses."""
    steps = dict(step_on_epochs=False, updates_per_epoch=len(loader))
    optimizer = create_optimizer_v2(model, opt='adamw', lr=lr, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched='cosine', num_epochs=1, warmup_epochs=0.1, **steps)
    losses = []
    model.train()
    for step, (images, targets) in enumerate(tqdm(loader, desc='pre-training', unit='batch', disable=not bar)):
        scheduler.step_update(step)
        loss = loss_fn(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def accuracy(model: torch.nn.Module, dataset: Any, gray: float) -> float:
    """Return the accuracy on a data set in percent."""
    model.eval()
    loader = make_loader(dataset, gray, batch_size=256)
    return 100 * sum(int((model(images).argmax(1) == targets).sum()) for images, targets in loader) / len(dataset)


def finetune(run: tuple[int, int, int, dict[str, Any]]) -> float:
    """Fine-tune on a few examples of each digit; return the accuracy on all others."""
    shots, seed, steps, weights = run
    torch.set_num_threads(1)  # As in main, since this is a separate process.
    labels = load_digits().target
    order = np.random.default_rng(seed).permutation(len(labels))
    few = np.concatenate([order[labels[order] == digit][:shots] for digit in range(10)])
    random_seed(seed)
    model = timm.create_model(**MODEL, num_classes=10, **weights)
    random_seed(seed)  # Both models see the same batches, regardless of initialization.
    examples = Digits(np.resize(few, steps * FINETUNE['batch_size']))  # The few examples, repeated.
    train(model, make_loader(examples, **FINETUNE), 1e-3, LabelSmoothingCrossEntropy(0.1))
    return accuracy(model, Digits(np.setdiff1d(order, few)), FINETUNE['gray'])


def plot(losses: list[float], scores: dict[str, list[float]], path: Path) -> None:
    """Plot the pre-training loss (left) and the accuracy on digits for each seed (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout='constrained')
    width = max(1, len(losses) // 50)
    left.plot(losses, color='tab:blue', alpha=0.3)
    left.plot(np.arange(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, 'valid'), color='tab:blue')
    left.set_title(DATASET, fontsize='small')
    left.set(xlabel='pre-training step', ylabel='cross-entropy')
    for x, (values, color) in enumerate(zip(scores.values(), 2 * ('tab:gray', 'tab:blue'), strict=True)):
        right.bar(x, np.mean(values), color=color, alpha=0.5)
        right.plot(x + np.linspace(-0.2, 0.2, len(values)), values, 'o', color=color, markeredgecolor='black')
    right.set_xticks(range(len(scores)), [name.replace(', ', ',\n') for name in scores])
    right.set_title('handwritten digits: mean and each seed', fontsize='small')
    right.set(ylabel='accuracy on all other digits (%)', ylim=(0, 100))
    figure.savefig(path, dpi=120)


def train_args(dataset: Any) -> dict[str, Any]:
    """Return the pre-training as arguments of train.py, for timm-fractal export-weights."""
    kwargs = {key: value for key, value in MODEL.items() if key not in ('model_name', 'in_chans')}
    arguments = dict(model=MODEL['model_name'], model_kwargs=kwargs, input_size=(1, 32, 32), mean=[0.25], std=[0.25])
    arguments |= dict(
        interpolation='bilinear', crop_pct=1.0, dataset=str(dataset.spec), num_classes=dataset.num_classes
    )
    return arguments | dict(train_num_samples=len(dataset), batch_size=PRETRAIN['batch_size'], opt='adamw', lr=2e-3)


def pretrain(args: argparse.Namespace) -> tuple[Any, list[float], float, dict[str, Any]]:
    """Pre-train and save the weights; return data set, losses, seconds, and arguments that load the weights."""
    start = time.perf_counter()
    random_seed(0)
    dataset = create_dataset(DATASET, split='train', is_training=True, num_samples=args.samples, input_img_mode='L')
    sheet = [pil_to_tensor(dataset[k][0]).float() for k in range(dataset.num_classes)]
    save_image(sheet, args.output / 'fractals.png', nrow=20, normalize=True, pad_value=0.3)
    model = timm.create_model(**MODEL, num_classes=dataset.num_classes)
    loader = make_loader(dataset, num_workers=args.workers, **PRETRAIN)
    losses = train(model, loader, 2e-3, torch.nn.CrossEntropyLoss(), bar=True)
    seconds = time.perf_counter() - start

    weights = args.output / 'model.safetensors'
    unfinished = weights.with_suffix('.unfinished')
    metadata = {'format': 'pt', 'dataset': str(dataset.spec), 'train_args': json.dumps(train_args(dataset))}
    save_file(model.state_dict(), unfinished, metadata=metadata)
    unfinished.replace(weights)  # Atomic.
    overlay = dict(file=str(weights), num_classes=dataset.num_classes, input_size=(1, 32, 32))
    return dataset, losses, seconds, dict(pretrained=True, pretrained_cfg_overlay=overlay)


def compare(args: argparse.Namespace, pretrained: dict[str, Any]) -> dict[str, list[float]]:
    """Fine-tune the pre-trained model and one from scratch on a few digits; return the accuracies of each seed."""
    runs = {
        f'{name}, {shots} per class': [(shots, seed, args.steps, arguments) for seed in range(args.seeds)]
        for shots in (5, 20)
        for name, arguments in {'from scratch': {}, 'pre-trained': pretrained}.items()
    }
    with multiprocessing.get_context('spawn').Pool(args.workers) if args.workers else ThreadPool(1) as pool:
        top1s = pool.imap(finetune, itertools.chain(*runs.values()))
        flat = list(tqdm(top1s, desc='fine-tuning', total=len(runs) * args.seeds, unit='model', smoothing=0))
        pool.close()  # Killed processes may leave semaphores behind.
        pool.join()
    return dict(zip(runs, np.reshape(flat, (len(runs), -1)).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='folder for the results')
    parser.add_argument('--samples', type=int, default=100_000, help='samples of pre-training')
    parser.add_argument('--steps', type=int, default=800, help='steps of each fine-tuning')
    parser.add_argument('--seeds', type=int, default=5, help='number of fine-tuning seeds')
    parser.add_argument('--workers', type=int, default=2, help='processes that load data and fine-tune')
    args = parser.parse_args()
    sys.stdout.reconfigure(errors='backslashreplace')  # A path may have characters that the terminal lacks.
    if args.samples < 100:
        parser.error(f'--samples must be at least 100, one image of each class, got {args.samples}')
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # More threads hardly help such small layers, and hurt on shared cores.
    start = time.perf_counter()
    print(f'{args.samples:,} samples of pre-training, then {4 * args.seeds} fine-tunings', flush=True)

    dataset, losses, seconds, pretrained = pretrain(args)
    validation = create_dataset(DATASET, split='validation', is_training=False, input_img_mode='L')
    model = timm.create_model(**MODEL, num_classes=dataset.num_classes, **pretrained)
    top1 = accuracy(model, validation, PRETRAIN['gray'])
    last = np.mean(losses[-max(1, len(losses) // 20) :])
    print(f'{dataset.spec}: {len(dataset)} samples in {seconds:.0f} s, loss {losses[0]:.2f} -> {last:.2f}')
    print(f'validation split: {top1:.0f} % correct, chance is {100 / dataset.num_classes:.0f} %')

    scores = compare(args, pretrained)
    print(f'handwritten digits after {args.steps} steps, mean +- standard deviation, and each seed:')
    for name, values in scores.items():
        spread = np.std(values, ddof=len(values) > 1)
        print(f'{name:>24}: {np.mean(values):.1f} +- {spread:.1f} %  ', *(f'{value:.1f}' for value in values))

    total = time.perf_counter() - start
    results = dict(dataset=str(dataset.spec), samples=len(dataset), losses=losses, validation_top1=top1)
    results |= dict(digits_top1=scores, seeds=list(range(args.seeds)), steps=args.steps, pretraining_seed=0)
    results |= dict(pretraining_seconds=seconds, total_seconds=total, timm=timm.__version__, torch=torch.__version__)
    results |= dict(timm_fractal=timm_fractal.__version__)
    (args.output / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    plot(losses, scores, args.output / 'results.png')
    print(f'{total:.0f} s in total; see {args.output}')


if __name__ == '__main__':
    main()
