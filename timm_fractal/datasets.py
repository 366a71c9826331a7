"""Data sets: index -> (PIL image, label). Image k depends on the specification and on k, and on nothing else."""

import dataclasses
import functools
import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from . import ifs
from .ifs import Array, Family
from .render import LANES, Bits, Rendered, render, row_bytes, unpack
from .spec import Fractal1Spec, nearest, parse_name

_logger = logging.getLogger(__name__)

#: timm's names for the two splits; the first of each is the one used here.
TRAIN_SPLITS = ('train', 'training')
VALIDATION_SPLITS = ('validation', 'val', 'valid', 'eval', 'evaluation')
IMAGE_MODES = ('RGB', 'L')

#: An image with no more than this fraction of drawn pixels is redrawn (the reference generator's threshold).
MIN_FILL = 0.05
#: How often the base IFS, and then each class, is redrawn before giving up.
MAX_DRAWS = 100

# What a stream of random numbers is for; the seed, this and indices make the stream.
_BASE, _PERTURBATION, _PATCHES = range(3)

# Seed of the address sequence of instance 0: the reference generator's for training, far from it for validation.
_ADDRESS_SEED = {'train': 100, 'validation': 100 + 2**31}

# With cache=auto, the largest validation table that is kept in memory: it is read once an epoch, and two tables of
# 21,000 classes would be 1.4 GB.
_VALIDATION_CACHE_BYTES = 256 * 2**20

# The systems found for a specification, for the validation split after the training split.
_families: dict[Fractal1Spec, Family] = {}


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@functools.lru_cache(maxsize=4)
def _addresses(base: bytes, points: int, seed: int) -> npt.NDArray[np.uint8]:
    probs = ifs.probabilities(np.frombuffer(base).reshape(-1, 2, 3))
    return ifs.addresses(probs, points, seed)


def _draw(
    spec: Fractal1Spec,
    split: str,
    base: Array,
    systems: Array,
    classes: Iterable[int],
    instance: int = 0,
    out: Optional[Bits] = None,
) -> Rendered:
    """Draw one instance of some classes; ``systems`` are theirs, in the same order."""
    noise = (spec.seed, _PATCHES, int(split == 'validation'))
    keys = [np.random.SeedSequence((*noise, int(k), instance)).generate_state(2) for k in classes]
    path = _addresses(base.tobytes(), spec.points, _ADDRESS_SEED[split] + instance)
    return render(systems, path, np.stack(keys), spec.size, spec.patch, out=out)  # type: ignore[arg-type]


def _find_base(spec: Fractal1Spec) -> Array:
    """The first system drawn from the seed whose own image is not too empty."""
    for draw in range(MAX_DRAWS):
        # Sines and matrix products differ in the last bit between machines; nine decimals are the same everywhere.
        base = ifs.sample(spec.maps, spec.sigma, _rng(spec.seed, _BASE, draw)).round(9)
        if _draw(spec, 'train', base, base[None], [0]).fill[0] > MIN_FILL:
            return base
    raise ValueError(
        f'{spec}: none of {MAX_DRAWS} base fractals drawn from seed={spec.seed} covers more than {MIN_FILL:.0%} of the '
        f'image (sigma={spec.sigma}, points={spec.points}, size={spec.size}, patch={spec.patch}, delta={spec.delta}): '
        f'take more points, a smaller size or a larger sigma'
    )


def _find_systems(spec: Fractal1Spec, base: Array, table: Optional[Bits] = None) -> Array:
    """Perturb the base until every class has an image that is not too empty; keep the images in ``table``."""
    systems = np.empty((spec.classes, *base.shape))
    for chunk in _chunks(spec, spec.classes):
        drawn = None if table is None else table[chunk.start : chunk.stop]
        pending = np.arange(chunk.start, chunk.stop)
        for draw in range(MAX_DRAWS):
            for k in pending:
                rng = _rng(spec.seed, _PERTURBATION, int(k), draw)
                systems[k] = ifs.perturb(base, spec.delta, rng, spec.perturb)  # type: ignore[arg-type]
            # At first all classes of the chunk, straight into the table; then the few that came out empty.
            images = _draw(spec, 'train', base, systems[pending], pending, out=drawn if draw == 0 else None)
            if drawn is not None and draw > 0:
                drawn[pending - chunk.start] = images.bits
            pending = pending[images.fill <= MIN_FILL]
            if len(pending) == 0:
                break
        else:
            raise ValueError(
                f'{spec}: class {pending[0]} is empty or diverges in each of {MAX_DRAWS} perturbations '
                f'(seed={spec.seed}, delta={spec.delta}): take another seed or a smaller delta'
            )
    return systems


def _chunks(spec: Fractal1Spec, count: int) -> Iterator[range]:
    """Ranges of a progress bar's step each: enough images to keep all threads busy."""
    step = 16 * LANES
    bar = tqdm(desc=f'rendering {spec}', total=count, unit='img', delay=1, disable=None if _is_primary() else True)
    with bar:
        for start in range(0, count, step):
            chunk = range(start, min(start + step, count))
            yield chunk
            bar.update(len(chunk))


def _is_primary() -> bool:
    return os.environ.get('RANK', '0') == '0'


class Fractal1(Dataset[tuple[Any, Any]]):
    """1p-frac: the classes are perturbations of one fractal ("Scaling Backwards", ECCV 2024, section 4).

    Sample i is an image of class ``i % classes``. The training split is drawn once, at construction, into bit-packed
    memory that workers share (32 KiB an image of 512 x 512 pixels). The validation split has the same shapes with other
    noise: another point sequence, other patches.

    Args:
        name: A data set name such as ``'fractal1/delta=0.05'``, or a `Fractal1Spec`.
        split: ``'train'`` or ``'validation'``, or one of timm's synonyms.
        root: A parameter file, written by `Family.save`: the data set it was saved from, in place of one drawn from the
            seed. A folder is ignored, since there is nothing to read.
        transform: Applied to each PIL image.
        target_transform: Applied to each label.
        repeats: How often an epoch goes over the images; less than 1 counts as 1, as everywhere in timm.
        num_samples: Number of samples before repeats, in place of classes * instances.
        input_img_mode: ``'RGB'`` or ``'L'``.

    Raises:
        ValueError: An unknown option or split, a value out of range, a fractal that cannot be drawn, a damaged
            parameter file.
        FileNotFoundError: ``root`` does not exist.

    Example:
        >>> dataset = Fractal1('fractal1/classes=3,size=64,points=5000', input_img_mode='L')
        >>> image, label = dataset[1]
        >>> len(dataset), image.size, image.mode, label
        (3, (64, 64), 'L', 1)
    """

    def __init__(
        self,
        name: Union[str, Fractal1Spec] = 'fractal1',
        split: str = 'train',
        *,
        root: Union[str, Path, None] = None,
        transform: Optional[Callable[[Any], Any]] = None,
        target_transform: Optional[Callable[[Any], Any]] = None,
        repeats: float = 0,
        num_samples: Optional[int] = None,
        input_img_mode: str = 'RGB',
    ) -> None:
        spec = parse_name(name) if isinstance(name, str) else name
        if not isinstance(spec, Fractal1Spec):
            raise TypeError(f'name must be a fractal1 data set, got {spec}')
        if split not in TRAIN_SPLITS + VALIDATION_SPLITS:
            raise ValueError(f'unknown split {split!r}; {nearest(split, TRAIN_SPLITS + VALIDATION_SPLITS)}')
        if input_img_mode not in IMAGE_MODES:
            raise ValueError(f'input_img_mode must be one of {", ".join(IMAGE_MODES)}, got {input_img_mode!r}')
        if num_samples is not None and num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        self.spec = spec
        family: Optional[Family] = None
        if root is not None and Path(root).is_dir():
            _logger.info('%s is rendered, nothing is read from %s', spec, root)
        elif root is not None:
            family, self.spec = _load(root, spec)
        self.split = 'train' if split in TRAIN_SPLITS else 'validation'
        self.transform = transform
        self.target_transform = target_transform
        self.input_img_mode = input_img_mode
        self._distinct = self.spec.classes * self.spec.instances
        self._length = int((num_samples or self._distinct) * max(1.0, repeats))
        self._table = self._allocate()
        self.family = self._render(family)
        if _is_primary():
            _logger.info(
                '%s, %s split: %d samples, %d classes; a model for it needs --num-classes %d',
                *(self.spec, self.split, len(self), self.num_classes, self.num_classes),
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, what a model needs as its ``num_classes``."""
        return self.spec.classes

    def _allocate(self) -> Optional[torch.Tensor]:
        """Memory that worker processes share, however they are started; None to render on access."""
        shape = (self._distinct, self.spec.size, row_bytes(self.spec.size))
        size = int(np.prod(shape, dtype=np.int64))
        large = self.split == 'validation' and size > _VALIDATION_CACHE_BYTES
        if self.spec.cache == 'none' or (self.spec.cache == 'auto' and large):
            return None
        try:
            table: torch.Tensor = torch.empty(shape, dtype=torch.uint8)
            return table.share_memory_()  # type: ignore[no-any-return,no-untyped-call]
        except RuntimeError as error:
            raise MemoryError(
                f'{self.spec}: no shared memory for {size / 2**20:.0f} MB of images ({error}). Enlarge /dev/shm '
                f'(docker run --shm-size), or say cache=none in the name of the data set to render on access'
            ) from error

    def _render(self, family: Optional[Family]) -> Family:
        """Find the systems, if they are not known, and fill the table."""
        table = None if self._table is None else self._table.numpy()
        images = dataclasses.replace(self.spec, cache='auto', loader='auto')
        drawn = 0
        family = family or _families.get(images)
        if family is None:
            base = _find_base(self.spec)
            by_product = table if self.split == 'train' else None
            family = Family(str(self.spec), base, _find_systems(self.spec, base, by_product))
            _families[images] = family
            drawn = 0 if by_product is None else self.spec.classes
        if table is not None:
            for chunk in _chunks(self.spec, self._distinct - drawn):
                numbers = range(chunk.start + drawn, chunk.stop + drawn)
                self._draw(family, numbers, table)
        return family

    def _draw(self, family: Family, numbers: range, table: Bits) -> None:
        """Draw images of the data set, which may belong to several instances, to their places in the table."""
        start = numbers.start
        while start < numbers.stop:
            instance, first = divmod(start, self.spec.classes)
            stop = min(numbers.stop, (instance + 1) * self.spec.classes)
            classes = range(first, first + stop - start)
            systems = family.systems[first : classes.stop]
            _draw(self.spec, self.split, family.base, systems, classes, instance, table[start:stop])
            start = stop

    def bits(self, number: int) -> Bits:
        """Image ``number`` (``instance * classes + class``) as bits, shape (size, row bytes), see `render`."""
        if self._table is not None:
            return self._table[number].numpy()
        instance, k = divmod(number, self.spec.classes)
        system = self.family.systems[k : k + 1]
        image: Bits = _draw(self.spec, self.split, self.family.base, system, [k], instance).bits[0]
        return image

    def __len__(self) -> int:
        return self._length

    def _number(self, index: int) -> int:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} is out of range for {len(self)} samples')
        return index % len(self) % self._distinct

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = self._number(index)
        image: Any = _to_pil(self.bits(number), self.spec.size, self.input_img_mode)
        target: Any = number % self.spec.classes
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Where `timm-fractal export` puts a sample, relative to its folder; timm's inference.py lists these names."""
        del absolute  # There is no file, so there is no folder that it lies in.
        instance, k = divmod(self._number(index), self.spec.classes)
        # As wide as the largest, so that readers that sort the names of classes as text find them in their order.
        label = str(k).zfill(max(5, len(str(self.spec.classes - 1))))
        name = f'{label}_{instance}.png'
        return name if basename else f'{self.split}/{label}/{name}'

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """`filename` of all samples."""
        return [self.filename(index, basename, absolute) for index in range(len(self))]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.spec.name()!r}, split={self.split!r}, samples={len(self)})'


# The eight pixels of a byte as Pillow keeps RGB pixels, four bytes each: half the time of a conversion from gray.
_RGBX_OF_BYTE = unpack(np.arange(256, dtype=np.uint8)[:, None], 8).astype(np.uint32) * np.uint32(0x01010101)


def _to_pil(bits: Bits, size: int, mode: str) -> Image.Image:
    if mode == 'L':
        return Image.fromarray(unpack(bits, size))
    width = 8 * bits.shape[1]
    pixels: Any = np.take(_RGBX_OF_BYTE, bits, axis=0).data
    image = Image.frombytes('RGB', (width, size), pixels, 'raw', 'RGBX')
    return image if width == size else image.crop((0, 0, size, size))


def _load(root: Union[str, Path], spec: Fractal1Spec) -> tuple[Family, Fractal1Spec]:
    """Read a parameter file and the specification it was drawn from, which must not contradict the one asked for."""
    family = Family.load(root)
    saved = parse_name(family.name)
    if dataclasses.replace(spec, cache='auto', loader='auto') not in (Fractal1Spec(), saved):
        raise ValueError(f'{root} holds {family.name!r}, not {str(spec)!r}: name the data set {spec.type!r} alone')
    if not isinstance(saved, Fractal1Spec) or family.systems.shape[:2] != (saved.classes, saved.maps):
        raise ValueError(f'{root} is damaged: {family.name!r} does not have systems of shape {family.systems.shape}')
    return family, dataclasses.replace(saved, cache=spec.cache, loader=spec.loader)


TYPES: dict[str, Callable[..., Dataset[Any]]] = {'fractal1': Fractal1}


def create(name: str, split: str = 'train', **options: Any) -> Dataset[Any]:
    """Make a data set from its name; the options are those of its class."""
    return TYPES[parse_name(name).type](name, split, **options)
