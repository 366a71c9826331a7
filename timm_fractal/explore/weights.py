"""Pre-trained weights: filters and attention beside those of a random model, the card, and what an image resembles."""

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

#: Classes that are named for an image.
NEAREST = 5


def weights_sheet(
    weights: str, name: str = 'fractal1', columns: int = 13, tile: int = 64, data_dir: str | Path | None = None
) -> Image.Image:
    """Show filters and attention of pre-trained weights, and of the same architecture before training.

    Filters are those of the first layer (the patch embedding of a ViT) that vary most, each scaled to its own range.
    Attention is the class token's to the patches, or without such a token the mean over all, averaged over the heads:
    one tile for each block, after the image that the model sees, the first class of a data set.

    Args:
        weights: Name of weights as timm's ``create_model`` takes it: a tag such as ``'test_vit.fractal1_1k'``, or
            ``local-dir:`` and ``hf-hub:`` with what follows.
        name: Data set name.
        columns: Tiles in a row; blocks that do not fit are left out.
        tile: Width and height of a tile in pixels.
        data_dir: What ``--data-dir`` is in a training script.

    Raises:
        ValueError: The weights are not known, or the model has no convolution to look at.
    """
    _check(weights)
    (image,) = first_images(name, 1, data_dir)
    rows: dict[str, list[Image.Image]] = {}
    for kind in ('pre-trained', 'random'):
        # The same random numbers in every call; the global generator is left alone.
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
    """Load a model, and what makes its input of an image."""
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
    close = difflib.get_close_matches(weights, list_pretrained(), 1) or ['test_vit.fractal1_1k']
    raise ValueError(f'weights must be a name of pretrained weights, got {weights!r}; the nearest is {close[0]!r}')


def first_layer(weights: str, model: nn.Module) -> npt.NDArray[np.float32]:
    """Weights of a model's first convolution, shape (filters, channels, height, width)."""
    name = getattr(model, 'pretrained_cfg', {}).get('first_conv')
    names = name if isinstance(name, (tuple, list)) else [name]
    layers = dict(model.named_modules())
    for one in names:
        if isinstance(layers.get(one), nn.Conv2d):
            found: npt.NDArray[np.float32] = layers[one].weight.detach().float().numpy()
            return found
    raise ValueError(f'weights: {weights!r} has no convolution as its first layer (first_conv is {name!r})')


def filter_tiles(filters: npt.NDArray[np.float32], count: int, tile: int) -> list[Image.Image]:
    """The filters that vary most, the strongest first, as images: gray, or RGB of three channels."""
    if filters.shape[1] != 3:
        filters = filters.mean(1, keepdims=True)
    order = filters.std((1, 2, 3)).argsort()[::-1][:count]
    return [_picture(filters[k].transpose(1, 2, 0).squeeze(), tile, Image.Resampling.NEAREST) for k in order]


def attention_maps(model: nn.Module, image: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """Attention of each block, mean over its heads: arrays of the shape of the grid of patches; [] if there is none."""
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
    """Scaled to black and white, whatever the range."""
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
    """Filters and attention, see `weights_sheet`; on the first class of ``fractal1``."""
    return weights_sheet(name, 'fractal1/size=128,points=20000')


def resemblances(name: str, path: str | Path) -> list[tuple[int, float, Image.Image | None]]:
    """The classes of pre-training that an image resembles most, the first ones first.

    Returns:
        The label of each, what the model gives it, from 0 to 1, and its first training image; None where that takes a
        photograph that is not here.

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
    # Weights of others may say nothing of their data set, or name one of theirs.
    with contextlib.suppress(KeyError, ValueError):
        spec = parse_name(manifest()[name].provenance['dataset'])
        if spec.reads != 'images':
            shown = spec.name()
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [(k, value, class_image(shown, k) if shown else None) for k, value in pairs]
