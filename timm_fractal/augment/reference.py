"""timm's augmentation operations for batches in torch, on any device, with Pillow's pixels.

The kernels are tested against this module, which is also used on devices without kernels. Most operations map gray
levels by a look-up table (LUT) of 256 entries for each image and channel.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._utils.device import to_device
from ..shape.warps import MAX_MAGNITUDE, WARPS, Warp
from .sampling import Numbers
from .tables import LUTS, MATRICES, blend, cubic, luma, make_lut


def unpack(table: Tensor, numbers: Tensor, levels: Tensor) -> Tensor:
    """See `kernels_triton`."""
    stored = table.index_select(0, numbers)
    # Eight pixels at a time.
    words = levels.view(torch.int64)[:, 0].index_select(0, stored.flatten().int())
    return words.view(torch.uint8).view(len(stored), 1, stored.shape[1], -1)


def _luma(images: Tensor) -> Tensor:
    """uint8 (b, 3, H, W) -> uint8 (b, 1, H, W)."""
    gray: Tensor = luma(*images.int().unbind(1))
    return gray.to(torch.uint8)[:, None]


def _map_levels(images: Tensor, name: str, argument: Numbers) -> Tensor:
    """Map the levels of images (b, C, H, W) by look-up tables."""
    count, channels = images.shape[:2]
    histogram = torch.empty(0, device=images.device)
    if name in ('AutoContrast', 'Equalize', 'Contrast'):
        levels = (_luma(images) if name == 'Contrast' and channels == 3 else images).flatten(2).long()
        one = torch.ones((), dtype=torch.int32, device=images.device)
        histogram = one.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, one.expand_as(levels))
    luts = make_lut(name, to_device(argument, images.device), histogram)
    start = 256 * torch.arange(count * channels, dtype=torch.int32, device=images.device)
    entry = images.flatten(0, 1).int() + start[:, None, None]
    return luts.expand(count, channels, -1).flatten().index_select(0, entry.flatten()).view_as(images)


def _color(images: Tensor, argument: Numbers) -> Tensor:
    if images.shape[1] == 1:
        return images
    factor = to_device(argument, images.device).float()[:, None, None, None]
    return _to_levels(blend(_luma(images).float(), images.float(), factor))


def _to_levels(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _sharpness(images: Tensor, argument: Numbers) -> Tensor:
    levels = images.float()
    smooth = levels.clone()
    columns = levels[..., :-2] + levels[..., 1:-1] + levels[..., 2:]
    around = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    # Edge pixels are not smoothed. An integer over 13 is never halfway between two integers.
    smooth[..., 1:-1, 1:-1] = ((around + 4 * levels[..., 1:-1, 1:-1]) / 13).round_()
    return _to_levels(blend(smooth, levels, to_device(argument, images.device).float()[:, None, None, None]))


def _gaussian_blur(images: Tensor, argument: Numbers) -> Tensor:
    """Apply three box blurs of fractional width along rows, then along columns, in 24-bit fixed point."""
    single = np.float32
    sigma = argument.astype(single)
    third = sigma * sigma / single(3)
    whole = np.floor((np.sqrt(12.0 * third + 1.0).astype(single) - 1.0) / 2.0).astype(single)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * third) / (6 * (third - (whole + 1) * (whole + 1)))
    radius = (whole + part).astype(single)
    full = (single(1 << 24) / (radius * single(2) + single(1))).astype(np.int64)
    reach = radius.astype(np.int64)
    edge = ((1 << 24) - (2 * reach + 1) * full) // 2
    span = int(reach.max()) + 1
    offset = np.abs(np.arange(-span, span + 1))
    # (taps, b, 1, 1, 1)
    weights = np.where(offset[:, None] <= reach, full, np.where(offset[:, None] == reach + 1, edge, 0))
    taps = to_device(weights, images.device)[..., None, None, None]
    blurred = images.long()
    for _ in range(2):
        width = blurred.shape[-1]
        place = torch.arange(width, device=images.device)
        for _ in range(3):
            total = torch.full_like(blurred, 1 << 23)
            for shift in range(-span, span + 1):
                total += taps[span + shift] * blurred[..., (place + shift).clamp_(0, width - 1)]
            blurred = total >> 24
        blurred = blurred.mT
    return blurred.to(torch.uint8)


def _transform(images: Tensor, data: Numbers, is_cubic: bool, fill: Tensor) -> Tensor:
    """Apply Image.transform with AFFINE: (b, C, H, W) uint8 -> the same.

    Positions are in double precision. So are bilinear levels: shifts by half a pixel give many integer levels, which
    rounding errors would truncate to the level below.
    """
    if is_cubic and (data[:, [0, 4]] == 1).all():
        if (data[:, [3, 5]] == 0).all():
            return _slide(images, data[:, 1], data[:, 2], fill)
        if (data[:, [1, 2]] == 0).all():
            return _slide(images.mT, data[:, 3], data[:, 5], fill).mT
    height, width = images.shape[-2:]
    x, y = _centers(width, images.device), _centers(height, images.device)[:, None]
    a, b, c, d, e, f = to_device(data, images.device).T[..., None, None]
    across, down = a * x + b * y + c, d * x + e * y + f
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    across, down = across - 0.5, down - 0.5
    column, row = across.floor(), down.floor()
    flat, precision = (len(images), 1, -1), torch.float32 if is_cubic else torch.float64
    right, below = ((across - column).to(precision).view(flat), (down - row).to(precision).view(flat))
    columns = [(column.long() + k).clamp_(0, width - 1) for k in _reach(is_cubic)]
    row = row.long()
    pixels = images.flatten(2)

    def line(shift: int) -> Tensor:
        start = (row + shift).clamp_(0, height - 1) * width
        taps = ((start + column).view(flat).expand(pixels.shape) for column in columns)
        return _interpolate([pixels.gather(2, tap).to(precision) for tap in taps], right)

    values = _interpolate([line(shift) for shift in _reach(is_cubic)], below).view_as(images)
    return torch.where(inside[:, None], _to_levels(values), fill[:, None, None])


def _slide(images: Tensor, slope: Numbers, shift: Numbers, fill: Tensor) -> Tensor:
    """Shift each row by ``slope * y + shift``, bicubic; all pixels of a row share a fractional offset."""
    height, width = images.shape[-2:]
    move = to_device(slope[:, None] * (np.arange(height) + 0.5) + shift[:, None], images.device)
    across = _centers(width, images.device) + move[..., None]
    inside = (across >= 0) & (across < width)
    whole = move.floor()
    reach = _reach(True)
    taps = torch.arange(reach.start, width + reach.stop - 1, device=images.device)
    index = (whole.long()[..., None] + taps).clamp_(0, width - 1)
    pixels = images.gather(3, index[:, None].expand(-1, images.shape[1], -1, -1)).float()
    lines = [pixels[..., k : k + width] for k in range(len(reach))]
    values = _interpolate(lines, (move - whole).float()[:, None, :, None])
    return torch.where(inside[:, None], _to_levels(values), fill[:, None, None])


def _centers(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=device) + 0.5


def _reach(is_cubic: bool) -> range:
    # Offsets of the taps, relative to the last pixel whose center is at or left of the position.
    return range(-1, 3) if is_cubic else range(2)


def _interpolate(taps: Sequence[Tensor], fraction: Tensor) -> Tensor:
    """Interpolate linearly between two levels, or bicubic between the middle two of four."""
    if len(taps) == 4:
        before, first, second, after = taps
        result: Tensor = cubic(before, first, second, after, fraction)
        return result
    first, second = taps
    return first + (second - first) * fraction


PIXELS: dict[str, Callable[[Tensor, Numbers], Tensor]] = {
    'Color': _color,
    'Sharpness': _sharpness,
    'GaussianBlur': _gaussian_blur,
}
#: Operations of this package, whose argument is a magnitude.
SHAPES: dict[str, Warp] = {name.capitalize(): warp for name, warp in WARPS.items()}
#: All operations, by timm's names without suffixes. Desaturate, for example, is Color with a different argument.
NAMES = (*LUTS, *PIXELS, *MATRICES, *SHAPES)


def warp(images: Tensor, name: str, magnitude: Numbers, seed: int, fill: Sequence[int]) -> Tensor:
    """Warp a batch by an operation in `SHAPES`: uint8 (b, C, H, W) -> the same, for magnitudes (b,)."""
    rng = np.random.Generator(np.random.PCG64([seed, list(SHAPES).index(name)]))
    return SHAPES[name].apply(images, SHAPES[name].sample(rng, magnitude.clip(max=MAX_MAGNITUDE)), fill=fill)


def apply_layer(
    images: Tensor,
    fill: Sequence[int],
    operation: npt.NDArray[np.int64],
    argument: Numbers,
    cubic: npt.NDArray[np.bool_] | bool = True,
    seed: int = 0,
) -> None:
    """Apply one operation to each image, in place.

    Args:
        images: uint8 of shape (B, C, H, W), C = 1 or 3.
        fill: Fill value outside the image, one per channel.
        operation, argument, cubic, seed: See `timm_fractal.augment.policy.Layer`.
    """
    color = to_device(np.array(fill, np.uint8), images.device)
    group = 2 * operation + (np.broadcast_to(cubic, operation.shape) & np.isin(operation, _MATRICES))
    for number in np.unique(group[operation >= 0]):
        name, chosen = NAMES[number // 2], (group == number).nonzero()[0]
        index = to_device(chosen, images.device)
        before, given = images[index], argument[chosen]
        if name in LUTS:
            images[index] = _map_levels(before, name, given)
        elif name in MATRICES:
            data = MATRICES[name](given, *images.shape[-2:])
            images[index] = _transform(before, data, bool(number % 2), color)
        elif name in SHAPES:
            images[index] = warp(before, name, given, seed, fill)
        else:
            images[index] = PIXELS[name](before, given)


_MATRICES = [NAMES.index(name) for name in MATRICES]
