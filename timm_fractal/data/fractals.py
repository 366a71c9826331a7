"""Data sets of fractals: ``fractal1``, ``ofdb``, ``fractaldb``."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from .._utils.console import is_primary, warn_once
from .._utils.device import to_device
from .._utils.files import list_files
from .._utils.messages import listed
from ..fractal import ifs
from ..fractal.canvas import row_bytes, unpack
from ..fractal.codes import WEIGHTS, find_codes, render_images
from ..fractal.csv_codes import in_order, read_categories
from ..fractal.ifs import AddressSequences, Array, IFSCodes
from ..fractal.render import LANES, render, render_on
from ..spec import Fractal1Spec, FractalDBSpec, IFSSpec, OFDBSpec, Spec, parse_name
from .base import Pixels, SyntheticDataset

_logger = logging.getLogger(__name__)

#: Cached IFS codes by specification and base IFS read from a file, if any: the validation split reuses those of the
#: training split.
known_codes: dict[tuple[Spec, bytes], IFSCodes] = {}

# Options that describe the base fractals; invalid with a base fractal from a file.
_BASE_OPTIONS = ('fractals', 'maps', 'sigma')


class FractalDataset(SyntheticDataset):
    """Base class of the fractal data sets: bit-packed images with two gray levels."""

    spec: IFSSpec
    step = 16 * LANES

    #: The IFS codes of the data set; ``root`` accepts a file written by `IFSCodes.save`.
    codes: IFSCodes

    def _open(self, root: str | Path | None) -> None:
        self._loaded: IFSCodes | None = None
        #: Base IFS from a file and its probabilities, shapes (1, N, 2, 3) and (1, N).
        self._base: tuple[Array, Array] | None = None
        if root is None or (Path(root).is_dir() and not self.spec.reads_folders):
            super()._open(root)
        elif not Path(root).is_dir() and Path(root).suffix.lower() != '.csv':
            self._loaded, self.spec = _load(root, self.spec)
            self.files = [Path(root)]
        elif self.spec.perturbs:
            self.files = [Path(root)]
            self._base = _read_base(Path(root), self.spec)
        else:
            self.files = _list_categories(Path(root), self.spec)
            systems, probs = read_categories(self.files)
            self._loaded = IFSCodes(str(self.spec), systems, systems, probs)
        if self.files and is_primary():
            _logger.info('%s, %s split: IFS codes of %s', self.spec, self.split, root)

    def _shape(self) -> tuple[int, ...]:
        return self.spec.size, row_bytes(self.spec.size)

    def _fill(self) -> None:
        table = None if self._table is None else self._table.numpy()
        # IFS codes do not depend on the canvas.
        canonical = self.spec.canonical()
        everywhere = canonical.on_reference_canvas()
        key = everywhere, b''.join(array.tobytes() for array in self._base or ())
        codes = self._loaded or _known(*key)
        rendered = 0
        if codes is None:
            by_product = self.split == 'train' and everywhere == canonical and self.spec.perturbs
            rendered_too = table if by_product else None
            codes = find_codes(self.spec, self._progress, rendered_too, self.only, self._base)
            if self.only is None or len(set(self.only)) == self.num_classes:
                known_codes[key] = codes
            rendered = self.num_classes if by_product and table is not None else 0
        self.codes = codes if self._loaded else dataclasses.replace(codes, name=str(self.spec))
        if table is None:
            # Degenerate images are reported now, not by a worker in the middle of training.
            self._render(sorted(self.only or range(min(LANES, self.num_classes)))[:LANES])
        elif rendered < len(table):
            for chunk in self._progress(len(table) - rendered):
                start, stop = chunk.start + rendered, chunk.stop + rendered
                self._render(range(start, stop), table[start:stop])

    def _render(self, numbers: Sequence[int], out: Pixels | None = None) -> Pixels:
        return render_images(self.spec, self.split, self.codes, numbers, out).bits

    def redraw(self, numbers: npt.NDArray[np.int64], generator: torch.Generator, device: torch.device) -> torch.Tensor:
        spec = self.spec
        sampled = torch.randint(2**32, (2 * len(numbers) + 1,), generator=generator).numpy().astype(np.uint32)
        classes = numbers % self.num_classes
        bases, which = np.unique(classes % spec.num_bases, return_inverse=True)
        # Sorted, so that images with the same address sequence are adjacent.
        order = np.argsort(which, kind='stable')
        thresholds = np.stack([ifs.thresholds(self.codes.probabilities(base)) for base in bases])[which[order]]
        addresses = AddressSequences(ifs.draws(spec.points, int(sampled[-1])), thresholds)
        systems, keys = self.codes.systems[classes[order]], sampled[:-1].reshape(-1, 2)[order]
        if device.type == 'cpu':
            images = torch.from_numpy(unpack(render(systems, addresses, keys, spec.size, spec.patch).bits, spec.size))
        else:
            images = render_on(device, systems, addresses, keys, spec.size, spec.patch)
        if len(bases) > 1:
            images = images[to_device(np.argsort(order), device)]
        return images[:, None]

    def _to_pil(self, stored: Pixels, mode: str) -> Image.Image:
        if mode == 'L':
            return Image.fromarray(unpack(stored, self.spec.size))
        height, width = len(stored), 8 * stored.shape[1]
        pixels: Any = np.take(_RGBX_OF_BYTE, stored, axis=0).data
        image = Image.frombytes('RGB', (width, height), pixels, 'raw', 'RGBX')
        return image if width == height else image.crop((0, 0, height, height))


# The eight pixels of a byte in Pillow's RGB layout, four bytes each: twice as fast as converting from gray.
_RGBX_OF_BYTE = unpack(np.arange(256, dtype=np.uint8)[:, None], 8).astype(np.uint32) * np.uint32(0x01010101)


def _known(spec: Spec, base: bytes) -> IFSCodes | None:
    """Return the cached IFS codes of a data set, or of the same one with more classes; None if there are none."""
    if found := known_codes.get((spec, base)):
        return found
    count = spec.classes
    for (other, its_base), codes in list(known_codes.items()):
        if its_base == base and other.classes > count and other.first(count) == spec:
            return dataclasses.replace(codes, bases=codes.bases[:count], systems=codes.systems[:count])
    return None


def _load(root: str | Path, spec: IFSSpec) -> tuple[IFSCodes, IFSSpec]:
    """Read a parameter file and its specification, which must not contradict ``spec``."""
    codes = IFSCodes.load(root)
    saved = parse_name(codes.name)
    if spec.canonical() not in (parse_name(spec.type), saved):
        raise ValueError(f'{root} holds {codes.name!r}, not {str(spec)!r}: use the name {spec.type!r} without options')
    counts = len(codes.bases), len(codes.systems)
    if not isinstance(saved, type(spec)) or counts != (saved.num_bases, saved.num_classes):
        shapes = f'{codes.bases.shape} and {codes.systems.shape}'
        raise ValueError(
            f'{root} is damaged or not for {spec.type}: {codes.name!r} has bases and systems of shape {shapes}'
        )
    return codes, dataclasses.replace(saved, **spec.non_pixel_options())


def _read_base(path: Path, spec: IFSSpec) -> tuple[Array, Array]:
    """Read the base fractal of a data set from a category file."""
    if not path.is_file():
        raise FileNotFoundError(f'--data-dir: no such file: {str(path)!r}')
    given = [name for name in _BASE_OPTIONS if getattr(spec, name) != getattr(type(spec), name)]
    if given:
        raise ValueError(f'{spec}: {path} defines the base fractal: leave out {" and ".join(given)}')
    return read_categories([path])


def _list_categories(root: Path, spec: IFSSpec) -> list[Path]:
    """List the category files of a data set: the first ones in a folder and its subfolders."""
    if root.is_file():
        raise ValueError(
            f'{spec.type}: {root} is a single category, but at least 2 are needed: --data-dir must be a folder of such '
            f'files; fractal1 takes a single one as its base fractal'
        )
    if not root.exists():
        raise FileNotFoundError(f'--data-dir: no such file or folder: {str(root)!r}')
    found, others = list_files(root, ['.csv'])
    if not found:
        raise ValueError(
            f'{spec.type}: --data-dir must be a folder of CSV files, one per category, got {str(root)!r}, which has '
            f'none: leave it out to find categories by random search'
        )
    if len(found) < spec.num_classes:
        least = f'use classes={len(found)}' if len(found) > 1 else 'at least 2 are needed'
        raise ValueError(
            f'{spec}: classes must be at most the number of CSV files in {root}, '
            f'got {spec.num_classes} classes and {len(found)} files: {least}'
        )
    if others:
        warn_once(_logger, '%s: skipped files in %s that are not CSV files: %s', *(spec.type, root, listed(others)))
    return in_order(found)[: spec.num_classes]


class Fractal1(FractalDataset):
    """1p-frac: the classes are perturbations of one fractal ("Scaling Backwards", ECCV 2024, section 4).

    With ``fractals=K`` they are perturbations of K fractals. ``root`` is a parameter file written by `IFSCodes.save`,
    which replaces sampling from the seed; or one CSV file of a FractalDB or OFDB category, see `OFDB`, which becomes
    the base fractal. A folder is ignored with a warning. See `SyntheticDataset` for the arguments.

    Examples:
        >>> dataset = Fractal1('fractal1/classes=3,size=64,points=5000', input_img_mode='L')
        >>> image, label = dataset[1]
        >>> len(dataset), image.size, image.mode, label
        (3, (64, 64), 'L', 1)
    """

    spec_type = Fractal1Spec


class OFDB(FractalDataset):
    """One image per category, each a different IFS ("Pre-training Vision Transformers with Very Limited Synthesized
    Images", ICCV 2023).

    ``root`` is a parameter file, as for `Fractal1`, or a folder of CSV files as published by the authors, one per
    category, searched with its subfolders: rows ``a, b, c, d, e, f, p`` of the maps ``x' = a x + b y + e, y' = c x + d
    y + f`` and their probabilities. Class k is the k-th file in natural order (2 before 10). See `SyntheticDataset` for
    the other arguments.

    Examples:
        >>> len(OFDB('ofdb/classes=10,size=64'))
        10
    """

    spec_type = OFDBSpec


class FractalDB(FractalDataset):
    """The categories of `OFDB` with many instances each ("Pre-training without Natural Images", ACCV 2020).

    A million images would take 33 GB, so they are rendered on access. The validation split has at most 25 instances per
    class. Arguments as for `OFDB`.

    Examples:
        >>> dataset = FractalDB('fractaldb/classes=10,instances=100,size=64')
        >>> len(dataset), dataset[523][1]
        (1000, 3)
    """

    spec_type = FractalDBSpec
    # One instance per entry of `WEIGHTS`.
    max_validation = len(WEIGHTS)
