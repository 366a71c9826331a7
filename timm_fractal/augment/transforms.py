"""timm's augmentation for batches of images on a torch device: draw parameters, then apply them.

What timm does to one PIL image after the other in its loader workers is done here to a batch of uint8 tensors on any
device: random resized crop and flips, RandAugment and AutoAugment from timm's configuration strings, colour jitter,
random erasing, mixup and cutmix, and the transform for evaluation. The operations are Pillow's (see `_resample` and
`_operations`), the order and the distributions of what is drawn are timm's: its strings are read by timm itself, and
its magnitudes become arguments in its own functions (see `_randaugment`).

All that is random comes from one seed, drawn from the generator that is passed in: with a CPU generator the same
parameters on any device. Gray images stay one channel until `normalize`.
"""

import inspect
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.data import mixup as timm_mixup
from torch import Tensor
from torchvision.transforms import ColorJitter

from .._utils import device as _device
from .._utils.device import to_device
from .._utils.messages import nearest
from .ops import NAMES, Canvas, Numbers
from .policy import Layer, Policy, refuse, rescoped
from .resample import Crop, resample

Pair = tuple[float, float]

#: Interpolations that a resize or a warp can have here.
INTERPOLATIONS = ('bilinear', 'bicubic', 'random')
ERASING_MODES = ('const', 'rand', 'pixel')

_ATTEMPTS = 10


class TrainParams(NamedTuple):
    """What `Train.make_params` draws: a crop, then operations in their order."""

    crop: Crop
    layers: list[Layer]


def _rng(generator: torch.Generator) -> np.random.Generator:
    """numpy draws more distributions than torch does, and small arrays in less time."""
    return np.random.Generator(np.random.PCG64(int(torch.randint(2**63 - 1, (), generator=generator))))


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


class Train:
    """Transform for training: random resized crop, flips, automatic augmentation, colour jitter, grayscale.

    The arguments are those of ``timm.data.create_transform``, with its defaults. As there, colour jitter is off with
    automatic augmentation, unless that is 3-Augment.

    Args:
        input_size: Height and width of the result, one number for a square; a leading number of channels is ignored.
        scale: Smallest and largest area of the crop, relative to the image.
        ratio: Smallest and largest quotient of width and height of the crop.
        hflip: Probability to mirror left and right.
        vflip: Probability to mirror top and bottom.
        color_jitter: Strength, one for all or one each for brightness, contrast and saturation; None for none.
        color_jitter_prob: Probability of colour jitter; None for always.
        grayscale_prob: Probability to make an image gray.
        auto_augment: timm's string such as ``'rand-m9-mstd0.5-inc1'``; None for none.
        interpolation: ``'bilinear'``, ``'bicubic'`` or, for each image, one of both: ``'random'``.
        mean: What the images will be normalised with, from 0 to 1: it is filled in where a warp leaves nothing.

    Raises:
        ValueError: An option that is not available here; the message says which one, and what is.

    Example:
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
        _check_interpolation(interpolation)
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
        """Draw what is to become of each of ``count`` images of this height and width."""
        rng = _rng(generator)
        box = _draw_boxes(count, height, width, self.scale, self.ratio, rng)
        cubic = np.full(count, self.interpolation == 'bicubic')
        if self.interpolation == 'random':
            cubic = rng.random(count) < 0.5
        flips = (rng.random(count) < p for p in (self.hflip, self.vflip))
        crop = Crop(*(torch.from_numpy(np.ascontiguousarray(values)) for values in (*box.T, cubic, *flips)))
        layers = self.policy.draw(count, rng) if self.policy else []
        return TrainParams(crop, layers + self._draw_jitter(count, rng))

    def _draw_jitter(self, count: int, rng: np.random.Generator) -> list[Layer]:
        """Brightness, contrast and saturation in an order of each image's own, then the loss of all colour."""
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
        """Crop, resize, flip, augment.

        Args:
            images: uint8 of shape (B, C, H, W), C = 1 or 3.
            params: What `make_params` drew for as many images of that height and width.

        Returns:
            uint8 of shape (B, C, *size), on the device of ``images``. Gray images become RGB (C = 3) when a warp would
            fill in a colour.

        Raises:
            ValueError: Another dtype or shape.
        """
        _check_images(images)
        if len(params.crop.top) != len(images):
            raise ValueError(f'params must be those of {len(images)} images, got {len(params.crop.top)}')
        top, left, high, wide = params.crop[:4]
        height, width = images.shape[2:]
        if int((top + high).max()) > height or int((left + wide).max()) > width:
            raise ValueError(f'params must be those of images of {height} x {width} pixels, got a box outside of them')
        images = resample(images, params.crop, self.size, self.size)
        if not params.layers:
            return images
        fill: tuple[int, ...] = self.policy.fill if self.policy else (0,)
        if images.shape[1] == 1 and len(fill) == 3:
            images = images.repeat(1, 3, 1, 1)
        canvas = Canvas(images, fill if len(fill) == images.shape[1] else fill * images.shape[1])
        for layer in params.layers:
            canvas.apply(*layer)
        return canvas.finish()


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        refuse('interpolation', interpolation, nearest(str(interpolation), INTERPOLATIONS))


def _jitter(strength: float | Sequence[float] | None) -> dict[str, Pair]:
    """Operations and the ranges of their factors, as torchvision computes them."""
    if strength is None:
        return {}
    values = (strength,) * 3 if isinstance(strength, (int, float)) else tuple(strength)
    if len(values) != 3:
        refuse('color_jitter', strength, 'one number, or three: brightness, contrast and saturation, no hue')
    jitter = ColorJitter(*values)
    ranges = dict(Brightness=jitter.brightness, Contrast=jitter.contrast, Color=jitter.saturation)
    return {name: factors for name, factors in ranges.items() if factors is not None}


def _draw_boxes(
    count: int, height: int, width: int, scale: Pair, ratio: Pair, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Top, left, height, width of random resized crops, shape (count, 4).

    Each image takes the first of ten draws that fits into it; if none does, the largest box in the middle whose shape
    is in the range.
    """
    total = np.full(count, height * width)
    wide, high, found = _draw_sides(total, scale, ratio, (width, height), rng)
    largest = min(height, round(width / min(ratio))), min(width, round(height * max(ratio)))
    high, wide = np.where(found, high, largest[0]), np.where(found, wide, largest[1])
    top, left = (rng.random(count) * (height - high + 1), rng.random(count) * (width - wide + 1))
    top = np.where(found, top, (height - high) // 2)
    left = np.where(found, left, (width - wide) // 2)
    return np.stack([top, left, high, wide], 1).astype(np.int64)


def _draw_sides(
    total: npt.NDArray[Any], area: Pair, ratio: Pair, largest: tuple[int, int], rng: np.random.Generator
) -> tuple[Numbers, Numbers, npt.NDArray[np.bool_]]:
    """Two sides of rectangles, whole numbers, and whether one of ten draws gave sides that are at most the largest.

    The product of the sides, relative to ``total``, is uniform, and so is the logarithm of their quotient.
    """
    first, second, found = np.zeros(len(total)), np.zeros(len(total)), np.zeros(len(total), np.bool_)
    pending = np.arange(len(total))
    for _ in range(_ATTEMPTS):
        product = rng.uniform(*area, len(pending)) * total[pending]
        quotient = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), len(pending)))
        sides = np.sqrt(product * quotient).round(), np.sqrt(product / quotient).round()
        fits = (sides[0] <= largest[0]) & (sides[1] <= largest[1])
        first[pending], second[pending], found[pending] = *sides, fits
        pending = pending[~fits]
    return first, second, found


class Evaluate:
    """Transform for evaluation: resize, then cut out the middle. The arguments are timm's, with its defaults.

    Args:
        input_size: Height and width of the result, one number for a square; a leading number of channels is ignored.
        crop_pct: The result's size, relative to what the image is resized to; 0.875 for None.
        crop_mode: ``'center'`` keeps the shape of the image, ``'squash'`` does not; None is ``'center'``.
        interpolation: ``'bilinear'`` or ``'bicubic'``.

    Raises:
        ValueError: An option that is not available here; the message says which one, and what is.

    Example:
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
        if interpolation not in INTERPOLATIONS[:2]:
            refuse('interpolation', interpolation, nearest(str(interpolation), INTERPOLATIONS[:2]))
        if crop_mode not in (None, 'center', 'squash'):
            refuse('crop_mode', crop_mode, nearest(str(crop_mode), ('center', 'squash')))
        crop_pct = crop_pct or 0.875
        if not 0 < crop_pct <= 1:
            refuse('crop_pct', crop_pct, 'greater than 0, at most 1')
        self.size = _size(input_size)
        self.scaled = math.floor(self.size[0] / crop_pct), math.floor(self.size[1] / crop_pct)
        self.squash = crop_mode == 'squash'
        self.cubic = interpolation == 'bicubic'

    def apply(self, images: Tensor) -> Tensor:
        """Resize and crop, uint8 (B, C, H, W) -> uint8 (B, C, *size); raises ValueError for another dtype or shape."""
        _check_images(images)
        height, width = images.shape[-2:]
        resized = self.scaled if self.squash else self._resized(height, width)
        offset = tuple(round((large - small) / 2) for large, small in zip(resized, self.size))
        whole = (torch.full((len(images),), value) for value in (0, 0, height, width))
        flags = (torch.full((len(images),), flag) for flag in (self.cubic, False, False))
        return resample(images, Crop(*whole, *flags), resized, self.size, (offset[0], offset[1]))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The shorter edge, relative to what is wanted, gets the size that is wanted."""
        if self.scaled[0] == self.scaled[1]:
            short = self.scaled[0]
            long = int(short * max(height, width) / min(height, width))
            return (short, long) if height <= width else (long, short)
        ratio = min(height / self.scaled[0], width / self.scaled[1])
        return round(height / ratio), round(width / ratio)


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
    """The transform that ``timm.data.create_transform`` makes of these arguments, for batches on a device.

    Args:
        input_size: See `Train`.
        is_training: Whether it is `Train`, and not `Evaluate`.
        no_aug: Train on what evaluation sees, but for the border that it crops.
        train_crop_mode: None or ``'rrc'``.
        gaussian_blur_prob: 0.
        crop_pct: See `Evaluate`.
        crop_mode: See `Evaluate`.
        crop_border_pixels: None or 0.
        interpolation: See `Train` and `Evaluate`.
        options: The other arguments of `Train`; they have no meaning for `Evaluate`.

    Raises:
        ValueError: An option that is not available here; the message says which one, and what is.
        TypeError: An option that there is not.

    Example:
        >>> create_augment(224, is_training=True, gaussian_blur_prob=0.1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: gaussian_blur_prob=0.1 is not available on the device (only 0 is): use the ordinary loader ...
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


class MixParams(NamedTuple):
    """What `Mix.make_params` draws for a batch.

    Attributes:
        share: Weight of each image's own label; with no box also that of its own pixels.
        box: First and last + 1 row, first and last + 1 column of what is pasted from another image; None for mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None


class Mix:
    """Mixup and cutmix of a batch with itself in reverse order, and labels to match.

    Args:
        collate: timm's ``FastCollateMixup``, or a ``Mixup``; its attributes are read at every draw, ``mixup_enabled``
            among them.

    Raises:
        ValueError: It mixes pairs or elements.

    Example:
        >>> from timm.data import FastCollateMixup
        >>> mix = Mix(FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10))
        >>> images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4)
        >>> mixed, target = mix.apply(images, labels, mix.make_params(8, 8, torch.Generator().manual_seed(0)))
        >>> target.shape
        torch.Size([4, 10])
    """

    def __init__(self, collate: Any) -> None:
        if collate.mode != 'batch':
            refuse('mixup_mode', collate.mode, "only 'batch' is")
        if getattr(collate, 'multi_label', False):
            refuse('multi_label', True, 'only False is')
        self.collate = collate
        self._numpy = _Numpy()
        scope = rescoped(timm_mixup, np=self._numpy)
        self._draw = types.FunctionType(timm_mixup.Mixup._params_per_batch.__code__, scope)
        self._draw_box = scope['cutmix_bbox_and_lam']

    def make_params(self, height: int, width: int, generator: torch.Generator) -> MixParams:
        """Draw how a batch of images of this height and width is mixed."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        self._numpy.random = np.random.RandomState(np.random.PCG64(seed))
        share, cut = self._draw(self.collate)
        if not cut:
            return MixParams(share, None)
        box, share = self._draw_box(
            (height, width), share, ratio_minmax=self.collate.cutmix_minmax, correct_lam=self.collate.correct_lam
        )
        top, bottom, left, right = (int(edge) for edge in box)
        return MixParams(float(share), (top, bottom, left, right))

    def apply(self, images: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
        """Mix.

        Args:
            images: uint8 of shape (B, C, H, W), B even.
            labels: int64 of shape (B,).
            params: What `make_params` drew.

        Returns:
            Images, uint8 of the same shape, to whole levels, and targets, float32 of shape (B, classes), with label
            smoothing. The images are new, or those that came in if nothing is mixed.

        Raises:
            ValueError: The number of images is odd.
        """
        if len(images) % 2:
            raise ValueError(
                f'the number of images must be even to mix them, got {len(images)}: use an even batch size'
            )
        share, box = params
        if box is not None:
            top, bottom, left, right = box
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
            images = mixed
        elif share != 1 and (kernels := _device.triton_kernels(images.device)):
            images = kernels.mix(images, share)
        elif share != 1:
            images = (images.float() * share + images.flip(0).float() * (1 - share)).round_().to(torch.uint8)
        mixup = self.collate
        mixup_target: Callable[..., Tensor] = timm_mixup.mixup_target
        return images, mixup_target(labels, mixup.num_classes, share, mixup.label_smoothing)


class _Numpy:
    """numpy with a generator of its own in place of the global one."""

    random: np.random.RandomState

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class EraseParams(NamedTuple):
    """What `Erase.make_params` draws.

    Attributes:
        box: Top, left, height and width of each block, int64 of shape (B, blocks, 4); height 0 for none.
        colour: Of each block, float64 of shape (B, blocks, 3), standard normal.
        seed: Where the noise of the pixels comes from.
    """

    box: npt.NDArray[np.int64]
    colour: Numbers
    seed: int


class Erase:
    """timm's random erasing: boxes of normalised images become 0, one random colour each, or noise.

    Args:
        prob: Probability that something of an image is erased.
        mode: ``'const'`` is 0, ``'rand'`` a colour, ``'pixel'`` noise; all of it standard normal.
        count: Largest number of boxes in an image, at least 1; they share the area.

    Raises:
        ValueError: An unknown mode, or a number out of range.

    Example:
        >>> erase = Erase(1.0, 'pixel')
        >>> images = torch.full((4, 3, 32, 32), 9.0)
        >>> bool((erase.apply(images, erase.make_params(4, 32, 32, torch.Generator().manual_seed(0))) < 9).any())
        True
    """

    #: Area of all boxes of an image relative to it, and range of the quotient of their height and width.
    area: Pair = (0.02, 1 / 3)
    ratio: Pair = (0.3, 1 / 0.3)

    def __init__(self, prob: float = 0.5, mode: str = 'const', count: int = 1) -> None:
        if mode not in ERASING_MODES:
            raise ValueError(f'unknown re_mode {mode!r}; {nearest(mode, ERASING_MODES)}')
        if not 0 <= prob <= 1:
            raise ValueError(f're_prob must be at least 0 and at most 1, got {prob}')
        if count < 1:
            raise ValueError(f're_count must be at least 1, got {count}')
        self.prob, self.mode, self.count = prob, mode, count

    def make_params(self, count: int, height: int, width: int, generator: torch.Generator) -> EraseParams:
        """Draw what is erased of each of ``count`` images of this height and width."""
        rng = _rng(generator)
        number = np.where(rng.random(count) <= self.prob, rng.integers(1, self.count + 1, count), 0)
        total = np.repeat(height * width / number.clip(1), self.count)
        sides = _draw_sides(total, self.area, self.ratio, (height - 1, width - 1), rng)
        high, wide, fits = (values.reshape(count, self.count) for values in sides)
        found = (fits == 1) & (np.arange(self.count) < number[:, None])
        top = rng.random(found.shape) * (height - high + 1)
        left = rng.random(found.shape) * (width - wide + 1)
        box = np.stack([top, left, high, wide], 2).astype(np.int64) * found[..., None]
        return EraseParams(box, rng.standard_normal((count, self.count, 3)), int(rng.integers(2**63 - 1)))

    def apply(self, images: Tensor, params: EraseParams) -> Tensor:
        """Erase, in place, from images (B, C, H, W) of floating point that have been normalised; they are returned.

        The boxes and colours are the same on every device; noise is drawn on the device, from the seed. Raises
        ValueError for images of whole numbers.
        """
        if not images.is_floating_point():
            raise ValueError(f'images must be normalised before something is erased, got {images.dtype}')
        noise = torch.Generator(images.device).manual_seed(params.seed)
        channels, height, width = images.shape[1:]
        row = torch.arange(height, device=images.device)[:, None]
        column = torch.arange(width, device=images.device)
        for block in range(params.box.shape[1]):
            box = to_device(params.box[:, block], images.device)
            top, left, high, wide = box.T[..., None, None, None]
            inside = ((row >= top) & (row < top + high) & (column >= left) & (column < left + wide)).expand_as(images)
            if self.mode == 'pixel':
                # As many numbers as pixels: the array on the CPU says how many, so that the device need not.
                count = channels * int(params.box[:, block, 2:].prod(1).sum())
                pixels = torch.empty(count, dtype=images.dtype, device=images.device).normal_(generator=noise)
                images.masked_scatter_(inside, pixels)
            elif self.mode == 'rand':
                colour = to_device(params.colour[:, block, :channels, None, None], images.device).to(images.dtype)
                images.copy_(torch.where(inside, colour, images))
            else:
                images.masked_fill_(inside, 0)
        return images


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Make of levels what a model gets, as timm's prefetcher does.

    Args:
        images: uint8 of shape (B, C, H, W); gray ones, C = 1, become as many channels as ``mean`` has.
        mean: One number for each channel, from 0 to 1.
        std: As ``mean``, greater than 0.
        dtype: Floating point, of the result and of the arithmetic.

    Returns:
        (images / 255 - mean) / std, shape (B, len(mean), H, W).

    Raises:
        ValueError: Another number of means or deviations than of channels.

    Example:
        >>> normalize(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), (0.5,) * 3, (0.5,) * 3).flatten()
        tensor([1., 1., 1.])
    """
    if images.shape[1] not in (1, len(mean)) or len(std) != len(mean):
        raise ValueError(
            f'mean and std must have one number for each of {images.shape[1]} channels, got {len(mean)} and {len(std)}'
        )
    centre, width = (
        to_device(torch.tensor([255 * value for value in values], dtype=dtype), images.device)[:, None, None]
        for values in (mean, std)
    )
    if len({*mean}) == 1:
        # The same number in every channel: of gray images there is one channel until the division.
        centre = centre[:1]
    return (images - centre) / width
