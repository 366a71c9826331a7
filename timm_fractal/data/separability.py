"""Can the classes of a data set be told apart? A measure of a fraction of a second, before hours of training."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from .._utils.rng import Stream, stream
from ..spec import Spec
from . import create
from .base import SyntheticDataset, is_primary, progress_bar

_logger = logging.getLogger(__name__)

#: Classes that are compared with each other.
CLASSES = 64
#: Width and height that images are reduced to, in pixels: what a model of small resolution sees of shapes.
SIZE = 32
#: Smallest side of a crop, relative to the image.
MIN_SIDE = 0.8
#: Beyond this part of confused pairs a data set is suspicious. In the sweep over delta (docs/results.md, 400,000
#: samples at 32 pixels) 0.115 of the pairs are confused with delta 0.1, of which 41 % of 100 classes were learned, and
#: 0.225 with delta 0.05, of which 21 % were; noise, of which 2 % were, has 0.27.
LIMIT = 0.2

_Vectors = npt.NDArray[np.float64]


class Separability(NamedTuple):
    """What `measure` finds.

    Attributes:
        confused: Part of the pairs of classes, from 0 to 1, in which another class is no farther than a crop of the
            same class.
        nearest: Part of the classes whose crop is nearest to its own class.
        fill: Mean part of the pixels that are not black.
        emptiest: The class with the fewest of them, and its part.
    """

    confused: float
    nearest: float
    fill: float
    emptiest: tuple[int, float]


def measure(dataset: SyntheticDataset, root: str | Path | None = None) -> Separability:
    """Compare the first `CLASSES` training images with crops of the validation images of the same classes.

    Both are reduced to `SIZE` pixels; a crop has `MIN_SIDE` to 1 of each side, at a random place.

    Args:
        dataset: The training split.
        root: The ``root`` it was made with.

    Examples:
        >>> found = measure(create('fractal1/classes=16,size=64,points=5000'))
        >>> 0 <= found.confused < 0.2 < found.nearest <= 1
        True
    """
    count = min(CLASSES, dataset.num_classes)
    held_out = create(first_classes(dataset.spec, root), 'validation', root=root, only=range(count))
    pairs = [(_vector(image), np.count_nonzero(np.asarray(image))) for image in dataset.images(range(count), 'L')]
    own = np.stack([vector for vector, _ in pairs])
    other = np.stack([_vector(image, crop=k) for k, image in enumerate(held_out.images(range(count), 'L'))])
    distance = (own**2).sum(1)[:, None] + (other**2).sum(1) - 2 * own @ other.T
    # Rounded, so that equal images are equally far.
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


def first_classes(spec: Spec, root: str | Path | None = None) -> Spec:
    """The same data set cut to the classes that are compared; files are read for all classes."""
    first = spec.canonical() if root is not None else spec.canonical().first(min(CLASSES, spec.num_classes))
    changed: dict[str, Any] = {'cache': 'none'}
    return dataclasses.replace(first, **changed)


def _vector(image: Image.Image, crop: int | None = None) -> _Vectors:
    box = (0.0, 0.0, float(image.width), float(image.height))
    if crop is not None:
        side, x, y = stream(0, Stream.JITTER, crop).random(3)
        side = (MIN_SIDE + (1 - MIN_SIDE) * side) * image.width
        x, y = x * (image.width - side), y * (image.height - side)
        box = (x, y, x + side, y + side)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX, box), np.float64).ravel()


def suggest_options(spec: Spec, root: str | Path | None = None) -> str:
    """Find options with which classes can be told apart.

    Tried are larger deltas, these with full patches, and these with images of two and four times the size.

    Returns:
        What to change in the name, such as ``'delta=0.1,patch=fill'``; empty if nothing of this helps.
    """
    options: dict[str, Any] = vars(spec)
    others: list[dict[str, Any]] = [{}]
    if options.get('patch', 'fill') != 'fill':
        others.append({'patch': 'fill'})
    # Beyond that an image has more details than are looked at.
    others += [{'size': factor * options['size']} for factor in (2, 4) if factor * options['size'] <= 8 * SIZE]
    deltas: list[dict[str, Any]] = [{}]
    if 'delta' in options:
        deltas += [
            {'delta': round(factor * (options['delta'] or 0.01), 3)} for factor in (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
        ]
    first = first_classes(spec, root)
    with progress_bar('looking for better options', len(others) * len(deltas), 'trial') as bar:
        for number, other in enumerate(others):
            for delta in deltas:
                changed = delta | other
                if not changed:
                    continue
                try:
                    found = measure(create(dataclasses.replace(first, **changed), root=root, only=range(CLASSES)), root)
                except ValueError:
                    break  # Out of range, or nothing but empty images.
                bar.update()
                if found.confused <= LIMIT / 2:
                    return ','.join(f'{key}={value}' for key, value in changed.items())
            bar.update((number + 1) * len(deltas) - bar.n)
    return ''


def suggestions(spec: Spec, root: str | Path | None = None) -> str:
    """What may help of the options that a data set has, in words.

    Examples:
        >>> from timm_fractal.spec import parse_name
        >>> suggestions(parse_name('image1')), suggestions(parse_name('ofdb'))
        ('a larger delta or larger images', 'patch=fill or larger images')
    """
    options = vars(spec)
    words = ['a larger delta'] * ('delta' in options)
    words += ['patch=fill'] * (options.get('patch', 'fill') != 'fill')
    words += ['larger images'] * ('size' in options)
    # A base that was read is the only one.
    words += ['more base fractals'] * (root is None and options.get('fractals', spec.num_classes) < spec.num_classes)
    return ' or '.join([', '.join(words[:-1])] * (len(words) > 1) + words[-1:])


def advice(spec: Spec, found: Separability, root: str | Path | None = None) -> str:
    """Describe the problem and a remedy; empty if there is none."""
    if found.confused <= LIMIT or spec.random_position:
        return ''
    return (
        f'{found.confused:.0%} of its pairs of classes are no farther from each other than two crops of one class: a '
        f'model may not learn them. Take {suggestions(spec, root)}, or see timm-fractal doctor --dataset'
    )


_measured: set[tuple[Any, ...]] = set()


def warn(dataset: SyntheticDataset, root: str | Path | None = None) -> None:
    """Log a warning if the classes of a training split can hardly be told apart, once per data set.

    Another file that it is made from, or one that has changed, makes another data set.
    """
    name = str(dataset.spec)
    if dataset.split != 'train' or dataset.spec.random_position or not is_primary():
        return
    key = name, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in dataset.files)
    if key in _measured:
        return
    _measured.add(key)
    words = advice(dataset.spec, measure(dataset, root), root if dataset.files else None)
    if words:
        _logger.warning('%s%s: %s', name, f' of {root}' if dataset.files else '', words)
