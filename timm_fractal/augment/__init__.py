"""timm's augmentation for uint8 batches on a device."""

from typing import TYPE_CHECKING

from .._utils.lazy import lazy_exports

if TYPE_CHECKING:
    from .erasing import Erase, EraseParams
    from .mixup import Mix, MixParams
    from .transforms import Evaluate, Train, TrainParams, create_augment, normalize

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

__getattr__, __dir__ = lazy_exports(
    __name__,
    dict.fromkeys(('Erase', 'EraseParams'), 'erasing')
    | dict.fromkeys(('Mix', 'MixParams'), 'mixup')
    | dict.fromkeys(('Evaluate', 'Train', 'TrainParams', 'create_augment', 'normalize'), 'transforms'),
)
