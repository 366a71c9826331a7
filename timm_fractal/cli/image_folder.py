"""Checks a folder of images before training, for ``timm-fractal doctor --data-dir``."""

import hashlib
import io
from collections import Counter, defaultdict
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
        what = 'is not a folder' if root.exists() else 'does not exist'
        raise FileNotFoundError(f'--data-dir: {str(folder)!r} {what}')
    train, val = (_split(root, names) for names in (TRAIN_SPLITS, VALIDATION_SPLITS))
    around, names = root.absolute().parent, (*TRAIN_SPLITS, *VALIDATION_SPLITS)
    # A class may be called train.
    if root.name in names and (
        not (train or val) or all(_split(around, each) for each in (TRAIN_SPLITS, VALIDATION_SPLITS))
    ):
        yield Check('FAIL', f'{root} is one split', f'give the folder that contains it, {around}')
        return
    if around.name in names and not (train or val):
        yield Check('FAIL', f'{root} is one class', f'give the folder that contains the splits, {around.parent}')
        return
    if train is None and val is None and _read(root):
        text = f'{root} is not split: timm would train and test on the same images'
        yield Check('FAIL', text, f'move part of each class to {root}/val/CLASS, see docs/your_images.md')
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
    valid = True
    for split, images in splits.items():
        if loose := [path.name for path, _ in images if path.parent == root / split]:
            valid = False
            yield Check('FAIL', f'{split} has images outside of class folders: {listed(loose)}', 'move or delete them')
    if valid and tested and trained != tested:
        valid = False
        only = zip(splits, (trained - tested, tested - trained), strict=True)
        text = '; '.join(f'only in {split}: {listed(sorted(names))}' for split, names in only if names)
        yield Check(
            'FAIL',
            f'train and val have different classes, {text}; timm numbers the classes of each split separately, so '
            f'labels would not match',
            'give both the same class folders, each with images',
        )
    if len(trained) < 2:
        valid = False
        yield Check('FAIL', f'there is one class, {listed(sorted(trained))}', 'a classifier needs two or more')
    yield from _examine_files(root, [path for images in splits.values() for path, _ in images])
    yield from _unread(root / split for split in splits)
    if not valid:
        return
    batches = len(splits[train.name]) // BATCH
    if batches == 0:
        yield Check('warn', f'there are fewer training images than a batch of {BATCH}', '--batch-size 10')
    else:
        epochs = max(1, round(STEPS / batches))
        options = f'--num-classes {len(trained)} --epochs {epochs}'
        yield Check('ok', f'{options}: {epochs * batches:,} steps of {BATCH} images')
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
        # A class may be called "valid".
        reader: Any = timm.data.create_dataset('', str(folder), search_split=False).reader  # type: ignore[attr-defined]
    except RuntimeError:
        # No image in any folder.
        return []
    names = {number: name for name, number in reader.class_to_idx.items()}
    return [(Path(path), names[number]) for path, number in reader.samples]


def _unread(folders: Iterator[Path]) -> Iterator[Check]:
    """Find images of types that timm skips."""
    from timm.data import readers

    extensions: Any = readers.get_img_extensions
    others = Image.registered_extensions().keys() - set(extensions())
    found = [path.suffix for folder in folders for path in folder.rglob('*') if path.suffix.lower() in others]
    if found:
        text = f'timm skips images of these types: {listed(sorted(set(found)))}; {len(found):,} here'
        yield Check('warn', text, 'convert them to PNG or JPEG')


def _examine_files(root: Path, paths: list[Path]) -> Iterator[Check]:
    damaged: list[str] = []
    large: list[str] = []
    # Of a single color as timm reads them, without their transparency, or in any case.
    lost: list[str] = []
    blank: list[str] = []
    transparent: list[str] = []
    where: dict[bytes, dict[str, str]] = defaultdict(dict)
    with progress_bar('checking images', len(paths)) as bar:
        for path in paths:
            bar.update()
            name = path.relative_to(root)
            try:
                content = path.read_bytes()
                where[hashlib.sha256(content).digest()][name.parts[0]] = str(name)
                with Image.open(io.BytesIO(content)) as image:
                    if image.width * image.height > _LARGE:
                        large.append(str(name))
                    # Decoding a JPEG at an eighth of its size still detects truncation.
                    image.draft('RGB', (64, 64))
                    if image.has_transparency_data:
                        transparent.append(str(name))
                    # As timm does, which drops transparency.
                    extrema: Any = image.convert('RGB').getextrema()
                    if all(low == high for low, high in extrema):
                        (lost if image.has_transparency_data else blank).append(str(name))
            except Exception:
                damaged.append(str(name))
    if damaged:
        text = f'{len(damaged):,} of the images cannot be read: {listed(damaged)}'
        yield Check('FAIL', text, 'delete or replace them')
    background = 'give them a background, see docs/your_images.md'
    if lost:
        text = f'{len(lost):,} images have a single color without their transparency: {listed(lost)}'
        yield Check('FAIL', text, background)
    if blank:
        text = f'{len(blank):,} images have a single color: {listed(blank)}'
        yield Check('warn', text, 'delete or replace them')
    if transparent:
        text = f'timm drops the transparency of {len(transparent):,} images, such as {transparent[0]}'
        yield Check('warn', text, background)
    if twice := [' = '.join(names.values()) for names in where.values() if len(names) > 1]:
        text = f'{len(twice):,} images are in both splits, so accuracy would be too high: {listed(twice)}'
        yield Check('warn', text, 'delete them in one split')
    if large:
        yield Check(
            'warn',
            f'images of more than {_LARGE // 10**6} million pixels: {len(large):,}, such as {large[0]}; decoding them '
            f'in every epoch takes most of the time',
            'scale them once, so that the shorter side has 256 pixels',
        )
