"""The page of results says what the committed lines say, and the sweep file what the page needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / 'train_scripts' / 'sweep.py'
SWEEP = ROOT / 'train_scripts' / 'sweeps' / 'micro.yaml'


def run(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_page_and_data_agree(tmp_path):
    done = run('report', SWEEP, '--results', ROOT / 'train_scripts' / 'results', '--page', tmp_path / 'results.md')
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'results.md').read_text()
    assert page == (ROOT / 'docs' / 'results.md').read_text()
    plots = {path.name for path in (tmp_path / 'results').iterdir()}
    assert plots == {path.name for path in (ROOT / 'docs' / 'results').iterdir()}


@pytest.mark.slow
def test_a_changed_line_changes_the_page(tmp_path):
    lines = (ROOT / 'train_scripts' / 'results' / 'micro.jsonl').read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if '"finetune": "digits-5"' in line)
    lines[first] = json.dumps(json.loads(lines[first]) | {'eval_top1': 0.0})
    (tmp_path / 'micro.jsonl').write_text('\n'.join(lines) + '\n')
    assert run('report', SWEEP, '--results', tmp_path, '--page', tmp_path / 'results.md').returncode == 0
    assert (tmp_path / 'results.md').read_text() != (ROOT / 'docs' / 'results.md').read_text()


@pytest.mark.parametrize('key', ['dataset', 'samples', 'train_seed', 'seconds', 'hardware', 'versions', 'command'])
def test_every_result_has_its_provenance(key):
    for text in (ROOT / 'train_scripts' / 'results' / 'micro.jsonl').read_text().splitlines():
        assert json.loads(text)[key] not in (None, ''), text
