"""Samples of a data set with a recipe's augmentation, as seen in training."""

import difflib
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from .._timm_private import find
from ..augment import Erase, Mix, create_augment, normalize
from .recipes import MODELS, recipe
from .sheets import first_images

#: Largest input of a supported model, in pixels.
MAX_INPUT = 640

# Arguments of train.py for the augmentation of each image, and their names in `create_augment`.
_OPTIONS = {name: name for name in ('no_aug', 'scale', 'ratio', 'hflip', 'vflip', 'color_jitter', 'mean')}
_OPTIONS |= {'aa': 'auto_augment', 'train_interpolation': 'interpolation'}


def model_input(model: str) -> tuple[tuple[int, int], str]:
    """Return the input size (height, width) and the interpolation of a timm model.

    Raises:
        ValueError: timm does not know the model, or its input is larger than `MAX_INPUT`.
    """
    import timm

    if not timm.is_model(model):
        close = difflib.get_close_matches(model[:100], timm.list_models(), 1)
        hint = f'did you mean {close[0]!r}?' if close else f'for instance {", ".join(MODELS)}'
        raise ValueError(f'unknown model {model[:100]!r}; {hint}')
    config: Any = timm.get_pretrained_cfg(model)
    _, height, width = config.input_size
    if max(height, width) > MAX_INPUT:
        raise ValueError(f'the input of the model must be at most {MAX_INPUT} pixels wide, got {height} x {width}')
    return (height, width), config.interpolation


def samples(
    name: str, recipe_name: str, model: str, seed: int = 0, data_dir: str | Path | None = None, count: int = 8
) -> list[Image.Image]:
    """Augment and mix the first classes of a data set as a training does.

    Crops, RandAugment, mixup, cutmix and erasing come from `timm_fractal.augment`, which has timm's distributions.

    Args:
        name: Data set name.
        recipe_name: One of `recipes.RECIPES`.
        model: Name of a timm model, whose input size the samples have.
        seed: Seed of crops, operations and mixing.
        data_dir: ``--data-dir`` of a training script.
        count: Number of samples, even. Classes are repeated if the data set has fewer.

    Returns:
        Model inputs, with normalization undone.

    Raises:
        ValueError: Unknown recipe or model, or the data set cannot be rendered.
    """
    values, (size, interpolation) = recipe(recipe_name), model_input(model)
    if values.get('no_aug'):
        # As train.py does.
        values = values | {'train_interpolation': interpolation}
    images = [pil_to_tensor(image) for image in first_images(name, count, data_dir)]
    batch = torch.stack([images[i % len(images)] for i in range(count)])
    batch = augment(batch, values, size, torch.Generator().manual_seed(seed))
    pixels = batch.permute(0, 2, 3, 1).mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    return [Image.fromarray(image) for image in pixels]


def augment(
    images: torch.Tensor, values: dict[str, Any], size: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """Augment a batch (B, C, H, W), uint8, as train.py does with the arguments of a recipe.

    Returns:
        float32 of shape (B, 3, *size), from 0 to 1 except where pixels are erased.
    """
    options = {new: values[name] for name, new in _OPTIONS.items() if name in values}
    transform = create_augment(size, is_training=True, **{'interpolation': 'random'} | options)
    count, _, height, width = images.shape
    images = transform.apply(images, transform.make_params(count, height, width, generator))
    height, width = size
    if 'mixup' in values:
        alphas = dict(mixup_alpha=values['mixup'], cutmix_alpha=values['cutmix'])
        mix = Mix(find('timm.data.mixup.Mixup')(**alphas, switch_prob=values['mixup_switch_prob'], num_classes=count))
        images, _ = mix.apply(images, torch.arange(count), mix.make_params(height, width, generator))
    batch = normalize(images, values['mean'], values['std'])
    if 'reprob' in values:
        erase = Erase(values['reprob'], values['remode'])
        batch = erase.apply(batch, erase.make_params(count, height, width, generator))
    mean, std = (torch.tensor(values[name])[:, None, None] for name in ('mean', 'std'))
    return batch * std + mean
