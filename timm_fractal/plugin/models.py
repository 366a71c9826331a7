"""Patches of ``timm.models`` and their reasons.

* ``timm.models._registry``: ``_model_pretrained_cfgs``, ``_model_has_pretrained`` and ``_model_with_tags`` get the
  manifest's tags of architectures in this timm. timm has no public function that adds a tag. Default tags are
  unchanged.
* ``timm.models._builder.load_pretrained`` and ``timm.models.load_pretrained`` are wrapped: for our tags, unless the
  user gives another source, `timm_fractal.hub.manifest` finds and verifies the tensors; timm loads them into the model.
* ``timm.models._builder.get_pretrained_cfg`` is wrapped: errors for an unknown tag that looks like ours (contains
  ``fractal``, starts with a data set type, or resembles one of ours) list the nearest valid ones.

All names were checked with the versions in `timm_fractal._timm_private.CHECKED`.
"""

import dataclasses
import difflib
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._utils.console import is_primary
from .._utils.messages import nearest
from ..spec import SPECS
from .import_hook import Undo, set_item

if TYPE_CHECKING:
    from ..hub.manifest import Weights

_logger = logging.getLogger('timm_fractal')

#: Patched, extended or used names, each covered by a test.
PATCHED = (
    'timm.models._registry._model_default_cfgs',
    'timm.models._registry._model_pretrained_cfgs',
    'timm.models._registry._model_has_pretrained',
    'timm.models._registry._model_with_tags',
    'timm.models._builder.load_pretrained',
    'timm.models._builder.get_pretrained_cfg',
    'timm.models.load_pretrained',
    'timm.models.PretrainedCfg',
)

# Extensions of files written by torch or safetensors.
_TORCH_SUFFIXES = ('.bin', '.ckpt', '.pt', '.pth', '.safetensors', '.tar')


def patch(host: Any, undo: Undo) -> None:
    from ..hub import manifest as weights

    builder, registry = host._builder, host._registry
    ours: dict[str, weights.Weights] = {}
    for name, entry in weights.manifest().items():
        # An older timm may lack the architecture; a newer one may already have the tag.
        if entry.architecture in registry._model_default_cfgs and name not in registry._model_pretrained_cfgs:
            ours[name] = entry
            _add_tag(undo, registry, entry, _pretrained_cfg(host.PretrainedCfg, entry))
    load_pretrained = _wrap_load_pretrained(host.load_pretrained, registry, ours)
    for module in (host, builder):
        set_item(undo, vars(module), 'load_pretrained', load_pretrained)
    set_item(undo, vars(builder), 'get_pretrained_cfg', _wrap_get_pretrained_cfg(builder.get_pretrained_cfg, ours))


def _pretrained_cfg(kind: Any, entry: 'Weights') -> Any:
    """Convert an entry to timm's configuration, which locates the file even without our loader."""
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
    set_item(undo, registry._model_pretrained_cfgs, entry.name, cfg)
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
            from ..hub.manifest import SOURCES, load

            # If a user overrides a source, ours is not loaded.
            registered = registry._model_pretrained_cfgs[name]
            if all(cfg.get(key) == getattr(registered, key) for key in SOURCES):
                pretrained_cfg = {**cfg, 'state_dict': load(ours[name], kwargs.get('cache_dir'))}
                size = ours[name].pretrained_cfg['input_size'][-1]
                usual = registry._model_default_cfgs[ours[name].architecture].default.input_size[-1]
                if size != usual and is_primary():
                    more = ' --model-kwargs img_size=N' if ours[name].pretrained_cfg['fixed_input_size'] else ''
                    _logger.info('%s is for %d pixels; for N pixels use --img-size N%s', name, size, more)
        if isinstance(cfg, dict) and cfg.get('custom_load') and str(cfg.get('file')).endswith(_TORCH_SUFFIXES):
            # Up to timm 1.0.30, --pretrained-path reads such a file as .npz if the default weights are an .npz file.
            pretrained_cfg = {**cfg, 'custom_load': False}
        return original(model, pretrained_cfg, *args, **kwargs)

    return load_pretrained


def _wrap_get_pretrained_cfg(original: Callable[..., Any], ours: 'dict[str, Weights]') -> Any:
    @functools.wraps(original)
    def get_pretrained_cfg(model_name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(model_name, *args, **kwargs)
        except RuntimeError as error:
            tag = model_name.partition('.')[2]
            tags = [entry.tag for entry in ours.values()]
            alike = difflib.get_close_matches(tag, tags, n=1, cutoff=0.7)
            if 'fractal' not in tag and not tag.startswith(tuple(SPECS)) and not alike:
                raise
            words = nearest(model_name, ours) if ours else 'this version of timm-fractal has none'
            raise RuntimeError(f'unknown weights {model_name!r}; {words}') from error

    return get_pretrained_cfg
