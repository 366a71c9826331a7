"""Random erasing of batches on a device."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._utils.device import to_device
from .._utils.messages import nearest
from .sampling import Numbers, Pair, numpy_generator, sample_sides

ERASING_MODES = ('const', 'rand', 'pixel')


class EraseParams(NamedTuple):
    """Parameters of `Erase` for a batch.

    Attributes:
        box: Top, left, height and width of each box, int64 of shape (B, boxes, 4); height 0 for none.
        color: Color of each box, float64 of shape (B, boxes, at least 3), standard normal.
        seed: Seed of the noise.
    """

    box: npt.NDArray[np.int64]
    color: Numbers
    seed: int


class Erase:
    """timm's random erasing: fills boxes of normalized images with 0, a random color, or noise.

    Args:
        prob: Probability of erasing boxes of an image.
        mode: ``'const'`` for 0, ``'rand'`` for a color per box, ``'pixel'`` for noise; both are standard normal.
        count: Maximum number of boxes per image, at least 1; they share the area.
        channels: Channels of the images.

    Raises:
        ValueError: Unknown mode, or an argument out of range.

    Examples:
        >>> erase = Erase(1.0, 'pixel')
        >>> images = torch.full((4, 3, 32, 32), 9.0)
        >>> bool((erase.apply(images, erase.make_params(4, 32, 32, torch.Generator().manual_seed(0))) < 9).any())
        True
    """

    #: Ranges of the total area of the boxes, relative to the image, and of their aspect ratio (height / width).
    area: Pair = (0.02, 1 / 3)
    ratio: Pair = (0.3, 1 / 0.3)

    def __init__(self, prob: float = 0.5, mode: str = 'const', count: int = 1, channels: int = 3) -> None:
        if mode not in ERASING_MODES:
            raise ValueError(f'unknown re_mode {mode!r}; {nearest(mode, ERASING_MODES)}')
        if not 0 <= prob <= 1:
            raise ValueError(f're_prob must be at least 0 and at most 1, got {prob}')
        if count < 1:
            raise ValueError(f're_count must be at least 1, got {count}')
        self.prob, self.mode, self.count = prob, mode, count
        # Gray images use the first of three, so that their boxes are those of color images.
        self.channels = max(3, channels)

    def make_params(self, count: int, height: int, width: int, generator: torch.Generator) -> EraseParams:
        """Sample the boxes of ``count`` images of this height and width."""
        rng = numpy_generator(generator)
        number = np.where(rng.random(count) <= self.prob, rng.integers(1, self.count + 1, count), 0)
        total = np.repeat(height * width / number.clip(1), self.count)
        sides = sample_sides(total, self.area, self.ratio, (height - 1, width - 1), rng)
        high, wide, fits = (values.reshape(count, self.count) for values in sides)
        found = (fits == 1) & (np.arange(self.count) < number[:, None])
        top = rng.random(found.shape) * (height - high + 1)
        left = rng.random(found.shape) * (width - wide + 1)
        box = np.stack([top, left, high, wide], 2).astype(np.int64) * found[..., None]
        return EraseParams(box, rng.standard_normal((count, self.count, self.channels)), int(rng.integers(2**63 - 1)))

    def apply(self, images: Tensor, params: EraseParams) -> Tensor:
        """Erase boxes of normalized images (B, C, H, W) in place, and return the images.

        Boxes and colors are the same on every device; noise is sampled on the device from the seed.

        Raises:
            ValueError: The images are integers.
        """
        if not images.is_floating_point():
            raise ValueError(f'images must be normalized (floating point), got {images.dtype}')
        noise = torch.Generator(images.device).manual_seed(params.seed)
        channels, height, width = images.shape[1:]
        row = torch.arange(height, device=images.device)[:, None]
        column = torch.arange(width, device=images.device)
        for block in range(params.box.shape[1]):
            box = to_device(params.box[:, block], images.device)
            top, left, high, wide = box.T[..., None, None, None]
            inside = ((row >= top) & (row < top + high) & (column >= left) & (column < left + wide)).expand_as(images)
            if self.mode == 'pixel':
                # One value per erased pixel, counted on the CPU to avoid waiting for the device.
                count = channels * int(params.box[:, block, 2:].prod(1).sum())
                pixels = torch.empty(count, dtype=images.dtype, device=images.device).normal_(generator=noise)
                images.masked_scatter_(inside, pixels)
            elif self.mode == 'rand':
                color = to_device(params.color[:, block, :channels, None, None], images.device).to(images.dtype)
                images.copy_(torch.where(inside, color, images))
            else:
                images.masked_fill_(inside, 0)
        return images
