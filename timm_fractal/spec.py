"""Data set names <-> specifications: ``fractal1/delta=0.05,classes=21000`` is ``Fractal1Spec(delta=0.05, ...)``.

One frozen dataclass per data set type is the single source of its options (names, defaults, ranges, docs, errors) and
of its traits (what it reads from ``--data-dir``, whether it has IFS codes, its mode, ...): use these traits instead of
isinstance. `SPECS` has the types of this package, and those that others register (see `timm_fractal.data.register`).
"""

import dataclasses
import functools
import logging
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ._utils.messages import nearest

T = TypeVar('T')
SpecT = TypeVar('SpecT', bound='Spec')

_logger = logging.getLogger('timm_fractal')

#: The longest epoch, in samples: whole numbers of a float up to it are exact.
MAX_SAMPLES = 2**53

#: The longest name of a data set, in characters.
MAX_NAME = 1000

#: Names of the warps and of the views in `timm_fractal.shape`.
WARPS = ('affine', 'homography', 'elastic', 'polynomial')
VIEWS = ('gray', 'rgb', 'contour')
#: What a point of the chaos game pastes; kernels get the place in this list.
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
        default: Its value when the name does not mention it; its type is the type of the option.
        doc: One line for tables and help.
        low: Smallest valid value.
        high: Largest valid value.
        above: Every valid value is greater.
        below: Every valid value is smaller.
        choices: The valid words.
        images: Whether the images depend on it; if not, it is not part of what identifies the data set.
    """
    rules = dict(doc=doc, low=low, high=high, above=above, below=below, choices=choices, images=images)
    field: T = dataclasses.field(default=default, metadata=rules)
    return field


@dataclasses.dataclass(frozen=True)
class Spec:
    """What all data set types have in common: parsing, checking, the canonical name, the traits with their defaults."""

    #: What a data set name begins with.
    type: ClassVar[str]
    #: What is read from ``--data-dir``: nothing, IFS codes (which may be left out), or images.
    reads: ClassVar[Literal['', 'codes', 'images']] = ''
    #: Whether a folder of such files is read, or a single file only.
    reads_folders: ClassVar[bool] = False
    #: Whether every class is an IFS, whose codes can be saved.
    has_codes: ClassVar[bool] = False
    #: Whether images have two gray levels and are stored as bits.
    is_packed: ClassVar[bool] = False
    #: Whether instances of a class are at different places, so that their pixels cannot be compared.
    random_position: ClassVar[bool] = False
    #: Whether several images may be rendered at the same time, in threads of one process.
    thread_safe: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        classes: int = vars(self)['classes']
        return classes

    @property
    def num_instances(self) -> int:
        """Number of training images per class."""
        instances: int = vars(self).get('instances', 1)
        return instances

    @property
    def mode(self) -> str:
        """The mode of Pillow that loses nothing: ``'L'``, or ``'RGB'`` for what is colored."""
        return 'L'

    @property
    def redraws(self) -> bool:
        """Whether every training sample is rendered anew, with noise of its own."""
        return False

    @classmethod
    def fields(cls) -> 'tuple[dataclasses.Field[Any], ...]':
        """The options, in the order in which canonical names have them."""
        return dataclasses.fields(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = type(field.default)
            if kind is float and type(value) in (int, float):
                # The sum makes a negative zero a plain one: equal data sets have one name.
                object.__setattr__(self, field.name, float(value) + 0.0)
            elif type(value) is not kind:
                raise TypeError(f'{self.type}: {field.name} must be {_A[kind]}, got {value!r}')
            self._check(field)

    def _check(self, field: 'dataclasses.Field[Any]') -> None:
        value, rules = getattr(self, field.name), field.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'{self.type}: {field.name} must be a finite number, got {value}')
        if rules['choices'] and value not in rules['choices']:
            raise ValueError(f'{self.type}: unknown {field.name} {value!r}; {nearest(value, rules["choices"])}')
        for rule, (holds, words) in _RULES.items():
            if rules[rule] is not None and not holds(value, rules[rule]):
                raise ValueError(f'{self.type}: {field.name} must be {words} {rules[rule]}, got {value}')

    @classmethod
    def parse(cls, options: str) -> 'Spec':
        """Make a specification from the part of a data set name behind the first ``/``."""
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
                raise ValueError(f'{cls.type}: {key} must be {_A[kind]}, got {text!r}') from None
        return cls(**values)

    def __str__(self) -> str:
        """The canonical name: it and the files in ``--data-dir``, if any, make the images, and nothing else does."""
        return self.canonical().name()

    def first(self: SpecT, classes: int) -> SpecT:
        """The specification of the first classes: class k does not depend on their number."""
        changed: Any = {'classes': classes}
        return dataclasses.replace(self, **changed)

    def canonical(self: SpecT) -> SpecT:
        """The specification of the same images: options that change no pixel have their defaults."""
        return dataclasses.replace(self, **type(self)().non_pixel_options())

    def non_pixel_options(self) -> dict[str, Any]:
        """The options on which the images do not depend, with their values."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if not field.metadata['images']
        }

    def name(self) -> str:
        """The data set name that stands for this specification: what differs from the defaults, in a fixed order."""
        options = [
            f'{field.name}={getattr(self, field.name)}'
            for field in self.fields()
            if getattr(self, field.name) != field.default
        ]
        return '/'.join([self.type] + [','.join(options)] * bool(options))


_A: dict[type, str] = {int: 'a whole number', float: 'a number', str: 'a word'}

_RULES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    'low': (operator.ge, 'at least'),
    'high': (operator.le, 'at most'),
    'above': (operator.gt, 'greater than'),
    'below': (operator.lt, 'less than'),
}


# Options that several types have; each type says what they default to where that differs.
_classes = functools.partial(option, 1000, low=2, high=1_000_000)
_points = functools.partial(option, 100_000, 'points of the chaos game per image', low=1, high=100_000_000)
_size = functools.partial(option, 512, 'width and height of the images in pixels', low=16, high=4096)
_patch = functools.partial(option, 'random', 'what every point pastes', choices=PATCHES)
_seed = functools.partial(option, low=0, high=2**32 - 1)
_cache = functools.partial(
    option,
    'auto',
    'images in shared memory or rendered on access',
    choices=('auto', 'shared', 'none'),
    images=False,
)
_loader = functools.partial(
    option,
    'auto',
    'batches are made by timm, or on the device of the model',
    choices=('auto', 'device'),
    images=False,
)


@dataclasses.dataclass(frozen=True)
class Formula(Spec):
    """Base class of the options of a data set whose images a function renders; see `timm_fractal.data.register`.

    A subclass is a frozen dataclass with a docstring, a ``type``, which is its name, and options, each declared by
    `option`. It has the options below without declaring them; it may declare one again, with another default.

    With an option ``instances`` a class has that many training images, and the validation split has other instances,
    at most 25 of a class. Without it a class has one image, and the validation split the same one with other contrast
    and brightness, cropped to 95 to 100 % of each side.

    Traits, set without an annotation: ``mode = 'RGB'`` for images in color, in place of ``'L'``;
    ``random_position = True`` if instances of a class are at different places, so that comparing pixels says nothing
    about how well classes can be told apart; ``thread_safe = False`` if no two images may be rendered at the same time
    in threads of one process.
    """

    type = 'formula'

    classes: int = _classes(doc='number of classes')
    size: int = _size()
    seed: int = _seed(0, 'which classes')
    cache: str = _cache()
    loader: str = _loader()

    @classmethod
    def fields(cls) -> 'tuple[dataclasses.Field[Any], ...]':
        # Those of the subclass stand between the number of classes and what all types have.
        return tuple(
            sorted(dataclasses.fields(cls), key=lambda field: field.name in ('size', 'seed', 'cache', 'loader'))
        )

    @property
    def has_instances(self) -> bool:
        """Whether a class can have several training images."""
        return 'instances' in vars(self)


@dataclasses.dataclass(frozen=True)
class IFSSpec(Spec):
    """What the data sets of fractals have in common: class k is made from base IFS ``k % num_bases``."""

    reads = 'codes'
    has_codes = True
    is_packed = True
    if TYPE_CHECKING:
        # Options of all of them; each type has them where they belong in its name.
        points: int
        size: int
        patch: str
        seed: int
    #: Whether the bases are sampled and perturbed, or found by FractalDB's random search and classes as they are.
    perturbs: ClassVar[bool] = False
    #: Whether instances scale a parameter and flip the image, in place of an address sequence of their own.
    scales: ClassVar[bool] = False

    @property
    def num_bases(self) -> int:
        """Number of base IFS: as many as classes, unless they are perturbed."""
        bases: int = vars(self).get('fractals', self.num_classes)
        return bases


@dataclasses.dataclass(frozen=True)
class Fractal1Spec(IFSSpec):
    """One fractal, perturbed: 1p-frac of "Scaling Backwards: Minimal Synthetic Pre-training?" (ECCV 2024).

    The defaults are the paper's data set (section 4, and the generator that its authors released). The authors sampled
    their fractal unseeded; seed 15 is the first of 0, 1, 2, ... that gives a rich one: of its first 32 classes none had
    to be perturbed again for being empty, they fill more than 15 % of the image on average, and each training image is
    closest to its own class among the validation images (means of 8 x 8 pixels).

    With ``fractals=K`` class k is a perturbation of base fractal ``k % K``: the paper's axis from 1,000 base fractals
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

    classes: int = _classes(doc='number of perturbed fractals, one per class')
    delta: float = option(0.1, 'strength of the perturbation', low=0, below=1)
    sigma: float = option(3.5, 'sigma-factor of the base IFS, less than 3 * maps: how complex it is', above=0)
    maps: int = option(2, 'number of affine maps of the IFS', low=2, high=64)
    points: int = _points()
    size: int = _size()
    patch: str = _patch()
    perturb: str = option(
        'multiply', 'parameter * U(1-delta, 1+delta), or + U(-delta/2, delta/2)', choices=('multiply', 'add')
    )
    fractals: int = option(
        1, 'number of base fractals, not more than classes, which are divided over them', low=1, high=1_000_000
    )
    seed: int = _seed(15, 'which fractal')
    instances: int = option(1, 'images per class: same shape, other noise', low=1, high=1_000_000)
    cache: str = _cache()
    loader: str = _loader()
    redraw: str = option(
        'false',
        'every training sample gets noise of its own, with loader=device',
        choices=('false', 'true'),
        images=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bases(self, 'fractals')
        if self.redraw == 'true' and (self.loader != 'device' or self.fractals > 1):
            raise ValueError(
                f'fractal1: redraw=true needs loader=device and fractals=1, '
                f'got loader={self.loader} and fractals={self.fractals}'
            )
        if self.sigma >= 3 * self.maps:
            raise ValueError(
                f'fractal1: sigma must be less than 3 * maps = {3 * self.maps}, got {self.sigma}: '
                f'each map adds at most 3 to the sigma-factor'
            )

    @property
    def redraws(self) -> bool:
        return self.redraw == 'true'

    def first(self, classes: int) -> 'Fractal1Spec':
        return dataclasses.replace(self, classes=classes, fractals=min(self.fractals, classes))


@dataclasses.dataclass(frozen=True)
class OFDBSpec(IFSSpec):
    """One image per category, every category an IFS of its own: OFDB ("Pre-training Vision Transformers with Very
    Limited Synthesized Images", ICCV 2023).

    The categories are those of `FractalDBSpec` with the same seed. The images are rendered as those of `Fractal1Spec`,
    so that a comparison of the two compares shapes.

    Examples:
        >>> str(parse_name('ofdb/classes=21000'))
        'ofdb/classes=21000'
    """

    type = 'ofdb'
    reads_folders = True

    classes: int = _classes(doc='number of categories, each an IFS of its own')
    points: int = _points()
    size: int = _size()
    patch: str = _patch()
    seed: int = _seed(0, 'which categories')
    cache: str = _cache()
    loader: str = _loader()


@dataclasses.dataclass(frozen=True)
class FractalDBSpec(IFSSpec):
    """FractalDB ("Pre-training without Natural Images", ACCV 2020): categories found by random search, with instances.

    Instance i scales one of the six parameters of all maps (``i % 25``: none, or a to f times 0.8, 0.9, 1.1, 1.2),
    flips the image (``i // 25 % 4``: not, left to right, top to bottom, both) and has its own patches.

    Examples:
        >>> str(parse_name('fractaldb/instances=100'))
        'fractaldb/instances=100'
    """

    type = 'fractaldb'
    reads_folders = True
    scales = True

    classes: int = _classes(doc='number of categories, each an IFS of its own')
    instances: int = option(
        1000, 'images per class: one parameter scaled, flipped, other patches', low=1, high=1_000_000
    )
    points: int = _points()
    size: int = _size()
    patch: str = _patch()
    seed: int = _seed(0, 'which categories')
    cache: str = _cache()
    loader: str = _loader()


@dataclasses.dataclass(frozen=True)
class Image1Spec(Spec):
    """One real image, its classes made by shape augmentation ("Scaling Backwards", the section on real images).

    Class k is one warp of the image, sampled once; see `timm_fractal.shape` for the warps and what ``delta``, their
    magnitude, means. The authors have not published theirs. The default is larger than that of `Fractal1Spec`, since
    the crops of the augmentation hide shifts: a small ViT told 13 % of 100 classes of a photograph apart after 100,000
    images with 0.1, and 50 % with 0.3.

    Examples:
        >>> spec = parse_name('image1/warp=elastic,delta=0.3')
        >>> spec.warp, spec.view
        ('elastic', 'gray')
    """

    type = 'image1'
    reads = 'images'
    reads_folders = True

    classes: int = _classes(doc='number of warps, one per class')
    warp: str = option('affine', 'kind of shape augmentation', choices=WARPS)
    delta: float = option(0.3, 'magnitude of the warps', low=0, high=1)
    view: str = option('gray', 'what is warped: the image in gray, in color, or its edges', choices=VIEWS)
    size: int = _size()
    seed: int = _seed(0, 'which warps')
    cache: str = _cache()
    loader: str = _loader()

    @property
    def mode(self) -> str:
        return 'RGB' if self.view == 'rgb' else 'L'


@dataclasses.dataclass(frozen=True)
class Noise1Spec(Formula):
    """One image of noise, perturbed: the control of "Scaling Backwards" that shows that the shape matters.

    What a fractal's parameters are to `Fractal1Spec`, the pixels are here: class k multiplies each pixel of the one
    image by its own U(1 - delta, 1 + delta).

    Examples:
        >>> parse_name('noise1/noise=uniform').noise
        'uniform'
    """

    type = 'noise1'

    classes: int = _classes(doc='number of perturbed images, one per class')
    noise: str = option('gaussian', 'distribution of the gray levels', choices=('gaussian', 'uniform'))
    delta: float = option(0.1, 'strength of the perturbation', low=0, below=1)
    seed: int = _seed(0, 'which noise')


@dataclasses.dataclass(frozen=True)
class VisualAtomSpec(Formula):
    """VisualAtom ("Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves", CVPR 2023), for comparison.

    A class is a formula: noisy closed contours, one around the other, modulated by two waves; an instance has another
    place and other noise. Ranges as published: 200 to 1,000 vertices, 1 to 200 contours, noise amplitude 2 to 6,
    spacing up to 0.01, radius up to 50, wave numbers up to 20, stretch 1 to 2.

    With ``atoms=K`` class k is a perturbation of atom ``k % K``: one step of "Scaling Backwards" with this formula.

    Examples:
        >>> parse_name('visualatom/atoms=1,instances=1').delta
        0.1
    """

    type = 'visualatom'
    random_position = True

    classes: int = _classes(doc='number of formulas, one per class')
    instances: int = option(1000, 'images per class: another place, other noise', low=1, high=1_000_000)
    atoms: int = option(0, 'number of base atoms, perturbed; 0: every class has its own', low=0, high=1_000_000)
    delta: float = option(0.1, 'strength of the perturbation, with atoms', low=0, below=1)
    seed: int = _seed(0, 'which atoms')

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bases(self, 'atoms')
        if not self.atoms and self.delta != type(self).delta:
            raise ValueError(f'visualatom: delta={self.delta} needs atoms of at least 1, got atoms=0: say atoms=1')

    def first(self, classes: int) -> 'VisualAtomSpec':
        return dataclasses.replace(self, classes=classes, atoms=min(self.atoms, classes))


def _check_bases(spec: Spec, name: str) -> None:
    count = getattr(spec, name)
    if count > spec.num_classes:
        raise ValueError(
            f'{spec.type}: {name} must be at most classes = {spec.num_classes}, got {count}: each of them needs a class'
        )


#: The entry point group in which a package names the data set types that it has: each name is a type, and its value the
#: module that registers it.
ENTRY_POINTS = 'timm_fractal.datasets'

#: First parts of names that are timm's, and its torchvision data sets.
RESERVED = frozenset(
    'torch hfds hfids tfds wds folder image_folder formula cifar10 cifar100 mnist kmnist fashion_mnist qmnist imagenet '
    'inaturalist places365'.split()
)

_NAME = re.compile('[a-z][a-z0-9_]{0,49}')


class Types(Mapping[str, type[Spec]]):
    """Data set types by name: those of this package, those registered, and those that installed packages name.

    The names of the latter are known without importing anything: what is behind an entry point is imported when its
    type is asked for.
    """

    def __init__(self, *specs: type[Spec]) -> None:
        self._built_in = frozenset(spec.type for spec in specs)
        self._specs = {spec.type: spec for spec in specs}

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

    @property
    def built_in(self) -> dict[str, type[Spec]]:
        """The types of this package."""
        return {name: self._specs[name] for name in self._specs if name in self._built_in}

    def load_all(self) -> tuple[dict[str, type[Spec]], list[str]]:
        """Load all types.

        Returns:
            Those that could be loaded, and what is wrong with the others, in words.
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
            why = 'the name is taken' if _NAME.fullmatch(name) else 'a name is lower-case letters, digits and _'
            problems.append(f'data set {name!r} of the package {packages} is ignored: {why}')
        return found, problems

    def loaded(self) -> dict[str, type[Spec]]:
        """All types; those that cannot be loaded are left out, with a warning."""
        found, problems = self.load_all()
        for problem in problems:
            _logger.warning('%s', problem)
        return found

    def add(self, spec: type[Spec]) -> None:
        """Add a type, or replace it by a class of the same module and name: a module may be loaded again.

        Raises:
            TypeError: It is not a frozen dataclass derived from `Formula`.
            ValueError: Its name is taken, or an option is not declared as it must be.
        """
        _check_type(spec)
        old = self._specs.get(spec.type)
        if old is not None and _place(old) != _place(spec):
            raise ValueError(f'{_place(spec)}: type {spec.type!r} is taken by {_place(old)}: choose another name')
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
    """What installed packages name: read each time, since a package may be installed while a notebook is open."""
    from importlib.metadata import entry_points

    taken = RESERVED | SPECS.built_in.keys()
    found: dict[str, list[Any]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if usable == bool(_NAME.fullmatch(point.name) and point.name not in taken):
            found.setdefault(point.name, []).append(point)
    return found


def _package(point: Any) -> str:
    return str(point.dist.name) if point.dist else str(point.value)


def _place(spec: type) -> str:
    return f'{spec.__module__}.{spec.__qualname__}'


def _check_type(spec: type[Spec]) -> None:
    """Refuse what would be noticed only when somebody names the type."""
    if not (isinstance(spec, type) and issubclass(spec, Formula)):
        raise TypeError(f'spec must be a class derived from timm_fractal.data.Formula, got {spec!r}')
    own, place = vars(spec), _place(spec)
    if '__dataclass_fields__' not in own or not own['__dataclass_params__'].frozen:
        raise TypeError(f'{place} must be a frozen dataclass: put @dataclasses.dataclass(frozen=True) above it')
    if not (isinstance(own.get('type'), str) and _NAME.fullmatch(own['type'])):
        raise ValueError(
            f'{place}: type must be a lower-case letter and up to 49 more, digits and _, got {own.get("type")!r}: '
            f"set it in the class, as in type = 'contours'"
        )
    if spec.type in RESERVED:
        raise ValueError(f'{place}: type {spec.type!r} is taken by timm: choose another name')
    for field in dataclasses.fields(spec):
        rules, default = field.metadata, field.default
        if not _NAME.fullmatch(field.name):
            raise ValueError(
                f'{place}: option {field.name!r} must have a lower-case name: names are read in lower case'
            )
        if 'doc' not in rules:
            raise TypeError(
                f"{place}: {field.name} must be declared by option, as in {field.name}: int = option(3, 'what it is'); "
                f'a trait has no annotation'
            )
        if type(default) not in _A:
            raise TypeError(f'{place}: the default of {field.name} must be an int, a float or a str, got {default!r}')
        if (declared := getattr(field.type, '__name__', field.type)) != type(default).__name__:
            raise TypeError(f'{place}: {field.name} is declared as {declared}, and its default is {default!r}')
        if isinstance(default, str) and not rules['choices']:
            raise ValueError(f'{place}: {field.name} is a word and needs choices=(...)')
        if any(not _WORD.fullmatch(word) for word in rules['choices']):
            raise ValueError(f'{place}: choices of {field.name} must be lower-case words, got {rules["choices"]}')
    if (mode := spec().mode) not in ('L', 'RGB'):
        raise ValueError(f"{place}: mode must be 'L' or 'RGB', got {mode!r}")


_WORD = re.compile('[a-z0-9][a-z0-9_.+-]*')

SPECS = Types(Fractal1Spec, Image1Spec, OFDBSpec, FractalDBSpec, VisualAtomSpec, Noise1Spec)


def parse_name(name: str) -> Spec:
    """Read a data set name, ``type`` or ``type/option=value,option=value``.

    Args:
        name: For instance ``'fractal1'`` or ``'fractal1/delta=0.05,classes=21000,seed=3'``; capitals and the prefix
            ``torch/`` do not matter.

    Returns:
        The specification, checked.

    Raises:
        ValueError: Unknown type or option (the nearest valid one is named), a value that is not a number or out of
            range, an option given twice, or nothing behind the ``/``.
    """
    if len(name) > MAX_NAME:
        raise ValueError(f'the name of a data set must have at most {MAX_NAME} characters, got {len(name)}')
    # As timm does; the prefix is that of its table of torchvision's data sets, which has ours too.
    kind, slash, options = name.lower().removeprefix('torch/').partition('/')
    if kind not in SPECS:
        raise ValueError(f'unknown data set {kind!r}; {nearest(kind, SPECS)}')
    return SPECS[kind].parse(options) if slash else SPECS[kind]()
