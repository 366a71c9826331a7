"""Mixup and cutmix of batches on a device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._timm_private import find
from .policy import refuse
from .sampling import numpy_generator

Box = tuple[int, int, int, int]


class MixParams(NamedTuple):
    """What `Mix.make_params` samples for a batch.

    Attributes:
        lam: Mixing coefficient lambda: of each image's own label; with no box also of its own pixels.
        box: First and last + 1 row, first and last + 1 column of what is pasted from another image; None for mixup.
    """

    lam: float
    box: Box | None


class Mix:
    """Mixup and cutmix of a batch with itself in reverse order, and labels to match.

    Args:
        collate: timm's ``FastCollateMixup``, or a ``Mixup``; its attributes are read for every batch, ``mixup_enabled``
            among them.

    Raises:
        ValueError: It mixes pairs or elements.

    Examples:
        >>> from timm.data import FastCollateMixup
        >>> mix = Mix(FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10))
        >>> images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
        >>> mixed, target = mix.apply(images, labels, mix.make_params(8, 8, torch.Generator().manual_seed(0)))
        >>> target.shape
        torch.Size([4, 10])
    """

    def __init__(self, collate: Any) -> None:
        if collate.mode != 'batch':
            refuse('mixup_mode', collate.mode, "only 'batch' is")
        if getattr(collate, 'multi_label', False):
            refuse('multi_label', True, 'only False is')
        self.collate = collate

    def make_params(self, height: int, width: int, generator: torch.Generator) -> MixParams:
        """Sample how a batch of images of this height and width is mixed; the distribution is timm's."""
        mixup, rng = self.collate, numpy_generator(generator)
        if not mixup.mixup_enabled or rng.random() >= mixup.mix_prob:
            return MixParams(1.0, None)
        cut = not mixup.mixup_alpha or (mixup.cutmix_alpha > 0 and rng.random() < mixup.switch_prob)
        alpha = mixup.cutmix_alpha if cut else mixup.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if not cut:
            return MixParams(lam, None)
        box = _sample_box(height, width, lam, mixup.cutmix_minmax, rng)
        if mixup.correct_lam or mixup.cutmix_minmax is not None:
            lam = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
        return MixParams(lam, box)

    def apply(self, images: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
        """Mix.

        Args:
            images: uint8 of shape (B, C, H, W), B even.
            labels: int64 of shape (B,).
            params: What `make_params` has sampled.

        Returns:
            Images, uint8 of the same shape, to whole levels, and targets, float32 of shape (B, classes), with label
            smoothing. The images are new, or those that came in if nothing is mixed.

        Raises:
            ValueError: The number of images is odd.
        """
        check_even(len(images))
        lam, box = params
        if box is not None:
            top, bottom, left, right = box
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
            images = mixed
        elif lam != 1:
            images = (images.float() * lam + images.flip(0).float() * (1 - lam)).round_().to(torch.uint8)
        mixup = self.collate
        target: Tensor = find('timm.data.mixup.mixup_target')(labels, mixup.num_classes, lam, mixup.label_smoothing)
        return images, target


def check_even(count: int) -> None:
    """Raise ValueError if so many images cannot be mixed with themselves in reverse order."""
    if count % 2:
        raise ValueError(f'the number of images must be even to mix them, got {count}: use an even batch size')


def _sample_box(height: int, width: int, lam: float, minmax: Any, rng: np.random.Generator) -> Box:
    """Sample first and last + 1 row, first and last + 1 column of what cutmix pastes."""
    edges: list[int] = []
    for size in (height, width):
        if minmax is not None:
            # Sides in a range, relative to the image, wherever they fit.
            side = int(rng.integers(int(size * minmax[0]), int(size * minmax[1])))
            first = int(rng.integers(size - side))
            edges += first, first + side
        else:
            # A center anywhere: a part of the box may lie beyond the edge.
            half, center = int(size * (1 - lam) ** 0.5) // 2, int(rng.integers(size))
            edges += max(0, center - half), min(size, center + half)
    return edges[0], edges[1], edges[2], edges[3]
