"""``visualatom``: contours of one formula with random parameters, for comparison."""

from typing import NamedTuple

import numpy as np

from .._utils.rng import Stream, stream
from ..spec import VisualAtomSpec
from . import register
from .base import Pixels
from .formula import FormulaDataset
from .visualatom_numba import render_contours

#: Width and height of the canvas that the parameters refer to, in pixels.
CANVAS = 512


class Atom(NamedTuple):
    """Parameters of a category, in pixels of an image of 512 x 512.

    Attributes:
        vertices: Vertices of each contour.
        orbits: Number of contours.
        eta: Amplitude of the noise.
        spacing: Distance between contours without noise.
        radius: Radius of the circle that the contours start from.
        wave: First wave number.
        other_wave: Second wave number.
        wide: Horizontal stretch of that circle.
        high: Vertical stretch.
    """

    vertices: int
    orbits: int
    eta: float
    spacing: float
    radius: float
    wave: float
    other_wave: float
    wide: float
    high: float


def sample_atom(rng: np.random.Generator) -> Atom:
    """Sample a category in the published ranges ("Visual Atoms", CVPR 2023; the defaults of the authors' renderer).

    Examples:
        >>> atom = sample_atom(np.random.default_rng(0))
        >>> atom.vertices, atom.orbits, round(atom.eta, 2)
        (710, 54, 2.16)
    """

    def whole(low: int, high: int) -> int:
        return low + int((high + 1 - low) * rng.random())

    vertices, orbits = whole(200, 1000), whole(1, 200)
    eta, spacing = 2 + 4 * rng.random(), 0.01 * rng.random()
    radius, first = whole(0, 50), whole(0, 20)
    # The wave numbers differ, unless both are 0 (no waves).
    second = whole(0, 20) if first == 0 else whole(0, 19)
    second += first > 0 and second >= first
    return Atom(vertices, orbits, eta, spacing, radius, first, second, 1 + rng.random(), 1 + rng.random())


def perturb_atom(atom: Atom, delta: float, rng: np.random.Generator) -> Atom:
    """Multiply each parameter by a separate sample of U(1 - delta, 1 + delta), like `ifs.perturb`; round counts."""
    vertices, orbits, *others = (np.array(atom) * ((1 - delta) + 2 * delta * rng.random(9))).tolist()
    return Atom(max(3, round(vertices)), max(1, round(orbits)), *others)


def render_atom(atom: Atom, center: tuple[float, float], key: tuple[int, int], size: int) -> Pixels:
    """Render one image.

    Args:
        atom: The category.
        center: Horizontal and vertical position, from 0 to 512.
        key: Two 32-bit numbers that seed the noise and the gray levels.
        size: Width and height in pixels.
    """
    angles = 2 * np.pi * np.arange(atom.vertices) / atom.vertices
    # Sines differ in the last bit between machines; rounded to nine decimals they agree.
    cos, sin = np.cos(angles).round(9), np.sin(angles).round(9)
    waves = (0.5 * np.sin(atom.wave * angles) + 0.5 * np.sin(atom.other_wave * angles)).round(9)
    x = center[0] + cos * atom.radius * atom.wide
    y = center[1] + sin * atom.radius * atom.high
    out = np.zeros((size, size), np.uint8)
    keys = np.uint32(key[0]), np.uint32(key[1])
    render_contours(x, y, cos, sin, waves, atom.eta, atom.spacing, atom.orbits, *keys, size / CANVAS, out)
    return out


def atom_of(spec: VisualAtomSpec, k: int) -> Atom:
    """Return the parameters of class k."""
    if not spec.atoms:
        return sample_atom(stream(spec.seed, Stream.ATOM, k))
    base = sample_atom(stream(spec.seed, Stream.ATOM, k % spec.atoms))
    return perturb_atom(base, spec.delta, stream(spec.seed, Stream.ATOM, k % spec.atoms, k))


def render(spec: VisualAtomSpec, k: int, instance: int, generator: np.random.Generator) -> Pixels:
    """See `timm_fractal.data.register`."""
    # On a grid of half pixels, anywhere in the image.
    center = [int((2 * CANVAS + 1) * generator.random()) / 2 for _ in range(2)]
    key = [int(2**32 * generator.random()) for _ in range(2)]
    return render_atom(atom_of(spec, k), (center[0], center[1]), (key[0], key[1]), spec.size)


register(VisualAtomSpec, render)


class VisualAtom(FormulaDataset):
    """Each class is a formula; instances are its contours at different positions with different noise (CVPR 2023).

    With ``atoms=K``, class k is a perturbation of atom ``k % K``, as in `Fractal1`. ``root`` is ignored with a warning.
    The validation split has at most 25 instances per class. See `SyntheticDataset` for the other arguments.

    Examples:
        >>> dataset = VisualAtom('visualatom/classes=4,instances=3,size=64')
        >>> len(dataset), dataset[5][1]
        (12, 1)
    """

    spec_type = VisualAtomSpec
    spec: VisualAtomSpec

    def atom(self, k: int) -> Atom:
        """Return the parameters of class k."""
        return atom_of(self.spec, k)
