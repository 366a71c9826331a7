"""Imports point in one direction: a room uses what stands below it, and never what stands above."""

import ast
import re
from pathlib import Path

import timm_fractal

PACKAGE = Path(timm_fractal.__file__).parent

# From the top of the house to its cellar; the package's own door stands above all.
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
    """Rooms that a file imports, wherever in the file."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            # `from .. import x` or `from ..x import y`
            names = [node.module.split('.')[0]] if node.module else [alias.name for alias in node.names]
            for name in names:
                if name != room:
                    yield room, name


def all_imports():
    """Every import of one room by another: both rooms, and the file."""
    found = set()
    for path in PACKAGE.rglob('*.py'):
        if path.parent == PACKAGE and path.stem in ('__init__', '__main__', 'register'):
            continue
        found |= {(room, name, path.relative_to(PACKAGE).as_posix()) for room, name in imports(path)}
    return found


def test_imports_point_downwards():
    found = all_imports()
    assert found, 'no import was seen'
    upwards = [pair for pair in found if ROOMS.index(pair[0]) > ROOMS.index(pair[1])]
    assert upwards == []


def test_the_picture_of_the_house():
    """Each arrow is an import, and each import follows arrows; what all use has none."""
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
    assert rooms - {'__pycache__', '__init__', '__main__', 'register'} == set(ROOMS)


def test_public_paths_of_the_first_version():
    import timm_fractal.augment
    import timm_fractal.device_loader
    import timm_fractal.hub
    import timm_fractal.register
    import timm_fractal.shape

    for room in (timm_fractal, timm_fractal.augment, timm_fractal.hub, timm_fractal.shape):
        for name in room.__all__:
            assert getattr(room, name) is not None and name in dir(room)
    assert callable(timm_fractal.device_loader.create_device_loader)


def test_nobody_reaches_into_another_module():
    """Underscore names are used in their own module; timm's are listed elsewhere, see test_timm_private."""
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
