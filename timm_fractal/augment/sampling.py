"""Sampling functions shared by augmentations."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Numbers = npt.NDArray[np.float64]
Pair = tuple[float, float]

_ATTEMPTS = 10


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """Seed a numpy generator, which has more distributions and is faster for small arrays, from a torch one."""
    return np.random.Generator(np.random.PCG64(int(torch.randint(2**63 - 1, (), generator=generator))))


def sample_sides(
    total: npt.NDArray[Any], area: Pair, ratio: Pair, largest: tuple[int, int], rng: np.random.Generator
) -> tuple[Numbers, Numbers, npt.NDArray[np.bool_]]:
    """Sample integer sides of rectangles.

    The product of the sides relative to ``total`` is uniform in ``area``, and the logarithm of their ratio is uniform.

    Returns:
        Both sides, and whether one of ten samples was at most ``largest``; arrays of the shape of ``total``.
    """
    first, second, found = np.zeros(len(total)), np.zeros(len(total)), np.zeros(len(total), np.bool_)
    pending = np.arange(len(total))
    for _ in range(_ATTEMPTS):
        product = rng.uniform(*area, len(pending)) * total[pending]
        quotient = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), len(pending)))
        sides = np.sqrt(product * quotient).round(), np.sqrt(product / quotient).round()
        fits = (sides[0] <= largest[0]) & (sides[1] <= largest[1])
        first[pending], second[pending], found[pending] = *sides, fits
        pending = pending[~fits]
    return first, second, found
