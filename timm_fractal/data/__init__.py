"""Data sets: index -> (PIL image, label). One class per type; a registered type is a function that renders."""

from typing import TYPE_CHECKING, Any

from .._utils.lazy import lazy_exports
from ..spec import (
    SPECS,
    Formula,
    Fractal1Spec,
    FractalDBSpec,
    Image1Spec,
    Noise1Spec,
    OFDBSpec,
    Spec,
    VisualAtomSpec,
    option,
    parse_name,
)

if TYPE_CHECKING:
    from numpy.random import Generator

    from .base import SyntheticDataset
    from .formula import Render
    from .fractals import OFDB, Fractal1, FractalDB
    from .noise import Noise1
    from .photos import Image1
    from .separability import Separability, measure
    from .visualatom import VisualAtom

__all__ = [
    'Formula',
    'Fractal1',
    'Fractal1Spec',
    'FractalDB',
    'FractalDBSpec',
    'Image1',
    'Image1Spec',
    'Noise1',
    'Noise1Spec',
    'OFDB',
    'OFDBSpec',
    'Separability',
    'Spec',
    'SyntheticDataset',
    'VisualAtom',
    'VisualAtomSpec',
    'class_generator',
    'create',
    'measure',
    'option',
    'parse_name',
    'register',
]

#: The class of each data set type of this package, and its module. Registered types have `formula.FormulaDataset`.
_CLASSES = {
    'fractal1': ('Fractal1', 'fractals'),
    'fractaldb': ('FractalDB', 'fractals'),
    'image1': ('Image1', 'photos'),
    'noise1': ('Noise1', 'noise'),
    'ofdb': ('OFDB', 'fractals'),
    'visualatom': ('VisualAtom', 'visualatom'),
}

#: What renders the images of each registered type.
RENDERERS: dict[str, 'Render'] = {}

__getattr__, _ = lazy_exports(
    __name__,
    {
        'Separability': 'separability',
        'SyntheticDataset': 'base',
        'measure': 'separability',
        **dict(_CLASSES.values()),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)


def create(name: str | Spec, split: str = 'train', **options: Any) -> 'SyntheticDataset':
    """Make a data set.

    Args:
        name: A data set name, or a specification.
        split: ``'train'`` or ``'validation'``, or one of timm's synonyms.
        options: See `SyntheticDataset`.

    Raises:
        ValueError: See `SyntheticDataset`; FileNotFoundError and MemoryError as there.

    Examples:
        >>> create('fractal1/classes=4,size=64,points=5000')
        Fractal1('fractal1/classes=4,points=5000,size=64', split='train', samples=4)
    """
    spec = parse_name(name) if isinstance(name, str) else name
    if spec.type in _CLASSES:
        kind: Any = __getattr__(_CLASSES[spec.type][0])
    else:
        from .formula import FormulaDataset as kind
    made: SyntheticDataset = kind(spec, split, **options)
    return made


def register(spec: type[Formula], render: 'Render') -> None:
    """Register a data set type: options, and a function that renders an image.

    From then on its name is one like ``fractal1``, wherever a data set is named. A package that is installed names its
    types in the entry point group ``timm_fractal.datasets``, the name of a type and the module that calls this; the
    module is imported when the type is asked for. The same class of the same module may be registered again.

    Args:
        spec: The options and traits, a frozen dataclass derived from `Formula`.
        render: Called as ``render(spec, k, instance, generator)`` for an image of class ``k``, with the options
            ``spec``. It returns uint8 of shape (size, size), or (size, size, 3) where ``spec.mode`` is ``'RGB'``, and
            depends on its arguments alone; what is random comes from ``generator``, a `numpy.random.Generator` that
            differs from image to image. What all instances of a class have in common comes from `class_generator`.
            It must stand at the top level of a module, so that worker processes find it.

    Raises:
        TypeError: ``spec`` is not a frozen dataclass derived from `Formula`, or ``render`` does not take its arguments.
        ValueError: The name is taken, or an option is not declared as it must be.

    Examples:
        >>> from timm_fractal.data import noise
        >>> register(noise.Noise1Spec, noise.render)  # What makes noise1 known.
    """
    import inspect

    try:
        inspect.signature(render).bind(None, 0, 0, None)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f'render must be a function of (spec, k, instance, generator), got {render!r}: {error}'
        ) from None
    SPECS.add(spec)
    RENDERERS[spec.type] = render


def class_generator(spec: Formula, *key: int) -> 'Generator':
    """Make the generator of what all instances of a class have in common, in both splits.

    Args:
        spec: The options; of these only ``seed`` counts.
        key: Whole numbers from 0 on, each sequence a stream of its own: ``k`` for class k; or, where classes are
            perturbations of few bases, ``k % bases`` for the base and ``k % bases, k`` for the perturbation.

    Returns:
        A `numpy.random.Generator`. Its ``random()`` gives the same numbers in every version of numpy; of its other
        methods numpy does not promise that.

    Examples:
        >>> first, again = (class_generator(parse_name('noise1'), 3).random() for _ in range(2))
        >>> first == again
        True
    """
    from .._utils.rng import Stream, stream

    # The length tells (1,) and (1, 0) apart.
    return stream(spec.seed, Stream.FORMULA, len(key), *key)
