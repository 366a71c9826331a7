"""The GPU benchmark saves its figures part by part, whatever fails."""

import json
import sys

import pytest

from benchmarks import gpu, record


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / 'train.py').touch()
    file = tmp_path / 'figures.jsonl'
    monkeypatch.setattr(record, 'FILE', file)

    def call(*words):
        monkeypatch.setattr(sys, 'argv', ['gpu', str(tmp_path), '--json', str(file), '--device', 'cpu', *words])
        return gpu.main(), [json.loads(line) for line in file.read_text().splitlines()]

    return call


def test_a_part_that_fails_loses_nothing(run, monkeypatch):
    def loader(shared, say):
        say('before', what='before', value=1)
        raise RuntimeError('no memory')

    def memory(shared, say):
        shared.figures['loader rate'] = 2e5

    monkeypatch.setattr(gpu, 'PARTS', (loader, memory, gpu.verdict))
    code, lines = run()
    assert code == 1 and [line['benchmark'] for line in lines] == ['gpu, loader', 'gpu, memory', 'gpu, verdict']
    assert [figure['what'] for figure in lines[0]['figures']] == ['before', 'failure', 'seconds']
    goals = {figure['goal']: figure['reached'] for figure in lines[2]['figures'] if 'goal' in figure}
    assert [reached for goal, reached in goals.items() if 'from the loader' in goal] == [True]
    assert [reached for goal, reached in goals.items() if 'fixed batch' in goal] == [None]


@pytest.mark.slow
def test_a_mega_batch_is_measured(run):
    code, lines = run('--only', 'mega_batch')
    figures = {figure.get('what'): figure for figure in lines[0]['figures']}
    assert code == 0 and figures['host']['microseconds'] > 0 and figures['kernels']['microseconds'] > 0


def test_a_folder_without_train_py_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['gpu', str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert 'timm_source must be a checkout of timm' in capsys.readouterr().err


def test_a_line_without_its_end_stays_a_line(tmp_path, monkeypatch):
    file = tmp_path / 'figures.jsonl'
    file.write_text('{"benchmark": "old"}')
    monkeypatch.setattr(record, 'FILE', file)
    for name in ('new', 'newer'):
        with record.Record(name, 'nothing'):
            pass
    assert [json.loads(line)['benchmark'] for line in file.read_text().splitlines()] == ['old', 'new', 'newer']
