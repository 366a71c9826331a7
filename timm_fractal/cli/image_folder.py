"""Checks a folder of images before training, for ``timm-fractal doctor --data-dir``."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .._utils.console import progress_bar
from .._utils.messages import listed
from ..data.base import TRAIN_SPLITS, VALIDATION_SPLITS
from .doctor import Check

#: Steps of a short fine-tuning, and images per step, as in the recipes for your own images.
STEPS, BATCH = 600, 50

#: Number of pixels from which decoding takes longer than a training step of a small model.
_LARGE = 2_000_000


def examine_folder(folder: str | Path) -> Iterator[Check]:
    """Check a folder of images as timm reads it: classes, splits, files; and suggest epochs and a model.

    Args:
        folder: ``--data-dir`` of train.py, with ``train/CLASS/FILE`` and ``val/CLASS/FILE``.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'--data-dir: there is no folder {str(folder)!r}')
    train, val = (_split(root, names) for names in (TRAIN_SPLITS, VALIDATION_SPLITS))
    if not (train or val) and root.name in (*TRAIN_SPLITS, *VALIDATION_SPLITS):
        yield Check('FAIL', f'{root} is one split', f'give the folder that contains it, {root.absolute().parent}')
        return
    if train is None:
        text = f"{root} has no folder 'train': timm would train on all of it"
        yield Check('FAIL', text, f'make {root}/train/CLASS/FILE')
    if val is None:
        text = f"{root} has no folder 'val': timm would test on the training images"
        yield Check('warn', text, f'make {root}/val/CLASS/FILE')
    if train is None:
        return
    splits = {split.name: _read(split) for split in (train, val) if split}
    if not splits[train.name]:
        yield Check('FAIL', f'{train} has no images in folders', f'make {train}/CLASS/FILE')
        return
    for split, images in splits.items():
        counts = Counter(name for _, name in images)
        least = min(counts, key=lambda name: counts[name], default='')
        text = f'{split}: {len(images):,} images of {len(counts)} classes'
        yield Check('ok', text + (f'; the smallest is {least!r} with {counts[least]}' if counts else ''))
    tests = splits[val.name] if val else []
    trained, tested = ({name for _, name in images} for images in (splits[train.name], tests))
    if tested and trained != tested:
        yield Check(
            'FAIL',
            f'train and val have different classes: {listed(sorted(trained ^ tested))} only in one; timm numbers '
            f'the classes of each split separately, so labels would not match',
            'give both the same class folders, each with images',
        )
    if len(trained) < 2:
        yield Check('FAIL', f'there is one class, {listed(sorted(trained))}', 'a classifier needs two or more')
    yield from _examine_files([path for images in splits.values() for path, _ in images])
    batches = len(splits[train.name]) // BATCH
    if batches == 0:
        yield Check('warn', f'there are fewer training images than a batch of {BATCH}', '--batch-size 10')
    else:
        options = f'--num-classes {len(trained)} --epochs {round(STEPS / batches)}'
        yield Check('ok', f'{options}: about {STEPS} steps of {BATCH} images')
    model = '--model test_resnet.fractal1_100 --pretrained'
    yield Check('ok', f'{model}: a small CNN to start with, see docs/your_images.md')
    if tests:
        error = 100 * (0.25 / len(tests)) ** 0.5
        yield Check('ok', f'accuracy on {len(tests):,} test images has a standard error of up to {error:.1f} points')


def _split(root: Path, names: Sequence[str]) -> Path | None:
    """Find the folder of a split by timm's names for it."""
    return next((root / name for name in names if (root / name).is_dir()), None)


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
                    # Decoding a JPEG at an eighth of its size still detects truncation.
                    image.draft('RGB', (64, 64))
                    image.load()
            except Exception:
                damaged.append(str(path))
    if damaged:
        yield Check(
            'FAIL', f'{len(damaged):,} of the images cannot be read: {listed(damaged)}', 'delete or replace them'
        )
    if large:
        yield Check(
            'warn',
            f'images of more than {_LARGE // 10**6} million pixels: {len(large):,}, such as {large[0]}; decoding them '
            f'in every epoch takes most of the time',
            'scale them once, so that the shorter side has 256 pixels',
        )
