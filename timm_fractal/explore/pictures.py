"""Pictures for the page: small, cached by their content, and bounded in cost."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any, TypeVar

from PIL import Image

from ..data import fractals, ranking, separability
from ..spec import Spec, parse_name
from . import sheets
from .samples import samples
from .uploads import Source

T = TypeVar('T')

#: Maximum number of classes on a sheet; classes in a row of a sweep; instances of a class; augmented samples.
CLASSES, ROW, INSTANCES, SAMPLES = 64, 8, 4, 8
#: Largest canvas and number of points rendered here.
LIMITS = {'size': 512, 'points': 500_000}
#: The last class that can be selected.
LAST_CLASS = 99
#: Maximum number of rows of a sweep.
MAX_ROWS = 6

# Maximum number of data sets whose IFS codes are kept in memory.
_FAMILIES = 256


def shown(spec: Spec) -> tuple[Spec, str]:
    """Return the specification within `LIMITS` that is rendered here, and how it differs from the given one.

    Examples:
        >>> shown(parse_name('fractal1/size=4096'))[1]
        'shown with size 512 instead of 4,096'
    """
    changed: dict[str, Any] = {name: most for name, most in LIMITS.items() if getattr(spec, name, most) > most}
    words = ', '.join(f'{name} {most:,} instead of {getattr(spec, name):,}' for name, most in changed.items())
    return dataclasses.replace(spec, **changed), f'shown with {words}' if words else ''


def _picture(draw: Callable[..., T]) -> Callable[..., T]:
    """Cache a function that renders a data set, and bound its cost.

    ``draw`` gets the canonical name from `shown`, the path of the source, and its other arguments. The decorated
    function takes a name, these arguments, and ``source=``; a changed file is a different source. All errors become a
    ValueError that does not reveal the path of a visitor's file.
    """

    @functools.lru_cache(32)
    def rendered(name: str, source: Source | None, *arguments: Any) -> T:
        return draw(name, source.path if source else None, *arguments)

    @functools.wraps(draw)
    def picture(name: str, *arguments: Any, source: Source | None = None) -> T:
        spec, _ = shown(parse_name(name))
        if source is None and spec.reads == 'images':
            raise ValueError(f'{spec.type} needs an image: upload one in the box "Photograph"')
        try:
            return rendered(str(spec), source, *arguments)
        except (ValueError, OSError, MemoryError) as error:
            raise ValueError(source.hide(str(error)) if source else str(error)) from None
        finally:
            if len(fractals.known_codes) > _FAMILIES:
                # Visitors try many names; codes are computed again if needed.
                fractals.known_codes.clear()

    return picture


@_picture
def classes(name: str, path: str | None, split: str, count: int) -> list[bytes]:
    """Return the first classes, at most `CLASSES`, as PNG."""
    return [png(image) for image in sheets.tiles(name, split, min(max(count, 1), CLASSES), data_dir=path)]


@_picture
def sweep(name: str, path: str | None, option: str, values: tuple[str, ...]) -> bytes:
    """Return a PNG with one row per value of an option."""
    if len(values) > MAX_ROWS:
        raise ValueError(f'values must be at most {MAX_ROWS}, got {len(values)}')
    if option in LIMITS:
        for value in values:
            if shown(sheets.with_option(parse_name(name), option, value))[1]:
                raise ValueError(f'{option} must be at most {LIMITS[option]:,} on this page, got {value[:100]}')
    return png(sheets.sweep(name, option, values, columns=ROW, data_dir=path))


@_picture
def one_class(name: str, path: str | None, number: int) -> tuple[bytes, bytes]:
    """Return a class in full size, and its instances, as PNG."""
    if number > LAST_CLASS:
        raise ValueError(f'class must be at most {LAST_CLASS} on this page, got {number}')
    large = sheets.class_image(name, number, data_dir=path)
    return png(large), png(sheets.class_sheet(name, number, INSTANCES, tile=192, data_dir=path))


@_picture
def training_samples(name: str, path: str | None, recipe: str, model: str, seed: int) -> list[bytes]:
    """Return augmented samples; see `samples.samples`."""
    return [png(image) for image in samples(name, recipe, model, seed, path, SAMPLES)]


@_picture
def verdict(name: str, path: str | None) -> str:
    """Return in Markdown whether classes are separable; see `timm_fractal.data.separability`."""
    spec = parse_name(name)
    if spec.random_position:
        return 'Instances of a class are at different places here: their pixels cannot be compared.'
    found = separability.measure(separability.first_classes(spec, path), path)
    words = f'{found}; {found.fill:.0%} of the pixels are not black.'
    if ranking.can_measure(spec, path):
        quality = ranking.measure(spec, path)
        words += f' The fractal has a score of **{quality.score:+.1f}**: {ranking.EVIDENCE}.'
    if found.confused > separability.LIMIT:
        advice = separability.suggestions(spec, path)
        return f'\N{WARNING SIGN} **A model may not learn these classes**: take {advice}. {words}'
    return f'\N{CHECK MARK} **The classes can be told apart.** {words}'


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    file = io.BytesIO()
    # Higher compression levels hardly make fractals smaller.
    image.save(file, 'PNG', compress_level=1)
    return file.getvalue()
