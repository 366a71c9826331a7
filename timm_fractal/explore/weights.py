"""Views of pre-trained weights: filters and attention beside a random model's, properties, nearest classes."""

import contextlib
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm import create_model
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import is_model_pretrained
from timm.utils.attention_extract import AttentionExtract
from torch import nn

from ..data.photos import open_image
from ..hub.manifest import manifest
from ..spec import parse_name
from .sheets import class_image, first_images, join
from .uploads import FORMATS, photograph

#: Number of classes shown for an image.
NEAREST = 5


def weights_sheet(
    weights: str, name: str = 'fractal1', columns: int = 13, tile: int = 64, data_dir: str | Path | None = None
) -> Image.Image:
    """Render filters and attention of pre-trained weights, and of the same architecture before training.

    Filters are the ones in the first layer (the patch embedding of a ViT) that vary most, each scaled to its own range.
    Attention is from the class token to the patches, or without such a token the mean over all tokens, averaged over
    the heads: one tile per block, after the input image, the first class of a data set.

    Args:
        weights: Name for timm's ``create_model``: a tag such as ``'test_vit.fractal1_1k'``, ``local-dir:FOLDER`` or
            ``hf-hub:OWNER/NAME``.
        name: Data set name.
        columns: Tiles in a row; blocks that do not fit are left out.
        tile: Width and height of a tile in pixels.
        data_dir: ``--data-dir`` of a training script.

    Raises:
        ValueError: Unknown weights, or the first layer is not a convolution.
    """
    _check(weights)
    (image,) = first_images(name, 1, data_dir)
    rows: dict[str, list[Image.Image]] = {}
    for kind in ('pre-trained', 'random'):
        # The same random numbers in every call, without changing the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, transform = _load(weights, kind == 'pre-trained')
        seen = transform(image)
        rows[f'filters, {kind}'] = filter_tiles(first_layer(weights, model), columns, tile)
        maps = attention_maps(model, seen)
        if maps:
            shown = [_picture(np.asarray(image.convert('L')), tile, Image.Resampling.BOX)]
            shown += [_picture(one, tile, Image.Resampling.NEAREST) for one in maps]
            rows[f'attention, {kind}'] = shown[:columns]
    labels = sorted(rows, key=lambda label: label.startswith('attention'))
    return join([rows[label] for label in labels], tile, labels)


def _load(name: str, pretrained: bool = True) -> tuple[Any, Callable[[Image.Image], torch.Tensor]]:
    """Load a model, and return it with its transform from image to input."""
    model = create_model(name, pretrained=pretrained).eval()
    config: dict[str, Any] = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    transform = create_transform(**config)
    mode = 'RGB' if config['input_size'][0] == 3 else 'L'
    return model, lambda image: transform(image.convert(mode))


_load_again = functools.lru_cache(2)(_load)


def _check(weights: str) -> None:
    from timm import list_pretrained

    if weights.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) or is_model_pretrained(weights):
        return
    if Path(weights).is_dir():
        raise ValueError(f'weights must be a name of pretrained weights, got a folder: use local-dir:{weights}')
    close = difflib.get_close_matches(weights, list_pretrained(), 1) or ['test_vit.fractal1_1k']
    raise ValueError(f'weights must be a name of pretrained weights, got {weights!r}; the nearest is {close[0]!r}')


def first_layer(weights: str, model: nn.Module) -> npt.NDArray[np.float32]:
    """Return the weights of a model's first convolution, shape (filters, channels, height, width)."""
    name = getattr(model, 'pretrained_cfg', {}).get('first_conv')
    names = name if isinstance(name, (tuple, list)) else [name]
    layers = dict(model.named_modules())
    for one in names:
        if isinstance(layers.get(one), nn.Conv2d):
            found: npt.NDArray[np.float32] = layers[one].weight.detach().float().numpy()
            return found
    raise ValueError(f'weights: {weights!r} has no convolution as its first layer (first_conv is {name!r})')


def filter_tiles(filters: npt.NDArray[np.float32], count: int, tile: int) -> list[Image.Image]:
    """Return the filters that vary most, in descending order, as images: gray, or RGB for three channels."""
    if filters.shape[1] != 3:
        filters = filters.mean(1, keepdims=True)
    order = filters.std((1, 2, 3)).argsort()[::-1][:count]
    return [_picture(filters[k].transpose(1, 2, 0).squeeze(), tile, Image.Resampling.NEAREST) for k in order]


def attention_maps(model: nn.Module, image: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """Return each block's attention, mean over its heads, in the shape of the patch grid; [] if unavailable."""
    for module in model.modules():
        if hasattr(module, 'fused_attn'):
            # Fused attention does not expose its weights.
            vars(module)['fused_attn'] = False
    names = [name for name, _ in model.named_modules() if name.endswith('attn.attn_drop')]
    grid = getattr(getattr(model, 'patch_embed', None), 'grid_size', None)
    if not names or grid is None:
        return []
    extract = AttentionExtract(model, names=names, method='hook')
    with torch.inference_mode():
        found = extract(image[None])
    prefix = int(getattr(model, 'num_prefix_tokens', 0))
    maps = []
    for name in names:
        heads = found[name][0]
        if heads.ndim != 3 or heads.shape[-1] != prefix + grid[0] * grid[1]:
            return []
        rows = heads[:, :1] if prefix else heads
        maps.append(rows.mean((0, 1))[prefix:].view(*grid).float().numpy())
    return maps


def _picture(values: npt.NDArray[Any], tile: int, resample: Image.Resampling) -> Image.Image:
    """Make an image of a size, with the range of values scaled to black and white."""
    low, high = float(values.min()), float(values.max())
    levels = (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)
    return Image.fromarray(levels.round().astype(np.uint8)).resize((tile, tile), resample)


def card(name: str) -> str:
    """Format the properties of the weights as a Markdown table.

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
    """Return the `weights_sheet` for the first class of ``fractal1``."""
    return weights_sheet(name, 'fractal1/size=128,points=20000')


def resemblances(name: str, path: str | Path) -> list[tuple[int, float, Image.Image | None]]:
    """Return the pre-training classes that an image resembles most, best first.

    Returns:
        Label, probability, and first training image of each, or None if it cannot be rendered here.

    Raises:
        ValueError: The file is not an image, or too large.
    """
    source = photograph(path)
    model, transform = _load_again(name)
    try:
        pixels = transform(open_image(source.path, formats=FORMATS))
    except (OSError, ValueError) as error:
        raise ValueError(source.hide(str(error))) from None
    with torch.inference_mode():
        found = model(pixels[None]).softmax(1)[0].topk(NEAREST)
    shown = ''
    # Other people's weights may lack a data set, or name an unknown one.
    with contextlib.suppress(KeyError, ValueError):
        spec = parse_name(manifest()[name].provenance['dataset'])
        if spec.reads != 'images':
            shown = spec.name()
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [(k, value, class_image(shown, k) if shown else None) for k, value in pairs]
