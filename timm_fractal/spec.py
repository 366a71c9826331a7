"""Data set names <-> specifications: ``fractal1/delta=0.05,classes=21000`` is ``Fractal1Spec(delta=0.05, ...)``.

One frozen dataclass per data set type is the single source of its options (names, defaults, ranges, docs, errors) and
of its traits (what it reads from ``--data-dir``, whether it has IFS codes, its mode, ...): use these
traits instead of isinstance.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ._utils.messages import nearest

T = TypeVar('T')
SpecT = TypeVar('SpecT', bound='Spec')

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
    #: The class of the data set, as ``module.name`` within `timm_fractal.data`.
    dataset: ClassVar[str]
    #: What is read from ``--data-dir``: nothing, IFS codes (which may be left out), or images.
    reads: ClassVar[Literal['', 'codes', 'images']] = ''
    #: Whether a folder of such files is read, or a single file only.
    reads_folders: ClassVar[bool] = False
    #: Whether every class is an IFS, whose codes can be saved.
    has_codes: ClassVar[bool] = False
    #: Whether images have two gray levels and are stored as bits.
    is_packed: ClassVar[bool] = False
    #: Whether instances of a class are at different places, so that their pixels cannot be compared.
    moves: ClassVar[bool] = False

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
        fields = {field.name: field for field in dataclasses.fields(cls)}
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
            for field in dataclasses.fields(self)
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
class IFSSpec(Spec):
    """What the data sets of fractals have in common: class k is made from base IFS ``k % num_bases``."""

    dataset = 'fractals.FractalDataset'
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
    dataset = 'fractals.Fractal1'
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
    dataset = 'fractals.OFDB'
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
    dataset = 'fractals.FractalDB'
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
    dataset = 'photos.Image1'
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
class Noise1Spec(Spec):
    """One image of noise, perturbed: the control of "Scaling Backwards" that shows that the shape matters.

    What a fractal's parameters are to `Fractal1Spec`, the pixels are here: class k multiplies each pixel of the one
    image by its own U(1 - delta, 1 + delta).

    Examples:
        >>> parse_name('noise1/noise=uniform').noise
        'uniform'
    """

    type = 'noise1'
    dataset = 'noise.Noise1'

    classes: int = _classes(doc='number of perturbed images, one per class')
    noise: str = option('gaussian', 'distribution of the gray levels', choices=('gaussian', 'uniform'))
    delta: float = option(0.1, 'strength of the perturbation', low=0, below=1)
    size: int = _size()
    seed: int = _seed(0, 'which noise')
    cache: str = _cache()
    loader: str = _loader()


@dataclasses.dataclass(frozen=True)
class VisualAtomSpec(Spec):
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
    dataset = 'visualatom.VisualAtom'
    moves = True

    classes: int = _classes(doc='number of formulas, one per class')
    instances: int = option(1000, 'images per class: another place, other noise', low=1, high=1_000_000)
    atoms: int = option(0, 'number of base atoms, perturbed; 0: every class has its own', low=0, high=1_000_000)
    delta: float = option(0.1, 'strength of the perturbation, with atoms', low=0, below=1)
    size: int = _size()
    seed: int = _seed(0, 'which atoms')
    cache: str = _cache()
    loader: str = _loader()

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


SPECS: dict[str, type[Spec]] = {
    spec.type: spec for spec in (Fractal1Spec, Image1Spec, OFDBSpec, FractalDBSpec, VisualAtomSpec, Noise1Spec)
}


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
