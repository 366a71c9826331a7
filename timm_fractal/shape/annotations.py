"""Masks, points and boxes, warped by the map of the image that they belong to.

The map leads from the canvas to the image. Masks are sampled with it, like images; points take the way back. Positions
of points and of boxes are in pixels, 0 at the left or upper edge of the image, the middle of its first pixel at 0.5.
"""

from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from .warps import _CELLS, _STEPS, Array, Params, Warp, _identity_at_corners

# Points along each side of a box; what a curve does between two of them is lost, see docs/shape.md.
_PER_SIDE = 32
# Newton's method takes three to eight steps.
_MOST_STEPS = 20
_DIFFERENCE = 1e-6
# Of what the numerators of a projective map are divided by.
_HORIZON = 1e-4


def warp_mask(warp: Warp, mask: torch.Tensor, params: Params, fill: float) -> torch.Tensor:
    """Give every pixel of the canvas the pixel of the mask that it shows, or ``fill`` where that is outside.

    Args:
        warp: One of `WARPS`.
        mask: Shape (..., H, W), any dtype.
        params: A record of the warp.
        fill: A value of the mask's dtype.

    Raises:
        ValueError: The dtype does not have ``fill``.
    """
    exact = torch.tensor(fill, dtype=torch.float64)
    filled = exact.to(mask.dtype)
    if not mask.is_floating_point() and filled.double() != exact:
        raise ValueError(f'mask_fill must be a value of the mask, which is {mask.dtype}, got {fill}')
    height, width = mask.shape[-2:]
    if mask.numel() == 0:
        return mask.clone()
    # The positions of images, so that a mask shows what an image shows.
    steps = warp._positions(warp._values(params, 1), height, width, (width, height), torch.device('cpu'))[0]
    edges = _STEPS // 2 * torch.tensor([width, height], dtype=torch.float32)[:, None, None]
    inside = (steps.abs() <= edges).all(dim=0).flatten()
    column, row = torch.minimum((steps + edges).clamp_(min=0), 2 * edges - 1).div_(_STEPS).long()
    index = (row * width + column).flatten().to(mask.device)
    shown = torch.where(inside.to(mask.device), mask.flatten(-2)[..., index], filled.to(mask.device))
    return shown.reshape(mask.shape)


def warp_points(warp: Warp, points: torch.Tensor, params: Params, canvas_size: tuple[int, int]) -> torch.Tensor:
    """Where the canvas shows points of the image, or would if it were larger.

    Args:
        warp: One of `WARPS`.
        points: x and y in pixels, shape (..., 2), any dtype.
        params: A record of the warp.
        canvas_size: Height and width of the image.

    Returns:
        New points of the same dtype, to the nearest whole number if it has no others. What the canvas does not show is
        outside of it.
    """
    half = np.array(canvas_size[::-1])[:, None] / 2
    places = _exact(points).reshape(-1, 2).numpy().T / half - 1
    coefficients = warp._coefficients(warp._values(params, 1))[0]
    invert = _invert_projective if coefficients.shape[-1] == 2 else _invert_numerically
    found = (invert(warp, coefficients, places) + 1) * half
    return _like(torch.from_numpy(found.T).reshape(points.shape), points)


def warp_boxes(warp: Warp, boxes: Any, params: Params) -> Any:
    """The boxes around warped boxes, clamped as torchvision does it.

    A rotated box turns as its middle lines do, and is as large as it has to be.

    Args:
        warp: One of `WARPS`.
        boxes: ``torchvision.tv_tensors.BoundingBoxes`` of any format.
        params: A record of the warp.
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


def _invert_projective(warp: Warp, coefficients: Array, places: Array) -> Array:
    """Of functions of the first degree: places in the image (2, N) -> points of the canvas (2, N)."""
    matrix = np.eye(3)
    matrix[: len(coefficients)] = np.stack(
        [coefficients[:, 0, 1], coefficients[:, 1, 0], coefficients[:, 0, 0]], axis=1
    )
    x, y, below = np.linalg.solve(matrix, np.vstack([places, np.ones_like(places[:1])]))
    # What is behind the horizon of the canvas stays far away, in the direction in which it left.
    found = np.stack([x, y]) / below.clip(_HORIZON)
    low, high = warp._basis(np.array([-1.0, 1.0]))[:, 1]
    return 2 * (found - low) / (high - low) - 1  # type: ignore[no-any-return]


def _invert_numerically(warp: Warp, coefficients: Array, places: Array) -> Array:
    """By Newton's method: places in the image (2, N) -> points of the canvas (2, N).

    Outside of the canvas, where a map need not be one to one, points move as the nearest point of the canvas does.
    """
    basis = warp._basis(np.linspace(-1, 1, _CELLS + 1))
    corners = torch.from_numpy((basis @ coefficients @ basis.T).reshape(2, -1).T.copy())
    parts = np.array_split(places.T, places.shape[1] // 1024 + 1)
    nearest = torch.cat([torch.cdist(torch.from_numpy(part.copy()), corners).argmin(dim=1) for part in parts])
    points = _identity_at_corners().reshape(2, -1)[:, nearest.numpy()]
    for _ in range(_MOST_STEPS):
        inside = points.clip(-1, 1)
        u, v = (warp._basis(t) for t in inside)
        more_u, more_v = (warp._basis(t + _DIFFERENCE) for t in inside)
        rows = v @ coefficients
        missed = (rows * u).sum(axis=2) + points - inside - places
        beyond_u, beyond_v = points != inside
        slope_u = np.where(beyond_u, [[1], [0]], (rows * (more_u - u)).sum(axis=2) / _DIFFERENCE)
        slope_v = np.where(beyond_v, [[0], [1]], ((more_v - v) @ coefficients * u).sum(axis=2) / _DIFFERENCE)
        area = slope_u[0] * slope_v[1] - slope_u[1] * slope_v[0]
        area[np.abs(area) < 1e-3] = 1e-3
        step_u = (slope_v[1] * missed[0] - slope_v[0] * missed[1]) / area
        step_v = (slope_u[0] * missed[1] - slope_u[1] * missed[0]) / area
        step = np.stack([step_u, step_v])
        points = points - step
        # Each step squares the error.
        if (np.abs(step) < 1e-4).all():
            break
    return points
