"""Masks, points and boxes, warped by the map of the image that they belong to.

The map leads from the canvas to the image. Masks are sampled with it, like images; points take the way back. Positions
of points and of boxes are in pixels, 0 at the left or upper edge of the image, the middle of its first pixel at 0.5.
"""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from .warps import Params, Warp

# Points along each side of a box; what a curve does between two of them is lost, see docs/shape.md.
_PER_SIDE = 32


def warp_mask(warp: Warp, mask: torch.Tensor, params: Params, fill: float) -> torch.Tensor:
    """Give every pixel of the canvas the pixel of the mask (..., H, W) that it shows, or ``fill`` outside of it.

    Raises:
        ValueError: The mask's dtype does not have ``fill``.
    """
    exact = torch.tensor(fill, dtype=torch.float64)
    filled = exact.to(mask.dtype)
    if not mask.is_floating_point() and filled.double() != exact:
        raise ValueError(f'mask_fill must be a value of the mask, which is {mask.dtype}, got {fill}')
    if mask.numel() == 0:
        return mask.clone()
    pixels, inside = (part.to(mask.device) for part in warp.nearest(params, *mask.shape[-2:]))
    shown = torch.where(inside, mask.flatten(-2)[..., pixels], filled.to(mask.device))
    return shown.reshape(mask.shape)


def warp_points(warp: Warp, points: torch.Tensor, params: Params, canvas_size: tuple[int, int]) -> torch.Tensor:
    """Return where the canvas shows points of an image of this height and width, or would if it were larger.

    Points are x and y in pixels, shape (..., 2), of any dtype, and stay of that dtype, rounded to whole numbers if it
    has no others. What the canvas does not show is outside of it.
    """
    half = torch.tensor(canvas_size[::-1], dtype=torch.float64) / 2
    found = warp.locate((_exact(points) / half - 1).numpy(), params)
    return _like((torch.from_numpy(found) + 1) * half, points)


def warp_boxes(warp: Warp, boxes: Any, params: Params) -> Any:
    """The boxes around warped ``BoundingBoxes`` of any format, clamped as torchvision does it.

    A rotated box turns as its middle lines do, and is as large as it has to be.
    """
    plain = boxes.as_subclass(torch.Tensor)
    is_rotated = plain.shape[-1] != 4
    corner_format = tv_tensors.BoundingBoxFormat['XYXYXYXY' if is_rotated else 'XYXY']
    corners = _exact(plain).reshape(-1, plain.shape[-1])
    corners = functional.convert_bounding_box_format(corners, boxes.format, corner_format)
    if not is_rotated:
        corners = corners[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    corners = corners.reshape(-1, 4, 1, 2)
    steps = torch.arange(_PER_SIDE, dtype=torch.float64)[:, None] / _PER_SIDE
    outline = torch.lerp(corners, corners.roll(-1, 1), steps)
    x, y = warp_points(warp, outline, params, boxes.canvas_size).unbind(-1)
    angle = torch.zeros(len(x), 1, dtype=torch.float64)
    if is_rotated:
        # From the middle of the left side to that of the right one, and from the upper to the lower, turned back.
        top, right, bottom, left = torch.stack([x, y], dim=-1)[:, :, _PER_SIDE // 2].unbind(1)
        (right_x, right_y), (down_x, down_y) = (right - left).T, (bottom - top).T
        angle = torch.atan2(right_y - down_x, right_x + down_y)[:, None]
    cos, sin = angle.cos(), angle.sin()
    x, y = x.flatten(1), y.flatten(1)
    (x0, x1), (y0, y1) = (part.aminmax(dim=1, keepdim=True) for part in (x * cos + y * sin, y * cos - x * sin))
    sides = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)] if is_rotated else [(x0, y0), (x1, y1)]
    around = torch.cat([part for a, b in sides for part in (a * cos - b * sin, a * sin + b * cos)], dim=1)
    around = functional.clamp_bounding_boxes(tv_tensors.wrap(around, like=boxes, format=corner_format))
    around = functional.convert_bounding_box_format(around, new_format=boxes.format).as_subclass(torch.Tensor)
    return tv_tensors.wrap(_like(around.reshape(plain.shape), plain), like=boxes)


def _exact(values: torch.Tensor) -> torch.Tensor:
    """On the CPU: not every device has double precision."""
    return values.detach().as_subclass(torch.Tensor).cpu().double()


def _like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    values = values if like.is_floating_point() else values.round()
    return values.to(like.dtype).to(like.device)
