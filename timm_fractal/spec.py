"""Data set names <-> specifications: ``fractal1/delta=0.05,classes=21000`` is ``Fractal1Spec(delta=0.05, ...)``.

One frozen dataclass per data set type is the single source of its options (names, defaults, ranges, docs, errors) and
of its traits (what it reads from ``--data-dir``, whether it has IFS codes, its mode, ...): use these traits instead of
isinstance. `SPECS` holds the built-in and the registered types (see `timm_fractal.data.register`).
"""

import dataclasses
import functools
import logging
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from ._utils.messages import nearest

T = TypeVar('T')
SpecT = TypeVar('SpecT', bound='Spec')
IFSSpecT = TypeVar('IFSSpecT', bound='IFSSpec')

_logger = logging.getLogger('timm_fractal')

#: Maximum number of samples per epoch; a float represents every integer up to it exactly.
MAX_SAMPLES = 2**53

#: Maximum length of a data set name, in characters.
MAX_NAME = 1000

#: Names of the warps and of the views in `timm_fractal.shape`.
WARPS = ('affine', 'homography', 'elastic', 'polynomial')
VIEWS = ('gray', 'rgb', 'contour')
#: The patches that a point of the chaos game can paste; kernels get the index.
PATCHES = ('random', 'fill', 'point')
RANDOM, FILL, POINT = range(len(PATCHES))


def option(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    images: bool = True,
) -> T:
    """Declare an option of a data set name.

    Args:
        default: Default value; its type is the option's type.
        doc: One-line description for tables and help texts.
        low: Minimum.
        high: Maximum.
        above: Exclusive minimum.
        below: Exclusive maximum.
        choices: Valid values of a string option.
        images: Whether it affects the images; options that don't are left out of the canonical name.
    """
    rules = dict(doc=doc, low=low, high=high, above=above, below=below, choices=choices, images=images)
    field: T = dataclasses.field(default=default, metadata=rules)
    return field


_classes = functools.partial(option, 1000, low=2, high=1_000_000)
_seed = functools.partial(option, low=0, high=2**32 - 1)

_KINDS: dict[type, str] = {int: 'an integer', float: 'a number', str: 'a string'}

#: Bounds of an option: the comparison that must hold, and its wording in messages.
RULES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    'low': (operator.ge, 'at least'),
    'above': (operator.gt, 'greater than'),
    'high': (operator.le, 'at most'),
    'below': (operator.lt, 'less than'),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """Base class of all specifications: parsing, validation, the canonical name, default traits."""

    #: Name of the type, the first part of a data set name.
    type: ClassVar[str]
    #: Contents of ``--data-dir``: none, IFS codes (optional, and they can be saved), or images.
    reads: ClassVar[Literal['', 'codes', 'images']] = ''
    #: Whether ``--data-dir`` may be a folder of such files.
    reads_folders: ClassVar[bool] = False
    #: Whether images have two gray levels and are stored as bits.
    is_packed: ClassVar[bool] = False
    #: Whether instances of a class are at random positions, which rules out comparing pixels.
    random_position: ClassVar[bool] = False
    #: Whether images may be rendered concurrently in threads.
    thread_safe: ClassVar[bool] = True
    #: Option for the number of bases, if there is one: class k is a perturbation of base ``k % bases``.
    bases_option: ClassVar[str] = ''
    #: Options that come last in names, in this order.
    last_options: ClassVar[tuple[str, ...]] = ('size', 'seed', 'cache', 'loader')

    classes: int = _classes('number of classes')
    size: int = option(512, 'width and height of the images in pixels', low=16, high=4096)
    seed: int = _seed(0, 'seed of the classes')
    cache: str = option(
        'auto',
        'keep images in shared memory, or render them on access',
        choices=('auto', 'shared', 'none'),
        images=False,
    )
    loader: str = option(
        'auto', "batches come from timm's loader, or from the device loader", choices=('auto', 'device'), images=False
    )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.classes

    @property
    def num_bases(self) -> int:
        """Number of bases: one per class unless classes are perturbations."""
        return int(vars(self).get(self.bases_option) or self.classes)

    @property
    def has_instances(self) -> bool:
        """Whether a class can have several training images."""
        return 'instances' in vars(self)

    @property
    def num_instances(self) -> int:
        """Number of training images per class."""
        return int(vars(self).get('instances', 1))

    @property
    def mode(self) -> str:
        """Pillow mode of the images: ``'L'``, or ``'RGB'`` for color."""
        return 'L'

    @property
    def redraws(self) -> bool:
        """Whether training samples are rendered anew, with fresh noise in every batch."""
        return False

    @classmethod
    def fields(cls) -> 'tuple[dataclasses.Field[Any], ...]':
        """Return the options in the order of canonical names."""
        last = {name: place for place, name in enumerate(cls.last_options)}
        return tuple(sorted(dataclasses.fields(cls), key=lambda field: last.get(field.name, -1)))

    def __post_init__(self) -> None:
        for field in self.fields():
            value = getattr(self, field.name)
            kind = type(field.default)
            if kind is float and type(value) in (int, float):
                # Adding 0.0 turns -0.0 into 0.0, so that equal data sets have equal names.
                object.__setattr__(self, field.name, float(value) + 0.0)
            elif type(value) is not kind:
                raise TypeError(f'{self.type}: {field.name} must be {_KINDS[kind]}, got {value!r}')
            self._check(field)
        if self.num_bases > self.classes:
            raise ValueError(
                f'{self.type}: {self.bases_option} must be at most classes = {self.classes}, got {self.num_bases}: '
                f'each needs a class'
            )

    def _check(self, field: 'dataclasses.Field[Any]') -> None:
        value, rules = getattr(self, field.name), field.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'{self.type}: {field.name} must be a finite number, got {value}')
        if rules['choices'] and value not in rules['choices']:
            raise ValueError(f'{self.type}: unknown {field.name} {value!r}; {nearest(value, rules["choices"])}')
        for rule, (holds, words) in RULES.items():
            if rules[rule] is not None and not holds(value, rules[rule]):
                raise ValueError(f'{self.type}: {field.name} must be {words} {rules[rule]}, got {value}')

    @classmethod
    def parse(cls, options: str) -> 'Spec':
        """Parse the part of a data set name after the first ``/``."""
        fields = {field.name: field for field in cls.fields()}
        values: dict[str, Any] = {}
        for item in options.split(','):
            key, equals, text = (part.strip() for part in item.partition('='))
            if not equals or not key or not text:
                raise ValueError(
                    f'{cls.type}/{options}: expected option=value after the "/" and after every ",", got {item!r}; '
                    f'options: {", ".join(fields)}'
                )
            if key not in fields:
                raise ValueError(f'{cls.type}: unknown option {key!r}; {nearest(key, fields)}')
            if key in values:
                raise ValueError(f'{cls.type}: option {key!r} is given twice')
            kind: Any = type(fields[key].default)
            try:
                values[key] = kind(text)
            except ValueError:
                raise ValueError(f'{cls.type}: {key} must be {_KINDS[kind]}, got {text!r}') from None
        return cls(**values)

    def __str__(self) -> str:
        """Return the canonical name; it and the files in ``--data-dir``, if any, determine the images."""
        return self.canonical().name()

    @property
    def provenance(self) -> str:
        """The canonical name of what a model is trained on, which includes ``redraw=true``."""
        return str(self)

    def first(self: SpecT, classes: int) -> SpecT:
        """Return the specification of the first classes; class k is the same for any number of classes."""
        bases: Any = {self.bases_option: min(vars(self)[self.bases_option], classes)} if self.bases_option else {}
        return dataclasses.replace(self, classes=classes, **bases)

    def canonical(self: SpecT) -> SpecT:
        """Return the specification with all options that don't affect the images at their defaults."""
        return dataclasses.replace(self, **type(self)().non_pixel_options())

    def non_pixel_options(self) -> dict[str, Any]:
        """Return the options that don't affect the images, with their values."""
        return {field.name: getattr(self, field.name) for field in self.fields() if not field.metadata['images']}

    def name(self) -> str:
        """Return the data set name: the options that differ from their defaults, in a fixed order."""
        options = [
            f'{field.name}={getattr(self, field.name)}'
            for field in self.fields()
            if getattr(self, field.name) != field.default
        ]
        return f'{self.type}/{",".join(options)}' if options else self.type


@dataclasses.dataclass(frozen=True)
class Formula(Spec):
    """Base class for the options of a data set that a function renders; see `timm_fractal.data.register`.

    A subclass is a frozen dataclass with a docstring, a ``type`` (the name of the data set), and options declared with
    `option`. It inherits ``classes``, ``size``, ``seed``, ``cache`` and ``loader``, and may redeclare them with other
    defaults.

    With an option ``instances``, a class has that many training images, and the validation split has different
    instances, at most 25 per class. Without it, a class has one training image; its validation image is a crop of it
    (95 to 100 % of each side) with different contrast and brightness.

    Traits are set without an annotation: ``mode = 'RGB'`` for color images (the default is ``'L'``); ``random_position
    = True`` if instances of a class are at random positions, so that comparing pixels doesn't tell how separable
    classes are; ``thread_safe = False`` if images must not be rendered concurrently in threads.
    """

    type = 'formula'


@dataclasses.dataclass(frozen=True)
class IFSSpec(Spec):
    """Base class of the fractal data sets: class k is made from base IFS ``k % num_bases``."""

    reads = 'codes'
    is_packed = True
    last_options: ClassVar[tuple[str, ...]] = ('points', 'size', 'patch', 'seed', 'cache', 'loader')
    #: Whether classes are perturbations of sampled bases; if not, each class is a base found by FractalDB's random
    #: search.
    perturbs: ClassVar[bool] = False
    #: Whether instances scale a parameter and flip the image; if not, each has a different address sequence.
    scales: ClassVar[bool] = False

    points: int = option(100_000, 'points of the chaos game per image', low=1, high=100_000_000)
    patch: str = option('random', 'patch pasted at each point', choices=PATCHES)

    def on_reference_canvas(self: IFSSpecT) -> IFSSpecT:
        """Return the data set on the default canvas.

        Emptiness is judged on it, so that the IFS codes of a seed do not depend on the canvas of the data set.
        """
        return dataclasses.replace(self, points=IFSSpec.points, size=IFSSpec.size, patch=IFSSpec.patch)


@dataclasses.dataclass(frozen=True)
class Fractal1Spec(IFSSpec):
    """One fractal, perturbed: 1p-frac of "Scaling Backwards: Minimal Synthetic Pre-training?" (ECCV 2024).

    The defaults are those of the paper (section 4) and of the authors' released generator. The authors did not seed
    their fractal, and it matters which one it is. Seed 20 is among the best of 40 after training, has the second
    highest score of ``timm-fractal doctor --seeds``, and was confirmed with other training seeds (docs/results.md).

    With ``fractals=K``, class k is a perturbation of base fractal ``k % K``; the paper goes from 1,000 base fractals
    down to 1.

    Examples:
        >>> spec = parse_name('fractal1/classes=21000,delta=0.05')
        >>> spec.classes, spec.delta, spec.sigma
        (21000, 0.05, 3.5)
        >>> str(spec)
        'fractal1/classes=21000,delta=0.05'
    """

    type = 'fractal1'
    perturbs = True
    bases_option = 'fractals'
    last_options = ('points', 'size', 'patch', 'perturb', 'fractals', 'seed', 'instances', 'cache', 'loader', 'redraw')

    classes: int = _classes('number of perturbed fractals, one per class')
    delta: float = option(0.1, 'strength of the perturbation', low=0, below=1)
    sigma: float = option(3.5, 'sigma-factor (complexity) of the base IFS, less than 3 * maps', above=0)
    maps: int = option(2, 'number of affine maps of the IFS', low=2, high=64)
    perturb: str = option(
        'multiply', 'parameter * U(1-delta, 1+delta), or + U(-delta/2, delta/2)', choices=('multiply', 'add')
    )
    fractals: int = option(
        1, 'number of base fractals, at most classes, which are divided among them', low=1, high=1_000_000
    )
    seed: int = _seed(20, 'seed of the base fractals')
    instances: int = option(1, 'images per class: same shape, different noise', low=1, high=1_000_000)
    redraw: str = option(
        'false', 'fresh noise in every training batch; needs loader=device', choices=('false', 'true'), images=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.redraw == 'true' and self.loader != 'device':
            raise ValueError(f'fractal1: redraw=true needs loader=device, got loader={self.loader}')
        if self.sigma >= 3 * self.maps:
            raise ValueError(
                f'fractal1: sigma must be less than 3 * maps = {3 * self.maps}, got {self.sigma}: '
                f'each map adds at most 3 to the sigma-factor'
            )

    @property
    def redraws(self) -> bool:
        return self.redraw == 'true'

    @property
    def provenance(self) -> str:
        # The device loader is needed for it.
        kept: Any = {'loader': self.loader, 'redraw': self.redraw} if self.redraws else {}
        return dataclasses.replace(self.canonical(), **kept).name()


@dataclasses.dataclass(frozen=True)
class OFDBSpec(IFSSpec):
    """OFDB: one image per category, each a different IFS ("Pre-training Vision Transformers with Very Limited
    Synthesized Images", ICCV 2023).

    The categories are those of `FractalDBSpec` with the same seed. Images are rendered as in `Fractal1Spec`, so that
    comparing the two data sets compares shapes.
    """

    type = 'ofdb'
    reads_folders = True

    classes: int = _classes('number of categories, each a different IFS')
    seed: int = _seed(0, 'seed of the random search')


@dataclasses.dataclass(frozen=True)
class FractalDBSpec(IFSSpec):
    """FractalDB ("Pre-training without Natural Images", ACCV 2020): categories found by random search, many images
    each.

    Instance i scales one of the six parameters of all maps (``i % 25``: none, or a to f times 0.8, 0.9, 1.1, 1.2),
    flips the image (``i // 25 % 4``: none, left to right, top to bottom, both) and has different patches.
    """

    type = 'fractaldb'
    reads_folders = True
    scales = True

    classes: int = _classes('number of categories, each a different IFS')
    instances: int = option(
        1000, 'images per class: one parameter scaled, flips, different patches', low=1, high=1_000_000
    )
    seed: int = _seed(0, 'seed of the random search')


@dataclasses.dataclass(frozen=True)
class Image1Spec(Spec):
    """Warps of one real image as classes ("Scaling Backwards", the section on real images).

    Class k is a fixed warp of the image; see `timm_fractal.shape` for the warps and the meaning of ``delta``, their
    magnitude. The authors have not published theirs. The default is larger than that of `Fractal1Spec` because random
    crops hide shifts: on 100 classes of a photograph a small ViT reached 13 % accuracy after 100,000 images with 0.1,
    and 50 % with 0.3.
    """

    type = 'image1'
    reads = 'images'
    reads_folders = True

    classes: int = _classes('number of warps, one per class')
    warp: str = option('affine', 'type of shape augmentation', choices=WARPS)
    delta: float = option(0.3, 'magnitude of the warps', low=0, high=1)
    view: str = option('gray', 'what is warped: the image in gray or in color, or its edges', choices=VIEWS)
    seed: int = _seed(0, 'seed of the warps')

    @property
    def mode(self) -> str:
        return 'RGB' if self.view == 'rgb' else 'L'


@dataclasses.dataclass(frozen=True)
class Noise1Spec(Formula):
    """One noise image, perturbed: the control in "Scaling Backwards" that shows that shape matters.

    Pixels replace the IFS parameters of `Fractal1Spec`: class k multiplies each pixel of the image by a separate
    sample of U(1 - delta, 1 + delta).
    """

    type = 'noise1'

    classes: int = _classes('number of perturbed images, one per class')
    noise: str = option('gaussian', 'distribution of the gray levels', choices=('gaussian', 'uniform'))
    delta: float = option(0.1, 'strength of the perturbation', low=0, below=1)
    seed: int = _seed(0, 'seed of the noise')


@dataclasses.dataclass(frozen=True)
class VisualAtomSpec(Formula):
    """VisualAtom ("Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves", CVPR 2023), for comparison.

    A class is a formula: nested noisy closed contours, modulated by two waves. Instances differ in position and noise.
    Ranges as published: 200 to 1,000 vertices, 1 to 200 contours, noise amplitude 2 to 6, spacing up to 0.01, radius up
    to 50, wave numbers up to 20, stretch 1 to 2.

    With ``atoms=K``, class k is a perturbation of atom ``k % K``: "Scaling Backwards" applied to this formula.
    """

    type = 'visualatom'
    random_position = True
    bases_option = 'atoms'

    classes: int = _classes('number of formulas, one per class')
    instances: int = option(1000, 'images per class: different position and noise', low=1, high=1_000_000)
    atoms: int = option(
        0, 'number of base atoms that are perturbed; 0: each class has a different atom', low=0, high=1_000_000
    )
    delta: float = option(0.1, 'strength of the perturbation, if atoms is at least 1', low=0, below=1)
    seed: int = _seed(0, 'seed of the atoms')

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.atoms and self.delta != type(self).delta:
            raise ValueError(f'visualatom: delta={self.delta} needs atoms of at least 1, got atoms=0: add atoms=1')


#: Entry point group in which packages declare data set types: the name of an entry is a type, its value the module that
#: registers it.
ENTRY_POINTS = 'timm_fractal.datasets'

#: Names that timm uses: its prefixes, and its torchvision data sets.
RESERVED = frozenset(
    'torch hfds hfids tfds wds folder image_folder formula cifar10 cifar100 mnist kmnist fashion_mnist qmnist imagenet '
    'inaturalist places365'.split()
)

_NAME = re.compile('[a-z][a-z0-9_]{0,49}')


class Types(Mapping[str, type[Spec]]):
    """Data set types by name: built-in, registered, or declared by installed packages.

    Listing the names imports nothing; the module of an entry point is imported on first access to its type.
    """

    def __init__(self, *specs: type[Spec]) -> None:
        #: Types of this package.
        self.built_in = {spec.type: spec for spec in specs}
        self._specs = dict(self.built_in)

    def __getitem__(self, name: str) -> type[Spec]:
        if name not in self._specs:
            self._load(name)
        return self._specs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._specs or name in _entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter({**self._specs, **_entry_points()})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def load_all(self) -> tuple[dict[str, type[Spec]], list[str]]:
        """Load all types.

        Returns:
            The types that could be loaded, and an error message for each of the others.
        """
        found: dict[str, type[Spec]] = {}
        problems = []
        for name in self:
            try:
                found[name] = self[name]
            except ValueError as error:
                problems.append(str(error))
        for name, points in _entry_points(usable=False).items():
            packages = ' and '.join(sorted({_package(point) for point in points}))
            why = 'the name is taken' if _NAME.fullmatch(name) else 'a name must be lower-case letters, digits and _'
            problems.append(f'data set {name!r} of the package {packages} is ignored: {why}')
        return found, problems

    def loaded(self) -> dict[str, type[Spec]]:
        """Return all types that can be loaded, with a warning for each of the others."""
        found, problems = self.load_all()
        for problem in problems:
            _logger.warning('%s', problem)
        return found

    def add(self, spec: type[Spec]) -> None:
        """Add a type. A class of the same module and name, such as that of a reloaded module, replaces the old one.

        Raises:
            TypeError: It is not a frozen dataclass derived from `Formula`.
            ValueError: Its name is taken, or an option is declared incorrectly.
        """
        _check_type(spec)
        old = self._specs.get(spec.type)
        if old is not None and _qualname(old) != _qualname(spec):
            raise ValueError(f'{_qualname(spec)}: type {spec.type!r} is taken by {_qualname(old)}: choose another name')
        self._specs[spec.type] = spec

    def _load(self, name: str) -> None:
        points = _entry_points().get(name, [])
        if not points:
            raise KeyError(name)
        packages = ' and '.join(sorted({_package(point) for point in points}))
        if len({point.value for point in points}) > 1:
            raise ValueError(f'data set {name!r} is in several packages, {packages}: uninstall all but one')
        try:
            points[0].load()
        except Exception as error:
            raise ValueError(
                f'data set {name!r} of the package {packages} cannot be loaded: {type(error).__name__}: {error}'
            ) from error
        if name not in self._specs:
            raise ValueError(
                f'data set {name!r} of the package {packages} cannot be loaded: importing {points[0].value!r} '
                f'registers no type of that name'
            )


def _entry_points(usable: bool = True) -> dict[str, list[Any]]:
    """Return the entry points of installed packages; not cached, since a notebook may install a package."""
    from importlib.metadata import entry_points

    taken = RESERVED | SPECS.built_in.keys()
    found: dict[str, list[Any]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if usable == bool(_NAME.fullmatch(point.name) and point.name not in taken):
            found.setdefault(point.name, []).append(point)
    return found


def _package(point: Any) -> str:
    return str(point.dist.name) if point.dist else str(point.value)


def _qualname(spec: type) -> str:
    return f'{spec.__module__}.{spec.__qualname__}'


def _check_type(spec: type[Spec]) -> None:
    """Report mistakes in a type at registration rather than on first use."""
    if not (isinstance(spec, type) and issubclass(spec, Formula)):
        raise TypeError(f'spec must be a class derived from timm_fractal.data.Formula, got {spec!r}')
    own, place = vars(spec), _qualname(spec)
    if '__dataclass_fields__' not in own or not own['__dataclass_params__'].frozen:
        raise TypeError(f'{place} must be a frozen dataclass: put @dataclasses.dataclass(frozen=True) above it')
    if not (isinstance(own.get('type'), str) and _NAME.fullmatch(own['type'])):
        raise ValueError(
            f'{place}: type must be a lower-case letter and up to 49 more letters, digits or _, '
            f"got {own.get('type')!r}: set it in the class, as in type = 'contours'"
        )
    if spec.type in RESERVED:
        raise ValueError(f'{place}: type {spec.type!r} is taken by timm: choose another name')
    for field in dataclasses.fields(spec):
        rules, default = field.metadata, field.default
        if not _NAME.fullmatch(field.name):
            raise ValueError(
                f'{place}: option {field.name!r} must have a lower-case name: names are converted to lower case'
            )
        if 'doc' not in rules:
            raise TypeError(
                f"{place}: {field.name} must be declared by option, as in {field.name}: int = option(3, 'what it is'); "
                f'traits have no annotation'
            )
        if type(default) not in _KINDS:
            raise TypeError(f'{place}: the default of {field.name} must be an int, a float or a str, got {default!r}')
        if (declared := getattr(field.type, '__name__', field.type)) != type(default).__name__:
            raise TypeError(f'{place}: {field.name} is declared as {declared}, but its default is {default!r}')
        if isinstance(default, str) and not rules['choices']:
            raise ValueError(f'{place}: {field.name} is a string and needs choices=(...)')
        if any(not _WORD.fullmatch(word) for word in rules['choices']):
            raise ValueError(f'{place}: choices of {field.name} must be lower-case words, got {rules["choices"]}')
    if (mode := spec().mode) not in ('L', 'RGB'):
        raise ValueError(f"{place}: mode must be 'L' or 'RGB', got {mode!r}")


_WORD = re.compile('[a-z0-9][a-z0-9_.+-]*')

SPECS = Types(Fractal1Spec, Image1Spec, OFDBSpec, FractalDBSpec, VisualAtomSpec, Noise1Spec)


def parse_name(name: str) -> Spec:
    """Parse a data set name, ``type`` or ``type/option=value,option=value``.

    Args:
        name: For instance ``'fractal1'`` or ``'fractal1/delta=0.05,classes=21000,seed=3'``; case and the prefix
            ``torch/`` are ignored.

    Returns:
        The validated specification.

    Raises:
        ValueError: Unknown type or option (the nearest valid one is named), a value that is not a number or out of
            range, an option given twice, or nothing after the ``/``.
    """
    if len(name) > MAX_NAME:
        raise ValueError(f'a data set name must have at most {MAX_NAME} characters, got {len(name)}')
    # As timm does; the prefix selects its table of torchvision data sets, where ours are also registered.
    kind, slash, options = name.lower().removeprefix('torch/').partition('/')
    if kind not in SPECS:
        raise ValueError(f'unknown data set {kind!r}; {nearest(kind, SPECS)}')
    return SPECS[kind].parse(options) if slash else SPECS[kind]()
