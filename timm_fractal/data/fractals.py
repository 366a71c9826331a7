"""Data sets of fractals: ``fractal1``, ``ofdb``, ``fractaldb``."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..fractal import categories
from ..fractal.ifs import Family
from ..fractal.render import LANES, row_bytes, unpack
from ..spec import Fractal1Spec, FractalDBSpec, IFSSpec, OFDBSpec, Spec, parse_name
from .base import Pixels, SyntheticDataset

_logger = logging.getLogger(__name__)

#: The IFS codes found for a specification, for the validation split after the training split.
families: dict[Spec, Family] = {}


class FractalDataset(SyntheticDataset):
    """Data sets of fractals: bit-packed, two gray levels."""

    spec: IFSSpec
    step = 16 * LANES

    #: The IFS codes of the data set; `Family.save` writes them to a file that ``root`` takes.
    family: Family

    def _open(self, root: str | Path | None) -> None:
        self._loaded: Family | None = None
        if root is not None and Path(root).is_dir():
            _logger.info('%s is rendered, nothing is read from %s', self.spec, root)
        elif root is not None:
            self._loaded, self.spec = _load(root, self.spec)

    def _instances(self) -> int:
        instances = super()._instances()
        if self.spec.scales and self.split == 'validation':
            # A thousand instances take as long to render as many epochs to train; these have all scaled parameters.
            return min(instances, len(categories.WEIGHTS))
        return instances

    def _shape(self) -> tuple[int, ...]:
        return self.spec.size, row_bytes(self.spec.size)

    def _fill(self) -> None:
        """Find the IFS codes, if they are not known, and fill the table."""
        table = None if self._table is None else self._table.numpy()
        # They do not depend on the canvas, nor on what changes no pixel.
        canonical = self.spec.canonical()
        everywhere: Any = dataclasses.replace(canonical, **categories.REFERENCE_CANVAS)
        family = self._loaded or _known(everywhere)
        rendered = 0
        if family is None:
            by_product = self.split == 'train' and everywhere == canonical and self.spec.perturbs
            family = categories.find(self.spec, self._progress, table if by_product else None, self._only)
            if self._only is None or len(set(self._only)) == self.num_classes:
                families[everywhere] = family
            rendered = self.num_classes if by_product and table is not None else 0
        self.family = family if self._loaded else dataclasses.replace(family, name=str(self.spec))
        if table is None:
            # What no canvas shows is refused now, not by a worker in the middle of a training run.
            self._render(sorted(self._only or range(min(LANES, self.num_classes)))[:LANES])
        elif rendered < len(table):
            for chunk in self._progress(len(table) - rendered):
                start, stop = chunk.start + rendered, chunk.stop + rendered
                self._render(range(start, stop), table[start:stop])

    def _render(self, numbers: Sequence[int], out: Pixels | None = None) -> Pixels:
        return categories.render_images(self.spec, self.split, self.family, numbers, out).bits

    def _to_pil(self, stored: Pixels, mode: str) -> Image.Image:
        if mode == 'L':
            return Image.fromarray(unpack(stored, self.spec.size))
        height, width = len(stored), 8 * stored.shape[1]
        pixels: Any = np.take(_RGBX_OF_BYTE, stored, axis=0).data
        image = Image.frombytes('RGB', (width, height), pixels, 'raw', 'RGBX')
        return image if width == height else image.crop((0, 0, height, height))


# The eight pixels of a byte as Pillow keeps RGB pixels, four bytes each: half the time of a conversion from gray.
_RGBX_OF_BYTE = unpack(np.arange(256, dtype=np.uint8)[:, None], 8).astype(np.uint32) * np.uint32(0x01010101)


def _known(spec: Spec) -> Family | None:
    """The IFS codes of a data set, if they have been found, or those of one with more classes."""
    if found := families.get(spec):
        return found
    count = spec.num_classes
    for other, family in list(families.items()):
        if type(other) is type(spec) and other.num_classes > count and other.first(count) == spec:
            return dataclasses.replace(family, bases=family.bases[:count], systems=family.systems[:count])
    return None


def _load(root: str | Path, spec: IFSSpec) -> tuple[Family, IFSSpec]:
    """Read a parameter file and the specification it was made from, which must not contradict the one asked for."""
    family = Family.load(root)
    saved = parse_name(family.name)
    if spec.canonical() not in (parse_name(spec.type), saved):
        raise ValueError(f'{root} holds {family.name!r}, not {str(spec)!r}: name the data set {spec.type!r} alone')
    counts = len(family.bases), len(family.systems)
    if not isinstance(saved, type(spec)) or counts != (saved.num_bases, saved.num_classes):
        shapes = f'{family.bases.shape} and {family.systems.shape}'
        raise ValueError(
            f'{root} is damaged or no {spec.type}: {family.name!r} has bases and systems of shape {shapes}'
        )
    return family, dataclasses.replace(saved, **spec.non_pixel_options())


class Fractal1(FractalDataset):
    """1p-frac: the classes are perturbations of one fractal ("Scaling Backwards", ECCV 2024, section 4).

    With ``fractals=K`` of K fractals. ``root`` is a parameter file, written by `Family.save`: the data set it was saved
    from, in place of one sampled from the seed. A folder is ignored, since there is nothing to read. See
    `SyntheticDataset` for the arguments.

    Examples:
        >>> dataset = Fractal1('fractal1/classes=3,size=64,points=5000', input_img_mode='L')
        >>> image, label = dataset[1]
        >>> len(dataset), image.size, image.mode, label
        (3, (64, 64), 'L', 1)
    """

    spec_type = Fractal1Spec


class OFDB(FractalDataset):
    """One image per category, every category an IFS of its own ("Pre-training Vision Transformers with Very Limited
    Synthesized Images", ICCV 2023). Arguments as for `Fractal1`.

    Examples:
        >>> len(OFDB('ofdb/classes=10,size=64'))
        10
    """

    spec_type = OFDBSpec


class FractalDB(FractalDataset):
    """Categories as those of `OFDB` with many instances each ("Pre-training without Natural Images", ACCV 2020).

    A million images are 33 GB: they are rendered on access. The validation split has at most 25 instances per class.
    Arguments as for `Fractal1`.

    Examples:
        >>> dataset = FractalDB('fractaldb/classes=10,instances=100,size=64')
        >>> len(dataset), dataset[523][1]
        (1000, 3)
    """

    spec_type = FractalDBSpec
