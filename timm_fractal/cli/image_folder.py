"""Checks a folder of images before a training on it, for ``timm-fractal doctor --data-dir``."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from .._utils.console import progress_bar
from .._utils.messages import listed
from .doctor import Check

#: Steps of a short fine-tuning, and images per step, as in the recipes for your own images.
STEPS, BATCH = 600, 50

#: Pixels from which decoding takes longer than a training step of a small model.
_LARGE = 2_000_000


def examine_folder(folder: str | Path) -> Iterator[Check]:
    """Check a folder of images as timm reads it: classes, splits, files; and suggest a number of epochs.

    Args:
        folder: ``--data-dir`` of train.py, with ``train/CLASS/FILE`` and ``val/CLASS/FILE``.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'--data-dir: there is no folder {str(folder)!r}')
    for split in ('train', 'val'):
        if not (root / split).is_dir():
            without = 'timm would train on all of it' if split == 'train' else 'timm would test on the training images'
            yield Check(
                'FAIL' if split == 'train' else 'warn',
                f'{root} has no folder {split!r}: {without}',
                f'make {root}/{split}/CLASS/FILE',
            )
    splits = {split: _read(root / split) for split in ('train', 'val') if (root / split).is_dir()}
    if not splits.get('train'):
        if 'train' in splits:
            yield Check('FAIL', f'{root}/train has no images in folders', f'make {root}/train/CLASS/FILE')
        return
    for split, images in splits.items():
        counts = Counter(name for _, name in images)
        least = min(counts, key=lambda name: counts[name], default='')
        text = f'{split}: {len(images):,} images of {len(counts)} classes'
        yield Check('ok', text + (f'; the smallest is {least!r} with {counts[least]}' if counts else ''))
    trained, tested = ({name for _, name in splits.get(split, [])} for split in ('train', 'val'))
    if tested and trained != tested:
        yield Check(
            'FAIL',
            f'train and val have different classes: {listed(sorted(trained ^ tested))} only in one; timm numbers '
            f'the classes of each by itself, so that labels would not agree',
            'give both the same class folders, each with images',
        )
    if len(trained) < 2:
        yield Check('FAIL', f'there is one class, {listed(sorted(trained))}', 'a classifier needs two or more')
    yield from _examine_files([path for images in splits.values() for path, _ in images])
    batches = len(splits['train']) // BATCH
    if batches == 0:
        yield Check('warn', f'there are fewer training images than a batch of {BATCH}', '--batch-size 10')
    else:
        yield Check(
            'ok',
            f'--num-classes {len(trained)} --epochs {round(STEPS / batches)}: about {STEPS} steps of {BATCH} images',
        )
    if count := len(splits.get('val', [])):
        error = 100 * (0.25 / count) ** 0.5
        yield Check('ok', f'accuracy on {count:,} test images has a standard error of up to {error:.1f} points')


def _read(folder: Path) -> list[tuple[Path, str]]:
    """List the images of a split and their classes, as timm does."""
    import timm.data

    try:
        reader: Any = timm.data.create_dataset('', str(folder)).reader  # type: ignore[attr-defined]
    except RuntimeError:
        # No image in any folder.
        return []
    names = {number: name for name, number in reader.class_to_idx.items()}
    return [(Path(path), names[number]) for path, number in reader.samples]


def _examine_files(paths: list[Path]) -> Iterator[Check]:
    damaged, large = [], []
    with progress_bar('checking images', len(paths)) as bar:
        for path in paths:
            bar.update()
            try:
                with Image.open(path) as image:
                    if image.width * image.height > _LARGE:
                        large.append(path.name)
                    # A JPEG is decoded at an eighth of its size: a truncated file is noticed all the same.
                    image.draft('RGB', (64, 64))
                    image.load()
            except Exception:
                damaged.append(str(path))
    if damaged:
        yield Check('FAIL', f'{len(damaged)} images cannot be read: {listed(damaged)}', 'delete or replace them')
    if large:
        yield Check(
            'warn',
            f'{len(large)} images have more than {_LARGE // 10**6} million pixels, such as {large[0]}: decoding them '
            f'in every epoch takes most of the time',
            'scale them once, so that the shorter side has 256 pixels',
        )
