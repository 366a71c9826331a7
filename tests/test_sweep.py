"""Sweeps: the committed results page matches its data; files, runs, interruptions, reports."""

import dataclasses
import fcntl
import importlib.util
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / 'train_scripts' / 'sweep.py'
SWEEP = ROOT / 'train_scripts' / 'sweeps' / 'micro.yaml'
# Sweeps on the results page.
ON_THE_PAGE = (
    'cnn',
    'default',
    'micro',
    'small',
    'weights',
    'fractals',
    'models',
)
REPORT = ['report', *(f'train_scripts/sweeps/{name}.yaml' for name in ON_THE_PAGE)]
REPORT += ['--results', 'train_scripts/results', '--page']


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
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.slow
def test_page_and_data_agree(tmp_path):
    done = run(*REPORT, tmp_path / 'results.md')
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'results.md').read_text()
    assert page == (ROOT / 'docs' / 'results.md').read_text()
    plots = {path.name for path in (tmp_path / 'results').iterdir()}
    assert plots == {path.name for path in (ROOT / 'docs' / 'results').iterdir()}


@pytest.mark.slow
def test_a_changed_line_changes_the_page(tmp_path):
    for path in (ROOT / 'train_scripts' / 'results').iterdir():
        lines = path.read_text().splitlines()
        if path.stem == 'micro':
            first = next(i for i, line in enumerate(lines) if '"finetune": "digits-5"' in line)
            lines[first] = json.dumps(json.loads(lines[first]) | {'eval_top1': 0.0})
        (tmp_path / path.name).write_text('\n'.join(lines) + '\n')
    words = [tmp_path if word == 'train_scripts/results' else word for word in REPORT]
    assert run(*words, tmp_path / 'results.md').returncode == 0
    page, changed = ((path / 'results.md').read_text().splitlines()[4:] for path in (ROOT / 'docs', tmp_path))
    different = [pair for pair in zip(page, changed, strict=True) if pair[0] != pair[1]]
    assert different and all(line.startswith(('| ', '- ')) for pair in different for line in pair)


@pytest.mark.parametrize('key', ['dataset', 'samples', 'train_seed', 'seconds', 'hardware', 'versions', 'command'])
def test_every_result_has_its_provenance(key):
    for path in (ROOT / 'train_scripts' / 'results').iterdir():
        for text in path.read_text().splitlines():
            assert json.loads(text)[key] not in (None, ''), text


@pytest.mark.slow
@pytest.mark.parametrize('path', sorted(SWEEP.parent.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_sweep_file_is_read(path, sweep_file, tmp_path):
    sweep = sweep_file.Sweep(path)
    assert sweep.name == path.stem and 'scratch' in sweep.units[0].condition
    assert len({unit.name for unit in sweep.units}) == len(sweep.units)
    (tmp_path / 'train.py').touch()
    done = run('list', path, '--train-py', tmp_path, '--work', tmp_path)
    assert done.returncode == 0, done.stderr
    units = len(sweep.units)
    assert f'{units} units, ' in done.stdout and ' 0 samples' not in done.stdout
    hours = float(re.search(r': ([\d.]+) hours of', done.stdout)[1])
    row = re.search(rf'^\| `{path.name}` .*?([\d.]+) hours', (ROOT / 'docs' / 'sweeps.md').read_text(), re.MULTILINE)
    assert row and abs(float(row[1]) - hours) < 0.5


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


def test_a_last_line_without_its_end_counts(sweep_file, tmp_path):
    """Some editors remove the last newline."""
    path = tmp_path / 'x.jsonl'
    first = dict(sweep='x', condition='a', seed=0, finetune=None, finetune_seed=None, settings='s', eval_top1=1.0)
    path.write_text(json.dumps(first))
    results = sweep_file.Results(path)
    assert results.read() == [first]
    results.append(first | dict(eval_top1=2.0))
    assert results.read() == [first]
    results.append(first | dict(seed=1))
    assert [line['seed'] for line in results.read()] == [0, 1] and path.read_bytes().count(b'\n') == 2


def test_lines_of_other_things_are_refused(sweep_file, tmp_path):
    path = tmp_path / 'x.jsonl'
    for text, message in (
        ('{"sweep": ["x"]}', "line 1: sweep must be a string or a number, got \\['x'\\]"),
        ('[' * 100_000, 'line 1: must be JSON'),
        ('[1]', 'line 1: must be a JSON object'),
    ):
        path.write_text(text + '\n')
        with pytest.raises(ValueError, match=message):
            sweep_file.Results(path).read()
    os.mkfifo(tmp_path / 'pipe')
    for read in (sweep_file.Results(tmp_path / 'pipe').read, lambda: sweep_file.Sweep(tmp_path / 'pipe')):
        with pytest.raises(ValueError, match='pipe must be a regular file, but is a pipe'):
            read()


def test_the_example_of_the_page_is_a_sweep_file(sweep_file, tmp_path):
    text = (ROOT / 'docs' / 'sweeps.md').read_text()
    path = tmp_path / 'mine.yaml'
    path.write_text(text.split('```yaml\n')[1].split('```')[0])
    for folder in (tmp_path / 'leaves' / split / f'{n}' for split in ('train', 'val') for n in range(5)):
        folder.mkdir(parents=True)
        for number in range(40):
            (folder / f'{number}.png').touch()
    (tmp_path / 'train.py').touch()
    words = ['--train-py', tmp_path, '--work', tmp_path / 'work']
    done = run('list', path, *words)
    assert done.returncode == 0 and '9 units, 869,040 samples' in done.stdout, done
    wrong = run('list', path, *words, '--data', f'leaf={tmp_path}/leaves')
    assert wrong.returncode == 2 and '--data leaf: must be one of leaves' in wrong.stderr


def test_other_images_are_other_folders(sweep_file, tmp_path):
    """Different sources, file names or settings get different folders, each with the right images."""
    from sweep_data import Folders
    from sweep_schema import Images, Rest

    for source in ('a', 'b'):
        for split in ('train', 'val'):
            for label in ('x', source):
                (tmp_path / source / split / label).mkdir(parents=True)
                for name in ['.DS_Store', '._0.png', 'notes.txt', *(f'{number}.png' for number in range(6))]:
                    (tmp_path / source / split / label / name).touch()

    def get(source, shots=2, **more):
        images = Images.model_validate(dict(kind='folder', classes=2, reserve=4, test=3) | more)
        data = {'f': images, 'r': Rest(kind='rest', of='f', count=2)}
        folders = Folders(data, tmp_path / 'work', {'f': tmp_path / source})
        return Path(folders.get('f', shots, 0, False)[0]), Path(folders.get('r', None, 0, False)[0])

    few, rest = get('a')
    assert get('a') == (few, rest)
    assert len({few, get('b')[0], get('a', reserve=3)[0], get('a', test=2)[0], get('a', shots=3)[0]}) == 5
    assert sorted(path.name for path in (few / 'train').iterdir()) == ['a', 'x']
    assert {int(file.stem) for file in (few / 'train' / 'x').iterdir()} < {0, 1, 2, 3}
    assert [file.stem for file in sorted((rest / 'train' / 'x').iterdir())] == ['4', '5']
    assert len(list((few / 'val' / 'x').iterdir())) == 3
    (tmp_path / 'a' / 'train' / 'x' / '9.png').touch()
    assert get('a')[0] != few
    for change, message in (
        (dict(classes=3), 'must have 3 classes, as in the sweep file, got 2'),
        (dict(reserve=9), 'too few images: 9 must be reserved, 6 found'),
        (dict(test=9), 'too few images: 9 needed, 6 found'),
        (dict(shots=5), 'shots must be at most 4, the images in reserve, got 5'),
    ):
        with pytest.raises(ValueError, match=message):
            get('b', **change)
    assert not list((tmp_path / 'work').glob('**/.*'))  # No temporary files are left.


def test_settings_of_data_are_settings(sweep_file, tmp_path):
    """Changed settings of the section data change the trainings, except for the source of a download."""
    text = TINY.replace('{kind: digits}', '{kind: folder, classes: 2, reserve: 64, test: 3}')

    def keys(text):
        return [job.key['settings'] for job in sweep_file.Sweep(write(tmp_path / 'x.yaml', text)).units[0].finetune]

    assert keys(text) == keys(text.replace('test: 3', 'test: 3, download: CIFAR10'))
    others = [text.replace('test: 3', 'test: 4'), text.replace('classes: 2', 'classes: 3')]
    assert len({tuple(keys(each)) for each in (text, *others)}) == 3


# A fake train.py that writes what a sweep reads. Top-1 is 1,000 times the learning rate, to identify the run.
STAND_IN = """
import argparse, pathlib, sys, time
parser = argparse.ArgumentParser()
more = 'num-classes epoch-repeats data-dir seed output experiment pretrained-path val-interval'
for option in ('{options} ' + more).split():
    parser.add_argument('--' + option, nargs='+')
parser.add_argument('--pretrained', action='store_true')
args = parser.parse_args()
end = time.time() + 120
while not pathlib.Path(sys.argv[0]).with_name('go').exists() and time.time() < end:
    time.sleep(0.1)
folder = pathlib.Path(args.output[0], args.experiment[0])
assert not args.pretrained or pathlib.Path(args.pretrained_path[0]).exists()
epochs = int(args.epochs[0])
rows = [f'{{epoch}},1.0,{{1000 * float(args.lr[0])}}' for epoch in range(epochs)]
(folder / 'summary.csv').write_text('epoch,train_loss,eval_top1\\n' + '\\n'.join(rows))
(folder / 'last.pth.tar').touch()
print('--result')
"""
OPTIONS = 'model model-kwargs img-size in-chans mean std device workers batch-size opt lr sched warmup-epochs'
OPTIONS += ' checkpoint-hist dataset val-split epochs'

needs_snakemake = pytest.mark.skipif(
    importlib.util.find_spec('snakemake') is None, reason='Snakemake is not installed; it needs Python 3.11'
)


class Place:
    """A sweep file, a train.py that waits for the file ``go``, and their results.

    Args:
        path: An empty folder.
        go: Create that file.
    """

    def __init__(self, path, go=True):
        path.mkdir(exist_ok=True)
        self.path, self.file, self.results = path, path / 'tiny.yaml', path / 'work' / 'tiny.jsonl'
        self.place = ['--train-py', str(path), '--work', str(path / 'work')]
        (path / 'train.py').write_text(STAND_IN.format(options=OPTIONS))
        if go:
            (path / 'go').touch()
        write(self.file, TINY)

    def start(self, *options, **settings):
        """Start a run in a separate process group."""
        command = [sys.executable, str(SCRIPT), 'run', str(self.file), *self.place, *map(str, options)]
        pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        return subprocess.Popen(command, **pipe, **settings)

    def run(self, *options, **settings):
        """Return the exit status and output of a run."""
        child = self.start(*options, **settings)
        said = child.communicate(timeout=300)[0]
        return child.returncode, said

    def lines(self, key):
        """Return one value of each result."""
        return [json.loads(line).get(key) for line in self.results.read_text().splitlines()]

    def begun(self):
        """Return the number of starts of train.py, by training."""
        logs = sorted(self.path.glob('work/tiny/*/*/log.txt'))
        return {log.parent.name.rpartition('-')[0]: log.read_text().count('starts train.py') for log in logs}


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.1)


@needs_snakemake
def test_a_run_writes_a_line_per_training(tmp_path):
    place = Place(tmp_path)
    write(place.file, {'finetune_seeds': [0]})
    status, said = place.run()
    assert status == 0 and '2 trainings left, 3,200 samples' in said, said
    assert place.lines('finetune_seed') == [None, 0] and place.lines('eval_top1') == [1.0, 1.0]
    assert place.begun() == {'pretrain': 1, 'digits-s0': 1}
    assert place.run() == (0, f'tiny: 1 of 1 units finished, {place.results}\n')


@needs_snakemake
@pytest.mark.slow
def test_a_killed_run_and_two_runs_at_once(tmp_path):
    """The second is refused with a message; after kill -9, another waits for the training that is still running."""
    place = Place(tmp_path, go=False)
    first = place.start()
    wait_for(lambda: place.begun() == {'pretrain': 1})
    status, said = place.run()
    assert status == 1 and 'cannot be locked' in said and 'can be removed with the --unlock argument' in said
    first.kill()
    first.wait()
    first.stdout.close()
    third = place.start('--unlock')
    for said in third.stdout:
        if 'fractal1-s0, pretrain: still running from an earlier run; waiting' in said:
            break
    (tmp_path / 'go').touch()
    assert 'Error' not in third.communicate(timeout=120)[0] and third.returncode == 0
    assert sorted(map(str, place.lines('finetune_seed'))) == ['0', '1', 'None']
    assert place.begun() == {'pretrain': 1, 'digits-s0': 1, 'digits-s1': 1}


@needs_snakemake
@pytest.mark.slow
def test_new_settings_are_new_trainings(tmp_path):
    """Trainings with other settings are neither used as results nor resumed, and are kept."""
    place = Place(tmp_path)

    def top1(change):
        write(place.file, change)
        assert place.run('-n', 2)[0] == 0
        return place.lines('eval_top1')

    assert top1(TINY) == [1.0] * 3
    assert top1({'pretrain/lr': 0.002}) == [1.0] * 3 + [2.0, 1.0, 1.0]
    assert top1({'pretrain/lr': 0.002, 'finetune/digits/lr': 0.003}) == [1.0] * 3 + [2.0, 1.0, 1.0, 3.0, 3.0]
    assert top1(TINY) == [1.0] * 3 + [2.0, 1.0, 1.0, 3.0, 3.0]


@needs_snakemake
@pytest.mark.slow
def test_weights_that_were_deleted_are_trained_again(tmp_path):
    """Missing fine-tunings need them; the known result is not written twice."""
    place = Place(tmp_path)
    assert place.run()[0] == 0
    lines = place.results.read_text().splitlines(keepends=True)
    place.results.write_text(''.join(lines[:2]))
    for path in place.path.glob('work/tiny/fractal1-s0/**/*'):
        if path.name == 'last.pth.tar' or path.suffix in ('.tar', '.json'):
            path.unlink()
    assert '2 of 3 trainings left' in run('list', place.file, *place.place).stdout
    assert place.run()[0] == 0
    assert place.begun() == {'pretrain': 2, 'digits-s0': 1, 'digits-s1': 1}
    assert sorted(map(str, place.lines('finetune_seed'))) == ['0', '1', 'None']
    assert 'trainings left' not in run('list', place.file, *place.place).stdout


@needs_snakemake
@pytest.mark.slow
def test_a_line_that_was_deleted_is_collected_again(tmp_path):
    place = Place(tmp_path)
    assert place.run()[0] == 0
    before = place.results.read_text()
    place.results.write_text(before[: len(before) // 2])  # The last line is torn.
    for path in tmp_path.glob('work/tiny/fractal1-s0/*'):
        if path.is_file():
            path.unlink()  # Snakemake's outputs, which folders of older versions lack.
    assert place.run()[0] == 0
    assert sorted(place.results.read_text().splitlines()) == sorted(before.splitlines())
    assert set(place.begun().values()) == {1}


@needs_snakemake
@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path):
    """A limit on file size tears a line, which is written again later."""
    place = Place(tmp_path)
    place.results.parent.mkdir()
    others = [json.dumps(dict(sweep='tiny', condition=f'old-{n}', seed=0)) + '\n' for n in range(5000)]
    place.results.write_text(''.join(others))
    size = place.results.stat().st_size + 40

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    status, said = place.run(preexec_fn=limit)
    assert status == 1 and 'File too large' in said
    assert place.results.stat().st_size == size and set(place.begun().values()) == {1}
    assert place.run()[0] == 0
    content = place.results.read_text()
    assert content.startswith(''.join(others)) and set(place.lines('finetune_seed')[len(others) :]) == {None, 0, 1}
    assert set(place.begun().values()) == {1}


@needs_snakemake
@pytest.mark.slow
def test_an_error_of_one_training_leaves_the_others(tmp_path):
    place = Place(tmp_path)
    wrong = "if args.seed == ['1']: sys.exit('no luck')\n"
    (tmp_path / 'train.py').write_text(STAND_IN.format(options=OPTIONS).replace('epochs =', wrong + 'epochs ='))
    status, said = place.run()
    assert status == 1 and re.search(
        'fractal1-s0, digits-s1: train.py ended with code 1, see .*/log.txt: no luck', said
    )
    assert place.lines('finetune_seed') == [None, 0]


@needs_snakemake
@pytest.mark.slow
def test_interrupted(tmp_path):
    """Ctrl-C stops the running trainings, starts no others, and releases the lock."""
    place = Place(tmp_path, go=False)
    write(place.file, {'seeds': [0, 1, 2, 3, 4]})
    # A shell makes its background processes, such as this test, ignore Ctrl-C.
    child = place.start('-n', 2, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(lambda: len(list(tmp_path.glob('work/tiny/*/*/log.txt'))) == 2)
    os.killpg(child.pid, signal.SIGINT)
    child.communicate(timeout=240)
    assert child.returncode == 1
    for log in tmp_path.glob('work/tiny/*/pretrain-*/lock'):
        with open(log) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # A running train.py would hold it.
    begun = {path.parts[-3] for path in tmp_path.glob('work/tiny/*/*/log.txt')}
    assert begun == {'fractal1-s0', 'fractal1-s1'}
    (tmp_path / 'go').touch()
    assert place.run('-n', 2)[0] == 0 and len(place.lines('seed')) == 15


# A fake Slurm that runs each job immediately on this machine.
SLURM = {
    'sbatch': """
import os, pathlib, subprocess, sys
words, jobs = sys.argv[1:], pathlib.Path(os.environ['JOBS'])
value = lambda flag: words[words.index(flag) + 1]
wrap = next(word.removeprefix('--wrap=') for word in words if word.startswith('--wrap='))
number = str(len(list(jobs.glob('*.name'))) + 1)
(jobs / f'{number}.name').write_text(value('--job-name'))
(jobs / f'{number}.words').write_text(' '.join(word for word in words if not word.startswith('--wrap=')))
with open(value('--output').replace('%j', number), 'w') as log:
    ended = jobs / f'{number}.ended'
    script = f'cd {value("-D")}; ({wrap}); echo $? > {ended}.part; mv {ended}.part {ended}'
    environment = os.environ | {'SLURM_JOB_ID': number}
    subprocess.Popen(['sh', '-c', script], stdout=log, stderr=log, start_new_session=True, env=environment)
print(number)
""",
    'sacct': """
import os, pathlib, sys
for path in pathlib.Path(os.environ['JOBS']).glob('*.name'):
    ended = path.with_suffix('.ended')
    state = 'RUNNING' if not ended.exists() else 'COMPLETED' if ended.read_text().strip() == '0' else 'FAILED'
    if path.read_text() == sys.argv[sys.argv.index('--name') + 1]:
        print(f'{path.stem}|{state}')
""",
    'srun': """
import os, sys
words = sys.argv[1:]
while words[0].startswith('-'):
    del words[0]
os.execvp(words[0], words)
""",
    'sacctmgr': 'print("lab")',
    'scontrol': 'print("MaxArraySize = 1001")',
}
SLURM['squeue'] = SLURM['sacct']


@needs_snakemake
@pytest.mark.slow
def test_on_slurm(tmp_path, monkeypatch):
    """Each training is a job with the requested resources; results are collected where Snakemake runs."""
    pytest.importorskip('snakemake_executor_plugin_slurm')
    place = Place(tmp_path)
    write(place.file, {'pretrain/workers': 3, 'pretrain/device': 'cuda'})
    for name, script in SLURM.items():
        path = tmp_path / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!{sys.executable}\n{script}')
        path.chmod(0o755)
    (tmp_path / 'jobs').mkdir()
    monkeypatch.setenv('JOBS', str(tmp_path / 'jobs'))
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
    options = ['--executor', 'slurm', '--slurm-init-seconds-before-status-checks', 1]
    options += ['--default-resources', 'slurm_partition=gpus', 'slurm_account=lab', 'runtime=60']
    status, said = place.run('-n', 2, '--', *options)
    assert status == 0, said
    assert place.lines('finetune_seed')[0] is None and sorted(place.lines('finetune_seed')[1:]) == [0, 1]
    asked = [(tmp_path / 'jobs' / f'{number}.words').read_text() for number in (1, 2, 3)]
    assert all('-p gpus' in words and '-A lab' in words and '-t 60' in words for words in asked)
    assert all('--mem 16000' in words for words in asked)
    assert '--cpus-per-task=4' in asked[0] and '--gpus=1' in asked[0]
    assert all('--cpus-per-task=2' in words and '--gpus' not in words for words in asked[1:])
    assert not list((tmp_path / 'jobs').glob('4.*'))


@pytest.mark.parametrize(
    'words, message',
    [
        (['train', 'fractal1-s0', 'pretrain-0'], 'no training fractal1-s0/pretrain-0; has the file changed'),
        (['list', '--', '-n'], 'arguments after -- are for Snakemake, which only "run" calls, got -n'),
    ],
)
def test_words_of_other_commands(words, message, sweep_file, tmp_path, capsys):
    import sweep

    place = Place(tmp_path)
    with pytest.raises(SystemExit) as ended:
        sweep.main([words[0], str(place.file), *place.place, *words[1:]])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_without_snakemake_it_says_what_to_install(sweep_file, tmp_path, monkeypatch, capsys):
    import sweep

    place = Place(tmp_path)
    monkeypatch.setattr(sweep.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit) as ended:
        sweep.main(['run', str(place.file), *place.place])
    assert ended.value.code == 2 and "needs snakemake: pip install '.[contour,demo,sweep]'" in capsys.readouterr().err


def test_schedule(sweep_file):
    import sweep_command

    def samples(images, batch, repeat, **settings):
        options = sweep_command.schedule(settings, images, batch, repeat)
        return options['epochs'], int(images * options.get('epoch_repeats', 1)) // batch * batch * options['epochs']

    assert samples(100, 32, True, samples=6400, interval=1600) == (4, 6400)
    # An epoch is at least one pass over all images, and one batch.
    assert samples(1000, 32, True, samples=9600, interval=640) == (9, 9504)
    assert samples(100, 4000, True, samples=9600, interval=640) == (2, 8000)
    assert samples(100, 50, False, samples=250) == (2, 200)
    assert sweep_command.schedule(dict(steps=40), 100, 10, False) == dict(epochs=4, warmup_epochs=0, val_interval=4)
    assert sweep_command.schedule(dict(steps=40, warmup_epochs=3), 100, 10, False) == dict(epochs=4, val_interval=4)


def test_epochs_of_warmup_and_cooldown_count(sweep_file):
    """As many epochs as train.py runs, which its own scheduler tells."""
    import sweep_command

    assert sweep_command.epochs_with_warmup(dict(epochs=4, warmup_epochs=2, sched_on_updates=True)) == 4
    options = dict(epochs=4, warmup_epochs=2, warmup_prefix=True, cooldown_epochs=1, sched='cosine')
    assert sweep_command.epochs_with_warmup(options) == 7
    assert sweep_command.epochs_with_warmup(options | dict(sched='step', decay_epochs=1)) == 6


def test_what_changes_a_training_changes_its_key(sweep_file, tmp_path, monkeypatch):
    """Fresh noise, and the content of a recipe; not where images are kept, nor the name of a recipe."""
    monkeypatch.setattr(sweep_file, 'HERE', tmp_path)
    for name, rate in (('a', 1), ('b', 1), ('c', 2)):
        (tmp_path / f'{name}.yaml').write_text(f'drop_path: 0.{rate}')

    def key(dataset, **more):
        conditions = {'fractal1': dict(dataset=dataset) | more}
        return sweep_file.Sweep(write(tmp_path / 'x.yaml', {'conditions': conditions})).units[0].pretrain.key

    device = key('fractal1/classes=16,loader=device')
    assert device == key('fractal1/classes=16') == key('fractal1/classes=16,cache=none')
    assert device != key('fractal1/classes=16,loader=device,redraw=true')
    a, b, c = (key('fractal1', config=f'{name}.yaml') for name in 'abc')
    assert a == b != c


def write(path, change):
    """Write TINY with changed values, or the given text."""
    if isinstance(change, str):
        path.write_text(change)
        return path
    raw = yaml.safe_load(TINY)
    for place, value in change.items():
        *above, last = place.split('/')
        target = raw
        for key in above:
            target = target.setdefault(key, {})
        target[last] = value
    path.write_text(yaml.safe_dump(raw))
    return path


WRONG = {
    'a list': ('[a]', "must be a mapping with the keys name, .*, got \\['a'\\]"),
    'nothing': ('', 'must be a mapping .* got None'),
    'broken': ('a: [1', 'line 1'),
    'key twice': (TINY + 'name: other', "tiny.yaml, line 2[0-9]: duplicate key 'name'"),
    'condition twice': (TINY.replace('conditions:', 'conditions:\n  fractal1: {}'), "duplicate key 'fractal1'"),
    'unknown key': ({'condition': {}}, "unknown key 'condition'; did you mean 'conditions'"),
    'no conditions': (TINY.replace('conditions:', 'pretrain_:'), 'unknown key'),
    'path as name': ({'name': '../x'}, 'name: must be letters, .* got'),
    'path as condition': ({'conditions/..': {}}, r'conditions.\.\.: must be letters, .* got'),
    'seeds is a number': ({'seeds': 3}, 'seeds: .*list, got 3'),
    'seeds is empty': ({'seeds': []}, 'seeds: .*at least 1'),
    'seeds is null': ({'seeds': None}, 'seeds: .*list, got None'),
    'negative seed': ({'finetune_seeds': [-1]}, 'finetune_seeds.0: .*greater than or equal to 0, got -1'),
    'samples in words': ({'pretrain/samples': '1e6'}, "pretrain.samples: .*integer, got '1e6'"),
    'no samples': ({'conditions/fractal1/samples': 0}, 'conditions.fractal1.samples: .*greater than 0, got 0'),
    'no steps': ({'finetune/digits/steps': 0}, 'finetune.digits.steps: .*greater than 0'),
    'option of the data set': ({'conditions/fractal1/dataset': 'fractal1/dleta=1'}, "'dleta'; did you mean 'delta'"),
    'fine-tuning': (
        {'conditions/fractal1/only': ['digit']},
        "conditions.fractal1: unknown fine-tuning 'digit'; did you",
    ),
    'no name of data': ({'finetune/digits/data': ''}, "finetune.digits: unknown data ''; Valid: digits"),
    'data': ({'finetune/digits/data': 'digit'}, "finetune.digits: unknown data 'digit'; did you mean 'digits'"),
    'kind of data': ({'data/digits/kind': 'digit'}, "data.digits.kind: unknown 'digit'; did you mean 'digits'"),
    'rest of digits': (
        {'data/r': dict(kind='rest', of='digits', count=1)},
        "data.r: unknown folder 'digits'",
    ),
    'row': ({'findings': [dict(title='t', question='q', limits='l', rows=['frac'])]}, 'findings.0: unknown condition'),
    'row of expect': (
        {'findings': [dict(title='t', question='q', limits='l', rows=['fractal1'], expect=[['fractal1', 'x']])]},
        "findings.0: unknown row 'x'",
    ),
    'all that is missing': (
        {'data/f': dict(kind='folder', classes=2)},
        'data.f.reserve: must be given\ndata.f.test: must',
    ),
    'no data set': (
        {'conditions/d': dict(datset='fractal1')},
        "conditions.d: .*'datset' would .* did you mean 'dataset'",
    ),
    'two ways': (
        {'conditions/d': dict(dataset='fractal1', weights='test_vit.fractal1_1k')},
        'conditions.d: weights cannot be combined with a pre-training',
    ),
    'seeds of weights': (
        {'conditions/d': dict(weights='test_vit.fractal1_1k', seeds=[0, 1])},
        'conditions.d: seeds must be one, got 2: published weights are one pre-training',
    ),
    'variable': (
        {'vars/canvas': 'size=48', 'conditions/d/dataset': 'fractal1/$canvass'},
        "'canvass'; did you mean 'canvas'",
    ),
    'no axis': (
        {'findings': [dict(title='t', question='q', limits='l', rows=[dict(condition='fractal1', x=1)])]},
        'findings.0: a population, and rows with x or series, need an axis',
    ),
    'cost': ({'cost/rate': 3}, "cost: unknown key 'rate'"),
    'infinity': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  lr_k_decay: .inf', 1),
        'lr_k_decay: must be a finite number, got inf',
    ),
    'a date': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  lr_k_decay: 2020-01-01', 1),
        'must be a string, .* got date 2020',
    ),
    'bytes': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  lr_k_decay: !!binary aGk=', 1),
        "must be a string, .* got bytes b'hi'",
    ),
    'a key that is a number': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  5: 5', 1),
        'keys must be strings, got 5: put it in quotes',
    ),
    'depth': ('x: ' + '[' * 50 + ']' * 50, 'nested at most 16 times'),
    'great depth': ('[' * 10_000, 'nested at most 16 times'),
    'many aliases': (
        '\n'.join(['a0: &a0 [x]', *(f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, 9))]),
        'at most 100000 values',
    ),
    'a large number': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  lr_k_decay: ' + '9' * 400, 1),
        'got a larger number',
    ),
    'a larger number': (
        TINY.replace('pretrain: &all', 'pretrain: &all\n  lr_k_decay: ' + '9' * 5000, 1),
        'Exceeds the limit',
    ),
    'number as data set': ({'conditions/fractal1/dataset': 5}, 'dataset: must be the name of a data set, got 5'),
    'list as data set': ({'conditions/fractal1/dataset': ['x']}, "dataset: must be the name .* got \\['x'\\]"),
    'negative repeats': ({'pretrain/epoch_repeats': -1}, 'pretrain.epoch_repeats: must be a number from 0, got -1'),
    'true as model': ({'pretrain/model': True}, 'pretrain.model: must be the name of a model, got True'),
}


@pytest.mark.parametrize('change, message', WRONG.values(), ids=WRONG)
def test_a_wrong_sweep_file_is_refused(change, message, sweep_file, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        sweep_file.Sweep(write(tmp_path / 'tiny.yaml', change))
    assert str(error.value).startswith(str(tmp_path / 'tiny.yaml'))


# A train.py that knows the needed options, and records whether it ran.
SCRIPT_OF_OPTIONS = """
import argparse, sys
parser = argparse.ArgumentParser()
for option in '{options}'.split():
    parser.add_argument('--' + option)
parser.parse_args()
open(sys.argv[0] + '.ran', 'w')
"""
LATE = {
    'option': ({'pretrain/lrr': 1}, "fractal1-s0, pretrain: train.py has no option 'lrr'; did you mean 'lr'"),
    'own key': (
        {'finetune/digits/shot': 1},
        "fractal1-s0, digits-s0: train.py has no option 'shot'; did you mean 'shots'",
    ),
    'data set': ({'conditions/fractal1/dataset': 'fractl1'}, "samples needs .* got 'fractl1'; did you mean 'fractal1'"),
    'batch': ({'finetune/digits/batch_size': 1000}, 'fractal1-s0, digits-s0: batch_size must be at most 320'),
    'two budgets': ({'pretrain/epochs': 3}, 'fractal1-s0, pretrain: epochs and samples cannot be combined'),
    'less than a round': (
        {'conditions/fractal1/dataset': 'fractal1/size=48', 'pretrain/samples': 640},
        'samples must be at least 1000, one batch and one pass over all images, got 640',
    ),
    'no batch': ({'pretrain/batch_size': None}, 'fractal1-s0, pretrain: batch_size must be given, .* got None'),
    'shots': ({'finetune/digits/shots': 5000}, 'digits: shots must be at most 173'),
    'config': ({'conditions/fractal1/config': 'none.yaml'}, 'none.yaml'),
    'undone': (
        {'conditions/fractal1/config': '{tmp_path}/rate.yaml', 'conditions/fractal1/lr': None},
        'fractal1-s0, pretrain: lr cannot be null: .*rate.yaml sets it to 2, and train.py has no option that undoes it',
    ),
    'option of a recipe': ({'conditions/fractal1/config': '{tmp_path}/recipe.yaml'}, "train.py has no option 'lrate'"),
}


@pytest.mark.parametrize('change, message', LATE.values(), ids=LATE)
def test_what_cannot_be_run_is_refused_before_the_first_training(change, message, sweep_file, tmp_path, capsys):
    import sweep

    script = tmp_path / 'train.py'
    script.write_text(SCRIPT_OF_OPTIONS.format(options=OPTIONS))
    (tmp_path / 'recipe.yaml').write_text('lrate: 1')
    (tmp_path / 'rate.yaml').write_text('lr: 2')
    path = write(tmp_path / 'tiny.yaml', change)
    path.write_text(path.read_text().replace('{tmp_path}', str(tmp_path)))
    with pytest.raises(SystemExit) as ended:
        sweep.main(['run', str(path), '--train-py', str(script), '--work', str(tmp_path / 'work')])
    assert ended.value.code == 2 and re.search(message, capsys.readouterr().err)
    assert not script.with_name('train.py.ran').exists()


WORDS = {
    '-n 0': "-n: must be an integer of at least 1, got '0'",
    '--only fractal': "--only: unknown condition 'fractal'; did you mean 'fractal1'",
    '--data digits={tmp_path}/images': '--data digits: must be one of none',
    '--data x=/nowhere': "must be NAME=FOLDER, a folder with .* got 'x=/nowhere'",
    '--results {tmp_path}/train.py': 'must be a folder, got the file',
    '--work {tmp_path}/train.py': 'must be a folder, got the file',
    '--train-py {tmp_path}/work': 'no such file: .*/work; get train.py from',
    '--train-py {tmp_path}/broken.py': 'broken.py --help ended with code 1: no timm here',
}


@pytest.mark.parametrize('words, message', WORDS.items())
def test_wrong_words(words, message, sweep_file, tmp_path, capsys):
    import sweep

    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    (tmp_path / 'broken.py').write_text('raise SystemExit("no timm here")')
    (tmp_path / 'train.py').write_text(SCRIPT_OF_OPTIONS.format(options=OPTIONS))
    path = write(tmp_path / 'tiny.yaml', TINY)
    with pytest.raises(SystemExit) as ended:
        common = ['--train-py', str(tmp_path), '--work', str(tmp_path / 'work')]
        sweep.main(['run', str(path), *common, *words.format(tmp_path=tmp_path).split()])
    assert ended.value.code == 2 and re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize('line, message', [('{}x', 'must be JSON'), ('[1]', r'must be a JSON object, got \[1\]')])
def test_results_that_are_none(line, message, sweep_file, tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_text('{"a": 1}\n' + line + '\n')
    with pytest.raises(ValueError, match=f'x.jsonl, line 2: {message}'):
        sweep_file.Results(path).read()


@needs_snakemake
@pytest.mark.slow
@pytest.mark.timm_source
@pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm')
def test_killed_at_any_time(tmp_path):
    """A run that is killed repeatedly, with its training, gets the results of an undisturbed one."""
    alone, killed = Place(tmp_path / 'alone'), Place(tmp_path / 'killed')
    for place in (alone, killed):
        place.place[1] = SOURCE
    start = time.time()
    assert alone.run()[0] == 0
    seconds = time.time() - start
    rng = random.Random(0)
    kills = 0
    while True:
        child = killed.start('--unlock')
        # Relative to the undisturbed run, so that a training reaches a checkpoint on any machine.
        end = time.time() + rng.uniform(0.2, 0.7) * seconds
        while child.poll() is None and time.time() < end:
            time.sleep(0.1)
        if child.poll() is not None or kills == 40:
            break
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        kills += 1
    said = child.communicate()[0]
    assert child.returncode == 0 and 0 < kills < 40, said
    for name in ('condition', 'finetune', 'finetune_seed', 'samples', 'settings'):
        assert sorted(map(str, killed.lines(name))) == sorted(map(str, alone.lines(name)))
    # Only the pre-training: after resuming, timm's loader samples differently, unlike the device loader.
    for name in ('train_loss', 'eval_top1', 'eval_loss'):
        assert killed.lines(name)[0] == alone.lines(name)[0]


def test_published_weights_in_place_of_a_pre_training(sweep_file, tmp_path, monkeypatch):
    import sweep

    text = TINY.replace('conditions:\n', 'conditions:\n  tag: {weights: test_vit.fractal1_1k}\n  scratch: {}\n')
    text = text.replace('seeds: [0]', 'seeds: [0, 1]', 1)
    path = tmp_path / 'tiny.yaml'
    path.write_text(text)
    (tmp_path / 'train.py').touch()
    args = sweep.make_parser().parse_args(['list', str(path), '--train-py', str(tmp_path), '--work', str(tmp_path)])
    plan = sweep.Plan(args)
    read = plan.sweep
    units = {unit.condition: unit for unit in read.units}
    assert units['tag'].pretrain is None and units['fractal1'].pretrain is not None
    # They are one pre-training, whatever the number of seeds.
    assert [(unit.condition, unit.seed) for unit in read.units if unit.seed] == [('scratch', 1), ('fractal1', 1)]
    command = plan.commands.of(units['tag'], units['tag'].finetune[0]).words
    assert command[command.index('--model') + 1] == 'test_vit.fractal1_1k' and '--pretrained' in command
    assert '--pretrained-path' not in command
    plain = plan.commands.of(units['scratch'], units['scratch'].finetune[0]).words
    assert '--pretrained' not in plain and plain[plain.index('--model') + 1] == 'test_vit'
    keys = [units[name].finetune[0].key['settings'] for name in ('tag', 'scratch')]
    assert keys[0] != keys[1]
    # Different weights under the same name do not reuse results.
    other = {name: dataclasses.replace(entry, sha256='0' * 64) for name, entry in sweep_file.manifest().items()}
    monkeypatch.setattr(sweep_file, 'manifest', lambda: other)
    again = {unit.condition: unit for unit in sweep_file.Sweep(path).units}
    for name in units:
        same = units[name].finetune[0].key == again[name].finetune[0].key
        assert same == (name != 'tag')


def test_weights_that_are_not_there_are_left_out(sweep_file, tmp_path, capsys):
    import sweep

    path = tmp_path / 'tiny.yaml'
    tags = '  here: {weights: test_vit.fractal1_1k}\n  gone: {weights: test_vit.fractal1_x}\n'
    tags += '  mine: {weights: "local-dir:mine"}\n'
    path.write_text(TINY.replace('conditions:\n', f'conditions:\n{tags}'))
    units = sweep_file.Sweep(path).units
    kept = list(sweep.available(units))
    assert [unit.condition for unit in units if unit not in kept] == ['gone'] * (len(units) - len(kept)) != []
    assert 'gone-s0: skipped, timm does not know the weights test_vit.fractal1_x' in capsys.readouterr().err


def test_a_report_without_samples_and_steps(sweep_file, tmp_path):
    """Trainings given in epochs, before and after there are results, with curves."""
    import sweep_report

    change = {
        **{'pretrain': dict(model='test_vit', batch_size=8, epochs=2), 'title': 'T', 'about': 'A'},
        'finetune/digits': dict(data='digits', shots=5, model='test_vit', batch_size=8, epochs=2),
        'conditions/fractal1': dict(dataset='fractal1/classes=16'),
        'findings': [dict(title='t', question='q', limits='l', rows=['fractal1'], curves=True)],
    }
    read = sweep_file.Sweep(write(tmp_path / 'tiny.yaml', change))
    results = tmp_path / 'tiny.jsonl'
    results.touch()
    sweep_report.write([read], tmp_path, tmp_path / 'page.md')
    row = '| fractal1 |'
    assert f'{row} not yet run | not yet run | not yet run |' in (tmp_path / 'page.md').read_text()
    line = dict(eval_top1=50.0, samples=1600, train_loss=1.0, seconds=1, hardware='a core', versions={})
    lines = [job.key | line | dict(curve=[[1, 40.0], [2, 50.0]]) for unit in read.units for job in unit.jobs]
    results.write_text(''.join(json.dumps(each) + '\n' for each in lines))
    sweep_report.write([read], tmp_path, tmp_path / 'page.md')
    assert re.search(rf'{re.escape(row)} 1,600 \| 50.0 %, loss 1.00 \| 50.0 ', (tmp_path / 'page.md').read_text())
    assert (tmp_path / 'page' / 'tiny-t.png').exists()


def test_a_curve_has_each_epoch_once(sweep_file, tmp_path):
    import sweep_train

    summary = tmp_path / 'summary.csv'
    summary.write_text(
        'epoch,train_loss,eval_top1\n0,2.1,10.0\n1,2.0,\n2,1.9,30.5\nepoch,train_loss,eval_top1\n2,1.8,31.0\n'
    )
    assert sweep_train.curve(summary) == [(1, 10.0), (3, 31.0)]
    assert sweep_train.curve(tmp_path / 'none.csv') == []


def test_a_population_on_the_page(sweep_file, tmp_path):
    """Conditions with a common prefix: rows for the best and worst, and a summary."""
    import numpy as np
    import sweep_population
    import sweep_report

    tops = dict(zip((f'base-{n}' for n in range(12)), [70, 90, 60, 85, 50, 80, 65, 75, 55, 77, 82, 58], strict=True))
    three = dict.fromkeys(('base-0', 'base-1', 'base-2'), {'seeds': [0, 1, 2]})
    change = {
        **{'pretrain': dict(model='test_vit', batch_size=8, epochs=2), 'title': 'T', 'about': 'A'},
        'finetune/digits': dict(data='digits', shots=5, model='test_vit', batch_size=8, epochs=2),
        'conditions': {'scratch': {}}
        | {name: dict(dataset=f'fractal1/classes=16,seed={name[5:]}') | three.get(name, {}) for name in tops},
        'findings': [dict(title='t', question='q', limits='l', rows=['scratch'], population='base-', axis='bases')],
    }
    read = sweep_file.Sweep(write(tmp_path / 'tiny.yaml', change))
    lines = []
    for unit in read.units:
        for job in unit.jobs:
            top1 = tops.get(job.key['condition'], 40) + job.key['seed']
            line = dict(eval_top1=float(top1), samples=1600, train_loss=1.0, seconds=1, hardware='a core', versions={})
            lines.append(json.dumps(job.key | line) + '\n')
    (tmp_path / 'tiny.jsonl').write_text(''.join(lines))
    sweep_report.write([read], tmp_path, tmp_path / 'page.md')
    page = (tmp_path / 'page.md').read_text()
    rows = re.findall(r'^\| (base-\d+|from scratch|scratch) ', page, re.MULTILINE)
    assert rows == ['scratch', *(f'base-{n}' for n in (1, 3, 10, 5, 9)), *(f'base-{n}' for n in (6, 2, 11, 8, 4))]
    assert 'digits: 50.0 to 90.0, median 72.5' in page
    # Three of them have three seeds each, with results one apart: nearly all variance is between them.
    means = np.array([[70, 71, 72], [90, 91, 92], [60, 61, 62]])
    between, within = 3 * means.mean(1).var(ddof=1), means.var(1, ddof=1).mean()
    share = (between - within) / (between + 2 * within)
    assert sweep_population.variance_share(means)[0] == pytest.approx(share)
    assert f'digits: {share:.0%} (' in page and ', 3 of them)' in page


def test_the_summary_shows_what_survives_a_false_discovery_rate(sweep_file, tmp_path):
    import sweep_compare
    import sweep_report

    gain = dict(title='digits', model='ViT', task='digits', against='scratch', starts={'a': 'fractal1', 'b': 'noise'})
    change = {
        **{
            'pretrain': dict(model='test_vit', batch_size=8, epochs=2),
            'title': 'A (b)',
            'about': 'A',
            'seeds': [0, 1, 2],
        },
        'finetune/digits': dict(data='digits', shots=5, model='test_vit', batch_size=8, epochs=2),
        'conditions/fractal1': dict(dataset='fractal1/classes=16'),
        'conditions/noise': dict(dataset='noise1/classes=16'),
        'conditions/scratch': {},
        'summary': [gain],
        'findings': [dict(title='Q (a)?', question='q', conclusion='Take it.', limits='l', rows=['scratch'])],
    }
    read = sweep_file.Sweep(write(tmp_path / 'tiny.yaml', change))
    top1 = {'scratch': [50, 51, 52], 'fractal1': [60, 62, 61], 'noise': [55, 51, 49]}
    line = dict(samples=1600, train_loss=1.0, seconds=1, hardware='a core', versions={})
    lines = [
        job.key | line | dict(eval_top1=float(top1[unit.condition][unit.seed]))
        for unit in read.units
        for job in unit.jobs
        if unit.condition in top1
    ]
    (tmp_path / 'tiny.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in lines))
    sweep_report.write([read], tmp_path, tmp_path / 'page.md')
    page = (tmp_path / 'page.md').read_text()
    # Differences 10, 11, 9 and 5, 0, -3: mean 10 with t = 4.303 * 1 / sqrt(3), and mean 0.67, which is not shown.
    assert page.startswith('# Results\n\n- Take it. ([Q (a)?](#q-a))\n\n')
    assert '|  | from scratch | a | b |' in page
    assert '| digits; ViT | 51.0 % | **+10.0** ± 2.5 | +0.7 ± 10.0 |' in page
    assert '| all |  | higher in 1 of 1, 1 clear | higher in 1 of 1, none clear |' in page
    assert (tmp_path / 'page' / 'summary.png').stat().st_size > 1000
    table = sweep_report.Table(read, lines)
    found = sweep_compare.compare(table, 'noise', 'scratch', 'digits')
    assert (found.wins, found.runs, round(found.low, 2), round(found.high, 2)) == (2, 6, -9.37, 10.71)


@pytest.mark.parametrize('differences, interval', [([1.0, 1.0, 2.0], True), ([2.05, 2.05 - 1e-15, 2.05], False)])
def test_seeds_with_equal_differences(differences, interval, sweep_file):
    """Three seeds have an interval if their differences have a spread."""
    import sweep_compare

    class Table:
        top1 = {'a': {'t': {(seed, 0): value for seed, value in enumerate(differences)}}}
        top1['b'] = {'t': dict.fromkeys(top1['a']['t'], 0.0)}

    found = sweep_compare.compare(Table(), 'a', 'b', 't')
    assert (found.low < found.mean < found.high) == interval


def test_lines_that_were_edited(sweep_file, tmp_path, capsys):
    """A figure that is missing is named; a line that repeats a training is told from one of other settings."""
    import sweep_report

    change = {'title': 'T', 'about': 'A', 'findings': [dict(title='t', question='q', limits='l', rows=['fractal1'])]}
    read = sweep_file.Sweep(write(tmp_path / 'tiny.yaml', change))
    line = dict(eval_top1=50.0, samples=1600, train_loss=1.0, seconds=1, hardware='a core', versions={})
    lines = [job.key | line for job in read.units[0].jobs]
    lines += [lines[-1] | {'eval_top1': 60.0}, lines[0] | {'settings': 'other'}]

    def report():
        (tmp_path / 'tiny.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in lines))
        sweep_report.write([read], tmp_path, tmp_path / 'page.md')

    report()
    said = capsys.readouterr().out
    assert 'ignored 1 lines with settings that differ' in said and 'ignored 1 lines that repeat a training' in said
    lines[1]['eval_top1'] = 'high'
    place = 'tiny.jsonl, fractal1, seed 0, digits, seed 0'
    with pytest.raises(ValueError, match=f"{place}: eval_top1 must be a finite number, got 'high'"):
        report()
