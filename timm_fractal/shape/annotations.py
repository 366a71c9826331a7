"""Warps masks, points and boxes with their image.

A warp maps the canvas to the image. Masks are sampled with it, like images; points are mapped by its inverse. Positions
of points and boxes are in pixels: 0 is the left or upper edge of the image, 0.5 the center of its first pixel.
"""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from .warps import Params, Warp

# Points along each side of a box; curvature between two of them is lost, see docs/shape.md.
_PER_SIDE = 32


def warp_mask(warp: Warp, mask: torch.Tensor, params: Params, fill: float) -> torch.Tensor:
    """Return the warped mask (..., H, W): the nearest mask pixels, or ``fill`` outside.

    Raises:
        ValueError: The mask's dtype cannot represent ``fill``.
    """
    exact = torch.tensor(fill, dtype=torch.float64)
    filled = exact.to(mask.dtype)
    if not mask.is_floating_point() and filled.double() != exact:
        raise ValueError(f'mask_fill must be representable in the dtype of the mask, {mask.dtype}, got {fill}')
    if mask.numel() == 0:
        return mask.clone()
    pixels, inside = (part.to(mask.device) for part in warp.nearest(params, *mask.shape[-2:]))
    shown = torch.where(inside, mask.flatten(-2)[..., pixels], filled.to(mask.device))
    return shown.reshape(mask.shape)


def warp_points(warp: Warp, points: torch.Tensor, params: Params, canvas_size: tuple[int, int]) -> torch.Tensor:
    """Return the canvas positions of points of an image of this height and width.

    Points are x and y in pixels, shape (..., 2); the result has their dtype, rounded if it is an integer type. Points
    that the canvas does not show get positions outside of it.
    """
    half = torch.tensor(canvas_size[::-1], dtype=torch.float64) / 2
    found = warp.locate((_exact(points) / half - 1).numpy(), params)
    return _like((torch.from_numpy(found) + 1) * half, points)


def warp_boxes(warp: Warp, boxes: Any, params: Params) -> Any:
    """Return the boxes around warped ``BoundingBoxes`` of any format, clamped like torchvision's.

    A rotated box turns with its midlines and encloses the warped outline.
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
        # Angle of the sum of both midlines, left to right and, rotated back by 90 degrees, top to bottom.
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
    """Convert to double precision on the CPU, since not every device has it."""
    return values.detach().as_subclass(torch.Tensor).cpu().double()


def _like(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    values = values if like.is_floating_point() else values.round()
    return values.to(like.dtype).to(like.device)
