"""The fractals of a data set: IFS codes of its classes, and rendering of its images.

All data sets of fractals come from one generator with three numbers: how many base fractals there are, how many
perturbations of each become classes, and how many instances each class has.

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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .._utils.cpu import cpu_count
from .._utils.rng import Stream, stream
from ..spec import Fractal1Spec, IFSSpec
from . import ifs
from .canvas import Bits, unpack
from .ifs import AddressSequences, Array, IFSCodes
from .render import LANES, Patch, Rendered, render

T = TypeVar('T')

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

#: Searches that wait for their images at the same time: enough to fill SIMD lanes, and a few megabytes of images.
_SEARCHES = 4 * LANES
#: Attempts of the random search that are rendered together; those after the first success are wasted.
_ATTEMPTS = 8

# The attempt that the search with seed 0 ends with, for each of 21,000 categories; the search takes minutes.
_FOUND = 'search.npy'
# The same for the first 1,000 bases of the default seed, sigma and number of maps.
_FOUND_BASES = 'bases.npy'


def render_images(
    spec: IFSSpec, split: str, codes: IFSCodes, numbers: Sequence[int], out: Bits | None = None
) -> Rendered:
    """Render images of a data set.

    Args:
        spec: The data set.
        split: ``'train'`` or ``'validation'``: same systems, other noise.
        codes: Its systems.
        numbers: Which images.
        out: Render into this array, see `render`.

    Returns:
        The images, as `render` gives them.

    Raises:
        ValueError: An image shows no shape on this canvas.
    """
    instances, classes = np.divmod(np.asarray(numbers), spec.num_classes)
    systems = codes.systems[classes]
    if spec.scales:
        systems = systems * WEIGHTS[_valid_weights(spec, codes, classes, instances % len(WEIGHTS)), None]
    images = _render(spec, split, codes, systems, classes, instances, out)
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
    spec: IFSSpec, codes: IFSCodes, classes: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The weights of instances; none where a scaled parameter makes an IFS diverge or shrink to a dot."""
    probs = codes.probs if codes.probs is not None else np.zeros((len(codes.bases), 0))
    keys = [
        (spec.seed, k, w, codes.systems[k].tobytes() + probs[k % len(probs)].tobytes())
        for k, w in zip(classes.tolist(), weights.tolist())
    ]
    unknown = [key for key in dict.fromkeys(keys) if key[2] > 0 and key not in _is_lost]
    if unknown:
        which, scales = (np.array(column) for column in list(zip(*unknown))[1:3])
        reference = dataclasses.replace(spec, **REFERENCE_CANVAS)
        images = _render(
            reference, 'train', codes, codes.systems[which] * WEIGHTS[scales, None], which, scales, enough=MIN_FILL
        )
        _is_lost.update(zip(unknown, (images.fill <= MIN_FILL).tolist()))
    return np.array([0 if _is_lost.get(key) else key[2] for key in keys])


# Of the seed, a class, its weights, its IFS codes and probabilities that were read: whether the instance is too empty.
_is_lost: dict[tuple[int, int, int, bytes], bool] = {}


def _render(
    spec: IFSSpec,
    split: str,
    codes: IFSCodes,
    systems: Array,
    classes: npt.NDArray[np.int64],
    instances: npt.NDArray[np.int64],
    out: Bits | None = None,
    enough: float = 1.0,
) -> Rendered:
    """Render one image per IFS; it shares its sequence of maps with the other images of its base fractal."""
    noise = (spec.seed, Stream.PATCHES, int(split == 'validation'))
    pairs = list(zip(classes.tolist(), instances.tolist()))
    keys: Any = np.stack([np.random.SeedSequence((*noise, *pair)).generate_state(2) for pair in pairs])
    # FractalDB's instances differ enough with shared random numbers; new ones take as long as the image.
    numbers = np.zeros_like(instances) if spec.scales else instances
    bases = classes % spec.num_bases
    # Images of one base fractal share its address sequence.
    order = np.lexsort((bases, numbers))
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)

    def render_group(places: npt.NDArray[np.int64], threads: int | None = None, out: Bits | None = None) -> Rendered:
        addresses = AddressSequences(
            ifs.draws(spec.points, _ADDRESS_SEED[split] + int(numbers[places[0]])),
            np.stack([_thresholds_of(codes, base) for base in bases[places]]),
        )
        patch: Any = spec.patch
        return render(
            systems[places], addresses, keys[places], spec.size, patch, threads=threads, out=out, enough=enough
        )

    if len(groups) == 1 and (np.diff(order) > 0).all():
        return render_group(order, out=out)
    with ThreadPoolExecutor(cpu_count()) as pool:
        parts = list(pool.map(functools.partial(render_group, threads=1 if len(groups) > 1 else None), groups))
    bits, fill, diverged = (np.concatenate(arrays)[np.argsort(order)] for arrays in zip(*parts))
    if out is None:
        return Rendered(bits, fill, diverged)
    out[:] = bits
    return Rendered(out, fill, diverged)


def _thresholds_of(codes: IFSCodes, base: int) -> Array:
    if codes.probs is not None:
        return ifs.thresholds(codes.probs[base])
    return _thresholds(codes.bases[base].tobytes())


@functools.lru_cache(maxsize=2048)
def _thresholds(base: bytes) -> Array:
    return ifs.thresholds(ifs.probabilities(np.frombuffer(base).reshape(-1, 2, 3)))


def _flip(bits: Bits, size: int, columns: bool, rows: bool) -> Bits:
    if rows:
        bits = bits[::-1]
    if columns:
        flipped = np.packbits(unpack(bits, size)[:, ::-1] != 0, axis=1, bitorder='little')
        bits = np.pad(flipped, ((0, 0), (0, bits.shape[1] - flipped.shape[1])))
    return bits


def find_codes(
    spec: IFSSpec,
    progress: Progress,
    table: Bits | None = None,
    only: Collection[int] | None = None,
    base: tuple[Array, Array] | None = None,
) -> IFSCodes:
    """Find the IFS codes of a data set: its bases, and a perturbation for every class that is not too empty.

    They do not depend on the canvas (points, size, patch).

    Args:
        spec: The data set.
        progress: Called once, with the number of classes that are found.
        table: Takes the training images of instance 0 of a `Fractal1Spec` on `REFERENCE_CANVAS`, which are rendered
            anyway; uint8 of shape (classes, size, row bytes).
        only: Classes that are wanted, by default all. The IFS codes of others, and of their bases, are NaN.
        base: The one base and the probabilities of its maps, in place of one that is sampled; shapes (1, N, 2, 3) and
            (1, N).

    Raises:
        ValueError: No base, or no perturbation for a class, is found; or the base that was given is too empty.
    """
    classes = np.array(range(spec.num_classes) if only is None else sorted(only))
    reference: Any = dataclasses.replace(spec, **REFERENCE_CANVAS)
    if base is None:
        bases, probs = np.full((spec.num_bases, *_shape(spec)), np.nan), None
    else:
        bases, probs = base
        number = np.zeros(1, np.int64)
        (fill,) = _render(reference, 'train', IFSCodes('', bases, bases, probs), bases, number, number).fill
        if fill <= MIN_FILL:
            raise ValueError(
                f'{spec}: the base fractal that was read covers {fill:.1%} of the image, and must cover more than '
                f'{MIN_FILL:.0%}: take another'
            )
    codes = IFSCodes(str(spec), bases, np.full((spec.num_classes, *bases.shape[1:]), np.nan), probs)
    # Bases are searched for together: the more there are, the less often do threads wait for the last of them. The
    # random search takes about as long as 20 images, and says more often how far it is.
    step = 8 * cpu_count() if not spec.perturbs else 16 * _SEARCHES if spec.num_bases > 1 else None
    for chunk in progress(len(classes), step):
        part = classes[chunk.start : chunk.stop]
        wanted = np.unique(part % spec.num_bases)
        missing = wanted[np.isnan(codes.bases[wanted]).any((1, 2, 3))]
        if len(missing):
            codes.bases[missing] = _find_bases(reference, missing.tolist())
        if isinstance(reference, Fractal1Spec):
            _find_classes(reference, codes, part, None if table is None else table[chunk.start : chunk.stop])
        else:
            codes.systems[part] = codes.bases[part]
    return codes


def _shape(spec: IFSSpec) -> tuple[int, int, int]:
    return vars(spec).get('maps', ifs.UNIFORM_MAPS[-1]), 2, 3


class _Look(NamedTuple):
    """Settings of a search's test images: canvas, key of the patches, and the fill they must reach."""

    points: int
    size: int
    patch: Patch
    key: tuple[int, ...]
    fill: float


# How full an image is, roughly, in a fiftieth of the time.
_GLANCE = _Look(1_000, 64, 'point', (0, 0), 1.0)
# Where the random search looks. Of what passes the second look less than 1 % fails the first, which takes a fraction of
# the time and is enough for 19 of 20 systems.
_LOOKS = (_Look(4_000, 64, 'point', (0, 0), 0.24), _Look(100_000, 512, 'point', (0, 0), MIN_SEARCH_FILL))

# A search for IFS codes. It waits while its images are rendered together with those of others: it yields a look, the
# base of each image, whose address sequence it has, and its system; it is sent the fill, and returns what it has found.
_Search = Generator[tuple[_Look, Array, Array], npt.NDArray[np.float64], T]


def _search_together(search: Callable[[int], _Search[T]], numbers: Iterator[int], most: int) -> dict[int, T]:
    """Run the searches with these numbers to their ends, so many at a time."""
    found: dict[int, T] = {}
    waiting: dict[int, tuple[_Search[T], tuple[_Look, Array, Array]]] = {}

    def go_on(number: int, search: _Search[T], fill: Any) -> None:
        try:
            waiting[number] = search, search.send(fill)
        except StopIteration as end:
            found[number] = end.value
            waiting.pop(number, None)

    while True:
        while len(waiting) < most and (number := next(numbers, None)) is not None:
            go_on(number, search(number), None)
        if not waiting:
            return found
        by_look: dict[_Look, list[int]] = defaultdict(list)
        for number, (_, (look, _, _)) in waiting.items():
            by_look[look].append(number)
        for look, looking in by_look.items():
            _, bases, systems = zip(*(waiting[number][1] for number in looking))
            fills = _fill(look, np.concatenate(bases), np.concatenate(systems))
            for number, fill in zip(looking, np.split(fills, np.cumsum([len(part) for part in systems])[:-1])):
                go_on(number, waiting[number][0], fill)


def _fill(look: _Look, bases: Array, systems: Array) -> npt.NDArray[np.float64]:
    """Return the fill of each image; for images beyond the required fill, a lower bound."""
    thresholds = np.stack([_thresholds(base.tobytes()) for base in bases])
    addresses = AddressSequences(ifs.draws(look.points, _ADDRESS_SEED['train']), thresholds)
    keys = np.tile(np.array(look.key, np.uint32), (len(systems), 1))
    return render(systems, addresses, keys, look.size, look.patch, threads=1, enough=look.fill).fill


def _find_bases(reference: IFSSpec, numbers: list[int]) -> Array:
    """Find the base IFS with these numbers, shape (len(numbers), N, 2, 3)."""
    kind: Callable[[Any, int], _Search[Array]] = _search_base if reference.perturbs else _search_category
    search = functools.partial(kind, reference)
    threads = cpu_count()
    most = min(_SEARCHES, -(-len(numbers) // threads))
    # All threads take from one list, so that they end at about the same time.
    waiting = iter(numbers)
    # Where one is not found, none is: that is said before all are searched for.
    found = _search_together(search, itertools.islice(waiting, 1), 1)
    with ThreadPoolExecutor(threads) as pool:
        for some in pool.map(lambda _: _search_together(search, waiting, most), range(threads)):
            found |= some
    return np.stack([found[number] for number in numbers])


def _search_base(reference: Fractal1Spec, number: int) -> _Search[Array]:
    """The first IFS sampled from the seed that is not too empty, and survives perturbation; delta has no part in it."""
    if all(getattr(reference, name) == getattr(Fractal1Spec, name) for name in ('seed', 'sigma', 'maps')):
        found = _found(_FOUND_BASES)
        if number < len(found):
            return _base(reference, number, int(found[number]))
    return (yield from _search_attempts(reference, number))


def _base(reference: Fractal1Spec, number: int, attempt: int) -> Array:
    # Sines and matrix products differ in the last bit between machines; nine decimals are the same everywhere.
    rng = stream(reference.seed, Stream.BASE, attempt, number)
    base: Array = ifs.sample(reference.maps, reference.sigma, rng).round(9)
    return base


def _search_attempts(reference: Fractal1Spec, number: int) -> _Search[Array]:
    # As class 0 would be rendered.
    key = np.random.SeedSequence((reference.seed, Stream.PATCHES, 0, 0, 0)).generate_state(2).tolist()
    look = _Look(reference.points, reference.size, reference.patch, tuple(key), MIN_FILL)  # type: ignore[arg-type]
    attempt = 0
    while attempt < MAX_BASES:
        # One by one at first, since the second is often accepted, then in growing batches.
        attempts = range(attempt, min(MAX_BASES, attempt + max(1, min(attempt // 2, LANES))))
        bases = np.stack([_base(reference, number, n) for n in attempts])
        fill = yield look, bases, bases
        for filled in np.flatnonzero(fill > MIN_FILL).tolist():
            base: Array = bases[filled]
            rng = stream(reference.seed, Stream.TRIAL, attempts[filled], number)
            trials = np.stack([ifs.perturb(base, Fractal1Spec.delta, rng) for _ in range(TRIALS)])
            same = np.broadcast_to(base, trials.shape)
            # The order does not matter: what looks full comes first, and no more are tried than are needed.
            trials = trials[np.argsort(-(yield _GLANCE, same, trials), kind='stable')]
            tried = survivors = 0
            while survivors < MIN_SURVIVORS <= survivors + TRIALS - tried:
                some = trials[tried : tried + MIN_SURVIVORS - survivors]
                fill = yield look, same[: len(some)], some
                tried, survivors = tried + len(some), survivors + int((fill > MIN_FILL).sum())
            if survivors >= MIN_SURVIVORS:
                return base
        attempt = attempts.stop
    raise ValueError(
        f'{reference}: none of {MAX_BASES} base fractals sampled from seed={reference.seed} covers more than '
        f'{MIN_FILL:.0%} of the image and survives perturbation (sigma={reference.sigma}, maps={reference.maps}): take '
        f'another seed or a larger sigma'
    )


def _find_classes(reference: Fractal1Spec, codes: IFSCodes, classes: npt.NDArray[np.int64], table: Bits | None) -> None:
    """Perturb until every one of these classes has an image that is not too empty; keep the images in ``table``."""
    pending = classes
    enough = MIN_FILL if table is None else 1.0
    for attempt in range(MAX_PERTURBATIONS):
        for k in pending:
            rng = stream(reference.seed, Stream.PERTURBATION, int(k), attempt)
            base = codes.bases[k % reference.num_bases]
            codes.systems[k] = ifs.perturb(base, reference.delta, rng, reference.perturb)  # type: ignore[arg-type]
        # At first all of them, straight into the table; then the few that came out empty.
        out = table if attempt == 0 else None
        zeros = np.zeros_like(pending)
        images = _render(reference, 'train', codes, codes.systems[pending], pending, zeros, out, enough)
        if table is not None and attempt > 0:
            table[np.searchsorted(classes, pending)] = images.bits
        pending = pending[images.fill <= MIN_FILL]
        if len(pending) == 0:
            return
    raise ValueError(
        f'{reference}: class {pending[0]} is empty or diverges in each of {MAX_PERTURBATIONS} perturbations '
        f'(seed={reference.seed}, delta={reference.delta}): take another seed or a smaller delta'
    )


def _search_category(reference: IFSSpec, category: int) -> _Search[Array]:
    """The first system of a category that fills enough of the image (FractalDB's random search)."""
    found = _found(_FOUND) if reference.seed == 0 else ()
    attempt = int(found[category]) if category < len(found) else (yield from _search_attempt(reference.seed, category))
    return ifs.sample_uniform(stream(reference.seed, Stream.SEARCH, category, attempt))


def search(seed: int, category: int) -> int:
    """Find the first attempt that fills enough of the image. Some 40 are tried on average.

    Examples:
        >>> search(0, 1)
        45
    """
    return _search_together(functools.partial(_search_attempt, seed), iter([category]), 1)[category]


def _search_attempt(seed: int, category: int) -> _Search[int]:
    for start in itertools.count(0, _ATTEMPTS):
        attempts = np.arange(start, start + _ATTEMPTS)
        systems = np.stack([ifs.sample_uniform(stream(seed, Stream.SEARCH, category, n)) for n in attempts.tolist()])
        for look in _LOOKS:
            filled = (yield look, systems, systems) >= look.fill
            attempts, systems = attempts[filled], systems[filled]
            if len(attempts) == 0:
                break
        else:
            break
    return int(attempts[0])


@functools.cache
def _found(name: str) -> npt.NDArray[np.uint16]:
    with resources.files(__package__).joinpath(name).open('rb') as file:
        table: npt.NDArray[np.uint16] = np.load(file)
    return table
