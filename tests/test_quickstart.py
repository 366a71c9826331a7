"""The quickstart script, with reduced sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from PIL import Image
from safetensors import safe_open

from timm_fractal.hub import folder as hub

SCRIPT = Path(__file__).parent.parent / 'train_scripts' / 'quickstart.py'


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_the_whole_way_from_fractals_to_digits(tmp_path, workers):
    sizes = ['--samples', '640', '--steps', '4', '--seeds', '2', '--workers', str(workers)]
    command = [sys.executable, str(SCRIPT), '--output', str(tmp_path / 'out'), *sizes]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'fractal1/classes=100,delta=0.2,points=10000,size=48,patch=fill: 640 samples in' in run.stdout
    assert run.stdout.count(' per class: ') == 4
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert len(results['losses']) == 10
    assert 3 < results['losses'][0] < 7  # ln 100 = 4.6
    assert {len(values) for values in results['digits_top1'].values()} == {2}
    with safe_open(tmp_path / 'out' / 'model.safetensors', 'pt') as weights:
        assert weights.metadata()['dataset'] == results['dataset']
        assert 'patch_embed.proj.weight' in weights.keys()
    folder = hub.export_weights(tmp_path / 'out' / 'model.safetensors', tmp_path / 'exported')
    config = timm.create_model(f'local-dir:{folder}', pretrained=True).pretrained_cfg
    assert list(config['input_size']) == [1, 32, 32] and list(config['mean']) == [0.25] and config['num_classes'] == 100
    for name in ('fractals.png', 'results.png'):
        with Image.open(tmp_path / 'out' / name) as picture:
            assert picture.width > 400
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'fractals.png', 'model.safetensors', 'results.json', 'results.png'}
