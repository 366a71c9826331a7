"""Pictures for the page: small, cached by their content, and bounded in cost."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any, TypeVar

from PIL import Image

from ..data import create, fractals, ranking, separability
from ..spec import Spec, parse_name
from . import sheets
from .samples import samples
from .uploads import Source

T = TypeVar('T')

#: The most classes on a sheet; classes in a row of a sweep, instances of a class, samples of a training.
CLASSES, ROW, INSTANCES, SAMPLES = 64, 8, 4, 8
#: The largest canvas and the most points that are rendered here.
LIMITS = {'size': 512, 'points': 500_000}
#: The last class that can be looked at: the end of a slider.
LAST_CLASS = 99
#: Rows of a sweep.
MAX_ROWS = 6

# Data sets whose IFS codes stay in memory.
_FAMILIES = 256


def shown(spec: Spec) -> tuple[Spec, str]:
    """The specification that is rendered here, and how it differs from the one asked for.

    Examples:
        >>> shown(parse_name('fractal1/size=4096'))[1]
        'shown with size 512 in place of 4,096'
    """
    changed: dict[str, Any] = {name: most for name, most in LIMITS.items() if getattr(spec, name, most) > most}
    words = ', '.join(f'{name} {most:,} in place of {getattr(spec, name):,}' for name, most in changed.items())
    return dataclasses.replace(spec, **changed), f'shown with {words}' if words else ''


def classes(name: str, split: str, count: int, source: Source | None = None) -> list[bytes]:
    """The first classes, at most `CLASSES`, as PNG; all pictures are.

    Raises:
        ValueError: The data set cannot be rendered; no message says where a visitor's file lies, here and below.
    """
    return _drawn(_classes, _name(name), split, min(max(count, 1), CLASSES), source)


def sweep(name: str, option: str, values: tuple[str, ...], source: Source | None = None) -> bytes:
    """One row per value of an option.

    Raises:
        ValueError: See `sheets.sweep`; also too many values, or a canvas that is too large here.
    """
    if len(values) > MAX_ROWS:
        raise ValueError(f'values must be at most {MAX_ROWS}, got {len(values)}')
    if option in LIMITS:
        small = shown(parse_name(name))[0]
        for value in values:
            if shown(sheets.with_option(small, option, value))[1]:
                raise ValueError(f'{option} must be at most {LIMITS[option]:,} to be shown here, got {value[:100]}')
    return _drawn(_sweep, _name(name), option, values, source)


def one_class(name: str, number: int, source: Source | None = None) -> tuple[bytes, bytes]:
    """One class large, and its instances.

    Raises:
        ValueError: There is no such class, or it is too far from the first here.
    """
    if number > LAST_CLASS:
        raise ValueError(f'class must be at most {LAST_CLASS} to be shown here, got {number}')
    return _drawn(_one_class, _name(name), number, source)


def training_samples(name: str, recipe: str, model: str, seed: int, source: Source | None = None) -> list[bytes]:
    """What a training sees; see `samples.samples`."""
    return _drawn(_samples, _name(name), recipe, model, seed, source)


def verdict(name: str, source: Source | None = None) -> str:
    """Whether classes can be told apart, in a sentence of Markdown; see `timm_fractal.data.separability`."""
    return _drawn(_verdict, _name(name), source)


def _name(name: str) -> str:
    """What the pictures depend on."""
    return str(shown(parse_name(name))[0])


def _drawn(draw: Callable[..., T], *arguments: Any) -> T:
    source: Source | None = arguments[-1]
    spec = parse_name(arguments[0])
    if source is None and spec.reads == 'images':
        raise ValueError(f'{spec.type} needs an image: upload one in the box "Photograph"')
    try:
        return draw(*arguments)
    except (ValueError, OSError, MemoryError) as error:
        message = source.hide(str(error)) if source else str(error)
        raise ValueError(message) from None
    finally:
        if len(fractals.known_codes) > _FAMILIES:
            # Visitors try many names: what was found for them is found again if need be.
            fractals.known_codes.clear()


# Rendered once for equal arguments, whoever asks. A changed file is another source.


@functools.lru_cache(64)
def _classes(name: str, split: str, count: int, source: Source | None) -> list[bytes]:
    return [png(image) for image in sheets.tiles(name, split, count, data_dir=_path(source))]


@functools.lru_cache(64)
def _verdict(name: str, source: Source | None) -> str:
    spec, path = parse_name(name), _path(source)
    if spec.random_position:
        return 'Instances of a class are at different places here: their pixels cannot be compared.'
    few = separability.first_classes(spec, path)
    found = separability.measure(create(few, root=path, only=range(separability.CLASSES)), path)
    words = (
        f'{found.confused:.1%} of the pairs of classes are no farther from each other than two crops of one class '
        f'(limit {separability.LIMIT:.0%}, {separability.SIZE} x {separability.SIZE} pixels); {found.nearest:.0%} of '
        f'the crops are nearest to their own class; {found.fill:.0%} of the pixels are not black.'
    )
    if ranking.can_measure(spec, path):
        quality = ranking.measure(spec, path)
        words += f' The fractal has a score of **{quality.score:+.1f}**: {ranking.EVIDENCE}.'
    if found.confused > separability.LIMIT:
        advice = separability.suggestions(spec, path)
        return f'\N{WARNING SIGN} **A model may not learn these classes**: take {advice}. {words}'
    return f'\N{CHECK MARK} **The classes can be told apart.** {words}'


@functools.lru_cache(32)
def _sweep(name: str, option: str, values: tuple[str, ...], source: Source | None) -> bytes:
    return png(sheets.sweep(name, option, values, columns=ROW, data_dir=_path(source)))


@functools.lru_cache(32)
def _one_class(name: str, number: int, source: Source | None) -> tuple[bytes, bytes]:
    large = sheets.class_image(name, number, data_dir=_path(source))
    return png(large), png(sheets.class_sheet(name, number, INSTANCES, tile=192, data_dir=_path(source)))


@functools.lru_cache(16)
def _samples(name: str, recipe: str, model: str, seed: int, source: Source | None) -> list[bytes]:
    return [png(image) for image in samples(name, recipe, model, seed, _path(source), SAMPLES)]


def _path(source: Source | None) -> str | None:
    return source.path if source else None


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    # Higher compression levels hardly make fractals smaller.
    image.save(file, 'PNG', compress_level=1)
    return file.getvalue()
