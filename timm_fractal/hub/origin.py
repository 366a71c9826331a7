"""Resolves the model name of a training: an architecture, a tag, a folder, or a repository on the Hub."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import timm

from .._utils.messages import nearest
from .client import call_hub
from .values import MAX_OPTION, check_values, refuse_large, shareable

CONFIG = 'config.json'

# Keys with which timm finds weights, or code that loads them.
SOURCES = ('source', 'file', 'url', 'hf_hub_id', 'hf_hub_filename', 'state_dict', 'custom_load')


@dataclasses.dataclass(frozen=True)
class Origin:
    """The initial model of a training.

    Attributes:
        name: The name given to train.py, without local folders.
        architecture: Its name in timm.
        cfg: timm's configuration of input and head; empty for the architecture's default.
        model_args: Options of the architecture.
        hub_id: ``'owner/name'`` of the weights if they are on the Hub.
        provenance: How the initial weights were trained, if known.
    """

    name: str
    architecture: str
    cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    model_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    hub_id: str | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


def find(name: str) -> Origin:
    """Resolve a model name.

    Args:
        name: ``'test_vit'``, ``'test_vit.fractal1_1k'``, ``'local-dir:FOLDER'`` or ``'hf-hub:OWNER/NAME'``.

    Raises:
        ValueError: timm has no such architecture, or its configuration is damaged.
        OSError: No such folder, or the Hub cannot be reached; the message says what to do.
    """
    source, colon, place = name.partition(':')
    source = source.lower().replace('_', '-')
    if colon and source == 'local-dir':
        path = Path(place) / CONFIG
        if not path.is_file():
            raise FileNotFoundError(
                f'{path}: no such file; the training started from {name!r}, which determines the architecture: restore '
                f'the folder, or run the command in the folder where train.py ran'
            )
        return _read(path, str(shareable({'model': name})['model']))
    if colon and source == 'hf-hub':
        from huggingface_hub import hf_hub_download

        repo, _, revision = place.partition('@')
        path = Path(
            call_hub(
                f'{name} (initial weights of the training)', hf_hub_download, repo, CONFIG, revision=revision or None
            )
        )
        return dataclasses.replace(_read(path, name), hub_id=repo)
    architecture, _, tag = name.partition('.')
    if not timm.is_model(architecture):
        raise ValueError(
            f'unknown architecture {architecture[:100]!r}; {nearest(architecture[:100], timm.list_models())[:200]} ...'
        )
    try:
        cfg: Any = timm.get_pretrained_cfg(name) if tag else None
    except RuntimeError:
        # A tag of another version of timm or another manifest: the architecture may be enough.
        cfg = None
    if cfg is None:
        return Origin(name, architecture)
    from .manifest import manifest

    entry = manifest().get(name)
    said = entry.provenance if entry else {}
    return Origin(name, architecture, _without_sources(cfg.to_dict()), {}, cfg.hf_hub_id, said)


def _read(path: Path, name: str) -> Origin:
    config = read_config(path)
    cfg = _without_sources(config['pretrained_cfg'] | {'num_classes': config['num_classes']})
    said = config.get('provenance') or {}
    return Origin(name, config['architecture'], cfg, config.get('model_args') or {}, None, said)


def _without_sources(cfg: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
    return {key: value for key, value in cfg.items() if key in fields and key not in SOURCES and value is not None}


def read_config(path: Path) -> dict[str, Any]:
    """Read timm's ``config.json``: architecture, number of classes, input and head.

    Raises:
        ValueError: It is damaged, or a value has the wrong type.
    """
    refuse_large(path)
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        if not (config['architecture'] and config['pretrained_cfg']['input_size']):
            raise ValueError('an empty value')
        if not isinstance(config['architecture'], str) or not isinstance(config['pretrained_cfg'], dict):
            raise TypeError('architecture must be a string, and pretrained_cfg a mapping')
        classes = config['num_classes']
        if type(classes) is not int or not 0 <= classes <= MAX_OPTION:
            raise ValueError(f'num_classes must be from 0 to {MAX_OPTION}, got {str(classes)[:100]!r}')
        for key in ('provenance', 'model_args'):
            if not isinstance(config.get(key) or {}, dict):
                raise TypeError(f'{key} must be a mapping, got {type(config[key]).__name__}')
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{path} is not a configuration of timm, or is damaged ({type(error).__name__}: {error})'
        ) from error
    check_values(path, config['pretrained_cfg'])
    return config
