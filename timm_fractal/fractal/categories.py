"""The fractals of a data set: IFS codes of its classes, and rendering of its images.

All data sets of fractals come from one generator with three numbers: how many base fractals there are, how many
perturbations of each are classes of their own, and how many instances each class has.

* ``fractal1``: 1 base fractal, ``classes`` perturbations, 1 instance.
* ``fractal1/fractals=K``: K base fractals, ``classes / K`` perturbations each.
* ``ofdb``: ``classes`` base fractals, none of them perturbed, 1 instance.
* ``fractaldb``: the same base fractals, ``instances`` instances.

Class k is made from base fractal ``k % fractals``, so that few classes are the first of many. Image number ``n`` is
instance ``n // classes`` of class ``n % classes``.
"""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from .._utils.cpu import cpu_count
from .._utils.rng import Stream, stream
from ..spec import Fractal1Spec, IFSSpec
from . import ifs
from .ifs import Array, Family
from .render import Bits, Rendered, render, unpack

#: Shows progress: given a number of images, and how many at a time, gives ranges that cover them in their order.
Progress = Callable[[int, int | None], Iterable[range]]

#: A base or class whose image on `REFERENCE_CANVAS` has at most this fraction of gray pixels is sampled again
#: (the reference generator's threshold).
MIN_FILL = 0.05
#: Where emptiness is judged, whatever canvas is asked for: a seed stands for the same IFS codes on all of them.
REFERENCE_CANVAS = {name: getattr(Fractal1Spec(), name) for name in ('points', 'size', 'patch')}
#: An image with at most this many gray pixels, or `MIN_FILL` of a small canvas, shows no shape and is refused.
MIN_PIXELS = 64
#: How often a base IFS is sampled again before giving up.
MAX_BASES = 1000
#: How often the perturbation of a class is sampled again before giving up.
MAX_PERTURBATIONS = 1000
#: A base is taken if so many of so many perturbations with the paper's delta are not too empty either: what hardly
#: survives one cannot make classes.
MIN_SURVIVORS, TRIALS = 4, 16
#: The random search takes an IFS whose points alone, 100,000 on 512 x 512 pixels, cover this part of the image.
MIN_SEARCH_FILL = 0.2

#: What instances scale: one parameter (a, b, c, d, e, f of ``x' = a x + b y + e, y' = c x + d y + f``) of all maps.
WEIGHTS = np.ones((25, 2, 3))
for _i, (_place, _weight) in enumerate(
    itertools.product([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)], [0.8, 0.9, 1.1, 1.2]), start=1
):
    WEIGHTS[_i][_place] = _weight

# Seed of the address sequence of instance 0: the reference generator's for training, far from it for validation.
_ADDRESS_SEED = {'train': 100, 'validation': 100 + 2**31}

# Where the random search looks: points, width and height in pixels, fill. Of what passes the second look less than 1 %
# fails the first, which takes a tenth of the time and is enough for 19 of 20 systems.
_LOOKS = ((4_000, 64, 0.24), (100_000, 512, MIN_SEARCH_FILL))

# The attempt that the search with seed 0 ends with, for each of 21,000 categories; the search takes minutes.
_FOUND = 'search.npy'


def render_images(
    spec: IFSSpec, split: str, family: Family, numbers: Sequence[int], out: Bits | None = None
) -> Rendered:
    """Render images of a data set.

    Args:
        spec: The data set.
        split: ``'train'`` or ``'validation'``: same systems, other noise.
        family: Its systems.
        numbers: Which images.
        out: Render into this array, see `render`.

    Returns:
        The images, as `render` gives them.

    Raises:
        ValueError: An image shows no shape on this canvas.
    """
    instances, classes = np.divmod(np.asarray(numbers), spec.num_classes)
    systems = family.systems[classes]
    if spec.scales:
        systems = systems * WEIGHTS[_valid_weights(spec, family, classes, instances % len(WEIGHTS)), None]
    images = _render(spec, split, family, systems, classes, instances, out)
    pixels = np.rint(images.fill * spec.size**2)
    degenerate = np.flatnonzero(pixels <= min(MIN_PIXELS, MIN_FILL * spec.size**2))
    if len(degenerate):
        first = degenerate[0]
        raise ValueError(
            f'{spec}: class {classes[first]} shows no shape on this canvas, {pixels[first]:.0f} pixels of it are gray '
            f'(points={spec.points}, size={spec.size}, patch={spec.patch}): take more points or another patch'
        )
    if spec.scales:
        for i, flip in enumerate(instances // len(WEIGHTS) % 4):
            images.bits[i] = _flip(images.bits[i], spec.size, bool(flip & 1), bool(flip & 2))
    return images


def _valid_weights(
    spec: IFSSpec, family: Family, classes: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The weights of instances; none where a scaled parameter makes an IFS diverge or shrink to a dot."""
    probs = family.probs if family.probs is not None else np.zeros((len(family.bases), 0))
    keys = [
        (spec.seed, k, w, family.systems[k].tobytes() + probs[k % len(probs)].tobytes())
        for k, w in zip(classes.tolist(), weights.tolist())
    ]
    unknown = [key for key in dict.fromkeys(keys) if key[2] > 0 and key not in _is_lost]
    if unknown:
        which, scales = (np.array(column) for column in list(zip(*unknown))[1:3])
        reference = dataclasses.replace(spec, **REFERENCE_CANVAS)
        images = _render(reference, 'train', family, family.systems[which] * WEIGHTS[scales, None], which, scales)
        _is_lost.update(zip(unknown, (images.fill <= MIN_FILL).tolist()))
    return np.array([0 if _is_lost.get(key) else key[2] for key in keys])


# Of the seed, a class, its weights, its IFS codes and probabilities that were read: whether the instance is too empty.
_is_lost: dict[tuple[int, int, int, bytes], bool] = {}


def _render(
    spec: IFSSpec,
    split: str,
    family: Family,
    systems: Array,
    classes: npt.NDArray[np.int64],
    instances: npt.NDArray[np.int64],
    out: Bits | None = None,
) -> Rendered:
    """Render one image per IFS; it shares its sequence of maps with the other images of its base fractal."""
    noise = (spec.seed, Stream.PATCHES, int(split == 'validation'))
    pairs = list(zip(classes.tolist(), instances.tolist()))
    keys = np.stack([np.random.SeedSequence((*noise, *pair)).generate_state(2) for pair in pairs])
    # FractalDB's instances differ enough without a sequence of their own, which takes as long to sample as the image.
    own = not spec.scales
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (k, instance) in enumerate(pairs):
        groups[k % spec.num_bases, own * instance].append(i)

    def render_group(group: tuple[int, int], threads: int | None = None, out: Bits | None = None) -> Rendered:
        base, instance = group
        places = groups[group]
        path = _addresses(family.probabilities(base).tobytes(), spec.points, _ADDRESS_SEED[split] + instance)
        return render(systems[places], path, keys[places], spec.size, spec.patch, threads=threads, out=out)  # type: ignore[arg-type]

    if len(groups) == 1:
        return render_group(next(iter(groups)), out=out)
    with ThreadPoolExecutor(cpu_count()) as pool:
        parts = list(pool.map(lambda group: render_group(group, threads=1), groups))
    order = np.argsort(np.concatenate(list(groups.values())))
    bits, fill, diverged = (np.concatenate(arrays)[order] for arrays in zip(*parts))
    if out is None:
        return Rendered(bits, fill, diverged)
    out[:] = bits
    return Rendered(out, fill, diverged)


@functools.lru_cache(maxsize=4)
def _addresses(probs: bytes, points: int, seed: int) -> npt.NDArray[np.uint8]:
    return ifs.addresses(np.frombuffer(probs), points, seed)


def _flip(bits: Bits, size: int, columns: bool, rows: bool) -> Bits:
    if rows:
        bits = bits[::-1]
    if columns:
        flipped = np.packbits(unpack(bits, size)[:, ::-1] != 0, axis=1, bitorder='little')
        bits = np.pad(flipped, ((0, 0), (0, bits.shape[1] - flipped.shape[1])))
    return bits


def find(spec: IFSSpec, progress: Progress, table: Bits | None = None) -> Family:
    """Find the IFS codes of a data set: its bases, and a perturbation for every class that is not too empty.

    They do not depend on the canvas (points, size, patch).

    Args:
        spec: The data set.
        progress: Called once, with the number of classes.
        table: Takes the training images of instance 0 of a `Fractal1Spec` on `REFERENCE_CANVAS`, which are rendered
            anyway; uint8 of shape (classes, size, row bytes).

    Raises:
        ValueError: No base, or no perturbation for a class, is found.
    """
    if not spec.perturbs:
        with ThreadPoolExecutor(cpu_count()) as pool:
            search_one = functools.partial(_search, spec.seed)
            # A search takes about as long as 20 images.
            chunks = progress(spec.num_classes, 8 * cpu_count())
            systems = np.stack([system for chunk in chunks for system in pool.map(search_one, chunk)])
        return Family(str(spec), systems, systems)
    reference: Any = dataclasses.replace(spec, **REFERENCE_CANVAS)
    with ThreadPoolExecutor(cpu_count()) as pool:
        bases = np.stack(list(pool.map(functools.partial(_find_base, reference), range(spec.num_bases))))
    return find_classes(spec, bases, None, progress, table)


def find_classes(
    spec: IFSSpec, bases: Array, probs: Array | None, progress: Progress, table: Bits | None = None
) -> Family:
    """The part of `find` that perturbs: for a base that was read, too, with the probabilities of its maps."""
    reference: Any = dataclasses.replace(spec, **REFERENCE_CANVAS)
    if probs is not None:
        number = np.zeros(1, np.int64)
        (fill,) = _render(reference, 'train', Family('', bases, bases, probs), bases, number, number).fill
        if fill <= MIN_FILL:
            raise ValueError(
                f'{spec}: the base fractal that was read covers {fill:.1%} of the image, and must cover more than '
                f'{MIN_FILL:.0%}: take another'
            )
    family = Family(str(spec), bases, np.empty((spec.num_classes, *bases.shape[1:])), probs)
    for chunk in progress(spec.num_classes, None):
        _find_classes(reference, family, chunk, None if table is None else table[chunk.start : chunk.stop])
    return family


def _find_base(reference: Fractal1Spec, number: int) -> Array:
    """The first IFS sampled from the seed that is not too empty, and survives perturbation; delta has no part in it."""
    for attempt in range(MAX_BASES):
        # Sines and matrix products differ in the last bit between machines; nine decimals are the same everywhere.
        base = ifs.sample(reference.maps, reference.sigma, stream(reference.seed, Stream.BASE, attempt, number)).round(
            9
        )
        if _fill(reference, base, base[None])[0] > MIN_FILL:
            rng = stream(reference.seed, Stream.TRIAL, attempt, number)
            trials = np.stack([ifs.perturb(base, Fractal1Spec.delta, rng) for _ in range(TRIALS)])
            if np.count_nonzero(_fill(reference, base, trials) > MIN_FILL) >= MIN_SURVIVORS:
                return base
    raise ValueError(
        f'{reference}: none of {MAX_BASES} base fractals sampled from seed={reference.seed} covers more than '
        f'{MIN_FILL:.0%} of the image and survives perturbation (sigma={reference.sigma}, maps={reference.maps}): take '
        f'another seed or a larger sigma'
    )


def _fill(reference: Fractal1Spec, base: Array, systems: Array) -> Array:
    """How much of the reference's canvas perturbations of a base cover, as class 0 would."""
    zeros = np.zeros(len(systems), np.int64)
    return _render(reference, 'train', Family('', base[None], systems), systems, zeros, zeros).fill


def _find_classes(reference: Fractal1Spec, family: Family, chunk: range, table: Bits | None) -> None:
    """Perturb until every class of a chunk has an image that is not too empty; keep the images in ``table``."""
    pending = np.array(chunk)
    for attempt in range(MAX_PERTURBATIONS):
        for k in pending:
            rng = stream(reference.seed, Stream.PERTURBATION, int(k), attempt)
            base = family.bases[k % reference.num_bases]
            family.systems[k] = ifs.perturb(base, reference.delta, rng, reference.perturb)  # type: ignore[arg-type]
        # At first all classes of the chunk, straight into the table; then the few that came out empty.
        out = table if attempt == 0 else None
        images = _render(reference, 'train', family, family.systems[pending], pending, np.zeros_like(pending), out)
        if table is not None and attempt > 0:
            table[pending - chunk.start] = images.bits
        pending = pending[images.fill <= MIN_FILL]
        if len(pending) == 0:
            return
    raise ValueError(
        f'{reference}: class {pending[0]} is empty or diverges in each of {MAX_PERTURBATIONS} perturbations '
        f'(seed={reference.seed}, delta={reference.delta}): take another seed or a smaller delta'
    )


def _search(seed: int, category: int) -> Array:
    """The first system of a category that fills enough of the image (FractalDB's random search)."""
    found = _found() if seed == 0 else ()
    attempt = int(found[category]) if category < len(found) else search(seed, category)
    return ifs.sample_uniform(stream(seed, Stream.SEARCH, category, attempt))


def search(seed: int, category: int) -> int:
    """Find the first attempt that fills enough of the image. Some 40 are tried on average.

    Examples:
        >>> search(0, 1)
        45
    """
    key = np.zeros((1, 2), np.uint32)
    for attempt in itertools.count():
        system = ifs.sample_uniform(stream(seed, Stream.SEARCH, category, attempt))
        probs = ifs.probabilities(system)
        for points, size, least in _LOOKS:
            images = render(system[None], ifs.addresses(probs, points), key, size, 'point', threads=1)
            if images.fill[0] < least:
                break
        else:
            break
    return attempt


@functools.cache
def _found() -> npt.NDArray[np.uint16]:
    with resources.files(__package__).joinpath(_FOUND).open('rb') as file:
        table: npt.NDArray[np.uint16] = np.load(file)
    return table
