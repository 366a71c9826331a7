"""timm's augmentation operations on a batch of images on a torch device, each as Pillow computes it.

`Pipeline` applies them, one operation with one argument per image, as RandAugment samples them. Most operations map
gray levels to gray levels: they are a look-up table (LUT) of 256 entries per image and channel, which is kept and
composed with the next one until something needs the pixels. What they have to know about the image (its mean, extremes,
ranks) is in its histogram, which goes through a LUT just as well. The arithmetic is Pillow's: what it truncates is
truncated here, and what it computes in single precision is computed in single precision.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._utils.device import to_device
from ..shape.warps import MAX_MAGNITUDE, WARPS, Warp
from .sampling import Numbers

#: Arguments (b,) and histograms (b, C, 256) -> LUTs that broadcast to (b, C, 256).
Table = Callable[[Tensor, Tensor], Tensor]
#: Arguments, height, width -> what Image.transform calls the data of AFFINE, (b, 6).
Matrix = Callable[[Numbers, int, int], Numbers]


# Look-up tables.


def _levels(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=dtype, device=like.device)


def _invert(argument: Tensor, histogram: Tensor) -> Tensor:
    return 255 - _levels(histogram, torch.int64)


def _auto_contrast(argument: Tensor, histogram: Tensor) -> Tensor:
    levels = _levels(histogram, torch.float64)
    present = (histogram > 0).int()
    low = present.argmax(-1, keepdim=True)
    high = 255 - present.flip(-1).argmax(-1, keepdim=True)
    # A number over a tensor would be rounded twice: torch multiplies it with the reciprocal.
    scale = torch.full_like(levels[:1], 255) / (high - low)
    return torch.where(high > low, levels * scale + -low * scale, levels)


def _equalize(argument: Tensor, histogram: Tensor) -> Tensor:
    histogram = histogram.long()
    below = histogram.cumsum(-1) - histogram
    # Pillow leaves the brightest level that is present out of the mean.
    last = 255 - (histogram > 0).int().flip(-1).argmax(-1, keepdim=True)
    step = below.gather(-1, last) // 255
    ranks = (step // 2 + below) // step.clamp(min=1)
    return torch.where(step > 0, ranks, _levels(histogram, torch.int64))


def _posterize(argument: Tensor, histogram: Tensor) -> Tensor:
    # No bit is black; before version 13 Pillow said so too.
    dropped = 2 ** (8 - argument.long().clamp(0, 8))[:, None, None]
    return _levels(histogram, torch.int64) // dropped * dropped


def _solarize(argument: Tensor, histogram: Tensor) -> Tensor:
    levels = _levels(histogram, torch.int64)
    return torch.where(levels < argument[:, None, None], levels, 255 - levels)


def _solarize_add(argument: Tensor, histogram: Tensor) -> Tensor:
    levels = _levels(histogram, torch.int64)
    return torch.where(levels < 128, levels + argument.long()[:, None, None], levels)


def _brightness(argument: Tensor, histogram: Tensor) -> Tensor:
    levels = _levels(histogram, torch.float32)
    return _blend(torch.zeros_like(levels), levels, argument[:, None, None])


def _contrast(argument: Tensor, histogram: Tensor) -> Tensor:
    """Of a single channel; `Pipeline` hands in the histogram of the luma."""
    histogram = histogram.long()
    total = (histogram * _levels(histogram, torch.int64)).sum(-1, keepdim=True)
    mean = (total.double() / histogram.sum(-1, keepdim=True) + 0.5).floor().float()
    return _blend(mean, _levels(histogram, torch.float32), argument[:, None, None])


def _blend(degenerate: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    """Image.blend, before it drops the fraction."""
    return degenerate + factor.float() * (levels - degenerate)


# Pixels.


def _luma(images: Tensor) -> Tensor:
    """ITU-R 601 luma in Pillow's fixed point, (b, 3, H, W) -> (b, 1, H, W)."""
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)[:, None]


def _color(images: Tensor, argument: Numbers) -> Tensor:
    if images.shape[1] == 1:
        return images
    factor = to_device(argument, images.device)[:, None, None, None]
    return _to_levels(_blend(_luma(images).float(), images.float(), factor))


def _sharpness(images: Tensor, argument: Numbers) -> Tensor:
    levels = images.float()
    smooth = levels.clone()
    columns = levels[..., :-2] + levels[..., 1:-1] + levels[..., 2:]
    around = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    # The edge stays. No sum of whole numbers over 13 lies half between two of them.
    smooth[..., 1:-1, 1:-1] = ((around + 4 * levels[..., 1:-1, 1:-1]) / 13).round_()
    return _to_levels(_blend(smooth, levels, to_device(argument, images.device)[:, None, None, None]))


def _gaussian_blur(images: Tensor, argument: Numbers) -> Tensor:
    """Three box blurs of fractional width along rows, then along columns, in 24 bits of fixed point."""
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


def _to_levels(values: Tensor) -> Tensor:
    """Clip, and drop the fraction."""
    return values.clamp_(0, 255).to(torch.uint8)


# Geometric transforms: the matrices.


def _matrix(count: int, **entries: Any) -> Numbers:
    data = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (count, 1))
    for name, values in entries.items():
        data[:, 'abcdef'.index(name)] = values
    return data


def _shear_x(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), b=argument)


def _shear_y(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), d=argument)


def _translate_x_rel(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), c=argument * width)


def _translate_y_rel(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), f=argument * height)


def _translate_x(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), c=argument)


def _translate_y(argument: Numbers, height: int, width: int) -> Numbers:
    return _matrix(len(argument), f=argument)


def _rotate(argument: Numbers, height: int, width: int) -> Numbers:
    """Counter-clockwise by an angle in degrees, around the center of the image."""
    angle = -np.radians(argument % 360)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)
    x, y = width / 2, height / 2
    shift = dict(c=cos * -x + sin * -y + x, f=-sin * -x + cos * -y + y)
    return _matrix(len(argument), a=cos, b=sin, d=-sin, e=cos, **shift)


# Geometric transforms: the pixels.


def _transform(images: Tensor, data: Numbers, cubic: bool, fill: Tensor) -> Tensor:
    """Image.transform with AFFINE: (b, C, H, W) uint8 -> the same.

    Positions are in double precision. Levels are, too, where the interpolation is linear: there, half of them may be
    whole numbers, when all of an image moves by half a pixel say, and which level that is must not be left to rounding.
    """
    if cubic and (data[:, [0, 4]] == 1).all():
        if (data[:, [3, 5]] == 0).all():
            return _slide(images, data[:, 1], data[:, 2], fill)
        if (data[:, [1, 2]] == 0).all():
            return _slide(images.mT, data[:, 3], data[:, 5], fill).mT
    height, width = images.shape[-2:]
    x, y = _middles(width, images.device), _middles(height, images.device)[:, None]
    a, b, c, d, e, f = to_device(data, images.device).T[..., None, None]
    across, down = a * x + b * y + c, d * x + e * y + f
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    across, down = across - 0.5, down - 0.5
    column, row = across.floor(), down.floor()
    flat, precision = (len(images), 1, -1), torch.float32 if cubic else torch.float64
    right, below = ((across - column).to(precision).view(flat), (down - row).to(precision).view(flat))
    columns = [(column.long() + k).clamp_(0, width - 1) for k in _reach(cubic)]
    row = row.long()
    pixels = images.flatten(2)

    def line(shift: int) -> Tensor:
        start = (row + shift).clamp_(0, height - 1) * width
        taps = ((start + column).view(flat).expand(pixels.shape) for column in columns)
        return _mix([pixels.gather(2, tap).to(precision) for tap in taps], right)

    values = _mix([line(shift) for shift in _reach(cubic)], below).view_as(images)
    return torch.where(inside[:, None], _to_levels(values), fill[:, None, None])


def _slide(images: Tensor, slope: Numbers, shift: Numbers, fill: Tensor) -> Tensor:
    """A cubic map that moves each row by itself, by ``slope * y + shift``: one place and one fraction for a row."""
    height, width = images.shape[-2:]
    moves = slope[:, None] * (np.arange(height) + 0.5) + shift[:, None]
    move = to_device(moves, images.device)
    across = _middles(width, images.device) + move[..., None]
    inside = (across >= 0) & (across < width)
    whole = move.floor()
    reach = _reach(True)
    taps = torch.arange(reach.start, width + reach.stop - 1, device=images.device)
    index = (whole.long()[..., None] + taps).clamp_(0, width - 1)
    pixels = images.gather(3, index[:, None].expand(-1, images.shape[1], -1, -1)).float()
    lines = [pixels[..., k : k + width] for k in range(len(reach))]
    values = _mix(lines, (move - whole).float()[:, None, :, None])
    return torch.where(inside[:, None], _to_levels(values), fill[:, None, None])


def _middles(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=device) + 0.5


def _reach(cubic: bool) -> range:
    """Which pixels count, relative to the last one whose middle is not right of the position."""
    return range(-1, 3) if cubic else range(2)


def _mix(taps: Sequence[Tensor], part: Tensor) -> Tensor:
    """Interpolation between two levels, linear, or of four levels between the two in the middle, cubic.

    The cubic is Keys' kernel with a = -1, which Pillow transforms with, sharper than the one that it resizes with. Both
    are written in differences of levels, as in Pillow: when the fraction is dropped, the rounding of a sum of weights
    would become a level.
    """
    if len(taps) == 2:
        first, second = taps
        return first + (second - first) * part
    before, first, second, after = taps
    straight = second - before
    square = 2 * (before - first) + second - after
    cube = first - before + after - second
    return first + part * (straight + part * (square + part * cube))


TABLES: dict[str, Table] = {
    'AutoContrast': _auto_contrast,
    'Equalize': _equalize,
    'Invert': _invert,
    'Posterize': _posterize,
    'Solarize': _solarize,
    'SolarizeAdd': _solarize_add,
    'Brightness': _brightness,
    'Contrast': _contrast,
}
PIXELS: dict[str, Callable[[Tensor, Numbers], Tensor]] = {
    'Color': _color,
    'Sharpness': _sharpness,
    'GaussianBlur': _gaussian_blur,
}
MATRICES: dict[str, Matrix] = {
    'Rotate': _rotate,
    'ShearX': _shear_x,
    'ShearY': _shear_y,
    'TranslateX': _translate_x,
    'TranslateY': _translate_y,
    'TranslateXRel': _translate_x_rel,
    'TranslateYRel': _translate_y_rel,
}
#: The operations of this package; their argument is a magnitude.
SHAPES: dict[str, Warp] = {name.capitalize(): warp for name, warp in WARPS.items()}
#: The operations by their names, timm's without a suffix: Desaturate is Color with another argument, and so on.
NAMES = (*TABLES, *PIXELS, *MATRICES, *SHAPES)
_NEED_HISTOGRAM = ('AutoContrast', 'Equalize', 'Contrast')


def warp(images: Tensor, name: str, magnitude: Numbers, seed: int, fill: Sequence[int]) -> Tensor:
    """Warp a batch by an operation of `SHAPES`: uint8 (b, C, H, W) -> the same, for magnitudes (b,)."""
    rng = np.random.Generator(np.random.PCG64([seed, NAMES.index(name)]))
    values = SHAPES[name].sample(rng, magnitude.clip(max=MAX_MAGNITUDE))
    return SHAPES[name].apply(images, [{SHAPES[name].name: row} for row in values.tolist()], fill=fill)


class Pipeline:
    """Images, and the LUTs that have not been applied to them yet.

    Args:
        images: uint8 of shape (B, C, H, W), C = 1 or 3. They are overwritten.
        fill: Level of what no pixel falls on, one for each channel.
    """

    def __init__(self, images: Tensor, fill: Sequence[int]) -> None:
        self._images = images
        self._fill_color = fill
        self._fill = to_device(np.array(fill, np.uint8), images.device)
        identity = torch.arange(256, dtype=torch.uint8, device=images.device)
        self._tables = identity.repeat(*images.shape[:2], 1)
        self._pending = np.zeros(len(images), np.bool_)

    def apply(
        self,
        operation: npt.NDArray[np.int64],
        argument: Numbers,
        cubic: npt.NDArray[np.bool_] | bool = True,
        seed: int = 0,
    ) -> None:
        """Apply one operation to each image.

        Args:
            operation: Place of the operation in `NAMES`, shape (B,); -1 for none.
            argument: Its argument, shape (B,): a factor, degrees, bits, a threshold, ... as timm's operation gets it.
            cubic: Whether it interpolates with a cubic (one for all or one for each image), for those that do.
            seed: Where the parameters of the warps of `SHAPES` are sampled from.
        """
        cubic = np.broadcast_to(cubic, operation.shape)
        for number in np.unique(operation):
            if number < 0:
                continue
            name = NAMES[number]
            if name in MATRICES:
                for flag in (False, True):
                    chosen = ((operation == number) & (cubic == flag)).nonzero()[0]
                    if len(chosen):
                        self._map(name, chosen, argument[chosen], flag)
                continue
            chosen = (operation == number).nonzero()[0]
            if name in SHAPES:
                self._flush(chosen)
                index = self._index(chosen)
                self._images[index] = warp(self._images[index], name, argument[chosen], seed, self._fill_color)
            else:
                self._level(name, chosen, argument[chosen])

    def finish(self) -> Tensor:
        """Apply what is pending, and return the images."""
        self._flush(self._pending.nonzero()[0])
        return self._images

    def _level(self, name: str, chosen: npt.NDArray[np.int64], argument: Numbers) -> None:
        if name in PIXELS:
            # On gray images the operation on saturation does nothing.
            if name == 'Color' and self._images.shape[1] == 1:
                return
            self._flush(chosen)
            index = self._index(chosen)
            self._images[index] = PIXELS[name](self._images[index], argument)
            return
        index = self._index(chosen)
        if name == 'Contrast' and self._images.shape[1] == 3:
            self._flush(chosen)
            histogram = _histogram(_luma(self._images[index]))
        elif name in _NEED_HISTOGRAM:
            histogram = _histogram(self._images[index])
            histogram = torch.zeros_like(histogram).scatter_add_(2, self._tables[index].long(), histogram)
        else:
            histogram = self._tables[index]  # Any tensor on the device: the table does not depend on it.
        table = TABLES[name](to_device(argument, histogram.device), histogram).clamp(0, 255).to(torch.uint8)
        before = self._tables[index]
        self._tables[index] = table.expand_as(before).gather(2, before.long())
        self._pending[chosen] = True

    def _map(self, name: str, chosen: npt.NDArray[np.int64], argument: Numbers, cubic: bool) -> None:
        self._flush(chosen)
        index = self._index(chosen)
        data = MATRICES[name](argument, *self._images.shape[-2:])
        self._images[index] = _transform(self._images[index], data, cubic, self._fill)

    def _flush(self, chosen: npt.NDArray[np.int64]) -> None:
        """Apply the pending LUTs of some images."""
        chosen = chosen[self._pending[chosen]]
        if not len(chosen):
            return
        index = self._index(chosen)
        images, tables = self._images[index], self._tables[index].flatten()
        start = 256 * torch.arange(images.shape[0] * images.shape[1], dtype=torch.int32, device=images.device)
        entry = images.flatten(0, 1).int() + start[:, None, None]
        self._images[index] = tables.index_select(0, entry.flatten()).view_as(images)
        self._tables[index] = torch.arange(256, dtype=torch.uint8, device=index.device)
        self._pending[chosen] = False

    def _index(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        return to_device(chosen, self._images.device)


def _histogram(images: Tensor) -> Tensor:
    """(b, C, H, W) -> (b, C, 256), int32."""
    levels = images.flatten(2).long()
    one = torch.ones((), dtype=torch.int32, device=images.device)
    return one.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, one.expand_as(levels))
