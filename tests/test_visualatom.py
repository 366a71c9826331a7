"""VisualAtom against drawing with Pillow, and its guarantees as a data set."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from timm.data import create_dataset

from timm_fractal import VisualAtom, parse_name
from timm_fractal._utils.rng import stream
from timm_fractal.data.visualatom import Atom, perturb_atom, render_atom, sample_atom

SMALL = 'visualatom/classes=6,instances=3,size=64'
M = 2**32


def random_bits(index, key0, key1):
    h = (index + key0) % M
    h = ((h ^ (h >> 16)) * 0x7FEB352D % M) ^ key1
    h = (h ^ (h >> 15)) * 0x846CA68B % M
    return h ^ (h >> 16)


def perlin(bits):
    t = (bits >> 8) / 2**24
    gradients = [-1 if bits >> shift & 8 else (bits >> shift & 7) + 1 for shift in (0, 4)]
    fade = 6 * t**5 - 15 * t**4 + 10 * t**3
    return 0.4 * ((1 - fade) * gradients[0] * t + fade * gradients[1] * (t - 1))


def oracle(atom, center, key, size):
    """Draw like the authors' loop: all vertices move, then Pillow draws line by line."""
    image = Image.new('L', (size, size))
    draw = ImageDraw.Draw(image)
    angles = [2 * math.pi * v / atom.vertices for v in range(atom.vertices)]
    ovals = (atom.wide, atom.high)
    points = [
        [c + atom.radius * oval * f(t) for c, oval, f in zip(center, ovals, (math.cos, math.sin))] for t in angles
    ]
    for orbit in range(atom.orbits):
        gray = random_bits(orbit, key[1], key[0]) >> 24
        for v, t in enumerate(angles):
            for axis, f in enumerate((math.cos, math.sin)):
                p = perlin(random_bits(2 * (orbit * atom.vertices + v) + axis, *key))
                waves = sum(math.sin(n * t) for n in (atom.wave, atom.other_wave))
                noise = atom.eta * p - atom.eta - waves / 2
                points[v][axis] += f(t) * (atom.spacing - noise)
        pixels = [tuple(size / 512 * c for c in point) for point in points]
        for here, there in zip(pixels, pixels[1:] + pixels[:1]):
            draw.line([*here, *there], fill=gray, width=1)
    return np.asarray(image)


@pytest.mark.parametrize('size', [512, 64])
@pytest.mark.parametrize('number', range(4))
def test_images_are_those_of_pillow(number, size):
    rng = stream(3, 99, number)
    atom = sample_atom(rng)
    center, key = tuple(512 * rng.random(2)), tuple(int(M * x) for x in rng.random(2))
    got, expected = render_atom(atom, center, key, size), oracle(atom, center, key, size)
    # Angles are rounded to nine decimals, so a coordinate may cross an integer.
    assert np.mean(got != expected) < 1e-4 and expected.std() > 0


def test_categories_have_the_published_ranges():
    atoms = [sample_atom(stream(0, 1, k)) for k in range(3000)]
    for values, low, high in (
        ([a.vertices for a in atoms], 200, 1000),
        ([a.orbits for a in atoms], 1, 200),
        ([a.eta for a in atoms], 2, 6),
        ([a.spacing for a in atoms], 0, 0.01),
        ([a.radius for a in atoms], 0, 50),
        ([n for a in atoms for n in (a.wave, a.other_wave)], 0, 20),
        ([s for a in atoms for s in (a.wide, a.high)], 1, 2),
    ):
        assert low <= min(values) <= low + 0.02 * (high - low) and high >= max(values) >= high - 0.02 * (high - low)
        assert abs(np.mean(values) - (low + high) / 2) < 0.02 * (high - low)
    assert all(a.wave != a.other_wave or a.wave == 0 for a in atoms)


def test_perturbation():
    atom = Atom(500, 50, 4.0, 0.005, 25, 3, 7, 1.0, 1.5)
    assert perturb_atom(atom, 0, stream(0, 1)) == atom
    many = [perturb_atom(atom, 0.1, stream(0, k)) for k in range(500)]
    for name, value in (('vertices', 500), ('orbits', 50), ('eta', 4.0), ('spacing', 0.005), ('radius', 25)):
        values = [getattr(a, name) for a in many]
        assert 0.9 * value <= min(values) < 0.92 * value and 1.08 * value < max(values) <= 1.1 * value
    assert perturb_atom(Atom(3, 1, 2.0, 0, 0, 0, 0, 1, 1), 0.9, stream(0, 3)).vertices >= 3


def test_one_atom_perturbed():
    dataset = VisualAtom('visualatom/atoms=2,classes=6,instances=1,size=64,delta=0.1')
    orbits = [dataset.atom(k).orbits for k in range(6)]
    assert len({dataset.atom(k) for k in range(6)}) == 6
    for k in (2, 4):
        assert 0.8 < orbits[k] / orbits[0] < 1.25 and 0.8 < orbits[k + 1] / orbits[1] < 1.25


def test_a_class_does_not_depend_on_the_number_of_classes_nor_on_the_cache():
    few = VisualAtom('visualatom/classes=3,instances=2,size=64')
    many = VisualAtom('visualatom/classes=9,instances=4,size=64,cache=none')
    for instance in range(2):
        for k in range(3):
            np.testing.assert_array_equal(few.stored(3 * instance + k), many.stored(9 * instance + k))


def test_instances_and_splits_differ():
    train, validation = (create_dataset(SMALL, split=split) for split in ('train', 'validation'))
    assert len(train) == len(validation) == 18 and train[13][1] == 1
    images = [np.asarray(dataset[i][0]).tobytes() for dataset in (train, validation) for i in range(18)]
    assert len(set(images)) == 36
    assert len(create_dataset('visualatom/classes=2,size=16', split='validation')) == 2 * 25
    assert train[0][0].mode == 'RGB' and len(create_dataset('visualatom/cache=none', split='train')) == 1_000_000


@pytest.mark.slow
def test_bytes_never_change():
    name = 'visualatom/classes=8,instances=2,size=128'
    code = (
        f'import hashlib; from timm_fractal import VisualAtom; d = VisualAtom({name!r}); '
        f'print(hashlib.sha256(b"".join(d.stored(i).tobytes() for i in range(16))).hexdigest())'
    )
    digest = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.strip()
    dataset = VisualAtom(name)
    assert digest == hashlib.sha256(b''.join(dataset.stored(i).tobytes() for i in range(16))).hexdigest()
    assert digest == 'b7422ef7960275d55c57375c05282573e73d82557f33d9365418c7a10c3c8b29'


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('visualatom/atoms=7,classes=6', 'atoms must be at most classes = 6, got 7'),
        ('visualatom/delta=0.2', 'delta=0.2 needs atoms of at least 1'),
        ('visualatom/atoms=1,delta=1', 'delta must be less than 1'),
        ('visualatom/atom=1', "unknown option 'atom'; did you mean 'atoms'"),
        ('visualatoms', "unknown data set 'visualatoms'; did you mean 'visualatom'"),
    ],
)
def test_bad_names(name, words):
    with pytest.raises(ValueError, match=words):
        parse_name(name)
