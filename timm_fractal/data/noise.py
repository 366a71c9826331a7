"""``noise1``: one perturbed noise image, the control experiment."""

import functools
import math

import numpy as np

from .._utils.rng import Stream, stream
from ..spec import Noise1Spec
from . import register
from .base import Pixels
from .formula import FormulaDataset


def noise_image(kind: str, size: int, rng: np.random.Generator) -> Pixels:
    """Make an image of independent pixels.

    Args:
        kind: ``'gaussian'``: mean 127.5, standard deviation 42.5, clipped to 0 to 255. ``'uniform'``: all gray levels
            from 0 to 255 are equally likely.
        size: Width and height in pixels.
        rng: Source of randomness; only ``random()`` is used.

    Examples:
        >>> image = noise_image('gaussian', 256, np.random.default_rng(0))
        >>> float(image.mean().round(1)), float(image.std().round(1))
        (127.5, 42.4)
    """
    draws = rng.random((size, size))
    if kind == 'uniform':
        return (256 * draws).astype(np.uint8)
    # Inverse of the cumulative distribution: the level is the number of boundaries between levels below the sample.
    below = [(1 + math.erf((level + 0.5 - 127.5) / (42.5 * math.sqrt(2)))) / 2 for level in range(255)]
    return np.searchsorted(below, draws).astype(np.uint8)


def perturb_pixels(image: Pixels, delta: float, rng: np.random.Generator) -> Pixels:
    """Multiply each pixel by a separate sample of U(1 - delta, 1 + delta), like `ifs.perturb`, and clip to 255."""
    factors = (1 - delta) + 2 * delta * rng.random(image.shape)
    return np.minimum(np.rint(image * factors), 255).astype(np.uint8)


@functools.lru_cache(2)
def _base(noise: str, size: int, seed: int) -> Pixels:
    return noise_image(noise, size, stream(seed, Stream.IMAGE))


def render(spec: Noise1Spec, k: int, instance: int, generator: np.random.Generator) -> Pixels:
    """See `timm_fractal.data.register`."""
    return perturb_pixels(_base(spec.noise, spec.size, spec.seed), spec.delta, generator)


register(Noise1Spec, render)


class Noise1(FormulaDataset):
    """Classes are perturbations of one noise image ("Scaling Backwards", ECCV 2024, the controls).

    ``root`` is ignored with a warning. The validation split differs from the training split as in `Image1`.

    Examples:
        >>> len(Noise1('noise1/noise=uniform,classes=4,size=64'))
        4
    """

    spec_type = Noise1Spec
