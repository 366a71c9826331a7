"""Data sets rendered by a function, image by image: ``noise1``, ``visualatom``, and registered types."""

import hashlib
import logging
import math
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._utils.console import warn_once
from .._utils.rng import Stream, stream
from ..spec import Formula
from . import RENDERERS, create
from .base import PixelDataset, Pixels

#: ``render(spec, k, instance, generator)``: see `timm_fractal.data.register`.
Render = Callable[[Any, int, int, np.random.Generator], Any]

#: Rendering times, in seconds, that cause a warning: of all images on one core, and of one image on access (timm's
#: augmentation takes a few milliseconds).
SLOW_TABLE, SLOW_IMAGE = 120.0, 0.03

_logger = logging.getLogger(__name__)


class FormulaDataset(PixelDataset):
    """Data set of a registered type; see `timm_fractal.data.register` and `SyntheticDataset`."""

    spec_type = Formula
    spec: Formula
    max_validation = 25

    def _fill(self) -> None:
        # Errors, wrong shapes and hidden state are reported now, not by a worker in the middle of training.
        self._formula: Render = RENDERERS[self.spec.type]
        first, second = [*(self.only or range(2)), *(self.only or ())][:2]
        image = self._render_one(first)
        start = time.perf_counter()
        self._render_one(second)
        self._warn_if_slow(time.perf_counter() - start)
        self._compare(first, image, self._render_one(first))
        super()._fill()
        if self._table is not None:
            self._compare(first, image, self._table[first].numpy())

    def _compare(self, number: int, image: Pixels, again: Pixels) -> None:
        if not np.array_equal(image, again):
            raise ValueError(
                f'{self.spec}: render returned a different image of class {number % self.num_classes} when called '
                f'again: it must depend on its arguments only, take randomness from generator, and not modify '
                f'shared state; if it is not thread-safe, set thread_safe = False in the class of the options'
            )

    def _warn_if_slow(self, seconds: float) -> None:
        if self.only is not None:
            return
        each = f'render takes {1000 * seconds:.0f} ms per image'
        total = seconds * self.num_images
        if self._table is not None and total > SLOW_TABLE:
            words = '%s, %s split: %s, so all %d take up to %.0f min; cache=none renders on access'
            warn_once(_logger, words, *(self.spec.name(), self.split, each, self.num_images, np.ceil(total / 60)))
        elif self._table is None and seconds > SLOW_IMAGE:
            words = '%s, %s split: %s, on access: a worker delivers at most %.0f per second; %s'
            size = self.num_images * math.prod(self._shape()) / 2**20
            advice = f'cache=shared keeps them all in memory, {size:,.0f} MB'
            warn_once(_logger, words, *(self.spec.name(), self.split, each, 1 / seconds, advice))

    def _render_one(self, number: int) -> Pixels:
        instance, k = divmod(number, self.num_classes)
        if self.spec.has_instances:
            generator = stream(self.spec.seed, Stream.INSTANCE, int(self.split == 'validation'), k, instance)
            return self._call(k, instance, generator)
        return self._jitter(number, self._call(k, instance, stream(self.spec.seed, Stream.CLASS, k)))

    def _call(self, k: int, instance: int, generator: np.random.Generator) -> Pixels:
        where = f'{self.spec}: render for class {k}, instance {instance},'
        try:
            pixels = self._formula(self.spec, k, instance, generator)
        except Exception as error:
            raise ValueError(f'{where} failed: {type(error).__name__}: {error}') from error
        if not isinstance(pixels, np.ndarray):
            raise ValueError(
                f'{where} must return a numpy array, got {type(pixels).__name__}; convert an image with np.asarray'
            )
        if pixels.dtype != np.uint8 or pixels.shape != self._shape():
            hint = '' if pixels.dtype == np.uint8 else ': scale it to 0 to 255 and use .astype(np.uint8)'
            if pixels.shape == (*self._shape(), 3):
                hint += ": for color, set mode = 'RGB' in the class of the options"
            raise ValueError(
                f'{where} must return uint8 of shape {self._shape()}, got {pixels.dtype} of shape {pixels.shape}{hint}'
            )
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps((self._formula, type(self.spec)))
        except Exception as error:
            raise TypeError(
                f'{self.spec}: worker processes that are not forked need the class of the options and render at the '
                f'top level of a module: {error}'
            ) from None
        return self.__dict__


def examine(spec: Formula) -> Iterator[tuple[str, str]]:
    """Check the additional requirements of formulas, for ``timm-fractal doctor --dataset``.

    Yields:
        A fact, and advice if it is a problem, else ''.
    """
    train = _first_images(spec)
    start = time.perf_counter()
    _first_images(spec)
    # Creating the data set renders three images as a check, `_first_images` two more.
    each = 1000 * (time.perf_counter() - start) / 5
    yield (f'rendering takes {each:.1f} ms per image and core ({spec.size} x {spec.size})', '')
    if _digest(_first_images(spec.first(2))) == _digest(train):
        yield ('classes do not depend on the number of classes', '')
    else:
        advice = 'render must not depend on spec.classes, nor on any option that spec.first(2) changes'
        yield ('classes depend on the number of classes', advice)
    if any(np.array_equal(a, b) for a, b in zip(train, _first_images(spec, 'validation'))):
        yield ('validation images equal training images', 'sample what differs between instances from generator')
    else:
        yield ('validation images differ from training images', '')
    command = [sys.executable, '-c', _DIGEST, str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        yield (f'another process cannot render it: {last[:200]}', 'install the package that registers it')
    elif done.stdout.split()[-1:] != [_digest(train)]:
        advice = 'render must not depend on hash(), the order of a set, a clock or a process id'
        yield ('another process renders different images', advice)
    else:
        yield ('another process renders the same images', '')


_DIGEST = (
    'import sys; from timm_fractal import parse_name; from timm_fractal.data import formula; '
    'print(formula.digest(parse_name(sys.argv[1])))'
)


def digest(spec: Formula) -> str:
    """Return the SHA-256 of the first training image of each of the first two classes."""
    return _digest(_first_images(spec))


def _first_images(spec: Formula, split: str = 'train') -> list[Pixels]:
    dataset = create(spec.canonical(), split, only=range(2))
    return [dataset.stored(k) for k in range(2)]


def _digest(images: list[Pixels]) -> str:
    return hashlib.sha256(b''.join(image.tobytes() for image in images)).hexdigest()
