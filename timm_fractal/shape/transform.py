"""Random warps as a torchvision transform, and as an operation of timm's RandAugment."""

import math
import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .annotations import warp_boxes, warp_mask, warp_points
from .warps import MAX_MAGNITUDE, WARPS, Fill, Params, check_magnitude

#: Missing in torchvision 0.20 to 0.22.
_KEY_POINTS: Any = getattr(tv_tensors, 'KeyPoints', ())


class RandomShape(v2.Transform):  # type: ignore[misc]
    """Warp an image and its annotations at random: a torchvision v2 transform.

    Takes a PIL image, a tensor (..., C, H, W), or a sample of any nesting, such as ``(image, label)`` or ``(image,
    {'boxes': boxes, 'masks': masks, 'labels': labels})``. All parts of a sample get the same warp, sampled from torch's
    generator; labels and other data are returned unchanged.

    Images and videos are interpolated bilinearly; masks take the nearest pixel. A box becomes the box around its warped
    outline, clamped to the canvas. Key points that the canvas does not show get positions outside of it.

    Args:
        warp: A name in `WARPS`.
        magnitude: Strength, 0 <= magnitude <= 1, see the warp.
        p: Probability that a sample is warped.
        fill: Fill value outside the image, see `Warp.apply`.
        mask_fill: Fill value of masks, a finite number that their dtype can represent.

    Raises:
        ValueError: Unknown warp, or a number out of range.

    Examples:
        >>> transform = RandomShape('elastic', magnitude=0.2)
        >>> transform
        RandomShape(warp=elastic, magnitude=0.2, p=1.0, fill=0, mask_fill=0)
        >>> image, mask = Image.linear_gradient('L'), tv_tensors.Mask(torch.zeros(256, 256, dtype=torch.int64))
        >>> image, mask, label = transform(image, mask, 3)
        >>> image.size, mask.shape, label
        ((256, 256), torch.Size([256, 256]), 3)
    """

    def __init__(
        self, warp: str = 'affine', magnitude: float = 0.1, p: float = 1.0, fill: Fill = 0, mask_fill: float = 0
    ) -> None:
        super().__init__()
        _check_warp(warp)
        check_magnitude(magnitude)
        if not 0 <= p <= 1:
            raise ValueError(f'p must be at least 0 and at most 1, got {p}')
        if not isinstance(mask_fill, (int, float)) or not math.isfinite(mask_fill):
            raise ValueError(f'mask_fill must be one finite number, got {mask_fill!r}')
        self.warp = warp
        self.magnitude = magnitude
        self.p = p
        self.fill = fill
        self.mask_fill = mask_fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Sample a warp; None, with probability 1 - p, for no warp."""
        if torch.rand(()) >= self.p:
            return {'params': None}
        rng = np.random.Generator(np.random.PCG64(int(torch.randint(2**63 - 1, ()))))
        return {'params': WARPS[self.warp].make_params(rng, self.magnitude)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Warp one part of a sample with these parameters."""
        record: Params | None = params['params']
        if record is None:
            return inpt
        warp = WARPS[self.warp]
        if isinstance(inpt, Image.Image):
            return warp.apply(inpt, record, fill=self.fill)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return warp_boxes(warp, inpt, record)
        plain = inpt.as_subclass(torch.Tensor)
        if isinstance(inpt, tv_tensors.Mask):
            warped = warp_mask(warp, plain, record, self.mask_fill)
        elif isinstance(inpt, _KEY_POINTS):
            warped = warp_points(warp, plain, record, inpt.canvas_size)
        elif isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, (tv_tensors.Image, tv_tensors.Video)):
            # Unknown types of other packages.
            return inpt
        else:
            batch = plain.reshape(-1, *plain.shape[-3:]) if plain.ndim > 4 else plain
            warped = warp.apply(batch, record, fill=self.fill).reshape(plain.shape)
        return tv_tensors.wrap(warped, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else warped

    # Names of these methods in torchvision 0.20.
    _get_params = make_params
    _transform = transform


def _check_warp(name: str) -> None:
    if name not in WARPS:
        raise ValueError(f'warp must be one of {", ".join(WARPS)}, got {name!r}')


def shape_op(image: Image.Image, magnitude: float, warp: str = 'affine', **kwargs: Any) -> Image.Image:
    """Warp an image at random, as an operation of timm's RandAugment; ``functools.partial`` chooses the warp.

    Samples from Python's generator, like timm's operations.

    Args:
        image: Mode L or RGB.
        magnitude: Strength, at least 0, clipped to 1, since timm's magnitudes can exceed their range.
        warp: A name in `WARPS`.
        kwargs: timm's: ``fillcolor``, one number or three; ``resample`` is ignored, since warps are bilinear.

    Raises:
        ValueError: Unknown warp, negative magnitude, or another mode.

    Examples:
        >>> shape_op(Image.linear_gradient('L'), 0.2, 'polynomial', fillcolor=(128, 128, 128)).mode
        'L'
    """
    _check_warp(warp)
    rng = np.random.Generator(np.random.PCG64(random.getrandbits(64)))
    params = WARPS[warp].make_params(rng, min(magnitude, MAX_MAGNITUDE))
    return WARPS[warp].apply(image, params, fill=kwargs.get('fillcolor') or 0)
