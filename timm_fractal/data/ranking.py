"""Ranks base fractals without training, by two measures that correlate with transfer."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from .._utils.rng import Stream, stream
from ..fractal.canvas import GRAY, unpack
from ..spec import IFSSpec, Spec
from . import create

#: Options of the data set on which base fractals were compared (docs/results.md, "Which fractal").
STUDY: dict[str, Any] = {'classes': 100, 'delta': 0.2, 'points': 20_000, 'size': 96, 'patch': 'fill', 'cache': 'none'}
#: Input resolution and patch size of the model in that study, in pixels.
INPUT, PATCH = 32, 8
#: Random crops of each class, as in training.
CROPS = 8


class Quality(NamedTuple):
    """Result of `measure`.

    Attributes:
        overlap: Intersection over union of the pixels of two classes, mean over all pairs of classes, from 0 to 1. Low
            if perturbations move the shape far.
        contrast: Standard deviation within a patch of the model, mean over the patches of random crops of all classes,
            from 0 to 0.5 (black is 0 and gray 1). High if patches show edges and are neither empty nor filled.
    """

    overlap: float
    contrast: float

    @property
    def score(self) -> float:
        """Sum of both, in standard deviations over the fractals with seeds 0 to 23; higher is better."""
        return (self.contrast - _CONTRAST[0]) / _CONTRAST[1] - (self.overlap - _OVERLAP[0]) / _OVERLAP[1]


# Mean and standard deviation over seeds 0 to 23.
_OVERLAP = (0.4589, 0.0734)
_CONTRAST = (0.2758, 0.0265)

#: How well the score predicts transfer.
EVIDENCE = (
    'random fractals have mean 0 and standard deviation 1.5; in a study of 40 fractals, those with a higher score '
    'transferred better (Spearman 0.60, 95 % interval 0.31 to 0.79, docs/datasets.md): it rules out bad fractals '
    'rather than finding the best'
)


def can_measure(spec: Spec, root: str | Path | None = None) -> bool:
    """Return whether a data set has one base fractal, sampled or read from a CSV file."""
    is_one = isinstance(spec, IFSSpec) and spec.perturbs and spec.num_bases == 1
    return is_one and (root is None or Path(root).suffix.lower() == '.csv')


def measure(spec: Spec, root: str | Path | None = None) -> Quality:
    """Measure the base fractal of a data set, with the other options of `STUDY`.

    Args:
        spec: A data set with one base fractal.
        root: CSV file that the base fractal is read from.

    Raises:
        ValueError: The data set does not have exactly one base fractal, or none is found for its options.

    Examples:
        >>> from timm_fractal.spec import parse_name
        >>> quality = measure(parse_name('fractal1'))
        >>> 0 < quality.overlap < 1, 0 < quality.contrast < 0.5
        (True, True)
    """
    if not can_measure(spec, root):
        raise ValueError(f'spec must be a data set with one base fractal, such as fractal1, got {spec}')
    dataset: Any = create(dataclasses.replace(spec.canonical(), **STUDY), root=root)
    images = unpack(dataset.stored_range(range(dataset.num_classes)), dataset.spec.size)
    return Quality(_overlap(images > 0), float(np.mean([_contrast(image, k) for k, image in enumerate(images)])))


def rank(spec: Spec, seeds: Iterable[int]) -> Iterator[tuple[int, Quality | None]]:
    """Measure the fractals of several seeds, with the other options of a data set.

    Yields:
        A seed and its measurement; None if no fractal is found for the seed.
    """
    for seed in seeds:
        try:
            yield seed, measure(dataclasses.replace(spec, seed=seed))
        except ValueError:
            yield seed, None


def _overlap(shapes: npt.NDArray[np.bool_]) -> float:
    flat = shapes.reshape(len(shapes), -1).astype(np.float32)
    both = flat @ flat.T
    own = both.diagonal()
    return float((both / (own[:, None] + own - both))[np.triu_indices(len(flat), 1)].mean())


def _contrast(image: npt.NDArray[np.uint8], k: int) -> float:
    whole = Image.fromarray(image)
    side = len(image)
    rng = stream(0, Stream.JITTER, k)
    found = []
    for area, aspect, x, y in rng.random((CROPS, 4)):
        # Area 0.2 to 1, aspect ratio 3/4 to 4/3, as in training.
        area, aspect = 0.2 + 0.8 * area, (4 / 3) ** (2 * aspect - 1)
        width, height = (min(side, side * (area * ratio) ** 0.5) for ratio in (aspect, 1 / aspect))
        left, top = x * (side - width), y * (side - height)
        crop = whole.resize((INPUT, INPUT), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        patches = np.asarray(crop, np.float32).reshape(INPUT // PATCH, PATCH, INPUT // PATCH, PATCH)
        found.append(patches.std((1, 3)).mean() / GRAY)
    return float(np.mean(found))
