"""Data sets: index -> (PIL image, label). Each built-in type has a class, each registered type a render function."""

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

#: Class and module of each built-in type. Registered types use `formula.FormulaDataset`.
_CLASSES = {
    'fractal1': ('Fractal1', 'fractals'),
    'fractaldb': ('FractalDB', 'fractals'),
    'image1': ('Image1', 'photos'),
    'noise1': ('Noise1', 'noise'),
    'ofdb': ('OFDB', 'fractals'),
    'visualatom': ('VisualAtom', 'visualatom'),
}

#: Render function of each registered type.
RENDERERS: dict[str, 'Render'] = {}

__getattr__, _ = lazy_exports(
    __name__,
    {'Separability': 'separability', 'SyntheticDataset': 'base', 'measure': 'separability', **dict(_CLASSES.values())},
)


def __dir__() -> list[str]:
    return sorted(__all__)


def create(name: str | Spec, split: str = 'train', **options: Any) -> 'SyntheticDataset':
    """Create a data set.

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
    """Register a data set type: its options, and a function that renders an image.

    Its name then works like ``fractal1`` everywhere. An installed package declares its types in the entry point group
    ``timm_fractal.datasets``, with the name of the type and the module that calls this function; the module is imported
    on first use. Registering a class of the same module and name again replaces it.

    Args:
        spec: The options and traits, a frozen dataclass derived from `Formula`.
        render: Called as ``render(spec, k, instance, generator)`` for an image of class ``k``, with the options
            ``spec``. It returns uint8 of shape (size, size), or (size, size, 3) if ``spec.mode`` is ``'RGB'``, and must
            depend on its arguments only: randomness comes from ``generator``, a `numpy.random.Generator` seeded per
            image, and what all instances of a class share from `class_generator`. Define it at the top level of a
            module, so that worker processes can import it.

    Raises:
        TypeError: ``spec`` is not a frozen dataclass derived from `Formula`, or ``render`` does not take these
            arguments.
        ValueError: The name is taken, or an option is declared incorrectly.

    Examples:
        >>> from timm_fractal.data import noise
        >>> register(noise.Noise1Spec, noise.render)  # How noise1 is registered.
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
    """Return a generator for the randomness that all instances of a class share, in both splits.

    Args:
        spec: The options; only ``seed`` is used.
        key: Integers from 0; each sequence selects an independent stream: ``k`` for class k; or, if classes are
            perturbations of a few bases, ``k % bases`` for the base and ``k % bases, k`` for the perturbation.

    Returns:
        A `numpy.random.Generator`. Of its methods, numpy guarantees only ``random()`` to give the same numbers in every
        version.

    Examples:
        >>> first, again = (class_generator(parse_name('noise1'), 3).random() for _ in range(2))
        >>> first == again
        True
    """
    from .._utils.rng import Stream, stream

    # The length distinguishes (1,) from (1, 0).
    return stream(spec.seed, Stream.FORMULA, len(key), *key)
