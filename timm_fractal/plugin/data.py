"""Patches of ``timm.data`` and their reasons.

* The factories ``create_dataset`` and ``create_loader`` are wrapped in every module that has them, and in ``__main__``
  if a script has bound them already. They handle our data set types; everything else goes to timm. For our data sets,
  mixup's ``num_classes`` is compared with the number of classes, ``num_workers=0`` works, and ``loader=device`` in the
  name returns our loader.
* ``create_naflex_loader``, if present, refuses our data sets with ``loader=device``, which it would ignore.
* ``mixup_target`` and ``pairwise_mixup_target`` report a label beyond ``--num-classes``, where timm raises an
  IndexError.
* ``_TORCH_BASIC_DS`` gets our types, so that ``--device-modules timm_fractal --dataset torch/fractal1`` works in a
  script that bound ``create_dataset`` before this package was imported.
* RandAugment gets the warps, see `timm_fractal.plugin.augment`.

All names were checked with the versions in `timm_fractal._timm_private.CHECKED`.
"""

import difflib
import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..spec import SPECS, parse_name
from . import augment
from .import_hook import Undo, set_item

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_logger = logging.getLogger('timm_fractal')

#: Patched or extended names that all versions have, each covered by a test.
PATCHED = (
    'timm.data.create_dataset',
    'timm.data.dataset_factory.create_dataset',
    'timm.data.create_loader',
    'timm.data.loader.create_loader',
    'timm.data.mixup.mixup_target',
    'timm.data.dataset_factory._TORCH_BASIC_DS',
)


def patch(host: Any, undo: Undo) -> None:
    # A script may have bound timm's functions before this package was imported, for example with --device-modules.
    script = sys.modules.get('__main__')
    factories = [
        ('create_dataset', _wrap_create_dataset, host.dataset_factory),
        ('create_loader', _wrap_create_loader, host.loader),
    ]
    if hasattr(host, 'create_naflex_loader'):
        factories.append(('create_naflex_loader', _wrap_create_naflex_loader, host.naflex_loader))
    for name, wrap, home in factories:
        original = getattr(host, name)
        wrapper = wrap(original)
        # timm has each function in two modules, which share a wrapper.
        for module in (host, home):
            set_item(undo, vars(module), name, wrapper)
        if getattr(script, name, None) is original:
            set_item(undo, vars(script), name, wrapper)
    for module in (host.mixup, getattr(host, 'naflex_mixup', None)):
        for name in ('mixup_target', 'pairwise_mixup_target'):
            if hasattr(module, name):
                set_item(undo, vars(module), name, _wrap_targets(getattr(module, name)))
    for name in SPECS:
        set_item(undo, host.dataset_factory._TORCH_BASIC_DS, name, functools.partial(_torch_dataset, name))
    augment.patch(host.auto_augment, undo)


def _is_ours(name: Any) -> bool:
    return isinstance(name, str) and name.lower().removeprefix('torch/').split('/')[0] in SPECS


def _wrap_create_dataset(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_dataset(*args: Any, **kwargs: Any) -> Any:
        name = args[0] if args else kwargs.get('name')
        if not _is_ours(name):
            _explain_typo(name, args[1] if len(args) > 1 else kwargs.get('root'))
            return original(*args, **kwargs)
        return _our_dataset(**_by_name(original, ['name', 'root', 'split'], args, kwargs))

    return create_dataset


def _by_name(
    function: Callable[..., Any], documented: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Name the arguments of a timm function by its signature, or else by its documentation.

    Another plug-in may have hidden the signature with a wrapper such as ``lambda *args, **kwargs: ...``.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if names[: len(documented)] != documented:
        names = documented
    if len(args) > len(names):
        raise TypeError(f'only {", ".join(names)} can be positional arguments, got {len(args)} of them')
    return dict(zip(names, args)) | kwargs


def _explain_typo(name: Any, root: Any) -> None:
    """Raise a helpful error for a misspelled name of ours; timm would raise a TypeError about the missing root."""
    if root is None and isinstance(name, str):
        kind = name.lower().partition('/')[0]
        if kind.startswith('fractal') or difflib.get_close_matches(kind, SPECS, n=1):
            parse_name(name)


#: Arguments of timm's factory that rendered data sets ignore. Some (`seed`, `is_training`) differ between the two calls
#: in train.py: images that depend on them would not match between training and validation.
_IGNORED = frozenset({'search_split', 'is_training', 'download', 'batch_size', 'seed', 'trust_remote_code'})
#: Arguments that rendered data sets cannot support.
_REFUSED = frozenset({'class_map', 'load_bytes', 'input_key', 'target_key'})


def _our_dataset(name: str, split: str = 'validation', **options: Any) -> 'Dataset[Any]':
    from ..data import create, separability

    for option in _REFUSED & options.keys():
        if options.pop(option):
            raise ValueError(f'{option} cannot be used with the rendered data set {name!r}: leave it out')
    options = {k: v for k, v in options.items() if k not in _IGNORED and v is not None}
    dataset = create(name, split=split, **options)
    try:
        separability.warn(dataset, options.get('root'))
    except Exception as error:
        # A failed diagnostic must not prevent training.
        _logger.debug('cannot measure %s: %r', dataset, error)
    return dataset


def _torch_dataset(name: str, train: bool, **options: Any) -> 'Dataset[Any]':
    """Create a data set for timm's ``torch/`` table, with the arguments of torchvision data sets."""
    return _our_dataset(name, split='train' if train else 'validation', **options)


def _wrap_create_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_loader(*args: Any, **kwargs: Any) -> Any:
        dataset: Any = args[0] if args else kwargs.get('dataset')
        within = _ours_within(dataset)
        if not within:
            return original(*args, **kwargs)
        arguments = _by_name(original, ['dataset', 'input_size', 'batch_size'], args, kwargs)
        outputs = getattr(arguments.get('collate_fn'), 'num_classes', None)
        most = max(within, key=lambda ours: ours.num_classes)
        if outputs is not None and outputs < most.num_classes:
            raise ValueError(
                f'--num-classes must be at least the number of classes of {str(most.spec)!r}: '
                f'got {outputs}, use --num-classes {most.num_classes}'
            )
        if any(ours.spec.loader == 'device' for ours in within):
            from torch.utils.data import Subset

            from ..device_loader import create_device_loader, is_known

            inner = dataset
            while isinstance(inner, Subset):
                inner = inner.dataset
            if inner is not within[0]:
                _refuse_wrapper(type(inner).__name__, within, 'leave out --aug-splits, or loader=device')
            # Unknown arguments of a newer timm are dropped if they have timm's default.
            parameters = inspect.signature(original).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            arguments = defaults | arguments
            asked = [k for k in arguments if is_known(k) or k not in defaults or arguments[k] is not defaults[k]]
            return create_device_loader(**{k: arguments[k] for k in asked})
        if arguments.get('num_workers') == 0:
            # timm always requests persistent workers, which torch refuses with num_workers=0.
            return original(**arguments | {'persistent_workers': False})
        return original(*args, **kwargs)

    return create_loader


def _wrap_create_naflex_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_naflex_loader(*args: Any, **kwargs: Any) -> Any:
        dataset: Any = args[0] if args else kwargs.get('dataset')
        within = _ours_within(dataset)
        if any(ours.spec.loader == 'device' for ours in within):
            _refuse_wrapper("timm's NaFlex loader", within, 'leave out --naflex-loader, or loader=device')
        return original(*args, **kwargs)

    return create_naflex_loader


def _refuse_wrapper(wrapper: str, within: list[Any], advice: str) -> None:
    raise ValueError(
        f'{wrapper} with {within[0].spec.name()!r}: loader=device supports one data set or a Subset of it, through '
        f'timm.data.create_loader; {advice}'
    )


def _ours_within(dataset: Any) -> list[Any]:
    """Find our data sets in wrappers such as torch's Subset and ConcatDataset or timm's AugMixDataset."""
    # If our data sets have not been imported, there are no instances.
    datasets = sys.modules.get('timm_fractal.data.base')
    found: list[Any] = []
    pending = [dataset] if datasets is not None else []
    for _ in range(1000):
        if not pending:
            break
        inner = pending.pop()
        if isinstance(inner, datasets.SyntheticDataset):  # type: ignore[union-attr]
            found.append(inner)
        else:
            parts = getattr(inner, 'datasets', None)
            pending += list(parts) if isinstance(parts, (list, tuple)) else []
            if getattr(inner, 'dataset', None) is not None:
                pending.append(inner.dataset)
    return found


def _wrap_targets(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that converts labels, its first argument, to soft targets with ``num_classes`` outputs."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def targets(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except (IndexError, RuntimeError) as error:
            given = signature.bind(*args, **kwargs).arguments
            labels, outputs = next(iter(given.values())), given['num_classes']
            if int(labels.max()) < outputs:
                raise
            raise ValueError(
                f'--num-classes must be at least the number of classes of the data set: a label is {int(labels.max())}'
                f', got --num-classes {outputs}'
            ) from error

    return targets
