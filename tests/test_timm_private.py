"""All private names of timm in use are listed, and exist."""

import ast
import importlib
from pathlib import Path

import pytest

import timm_fractal
from timm_fractal import _timm_private
from timm_fractal.plugin import augment, data, models

PACKAGE = Path(timm_fractal.__file__).parent
LISTED = (*_timm_private.READ, *augment.PATCHED, *data.PATCHED, *models.PATCHED)


@pytest.mark.parametrize('name', LISTED)
def test_every_name_is_there(name):
    module, _, attribute = name.rpartition('.')
    assert hasattr(importlib.import_module(module), attribute), f'this timm has no {name}'


def test_what_is_read_has_its_shape():
    from timm.data import auto_augment
    from timm.data.mixup import Mixup

    operation = auto_augment.AugmentOp('Rotate', magnitude=9, hparams={})
    names = ('name', 'prob', 'magnitude', 'magnitude_std', 'magnitude_max', 'level_fn', 'hparams', 'kwargs')
    assert [name for name in names if not hasattr(operation, name)] == []
    names = ('mixup_alpha', 'cutmix_alpha', 'cutmix_minmax', 'mix_prob', 'switch_prob', 'correct_lam', 'mode')
    names = (*names, 'mixup_enabled', 'num_classes', 'label_smoothing')
    assert [name for name in names if not hasattr(Mixup(num_classes=2), name)] == []


@pytest.mark.parametrize('name', _timm_private.READ)
def test_a_missing_name_is_named(name, monkeypatch):
    module, _, attribute = name.rpartition('.')
    monkeypatch.delattr(importlib.import_module(module), attribute)
    with pytest.raises(_timm_private.UnknownTimm, match=f'tested with 1.0.12.*{attribute}.*standard loader'):
        _timm_private.find(name)


def test_nothing_else_of_timm_is_private():
    """Underscore names of timm are listed, and used only there and in the plug-in."""
    listed = {name.rpartition('.')[2] for name in LISTED}
    found = {}
    for path in PACKAGE.rglob('*.py'):
        tree = ast.parse(path.read_text())
        timms = {'timm', 'host', 'registry', 'builder', 'auto_augment', 'dataset_factory'}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('timm.'):
                names = [part for part in node.module.split('.') if part.startswith('_')]
                names += [alias.name for alias in node.names if alias.name.startswith('_')]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in timms:
                names = [node.attr] if node.attr.startswith('_') and not node.attr.startswith('__') else []
            else:
                continue
            for name in names:
                found.setdefault(name, set()).add(path.relative_to(PACKAGE).parts[0])
    assert found, 'no name was seen'
    modules = {'_registry', '_builder'}
    assert set(found) - modules <= listed
    assert set().union(*found.values()) <= {'_timm_private.py', 'plugin'}
