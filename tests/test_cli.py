"""The console script: exit codes, messages, cheap imports, and each check of `doctor` in both states."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import timm_fractal
from tests.test_checkpoint import write
from timm_fractal import Fractal1, cli
from timm_fractal._utils.console import is_primary
from timm_fractal._utils.messages import redacted
from timm_fractal.cli import doctor
from timm_fractal.cli.main import make_parser
from timm_fractal.explore import sheets
from timm_fractal.hub import manifest as weights

NAME = 'fractal1/classes=6,size=64,points=3000'


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from timm_fractal.cli import main
try:
    main(['--help'])
except SystemExit as stop:
    assert stop.code == 0
assert main(['export', 'fractl1', 'x']) == 2
heavy = {'torch', 'torchvision', 'timm', 'numpy', 'numba', 'PIL'} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 'timm-fractal doctor' in done.stdout
    assert "unknown data set 'fractl1'; did you mean 'fractal1'" in done.stderr


@pytest.mark.parametrize('command', ['preview', 'explore', 'export', 'export-weights', 'convert', 'publish', 'doctor'])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main([command, '--help'])
    assert info.value.code == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.split('example', 1)[1].splitlines() if line.startswith('  timm-fractal')]
    assert lines
    for words in lines:
        # The parser must accept the examples in the help.
        assert make_parser().parse_args(words[1:]).command == command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(['--version'])
    assert info.value.code == 0
    assert capsys.readouterr().out == f'timm-fractal {timm_fractal.__version__}\n'


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main([])
    assert info.value.code == 2
    assert 'COMMAND' in capsys.readouterr().err


def test_console_script_is_declared() -> None:
    points = [point for point in metadata.entry_points(group='console_scripts') if point.name == 'timm-fractal']
    assert [point.load() for point in points] == [cli.main]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['preview', 'fractal1/sigm=3'], "fractal1: unknown option 'sigm'; did you mean 'sigma'"),
        (['export', 'fractal1/delta=2', 'x'], 'fractal1: delta must be less than 1, got 2.0'),
        (['export', NAME, 'x.tar', '--split', 'all'], "which holds one split, got 'all'"),
        (['preview', NAME, '-o', 'x.jpg'], "output must end in .png, or .gif with --sweep, got 'x.jpg': use 'x.png'"),
        (['preview', NAME, '--sweep', 'seed'], "values must be given for the option 'seed'"),
    ],
)
def test_wrong_question(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err.startswith(f'timm-fractal {arguments[0]}: ') and message in output.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            ['--sweep', 'delta', '--count', '3'],
            '--count cannot be combined with --sweep, except in a .gif file: use --columns',
        ),
        (['--values', '1,2'], '--values needs --sweep'),
        (['--split', 'all'], "invalid choice: 'all'"),
        (['--count', 'many'], "invalid int value: 'many'"),
    ],
)
def test_no_option_is_ignored(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(['preview', NAME, *arguments])
    assert info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_instead_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['preview', str(tmp_path)]) == 2
    assert f'; {tmp_path} is a path: give it with --data-dir\n' in capsys.readouterr().err


@pytest.mark.parametrize(('bare', 'option'), [('fractal1/classes=9', '--dataset'), ('.', '--data-dir')])
def test_doctor_names_the_option(bare: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cli.main(['doctor', bare])
    assert info.value.code == 2
    assert f'{bare} needs an option before it: {option} {bare}\n' in capsys.readouterr().err


def test_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(['preview', NAME, '--count', '4', '--columns', '2', '--tile', '32', '--split', 'validation']) == 0
    assert capsys.readouterr().out == 'fractals.png: 70 x 70 pixels\n'
    expected = sheets.contact_sheet(NAME, 'validation', count=4, columns=2, tile=32)
    assert Image.open('fractals.png').tobytes() == expected.tobytes()


def test_sweep(tmp_path: Path) -> None:
    output = tmp_path / 'sweep.png'
    arguments = ['--sweep', 'sigma', '--values', '3.3, 3.5', '--columns', '3', '--tile', '32']
    assert cli.main(['preview', NAME, '-o', str(output), *arguments]) == 0
    expected = sheets.sweep(NAME, 'sigma', ['3.3', '3.5'], columns=3, tile=32)
    assert Image.open(output).tobytes() == expected.tobytes()
    assert os.listdir(tmp_path) == ['sweep.png']


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest, params = tmp_path / 'two words', tmp_path / 'x.json'
    assert cli.main(['export', NAME, str(dest), '--params', str(params)]) == 0
    assert capsys.readouterr().out == (
        f'{dest}: 6 train images of 6 classes, 6 new\n'
        'dataset: fractal1/classes=6,points=3000,size=64\n'
        f"train with: --data-dir '{dest}' --num-classes 6 --val-split ''\n"
    )
    assert json.loads(params.read_text())['dataset'] == 'fractal1/classes=6,points=3000,size=64'
    assert cli.main(['export', NAME, str(dest), '--split', 'all']) == 0
    assert capsys.readouterr().out == (
        f'{dest}: 6 train images of 6 classes, 0 new\n'
        f'{dest}: 6 validation images of 6 classes, 6 new\n'
        'dataset: fractal1/classes=6,points=3000,size=64\n'
        f"train with: --data-dir '{dest}' --num-classes 6\n"
    )
    assert cli.main(['export', NAME + ',seed=3', str(dest)]) == 1
    assert 'choose another destination' in capsys.readouterr().err


def test_export_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / 'x'
    assert cli.main(['export', NAME, str(dest), '--shard', '1/2']) == 0
    said = f'{dest}: 3 train images of 6 classes, 3 new\ndataset: fractal1/classes=6,points=3000,size=64\n'
    assert capsys.readouterr().out == said
    assert cli.main(['export', NAME, str(dest), '--shards', '2']) == 0
    command = f"train with: --dataset wds/ --data-dir {dest} --num-classes 6 --val-split ''\n"
    assert capsys.readouterr().out == said.replace('3 train', '6 train') + command
    for text in ('1', '1/2/3', 'a/b', ''):
        with pytest.raises(SystemExit):
            cli.main(['export', NAME, str(dest), '--shard', text])
        assert f'argument --shard: must be I/N, as in 0/64, got {text!r}' in capsys.readouterr().err


COMMANDS = ['preview', 'explore', 'export', 'export-weights', 'convert', 'publish', 'doctor']


@pytest.mark.parametrize('command', [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_a_terminal(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    with pytest.raises(SystemExit):
        cli.main([*command, '--help'])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in COMMANDS) if not command else '--help' in text


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='no such permissions')
@pytest.mark.parametrize(
    'arguments', [['export', NAME, 'DEST'], ['export', NAME, 'DEST.tar'], ['preview', NAME, '-o', 'DEST.png']]
)
def test_no_permission(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Fractal1(NAME)  # Compile and import before dropping privileges.
    folder = tmp_path / 'locked'
    folder.mkdir()
    arguments = [argument.replace('DEST', str(folder / 'x')) for argument in arguments]
    root = os.geteuid() == 0
    folder.chmod(0o555)
    if root:
        # Permissions do not apply to root.
        os.seteuid(65534)
    try:
        assert cli.main(arguments) == 1
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
    output = capsys.readouterr()
    assert 'ermission' in output.err and str(folder) in output.err
    assert output.err.count('\n') == 1 and 'Traceback' not in output.err
    assert list(folder.iterdir()) == []


def test_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('timm_fractal.cli.export_images.export_images', interrupt)
    assert cli.main(['export', NAME, str(tmp_path / 'x')]) == 130
    assert 'interrupted; run the same command again to continue' in capsys.readouterr().err


@pytest.mark.slow
def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(['doctor'])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert {line.split()[0] for line in lines} <= {'ok', 'warn'}
    for words in (
        'python 3.',
        f'torch {metadata.version("torch")}',
        f'timm {metadata.version("timm")}',
        f'pillow {metadata.version("pillow")}',
        'torchvision matches torch',
        'autoload is on',
        'timm finds fractal1 in a script that does not import timm_fractal',
        'posterize accepts 0 bits',
        'ms per image and core (512 x 512, 100,000 points)',
        'shared memory',
        'pre-trained weights: ',
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)


def check(function: Any) -> list[doctor.Check]:
    return list(function())


def test_doctor_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def good() -> Any:
        yield doctor.Check('ok', 'good')

    def odd() -> Any:
        yield doctor.Check('warn', 'odd', 'look')

    def broken() -> Any:
        raise RuntimeError('operator\nmissing')

    monkeypatch.setattr(doctor, 'CHECKS', (good, odd))
    assert cli.main(['doctor']) == 0
    assert capsys.readouterr().out == 'ok    good\nwarn  odd -> look\n'
    monkeypatch.setattr(
        doctor, 'CHECKS', (lambda: iter([doctor.Check('FAIL', 'bad', 'mend'), doctor.Check('ok', 'good')]),)
    )
    assert cli.main(['doctor']) == 1
    assert capsys.readouterr().out == 'FAIL  bad -> mend\nok    good\n'
    # A check that raises counts as failed, and the others still run.
    monkeypatch.setattr(doctor, 'CHECKS', (broken, good))
    assert cli.main(['doctor']) == 1
    assert capsys.readouterr().out == 'FAIL  broken: RuntimeError: operator missing\nok    good\n'


def test_doctor_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._oldest_versions()['timm'] == '1.0.12'
    assert 'matplotlib' not in doctor._oldest_versions()

    def import_module(name: str) -> None:
        if name in ('numba', 'torchvision'):
            raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(doctor, 'import_module', import_module)
    monkeypatch.setattr(doctor, '_oldest_versions', lambda: {'timm': '99.1'})
    found = {line.text.split()[0]: line for line in check(doctor._versions)}
    assert found['torch'].status == found['pillow'].status == 'ok'
    # torch can render without numba; torchvision has no replacement.
    assert found['numba'].status == 'warn' and found['torchvision'].status == 'FAIL'
    assert 'RuntimeError: operator torchvision::nms does not exist' in found['torchvision'].text
    assert found['timm'].status == 'FAIL' and found['timm'].text.endswith('is older than 99.1')
    assert found['timm'].advice == "pip install 'timm>=99.1'"


@pytest.mark.parametrize(
    'old, new', [('1.0.9', '1.0.12'), ('2.4', '2.5'), ('12.9.1', '13.0.0'), ('2.4.1+cu128', '2.5')]
)
def test_versions_are_compared_as_numbers(old: str, new: str) -> None:
    assert doctor._numbers(old) < doctor._numbers(new)


def test_doctor_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line.status for line in check(doctor._torchvision)] == ['ok']
    monkeypatch.setitem(sys.modules, 'torchvision.ops', None)
    (line,) = check(doctor._torchvision)
    assert line.status == 'FAIL' and 'torchvision does not match torch' in line.text and 'together' in line.advice


def test_doctor_autoload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TORCH_DEVICE_BACKEND_AUTOLOAD', raising=False)
    assert [line.status for line in check(doctor._autoload)] == ['ok']
    monkeypatch.setattr(metadata, 'version', lambda name: '2.4.1')
    assert [(line.status, line.text) for line in check(doctor._autoload)] == [
        ('warn', 'autoload is off: torch is older than 2.5')
    ]
    monkeypatch.setattr(metadata, 'entry_points', lambda group: [])
    assert 'the entry point is not installed' in check(doctor._autoload)[0].text


def test_doctor_without_autoload(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch disables autoload for any value but 1.
    monkeypatch.setenv('TORCH_DEVICE_BACKEND_AUTOLOAD', 'false')
    (line,) = check(doctor._autoload)
    assert line.status == 'warn' and 'TORCH_DEVICE_BACKEND_AUTOLOAD=false' in line.text and 'import' in line.advice
    monkeypatch.setattr(doctor, '_FRESH', 'raise SystemExit(1)')
    (line,) = check(doctor._fresh_process)
    assert line.status == 'warn' and 'since autoload is off' in line.text


def test_doctor_fresh_process_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TORCH_DEVICE_BACKEND_AUTOLOAD', raising=False)
    monkeypatch.setattr(doctor, '_FRESH', "raise SystemExit('no such data set')")
    (line,) = check(doctor._fresh_process)
    assert line.status == 'FAIL' and 'no such data set' in line.text


def test_doctor_posterize(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line.status for line in check(doctor._posterize)] == ['ok']
    from timm.data import auto_augment

    def refuse(image: Any, bits: int) -> None:
        raise ValueError('bits must be between 1 and 8')

    monkeypatch.setitem(auto_augment.NAME_TO_OP, 'PosterizeIncreasing', refuse)
    assert [line.status for line in check(doctor._posterize)] == ['FAIL']


def test_doctor_numba_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip('timm_fractal.fractal.render_numba')
    monkeypatch.setattr(kernel, 'render_lanes', kernel.render_lanes.py_func)
    (line,) = check(doctor._numba_cache)
    assert line.status == 'warn' and 'NUMBA_CACHE_DIR' in line.advice


@pytest.mark.parametrize('free, status', [(10e6, 'FAIL'), (64e6, 'warn'), (8e9, 'ok')])
def test_doctor_shared_memory(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.isdir('/dev/shm'):
        pytest.skip('no /dev/shm')
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(int(9e9), 0, int(free)))  # type: ignore[attr-defined]
    (line,) = check(doctor._shared_memory)
    assert line.status == status and f'{free / 1e6:,.0f} MB' in line.text


def test_doctor_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(weights.SOURCE, 'https://mirror')
    (line,) = check(doctor._weights)
    assert line.status == 'ok' and line.text.endswith('intact; TIMM_FRACTAL_WEIGHTS=https://mirror is searched first')
    monkeypatch.setenv(weights.SOURCE, '/no/mirror')
    assert check(doctor._weights)[0].text == 'TIMM_FRACTAL_WEIGHTS=/no/mirror is not a folder'
    monkeypatch.delenv(weights.SOURCE)
    (tmp_path / 'x').write_bytes(b'1234')
    entry = weights.Weights('a.b', hashlib.sha256(b'1234').hexdigest(), 4, {}, 'mit', {}, file='any')
    weights.add(entry, tmp_path / 'x', tmp_path / 'manifest.json')
    monkeypatch.setattr(weights, 'MANIFEST', tmp_path / 'manifest.json')
    assert 'pre-trained weights: 1, of which 1 are installed' in check(doctor._weights)[0].text
    (tmp_path / 'a.b.safetensors').write_bytes(b'1235')
    monkeypatch.setattr(doctor, 'CHECKS', (doctor._weights,))
    (line,) = doctor.run()
    assert line.status == 'FAIL' and 'is damaged, or not the weights a.b' in line.text


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.parametrize('stream', ['None', 'open("/dev/full", "w")', '__import__("io").StringIO()'])
def test_what_cannot_be_said_is_no_failure(tmp_path: Path, stream: str) -> None:
    code = (
        'import sys\nfrom timm_fractal.cli import main\n'
        f'stream = {stream}\nif hasattr(stream, "getvalue"): stream.close()\n'
        f'sys.stdout = stream\nsys.exit(main(["preview", {NAME!r}, "-o", {str(tmp_path / "x.png")!r}]))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / 'x.png').exists(), done.stderr


def test_the_module_runs_the_tool() -> None:
    done = subprocess.run([sys.executable, '-m', 'timm_fractal', '--version'], capture_output=True, text=True)
    assert done.stdout.startswith('timm-fractal ')


def test_names_and_destinations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['preview', 'torch/FRACTAL1/Size=64', '-o', str(tmp_path / 'x.png')]) == 0
    assert cli.main(['export', NAME, '']) == 2
    assert "dest must be a folder or a name that ends in .tar, got ''" in capsys.readouterr().err


@pytest.mark.posix
def test_a_pipe_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / 'pipe')
    for name in ('image1', 'fractal1'):
        arguments = ['preview', name, '--data-dir', str(tmp_path / 'pipe'), '-o', str(tmp_path / 'x.png')]
        assert cli.main(arguments) > 0
        assert 'pipe' in capsys.readouterr().err


def test_nonsense_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '0')
    assert cli.main(['preview', NAME, '-o', str(tmp_path / 'x.png')]) == 2
    assert 'LOCAL_WORLD_SIZE must be an integer from 1' in capsys.readouterr().err


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('LOCAL_WORLD_SIZE', 'RANK'):
        monkeypatch.setenv(name, '')
    assert cli.main(['preview', NAME, '-o', str(tmp_path / 'x.png')]) == 0
    assert is_primary()


@pytest.mark.posix
def test_special_files_are_neither_replaced_nor_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / 'pipe.png')
    os.mkfifo(tmp_path / 'pipe.tar')
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'folder' / 'dataset.json')
    for words in (
        ['preview', NAME, '-o', 'pipe.png'],
        ['export', NAME, 'out', '--params', 'pipe'],
        ['export', NAME, 'out', '--params', '/dev/null'],
        ['export', NAME, 'pipe.tar'],
        ['export', NAME, 'folder'],
        ['export-weights', 'pipe', 'out', '--tag', 'x'],
    ):
        words = [str(tmp_path / word) if word[:4] in ('pipe', 'fold', 'out') else word for word in words]
        assert cli.main(words) == 2
        assert 'must be a regular file, but is a' in capsys.readouterr().err
    assert (tmp_path / 'pipe.png').is_fifo() and Path('/dev/null').is_char_device()
    assert not (tmp_path / 'out').exists()


@pytest.mark.posix
def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / 'place').mkdir()
    for name, target in (('there.png', 'a.png'), ('dangling.png', 'b.png')):
        if name == 'there.png':
            (tmp_path / 'place' / target).write_bytes(b'old')
        (tmp_path / name).symlink_to(tmp_path / 'place' / target)
        assert cli.main(['preview', NAME, '-o', str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_symlink()
        with Image.open(tmp_path / 'place' / target) as sheet:
            assert sheet.format == 'PNG'
    assert len(list((tmp_path / 'place').iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize('encoding', ['cp1252', 'ascii', 'utf-8'])
def test_every_command_speaks_in_a_narrow_encoding(tmp_path: Path, encoding: str) -> None:
    """A Greek path on a terminal whose encoding lacks the letters."""
    folder = f'{tmp_path}/φράκταλ'
    os.mkdir(folder)
    environment = os.environ | {'PYTHONIOENCODING': encoding, 'TIMM_FRACTAL_WEIGHTS': folder, 'HF_HUB_OFFLINE': '1'}

    def run(*words: str) -> 'subprocess.CompletedProcess[bytes]':
        command = [sys.executable, '-m', 'timm_fractal', *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120)

    write(Path(folder, 'last.pth.tar'))
    for words, end in (
        (['doctor'], b' is searched first'),
        (['preview', NAME, '-o', f'{folder}/x.png'], b'pixels'),
        (['export', NAME, f'{folder}/images'], b'--num-classes 6'),
        (['export-weights', f'{folder}/last.pth.tar', f'{folder}/model', '--tag', 'x'], b'pretrained=True)'),
        (['publish', f'{folder}/model', '--repo-id', 'me/x', '--dry-run'], b'README.md)'),
    ):
        done = run(*words)
        # publish exits with 1, since the Hub cannot validate the model card.
        assert done.returncode == (words[0] == 'publish') and end in done.stdout.rstrip(), done
    done = run('export-weights', f'{folder}/nothing', 'out')
    assert done.returncode == 1 and b'No such file' in done.stderr and b'Traceback' not in done.stderr


def test_secrets_in_the_address_of_weights_are_not_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = 'HTTP://me:pass@127.0.0.1:9/folder?sig=secret#x'
    monkeypatch.setenv(weights.SOURCE, address)
    said = [check.text for check in doctor._weights()]
    assert any(text.endswith(f'{weights.SOURCE}=http://127.0.0.1:9/folder is searched first') for text in said)
    with pytest.raises(ConnectionError) as error:
        weights.load(next(iter(weights.manifest().values())), tmp_path)
    for text in (*said, str(error.value), repr(error.value.__context__)):
        assert not {'pass', 'secret'} & set(re.findall(r'\w+', text))


@pytest.mark.parametrize(
    'url, expected',
    [
        ('https://a/b', 'https://a/b'),
        ('S3://key:se/cret@bucket/x', 's3://bucket/x'),
        ('https://u@h:80/b?x=1', 'https://h:80/b'),
        ('https://h#x', 'https://h'),
        ('/home/me@x/y', '/home/me@x/y'),
        ('C:\\x', 'C:\\x'),
        ('', ''),
    ],
)
def test_redacted(url: str, expected: str) -> None:
    assert redacted(url) == expected


def test_nested_json_is_no_parameter_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'x.json').write_text('[' * 100_000)
    arguments = ['preview', 'fractal1', '--data-dir', str(tmp_path / 'x.json'), '-o', str(tmp_path / 'x.png')]
    assert cli.main(arguments) == 2
    assert 'not a parameter file' in capsys.readouterr().err
