"""Independent streams of random numbers for each purpose, class, image or attempt."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Purpose of a stream of random numbers. The values determine the data sets and never change."""

    BASE = 0  # a base IFS; attempt, base
    PERTURBATION = 1  # the perturbation of a class of fractal1; class, attempt
    PATCHES = 2  # patch masks; split, class, instance
    SEARCH = 3  # the random search of FractalDB; category, attempt
    TRIAL = 4  # trial perturbations of a base IFS; attempt, base
    IMAGE = 10  # the one image of noise1
    CLASS = 11  # the warp of image1, or the single image of a class of a formula; class
    JITTER = 12  # noise of the validation split; image
    ATOM = 20  # parameters of an atom of VisualAtom; class or atom
    INSTANCE = 21  # instances of a formula; split, class, instance
    FORMULA = 30  # `class_generator`; the caller's numbers
    ORDER = 40  # order of images in shards


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return an independent generator for a seed, a purpose (`Stream`) and indices."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *map(int, key)))))
