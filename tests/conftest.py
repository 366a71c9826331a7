"""Fixtures of images. `image` also uses the module's `fractal`."""

import os

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from timm_fractal.spec import SPECS

if not torch.cuda.is_available():
    # Runs Triton's kernels in the interpreter; read at import.
    os.environ['TRITON_INTERPRET'] = '1'


def pytest_collection_modifyitems(items):
    if os.name != 'posix':
        for item in items:
            if item.get_closest_marker('posix'):
                item.add_marker(pytest.mark.skip(reason='needs pipes, links, signals or limits of POSIX'))


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('china.jpg'))


@pytest.fixture(scope='module')
def flower():
    return Image.fromarray(load_sample_image('flower.jpg'))


#: Parameters of `image`.
IMAGES = ('photo', 'gray photo', 'flower', 'fractal')


@pytest.fixture(params=IMAGES)
def image(request):
    image = request.getfixturevalue(request.param.split()[-1])
    return image.convert('L') if 'gray' in request.param else image


@pytest.fixture
def types(monkeypatch):
    """Undo registrations of data set types after a test."""
    monkeypatch.setattr(SPECS, '_specs', dict(SPECS._specs))
    return SPECS
