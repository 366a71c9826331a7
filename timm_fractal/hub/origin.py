"""Resolves the model name of a training: an architecture, a tag, a folder, or a repository on the Hub."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import timm

from .._utils.messages import nearest
from .client import call_hub
from .manifest import SOURCES, manifest
from .values import ARGUMENTS, MAPPING, MAX_OPTION, TEXT, check, check_values, integer, shareable, text

CONFIG = 'config.json'

_RULES = {
    'architecture': TEXT,
    'pretrained_cfg': MAPPING,
    'num_classes': integer(0, MAX_OPTION),
}


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
            words = f'the training started from {name!r}, which determines the architecture'
            advice = 'restore the folder, or run the command in the folder where train.py ran'
            raise FileNotFoundError(f'{path}: no such file; {words}: {advice}')
        return _read(path, str(shareable({'model': name})['model']))
    if colon and source == 'hf-hub':
        from huggingface_hub import hf_hub_download

        repo, _, revision = place.partition('@')
        what = f'{name} (initial weights of the training)'
        path = Path(call_hub(what, hf_hub_download, repo, CONFIG, revision=revision or None))
        return dataclasses.replace(_read(path, name), hub_id=repo)
    architecture, _, tag = name.partition('.')
    check_architecture(architecture)
    try:
        cfg: Any = timm.get_pretrained_cfg(name) if tag else None
    except RuntimeError:
        # A tag of another version of timm or another manifest: the architecture may be enough.
        cfg = None
    if cfg is None:
        return Origin(name, architecture)
    entry = manifest().get(name)
    said = entry.provenance if entry else {}
    return Origin(name, architecture, _without_sources(cfg.to_dict()), {}, cfg.hf_hub_id, said)


def check_architecture(name: str) -> None:
    """Raise a ValueError if timm has no such architecture."""
    if not timm.is_model(name):
        raise ValueError(f'unknown architecture {name[:100]!r}; {nearest(name[:100], timm.list_models())[:200]} ...')


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
    place = f'{path} is not a configuration of timm, or is damaged'
    try:
        config: dict[str, Any] = json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{place} ({error})') from error
    check(place, config, _RULES, required=True)
    check(place, config, dict.fromkeys(('provenance', 'model_args'), MAPPING))
    check(place, config['pretrained_cfg'], {'input_size': ARGUMENTS['input_size']}, required=True)
    check_values(path, config['pretrained_cfg'])
    return config
