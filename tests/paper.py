"""The paper's augmentation as arguments of timm's factories."""

from typing import Any

HALF = (0.5,) * 3

#: For timm's `create_transform`.
AUGMENTATION: dict[str, Any] = dict(
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    vflip=0.5,
    color_jitter=0.4,
    auto_augment='rand-m9-mstd0.5-inc1',
    interpolation='bicubic',
    mean=HALF,
)
#: For timm's `create_loader`, which also erases and normalizes.
LOADER: dict[str, Any] = dict(is_training=True, **AUGMENTATION, re_prob=0.5, re_mode='pixel', std=HALF)
#: For timm's `FastCollateMixup`.
MIXUP: dict[str, Any] = dict(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1)
