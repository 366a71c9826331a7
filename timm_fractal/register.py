"""Makes timm know our data sets. The only module that touches timm's internals.

What is touched, and why (checked with timm 1.0.12, 1.0.20 and 1.0.31):

* ``timm.data.create_dataset`` and ``timm.data.dataset_factory.create_dataset`` are wrapped: a name whose type is ours
  gives our data set, any other name goes to timm unseen.
* ``timm.data.create_loader`` and ``timm.data.loader.create_loader`` are wrapped: for our data sets alone, mixup's
  ``num_classes`` is compared with the data set's classes, ``num_workers=0`` is made to work, and with ``loader=device``
  in the data set's name our loader is made of the arguments.
* ``timm.data.dataset_factory._TORCH_BASIC_DS`` gets our types, so that ``--device-modules timm_fractal --dataset
  torch/fractal1`` works in a script that bound ``create_dataset`` before this package was imported.
* ``timm.data.auto_augment.NAME_TO_OP`` and ``LEVEL_TO_ARG`` get the warps of `timm_fractal.shape` as operations, and
  ``timm.data.auto_augment.rand_augment_choices`` is wrapped so that ``--aa rand-m9-tshape`` can name them.
* ``timm.data.auto_augment.NAME_TO_OP``: where Pillow refuses ``ImageOps.posterize(image, 0)`` (13 and later), the
  posterize operations get the old meaning of zero bits back, a black image; timm draws 0 bits at magnitude 10.

Nothing here imports timm: it is armed before timm is, and acts when ``timm.data`` has been imported.
"""

import difflib
import functools
import importlib.abc
import inspect
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from torch.utils.data import Dataset

_logger = logging.getLogger('timm_fractal')

_HOST = 'timm.data'

#: Magnitude of a warp, see `timm_fractal.shape`, at level 10 of RandAugment; the largest of timm's shears is the same.
MAX_OPERATION_MAGNITUDE = 0.3

_undo: list[Callable[[], None]] = []


class _Finder(importlib.abc.MetaPathFinder):
    """Runs `_apply` right after ``timm.data`` has been imported, whoever imports it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> 'Optional[ModuleSpec]':
        if fullname != _HOST:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: 'ModuleType') -> None:
                execute(module)
                sys.meta_path.remove(self)
                _apply(module)

            # An attribute of this one loader object: its class, and so every other import, stays untouched.
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()


def register() -> None:
    """Make timm know the data sets of this package, now or as soon as ``timm.data`` is imported.

    ``import timm_fractal`` calls it; it can be called any number of times.
    """
    if _undo or _finder in sys.meta_path:
        return
    host = sys.modules.get(_HOST)
    if hasattr(host, 'create_dataset'):
        _apply(host)
    else:
        sys.meta_path.insert(0, _finder)


def unregister() -> None:
    """Undo `register`: timm is left as it was found."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    while _undo:
        _undo.pop()()


def _apply(host: Any) -> None:
    """Patch ``timm.data``. A timm that has changed its shape is reported, never broken."""
    try:
        auto_augment, dataset_factory, loader = host.auto_augment, host.dataset_factory, host.loader
        # One wrapper for both places where timm keeps each function.
        create_dataset = _wrap_create_dataset(host.create_dataset)
        create_loader = _wrap_create_loader(host.create_loader)
        for module in (host, dataset_factory):
            _set(module, 'create_dataset', create_dataset)
        for module in (host, loader):
            _set(module, 'create_loader', create_loader)
        for name in _types():
            _set_item(dataset_factory._TORCH_BASIC_DS, name, functools.partial(_torch_dataset, name))
        for name, warp in _operations().items():
            _set_item(auto_augment.NAME_TO_OP, name, functools.partial(_shape_operation, warp=warp))
            _set_item(auto_augment.LEVEL_TO_ARG, name, _level_to_magnitude)
        _set(auto_augment, 'rand_augment_choices', _wrap_rand_augment_choices(auto_augment.rand_augment_choices))
        if _pillow_refuses_zero_bits():
            for name, operation in list(auto_augment.NAME_TO_OP.items()):
                if operation is auto_augment.posterize:
                    _set_item(auto_augment.NAME_TO_OP, name, _posterize)
    except Exception:
        unregister()
        _logger.warning(
            'timm_fractal does not fit this version of timm, its data sets are not available', exc_info=True
        )


def _set(owner: Any, name: str, value: Any) -> None:
    old = getattr(owner, name)
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, old))


def _set_item(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        old = table[name]
        _undo.append(lambda: table.__setitem__(name, old))
    else:
        _undo.append(lambda: table.pop(name, None))
    table[name] = value


def _types() -> list[str]:
    """Data set types that `create_dataset` hands to this package."""
    from .spec import SPECS

    return list(SPECS)


def _is_ours(name: Any) -> bool:
    return isinstance(name, str) and name.lower().removeprefix('torch/').split('/')[0] in _types()


def _wrap_create_dataset(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def create_dataset(*args: Any, **kwargs: Any) -> Any:
        name = args[0] if args else kwargs.get('name')
        if not _is_ours(name):
            _explain_typo(name, args[1] if len(args) > 1 else kwargs.get('root'))
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        options = dict(bound.arguments)
        options.update(options.pop('kwargs', {}))
        return _our_dataset(**options)

    return create_dataset


def _explain_typo(name: Any, root: Any) -> None:
    """Without a root timm would end with a TypeError about None, for a name that was meant to be ours."""
    if root is None and isinstance(name, str):
        kind = name.lower().partition('/')[0]
        if kind.startswith('fractal') or difflib.get_close_matches(kind, _types(), n=1):
            from .spec import parse_name

            parse_name(name.lower())


#: Arguments of timm's factory that have no meaning for a rendered data set. Some of them (`seed`, `is_training`) differ
#: between the two calls of train.py: were the images to depend on them, training and validation would not match.
_WITHOUT_MEANING = frozenset({'search_split', 'is_training', 'download', 'batch_size', 'seed', 'trust_remote_code'})
#: Arguments that ask for something a rendered data set cannot give.
_REFUSED = frozenset({'class_map', 'load_bytes', 'input_key', 'target_key'})


def _our_dataset(name: str, split: str = 'validation', **options: Any) -> 'Dataset[Any]':
    from .datasets import create

    for option in _REFUSED & options.keys():
        if options.pop(option):
            raise ValueError(f'{option} has no meaning for the rendered data set {name!r}: leave it out')
    options = {k: v for k, v in options.items() if k not in _WITHOUT_MEANING and v is not None}
    return create(name.lower().removeprefix('torch/'), split=split, **options)


def _torch_dataset(name: str, train: bool, download: bool = False, **options: Any) -> 'Dataset[Any]':
    """What timm's ``torch/`` table holds: called like a torchvision data set."""
    return _our_dataset(name, split='train' if train else 'validation', **options)


def _wrap_create_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def create_loader(*args: Any, **kwargs: Any) -> Any:
        dataset: Any = args[0] if args else kwargs.get('dataset')
        if not _is_our_dataset(dataset):
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        outputs = getattr(bound.arguments['collate_fn'], 'num_classes', None)
        if outputs is not None and outputs < dataset.num_classes:
            raise ValueError(
                f'--num-classes must be at least the number of classes of {str(dataset.spec)!r}: '
                f'got {outputs}, use --num-classes {dataset.num_classes}'
            )
        if getattr(dataset.spec, 'loader', 'auto') == 'device':
            from .device_loader import create_device_loader

            return create_device_loader(**bound.arguments)
        if bound.arguments['num_workers'] == 0:
            # timm asks for persistent workers whatever their number, and torch refuses that without any.
            bound.arguments['persistent_workers'] = False
        return original(*bound.args, **bound.kwargs)

    return create_loader


def _is_our_dataset(dataset: Any) -> bool:
    # Without the import of our data sets there can be no instance of them.
    datasets = sys.modules.get(f'{__package__}.datasets')
    return datasets is not None and isinstance(dataset, tuple(datasets.TYPES.values()))


def _operations() -> dict[str, str]:
    """Operations of RandAugment by their names, as timm writes them; the warp behind each."""
    from .spec import WARPS

    return {warp.capitalize(): warp for warp in WARPS}


def _shape_operation(image: Any, magnitude: float, warp: str, **kwargs: Any) -> Any:
    from .shape import shape_op

    return shape_op(image, magnitude, warp, **kwargs)


def _level_to_magnitude(level: float, hparams: dict[str, Any]) -> tuple[float]:
    return (level / 10 * MAX_OPERATION_MAGNITUDE,)


def _wrap_rand_augment_choices(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def rand_augment_choices(name: str, increasing: bool = True) -> Any:
        """timm's sets, and ``shape``: the warps. ``A+B`` joins operations and sets; ``default`` is timm's own set."""
        from timm.data.auto_augment import NAME_TO_OP

        from .spec import nearest

        ours = _operations()
        parts = name.split('+')
        if not any(part == 'shape' or part in ours for part in parts):
            return original(name, increasing=increasing)
        names: list[str] = []
        for part in parts:
            if part == 'shape':
                names += ours
            elif part == 'default':
                names += original('', increasing=increasing)
            elif part in NAME_TO_OP:
                names.append(part)
            else:
                valid = nearest(part, ['shape', 'default', *NAME_TO_OP])
                raise ValueError(f'unknown operation {part!r} in the RandAugment set {name!r}; {valid}')
        return names

    return rand_augment_choices


def _pillow_refuses_zero_bits() -> bool:
    from PIL import Image, ImageOps

    try:
        ImageOps.posterize(Image.new('L', (1, 1)), 0)
    except ValueError:
        return True
    return False


def _posterize(image: Any, bits_to_keep: int, **kwargs: Any) -> Any:
    """timm's posterize, with the meaning that 0 bits had before Pillow 13: nothing is kept."""
    from timm.data.auto_augment import posterize

    if bits_to_keep < 1:
        return image.point([0] * 256 * len(image.getbands()))
    return posterize(image, bits_to_keep, **kwargs)  # type: ignore[no-untyped-call]
