"""Crops, resizes and flips batches on a torch device, with Pillow's antialiased bilinear and bicubic weights.

A resize is separable: each line of the result is a weighted mean of a few neighboring lines of the image. So it is two
products with banded matrices, and crops and flips only move the bands. As in Pillow, weights are rounded to 22 bits,
and the result of the first product to integers. Because of single precision, a few pixels differ by 1.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._utils.device import to_device
from .tables import count_taps, resize_weights, rows_first

# Lines of the result that share a window of the image. In wider blocks the band is mostly zeros; narrower ones spend
# most of the time copying overlapping windows.
_BLOCK = 32
# Images per step: on the CPU a step should fit into the cache; on a GPU it should be large.
CHUNK = {'cpu': 8}
CHUNK_GPU = 512


class Crop(NamedTuple):
    """Box, filter and flips of each image of a batch: CPU tensors of shape (B,).

    Attributes:
        top: First row of the box, int64.
        left: First column of the box, int64.
        height: Rows of the box, at least 1, int64.
        width: Columns of the box, at least 1, int64.
        cubic: Whether to resize bicubic, else bilinear, bool.
        hflip: Whether to flip left and right, bool.
        vflip: Whether to flip top and bottom, bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    cubic: Tensor
    hflip: Tensor
    vflip: Tensor


#: The matrix of one axis for each image, in blocks of lines that read the same window of the image: lines of the box in
#: each window, int64 (B, blocks, window); summands of the matrix, float32 (B, blocks, window, lines per block); and the
#: number of lines of the result, since the last block is padded.
_Bands = tuple[Tensor, list[Tensor], int]


def resample(
    images: Tensor, crop: Crop, resized: tuple[int, int], size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Crop each image to its box, resize the box, crop a window from the result, and flip it.

    A few pixels differ by 1 level from Pillow's ``crop(...).resize(...)``.

    Args:
        images: uint8 of shape (B, C, H, W).
        crop: Boxes, which must lie within the images, and flips.
        resized: Height and width to resize each box to.
        size: Height and width of the window, at most ``resized`` minus ``offset``.
        offset: First row and column of the window.

    Returns:
        uint8 of shape (B, C, *size), on the device of ``images``.
    """
    result = images.new_empty(*images.shape[:2], *size)
    for part, is_rows_first in _parts(crop, resized, CHUNK.get(images.device.type, CHUNK_GPU)):
        chosen = Crop(*(values[part] for values in crop))
        rows = _bands(chosen.height, resized[0], size[0], offset[0], chosen.cubic, chosen.vflip, images.device)
        columns = _bands(chosen.width, resized[1], size[1], offset[1], chosen.cubic, chosen.hflip, images.device)
        index = to_device(part, images.device)
        if is_rows_first:
            turned = images[index].mT.contiguous()
            result[index] = _apply(_rows(turned, None, chosen.left, chosen.width), chosen.top, columns, rows).mT
        else:
            result[index] = _apply(_rows(images, index, chosen.top, chosen.height), chosen.left, rows, columns)
    return result


def _parts(crop: Crop, resized: tuple[int, int], most: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield indices of at most ``most`` images to process together, and whether rows come first."""
    is_rows_first = rows_first(crop.height, crop.width, resized)
    for first in (False, True):
        chosen = (is_rows_first == first).nonzero()[:, 0]
        # Sorted, since all images of a part are padded to the size of the largest.
        order = (crop.width if first else crop.height)[chosen].argsort()
        for part in torch.split(chosen[order], most):
            if len(part):
                yield part, first


def _rows(images: Tensor, index: Tensor | None, top: Tensor, length: Tensor) -> Tensor:
    """Gather the rows of the boxes, (B, C, longest, W); shorter boxes are padded with arbitrary rows."""
    channels, height = images.shape[1:3]
    index = torch.arange(len(images), device=images.device) if index is None else index
    rows = to_device((top[:, None] + torch.arange(int(length.max()))).clamp_(max=height - 1), images.device)
    plane = index[:, None] * channels + torch.arange(channels, device=images.device)
    return _select(images, plane[..., None] * height + rows[:, None])


def _select(images: Tensor, rows: Tensor) -> Tensor:
    """Select rows by their index in the batch, (*rows, W); several times as fast as indexing with two tensors."""
    return images.flatten(0, -2).index_select(0, rows.flatten()).view(*rows.shape, images.shape[-1])


def _apply(pixels: Tensor, left: Tensor, rows: _Bands, columns: _Bands) -> Tensor:
    """Multiply by the column, then the row matrices: (B, C, rows, W) -> (B, C, lines of rows, lines of columns)."""
    count, channels, height, width = pixels.shape
    (row_index, row_parts, high), (column_index, column_parts, wide) = rows, columns
    # Channels share weights, so they are treated as additional rows here and additional columns below.
    index = (to_device(left, pixels.device)[:, None, None] + column_index).clamp_(max=width - 1)[:, :, None]
    windows = pixels.flatten(1, 2)[:, None].expand(-1, column_index.shape[1], -1, -1)
    windows = windows.gather(3, index.expand(-1, -1, channels * height, -1)).float()
    # (B, blocks, C * rows, window) x (B, blocks, window, lines)
    across = _round(sum(windows @ part for part in column_parts))
    across = across.transpose(1, 2).flatten(2)[..., :wide].contiguous()

    plane = torch.arange(count * channels, device=pixels.device).view(count, 1, 1, channels)
    windows = _select(across, plane * height + row_index.clamp(max=height - 1)[..., None]).flatten(3)
    # (B, blocks, lines, window) x (B, blocks, window, C * columns)
    down = _round(sum(part.mT @ windows for part in row_parts)).flatten(1, 2)[:, :high]
    return down.view(count, high, channels, wide).transpose(1, 2).to(torch.uint8)


def _bands(
    length: Tensor, resized: int, size: int, offset: int, cubic: Tensor, flip: Tensor, device: torch.device
) -> _Bands:
    """Compute the matrices of one axis, for boxes of ``length`` lines each."""
    blocks = -(-size // _BLOCK)
    lines = -(-size // blocks)
    # The last block is padded with the last line; the padding is cut off later.
    line = torch.arange(blocks * lines).clamp_(max=size - 1)
    line = torch.where(flip[:, None], size - 1 - line, line) + offset

    scale = length.double() / resized
    # Maximum number of taps, and of lines that a block reads; on the host, to avoid waiting for the device.
    taps = int(count_taps(length.numpy(), resized, cubic.numpy()).max())
    window = taps + int((scale.max() * (lines - 1)).ceil()) + 1
    line, length, scale, cubic = (to_device(values, device) for values in (line, length, scale, cubic))
    first, weights = resize_weights(line, length, scale, cubic, taps)

    first = first.view(-1, blocks, lines)
    start = first.amin(2, keepdim=True)
    banded = weights.new_zeros(len(first), blocks, lines, window)
    place = (first - start)[..., None] + torch.arange(taps, device=device)
    banded.scatter_(3, place, weights.view(place.shape))
    banded = banded.mT
    windows = start + torch.arange(window, device=device)
    return windows, _split(banded) if device.type == 'cuda' else [banded], size


def _split(weights: Tensor) -> list[Tensor]:
    """Split weights into two summands for TF32 products, which keep 11 significant bits of each factor.

    timm's train.py enables TF32 on GPUs. Bytes and the first summand are exact in 11 bits; 11 bits suffice for the
    second.
    """
    coarse = weights.bfloat16().float()
    return [coarse, weights - coarse]


def _round(levels: Any) -> Tensor:
    rounded: Tensor = levels.add_(0.5).floor_().clamp_(0, 255)
    return rounded
