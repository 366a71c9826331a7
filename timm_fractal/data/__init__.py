"""Data sets: index -> (PIL image, label). One class per type; `timm_fractal.spec` says which."""

from typing import TYPE_CHECKING

from .._utils.lazy import door
from ..spec import SPECS

if TYPE_CHECKING:
    from .base import SyntheticDataset, create

#: The class of each data set type and the module that has it.
DATASETS = {name: module for module, name in (spec.dataset.split('.') for spec in SPECS.values())}

__all__ = ['SyntheticDataset', 'create']

__getattr__, __dir__ = door(__name__, {'SyntheticDataset': 'base', 'create': 'base', **DATASETS})
