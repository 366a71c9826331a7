"""Crop, resize and flip a batch of images on a torch device, with Pillow's antialiased bilinear and bicubic weights.

A resize is separable: each line of the result is a weighted mean of a few neighbouring lines of the image, so a resize
is two products with banded matrices, and a crop and a flip only move the bands. Pillow works with whole numbers: it
rounds its weights to 22 bits, and what comes out of the first product, across the columns, to whole levels. So does
this module, and what is left of the difference is the order in which single precision adds up: 1 level, in few pixels.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._utils.device import to_device

# Pillow keeps weights in fixed point, with as many bits as leave room for a sum of bytes in 32 bits.
_ONE = 2.0**22
# Lines of the result that share one window of the image: wider, and the band is mostly zeros; narrower, and most of the
# time goes into copying windows that overlap.
_BLOCK = 32
# Images per step. On the CPU what a step needs should fit into the cache, elsewhere many images fill the device.
CHUNK = {'cpu': 8}
CHUNK_ELSEWHERE = 512


class Crop(NamedTuple):
    """Box, filter and flips of each image of a batch: CPU tensors of shape (B,).

    Attributes:
        top: First row of the box that is kept, int64.
        left: First column of the box.
        height: Rows of the box, at least 1.
        width: Columns of the box, at least 1.
        cubic: Whether to resize bicubic, bool; if not, bilinear.
        hflip: Whether to mirror left and right, bool.
        vflip: Whether to mirror top and bottom, bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    cubic: Tensor
    hflip: Tensor
    vflip: Tensor


class _Bands(NamedTuple):
    """Rows of the matrix of one axis, in blocks that read the same window of the image.

    Attributes:
        windows: Lines of the box that each window shows, int64 (B, blocks, window).
        weights: float32 (B, blocks, window, lines of a block), one or several that add up to the weights.
        lines: How many lines there are; the last block may have more.
    """

    windows: Tensor
    weights: list[Tensor]
    lines: int


def resample(
    images: Tensor, crop: Crop, resized: tuple[int, int], size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Cut a box out of each image, resize it, keep a window of that, and flip the window.

    Each pixel differs by at most 1 level from what Pillow makes of ``crop(...).resize(...)``; how few differ at all is
    tested.

    Args:
        images: uint8 of shape (B, C, H, W).
        crop: The boxes, inside of the images, and the flips.
        resized: Height and width that every box is resized to.
        size: Height and width of the result, at most ``resized`` minus ``offset``.
        offset: First row and column of ``resized`` that the result shows.

    Returns:
        uint8 of shape (B, C, *size), on the device of ``images``.
    """
    result = images.new_empty(*images.shape[:2], *size)
    for part, down_first in _parts(crop, resized, CHUNK.get(images.device.type, CHUNK_ELSEWHERE)):
        few = Crop(*(values[part] for values in crop))
        rows = _bands(few.height, resized[0], size[0], offset[0], few.cubic, few.vflip, images.device)
        columns = _bands(few.width, resized[1], size[1], offset[1], few.cubic, few.hflip, images.device)
        index = to_device(part, images.device)
        if down_first:
            turned = images[index].mT.contiguous()
            result[index] = _apply(_rows(turned, None, few.left, few.width), few.top, columns, rows).mT
        else:
            result[index] = _apply(_rows(images, index, few.top, few.height), few.left, rows, columns)
    return result


def _parts(crop: Crop, resized: tuple[int, int], most: int) -> Iterator[tuple[Tensor, bool]]:
    """Numbers of images that are worked on together, at most so many, and whether the product across the rows is first.

    Pillow 13 begins with the rows where the image loses more than twice as many rows as columns (observed, and tested).
    Older ones always begin with the columns, and where the two disagree, so do the images: by a few levels at sharp
    edges, since whole levels come in between.
    """
    shorter, narrower = crop.height - resized[0], crop.width - resized[1]
    down_first = (shorter > 0) & (2 * narrower < shorter)
    for first in (False, True):
        chosen = (down_first == first).nonzero()[:, 0]
        # All images of a part get as many lines as the largest of it.
        order = (crop.width if first else crop.height)[chosen].argsort()
        for part in torch.split(chosen[order], most):
            if len(part):
                yield part, first


def _rows(images: Tensor, index: Tensor | None, top: Tensor, length: Tensor) -> Tensor:
    """The rows of the boxes, (B, C, longest, W); behind a shorter box come rows that nobody reads."""
    channels, height = images.shape[1:3]
    index = torch.arange(len(images), device=images.device) if index is None else index
    rows = to_device((top[:, None] + torch.arange(int(length.max()))).clamp_(max=height - 1), images.device)
    plane = index[:, None] * channels + torch.arange(channels, device=images.device)
    return _select(images, plane[..., None] * height + rows[:, None])


def _select(images: Tensor, rows: Tensor) -> Tensor:
    """Rows by their numbers in all of the batch, (*rows, W): several times as fast as indexing by two tensors."""
    return images.flatten(0, -2).index_select(0, rows.flatten()).view(*rows.shape, images.shape[-1])


def _apply(pixels: Tensor, left: Tensor, rows: _Bands, columns: _Bands) -> Tensor:
    """Both products, that with the columns first: (B, C, rows, W) -> (B, C, lines of rows, lines of columns)."""
    count, channels, height, width = pixels.shape
    blocks = columns.windows.shape[1]
    # All channels have the same weights: here they are more rows, and below more columns.
    index = (to_device(left, pixels.device)[:, None, None] + columns.windows).clamp_(max=width - 1)[:, :, None]
    windows = pixels.flatten(1, 2)[:, None].expand(-1, blocks, -1, -1)
    windows = windows.gather(3, index.expand(-1, -1, channels * height, -1)).float()
    # (B, blocks, C * rows, window) x (B, blocks, window, lines)
    across = _round(sum(windows @ part for part in columns.weights))
    across = across.transpose(1, 2).flatten(2)[..., : columns.lines].contiguous()

    plane = torch.arange(count * channels, device=pixels.device).view(count, 1, 1, channels)
    windows = _select(across, plane * height + rows.windows.clamp(max=height - 1)[..., None]).flatten(3)
    # (B, blocks, lines, window) x (B, blocks, window, C * columns)
    down = _round(sum(part.mT @ windows for part in rows.weights)).flatten(1, 2)[:, : rows.lines]
    return down.view(count, rows.lines, channels, columns.lines).transpose(1, 2).to(torch.uint8)


def _bands(
    length: Tensor, resized: int, size: int, offset: int, cubic: Tensor, flip: Tensor, device: torch.device
) -> _Bands:
    """The matrices of one axis, for boxes of ``length`` lines each."""
    blocks = -(-size // _BLOCK)
    lines = -(-size // blocks)
    # What is beyond the end of the last block shows the last line once more, and is cut off.
    line = torch.arange(blocks * lines).clamp_(max=size - 1)
    line = torch.where(flip[:, None], size - 1 - line, line) + offset

    scale = length.double() / resized
    stretch = scale.clamp(min=1)
    support = torch.where(cubic, 2.0, 1.0) * stretch
    # Known without looking at the device: how many taps a line has at most, and how far a block reaches.
    taps = _most_taps(length, cubic, resized)
    window = taps + int((scale.max() * (lines - 1)).ceil()) + 1

    line, length, cubic = (
        to_device(line, device),
        to_device(length, device)[:, None],
        to_device(cubic, device)[:, None, None],
    )
    scale, stretch, support = (to_device(values, device)[:, None] for values in (scale, stretch, support))
    center = (line + 0.5) * scale
    first = (center - support + 0.5).long().clamp_(min=0)
    stop = torch.minimum((center + support + 0.5).long(), length)
    tap = first[..., None] + torch.arange(taps, device=device)
    distance = ((tap - center[..., None] + 0.5) * (1 / stretch[..., None])).abs()
    weights = torch.where(cubic, _cubic(distance), (1 - distance).clamp_(min=0)) * (tap < stop[..., None])
    weights = (weights / weights.sum(-1, keepdim=True)).mul_(_ONE).round_().div_(_ONE).float()

    first = first.view(-1, blocks, lines)
    start = first.amin(2, keepdim=True)
    banded = weights.new_zeros(len(line), blocks, lines, window)
    place = (first - start)[..., None] + torch.arange(taps, device=device)
    banded.scatter_(3, place, weights.view(place.shape))
    banded = banded.mT
    return _Bands(
        start + torch.arange(window, device=device), _split(banded) if device.type == 'cuda' else [banded], size
    )


def _most_taps(length: Tensor, cubic: Tensor, resized: int) -> int:
    """Lines of a box, at most, that count for one line of the result; all of it on the host."""
    support = torch.where(cubic, 2.0, 1.0) * (length.double() / resized).clamp(min=1)
    return 2 * int(support.max().ceil()) + 1


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, which Pillow resizes with."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _split(weights: Tensor) -> list[Tensor]:
    """Two parts of weights, for products that keep only 11 significant bits of each factor.

    So does a GPU with TF32, which timm's train.py switches on. Bytes and the first part stay as they are, and of the
    second the bits that count are left.
    """
    coarse = weights.bfloat16().float()
    return [coarse, weights - coarse]


def _round(levels: Any) -> Tensor:
    rounded: Tensor = levels.add_(0.5).floor_().clamp_(0, 255)
    return rounded
