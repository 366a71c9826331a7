"""Random warps as a torchvision transform, and as an operation of timm's RandAugment."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .warps import MAX_MAGNITUDE, WARPS, Fill, Params


class RandomShape(v2.Transform):  # type: ignore[misc]
    """Warp an image at random, as one of torchvision's v2 transforms.

    Takes a PIL image, a tensor (..., C, H, W) or a sample with one of them inside, such as
    ``(image, label)``. All images of one call get the same warp, as everywhere in torchvision. Sampled from torch's
    generator.

    Args:
        warp: A name in `WARPS`.
        magnitude: Strength, 0 <= magnitude <= 1, see the warp.
        p: Probability that an image is warped.
        fill: Value of the pixels that show no part of the image, see `Warp.apply`.

    Raises:
        ValueError: An unknown warp, or a number out of range.

    Examples:
        >>> transform = RandomShape('elastic', magnitude=0.2)
        >>> transform
        RandomShape(warp=elastic, magnitude=0.2, p=1.0, fill=0)
        >>> transform(Image.linear_gradient('L')).size
        (256, 256)
    """

    def __init__(self, warp: str = 'affine', magnitude: float = 0.1, p: float = 1.0, fill: Fill = 0) -> None:
        super().__init__()
        if warp not in WARPS:
            raise ValueError(f'warp must be one of {", ".join(WARPS)}, got {warp!r}')
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f'magnitude must be at least 0 and at most {MAX_MAGNITUDE:g}, got {magnitude}')
        if not 0 <= p <= 1:
            raise ValueError(f'p must be at least 0 and at most 1, got {p}')
        self.warp = warp
        self.magnitude = magnitude
        self.p = p
        self.fill = fill

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse what goes with an image and would stay where it was."""
        for value in flat_inputs:
            if isinstance(value, tv_tensors.TVTensor) and not isinstance(value, (tv_tensors.Image, tv_tensors.Video)):
                raise TypeError(f'RandomShape warps images and videos only, got {type(value).__name__}')

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Sample a warp, or None."""
        if torch.rand(()) >= self.p:
            return {'params': None}
        rng = np.random.Generator(np.random.PCG64(int(torch.randint(2**63 - 1, ()))))
        return {'params': WARPS[self.warp].make_params(rng, self.magnitude)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Warp one image with these parameters."""
        record: Params | None = params['params']
        if record is None:
            return inpt
        if isinstance(inpt, Image.Image):
            return WARPS[self.warp].apply(inpt, record, fill=self.fill)
        images = inpt.as_subclass(torch.Tensor)
        batch = images.reshape(-1, *images.shape[-3:]) if images.ndim > 4 else images
        warped = WARPS[self.warp].apply(batch, record, fill=self.fill).reshape(images.shape)
        return tv_tensors.wrap(warped, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else warped

    # The names of these two in torchvision 0.20.
    _get_params = make_params
    _transform = transform
    _check_inputs = check_inputs


def shape_op(image: Image.Image, magnitude: float, warp: str = 'affine', **kwargs: Any) -> Image.Image:
    """Warp an image at random, as an operation of timm's RandAugment; ``functools.partial`` chooses the warp.

    Samples from Python's generator, as timm's operations do.

    Args:
        image: Mode L or RGB.
        magnitude: Strength, at least 0. More than 1 counts as 1: timm's magnitudes can exceed their range.
        warp: A name in `WARPS`.
        kwargs: timm's: ``fillcolor``, one number or three, is honored. ``resample`` is not: warps are bilinear.

    Raises:
        ValueError: An unknown warp, a negative magnitude, or another mode.

    Examples:
        >>> shape_op(Image.linear_gradient('L'), 0.2, 'polynomial', fillcolor=(128, 128, 128)).mode
        'L'
    """
    if warp not in WARPS:
        raise ValueError(f'warp must be one of {", ".join(WARPS)}, got {warp!r}')
    rng = np.random.Generator(np.random.PCG64(random.getrandbits(64)))
    params = WARPS[warp].make_params(rng, min(magnitude, MAX_MAGNITUDE))
    fill = kwargs.get('fillcolor')
    return WARPS[warp].apply(image, params, fill=0 if fill is None else fill)
