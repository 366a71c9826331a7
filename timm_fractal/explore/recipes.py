"""Arguments of ``train.py`` for a data set and a recipe, as a command to copy or a file for ``--config``."""

import shlex
from typing import Any

import yaml

from .._utils.messages import nearest
from ..spec import Spec

#: Augmentation arguments of timm's train.py, by recipe.
RECIPES: dict[str, dict[str, Any]] = {
    # "Scaling Backwards" (ECCV 2024), pre-training; as in train_scripts.
    'paper': dict(
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.5, 0.5],
        train_interpolation='bicubic',
        scale=[0.08, 1.0],
        ratio=[0.75, 1.3333333333333333],
        hflip=0.5,
        vflip=0.5,
        color_jitter=0.4,
        aa='rand-m9-mstd0.5-inc1',
        reprob=0.5,
        remode='pixel',
        smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        mixup_switch_prob=0.5,
    ),
    # Except for mean and std.
    'defaults of train.py': dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
    'no augmentation': dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], no_aug=True),
}

#: Suggested models; any timm model is accepted.
MODELS = ('vit_tiny_patch16_224', 'vit_small_patch16_224', 'vit_base_patch16_224', 'resnet50', 'test_vit')


def recipe(name: str) -> dict[str, Any]:
    """Return the arguments of a recipe; ValueError if it is unknown."""
    if name not in RECIPES:
        raise ValueError(f'unknown recipe {name!r}; {nearest(name, RECIPES)}')
    return RECIPES[name]


def arguments(spec: Spec, model: str, name: str, data_dir: str | None = None) -> dict[str, Any]:
    """Return arguments of train.py for a data set, a timm model and a recipe.

    ``data_dir`` defaults to ``photo.jpg`` if the data set needs an image.
    """
    if spec.reads == 'images':
        data_dir = data_dir or 'photo.jpg'
    needed: dict[str, Any] = dict(dataset=spec.name(), num_classes=spec.num_classes)
    return needed | ({'data_dir': data_dir} if data_dir else {}) | {'model': model} | recipe(name)


def command(values: dict[str, Any], width: int = 100) -> str:
    """Format arguments as a shell command, wrapped with backslashes.

    Examples:
        >>> print(command({'dataset': 'fractal1', 'num_classes': 1000, 'scale': [0.5, 1], 'no_aug': True}, 50))
        python train.py --dataset fractal1 \\
            --num-classes 1000 --scale 0.5 1 --no-aug
    """
    lines = ['python train.py']
    for name, value in values.items():
        words = ['--' + name.replace('_', '-')]
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
        option = shlex.join(words)
        if len(lines[-1]) + len(option) >= width:
            lines.append('   ')
        lines[-1] += f' {option}'
    return ' \\\n'.join(lines)


def config(values: dict[str, Any]) -> str:
    """Format arguments as a file for ``train.py --config``."""
    text: str = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)
    return text
