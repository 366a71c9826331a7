"""Measures in a fraction of a second how separable the classes of a data set are, before hours of training."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from .._utils.console import is_primary, progress_bar
from .._utils.rng import Stream, stream
from ..spec import Spec
from . import create
from .base import SyntheticDataset

_logger = logging.getLogger(__name__)

#: Classes that are compared with each other.
CLASSES = 64
#: Width and height that images are reduced to, in pixels: the shapes that a low-resolution model sees.
SIZE = 32
#: Smallest side of a crop, relative to the image.
MIN_SIDE = 0.8
#: Fraction of confused pairs above which a warning is logged. In the sweep over delta (docs/results.md, 400,000 samples
#: of 100 classes at 32 pixels), delta 0.1 has 0.115 confused pairs and reached 41 % accuracy, delta 0.05 has 0.225 and
#: reached 21 %; noise has 0.27 and reached 2 %.
LIMIT = 0.2
#: Fraction of crops nearest to their own class below which `timm-fractal doctor` warns. In the same sweep, delta 0.01
#: has 0.09 and was hardly better than no pre-training, delta 0.05 has 0.28.
FEWEST = 0.2

_Vectors = npt.NDArray[np.float64]


class Separability(NamedTuple):
    """Result of `measure`.

    Attributes:
        confused: Fraction of class pairs in which the other class is no farther away than a crop of the same class.
        nearest: Fraction of classes whose crop is nearest to its own class.
        fill: Mean fraction of pixels that are not black.
        emptiest: The class with the lowest fill, and its fill.
    """

    confused: float
    nearest: float
    fill: float
    emptiest: tuple[int, float]

    def __str__(self) -> str:
        return (
            f'{self.confused:.1%} of the pairs of classes are no farther apart than two crops of one class (limit '
            f'{LIMIT:.0%}, {SIZE} x {SIZE} pixels); {self.nearest:.0%} of the crops are nearest to their own class'
        )


def measure(dataset: SyntheticDataset, root: str | Path | None = None) -> Separability:
    """Compare the first `CLASSES` training images with crops of the validation images of the same classes.

    Both are reduced to `SIZE` pixels; a crop has `MIN_SIDE` to 1 of each side, at a random position.

    Args:
        dataset: The training split.
        root: The ``root`` it was made with.

    Examples:
        >>> found = measure(create('fractal1/classes=16,size=64,points=5000'))
        >>> 0 <= found.confused < 0.2 < found.nearest <= 1
        True
    """
    count = min(CLASSES, dataset.num_classes)
    held_out = first_classes(dataset.spec, root, 'validation')
    pairs = [(_vector(image), np.count_nonzero(np.asarray(image))) for image in dataset.images(range(count), 'L')]
    own = np.stack([vector for vector, _ in pairs])
    other = np.stack([_vector(image, crop=k) for k, image in enumerate(held_out.images(range(count), 'L'))])
    distance = (own**2).sum(1)[:, None] + (other**2).sum(1) - 2 * own @ other.T
    # Rounded, so that equal images have equal distances.
    distance = distance.round(3)
    confused = (distance <= np.diag(distance)).sum() - count
    fills = [pixels / dataset.spec.size**2 for _, pixels in pairs]
    emptiest = int(np.argmin(fills))
    return Separability(
        float(confused / (count * (count - 1))),
        float((distance.argmin(0) == np.arange(count)).mean()) if confused < count * (count - 1) else 0.0,
        float(np.mean(fills)),
        (emptiest, float(fills[emptiest])),
    )


def first_classes(spec: Spec, root: str | Path | None = None, split: str = 'train') -> SyntheticDataset:
    """Create the data set of the classes that `measure` compares."""
    first = dataclasses.replace(spec.canonical(), cache='none')
    if root is None:
        # Classes made from files may depend on the number of classes.
        first = first.first(min(CLASSES, spec.num_classes))
    return create(first, split, root=root, only=range(CLASSES))


def _vector(image: Image.Image, crop: int | None = None) -> _Vectors:
    box = (0.0, 0.0, float(image.width), float(image.height))
    if crop is not None:
        side, x, y = stream(0, Stream.JITTER, crop).random(3)
        side = (MIN_SIDE + (1 - MIN_SIDE) * side) * image.width
        x, y = x * (image.width - side), y * (image.height - side)
        box = (x, y, x + side, y + side)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX, box), np.float64).ravel()


def suggest_options(spec: Spec, root: str | Path | None = None) -> str:
    """Find options with which the classes are separable.

    Tries larger deltas, then also full patches, then images of two and four times the size.

    Returns:
        Options to change, such as ``'delta=0.1,patch=fill'``; empty if none of them helps.
    """
    options: dict[str, Any] = vars(spec)
    others: list[dict[str, Any]] = [{}]
    if options.get('patch', 'fill') != 'fill':
        others.append({'patch': 'fill'})
    # Detail of even larger images is lost at `SIZE` pixels.
    others += [{'size': factor * options['size']} for factor in (2, 4) if factor * options['size'] <= 8 * SIZE]
    deltas: list[dict[str, Any]] = [{}]
    if 'delta' in options:
        deltas += [
            {'delta': round(factor * (options['delta'] or 0.01), 3)} for factor in (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
        ]
    with progress_bar('looking for better options', len(others) * len(deltas), 'trial') as bar:
        for number, other in enumerate(others):
            for delta in deltas:
                changed = delta | other
                if not changed:
                    continue
                try:
                    found = measure(first_classes(dataclasses.replace(spec, **changed), root), root)
                except ValueError:
                    break  # Out of range, or only empty images.
                bar.update()
                if found.confused <= LIMIT / 2 and found.nearest >= 2 * FEWEST:
                    return ','.join(f'{key}={value}' for key, value in changed.items())
            bar.update((number + 1) * len(deltas) - bar.n)
    return ''


def suggestions(spec: Spec, root: str | Path | None = None) -> str:
    """Describe which options of a data set may help.

    Examples:
        >>> from timm_fractal.spec import parse_name
        >>> suggestions(parse_name('image1')), suggestions(parse_name('ofdb'))
        ('a larger delta or larger images', 'patch=fill or larger images')
    """
    options = vars(spec)
    words = ['a larger delta'] * ('delta' in options)
    words += ['patch=fill'] * (options.get('patch', 'fill') != 'fill')
    words += ['larger images'] * ('size' in options)
    # A file has only one base.
    words += ['more base fractals'] * (root is None and options.get('fractals', spec.num_classes) < spec.num_classes)
    return ' or '.join([', '.join(words[:-1])] * (len(words) > 1) + words[-1:])


_measured: set[tuple[Any, ...]] = set()


def warn(dataset: SyntheticDataset, root: str | Path | None = None) -> None:
    """Log a warning if the classes of a training split are barely separable, once per data set and its files."""
    name = str(dataset.spec)
    if dataset.split != 'train' or dataset.spec.random_position or not is_primary():
        return
    key = name, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in dataset.files)
    if key in _measured:
        return
    _measured.add(key)
    confused = measure(dataset, root).confused
    if confused > LIMIT:
        _logger.warning(
            '%s%s: %.0f%% of the class pairs are no farther apart than two crops of one class, so a model may not '
            'learn to separate them: try %s, or see timm-fractal doctor --dataset',
            *(name, f' of {root}' if dataset.files else '', 100 * confused),
            suggestions(dataset.spec, root if dataset.files else None),
        )
