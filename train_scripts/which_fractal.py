"""Measure fractals without training, and correlate the measures with transfer results.

Example:
    $ python train_scripts/which_fractal.py 0:40 --results train_scripts/results/fractals.jsonl

prints a line per seed of `fractal1`, then Spearman's rank correlation of each measure with top-1 of each fine-tuning of
`sweeps/fractals.yaml`, and with the mean rank over fine-tunings. Select a measure by the correlations of the first
seeds (--fit), and verify it on the others.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage, stats
from tqdm import tqdm

from timm_fractal import Fractal1
from timm_fractal.cli.main import seed_range
from timm_fractal.data import ranking, separability
from timm_fractal.data.ranking import INPUT, PATCH

#: The data set of the sweep file.
NAME = 'fractal1/classes=100,delta=0.2,points=20000,size=96,patch=fill,seed={}'
#: Number of best and worst fractals in the picture.
PICTURED = 4

Array = npt.NDArray[np.float64]


def confused(dataset: Fractal1, images: Array) -> float:
    """Return the measure of `timm-fractal doctor`: the fraction of confused pairs of classes."""
    return separability.measure(dataset).confused


def patch_rank(dataset: Fractal1, images: Array) -> float:
    """Return the effective rank of patches that are not flat: exp of the entropy of their spectrum."""
    flat = patches(images).reshape(-1, PATCH**2)
    flat = flat[flat.std(1) > 0.05]
    spectrum = np.linalg.svd((flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True), compute_uv=False) ** 2
    part = spectrum / spectrum.sum()
    return float(np.exp(-(part * np.log(part + 1e-12)).sum()))


def symmetry(dataset: Fractal1, images: Array) -> float:
    """Return the maximum correlation of a class with its flips and rotations, mean over classes."""
    found = []
    for image in images[::4]:
        smooth = ndimage.gaussian_filter(image, 1.5)
        smooth -= smooth.mean()
        turned = (smooth[::-1], smooth[:, ::-1], smooth[::-1, ::-1], smooth.T, np.rot90(smooth))
        found.append(max(float((smooth * other).sum()) for other in turned) / float((smooth**2).sum()))
    return float(np.mean(found))


def roundness(dataset: Fractal1, images: Array) -> float:
    """Return the mean ratio of the smaller to the larger singular value of the maps."""
    values = np.linalg.svd(dataset.codes.bases[0, :, :, :2], compute_uv=False)
    return float((values[:, 1] / values[:, 0]).mean())


def parts(dataset: Fractal1, images: Array) -> float:
    """Return the logarithm of the mean number of connected components per class."""
    return float(np.log(np.mean([ndimage.label(image > 0, np.ones((3, 3)))[1] for image in images[::4]])))


def fill(dataset: Fractal1, images: Array) -> float:
    """Return the mean fraction of pixels that are not black."""
    return float((images > 0).mean())


MEASURES: dict[str, Callable[[Fractal1, Array], float]] = {
    function.__name__: function for function in (confused, patch_rank, symmetry, roundness, parts, fill)
}


def patches(images: Array) -> Array:
    """Return the patches of a model without augmentation, shape (N, PATCH, PATCH)."""
    small = [np.asarray(Image.fromarray(image).resize((INPUT, INPUT), Image.Resampling.BOX)) for image in images]
    count = INPUT // PATCH
    cut = np.stack(small).reshape(-1, count, PATCH, count, PATCH).transpose(0, 1, 3, 2, 4)
    return cut.reshape(-1, PATCH, PATCH).astype(np.float64)


def measure(seed: int) -> dict[str, float]:
    """Compute all measures of a fractal from its training images, in about two seconds."""
    dataset = Fractal1(NAME.format(seed), input_img_mode='L')
    images = np.stack([np.asarray(dataset[k][0], np.float32) / 127 for k in range(dataset.num_classes)])
    quality = ranking.measure(dataset.spec)
    ranked = {'score': quality.score, 'overlap': quality.overlap, 'contrast': quality.contrast}
    return ranked | {name: function(dataset, images) for name, function in MEASURES.items()}


def transfer(path: Path) -> dict[str, dict[int, float]]:
    """Return the top-1 of the first pre-training seed by fine-tuning and fractal, mean over fine-tuning seeds."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text(encoding='utf-8').splitlines():
        row = json.loads(line)
        kind, _, seed = row['condition'].partition('-')
        if kind in ('base', 'other') and row['seed'] == 0:
            found[row.get('finetune') or 'own task'][int(seed)].append(row['eval_top1'])
    return {task: {seed: float(np.mean(each)) for seed, each in seeds.items()} for task, seeds in found.items()}


def mean_rank(top1: dict[str, dict[int, float]]) -> dict[int, float]:
    """Return the mean rank of each fractal over the fine-tunings; the best has the highest."""
    tasks = [found for task, found in top1.items() if task != 'own task']
    seeds = [seed for seed in tasks[0] if all(seed in found for found in tasks)]
    ranks = np.mean([stats.rankdata([found[seed] for seed in seeds]) for found in tasks], axis=0)
    return dict(zip(seeds, ranks.tolist()))


def picture(top1: dict[str, dict[int, float]], path: Path) -> None:
    """Save six classes of the best (left) and worst fractals (right), with the top-1 of each fine-tuning."""
    tasks = [task for task in top1 if task != 'own task']
    ranks = mean_rank(top1)
    order = sorted(ranks, key=lambda seed: -ranks[seed])
    classes, text, tile = 6, 16, 96
    sheet = Image.new('L', (2 * classes * tile + tile // 2, PICTURED * (tile + text)), 255)
    for column, chosen in enumerate((order[:PICTURED], order[-PICTURED:])):
        for row, seed in enumerate(chosen):
            left, top = column * (classes * tile + tile // 2), row * (tile + text)
            words = ', '.join(f'{task} {top1[task][seed]:.1f} %' for task in tasks)
            ImageDraw.Draw(sheet).text((left, top + 1), f'seed={seed}: {words}', fill=0, font_size=12)
            dataset = Fractal1(NAME.format(seed), input_img_mode='L')
            for k in range(classes):
                # Brightened: gray on black is hard to see at this size.
                sheet.paste(dataset[k][0].point(lambda level: 2 * level), (left + k * tile, top + text))
    sheet.save(path, optimize=True)


def interval(x: Array, y: Array) -> str:
    """Return the 95 % bootstrap interval of Spearman's rank correlation, from 2,000 resamples of the fractals."""
    samples = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
    return ' to '.join(
        f'{bound:+.2f}'
        for bound in np.nanpercentile([stats.spearmanr(x[some], y[some])[0] for some in samples], [2.5, 97.5])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('seeds', type=seed_range, help='seeds of fractal1, such as 0:40')
    parser.add_argument('--results', type=Path, help='results of sweeps/fractals.yaml')
    parser.add_argument('--fit', type=int, default=24, help='correlate seeds below and above this one separately (24)')
    parser.add_argument('--picture', type=Path, metavar='FILE.png', help='show the best and the worst; with --results')
    args = parser.parse_args()
    if args.picture:
        if not args.results:
            parser.error('--picture needs --results')
        picture(transfer(args.results), args.picture)
    measured = {seed: measure(seed) for seed in tqdm(args.seeds, unit='fractal')}
    names = list(next(iter(measured.values())))
    print('seed', *names)
    for seed, values in measured.items():
        print(seed, *(f'{value:.3f}' for value in values.values()))
    results = transfer(args.results) if args.results else {}
    if results:
        results['mean rank'] = mean_rank(results)
    for task, top1 in results.items():
        for words, low, high in (
            (f'seeds below {args.fit}', 0, args.fit),
            (f'from {args.fit}', args.fit, 2**32),
            ('all', 0, 2**32),
        ):
            known = [seed for seed in measured if seed in top1 and low <= seed < high]
            if len(known) < 5:
                continue
            print(f'{task}, {words}: {len(known)} fractals, with 95 % intervals')
            for name in names:
                x, y = np.array([measured[seed][name] for seed in known]), np.array([top1[seed] for seed in known])
                print(f'  {name:<12} {stats.spearmanr(x, y)[0]:+.2f} ({interval(x, y)})')


if __name__ == '__main__':
    main()
