"""Iterated function systems: sampling by sigma-factor, perturbation, probabilities, saving.

An IFS is a float64 array of shape (N, 2, 3): map j takes the point (x, y) to ``A_j (x, y) + b_j`` with
``A_j = system[j, :, :2]`` and ``b_j = system[j, :, 2]``.

Only ``random()`` of the generators is used: its 53-bit doubles are the plain bit stream, so a numpy release that
changes another sampling algorithm cannot change a fractal.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils.atomic import atomic_write

Array = npt.NDArray[np.float64]

#: Maximum deviation of the sigma-factor of a base IFS from the target (the reference generator's margin).
SIGMA_MARGIN = 0.1
#: Numbers of maps that `sample_uniform` chooses from.
UNIFORM_MAPS = range(2, 8)


def sample_singular_values(maps: int, sigma: float, rng: np.random.Generator) -> Array:
    """Sample the singular values of maps with a given sigma-factor ("Improving Fractal Pre-training", section 3.2).

    The sigma-factor is the sum over N maps of (larger + 2 * smaller singular value), 0 < sigma < 3 N.

    Returns:
        Shape (N, 2), with 0 <= values[:, 1] <= values[:, 0] <= 1.

    Examples:
        >>> values = sample_singular_values(2, 3.5, np.random.default_rng(0))
        >>> float(round((values @ [1, 2]).sum(), 12))
        3.5
    """
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
    of ``sigma``, 0 < sigma < 3 N. Samples in the order of the reference: the same numpy generator gives the same IFS.
    """
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
    """Return the probability of each map in the chaos game, p_j = |det A_j| / sum |det A|, shape (N,).

    If every determinant is 0, all maps are equally likely.
    """
    areas = np.abs(system[:, 0, 0] * system[:, 1, 1] - system[:, 0, 1] * system[:, 1, 0])
    total = areas.sum()
    return areas / total if total > 0 else np.full(len(system), 1 / len(system))


def perturb(system: Array, delta: float, rng: np.random.Generator, mode: str = 'multiply') -> Array:
    """Perturb each parameter of an IFS independently ("Scaling Backwards", section 4).

    The result may have maps that are not contractive: its chaos game may diverge.

    Args:
        system: The base IFS.
        delta: Strength, 0 <= delta < 1.
        rng: Source of randomness.
        mode: ``'multiply'``: multiply each parameter by a sample of U(1 - delta, 1 + delta), as in the released
            generator. ``'add'``: add a sample of U(-delta/2, delta/2), as in the paper.
    """
    # Sampled in the order a, b, c, d, e, f of the map x' = a x + b y + e, y' = c x + d y + f.
    draws = rng.random((len(system), 6))
    noise = np.concatenate([draws[:, :4].reshape(-1, 2, 2), draws[:, 4:, None]], axis=2)
    return system + delta * (noise - 0.5) if mode == 'add' else system * ((1 - delta) + 2 * delta * noise)


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
    """Sample the address sequence of a chaos game, which all images of a base IFS share.

    Returns the index of the map from each point to the next, shape (points - 1,), for the probabilities of the maps
    (N,) and the number of points, including the start. The default seed is that of the reference generator.
    """
    return AddressSequences(draws(points, seed), thresholds(probs)[None]).addresses(0)


def thresholds(probs: Array) -> Array:
    """Convert the probabilities of maps (N,) to a row of thresholds (N - 1,) of `AddressSequences`."""
    # Map j is the first whose cumulative probability reaches the sample; rounding may leave the last one below 1.
    # Trailing maps with probability 0 are padding.
    reached = np.cumsum(probs)
    reached[np.flatnonzero(probs)[-1] :] = np.inf
    return reached[:-1]


@functools.lru_cache(maxsize=2)
def draws(points: int, seed: int) -> Array:
    """Return the random numbers of a chaos game, in [0, 1), shape (points - 1,)."""
    # numpy guarantees that the output of RandomState never changes.
    return np.random.RandomState(seed).random_sample(points)[: points - 1]


def sample_uniform(rng: np.random.Generator) -> Array:
    """Sample an IFS like FractalDB's random search ("Pre-training without Natural Images", section 3).

    The number of maps is uniform in `UNIFORM_MAPS`; every parameter is uniform in [-1, 1]. The result has the shape
    (7, 2, 3): maps beyond the sampled number are zero and have probability 0.

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
    """IFS codes of the bases and classes of a data set.

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
        # An address is a byte.
        if not 1 <= codes.bases.shape[1] <= 256:
            raise ValueError(f'{path}: systems must have 1 to 256 maps each, got {codes.bases.shape[1]}')
        probs = codes.probs
        if probs is not None and not (
            probs.shape == codes.bases.shape[:2] and (probs >= 0).all() and np.allclose(probs.sum(1), 1)
        ):
            raise ValueError(
                f"{path}: 'probabilities' must be nonnegative numbers of shape {codes.bases.shape[:2]} "
                f'that sum to 1 for each base, got shape {probs.shape}'
            )
        return codes
