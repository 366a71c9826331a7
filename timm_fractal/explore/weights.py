"""Published weights on the page: what the card says, what the model looks for, which classes an image resembles."""

import contextlib
import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm import create_model
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from ..data.photos import open_image
from ..hub.manifest import manifest
from ..spec import parse_name
from . import filters, sheets
from .uploads import FORMATS, photograph

#: Classes that are named for an image.
NEAREST = 5


class Resemblance(NamedTuple):
    """A class that an image resembles.

    Attributes:
        label: Its number.
        probability: What the model gives it, from 0 to 1.
        image: Its first training image; None where that takes a photograph that is not here.
    """

    label: int
    probability: float
    image: Image.Image | None


def card(name: str) -> str:
    """What is known of the weights, as a table in Markdown.

    Examples:
        >>> card('test_vit.fractal1_1k').splitlines()[2][:22]
        '| data set | `fractal1'
    """
    entry = manifest()[name]
    said = entry.provenance
    rows = [('license', entry.license), ('---', '---')]
    if 'dataset' in said:
        rows.append(('data set', f'`{said["dataset"]}`'))
    if 'samples' in said:
        rows.append(('samples', f'{said["samples"]:,}'))
    if isinstance(said.get('loss'), float):
        rows.append(('last training loss', f'{said["loss"]:.2f}'))
    rows += [(key, str(said[key])) for key in ('recipe', 'hardware') if key in said]
    rows += [(key, f'**{value}**') for key, value in said.get('results', {}).items()]
    return '\n'.join(f'| {key} | {value} |' for key, value in rows)


@functools.lru_cache(8)
def picture(name: str) -> Image.Image:
    """Filters and attention, see `filters.weights_sheet`; on the first class of ``fractal1``."""
    return filters.weights_sheet(name, 'fractal1/size=128,points=20000')


@functools.lru_cache(2)
def _model(name: str) -> tuple[Any, Any]:
    model = create_model(name, pretrained=True).eval()
    config: dict[str, Any] = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    return model, create_transform(**config)


def resemblances(name: str, path: str | Path) -> list[Resemblance]:
    """The classes of pre-training that an image resembles most, the first ones first.

    Raises:
        ValueError: The file is not an image, or too large.
    """
    source = photograph(path)
    model, transform = _model(name)
    try:
        pixels = transform(open_image(source.path, formats=FORMATS))
    except (OSError, ValueError) as error:
        raise ValueError(source.hide(str(error))) from None
    with torch.inference_mode():
        found = model(pixels[None]).softmax(1)[0].topk(NEAREST)
    shown = ''
    # Weights of others may say nothing of their data set, or name one of theirs.
    with contextlib.suppress(KeyError, ValueError):
        spec = parse_name(manifest()[name].provenance['dataset'])
        if spec.reads != 'images':
            shown = spec.name()
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [Resemblance(k, value, sheets.class_image(shown, k) if shown else None) for k, value in pairs]
