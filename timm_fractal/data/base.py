"""Data sets: index -> (PIL image, label). Image k depends only on the specification and on k."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from .._utils.console import is_primary, progress_bar, warn_once
from .._utils.cpu import cpu_count
from .._utils.indices import check_index
from .._utils.messages import nearest
from .._utils.rng import Stream, stream
from ..spec import MAX_SAMPLES, Spec, parse_name

Pixels = npt.NDArray[np.uint8]
T = TypeVar('T')

#: Callback for programs with their own progress display: called with the fraction rendered so far before each part of a
#: data set, in the context that sets it. An exception in it aborts rendering.
watcher: ContextVar[Callable[[float], None] | None] = ContextVar('watcher', default=None)

_logger = logging.getLogger(__name__)

#: timm's names for the two splits; the first of each is the canonical one.
TRAIN_SPLITS = ('train', 'training')
VALIDATION_SPLITS = ('validation', 'val', 'valid', 'eval', 'evaluation')
IMAGE_MODES = ('RGB', 'L')

# Largest table that cache=auto keeps in memory. The validation split is read only once per epoch, and two tables of
# 21,000 fractals would take 1.4 GB.
_CACHE_BYTES = {'train': 2**30, 'validation': 256 * 2**20}
# Bytes of images that `SyntheticDataset.images` renders at once.
_BATCH_BYTES = 2**25


def watched_parts(items: Sequence[T]) -> Iterator[T]:
    """Iterate over parts that are rendered in sequence; the watcher gets the overall fraction.

    Examples:
        >>> from timm_fractal.data import create
        >>> token = watcher.set(print)
        >>> for name in watched_parts(['ofdb/classes=2,size=32,seed=7', 'ofdb/classes=2,size=32,seed=8']):
        ...     _ = create(name + ',cache=none')
        0.0
        0.5
        >>> watcher.reset(token)
    """
    watch = watcher.get() or (lambda fraction: None)
    for part, item in enumerate(items):
        token = watcher.set(lambda fraction, part=part: watch((part + fraction) / len(items)))  # type: ignore[misc]
        try:
            yield item
        finally:
            watcher.reset(token)


class SyntheticDataset(Dataset[tuple[Any, Any]], ABC):
    """Base class of the data sets: timm's data set interface, with rendered images.

    Sample i is image ``i % images``; image n is instance ``n // classes`` of class ``n % classes``. Images are rendered
    once, at construction, into memory that workers share; on access with ``cache=none``, or if they would take too much
    memory. The validation split has the same classes with different noise.

    Args:
        name: A data set name of this type, such as ``'fractal1/delta=0.05'``, or its specification.
        split: ``'train'`` or ``'validation'``, or one of timm's synonyms.
        root: ``--data-dir`` of a training script; its meaning depends on the type.
        transform: Applied to each PIL image.
        target_transform: Applied to each label.
        repeats: Passes over the images per epoch; less than 1 counts as 1, as in timm.
        num_samples: Number of samples before repeats, by default one per image.
        input_img_mode: ``'RGB'`` or ``'L'``.
        only: Classes that are needed, by default all. Nothing is rendered or read for the others, and images are
            rendered on access.

    Raises:
        ValueError: An unknown option or split, a value out of range, images that cannot be rendered, an invalid
            ``root``.
        FileNotFoundError: ``root`` does not exist.
        MemoryError: There is not enough shared memory for the images.
    """

    #: Specification class of this type.
    spec_type: ClassVar[type[Spec]]
    spec: Any
    #: Files in ``root`` that the images are made from.
    files: Sequence[Path] = ()
    #: Maximum number of validation images per class: rendering a thousand takes as long as many epochs.
    max_validation: ClassVar[int] = 1_000_000
    #: Images between two updates of the progress bar: enough to keep all threads busy.
    step: ClassVar[int] = 64

    def __init__(
        self,
        name: str | Spec | None = None,
        split: str = 'train',
        *,
        root: str | Path | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        repeats: float = 0,
        num_samples: int | None = None,
        input_img_mode: str = 'RGB',
        only: Collection[int] | None = None,
    ) -> None:
        kind = self.spec_type.type
        spec = parse_name(kind if name is None else name) if not isinstance(name, Spec) else name
        if not isinstance(spec, self.spec_type):
            raise TypeError(f'name must be a data set of type {kind}, got {spec}')
        if split not in TRAIN_SPLITS + VALIDATION_SPLITS:
            raise ValueError(f'unknown split {split!r}; {nearest(split, TRAIN_SPLITS + VALIDATION_SPLITS)}')
        if input_img_mode not in IMAGE_MODES:
            raise ValueError(f'input_img_mode must be one of {", ".join(IMAGE_MODES)}, got {input_img_mode!r}')
        if num_samples is not None and num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        if not math.isfinite(repeats):
            raise ValueError(f'repeats (--epoch-repeats) must be a finite number, got {repeats}')
        self.spec = spec
        self.split = 'train' if split in TRAIN_SPLITS else 'validation'
        self.transform = transform
        self.target_transform = target_transform
        self.input_img_mode = input_img_mode
        #: Whether `warn_once` was called, which takes a third of the time of a cached sample.
        self._warned = False
        #: The classes whose images may be read; None for all.
        self.only = only
        self._open(root)
        if only is not None:
            # A file may have fewer classes than the name says.
            self.only = [k for k in only if 0 <= k < self.num_classes]
            if not self.only:
                raise ValueError(f'{self.spec}: only must contain classes from 0 to {self.num_classes - 1}, got {only}')
        # `_open` may have replaced the specification.
        instances: int = self.spec.num_instances
        if self.split == 'validation':
            instances = min(instances, self.max_validation)
        #: Number of distinct images; there can be more samples, or fewer.
        self.num_images: int = self.num_classes * instances
        samples = (num_samples or self.num_images) * max(1.0, repeats)
        if samples > MAX_SAMPLES:
            raise ValueError(
                f'repeats (--epoch-repeats) times num_samples must be at most {MAX_SAMPLES}, '
                f'got repeats={repeats} and num_samples={num_samples}'
            )
        self._length: int = int(samples)
        self._table = self._allocate()
        self._fill()
        if only is None and is_primary():
            _logger.info(
                '%s, %s split: %d samples, %d classes; train with --num-classes %d',
                *(self.spec, self.split, len(self), self.num_classes, self.num_classes),
            )

    def _open(self, root: str | Path | None) -> None:
        """Check and read ``root`` before anything is rendered; by default, warn that it is ignored."""
        if root is not None:
            codes = ', which is not a file of IFS codes' if self.spec.reads == 'codes' else ''
            warn_once(_logger, '%s: ignored --data-dir %s%s', *(self.spec.type, root, codes))

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Return the shape of a stored image, uint8."""

    @abstractmethod
    def _render(self, numbers: Sequence[int], out: Pixels | None = None) -> Pixels:
        """Render images in stored form, shape (B, ...), into ``out`` if given."""

    @abstractmethod
    def _to_pil(self, stored: Pixels, mode: str) -> Image.Image:
        """Convert a stored image to mode ``'RGB'`` or ``'L'``."""

    def _fill(self) -> None:
        """Render all images into the table, if any."""
        if self._table is not None:
            table = self._table.numpy()
            for chunk in self._progress(len(table)):
                self._render(chunk, table[chunk.start : chunk.stop])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.spec.classes)

    def _allocate(self) -> torch.Tensor | None:
        """Allocate memory that workers share under any start method; None to render images on access."""
        shape = (self.num_images, *self._shape())
        is_large = math.prod(shape) > _CACHE_BYTES[self.split]
        if self.only is not None or self.spec.cache == 'none' or (self.spec.cache == 'auto' and is_large):
            return None
        return self._share(shape)

    def _share(self, shape: tuple[int, ...]) -> torch.Tensor:
        try:
            table: torch.Tensor = torch.empty(shape, dtype=torch.uint8)
            return table.share_memory_()  # type: ignore[no-any-return,no-untyped-call]
        except RuntimeError as error:
            raise MemoryError(
                f'{self.spec}: not enough shared memory for {math.prod(shape) / 2**20:.0f} MB of images ({error}): '
                f'enlarge /dev/shm (docker run --shm-size), or add cache=none to the data set name to render them on '
                f'access'
            ) from error

    def _progress(self, count: int, step: int | None = None) -> Iterator[range]:
        """Yield ranges of ``step`` images with a progress bar."""
        watch = watcher.get() or (lambda fraction: None)
        with progress_bar(f'rendering {self.spec}', count) as bar:
            for start in range(0, count, step or self.step):
                watch(start / count)
                chunk = range(start, min(start + (step or self.step), count))
                yield chunk
                bar.update(len(chunk))

    @property
    def table_bytes(self) -> int:
        """Size of the images in memory, in bytes; 0 if they are rendered on access."""
        return 0 if self._table is None else self._table.numel()

    def __len__(self) -> int:
        return self._length

    def _number(self, index: Any) -> int:
        return check_index(index, len(self)) % self.num_images

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = self._number(index)
        if self.spec.loader == 'device' and not self._warned:
            self._warned = True
            warn_once(
                _logger,
                '%s: samples are read one by one; loader=device and redraw only affect batches of '
                'timm.data.create_loader',
                self.spec.name(),
            )
        image: Any = self.image(number, self.input_img_mode)
        target: Any = number % self.num_classes
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def stored(self, number: int) -> Pixels:
        """Return image ``number`` (``instance * classes + class``) in stored form.

        Returns:
            Bits of shape (size, row bytes) for fractals, see `render`; otherwise pixels of shape (size, size) or (size,
            size, 3).
        """
        return self._render([number])[0] if self._table is None else self._table[number].numpy()

    def image(self, number: int, mode: str = 'RGB') -> Image.Image:
        """Return image ``number`` (``instance * classes + class``) in mode ``'RGB'`` or ``'L'``, without transforms."""
        return self._to_pil(self.stored(number), mode)

    def images(self, numbers: Sequence[int], mode: str = 'RGB') -> Iterator[Image.Image]:
        """Yield images like `image`, but faster: rendered in batches."""
        step = max(1, _BATCH_BYTES // math.prod(self._shape()))
        for start in range(0, len(numbers), step):
            batch = numbers[start : start + step]
            for stored in self._render(batch) if self._table is None else map(self.stored, batch):
                yield self._to_pil(stored, mode)

    def stored_range(self, numbers: range) -> Pixels:
        """Return consecutive images in stored form, shape (B, ...)."""
        if self._table is None:
            return self._render(numbers)
        return self._table[numbers.start : numbers.stop].numpy()

    def redraw(self, numbers: npt.NDArray[np.int64], generator: torch.Generator, device: torch.device) -> torch.Tensor:
        """Render images on a device with new noise, uint8 of shape (B, C, H, W); for types whose spec ``redraws``."""
        raise NotImplementedError(f'{self.spec.type} does not support redraw')

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Return the path of a sample in the folder of `timm-fractal export`; timm's inference.py lists these names."""
        del absolute  # There is no file.
        instance, k = divmod(self._number(index), self.num_classes)
        # Zero-padded, so that readers that sort class names as text keep the order.
        label = str(k).zfill(max(5, len(str(self.num_classes - 1))))
        name = f'{label}_{instance}.png'
        return name if basename else f'{self.split}/{label}/{name}'

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """Return `filename` of all samples."""
        return [self.filename(index, basename, absolute) for index in range(len(self))]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.spec.name()!r}, split={self.split!r}, samples={len(self)})'


class PixelDataset(SyntheticDataset):
    """Base class of data sets whose images are stored as pixels and rendered one by one."""

    def _shape(self) -> tuple[int, ...]:
        size = self.spec.size
        return (size, size, 3) if self.spec.mode == 'RGB' else (size, size)

    def _render(self, numbers: Sequence[int], out: Pixels | None = None) -> Pixels:
        images = np.empty((len(numbers), *self._shape()), np.uint8) if out is None else out
        if len(numbers) == 1 or not self.spec.thread_safe:
            for image, number in zip(images, numbers):
                image[:] = self._render_one(number)
        else:
            with ThreadPoolExecutor(cpu_count()) as pool:
                for image, made in zip(images, pool.map(self._render_one, numbers)):
                    image[:] = made
        return images

    @abstractmethod
    def _render_one(self, number: int) -> Pixels:
        """Render one image, uint8 of shape `_shape`."""

    def _jitter(self, number: int, pixels: Pixels) -> Pixels:
        """Add the noise of the validation split to an image."""
        if self.split == 'train':
            return pixels
        draws = stream(self.spec.seed, Stream.JITTER, number).random(5)
        return np.asarray(jitter(Image.fromarray(pixels), draws.tolist()))

    def _to_pil(self, stored: Pixels, mode: str) -> Image.Image:
        return Image.fromarray(stored).convert(mode)


def jitter(image: Image.Image, draws: Sequence[float]) -> Image.Image:
    """Apply the noise of the validation split: a crop of 95 to 100 % of each side, contrast +- 10 %, brightness +- 5 %.

    Args:
        image: Mode L or RGB.
        draws: Five numbers in [0, 1): side length, left and top of the crop, contrast, brightness.

    Returns:
        An image of the same size and mode.
    """
    side, left, top, contrast, brightness = draws
    side = 0.95 + 0.05 * side
    gain, shift = 0.9 + 0.2 * contrast, 255 * 0.1 * (brightness - 0.5)
    width, height = image.size
    x, y = left * (1 - side) * width, top * (1 - side) * height
    box = (x, y, x + side * width, y + side * height)
    levels = [min(255, max(0, round(127.5 + gain * (level - 127.5) + shift))) for level in range(256)]
    cropped = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    return cropped.point(levels * len(image.getbands()))
