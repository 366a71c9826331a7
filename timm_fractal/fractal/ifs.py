"""Iterated function systems: sampling by sigma-factor, perturbation, probabilities, saving.

An IFS is a float64 array of shape (N, 2, 3): map j takes the point (x, y) to ``A_j (x, y) + b_j`` with
``A_j = system[j, :, :2]`` and ``b_j = system[j, :, 2]``.

Of generators only ``random()`` is used: its 53-bit doubles are the plain bit stream, so a numpy release that changes
another sampling algorithm cannot change a fractal.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils.atomic import atomic_write

Array = npt.NDArray[np.float64]

#: Maximum deviation of the sigma-factor of a base IFS from the target (the reference generator's margin).
SIGMA_MARGIN = 0.1
#: Numbers of maps that `sample_uniform` chooses from.
UNIFORM_MAPS = range(2, 8)


def sample_singular_values(maps: int, sigma: float, rng: np.random.Generator) -> Array:
    """Sample singular values with a given sigma-factor ("Improving Fractal Pre-training", section 3.2).

    Args:
        maps: Number N of affine maps, at least 1.
        sigma: The sigma-factor: the sum over maps of (larger + 2 * smaller singular value), 0 < sigma < 3 N.
        rng: Source of randomness.

    Returns:
        Shape (N, 2), with 0 <= values[:, 1] <= values[:, 0] <= 1.

    Raises:
        ValueError: ``sigma`` is not between 0 and 3 N.

    Examples:
        >>> values = sample_singular_values(2, 3.5, np.random.default_rng(0))
        >>> float(round((values @ [1, 2]).sum(), 12))
        3.5
    """
    if not 0 < sigma < 3 * maps:
        raise ValueError(f'sigma must be greater than 0 and less than 3 * maps = {3 * maps}, got {sigma}')
    values = np.empty((maps, 2))
    budget = sigma
    # Minimum for this map, so that the following maps, at most 3 each, can make up the rest.
    needed = sigma - 3 * (maps - 1)
    for j in range(maps - 1):
        large = _uniform(rng, max(0.0, needed / 3), min(1.0, budget))
        budget, needed = budget - large, needed - large
        small = _uniform(rng, max(0.0, needed / 2), min(large, budget / 2))
        budget, needed = budget - 2 * small, needed - 2 * small + 3
        values[j] = large, small
    small = _uniform(rng, max(0.0, (budget - 1) / 2), budget / 3)
    values[-1] = budget - 2 * small, small
    return values


def sample(maps: int, sigma: float, rng: np.random.Generator) -> Array:
    """Sample an IFS of contractive maps by its sigma-factor ("Improving Fractal Pre-training", section 3.2).

    The linear part of map j is U diag(s1, s2) V with random rotations U, V (angles uniform in [-pi, pi]) of a basis
    with random signs; the translation is uniform in [-1, 1]^2; the sigma-factor itself is uniform within `SIGMA_MARGIN`
    of ``sigma``. Samples in the order of the reference: the same numpy generator gives the same IFS.

    Args:
        maps: Number N of affine maps, at least 2.
        sigma: Target sigma-factor, 0 < sigma < 3 N.
        rng: Source of randomness.

    Returns:
        Shape (N, 2, 3).

    Raises:
        ValueError: ``maps`` or ``sigma`` is out of range.
    """
    if maps < 2:
        raise ValueError(f'maps must be at least 2, got {maps}')
    if not 0 < sigma < 3 * maps:
        raise ValueError(f'sigma must be greater than 0 and less than 3 * maps = {3 * maps}, got {sigma}')
    signs = np.sign(rng.random((2 * maps, 2, 1)) - 0.5) * np.eye(2)
    angles = _uniform(rng, -np.pi, np.pi, (2 * maps,))
    rotations = np.empty((2 * maps, 2, 2))
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angles)
    rotations[:, 1, 0] = np.sin(angles)
    rotations[:, 0, 1] = -rotations[:, 1, 0]
    rotations = rotations @ signs
    # The margin is clipped to the valid range.
    edge = 1e-6
    low, high = max(edge, sigma - SIGMA_MARGIN), min(3 * maps - edge, sigma + SIGMA_MARGIN)
    values = sample_singular_values(maps, _uniform(rng, low, high), rng)
    system = np.empty((maps, 2, 3))
    system[:, :, :2] = rotations[:maps] * values[:, None, :] @ rotations[maps:]
    system[:, :, 2] = _uniform(rng, -1.0, 1.0, (maps, 2))
    return system


def probabilities(system: Array) -> Array:
    """Return the probability of each map in the chaos game, p_j = |det A_j| / sum |det A|.

    Args:
        system: Shape (N, 2, 3).

    Returns:
        Shape (N,), summing to 1. If every determinant is 0, all maps are equally likely.
    """
    areas = np.abs(system[:, 0, 0] * system[:, 1, 1] - system[:, 0, 1] * system[:, 1, 0])
    total = areas.sum()
    return areas / total if total > 0 else np.full(len(system), 1 / len(system))


def perturb(
    system: Array, delta: float, rng: np.random.Generator, mode: Literal['multiply', 'add'] = 'multiply'
) -> Array:
    """Perturb each parameter of an IFS independently ("Scaling Backwards", section 4).

    Args:
        system: The base IFS, shape (N, 2, 3).
        delta: Strength, 0 <= delta < 1.
        rng: Source of randomness.
        mode: ``'multiply'``: multiply each parameter by a sample of U(1 - delta, 1 + delta), as in the released
            generator. ``'add'``: add a sample of U(-delta/2, delta/2), as in the paper.

    Returns:
        Shape (N, 2, 3). Maps may not be contractive: see `timm_fractal.fractal.render.render`.

    Raises:
        ValueError: ``delta`` is out of range or ``mode`` unknown.
    """
    if not 0 <= delta < 1:
        raise ValueError(f'delta must be at least 0 and less than 1, got {delta}')
    # Sampled in the order a, b, c, d, e, f of the map x' = a x + b y + e, y' = c x + d y + f.
    draws = rng.random((len(system), 6))
    noise = np.concatenate([draws[:, :4].reshape(-1, 2, 2), draws[:, 4:, None]], axis=2)
    if mode == 'multiply':
        return system * ((1 - delta) + 2 * delta * noise)
    if mode == 'add':
        return system + delta * (noise - 0.5)
    raise ValueError(f"mode must be 'multiply' or 'add', got {mode!r}")


class AddressSequences(NamedTuple):
    """Address sequences of images with different map probabilities, from the same random numbers.

    Attributes:
        draws: The random numbers, one per step, shape (points - 1,).
        thresholds: Shape (B, N - 1), an ascending row per image: a step uses map j if its random number exceeds j of
            them.
    """

    draws: Array
    thresholds: Array

    def addresses(self, image: int) -> npt.NDArray[np.uint8]:
        """Return the address sequence of an image, shape (points - 1,)."""
        path = np.zeros(len(self.draws), np.uint8)
        for threshold in self.thresholds[image]:
            path += self.draws > threshold
        return path


def addresses(probs: Array, points: int, seed: int = 100) -> npt.NDArray[np.uint8]:
    """Sample the address sequence of a chaos game; all images of a base IFS share it.

    Args:
        probs: Probability of each map, shape (N,).
        points: Number of points of the chaos game, the start included.
        seed: Seed of the sequence; 100 as in the reference generator.

    Returns:
        Shape (points - 1,): the map from each point to the next.
    """
    return AddressSequences(draws(points, seed), thresholds(probs)[None]).addresses(0)


def thresholds(probs: Array) -> Array:
    """Return the thresholds that choose a map from a random number, see `AddressSequences`.

    Args:
        probs: Probability of each map, shape (N,).

    Returns:
        Shape (N - 1,).
    """
    # Map j is the first whose cumulative probability reaches the sample; rounding may leave the last one below 1.
    # Trailing maps with probability 0 are padding.
    reached = np.cumsum(probs)
    reached[np.flatnonzero(probs)[-1] :] = np.inf
    return reached[:-1]


@functools.lru_cache(maxsize=2)
def draws(points: int, seed: int) -> Array:
    """Return the random numbers of a chaos game, in [0, 1), shape (points - 1,)."""
    # numpy guarantees the numbers of RandomState forever.
    return np.random.RandomState(seed).random_sample(points)[: points - 1]


def sample_uniform(rng: np.random.Generator) -> Array:
    """Sample an IFS like FractalDB's random search ("Pre-training without Natural Images", section 3).

    The number of maps is uniform in `UNIFORM_MAPS`; every parameter is uniform in [-1, 1].

    Args:
        rng: Source of randomness; the same number of samples is used for any number of maps.

    Returns:
        Shape (7, 2, 3). Maps beyond the sampled number are zero and have probability 0.

    Examples:
        >>> system = sample_uniform(np.random.default_rng(0))
        >>> probabilities(system).round(2).tolist()
        [0.11, 0.28, 0.22, 0.15, 0.24, 0.0, 0.0]
    """
    draws = rng.random(1 + 6 * UNIFORM_MAPS[-1])
    system: Array = 2 * draws[1:].reshape(-1, 2, 3) - 1
    system[UNIFORM_MAPS[int(draws[0] * len(UNIFORM_MAPS))] :] = 0
    return system


def _uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...] | None = None) -> Any:
    return low + (high - low) * rng.random(shape)


@dataclasses.dataclass(frozen=True)
class IFSCodes:
    """IFS codes of a data set: of its bases and classes.

    Attributes:
        name: Canonical name of the data set.
        bases: The base IFSs, shape (K, N, 2, 3). If they differ in the number of maps, missing ones are zero.
        systems: One IFS per class, shape (classes, N, 2, 3); that of class k is a perturbation of ``bases[k % K]``.
        probs: Probability of each map of each base, shape (K, N); None to use `probabilities`.

    Examples:
        >>> from timm_fractal import Fractal1
        >>> codes = Fractal1('fractal1/classes=2,size=64,points=5000').codes
        >>> codes.name, codes.bases.shape, codes.systems.shape
        ('fractal1/classes=2,points=5000,size=64', (1, 2, 2, 3), (2, 2, 2, 3))
    """

    name: str
    bases: Array
    systems: Array
    probs: Array | None = None

    def probabilities(self, base: int) -> Array:
        """Return the probability of each map of a base and its perturbations, shape (N,), summing to 1."""
        return probabilities(self.bases[base]) if self.probs is None else self.probs[base]

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load` restores bit for bit."""
        content = {'dataset': self.name, 'bases': self.bases.tolist(), 'systems': self.systems.tolist()}
        if self.probs is not None:
            content['probabilities'] = self.probs.tolist()
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content), encoding='utf-8')

    @classmethod
    def load(cls, path: str | Path) -> 'IFSCodes':
        """Read a file written by `save`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or not a parameter file; the message says where.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f'no such parameter file: {str(path)!r}')
        text = Path(path).read_bytes()
        try:
            content = json.loads(text)
            codes = cls(
                name=content['dataset'],
                bases=np.asarray(content['bases'], dtype=np.float64),
                systems=np.asarray(content['systems'], dtype=np.float64),
                probs=np.asarray(content['probabilities'], dtype=np.float64) if 'probabilities' in content else None,
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = 'not text' if isinstance(error, UnicodeDecodeError) else f'{type(error).__name__}: {error}'
            raise ValueError(
                f'{path} is not a parameter file of timm-fractal, or is damaged ({reason}); '
                f'for a photograph, use image1'
            ) from error
        maps = codes.bases.shape[1:2]
        for key in ('bases', 'systems'):
            array = getattr(codes, key)
            shape = (*array.shape[:1], *maps, 2, 3)
            if not isinstance(codes.name, str) or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f'{path}: {key!r} must be finite numbers of shape {shape}, got shape {array.shape}')
        probs = codes.probs
        if probs is not None and not (
            probs.shape == codes.bases.shape[:2] and (probs >= 0).all() and np.allclose(probs.sum(1), 1)
        ):
            raise ValueError(
                f"{path}: 'probabilities' must be nonnegative numbers of shape {codes.bases.shape[:2]} "
                f'that sum to 1 for each base, got shape {probs.shape}'
            )
        return codes
