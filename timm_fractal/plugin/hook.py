"""Makes timm know our data sets and weights. The only module that touches timm's internals.

What is touched, and why (checked with timm 1.0.12, 1.0.20 and 1.0.31):

* ``timm.data.create_dataset`` and ``timm.data.dataset_factory.create_dataset`` are wrapped: a name whose type is ours
  gives our data set, any other name goes to timm unseen.
* ``timm.data.create_loader`` and ``timm.data.loader.create_loader`` are wrapped: for our data sets alone, mixup's
  ``num_classes`` is compared with the data set's classes, ``num_workers=0`` is made to work, and with ``loader=device``
  in the data set's name our loader is made of the arguments.
* ``create_dataset`` and ``create_loader`` in ``__main__``, where a script has bound timm's functions before, are the
  same wrappers.
* ``timm.data.create_naflex_loader`` and ``timm.data.naflex_loader.create_naflex_loader``, where a version has them, are
  wrapped: they refuse a data set of ours with ``loader=device``, which they would ignore.
* ``mixup_target`` and ``pairwise_mixup_target`` in ``timm.data.mixup`` and ``timm.data.naflex_mixup``, where they are,
  are wrapped: a label beyond ``--num-classes`` is named, where timm ends with an IndexError.
* ``timm.data.dataset_factory._TORCH_BASIC_DS`` gets our types, so that ``--device-modules timm_fractal --dataset
  torch/fractal1`` works in a script that bound ``create_dataset`` before this package was imported.
* ``timm.data.auto_augment.NAME_TO_OP`` and ``LEVEL_TO_ARG`` get the warps of `timm_fractal.shape` as operations, and
  ``timm.data.auto_augment.rand_augment_choices`` is wrapped so that ``--aa rand-m9-tshape`` can name them.
* ``timm.data.auto_augment.NAME_TO_OP``: where Pillow refuses ``ImageOps.posterize(image, 0)`` (13 and later), the
  posterize operations get the old meaning of zero bits back, a black image; timm draws 0 bits at magnitude 10.
* ``timm.models._registry``: ``_model_pretrained_cfgs``, ``_model_has_pretrained`` and ``_model_with_tags`` get the tags
  of the manifest, of the architectures that this timm has. timm has no public call that adds a tag to an architecture.
  The default tag of an architecture is not touched.
* ``timm.models._builder.load_pretrained`` and ``timm.models.load_pretrained`` are wrapped: for our tags alone, unless
  the user names another source, the tensors are found and checked by `timm_fractal.hub.manifest`; fitting them into the
  model is timm's.
* ``timm.models._builder.get_pretrained_cfg`` is wrapped: what it says about an unknown tag of ours (``fractal`` in
  it, or a data set type before it) gets the nearest valid ones.

Nothing here imports timm: it is armed before timm is, and acts when ``timm.data`` or ``timm.models`` has been imported.
"""

import dataclasses
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

    from ..hub.manifest import Weights

_logger = logging.getLogger('timm_fractal')

#: Magnitude of a warp, see `timm_fractal.shape`, at level 10 of RandAugment; the largest of timm's shears is the same.
MAX_OPERATION_MAGNITUDE = 0.3

Undo = list[Callable[[], None]]


class _Loader(importlib.abc.Loader):
    """Around the loader of one module, which may be anybody's, a proxy too: patches after it has done its work."""

    def __init__(self, inner: Any, hook: '_Hook') -> None:
        self.inner, self.hook = inner, hook

    def create_module(self, spec: 'ModuleSpec') -> 'Optional[ModuleType]':
        create = getattr(self.inner, 'create_module', None)
        module: Optional[ModuleType] = None if create is None else create(spec)
        return module

    def exec_module(self, module: 'ModuleType') -> None:
        # From now on the module is its own loader's again, for whoever asks for its source or loads it again.
        if module.__spec__ is not None:
            module.__spec__.loader = self.inner
        module.__loader__ = self.inner
        self.inner.exec_module(module)
        self.hook.loaded(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Hook(importlib.abc.MetaPathFinder):
    """Patches one module of timm, right after it has been imported, whoever imports it.

    Args:
        host: Name of the module.
        landmark: An attribute that it has when its import is over.
        patch: What patches it; it appends to a list how to undo each change.
        what: What is not available if that fails.
    """

    def __init__(self, host: str, landmark: str, patch: Callable[[Any, Undo], None], what: str) -> None:
        self.host, self.landmark, self.patch, self.what = host, landmark, patch, what
        self.undo: Undo = []
        self.searching = False
        self.patched: Any = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> 'Optional[ModuleSpec]':
        # Parts of a host that is patched already: one that is loaded again takes its own functions back.
        if fullname != self.host and not (self.undo and fullname.startswith(f'{self.host}.')):
            return None
        if self.searching:
            # Another hook that searches from the beginning, while it is asked by this one.
            return None
        self.searching = True
        try:
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
            specs = (finder.find_spec(fullname, path, target) for finder in others)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self.searching = False
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _Loader(spec.loader, self)
        return spec

    def arm(self) -> None:
        if self in sys.meta_path:
            return
        for other in list(sys.meta_path):
            # Of this module before it was loaded again.
            if type(other).__module__ == __name__ and getattr(other, 'host', None) == self.host:
                other.disarm()  # type: ignore[attr-defined]
        sys.meta_path.insert(0, self)
        host = sys.modules.get(self.host)
        if hasattr(host, self.landmark):
            self.apply(host)

    def loaded(self, module: Any) -> None:
        """Patch after an import: of the host, or of a part of the host that is patched."""
        if module.__name__ == self.host:
            self.apply(module)
        elif self.patched is not None and sys.modules.get(self.host) is self.patched:
            self.apply(self.patched)

    def disarm(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self.restore()

    def restore(self) -> None:
        """Undo what is still as the patch has left it."""
        self.patched = None
        while self.undo:
            self.undo.pop()()

    def apply(self, host: Any) -> None:
        """Patch. A timm that has changed its shape is reported, never broken."""
        self.restore()
        try:
            self.patch(host, self.undo)
            self.patched = host
        except Exception as error:
            self.disarm()
            words = 'timm_fractal does not fit this version of timm, or is damaged: its %s are not available (%r)'
            _logger.warning(words, self.what, error)
            _logger.debug('the error in full', exc_info=True)


def register() -> None:
    """Make timm know the data sets and weights of this package, now or as soon as timm is imported.

    ``import timm_fractal`` calls it; it can be called any number of times.
    """
    for hook in _HOOKS:
        hook.arm()


def unregister() -> None:
    """Undo `register`: timm is left as it was found."""
    for hook in _HOOKS:
        hook.disarm()


def _set(undo: Undo, owner: Any, name: str, value: Any) -> None:
    old = getattr(owner, name)
    setattr(owner, name, value)

    def restore() -> None:
        # What another plug-in has put around it since stays.
        if getattr(owner, name, None) is value:
            setattr(owner, name, old)

    undo.append(restore)


def _set_item(undo: Undo, table: dict[str, Any], name: str, value: Any) -> None:
    missing = object()
    old = table.get(name, missing)
    table[name] = value

    def restore() -> None:
        if table.get(name) is value:
            if old is missing:
                del table[name]
            else:
                table[name] = old

    undo.append(restore)


def _patch_data(host: Any, undo: Undo) -> None:
    auto_augment, dataset_factory, loader = host.auto_augment, host.dataset_factory, host.loader
    # One wrapper for both places where timm keeps each function.
    create_dataset = _wrap_create_dataset(host.create_dataset)
    create_loader = _wrap_create_loader(host.create_loader)
    for module in (host, dataset_factory):
        _set(undo, module, 'create_dataset', create_dataset)
    for module in (host, loader):
        _set(undo, module, 'create_loader', create_loader)
    # A script that bound timm's functions before this package was imported, with --device-modules for example.
    script = sys.modules.get('__main__')
    for name, original, wrapper in (
        ('create_dataset', create_dataset.__wrapped__, create_dataset),  # type: ignore[attr-defined]
        ('create_loader', create_loader.__wrapped__, create_loader),  # type: ignore[attr-defined]
    ):
        if getattr(script, name, None) is original:
            _set(undo, script, name, wrapper)
    if hasattr(host, 'create_naflex_loader'):
        create_naflex_loader = _wrap_create_naflex_loader(host.create_naflex_loader)
        for module in (host, host.naflex_loader):
            _set(undo, module, 'create_naflex_loader', create_naflex_loader)
    for module in (host.mixup, getattr(host, 'naflex_mixup', None)):
        for name in ('mixup_target', 'pairwise_mixup_target'):
            if hasattr(module, name):
                _set(undo, module, name, _wrap_targets(getattr(module, name)))
    for name in _types():
        _set_item(undo, dataset_factory._TORCH_BASIC_DS, name, functools.partial(_torch_dataset, name))
    for name, warp in _operations().items():
        _set_item(undo, auto_augment.NAME_TO_OP, name, functools.partial(_shape_operation, warp=warp))
        _set_item(undo, auto_augment.LEVEL_TO_ARG, name, _level_to_magnitude)
    choices = _wrap_rand_augment_choices(auto_augment.rand_augment_choices)
    _set(undo, auto_augment, 'rand_augment_choices', choices)
    if _pillow_refuses_zero_bits():
        for name, operation in list(auto_augment.NAME_TO_OP.items()):
            if operation is auto_augment.posterize:
                _set_item(undo, auto_augment.NAME_TO_OP, name, _posterize)


def _types() -> list[str]:
    """Data set types that `create_dataset` hands to this package."""
    from ..spec import SPECS

    return list(SPECS)


def _is_ours(name: Any) -> bool:
    return isinstance(name, str) and name.lower().removeprefix('torch/').split('/')[0] in _types()


def _wrap_create_dataset(original: Callable[..., Any]) -> Callable[..., Any]:
    named = _names(original, 'name', 'root', 'split')

    @functools.wraps(original)
    def create_dataset(*args: Any, **kwargs: Any) -> Any:
        name = args[0] if args else kwargs.get('name')
        if not _is_ours(name):
            _explain_typo(name, args[1] if len(args) > 1 else kwargs.get('root'))
            return original(*args, **kwargs)
        return _our_dataset(**named(args, kwargs))

    return create_dataset


class _names:
    """Arguments by name, of a function of timm: by its signature, or by timm's documentation if it hides that.

    Another plug-in may have wrapped it as ``lambda *args, **kwargs: ...``.
    """

    def __init__(self, function: Callable[..., Any], *documented: str) -> None:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            parameters = {}  # type: ignore[assignment]
        known = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        told = known[: len(documented)]
        self.names = [p.name for p in known] if [p.name for p in told] == list(documented) else list(documented)
        self.defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.names):
            raise TypeError(f'at most {", ".join(self.names)} can be given without their names, got {len(args)} values')
        return dict(zip(self.names, args)) | kwargs


def _explain_typo(name: Any, root: Any) -> None:
    """Without a root timm would end with a TypeError about None, for a name that was meant to be ours."""
    if root is None and isinstance(name, str):
        kind = name.lower().partition('/')[0]
        if kind.startswith('fractal') or difflib.get_close_matches(kind, _types(), n=1):
            from ..spec import parse_name

            parse_name(name)


#: Arguments of timm's factory that have no meaning for a rendered data set. Some of them (`seed`, `is_training`) differ
#: between the two calls of train.py: were the images to depend on them, training and validation would not match.
_WITHOUT_MEANING = frozenset({'search_split', 'is_training', 'download', 'batch_size', 'seed', 'trust_remote_code'})
#: Arguments that ask for something a rendered data set cannot give.
_REFUSED = frozenset({'class_map', 'load_bytes', 'input_key', 'target_key'})


def _our_dataset(name: str, split: str = 'validation', **options: Any) -> 'Dataset[Any]':
    from ..data.base import create

    for option in _REFUSED & options.keys():
        if options.pop(option):
            raise ValueError(f'{option} has no meaning for the rendered data set {name!r}: leave it out')
    options = {k: v for k, v in options.items() if k not in _WITHOUT_MEANING and v is not None}
    return create(name, split=split, **options)


def _torch_dataset(name: str, train: bool, download: bool = False, **options: Any) -> 'Dataset[Any]':
    """What timm's ``torch/`` table holds: called like a torchvision data set."""
    return _our_dataset(name, split='train' if train else 'validation', **options)


def _wrap_create_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    named = _names(original, 'dataset', 'input_size', 'batch_size')

    @functools.wraps(original)
    def create_loader(*args: Any, **kwargs: Any) -> Any:
        dataset: Any = args[0] if args else kwargs.get('dataset')
        within = _ours_within(dataset)
        if not within:
            return original(*args, **kwargs)
        arguments = named(args, kwargs)
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
                _refuse_wrapper(inner, within, 'leave out --aug-splits, or loader=device')
            # What a newer timm has added, and is as timm has it by default, asks for nothing.
            defaults = named.defaults
            asked = {k: v for k, v in arguments.items() if is_known(k) or k not in defaults or v is not defaults[k]}
            return create_device_loader(**{k: v for k, v in defaults.items() if is_known(k)} | asked)
        if arguments.get('num_workers') == 0:
            # timm asks for persistent workers whatever their number, and torch refuses that without any.
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


def _refuse_wrapper(wrapper: Any, within: list[Any], advice: str) -> None:
    name = wrapper if isinstance(wrapper, str) else type(wrapper).__name__
    raise ValueError(
        f'{name} with {within[0].spec.name()!r}: loader=device gives batches of one data set, or of a Subset of it, '
        f'through timm.data.create_loader; {advice}'
    )


def _ours_within(dataset: Any) -> list[Any]:
    """Our data sets in what may be wrappers: torch's Subset and ConcatDataset, timm's AugMixDataset and the like."""
    # Without the import of our data sets there can be no instance of them.
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
    """Around a function that makes soft targets of labels, its first argument, for ``num_classes`` outputs."""
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


def _operations() -> dict[str, str]:
    """Operations of RandAugment by their names, as timm writes them; the warp behind each."""
    from ..spec import WARPS

    return {warp.capitalize(): warp for warp in WARPS}


def _shape_operation(image: Any, magnitude: float, warp: str, **kwargs: Any) -> Any:
    from ..shape.transform import shape_op

    return shape_op(image, magnitude, warp, **kwargs)


def _level_to_magnitude(level: float, hparams: dict[str, Any]) -> tuple[float]:
    return (level / 10 * MAX_OPERATION_MAGNITUDE,)


def _wrap_rand_augment_choices(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def rand_augment_choices(name: str, increasing: bool = True) -> Any:
        """timm's sets, and ``shape``: the warps. ``A+B`` joins operations and sets; ``default`` is timm's own set."""
        from timm.data.auto_augment import NAME_TO_OP

        from ..spec import nearest

        ours = _operations()
        parts = name.split('+')
        if not any(part == 'shape' or part in ours for part in parts):
            # timm takes its default set for any name that it does not know: a typo would go unnoticed.
            if len(parts) > 1 or difflib.get_close_matches(name, ['shape', *ours], n=1, cutoff=0.75):
                valid = nearest(name, ['shape', *ours])
                raise ValueError(f"unknown RandAugment set {name!r}; {valid}, or several of these and of timm's with +")
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


# Where timm may take weights from; a user who sets one of them wants those and not ours.
_SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source')


def _patch_models(host: Any, undo: Undo) -> None:
    from ..hub import manifest as weights

    builder, registry = host._builder, host._registry
    ours: dict[str, weights.Weights] = {}
    for name, entry in weights.manifest().items():
        # An older timm may lack the architecture, a newer one may have the tag.
        if entry.architecture in registry._model_default_cfgs and name not in registry._model_pretrained_cfgs:
            ours[name] = entry
            _add_tag(undo, registry, entry, _pretrained_cfg(host.PretrainedCfg, entry))
    load_pretrained = _wrap_load_pretrained(host.load_pretrained, registry, ours)
    for module in (host, builder):
        _set(undo, module, 'load_pretrained', load_pretrained)
    _set(undo, builder, 'get_pretrained_cfg', _wrap_get_pretrained_cfg(builder.get_pretrained_cfg, ours))


def _pretrained_cfg(kind: Any, entry: 'Weights') -> Any:
    """The entry in timm's terms. Without our loader it would still name the right file."""
    from ..hub.manifest import MANIFEST

    known = {field.name for field in dataclasses.fields(kind)}
    options = {key: value for key, value in entry.pretrained_cfg.items() if key in known}
    # JSON has no tuples.
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    options['architecture'], options['tag'], options['license'] = entry.architecture, entry.tag, entry.license
    if entry.file is not None:
        options['file'] = str(MANIFEST.parent / entry.file)
    if entry.hf_hub_id is not None:
        options['hf_hub_id'] = '@'.join(filter(None, (entry.hf_hub_id, entry.revision)))
    return kind(**options)


def _add_tag(undo: Undo, registry: Any, entry: 'Weights', cfg: Any) -> None:
    _set_item(undo, registry._model_pretrained_cfgs, entry.name, cfg)
    registry._model_has_pretrained.add(entry.name)
    undo.append(lambda: registry._model_has_pretrained.discard(entry.name))
    tags = registry._model_with_tags[entry.architecture]
    tags.append(entry.name)
    undo.append(lambda: tags.remove(entry.name) if entry.name in tags else None)


def _wrap_load_pretrained(original: Callable[..., Any], registry: Any, ours: 'dict[str, Weights]') -> Any:
    @functools.wraps(original)
    def load_pretrained(model: Any, pretrained_cfg: Any = None, *args: Any, **kwargs: Any) -> Any:
        cfg: Any = pretrained_cfg or getattr(model, 'pretrained_cfg', None)
        name = f'{cfg.get("architecture")}.{cfg.get("tag")}' if isinstance(cfg, dict) else ''
        if name in ours:
            registered = registry._model_pretrained_cfgs[name]
            if all(cfg.get(key) == getattr(registered, key) for key in _SOURCES):
                from ..hub.manifest import load

                pretrained_cfg = {**cfg, 'state_dict': load(ours[name], kwargs.get('cache_dir'))}
        return original(model, pretrained_cfg, *args, **kwargs)

    return load_pretrained


def _wrap_get_pretrained_cfg(original: Callable[..., Any], ours: 'dict[str, Weights]') -> Any:
    @functools.wraps(original)
    def get_pretrained_cfg(model_name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(model_name, *args, **kwargs)
        except RuntimeError as error:
            tag = model_name.partition('.')[2]
            if 'fractal' not in tag and not tag.startswith(tuple(_types())):
                raise
            from ..spec import nearest

            words = nearest(model_name, ours) if ours else 'this version of timm-fractal has none'
            raise RuntimeError(f'unknown weights {model_name!r}; {words}') from error

    return get_pretrained_cfg


_HOOKS = (
    _Hook('timm.data', 'create_dataset', _patch_data, 'data sets'),
    _Hook('timm.models', 'create_model', _patch_models, 'weights'),
)
