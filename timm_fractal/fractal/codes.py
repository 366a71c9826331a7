"""Finds the IFS codes of a data set's classes, and renders its images.

All fractal data sets come from one generator with three parameters: the number of base fractals, of perturbations
(classes) per base, and of instances per class.

* ``fractal1``: 1 base fractal, ``classes`` perturbations, 1 instance.
* ``fractal1/fractals=K``: K base fractals, ``classes / K`` perturbations each.
* ``ofdb``: ``classes`` base fractals, not perturbed, 1 instance.
* ``fractaldb``: the same base fractals, ``instances`` instances.

Class k is made from base fractal ``k % fractals``, so that a smaller data set has the first classes of a larger one.
Image number ``n`` is instance ``n // classes`` of class ``n % classes``.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .._utils.cpu import cpu_count
from .._utils.rng import Stream, stream
from ..spec import Fractal1Spec, IFSSpec
from . import ifs
from .canvas import Bits, pack, unpack
from .ifs import AddressSequences, Array, IFSCodes
from .render import Rendered, render
from .search import ADDRESS_SEED, MIN_FILL, SEARCHES, base_thresholds, default_attempts, find_bases

#: Progress display: takes a number of images and a step, and yields consecutive ranges that cover the images.
Progress = Callable[[int, int | None], Iterable[range]]

#: An image with at most this many gray pixels, or `MIN_FILL` of a small canvas, is degenerate.
MIN_PIXELS = 64
#: Attempts to perturb a base IFS into a class.
MAX_PERTURBATIONS = 1000
#: Factors of FractalDB's instances: each scales one parameter (a, b, c, d, e, f of ``x' = a x + b y + e, y' = c x + d y
#: + f``) of all maps.
WEIGHTS = np.ones((25, 2, 3))
for _i, (_place, _weight) in enumerate(
    itertools.product([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)], [0.8, 0.9, 1.1, 1.2]), start=1
):
    WEIGHTS[_i][_place] = _weight


def render_images(
    spec: IFSSpec, split: str, codes: IFSCodes, numbers: Sequence[int], out: Bits | None = None
) -> Rendered:
    """Render the images of a data set with these numbers; splits have the same IFS codes and different noise.

    Raises:
        ValueError: An image is degenerate on this canvas.
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
            f'{spec}: class {classes[first]} shows no shape on this canvas, only {pixels[first]:.0f} of its pixels are '
            f'gray (points={spec.points}, size={spec.size}, patch={spec.patch}): use more points or another patch'
        )
    if spec.scales:
        for i, flip in enumerate(instances // len(WEIGHTS) % 4):
            images.bits[i] = _flip(images.bits[i], spec.size, bool(flip & 1), bool(flip & 2))
    return images


def _valid_weights(
    spec: IFSSpec, codes: IFSCodes, classes: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return indices into `WEIGHTS`, with 0 (unscaled) where scaling makes an IFS diverge or shrink to a dot."""
    probs = codes.probs if codes.probs is not None else np.zeros((len(codes.bases), 0))
    keys = [
        (spec.seed, k, w, codes.systems[k].tobytes() + probs[k % len(probs)].tobytes())
        for k, w in zip(classes.tolist(), weights.tolist())
    ]
    unknown = [key for key in dict.fromkeys(keys) if key[2] > 0 and key not in _too_empty]
    if unknown:
        which, scales = (np.array(column) for column in list(zip(*unknown))[1:3])
        systems = codes.systems[which] * WEIGHTS[scales, None]
        images = _render(spec.on_reference_canvas(), 'train', codes, systems, which, scales, enough=MIN_FILL)
        _too_empty.update(zip(unknown, (images.fill <= MIN_FILL).tolist()))
    return np.array([0 if _too_empty.get(key) else key[2] for key in keys])


# Whether an instance is too empty, by seed, class, index into `WEIGHTS`, and IFS codes with probabilities, if any.
_too_empty: dict[tuple[int, int, int, bytes], bool] = {}


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
    """Render one image per IFS; images of a base fractal share their address sequence."""
    noise = (spec.seed, Stream.PATCHES, int(split == 'validation'))
    pairs = list(zip(classes.tolist(), instances.tolist()))
    keys: Any = np.stack([np.random.SeedSequence((*noise, *pair)).generate_state(2) for pair in pairs])
    # FractalDB's instances differ enough with shared random numbers; sampling new ones takes as long as rendering.
    numbers = np.zeros_like(instances) if spec.scales else instances
    bases = classes % spec.num_bases
    # Sorted, so that images with the same address sequence are adjacent.
    order = np.lexsort((bases, numbers))
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)

    def render_group(places: npt.NDArray[np.int64], threads: int | None = None, out: Bits | None = None) -> Rendered:
        if codes.probs is None:
            thresholds = [base_thresholds(codes.bases[base].tobytes()) for base in bases[places]]
        else:
            thresholds = [ifs.thresholds(codes.probs[base]) for base in bases[places]]
        draws = ifs.draws(spec.points, ADDRESS_SEED[split] + int(numbers[places[0]]))
        addresses = AddressSequences(draws, np.stack(thresholds))
        options: dict[str, Any] = dict(threads=threads, out=out, enough=enough)
        return render(systems[places], addresses, keys[places], spec.size, spec.patch, **options)

    if len(groups) == 1 and (np.diff(order) > 0).all():
        return render_group(order, out=out)
    with ThreadPoolExecutor(cpu_count()) as pool:
        parts = list(pool.map(functools.partial(render_group, threads=1 if len(groups) > 1 else None), groups))
    bits, fill = (np.concatenate(arrays)[np.argsort(order)] for arrays in zip(*parts))
    if out is None:
        return Rendered(bits, fill)
    out[:] = bits
    return Rendered(out, fill)


def _flip(bits: Bits, size: int, columns: bool, rows: bool) -> Bits:
    if columns:
        bits = pack(unpack(bits, size)[:, ::-1])
    return bits[::-1] if rows else bits


def find_codes(
    spec: IFSSpec,
    progress: Progress,
    table: Bits | None = None,
    only: Collection[int] | None = None,
    base: tuple[Array, Array] | None = None,
) -> IFSCodes:
    """Find the IFS codes of a data set: its bases, and for each class a perturbation that is not too empty.

    They do not depend on the canvas (points, size, patch).

    Args:
        spec: The data set.
        progress: Called once, with the number of classes.
        table: Output for the training images of instance 0 of a `Fractal1Spec` on the reference canvas, which the
            search renders anyway; uint8 of shape (classes, size, row bytes).
        only: Classes to find, by default all. The IFS codes of the others and of their bases are NaN.
        base: The only base and the probabilities of its maps, shapes (1, N, 2, 3) and (1, N); by default bases are
            sampled.

    Raises:
        ValueError: No base or no perturbation for a class is found, or the given base is too empty.
    """
    classes = np.array(range(spec.num_classes) if only is None else sorted(only))
    reference = spec.on_reference_canvas()
    if base is None:
        maps = vars(spec).get('maps', ifs.UNIFORM_MAPS[-1])
        bases, probs = np.full((spec.num_bases, maps, 2, 3), np.nan), None
    else:
        bases, probs = base
        number = np.zeros(1, np.int64)
        (fill,) = _render(reference, 'train', IFSCodes('', bases, bases, probs), bases, number, number).fill
        if fill <= MIN_FILL:
            raise ValueError(
                f'{spec}: the base fractal in the file must cover more than {MIN_FILL:.0%} of the image, got '
                f'{fill:.1%}: use another one'
            )
    codes = IFSCodes(str(spec), bases, np.full((spec.num_classes, *bases.shape[1:]), np.nan), probs)
    # Bases are searched in large batches, so that threads rarely wait for the last ones. A random search takes as long
    # as about 20 images, so progress is reported more often.
    step = 8 * cpu_count() if not spec.perturbs else 16 * SEARCHES if spec.num_bases > 1 else None
    for chunk in progress(len(classes), step):
        part = classes[chunk.start : chunk.stop]
        wanted = np.unique(part % spec.num_bases)
        missing = wanted[np.isnan(codes.bases[wanted]).any((1, 2, 3))]
        if len(missing):
            codes.bases[missing] = find_bases(reference, missing.tolist())
        if isinstance(reference, Fractal1Spec):
            known = default_attempts(reference) if base is None else np.zeros(0, np.uint8)
            _find_classes(reference, codes, part, None if table is None else table[chunk.start : chunk.stop], known)
        else:
            codes.systems[part] = codes.bases[part]
    return codes


def _find_classes(
    reference: Fractal1Spec,
    codes: IFSCodes,
    classes: npt.NDArray[np.int64],
    table: Bits | None,
    known: npt.NDArray[np.uint8],
) -> None:
    """Perturb until each of these classes has an image that is not too empty; store the images in ``table``.

    ``known`` holds the attempts that succeed, for the first classes.
    """
    pending = classes
    enough = MIN_FILL if table is None else 1.0
    for attempt in range(MAX_PERTURBATIONS):
        for k in pending:
            rng = stream(reference.seed, Stream.PERTURBATION, int(k), int(known[k]) if k < len(known) else attempt)
            base = codes.bases[k % reference.num_bases]
            codes.systems[k] = ifs.perturb(base, reference.delta, rng, reference.perturb)
        if table is None:
            pending = pending[pending >= len(known)]
            if len(pending) == 0:
                return
        # The first attempt renders straight into the table; later ones only repeat empty images.
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
        f'(seed={reference.seed}, delta={reference.delta}): use another seed or a smaller delta'
    )
