"""Mixup and cutmix of batches on a device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._utils.device import to_device
from .policy import refuse
from .sampling import numpy_generator

Box = tuple[int, int, int, int]


class MixParams(NamedTuple):
    """Parameters of `Mix` for a batch.

    Attributes:
        lam: Mixing coefficient: weight of each image's own label and, without a box, of its own pixels.
        box: Top, bottom, left and right of the box pasted from another image; None for mixup.
    """

    lam: float
    box: Box | None


class Mix:
    """Mixup and cutmix of a batch with itself in reverse order, with mixed labels.

    Args:
        collate: timm's ``FastCollateMixup`` or ``Mixup``; its attributes, such as ``mixup_enabled``, are read for each
            batch.

    Raises:
        ValueError: Its mode is not ``'batch'``, or it is for several labels per image.

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
        """Sample parameters for a batch of images of this height and width, with timm's distribution."""
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
        """Mix a batch.

        Args:
            images: uint8 of shape (B, C, H, W), B even.
            labels: int64 of shape (B,).
            params: From `make_params`.

        Returns:
            Images, uint8 of the same shape, and targets, float32 of shape (B, classes), with label smoothing. The
            images are a new tensor, or ``images`` if nothing is mixed.

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
        classes, smoothing = self.collate.num_classes, self.collate.label_smoothing
        both = to_device(torch.tensor([[lam, 1 - lam]]), labels.device)
        return images, fill_targets(classes, *soft_targets(labels, labels.flip(0), both, classes, smoothing))


def soft_targets(
    labels: Tensor, partners: Tensor, lam: Tensor, classes: int, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix labels with the rounding of timm's ``mixup_target``; return arguments of `fill_targets`.

    Args:
        labels: int64 of shape (B,).
        partners: Labels to mix them with, int64 of shape (B,).
        lam: Mixing coefficient and 1 minus it, float32 of shape (B, 2), or (1, 2) for all images.
        classes: Number of classes.
        smoothing: Label smoothing.
    """
    off = smoothing / classes
    on = 1 - smoothing + off
    weights = torch.stack([on * lam, off * lam], 2)
    # Columns: both labels are the class, only the image's own, only the partner's, neither.
    values = (weights[:, 0, :, None] + weights[:, 1, None]).flatten(1)
    chosen = torch.where((labels == partners)[:, None], values[:, :1], values[:, 1:3])
    return torch.stack([labels, partners], 1), chosen, values[:, 3:]


def fill_targets(classes: int, labels: Tensor, values: Tensor, other: Tensor) -> Tensor:
    """Expand targets of images with two labels each to float32 of shape (B, classes).

    Args:
        classes: Number of classes.
        labels: Both labels, int64 of shape (B, 2).
        values: Targets of both labels, float32 of shape (B, 2).
        other: Target of all other classes, float32 of shape (B, 1), or (1, 1) for all images.
    """
    result = other.expand(len(labels), classes).clone(memory_format=torch.contiguous_format)
    return result.scatter_(1, labels, values)


def check_even(count: int) -> None:
    """Raise ValueError if a batch of ``count`` images cannot be mixed with itself in reverse order."""
    if count % 2:
        raise ValueError(f'mixup needs an even number of images, got {count}: use an even batch size')


def _sample_box(height: int, width: int, lam: float, minmax: Any, rng: np.random.Generator) -> Box:
    """Sample top, bottom, left and right of the box that cutmix pastes."""
    edges: list[int] = []
    for size in (height, width):
        if minmax is not None:
            # Limits are relative to the image; the box lies within it.
            side = int(rng.integers(int(size * minmax[0]), int(size * minmax[1])))
            first = int(rng.integers(size - side))
            edges += first, first + side
        else:
            # The center lies within the image; the box is clipped.
            half, center = int(size * (1 - lam) ** 0.5) // 2, int(rng.integers(size))
            edges += max(0, center - half), min(size, center + half)
    return edges[0], edges[1], edges[2], edges[3]
