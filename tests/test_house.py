"""Imports between subpackages go down the list `ROOMS` only."""

import ast
import importlib
import re
import types
from pathlib import Path

import pytest

import timm_fractal

PACKAGE = Path(timm_fractal.__file__).parent

# From top to bottom; the package's ``__init__`` is above all of them.
ROOMS = [
    'cli',
    'explore',
    'plugin',
    'hub',
    'device_loader',
    'data',
    'augment',
    'fractal',
    'shape',
    'spec',
    '_timm_private',
    '_utils',
    '_version',
]


def imports(path):
    """Yield pairs of a file's subpackage and one that it imports, anywhere in the file."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            # `from .. import x` or `from ..x import y`
            names = [node.module.split('.')[0]] if node.module else [alias.name for alias in node.names]
            for name in names:
                if name != room:
                    yield room, name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A module imported by name: 'room.module', with or without the package.
            named = re.fullmatch(r'(?:timm_fractal\.|\.+)?(\w+)((?:\.\w+)+)', node.value)
            if named and named[1] != room and _is_module(named[1], named[2]):
                yield room, named[1]


def _is_module(room, rest):
    path = PACKAGE / room / rest[1:].split('.')[0]
    return room in ROOMS and (path.with_suffix('.py').is_file() or path.is_dir())


def all_imports():
    """Return all imports between subpackages, as tuples of importer, imported, and file."""
    found = set()
    for path in PACKAGE.rglob('*.py'):
        if path.parent == PACKAGE and path.stem in ('__init__', '__main__'):
            continue
        found |= {(room, name, path.relative_to(PACKAGE).as_posix()) for room, name in imports(path)}
    return found


def test_imports_point_downwards():
    found = all_imports()
    assert found, 'no import was seen'
    upwards = [pair for pair in found if ROOMS.index(pair[0]) > ROOMS.index(pair[1])]
    assert upwards == []


def test_the_picture_of_the_house():
    """Each arrow is an import, and each import follows arrows; modules used by all have none."""
    picture = (PACKAGE.parent / 'docs' / 'images' / 'architecture.svg').read_text()
    arrows = set(re.findall(r'id="(\w+)-to-(\w+)"', picture))
    used = {pair[:2] for pair in all_imports() if not pair[1].startswith('_')}
    assert arrows and arrows <= used
    reached = set(arrows)
    while more := {(a, d) for a, b in reached for c, d in arrows if b == c} - reached:
        reached |= more
    assert used <= reached


def test_every_room_is_in_the_list():
    rooms = {path.name.removesuffix('.py') for path in PACKAGE.iterdir() if path.suffix in ('.py', '')}
    assert rooms - {'__pycache__', '__init__', '__main__'} == set(ROOMS)


def public_modules():
    """Return the package and its public subpackages."""
    found = [getattr(timm_fractal, name) for name in timm_fractal.__all__]
    return [timm_fractal, *(thing for thing in found if isinstance(thing, types.ModuleType))]


def test_the_public_interface():
    """Names may leave these lists only after a deprecation."""
    names = {f'{module.__name__}.{name}' for module in public_modules() for name in module.__all__}
    assert [module.__name__.rpartition('.')[2] for module in public_modules()] == (
        ['timm_fractal', 'augment', 'data', 'hub', 'shape']
    )
    assert {'timm_fractal.register', 'timm_fractal.data.register', 'timm_fractal.hub.publish'} <= names
    for module in public_modules():
        assert dir(module) == sorted(module.__all__)
        assert sorted(module.__all__) == sorted(set(module.__all__))
        for name in module.__all__:
            assert not name.startswith('_') or name == '__version__'


@pytest.mark.parametrize('module', [module.__name__ for module in public_modules()])
def test_public_names_stay_what_they_are(module):
    """Importing a submodule must not replace a public name of the package."""
    public = importlib.import_module(module)
    for path in Path(public.__file__).parent.glob('*.py'):
        if path.stem != '__main__':
            importlib.import_module(f'{module}.{path.stem}'.removesuffix('.__init__'))
    for name in public.__all__:
        is_package = module == 'timm_fractal' and (PACKAGE / name).is_dir()
        assert isinstance(getattr(public, name), types.ModuleType) == is_package, name


def test_nobody_reaches_into_another_module():
    """Underscore names are used in their own module only; for timm's, see test_timm_private."""
    known = {'_utils', '_timm_private', '_version'}
    timms = {'dataset_factory', 'host', 'registry', 'warp', 'Elastic'}
    found = []
    for path in [*PACKAGE.rglob('*.py'), *(PACKAGE.parent / 'benchmarks').glob('*.py')]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [] if node.value.id in timms | {'self', 'cls', 'loader'} else [node.attr]
            else:
                continue
            found += [(path.name, n) for n in names if n.startswith('_') and not n.startswith('__') and n not in known]
    assert found == []
