"""Searches for base fractals that fill enough of the image: samples of a seed, or FractalDB's random search."""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .._utils.cpu import cpu_count
from .._utils.rng import Stream, stream
from ..spec import Fractal1Spec, IFSSpec
from . import ifs
from .ifs import AddressSequences, Array
from .render import LANES, render

T = TypeVar('T')

#: A base or class whose image on the reference canvas has at most this fraction of gray pixels is sampled again
#: (the reference generator's threshold).
MIN_FILL = 0.05
#: Attempts to sample a base IFS.
MAX_BASES = 1000
#: A base is accepted if at least `MIN_SURVIVORS` of `TRIALS` perturbations with the paper's delta are not too empty: a
#: base that rarely survives perturbation cannot make classes.
MIN_SURVIVORS, TRIALS = 4, 16
#: The random search accepts an IFS whose points (100,000, without patches) cover this fraction of 512 x 512 pixels.
MIN_SEARCH_FILL = 0.2

#: Seed of the address sequence of instance 0: as in the reference generator for training, far from it for validation.
ADDRESS_SEED = {'train': 100, 'validation': 100 + 2**31}

#: Concurrent searches per thread: enough to fill the SIMD lanes, with a few megabytes of images.
SEARCHES = 4 * LANES
#: Attempts of the random search rendered together; those after the first success are wasted.
_ATTEMPTS = 8

# Successful attempt of the random search with seed 0, for each of 21,000 categories; the search takes minutes.
_FOUND = 'search.npy'
# The same for the first 1,000 bases of two seeds (that of the published weights, and the default) with default sigma
# and number of maps.
_FOUND_BASES = 'bases.npy'
_FOUND_SEEDS = (15, 20)
# Successful perturbation of the default data set, for each of 21,000 classes.
_FOUND_CLASSES = 'classes.npy'


@functools.lru_cache(maxsize=2048)
def base_thresholds(base: bytes) -> Array:
    """Return `ifs.thresholds` of a base IFS, given as the bytes of its parameters."""
    return ifs.thresholds(ifs.probabilities(np.frombuffer(base).reshape(-1, 2, 3)))


class _Look(NamedTuple):
    """Settings of a search's test images: canvas, key of the patches, and required fill."""

    points: int
    size: int
    patch: str
    key: tuple[int, ...]
    fill: float


# Estimates the fill in a fiftieth of the time.
_GLANCE = _Look(1_000, 64, 'point', (0, 0), 1.0)
# Test images of the random search. The first takes a fraction of the time and rejects 19 of 20 systems, but less than
# 1 % of those that would pass the second.
_LOOKS = (_Look(4_000, 64, 'point', (0, 0), 0.24), _Look(100_000, 512, 'point', (0, 0), MIN_SEARCH_FILL))

# A search for IFS codes as a coroutine, so that its images are rendered together with those of others: it yields a
# look, the base of each image (which determines its address sequence), and its system; it receives the fills, and
# returns its result.
_Search = Generator[tuple[_Look, Array, Array], npt.NDArray[np.float64], T]


def _search_together(search: Callable[[int], _Search[T]], numbers: Iterator[int], most: int) -> dict[int, T]:
    """Run the searches with these numbers to completion, ``most`` at a time."""
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
    """Return the fill of each image; values above the required fill are lower bounds."""
    thresholds = np.stack([base_thresholds(base.tobytes()) for base in bases])
    addresses = AddressSequences(ifs.draws(look.points, ADDRESS_SEED['train']), thresholds)
    keys = np.tile(np.array(look.key, np.uint32), (len(systems), 1))
    return render(systems, addresses, keys, look.size, look.patch, threads=1, enough=look.fill).fill


def find_bases(reference: IFSSpec, numbers: list[int]) -> Array:
    """Find the base IFSs with these numbers, for a data set on the reference canvas: shape (len(numbers), N, 2, 3).

    Raises:
        ValueError: One of them is not found.
    """
    kind: Callable[[Any, int], _Search[Array]] = _search_base if reference.perturbs else _search_category
    search = functools.partial(kind, reference)
    threads = cpu_count()
    most = min(SEARCHES, -(-len(numbers) // threads))
    # Threads share one iterator, so that they finish at about the same time.
    waiting = iter(numbers)
    # Search for the first one alone: if it is not found, fail before searching for the others.
    found = _search_together(search, itertools.islice(waiting, 1), 1)
    with ThreadPoolExecutor(threads) as pool:
        for some in pool.map(lambda _: _search_together(search, waiting, most), range(threads)):
            found |= some
    return np.stack([found[number] for number in numbers])


def _search_base(reference: Fractal1Spec, number: int) -> _Search[Array]:
    """Find the first IFS sampled from the seed that is not too empty and survives perturbation (the paper's delta)."""
    if (reference.sigma, reference.maps) == (Fractal1Spec.sigma, Fractal1Spec.maps) and reference.seed in _FOUND_SEEDS:
        found = _found(_FOUND_BASES)[_FOUND_SEEDS.index(reference.seed)]
        if number < len(found):
            return _attempt(reference, number, int(found[number]))
    return (yield from _sample_base(reference, number))


def _attempt(reference: Fractal1Spec, number: int, attempt: int) -> Array:
    # Sines and matrix products differ in the last bit between machines; rounded to nine decimals they agree.
    rng = stream(reference.seed, Stream.BASE, attempt, number)
    base: Array = ifs.sample(reference.maps, reference.sigma, rng).round(9)
    return base


def _sample_base(reference: Fractal1Spec, number: int) -> _Search[Array]:
    # Rendered like class 0.
    key = np.random.SeedSequence((reference.seed, Stream.PATCHES, 0, 0, 0)).generate_state(2).tolist()
    look = _Look(reference.points, reference.size, reference.patch, tuple(key), MIN_FILL)
    attempt = 0
    while attempt < MAX_BASES:
        # One at a time at first, since the second is often accepted, then in growing batches.
        attempts = range(attempt, min(MAX_BASES, attempt + max(1, min(attempt // 2, LANES))))
        bases = np.stack([_attempt(reference, number, n) for n in attempts])
        fill = yield look, bases, bases
        for filled in np.flatnonzero(fill > MIN_FILL).tolist():
            base: Array = bases[filled]
            rng = stream(reference.seed, Stream.TRIAL, attempts[filled], number)
            trials = np.stack([ifs.perturb(base, Fractal1Spec.delta, rng) for _ in range(TRIALS)])
            same = np.broadcast_to(base, trials.shape)
            # The result does not depend on the order: try the fullest first, and no more than needed.
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
        f'{MIN_FILL:.0%} of the image and survives perturbation (sigma={reference.sigma}, maps={reference.maps}): use '
        f'another seed or a larger sigma'
    )


def _search_category(reference: IFSSpec, category: int) -> _Search[Array]:
    """Find the first system of a category that fills enough of the image (FractalDB's random search)."""
    found = _found(_FOUND) if reference.seed == 0 else ()
    attempt = int(found[category]) if category < len(found) else (yield from _random_search(reference.seed, category))
    return ifs.sample_uniform(stream(reference.seed, Stream.SEARCH, category, attempt))


def _random_search(seed: int, category: int) -> _Search[int]:
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


def default_attempts(reference: Fractal1Spec) -> npt.NDArray[Any]:
    """Return the successful perturbations of the first classes of the default data set; empty for any other."""
    classes: Any = {name: getattr(Fractal1Spec, name) for name in ('classes', 'instances')}
    is_default = dataclasses.replace(reference.canonical(), **classes) == Fractal1Spec()
    return _found(_FOUND_CLASSES) if is_default else np.zeros(0, np.uint8)


@functools.cache
def _found(name: str) -> npt.NDArray[Any]:
    with resources.files(__package__).joinpath(name).open('rb') as file:
        table: npt.NDArray[Any] = np.load(file)
    return table
