"""Patches of timm's RandAugment and their reasons.

* ``NAME_TO_OP`` and ``LEVEL_TO_ARG`` get the warps of `timm_fractal.shape` as operations of RandAugment, and
  ``rand_augment_choices`` is wrapped so that ``--aa rand-m9-tshape`` selects them.
* ``NAME_TO_OP``: the posterize operations return a black image for 0 bits, which timm uses at magnitude 10; Pillow 13
  and later would refuse them.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any

from .._utils.messages import nearest
from ..spec import WARPS
from .import_hook import Undo, set_item

#: Patched or extended names, each covered by a test.
PATCHED = (
    'timm.data.auto_augment.NAME_TO_OP',
    'timm.data.auto_augment.LEVEL_TO_ARG',
    'timm.data.auto_augment.rand_augment_choices',
    'timm.data.auto_augment.posterize',
)

#: Magnitude of a warp, see `timm_fractal.shape`, at level 10 of RandAugment; equal to that of timm's shears.
MAX_OPERATION_MAGNITUDE = 0.3


# Names of our operations, capitalized as timm's, and their warps.
_OPERATIONS = {warp.capitalize(): warp for warp in WARPS}


def patch(auto_augment: Any, undo: Undo) -> None:
    for name, warp in _OPERATIONS.items():
        set_item(undo, auto_augment.NAME_TO_OP, name, functools.partial(_shape_operation, warp=warp))
        set_item(undo, auto_augment.LEVEL_TO_ARG, name, _level_to_magnitude)
    choices = _wrap_rand_augment_choices(auto_augment.rand_augment_choices)
    set_item(undo, vars(auto_augment), 'rand_augment_choices', choices)
    for name, operation in list(auto_augment.NAME_TO_OP.items()):
        if operation is auto_augment.posterize:
            set_item(undo, auto_augment.NAME_TO_OP, name, _posterize)


def _shape_operation(image: Any, magnitude: float, warp: str, **kwargs: Any) -> Any:
    from ..shape.transform import shape_op

    return shape_op(image, magnitude, warp, **kwargs)


def _level_to_magnitude(level: float, hparams: dict[str, Any]) -> tuple[float]:
    return (level / 10 * MAX_OPERATION_MAGNITUDE,)


def _wrap_rand_augment_choices(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def rand_augment_choices(name: str, increasing: bool = True) -> Any:
        """Return the operations of a set: timm's, ``shape`` (warps), or joined with ``+``; ``default`` is timm's."""
        from timm.data.auto_augment import NAME_TO_OP

        ours, parts = ['shape', *_OPERATIONS], name.split('+')
        if not any(part in ours for part in parts):
            # timm uses its default set for unknown names, so a typo would go unnoticed.
            if len(parts) > 1 or difflib.get_close_matches(name, ours, n=1, cutoff=0.75):
                valid = nearest(name, ours)
                raise ValueError(f"unknown RandAugment set {name!r}; {valid}, also joined with timm's by +")
            return original(name, increasing=increasing)
        names: list[str] = []
        for part in parts:
            if part == 'shape':
                names += _OPERATIONS
            elif part == 'default':
                names += original('', increasing=increasing)
            elif part in NAME_TO_OP:
                names.append(part)
            else:
                valid = nearest(part, ['shape', 'default', *NAME_TO_OP])
                raise ValueError(f'unknown operation {part!r} in the RandAugment set {name!r}; {valid}')
        return names

    return rand_augment_choices


def _posterize(image: Any, bits_to_keep: int, **kwargs: Any) -> Any:
    """Posterize like timm, but return a black image for 0 bits, as Pillow before 13 does."""
    from timm.data.auto_augment import posterize

    if bits_to_keep < 1:
        return image.point([0] * 256 * len(image.getbands()))
    return posterize(image, bits_to_keep, **kwargs)  # type: ignore[no-untyped-call]
