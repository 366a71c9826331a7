"""Contact sheets of the classes of a data set, also for several values of an option."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from .._utils.messages import nearest
from ..data import create
from ..data.base import SyntheticDataset, watched_parts
from ..spec import Spec, parse_name

#: Default values of `sweep`. The sigma-factor of two maps is less than 6.
SWEEPS = {'delta': ('0.01', '0.05', '0.1', '0.2', '0.4'), 'sigma': ('3.5', '4', '4.5', '5', '5.5')}

#: Tiles in a row of a contact sheet, and classes in a row of a sweep.
COLUMNS = 8

# Options that change the number of images, not the images shown.
_NUMBERS = ('classes', 'instances')

_GAP = 2
_CAPTION = 24
_PAPER, _INK = '#303030', '#ffffff'


def contact_sheet(
    name: str,
    split: str = 'train',
    count: int = 32,
    columns: int | None = None,
    tile: int = 128,
    data_dir: str | Path | None = None,
) -> Image.Image:
    """Render the first classes of a data set side by side.

    Args:
        name: Data set name, for instance ``'fractal1/delta=0.05'``.
        split: ``'train'`` or ``'validation'``.
        count: Number of classes, at least 1; all classes if the data set has fewer.
        columns: Tiles in a row; by default `COLUMNS`, or fewer if there are fewer classes.
        tile: Width and height of an image on the sheet, in pixels.
        data_dir: ``--data-dir`` of a training script: an image or a file that the data set is made from.

    Returns:
        An image, gray unless the data set is colored. Gray on black is shown as white on black.

    Raises:
        ValueError: An argument is out of range, or the data set cannot be rendered.

    Examples:
        >>> contact_sheet('fractal1/classes=6,size=64,points=3000', columns=3, tile=32).size
        (104, 70)
    """
    _check(columns=columns)
    images = tiles(name, split, count, tile, data_dir)
    columns = columns or min(COLUMNS, len(images))
    return join([images[start : start + columns] for start in range(0, len(images), columns)], tile)


def tiles(
    name: str, split: str = 'train', count: int = 32, tile: int = 128, data_dir: str | Path | None = None
) -> list[Image.Image]:
    """Render the tiles of `contact_sheet`, one image per class; arguments and errors are the same."""
    _check(count=count, tile=tile)
    return [_tile(image, tile) for image in first_images(name, count, data_dir, split)]


def sweep(
    name: str,
    option: str,
    values: Sequence[str] | None = None,
    split: str = 'train',
    columns: int = COLUMNS,
    tile: int = 128,
    data_dir: str | Path | None = None,
) -> Image.Image:
    """Render the first classes once per value of an option; everything else, including the seed, stays the same.

    Args:
        name: Data set name; its value of ``option`` is ignored.
        option: An option of the data set, for instance ``'delta'``.
        values: Values as in a name; by default all words of an option with choices, or `SWEEPS`.
        columns: Number of classes, at least 1.

    Other arguments and errors are those of `contact_sheet`.

    Returns:
        An image like that of `contact_sheet`, with one row per value, labeled on the left.
    """
    _check(columns=columns, tile=tile)
    values, specs = _swept(name, option, values)
    rows = [tiles(changed.name(), split, columns, tile, data_dir) for changed in watched_parts(specs)]
    return join(rows, tile, [f'{option}={value}' for value in values])


def animate(
    name: str,
    option: str,
    values: Sequence[str] | None = None,
    split: str = 'train',
    count: int = 32,
    columns: int | None = None,
    tile: int = 128,
    data_dir: str | Path | None = None,
) -> list[Image.Image]:
    """Render a contact sheet per value of an option, with the value below it: the frames of an animation.

    Arguments and errors are those of `sweep` and `contact_sheet`.
    """
    values, specs = _swept(name, option, values)
    frames = []
    for value, spec in zip(values, watched_parts(specs)):
        sheet = contact_sheet(spec.name(), split, count, columns, tile, data_dir)
        frame = Image.new(sheet.mode, (sheet.width, sheet.height + _CAPTION), _PAPER)
        frame.paste(sheet)
        ImageDraw.Draw(frame).text((4 * _GAP, sheet.height), f'{option} = {value}', fill=_INK, font_size=_CAPTION - 8)
        frames.append(frame)
    return frames


def _swept(name: str, option: str, values: Sequence[str] | None) -> tuple[Sequence[str], list[Spec]]:
    spec = parse_name(name)
    options = sweepable(spec)
    if option not in options:
        raise ValueError(f'{spec.type}: cannot sweep {option!r}; {nearest(option, options)}')
    choices = {field.name: field.metadata['choices'] for field in spec.fields()}
    values = values or SWEEPS.get(option) or choices[option]
    if not values:
        raise ValueError(
            f'values must be given for the option {option!r}: only {", ".join(SWEEPS)} and words have defaults'
        )
    return values, [with_option(spec, option, value) for value in values]


def first_images(name: str, count: int, data_dir: str | Path | None = None, split: str = 'train') -> list[Image.Image]:
    """Return images of the first classes, in their original size and levels."""
    spec = parse_name(name)
    if data_dir:
        # Files in data_dir must match the number of classes, so it is not reduced.
        dataset = _open(spec, split, data_dir, range(count))
    else:
        # Rendered as a whole, with a progress bar.
        dataset = _open(_fewer(spec, count), split)
    return list(dataset.images(range(min(count, dataset.num_classes)), spec.mode))


def sweepable(spec: Spec | type[Spec]) -> list[str]:
    """Return the options that `sweep` accepts: those that change images, but not their number."""
    options = [field.name for field in spec.fields() if field.metadata['images']]
    return [name for name in options if name not in _NUMBERS]


def class_sheet(
    name: str, number: int, count: int = 4, tile: int = 128, data_dir: str | Path | None = None
) -> Image.Image:
    """Render instances of one class: training images in the first row, validation images in the second.

    ``number`` counts classes from 0; ``count`` is the number of instances, if the data set has more than one. Other
    arguments and errors are those of `contact_sheet`.
    """
    _check(count=count, tile=tile)
    splits = ('train', 'validation')
    rows = [[_tile(image, tile) for image in _of_class(name, number, count, split, data_dir)] for split in splits]
    return join(rows, tile, splits)


def class_image(name: str, number: int, split: str = 'train', data_dir: str | Path | None = None) -> Image.Image:
    """Render the first instance of a class in its original size; arguments and errors are those of `class_sheet`."""
    (image,) = _of_class(name, number, 1, split, data_dir)
    return _tile(image, image.width)


def _of_class(name: str, number: int, count: int, split: str, data_dir: str | Path | None) -> list[Image.Image]:
    spec = parse_name(name)
    if not 0 <= number < spec.num_classes:
        raise ValueError(f'class must be from 0 to {spec.num_classes - 1}, got {number}')
    if data_dir is None:
        spec = _fewer(spec, number + 1)
    if spec.has_instances:
        spec = with_option(spec, 'instances', str(count))
    dataset = _open(spec, split, data_dir, [number])
    instances = min(count, dataset.num_images // dataset.num_classes)
    return [dataset[i * dataset.num_classes + number][0] for i in range(instances)]


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        low, high = (8, 4096) if name == 'tile' else (1, 10_000)
        if value is not None and not low <= value <= high:
            raise ValueError(f'{name} must be from {low} to {high}, got {value}')


def _fewer(spec: Spec, count: int) -> Spec:
    """Return the data set without the classes and instances that are not shown."""
    fields = {field.name: field for field in spec.fields()}
    spec = spec.first(min(spec.num_classes, max(count, fields['classes'].metadata['low'])))
    return with_option(spec, 'instances', '1') if spec.has_instances else spec


def with_option(spec: Spec, option: str, text: str) -> Spec:
    """Change an option as if it were written in the name, with the same rules and errors."""
    return spec.parse(','.join(f'{key}={value}' for key, value in {**vars(spec), option: text}.items()))


def _open(
    spec: Spec, split: str, data_dir: str | Path | None = None, only: Collection[int] | None = None
) -> SyntheticDataset:
    shared = dataclasses.replace(spec.canonical(), cache='shared')
    return create(shared, split=split, root=data_dir, input_img_mode=spec.mode, only=only)


def _tile(image: Image.Image, tile: int) -> Image.Image:
    # Gray 127 on black looks dark, and thin lines averaged with their surroundings even darker.
    if image.mode == 'L' and image.getextrema()[1] <= 127:  # type: ignore[operator]
        image = image.point([min(255, 2 * level) for level in range(256)])
    # The mean of all pixels; other filters would drop parts of thin lines.
    resample = Image.Resampling.BOX if tile < image.width else Image.Resampling.NEAREST
    return image.resize((tile, tile), resample)


def join(rows: Sequence[Sequence[Image.Image]], tile: int, labels: Sequence[str] = ()) -> Image.Image:
    """Join rows of square tiles to a sheet, each with a label on the left; the first row is the longest."""
    scratch = ImageDraw.Draw(Image.new('L', (1, 1)))
    boxes = [scratch.textbbox((0, 0), label) for label in labels]
    margin = math.ceil(max((box[2] for box in boxes), default=-4 * _GAP)) + 4 * _GAP
    step = tile + _GAP
    mode = 'RGB' if any(image.mode == 'RGB' for row in rows for image in row) else 'L'
    sheet = Image.new(mode, (margin + step * len(rows[0]) + _GAP, step * len(rows) + _GAP), _PAPER)
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (margin + _GAP + step * column, _GAP + step * number))
    draw = ImageDraw.Draw(sheet)
    for number, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        draw.text((2 * _GAP, _GAP + step * number + (tile - box[3]) / 2), label, fill=_INK)
    return sheet
