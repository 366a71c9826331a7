"""The page of results says what the committed lines say, and the sweep file what the page needs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / 'train_scripts' / 'sweep.py'
SWEEP = ROOT / 'train_scripts' / 'sweeps' / 'micro.yaml'
# Those of the page.
SWEEPS = [SWEEP, SWEEP.with_name('small.yaml'), SWEEP.with_name('weights.yaml')]


SOURCE = os.environ.get('TIMM_SOURCE', '')

TINY = """
name: tiny
seeds: [0]
finetune_seeds: [0, 1]
data: {digits: {kind: digits}}
pretrain: &all
  samples: 2560
  interval: 640
  model: test_vit
  model_kwargs: {img_size: 32, patch_size: 8}
  img_size: 32
  in_chans: 1
  mean: 0.5
  std: 0.5
  device: cpu
  workers: 0
  batch_size: 32
  opt: adamw
  lr: 1.0e-3
  sched: cosine
  warmup_epochs: 0
  checkpoint_hist: 1
conditions:
  fractal1: {dataset: 'fractal1/classes=16,size=48,points=3000,patch=fill,loader=device'}
finetune:
  digits: {<<: *all, workers: 1, samples: 640, interval: 320, data: digits, shots: 32, val_split: val}
"""


@pytest.fixture
def sweep_file(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'train_scripts'))
    import sweep_file

    return sweep_file


def run(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_page_and_data_agree(tmp_path):
    done = run('report', *SWEEPS, '--results', ROOT / 'train_scripts' / 'results', '--page', tmp_path / 'results.md')
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
    assert run('report', *SWEEPS, '--results', tmp_path, '--page', tmp_path / 'results.md').returncode == 0
    assert (tmp_path / 'results.md').read_text() != (ROOT / 'docs' / 'results.md').read_text()


@pytest.mark.parametrize('key', ['dataset', 'samples', 'train_seed', 'seconds', 'hardware', 'versions', 'command'])
def test_every_result_has_its_provenance(key):
    for path in (ROOT / 'train_scripts' / 'results').iterdir():
        for text in path.read_text().splitlines():
            assert json.loads(text)[key] not in (None, ''), text


@pytest.mark.parametrize('path', sorted(SWEEP.parent.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_sweep_file_is_read(path, sweep_file, tmp_path):
    sweep = sweep_file.Sweep(path)
    assert sweep.name == path.stem and sweep.units[0].condition == 'scratch'
    assert len({unit.name for unit in sweep.units}) == len(sweep.units)
    (tmp_path / 'train.py').touch()
    done = run('list', path, '--train-py', tmp_path, '--work', tmp_path)
    assert done.returncode == 0, done.stderr
    units = len(sweep.units)
    assert f'{units} units, ' in done.stdout and ' 0 samples' not in done.stdout
    done = run('run', path, '--train-py', tmp_path, '--work', tmp_path, '--index', units)
    assert done.returncode == 2 and f'--index must be 0 to {units - 1}, got {units}' in done.stderr


def test_a_torn_line_is_written_again(sweep_file, tmp_path):
    path = tmp_path / 'x.jsonl'
    first = dict(sweep='x', condition='a', seed=0, finetune=None, finetune_seed=None, settings='s', eval_top1=1.0)
    path.write_bytes(json.dumps(first).encode() + b'\n{"sweep": "x", "condi')
    results = sweep_file.Results(path)
    assert results.read() == [first]
    results.append(first | dict(eval_top1=2.0))
    assert results.read() == [first] and path.read_bytes().endswith(b'}\n')
    results.append(first | dict(seed=1))
    assert [line['seed'] for line in results.read()] == [0, 1]


@pytest.mark.slow
@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm')
def test_killed_at_any_time(tmp_path):
    """Killed again and again, together with its training, it comes to the results of a run that was left alone."""
    (tmp_path / 'tiny.yaml').write_text(TINY)

    def command(work):
        words = ['run', tmp_path / 'tiny.yaml', '--train-py', SOURCE, '--work', tmp_path / work, '--poll', 0.1]
        return [sys.executable, str(SCRIPT), *map(str, words)]

    def results(work):
        lines = (tmp_path / work / 'tiny.jsonl').read_text().splitlines()
        return [json.loads(line) for line in lines]

    assert subprocess.run(command('alone'), capture_output=True).returncode == 0
    rng = random.Random(0)
    for _ in range(40):
        child = subprocess.Popen(command('killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time() + rng.uniform(6, 14)
        while child.poll() is None and time.time() < end:
            time.sleep(0.1)
        if child.returncode is not None:
            break
        child.kill()
        subprocess.run(['pkill', '-9', '-f', str(tmp_path / 'killed')])
        child.wait()
    assert child.returncode == 0 and child.returncode != -signal.SIGKILL
    killed, alone = results('killed'), results('alone')
    assert len(killed) == len(alone) == 3
    for name in ('condition', 'finetune', 'finetune_seed', 'samples', 'settings'):
        assert [line.get(name) for line in killed] == [line.get(name) for line in alone]
    # timm's own loader of the fine-tunings draws other samples after a resume; the device loader does not.
    for name in ('train_loss', 'eval_top1', 'eval_loss'):
        assert killed[0][name] == alone[0][name]


def test_published_weights_in_place_of_a_pre_training(sweep_file, tmp_path, monkeypatch):
    import sweep

    text = TINY.replace('conditions:\n', 'conditions:\n  tag: {weights: test_vit.fractal1_1k}\n  scratch: {}\n')
    path = tmp_path / 'tiny.yaml'
    path.write_text(text)
    (tmp_path / 'train.py').touch()
    args = sweep.make_parser().parse_args(['run', str(path), '--train-py', str(tmp_path), '--work', str(tmp_path)])
    read = sweep_file.Sweep(path)
    runner = sweep.Runner(read, args)
    units = {unit.condition: unit for unit in read.units}
    assert units['tag'].pretrain is None and units['fractal1'].pretrain is not None
    command, _ = runner.command(units['tag'], units['tag'].finetune[0])
    assert command[command.index('--model') + 1] == 'test_vit.fractal1_1k' and '--pretrained' in command
    assert '--pretrained-path' not in command
    plain, _ = runner.command(units['scratch'], units['scratch'].finetune[0])
    assert '--pretrained' not in plain and plain[plain.index('--model') + 1] == 'test_vit'
    keys = [units[name].finetune[0].key['settings'] for name in ('tag', 'scratch')]
    assert keys[0] != keys[1]


def test_weights_that_are_not_there_are_left_out(sweep_file, tmp_path, capsys):
    import sweep

    path = tmp_path / 'tiny.yaml'
    tags = '  here: {weights: test_vit.fractal1_1k}\n  gone: {weights: test_vit.fractal1_x}\n'
    tags += '  mine: {weights: "local-dir:mine"}\n'
    path.write_text(TINY.replace('conditions:\n', f'conditions:\n{tags}'))
    units = sweep_file.Sweep(path).units
    kept = list(sweep.available(units))
    assert [unit.condition for unit in units if unit not in kept] == ['gone'] * (len(units) - len(kept)) != []
    assert 'gone-s0: left out, timm knows no weights test_vit.fractal1_x here' in capsys.readouterr().err


def test_a_curve_has_each_epoch_once(sweep_file, tmp_path):
    import sweep

    summary = tmp_path / 'summary.csv'
    summary.write_text(
        'epoch,train_loss,eval_top1\n0,2.1,10.0\n1,2.0,\n2,1.9,30.5\nepoch,train_loss,eval_top1\n2,1.8,31.0\n'
    )
    assert sweep.curve(summary) == [(1, 10.0), (3, 31.0)]
    assert sweep.curve(tmp_path / 'none.csv') == []
