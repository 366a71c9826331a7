"""timm's augmentation for uint8 batches on a device."""

from typing import TYPE_CHECKING

from .._utils.lazy import door

if TYPE_CHECKING:
    from .transforms import Erase, EraseParams, Evaluate, Mix, MixParams, Train, TrainParams, create_augment, normalize

__all__ = [
    'Erase',
    'EraseParams',
    'Evaluate',
    'Mix',
    'MixParams',
    'Train',
    'TrainParams',
    'create_augment',
    'normalize',
]

__getattr__, __dir__ = door(
    __name__,
    {
        'Erase': 'transforms',
        'EraseParams': 'transforms',
        'Evaluate': 'transforms',
        'Mix': 'transforms',
        'MixParams': 'transforms',
        'Train': 'transforms',
        'TrainParams': 'transforms',
        'create_augment': 'transforms',
        'normalize': 'transforms',
    },
)
