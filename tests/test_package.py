"""The wheel, installed into a clean environment, and an unedited script there."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from timm_fractal.hub.manifest import manifest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent

# A script of a timm user that does not mention this package.
SCRIPT = """
import torch
from timm.data import create_dataset, create_loader

dataset = create_dataset('fractal1/classes=4,size=64,points=5000', split='train')
loader = create_loader(dataset, (3, 32, 32), 2, is_training=True, num_workers=1, device=torch.device('cpu'))
print(sorted(torch.cat([target for _, target in loader]).tolist()))
print(type(dataset).__module__, __import__('timm_fractal').__file__)
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope='module')
def clean(built, tmp_path_factory):
    """Make an environment with the wheel; its dependencies are linked, since they take gigabytes to install."""
    home = tmp_path_factory.mktemp('clean')
    venv.create(home, with_pip=True)
    python = home / 'bin' / 'python'
    (wheel,) = built.glob('*.whl')
    command = [str(python), '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = home.glob('lib/python*/site-packages')
    for path in Path(sysconfig.get_path('purelib')).iterdir():
        target = site / path.name
        if not target.exists() and 'timm_fractal' not in path.name and path.suffix != '.pth':
            target.symlink_to(path)
    return home


def test_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split('/')[0].split('-')[0] for name in names} == {'timm_fractal'}
    assert {'timm_fractal/py.typed', 'timm_fractal/cli/main.py'} <= set(names)
    assert {'timm_fractal/hub/manifest.py', 'timm_fractal/hub/pretrained/manifest.json'} <= set(names)
    embedded = {entry.file for entry in manifest().values() if entry.file}
    assert {name.rpartition('/')[2] for name in names if name.endswith('.safetensors')} == embedded
    assert any(name.endswith('licenses/LICENSE') for name in names)


def test_sdist_holds_tests_and_recipes(built):
    (sdist,) = built.glob('*.tar.gz')
    names = {name.split('/', 1)[-1] for name in tarfile.open(sdist).getnames()}
    assert {'README.md', 'LICENSE', 'CHANGELOG.md', 'tests/oracle.py', 'train_scripts/quickstart.py'} <= names


def test_an_unedited_script_finds_the_data_set(clean, tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    command = [str(clean / 'bin' / 'python'), 'script.py']
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split('\n')
    assert output[0] == '[0, 1, 2, 3]'
    assert output[1].startswith(f'timm_fractal.data.fractals {clean}')


def test_embedded_weights_need_no_network(clean):
    code = (
        'import timm, timm_fractal.hub.manifest as weights; names = timm.list_pretrained(["*fractal*", "*image1*"])\n'
        'for name, entry in weights.manifest().items():\n'
        '    if entry.file: timm.create_model(name, pretrained=True, num_classes=3)\n'
        'print(weights.__file__, *names)\n'
    )
    command = [str(clean / 'bin' / 'python'), '-c', code]
    environment = {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(clean / 'empty')}
    done = subprocess.run(command, cwd=clean, env=environment, check=True, capture_output=True, text=True)
    file, *names = done.stdout.split()
    assert file.startswith(str(clean)) and file.endswith('manifest.py') and sorted(names) == sorted(manifest())


def test_console_script(clean):
    command = [str(clean / 'bin' / 'timm-fractal'), '--version']
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == ['timm-fractal', __import__('timm_fractal').__version__]
