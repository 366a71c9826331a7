"""Look-up tables, matrices and resize weights of Pillow's operations.

The arithmetic is Pillow's, including truncation and single precision.

`luma`, `blend`, `cubic`, `keys_near` and `keys_far` work on scalars, arrays and tensors; numba and Triton compile them.
Their types are comments, since Triton treats annotations as globals. numba's cache does not notice changes to them:
delete ``__pycache__`` beside this file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .sampling import Numbers


def luma(red, green, blue):  # type: (Any, Any, Any) -> Any
    """Compute ITU-R 601 luma in fixed point, from integers of at least 32 bits."""
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def blend(degenerate, level, factor):  # type: (Any, Any, Any) -> Any
    """Compute Image.blend in single precision, before truncation."""
    return degenerate + factor * (level - degenerate)


def cubic(before, first, second, after, fraction):  # type: (Any, Any, Any, Any, Any) -> Any
    """Interpolate between ``first`` and ``second`` with Keys' kernel, a = -1, as in Image.transform.

    Written in differences of levels, as in Pillow: a weighted sum would round differently.
    """
    straight = second - before
    square = (before - first) + (before - first) + second - after
    cube = first - before + after - second
    return first + fraction * (straight + fraction * (square + fraction * cube))


def keys_near(distance):  # type: (Any) -> Any
    """Evaluate Keys' kernel with a = -1/2, as in Image.resize, for distances below 1."""
    return (1.5 * distance - 2.5) * distance * distance + 1


def keys_far(distance):  # type: (Any) -> Any
    """Like `keys_near`, for distances from 1 to 2."""
    return ((-0.5 * distance + 2.5) * distance - 4) * distance + 2


# The kernels duplicate these formulas for speed: the functions below take 119 more calls per mega-batch of the paper's
# recipe (the budget is 100), and 16 us instead of 2 per image on the CPU.

#: Levels 0 ... 255, int64; arguments, float64 of shape (b, 1, 1); and histograms (b, C, 256) -> LUTs that broadcast to
#: (b, C, 256).
Lut = Callable[[Tensor, Tensor, Tensor], Tensor]


def _last(histogram: Tensor) -> Tensor:
    """Return the brightest level of each image and channel."""
    return 255 - (histogram > 0).int().flip(-1).argmax(-1, keepdim=True)


def _auto_contrast(level: Tensor, argument: Tensor, histogram: Tensor) -> Tensor:
    low, high = (histogram > 0).int().argmax(-1, keepdim=True), _last(histogram)
    # torch divides a scalar by a tensor by multiplying with the reciprocal, which rounds twice.
    scale = torch.full_like(level[:1], 255, dtype=torch.float64) / (high - low)
    return torch.where(high > low, level * scale + -low * scale, level.double())


def _equalize(level: Tensor, argument: Tensor, histogram: Tensor) -> Tensor:
    below = histogram.long().cumsum(-1) - histogram
    # Pillow excludes the brightest level of the image.
    step = below.gather(-1, _last(histogram)) // 255
    ranks = (step // 2 + below) // step.clamp(min=1)
    return torch.where(step > 0, ranks, level)


def _posterize(level: Tensor, argument: Tensor, histogram: Tensor) -> Tensor:
    # Zero bits give black, as in Pillow before version 13.
    dropped = 2 ** (8 - argument.long().clamp(0, 8))
    return level // dropped * dropped


def _contrast(level: Tensor, argument: Tensor, histogram: Tensor) -> Tensor:
    """Compute LUTs from the histogram of the luma, which has one channel."""
    total = (histogram * level).sum(-1, keepdim=True)
    mean = (total.double() / histogram.sum(-1, keepdim=True) + 0.5).floor().float()
    lut: Tensor = blend(mean, level.float(), argument.float())
    return lut


LUTS: dict[str, Lut] = {
    'AutoContrast': _auto_contrast,
    'Equalize': _equalize,
    'Invert': lambda level, argument, histogram: 255 - level,
    'Posterize': _posterize,
    'Solarize': lambda level, argument, histogram: torch.where(level < argument, level, 255 - level),
    'SolarizeAdd': lambda level, argument, histogram: torch.where(level < 128, level + argument.long(), level),
    'Brightness': lambda level, argument, histogram: argument.float() * level,
    'Contrast': _contrast,
}


def make_lut(name: str, argument: Tensor, histogram: Tensor) -> Tensor:
    """Compute the LUTs of an operation from arguments (b,) and histograms (b, C, 256): uint8, as in `Lut`."""
    level = torch.arange(256, device=argument.device)
    return LUTS[name](level, argument[:, None, None], histogram).clamp(0, 255).to(torch.uint8)


#: Arguments, height, width -> the data of Image.transform with AFFINE, (b, 6).
Matrix = Callable[[Numbers, int, int], Numbers]


def _matrix(count: int, **entries: Any) -> Numbers:
    data = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (count, 1))
    for name, values in entries.items():
        data[:, 'abcdef'.index(name)] = values
    return data


def _rotate(argument: Numbers, height: int, width: int) -> Numbers:
    """Rotate counter-clockwise by an angle in degrees, around the center of the image."""
    angle = -np.radians(argument % 360)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)
    x, y = width / 2, height / 2
    shift = dict(c=cos * -x + sin * -y + x, f=-sin * -x + cos * -y + y)
    return _matrix(len(argument), a=cos, b=sin, d=-sin, e=cos, **shift)


MATRICES: dict[str, Matrix] = {
    'Rotate': _rotate,
    'ShearX': lambda argument, height, width: _matrix(len(argument), b=argument),
    'ShearY': lambda argument, height, width: _matrix(len(argument), d=argument),
    'TranslateX': lambda argument, height, width: _matrix(len(argument), c=argument),
    'TranslateY': lambda argument, height, width: _matrix(len(argument), f=argument),
    'TranslateXRel': lambda argument, height, width: _matrix(len(argument), c=argument * width),
    'TranslateYRel': lambda argument, height, width: _matrix(len(argument), f=argument * height),
}


# Pillow's fixed-point weights have as many bits as a weighted sum of bytes in 32 bits allows.
_ONE = 2.0**22


def rows_first(height: Any, width: Any, resized: tuple[int, int]) -> Any:
    """Return whether to resize rows before columns, for boxes of these sides (arrays or tensors).

    Pillow 13 starts with the rows if the image loses more than twice as many rows as columns (observed and tested);
    older versions always start with the columns. The results differ by a few levels at sharp edges.
    """
    rows, columns = height - resized[0], width - resized[1]
    return (rows > 0) & (2 * columns < rows)


def count_taps(length: npt.ArrayLike, resized: npt.ArrayLike, cubic: npt.ArrayLike = True) -> npt.NDArray[np.int64]:
    """Return the maximum number of lines of a box that one line of the result depends on; arrays broadcast."""
    support = np.where(cubic, 2, 1) * np.maximum(np.asarray(length) / np.asarray(resized), 1)
    taps: npt.NDArray[np.int64] = 2 * np.ceil(support).astype(np.int64) + 1
    return taps


def resize_weights(line: Tensor, length: Tensor, scale: Tensor, cubic: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Compute the weights of a resize.

    The kernels duplicate this in `weigh` for speed: here it takes 106 calls per mega-batch, and 648 us instead of 20
    per image on the CPU.

    Args:
        line: Lines of the result, int64 of shape (B, lines).
        length: Lines of each box, int64 of shape (B,).
        scale: ``length`` divided by the number of lines that the whole box is resized to, float64 of shape (B,).
        cubic: Whether to resize bicubic, else bilinear, bool of shape (B,).
        taps: Number of weights per line, at least `count_taps`.

    Returns:
        The first contributing line of the box, int64 of shape (B, lines), and the weights of ``taps`` lines from there,
        float32 of shape (B, lines, taps), multiples of 2**-22.
    """
    length, scale, cubic = length[:, None], scale[:, None], cubic[:, None]
    stretch = scale.clamp(min=1)
    support = torch.where(cubic, 2.0, 1.0) * stretch
    center = (line + 0.5) * scale
    first = (center - support + 0.5).long().clamp_(min=0)
    stop = torch.minimum((center + support + 0.5).long(), length)
    tap = first[..., None] + torch.arange(taps, device=line.device)
    t = ((tap - center[..., None] + 0.5) * (1 / stretch[..., None])).abs()
    keys = torch.where(t < 1, keys_near(t), torch.where(t < 2, keys_far(t), 0.0))
    weights = torch.where(cubic[..., None], keys, (1 - t).clamp_(min=0)) * (tap < stop[..., None])
    return first, (weights / weights.sum(-1, keepdim=True)).mul_(_ONE).round_().div_(_ONE).float()
