"""timm's transforms for batches of uint8 images on a torch device: sample parameters, then apply them.

Pixels match Pillow's (see `resample` and `reference`); the order of operations and the distributions of their
parameters match timm's (see `policy`). All randomness comes from one seed sampled from the generator passed in: with a
CPU generator, parameters are the same on every device. Gray images keep one channel until `normalize`.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter

from .._utils import device as _device
from .._utils.device import Upload, to_device
from .._utils.messages import nearest
from . import batch
from .batch import record_layers, record_resize
from .policy import Layer, Policy, check_choice, refuse
from .reference import NAMES, apply_layer
from .resample import Crop, resample
from .sampling import Pair, numpy_generator, sample_sides

#: Values of ``interpolation``.
INTERPOLATIONS = ('bilinear', 'bicubic', 'random')


class TrainParams(NamedTuple):
    """Parameters of `Train` for a batch: crops, then layers of operations."""

    crop: Crop
    layers: list[Layer]


def _size(input_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(input_size, int):
        return input_size, input_size
    height, width = input_size[-2:]
    return height, width


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f'images must be uint8 of shape (B, 1 or 3, H, W), got {images.dtype} of shape {tuple(images.shape)}'
        )


class _Augment:
    """Base class of `Train` and `Evaluate`: crop and resize, then layers of operations."""

    size: tuple[int, int]

    def kernels(self, device: torch.device, shape: Sequence[int]) -> Any:
        """Return the compiled kernels for images of shape (B, C, H, W) on a device; None if there are none."""
        resized, _ = self._geometry(shape[2], shape[3])
        return batch.kernels(device) if batch.can_resize(shape[2:], resized) else None

    def record(
        self, upload: Upload, params: TrainParams, take: npt.NDArray[np.int64], shape: Sequence[int]
    ) -> tuple[Callable[[Any, Tensor], Tensor], npt.NDArray[np.int32]]:
        """Record the steps for images ``take`` of a source of shape (images, C, H, W).

        Returns:
            A function that runs them, from the kernels and the source to uint8 (rows, C, *size); and the row of each
            image in its result, shape (B,).
        """
        channels, fill = self._filled(shape[1])
        resized, offset = self._geometry(shape[2], shape[3])
        resize = record_resize(upload, params.crop, take, (channels, *shape[2:]), resized, self.size, offset)
        apply, rows, room = record_layers(upload, params.layers, len(take), (channels, *self.size), fill)

        def run(kernels: Any, source: Tensor) -> Tensor:
            images = resize(kernels, source.expand(-1, channels, -1, -1), room)
            apply(kernels, images)
            return images

        return run, rows

    def _apply(self, images: Tensor, params: TrainParams) -> Tensor:
        if kernels := self.kernels(images.device, images.shape):
            upload = Upload()
            run, rows = self.record(upload, params, np.arange(len(images)), images.shape)
            index = upload.add(rows)
            upload.send(images.device)
            with _device.on(images.device):
                result = run(kernels, images)
            return result if len(result) == len(images) else result.index_select(0, upload[index])
        resized, offset = self._geometry(*images.shape[2:])
        images = resample(images, params.crop, resized, self.size, offset)
        channels, fill = self._filled(images.shape[1])
        if params.layers and channels > images.shape[1]:
            images = images.repeat(1, channels, 1, 1)
        for layer in params.layers:
            apply_layer(images, fill, *layer)
        return images

    def _geometry(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the height and width to resize to, and the top and left of the crop."""
        return self.size, (0, 0)

    def _filled(self, channels: int) -> tuple[int, tuple[int, ...]]:
        """Return the number of channels of the result, and the fill value of each."""
        return channels, (0,) * channels


class Train(_Augment):
    """Transform for training: random resized crop, flips, automatic augmentation, color jitter, grayscale.

    The arguments and defaults are those of ``timm.data.create_transform``. As there, automatic augmentation other than
    3-Augment turns color jitter off.

    Args:
        input_size: Height and width of the result, one number for a square; a leading number of channels is ignored.
        scale: Minimum and maximum area of the crop, relative to the image.
        ratio: Minimum and maximum aspect ratio (width / height) of the crop.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
        color_jitter: Strength for brightness, contrast and saturation, one number or three; None for no color jitter.
        color_jitter_prob: Probability of color jitter; None for always.
        grayscale_prob: Probability of converting an image to gray.
        auto_augment: timm's configuration string, such as ``'rand-m9-mstd0.5-inc1'``; None for none.
        interpolation: ``'bilinear'``, ``'bicubic'``, or ``'random'`` for a random one per image.
        mean: Mean for normalization, from 0 to 1; it is the fill value outside the image.

    Raises:
        ValueError: An option is not available here; the message names it and the available values.

    Examples:
        >>> train = Train(32, auto_augment='rand-m9-mstd0.5-inc1', interpolation='bicubic', mean=(0.5, 0.5, 0.5))
        >>> images = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
        >>> params = train.make_params(4, 64, 64, torch.Generator().manual_seed(0))
        >>> train.apply(images, params).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(
        self,
        input_size: int | Sequence[int] = 224,
        *,
        scale: Pair | None = None,
        ratio: Pair | None = None,
        hflip: float = 0.5,
        vflip: float = 0.0,
        color_jitter: float | Sequence[float] | None = 0.4,
        color_jitter_prob: float | None = None,
        grayscale_prob: float = 0.0,
        auto_augment: str | None = None,
        interpolation: str = 'bilinear',
        mean: Sequence[float] = (0.485, 0.456, 0.406),
    ) -> None:
        check_choice('interpolation', interpolation, INTERPOLATIONS)
        self.size = _size(input_size)
        self.scale = scale or (0.08, 1.0)
        self.ratio = ratio or (3 / 4, 4 / 3)
        self.hflip, self.vflip = hflip, vflip
        self.interpolation = interpolation
        self.policy = Policy(auto_augment, self.size, interpolation, mean) if auto_augment else None
        self.jitter = _jitter(color_jitter) if not auto_augment or '3a' in auto_augment else {}
        self.color_jitter_prob = 1.0 if color_jitter_prob is None else color_jitter_prob
        self.grayscale_prob = grayscale_prob

    def make_params(self, count: int, height: int, width: int, generator: torch.Generator) -> TrainParams:
        """Sample parameters for ``count`` images of this height and width."""
        rng = numpy_generator(generator)
        box = _sample_boxes(count, height, width, self.scale, self.ratio, rng)
        cubic = np.full(count, self.interpolation == 'bicubic')
        if self.interpolation == 'random':
            cubic = rng.random(count) < 0.5
        flips = (rng.random(count) < p for p in (self.hflip, self.vflip))
        crop = Crop(*(torch.from_numpy(np.ascontiguousarray(values)) for values in (*box.T, cubic, *flips)))
        layers = self.policy.sample(count, rng) if self.policy else []
        return TrainParams(crop, layers + self._sample_jitter(count, rng))

    def _sample_jitter(self, count: int, rng: np.random.Generator) -> list[Layer]:
        """Sample brightness, contrast and saturation, in a random order for each image, then grayscale."""
        layers = []
        cubic = np.zeros(count, np.bool_)
        names = list(self.jitter)
        order = rng.permuted(np.tile(np.arange(len(names)), (count, 1)), axis=1)
        applied = rng.random(count) < self.color_jitter_prob
        factors = np.stack([rng.uniform(*self.jitter[name], count) for name in names], 1) if names else order
        for place in order.T:
            number = np.array([NAMES.index(name) for name in names])[place]
            layers.append(Layer(np.where(applied, number, -1), factors[np.arange(count), place], cubic))
        if self.grayscale_prob:
            gray = np.where(rng.random(count) < self.grayscale_prob, NAMES.index('Color'), -1)
            layers.append(Layer(gray, np.zeros(count), cubic))
        return layers

    def apply(self, images: Tensor, params: TrainParams) -> Tensor:
        """Crop, resize, flip and augment images.

        Args:
            images: uint8 of shape (B, C, H, W), C = 1 or 3.
            params: From `make_params`, for as many images of that height and width.

        Returns:
            uint8 of shape (B, C, *size), on the device of ``images``. Gray images become RGB (C = 3) if the policy has
            geometric transforms that fill with a color.

        Raises:
            ValueError: Wrong dtype or shape.
        """
        _check_images(images)
        crop, (height, width) = params.crop, images.shape[2:]
        if len(crop.top) != len(images):
            raise ValueError(f'params must be for {len(images)} images, got {len(crop.top)}')
        if int((crop.top + crop.height).max()) > height or int((crop.left + crop.width).max()) > width:
            raise ValueError(f'params must be for images of {height} x {width} pixels, got a box outside of them')
        return self._apply(images, params)

    def _filled(self, channels: int) -> tuple[int, tuple[int, ...]]:
        fill: tuple[int, ...] = self.policy.fill if self.policy else (0,)
        channels = max(channels, len(fill))
        return channels, fill if len(fill) == channels else fill * channels


def _jitter(strength: float | Sequence[float] | None) -> dict[str, Pair]:
    """Return the operations of color jitter with the ranges of their factors, from torchvision."""
    if strength is None:
        return {}
    values = (strength,) * 3 if isinstance(strength, (int, float)) else tuple(strength)
    if len(values) != 3:
        refuse('color_jitter', strength, 'one number, or three: brightness, contrast and saturation, no hue')
    jitter = ColorJitter(*values)
    ranges = dict(Brightness=jitter.brightness, Contrast=jitter.contrast, Color=jitter.saturation)
    return {name: factors for name, factors in ranges.items() if factors is not None}


def _sample_boxes(
    count: int, height: int, width: int, scale: Pair, ratio: Pair, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Sample top, left, height, width of random resized crops, shape (count, 4).

    An image uses the first of ten samples that fits, or the largest centered box with an aspect ratio in the range.
    """
    total = np.full(count, height * width)
    wide, high, found = sample_sides(total, scale, ratio, (width, height), rng)
    largest = min(height, round(width / min(ratio))), min(width, round(height * max(ratio)))
    high, wide = np.where(found, high, largest[0]), np.where(found, wide, largest[1])
    top, left = (rng.random(count) * (height - high + 1), rng.random(count) * (width - wide + 1))
    top = np.where(found, top, (height - high) // 2)
    left = np.where(found, left, (width - wide) // 2)
    return np.stack([top, left, high, wide], 1).astype(np.int64)


class Evaluate(_Augment):
    """Transform for evaluation: resize, then center crop. Arguments and defaults are timm's.

    Args:
        input_size: Height and width of the result, one number for a square; a leading number of channels is ignored.
        crop_pct: Size of the result relative to the resized image; None for 0.875.
        crop_mode: ``'center'`` (keeps the aspect ratio) or ``'squash'``; None for ``'center'``.
        interpolation: ``'bilinear'`` or ``'bicubic'``.

    Raises:
        ValueError: An option is not available here; the message names it and the available values.

    Examples:
        >>> images = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
        >>> Evaluate(32, crop_pct=0.9).apply(images).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(
        self,
        input_size: int | Sequence[int] = 224,
        *,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        interpolation: str = 'bilinear',
    ) -> None:
        check_choice('interpolation', interpolation, INTERPOLATIONS[:2])
        check_choice('crop_mode', crop_mode or 'center', ('center', 'squash'))
        crop_pct = crop_pct or 0.875
        if not 0 < crop_pct <= 1:
            refuse('crop_pct', crop_pct, 'greater than 0, at most 1')
        self.size = _size(input_size)
        self.scaled = math.floor(self.size[0] / crop_pct), math.floor(self.size[1] / crop_pct)
        self.squash = crop_mode == 'squash'
        self.cubic = interpolation == 'bicubic'

    def make_params(self, count: int, height: int, width: int, generator: torch.Generator | None = None) -> TrainParams:
        """Return the whole image as the crop of each image; nothing is sampled."""
        whole = (torch.full((count,), value) for value in (0, 0, height, width))
        flags = (torch.full((count,), flag) for flag in (self.cubic, False, False))
        return TrainParams(Crop(*whole, *flags), [])

    def apply(self, images: Tensor, params: TrainParams | None = None) -> Tensor:
        """Resize and crop uint8 (B, C, H, W) -> uint8 (B, C, *size); raise ValueError for a wrong dtype or shape."""
        _check_images(images)
        return self._apply(images, params or self.make_params(len(images), *images.shape[2:]))

    def _geometry(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        # Unless squashed: the smallest size that covers ``scaled`` and keeps the aspect ratio of the image.
        resized = self.scaled
        if not self.squash and resized[0] == resized[1]:
            long = int(resized[0] * max(height, width) / min(height, width))
            resized = (resized[0], long) if height <= width else (long, resized[0])
        elif not self.squash:
            ratio = min(height / resized[0], width / resized[1])
            resized = round(height / ratio), round(width / ratio)
        top, left = (round((large - small) / 2) for large, small in zip(resized, self.size))
        return resized, (top, left)


def create_augment(
    input_size: int | Sequence[int] = 224,
    is_training: bool = False,
    no_aug: bool = False,
    train_crop_mode: str | None = None,
    gaussian_blur_prob: float = 0.0,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    crop_border_pixels: int | None = None,
    interpolation: str = 'bilinear',
    **options: Any,
) -> Train | Evaluate:
    """Create the equivalent of ``timm.data.create_transform`` for batches on a device.

    Args:
        input_size: See `Train`.
        is_training: Whether to create `Train`, else `Evaluate`.
        no_aug: Train without augmentation: like `Evaluate` with ``crop_pct`` 1.
        train_crop_mode: None or ``'rrc'``.
        gaussian_blur_prob: Must be 0.
        crop_pct: See `Evaluate`.
        crop_mode: See `Evaluate`.
        crop_border_pixels: None or 0.
        interpolation: See `Train` and `Evaluate`.
        options: Other arguments of `Train`; `Evaluate` ignores them.

    Raises:
        ValueError: An option is not available here; the message names it and the available values.
        TypeError: Unknown option.

    Examples:
        >>> create_augment(224, is_training=True, gaussian_blur_prob=0.1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: gaussian_blur_prob=0.1 is not available on the device (only 0 is): use the standard loader, ...
    """
    known = [name for name in inspect.signature(Train).parameters if name != 'input_size']
    for name in options.keys() - {*known}:
        raise TypeError(f'unknown option {name!r}; {nearest(name, known)}')
    if not is_training:
        if crop_border_pixels:
            refuse('crop_border_pixels', crop_border_pixels, 'only 0 is')
        return Evaluate(input_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    if no_aug:
        mode = 'center' if isinstance(input_size, int) else 'squash'
        plain = 'bilinear' if interpolation == 'random' else interpolation
        return Evaluate(input_size, crop_pct=1, crop_mode=mode, interpolation=plain)
    if train_crop_mode not in (None, 'rrc'):
        refuse('train_crop_mode', train_crop_mode, "only 'rrc' is")
    if gaussian_blur_prob:
        refuse('gaussian_blur_prob', gaussian_blur_prob, 'only 0 is')
    return Train(input_size, interpolation=interpolation, **options)


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalize uint8 images like timm's prefetcher.

    Args:
        images: uint8 of shape (B, C, H, W); gray images (C = 1) get as many channels as ``mean``.
        mean: One number per channel, from 0 to 1.
        std: One number per channel, greater than 0.
        dtype: Floating-point type of the arithmetic and the result.

    Returns:
        (images / 255 - mean) / std, shape (B, len(mean), H, W).

    Raises:
        ValueError: ``mean`` or ``std`` does not have one number for each channel.

    Examples:
        >>> normalize(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), (0.5,) * 3, (0.5,) * 3).flatten()
        tensor([1., 1., 1.])
    """
    if images.shape[1] not in (1, len(mean)) or len(std) != len(mean):
        raise ValueError(
            f'mean and std must have one number for each of {images.shape[1]} channels, got {len(mean)} and {len(std)}'
        )
    center, width = (
        to_device(torch.tensor([255 * value for value in values], dtype=dtype), images.device)[:, None, None]
        for values in (mean, std)
    )
    if len({*mean}) == 1:
        # Gray images keep one channel until the division.
        center = center[:1]
    return (images - center) / width
