"""Prepares folders of images for a sweep: examples for fine-tuning, and others for tests and pre-training.

Kinds in the section ``data`` of a sweep file:

- ``digits``: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels. All that are not trained on are tested on.
- ``folder``: ``train/CLASS/FILE`` and ``val/CLASS/FILE`` in ``--data NAME=FOLDER``, or downloaded by torchvision. The
  first ``reserve`` files of each class are for fine-tuning; the first ``test`` of ``val`` are for testing.
- ``rest``: the next ``count`` images per class of a ``folder``, for pre-training.
- ``photo``: the photograph of the astronaut Eileen Collins in scikit-image (NASA, public domain).

Each folder is made once, atomically.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sweep_file import fingerprint
from sweep_schema import Data, Digits, Images, Photo, Rest
from timm.data.readers import get_img_extensions


class Folders:
    """Makes and finds the folders of a sweep: in ``work``, or ``given`` by the user."""

    def __init__(self, data: Mapping[str, Data], work: Path, given: dict[str, Path]) -> None:
        folders = [name for name, images in data.items() if isinstance(images, Images)]
        if unknown := set(given) - set(folders):
            raise ValueError(f'--data {sorted(unknown)[0]}: must be one of {", ".join(folders) or "none"}')
        self.data, self.work, self.given = data, work, given
        self.sources: dict[str, tuple[Path, str]] = {}

    def get(self, name: str, shots: int | None, seed: int, stand_in: bool) -> tuple[str, int, int | None]:
        """Return a folder (or file) for train.py, and its numbers of training images and classes.

        Args:
            name: A key of the section ``data``.
            shots: Number of training images per class; None for all.
            seed: Seed of their selection.
            stand_in: Use noise images for a dry run, without downloads.
        """
        images = self.data[name]
        if isinstance(images, Photo):
            return str(self._made(self.work / f'{name}.png', _astronaut)), 1, None
        rest = images if isinstance(images, Rest) else None
        base = self.data[rest.of] if rest else images
        count = shots or (rest.count if rest else None)
        if count is None:
            raise ValueError(f'data {name}: shots must be given, the number of images per class')
        if isinstance(base, Images) and not rest and count > base.reserve:
            raise ValueError(f'data {name}: shots must be at most {base.reserve}, the images in reserve, got {count}')
        made = f'{name}-{count}' if rest else f'{name}-{count}-s{seed}'
        if stand_in:
            folder = Path(self.noise(base.classes))
        elif isinstance(base, Digits):
            folder = self._made(self.work / made, lambda path: _digits(path, count, seed))
        else:
            source, found = self._source(rest.of if rest else name, base)

            def make(path: Path) -> None:
                _few(source / 'train', path / 'train', count, base.reserve, None if rest else seed)
                _few(source / 'val', path / 'val', base.test, 0, None)

            # Different images or settings get a different folder.
            folder = self._made(self.work / fingerprint([found, base.given]) / made, make)
        return str(folder), count * base.classes, base.classes

    def noise(self, classes: int) -> str:
        """Return a folder with one noise image per class, for a dry run."""
        return str(self._made(self.work / f'stand-in-{classes}', lambda path: _noise(path, classes)))

    def _source(self, name: str, images: Images) -> tuple[Path, str]:
        """Return the user's folder or a downloaded one, and a digest of its location and file names."""
        if name not in self.sources:
            download = images.download
            if name not in self.given and not download:
                raise ValueError(f'data {name}: give its folder with --data {name}=FOLDER')
            source = self.given.get(name) or self._made(self.work / name, lambda path: _torchvision(download, path))
            names = [str(source)]
            for split in ('train', 'val'):
                folders = _classes(source / split)
                if len(folders) != images.classes:
                    rule = f'must have {images.classes} classes, as in the sweep file'
                    raise ValueError(f'data {name}: {source / split} {rule}, got {len(folders)}')
                names += [f'{split}/{file.parent.name}/{file.name}' for folder in folders for file in _files(folder)]
            self.sources[name] = source, fingerprint(names)
        return self.sources[name]

    def _made(self, path: Path, make: Callable[[Path], Any]) -> Path:
        """Make a file or folder atomically unless it exists."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f'.{secrets.token_hex(4)}-{path.name}')
            try:
                make(temporary)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            try:
                os.rename(temporary, path)
            except OSError:  # Another process was faster.
                shutil.rmtree(temporary, ignore_errors=True)
                if not path.exists():
                    raise
        return path


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _digits(path: Path, shots: int, seed: int) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    most = int(np.bincount(digits.target).min()) - 1
    if shots > most:
        raise ValueError(f'digits: shots must be at most {most}, to leave some for testing, got {shots}')
    few = {int(n) for digit in range(10) for n in order[digits.target[order] == digit][:shots]}
    for n, (image, label) in enumerate(zip(np.uint8(digits.images * 255 / 16), digits.target, strict=True)):
        _save(Image.fromarray(image), path / ('train' if n in few else 'val') / str(label) / f'{n:04d}.png')


def _classes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _files(folder: Path) -> list[Path]:
    """Return the files that timm takes for images, except hidden ones, in order."""
    images = get_img_extensions(as_set=True)
    files = (path for path in folder.iterdir() if path.suffix.lower() in images and not path.name.startswith('.'))
    return sorted(files)


def _few(source: Path, target: Path, count: int, skip: int, seed: int | None) -> None:
    """Link ``count`` files per class: after the first ``skip``, or with a seed, random ones of the first ``skip``."""
    rng = np.random.default_rng(seed)
    for folder in _classes(source):
        files = _files(folder)
        if seed is None:
            files = files[skip : skip + count]
        elif len(files) < skip:
            raise ValueError(f'{folder} has too few images: {skip} must be reserved, {len(files)} found')
        else:
            files = [files[n] for n in sorted(rng.permutation(skip)[:count])]
        if len(files) < count:
            raise ValueError(f'{folder} has too few images: {count} needed, {len(files)} found')
        (target / folder.name).mkdir(parents=True)
        for file in files:
            (target / folder.name / file.name).symlink_to(file.resolve())


def _noise(path: Path, classes: int) -> None:
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'validation'):
        for label in range(classes):
            noise = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
            _save(Image.fromarray(noise), path / split / f'{label:04d}' / '0.png')


def _astronaut(path: Path) -> None:
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(path, format='PNG')


def _torchvision(name: str, path: Path) -> None:
    import torchvision

    for split, train in (('train', True), ('val', False)):
        data = getattr(torchvision.datasets, name)(str(path.parent / 'download'), train=train, download=True)
        for n, (image, label) in enumerate(data):
            _save(image, path / split / data.classes[label].replace('/', '-') / f'{n:05d}.png')
