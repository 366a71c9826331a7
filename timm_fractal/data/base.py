"""Data sets: index -> (PIL image, label). Image k depends on the specification and on k, and on nothing else."""

import contextlib
import dataclasses
import logging
import math
import operator
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Optional, Union

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from ..fractal import categories as fractals
from ..fractal.categories import FractalSpec
from ..fractal.ifs import Family
from ..fractal.render import LANES, cpu_count, row_bytes, unpack
from ..spec import MAX_SAMPLES, Fractal1Spec, FractalDBSpec, Image1Spec, Noise1Spec, OFDBSpec, Spec, nearest, parse_name
from .photos import Pixels, jitter, list_images, noise_image, perturb_pixels, read_image

_logger = logging.getLogger(__name__)

#: timm's names for the two splits; the first of each is the one used here.
TRAIN_SPLITS = ('train', 'training')
VALIDATION_SPLITS = ('validation', 'val', 'valid', 'eval', 'evaluation')
IMAGE_MODES = ('RGB', 'L')

# With cache=auto, the largest table that is kept in memory. The validation split is read once an epoch, and two tables
# of 21,000 fractals would be 1.4 GB.
_CACHE_BYTES = {'train': 2**30, 'validation': 256 * 2**20}

# What may be kept of photographs when the images made from them are not.
_PHOTO_BYTES = 256 * 2**20

# The systems found for a specification, for the validation split after the training split.
_families: dict[Spec, Family] = {}


class SyntheticDataset(Dataset[tuple[Any, Any]]):
    """What all data sets of this package have in common: they are what timm expects, and are made, not read.

    Sample i is image ``i % images``; image n is instance ``n // classes`` of class ``n % classes``. Images are made
    once, at construction, in memory that workers share, or, with ``cache=none`` or where they would take too much of
    it, on access. The validation split has the same classes with other noise.

    Args:
        name: A data set name of this type, such as ``'fractal1/delta=0.05'``, or its specification.
        split: ``'train'`` or ``'validation'``, or one of timm's synonyms.
        root: What ``--data-dir`` is in a training script; what it means depends on the type.
        transform: Applied to each PIL image.
        target_transform: Applied to each label.
        repeats: How often an epoch goes over the images; less than 1 counts as 1, as everywhere in timm.
        num_samples: Number of samples before repeats, in place of all images.
        input_img_mode: ``'RGB'`` or ``'L'``.

    Raises:
        ValueError: An unknown option or split, a value out of range, images that cannot be made, a bad ``root``.
        FileNotFoundError: ``root`` does not exist.
        MemoryError: There is not enough shared memory for what ``cache`` asks for.
    """

    #: The specification of this type; its defaults are those of the name alone.
    spec_type: ClassVar[type[Spec]]
    spec: Any
    #: Whether images are stored as bits.
    packed: ClassVar[bool] = False

    def __init__(
        self,
        name: Union[str, Spec, None] = None,
        split: str = 'train',
        *,
        root: Union[str, Path, None] = None,
        transform: Optional[Callable[[Any], Any]] = None,
        target_transform: Optional[Callable[[Any], Any]] = None,
        repeats: float = 0,
        num_samples: Optional[int] = None,
        input_img_mode: str = 'RGB',
    ) -> None:
        kind = self.spec_type.type
        spec = parse_name(kind if name is None else name) if not isinstance(name, Spec) else name
        if not isinstance(spec, self.spec_type):
            raise TypeError(f'name must be that of a data set of type {kind}, got {spec}')
        if split not in TRAIN_SPLITS + VALIDATION_SPLITS:
            raise ValueError(f'unknown split {split!r}; {nearest(split, TRAIN_SPLITS + VALIDATION_SPLITS)}')
        if input_img_mode not in IMAGE_MODES:
            raise ValueError(f'input_img_mode must be one of {", ".join(IMAGE_MODES)}, got {input_img_mode!r}')
        if num_samples is not None and num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        if not (math.isfinite(repeats) and max(1.0, repeats) * (num_samples or 1) <= MAX_SAMPLES):
            raise ValueError(
                f'repeats (--epoch-repeats) times num_samples must be a number of samples, at most {MAX_SAMPLES}, '
                f'got repeats={repeats} and num_samples={num_samples}'
            )
        self.spec = spec
        self.split = 'train' if split in TRAIN_SPLITS else 'validation'
        self.transform = transform
        self.target_transform = target_transform
        self.input_img_mode = input_img_mode
        #: Whether it has been said that an option has no effect.
        self._said = False
        self._open(root)
        #: Number of different images; there may be more samples, or fewer.
        self.num_images: int = self.spec.classes * self._instances()
        self._length: int = int((num_samples or self.num_images) * max(1.0, repeats))
        if self._length > MAX_SAMPLES:
            raise ValueError(f'repeats (--epoch-repeats) must give at most {MAX_SAMPLES} samples, got {repeats}')
        self._table = self._allocate()
        self._fill()
        if _is_primary():
            _logger.info(
                '%s, %s split: %d samples, %d classes; a model for it needs --num-classes %d',
                *(self.spec, self.split, len(self), self.num_classes, self.num_classes),
            )

    @abstractmethod
    def _open(self, root: Union[str, Path, None]) -> None:
        """Look at the root, before anything is made."""

    def _instances(self) -> int:
        """Number of images per class."""
        return 1

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """Shape of an image as it is stored, uint8."""

    @abstractmethod
    def _fill(self) -> None:
        """Make the images, into the table if there is one."""

    @abstractmethod
    def _make(self, numbers: Sequence[int], out: Optional[Pixels] = None) -> Pixels:
        """Make images as they are stored, shape (B, ...), into ``out`` if it is given."""

    @abstractmethod
    def _to_pil(self, stored: Pixels) -> Image.Image:
        """An image of mode `input_img_mode`."""

    @property
    def num_classes(self) -> int:
        """Number of classes, what a model needs as its ``num_classes``."""
        classes: int = self.spec.classes
        return classes

    def _allocate(self) -> Optional[torch.Tensor]:
        """Memory that worker processes share, however they are started; None to make images on access."""
        shape = (self.num_images, *self._shape())
        size = int(np.prod(shape, dtype=np.int64))
        if self.spec.cache == 'none' or (self.spec.cache == 'auto' and size > _CACHE_BYTES[self.split]):
            return None
        return self._share(shape)

    def _share(self, shape: tuple[int, ...]) -> torch.Tensor:
        try:
            table: torch.Tensor = torch.empty(shape, dtype=torch.uint8)
            return table.share_memory_()  # type: ignore[no-any-return,no-untyped-call]
        except RuntimeError as error:
            size = np.prod(shape, dtype=np.int64) / 2**20
            raise MemoryError(
                f'{self.spec}: no shared memory for {size:.0f} MB of images ({error}). Enlarge /dev/shm '
                f'(docker run --shm-size), or say cache=none in the name of the data set to make them on access'
            ) from error

    def _progress(self, count: int, step: int = 16 * LANES) -> Iterator[range]:
        """Ranges of a progress bar's step each; the step is enough images to keep all threads busy."""
        with _bar(f'rendering {self.spec}', count) as bar:
            for start in range(0, count, step):
                chunk = range(start, min(start + step, count))
                yield chunk
                bar.update(len(chunk))

    def __len__(self) -> int:
        return self._length

    def _number(self, index: int) -> int:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f'index {index} is out of range for {len(self)} samples')
        return number % len(self) % self.num_images

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = self._number(index)
        if self.spec.loader == 'device' and not self._said:
            self._said = True
            _logger.warning(
                '%s: samples are read one by one; loader=device (and redraw) have an effect on batches of '
                'timm.data.create_loader alone',
                self.spec.name(),
            )
        image: Any = self._to_pil(self.stored(number))
        target: Any = number % self.num_classes
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def stored(self, number: int) -> Pixels:
        """Image ``number`` (``instance * classes + class``) as it is kept in memory.

        Returns:
            Fractals as bits, shape (size, row bytes), see `render`; others as pixels, shape (size, size) or
            (size, size, 3).
        """
        return self._make([number])[0] if self._table is None else self._table[number].numpy()

    def stored_range(self, numbers: range) -> Pixels:
        """Images one after the other as `stored` gives them, shape (B, ...)."""
        if self._table is None:
            return self._make(numbers)
        return self._table[numbers.start : numbers.stop].numpy()

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Where `timm-fractal export` puts a sample, relative to its folder; timm's inference.py lists these names."""
        del absolute  # There is no file, so there is no folder that it lies in.
        instance, k = divmod(self._number(index), self.num_classes)
        # As wide as the largest, so that readers that sort the names of classes as text find them in their order.
        label = str(k).zfill(max(5, len(str(self.num_classes - 1))))
        name = f'{label}_{instance}.png'
        return name if basename else f'{self.split}/{label}/{name}'

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """`filename` of all samples."""
        return [self.filename(index, basename, absolute) for index in range(len(self))]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.spec.name()!r}, split={self.split!r}, samples={len(self)})'


def _is_primary() -> bool:
    return os.environ.get('RANK', '0') == '0'


class _Bar(tqdm):  # type: ignore[misc]
    """Progress is decoration: a stream that is closed, or not there at all, ends no rendering."""

    def update(self, n: float | None = 1) -> bool | None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            shown: bool | None = super().update(n)
            return shown
        return None

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            super().close()


def _bar(what: str, count: int) -> Any:
    options: dict[str, Any] = dict(desc=what, total=count, unit='img', delay=1)
    try:
        return _Bar(**options, disable=None if _is_primary() and sys.stderr is not None else True)
    except (AttributeError, OSError, ValueError):
        return _Bar(**options, disable=True)


class _Fractals(SyntheticDataset):
    """Data sets of fractals: bit-packed, two gray levels."""

    spec: FractalSpec
    packed = True

    #: The systems of the data set; `Family.save` writes them to a file that ``root`` takes.
    family: Family

    def _open(self, root: Union[str, Path, None]) -> None:
        self._loaded: Optional[Family] = None
        if root is not None and Path(root).is_dir():
            _logger.info('%s is rendered, nothing is read from %s', self.spec, root)
        elif root is not None:
            self._loaded, self.spec = _load(root, self.spec)

    def _instances(self) -> int:
        instances = self.spec.instances
        if isinstance(self.spec, FractalDBSpec) and self.split == 'validation':
            # A thousand instances take as long to draw as many epochs to train; these have all scaled parameters.
            return min(instances, len(fractals.WEIGHTS))
        return instances

    def _shape(self) -> tuple[int, ...]:
        return self.spec.size, row_bytes(self.spec.size)

    def _fill(self) -> None:
        """Find the IFS codes, if they are not known, and fill the table."""
        table = None if self._table is None else self._table.numpy()
        # They do not depend on the canvas, nor on what changes no pixel.
        everywhere: Any = dataclasses.replace(
            self.spec, **type(self.spec)().non_pixel_options(), **fractals.REFERENCE_CANVAS
        )
        family = self._loaded or _families.get(everywhere)
        drawn = 0
        if family is None:
            is_reference = everywhere == dataclasses.replace(self.spec, **type(self.spec)().non_pixel_options())
            by_product = self.split == 'train' and is_reference and isinstance(self.spec, Fractal1Spec)
            family = fractals.find(self.spec, self._progress, table if by_product else None)
            _families[everywhere] = family
            drawn = self.num_classes if by_product and table is not None else 0
        self.family = family if self._loaded else dataclasses.replace(family, name=str(self.spec))
        if table is None:
            # What no canvas shows is refused now, not by a worker in the middle of a training run.
            self._make(range(min(LANES, self.num_classes)))
        elif drawn < len(table):
            for chunk in self._progress(len(table) - drawn):
                start, stop = chunk.start + drawn, chunk.stop + drawn
                self._make(range(start, stop), table[start:stop])

    def _make(self, numbers: Sequence[int], out: Optional[Pixels] = None) -> Pixels:
        return fractals.draw(self.spec, self.split, self.family, numbers, out).bits

    def _to_pil(self, stored: Pixels) -> Image.Image:
        if self.input_img_mode == 'L':
            return Image.fromarray(unpack(stored, self.spec.size))
        height, width = len(stored), 8 * stored.shape[1]
        pixels: Any = np.take(_RGBX_OF_BYTE, stored, axis=0).data
        image = Image.frombytes('RGB', (width, height), pixels, 'raw', 'RGBX')
        return image if width == height else image.crop((0, 0, height, height))


# The eight pixels of a byte as Pillow keeps RGB pixels, four bytes each: half the time of a conversion from gray.
_RGBX_OF_BYTE = unpack(np.arange(256, dtype=np.uint8)[:, None], 8).astype(np.uint32) * np.uint32(0x01010101)


def _load(root: Union[str, Path], spec: FractalSpec) -> tuple[Family, FractalSpec]:
    """Read a parameter file and the specification it was drawn from, which must not contradict the one asked for."""
    family = Family.load(root)
    saved = parse_name(family.name)
    if dataclasses.replace(spec, **type(spec)().non_pixel_options()) not in (type(spec)(), saved):
        raise ValueError(f'{root} holds {family.name!r}, not {str(spec)!r}: name the data set {spec.type!r} alone')
    if not isinstance(saved, type(spec)) or (len(family.bases), len(family.systems)) != (saved.fractals, saved.classes):
        shapes = f'{family.bases.shape} and {family.systems.shape}'
        raise ValueError(
            f'{root} is damaged or no {spec.type}: {family.name!r} has bases and systems of shape {shapes}'
        )
    return family, dataclasses.replace(saved, **spec.non_pixel_options())


class Fractal1(_Fractals):
    """1p-frac: the classes are perturbations of one fractal ("Scaling Backwards", ECCV 2024, section 4).

    With ``fractals=K`` of K fractals. ``root`` is a parameter file, written by `Family.save`: the data set it was saved
    from, in place of one drawn from the seed. A folder is ignored, since there is nothing to read. See
    `SyntheticDataset` for the arguments.

    Example:
        >>> dataset = Fractal1('fractal1/classes=3,size=64,points=5000', input_img_mode='L')
        >>> image, label = dataset[1]
        >>> len(dataset), image.size, image.mode, label
        (3, (64, 64), 'L', 1)
    """

    spec_type = Fractal1Spec


class OFDB(_Fractals):
    """One image per category, every category an IFS of its own ("Pre-training Vision Transformers with Very Limited
    Synthesized Images", ICCV 2023). Arguments as for `Fractal1`.

    Example:
        >>> len(OFDB('ofdb/classes=10,size=64'))
        10
    """

    spec_type = OFDBSpec


class FractalDB(_Fractals):
    """Categories as those of `OFDB` with many instances each ("Pre-training without Natural Images", ACCV 2020).

    A million images are 33 GB: they are drawn on access. The validation split has at most 25 instances per class.
    Arguments as for `Fractal1`.

    Example:
        >>> dataset = FractalDB('fractaldb/classes=10,instances=100,size=64')
        >>> len(dataset), dataset[523][1]
        (1000, 3)
    """

    spec_type = FractalDBSpec


class _Pixels(SyntheticDataset):
    """Data sets whose images are stored as pixels."""

    def _shape(self) -> tuple[int, ...]:
        return self.spec.size, self.spec.size

    def _fill(self) -> None:
        if self._table is not None:
            table = self._table.numpy()
            for chunk in self._progress(len(table), step=64):
                self._make(chunk, table[chunk.start : chunk.stop])

    def _make(self, numbers: Sequence[int], out: Optional[Pixels] = None) -> Pixels:
        images = np.empty((len(numbers), *self._shape()), np.uint8) if out is None else out
        if len(numbers) == 1:
            images[0] = self._make_one(numbers[0])
        else:
            with ThreadPoolExecutor(cpu_count()) as pool:
                for image, made in zip(images, pool.map(self._make_one, numbers)):
                    image[:] = made
        return images

    @abstractmethod
    def _make_one(self, number: int) -> Pixels:
        """Make one image."""

    def _jitter(self, number: int, pixels: Pixels) -> Pixels:
        """The noise of the validation split."""
        if self.split == 'train':
            return pixels
        draws = fractals.stream(self.spec.seed, _JITTER, number).random(5)
        return np.asarray(jitter(Image.fromarray(pixels), draws.tolist()))

    def _to_pil(self, stored: Pixels) -> Image.Image:
        return Image.fromarray(stored).convert(self.input_img_mode)


# What a stream of random numbers is for; the seed, this and the class make the stream.
_IMAGE, _CLASS, _JITTER = range(10, 13)


class Image1(_Pixels):
    """Classes are warps of one real image ("Scaling Backwards", ECCV 2024, the section on real images).

    ``root`` is an image, or a folder of at most as many as there are classes; class k is made from image ``k % images``
    of those sorted by name. The validation split has the same warps, cropped to 95 to 100 % of each side and with other
    contrast and brightness. See `SyntheticDataset` for the other arguments, `images.read_image` for what is read, and
    `shape` for the warps.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix='.png') as file:
        ...     Image.linear_gradient('L').save(file)
        ...     dataset = Image1('image1/classes=4,size=64', root=file.name)
        >>> len(dataset), dataset[3][0].mode
        (4, 'RGB')
    """

    spec_type = Image1Spec
    spec: Image1Spec

    def _open(self, root: Union[str, Path, None]) -> None:
        if root is None:
            raise ValueError('image1 needs an image: --data-dir photo.jpg, or a folder of images (root= in Python)')
        self._paths = list_images(root)
        if len(self._paths) > self.num_classes:
            raise ValueError(
                f'{self.spec}: classes must be at least the number of images in {root}, '
                f'got {self.num_classes} classes and {len(self._paths)} images: use classes={len(self._paths)} or more'
            )
        shape = (len(self._paths), *self._shape())
        if _is_primary():
            _logger.info('%s, %s split: %d images from %s', self.spec, self.split, len(self._paths), root)
        few = np.prod(shape, dtype=np.int64) <= _PHOTO_BYTES
        self._photos = self._share(shape) if few else None
        with ThreadPoolExecutor(cpu_count()) as pool, _bar(f'reading {root}', len(self._paths)) as bar:
            # All of them, kept or not: a damaged one is better found now than in the middle of a training run.
            for number, view in enumerate(pool.map(self._read, self._paths)):
                if self._photos is not None:
                    self._photos[number] = torch.from_numpy(view)
                bar.update()

    def _read(self, path: Path) -> Pixels:
        from ..shape.transform import VIEWS  # Imports torchvision's transforms, which take as long as all the rest.

        mode = 'RGB' if self.spec.view == 'rgb' else 'L'
        view = np.array(VIEWS[self.spec.view](read_image(path, self.spec.size, mode)))
        if view.min() == view.max():
            what = 'no contour' if self.spec.view == 'contour' else 'a single colour'
            raise ValueError(f'{path} has {what}: its warps cannot be told apart')
        return view

    def _shape(self) -> tuple[int, ...]:
        return (*super()._shape(), 3) if self.spec.view == 'rgb' else super()._shape()

    def _make_one(self, number: int) -> Pixels:
        from ..shape.transform import WARPS

        which = number % len(self._paths)
        photo = self._read(self._paths[which]) if self._photos is None else self._photos[which].numpy()
        warp = WARPS[self.spec.warp]
        params = warp.make_params(fractals.stream(self.spec.seed, _CLASS, number), self.spec.delta)
        return self._jitter(number, np.asarray(warp.apply(Image.fromarray(photo), params)))


class Noise1(_Pixels):
    """Classes are perturbations of one image of noise ("Scaling Backwards", ECCV 2024, the controls).

    ``root`` is ignored, since there is nothing to read. The validation split differs from the training split as that of
    `Image1` does.

    Example:
        >>> len(Noise1('noise1/noise=uniform,classes=4,size=64'))
        4
    """

    spec_type = Noise1Spec
    spec: Noise1Spec

    def _open(self, root: Union[str, Path, None]) -> None:
        if root is not None:
            _logger.info('%s is rendered, nothing is read from %s', self.spec, root)
        self._base = noise_image(self.spec.noise, self.spec.size, fractals.stream(self.spec.seed, _IMAGE))

    def _make_one(self, number: int) -> Pixels:
        rng = fractals.stream(self.spec.seed, _CLASS, number)
        return self._jitter(number, perturb_pixels(self._base, self.spec.delta, rng))


TYPES: dict[str, type[SyntheticDataset]] = {
    dataset.spec_type.type: dataset for dataset in (Fractal1, Image1, OFDB, FractalDB, Noise1)
}


def create(name: str, split: str = 'train', **options: Any) -> SyntheticDataset:
    """Make a data set from its name; the options are those of its class."""
    return TYPES[parse_name(name).type](name, split, **options)


def natural_mode(spec: Spec) -> str:
    """The mode that loses nothing: ``'RGB'`` for what is coloured, else ``'L'``."""
    return 'RGB' if isinstance(spec, Image1Spec) and spec.view == 'rgb' else 'L'
