"""Tags in timm's registry, and the sources and verification of their files."""

import contextlib
import dataclasses
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
import safetensors.torch
import timm
import torch
from timm.models import _builder

import timm_fractal
from timm_fractal.hub import folder as hub
from timm_fractal.hub import manifest as weights
from timm_fractal.hub.manifest import Weights

NAME = 'test_vit.fractal1_loopback'
CFG = dict(
    input_size=[3, 64, 64],
    fixed_input_size=True,
    interpolation='bicubic',
    crop_pct=0.95,
    mean=[0.5, 0.5, 0.5],
    std=[0.5, 0.5, 0.5],
    num_classes=5,
    first_conv='patch_embed.proj',
    classifier='head',
    custom_load=False,
)


def make_weights(path, seed=0):
    """Save random weights, and return their manifest entry."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tensors = timm.create_model('test_vit', img_size=64, num_classes=5).state_dict()
    safetensors.torch.save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Weights(NAME, digest, path.stat().st_size, CFG, 'apache-2.0', {'dataset': 'fractal1'}, file='any')


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    entry = make_weights(folder / 'x.safetensors')
    return weights.add(entry, folder / 'x.safetensors', folder / 'manifest.json'), folder


@pytest.fixture
def use(monkeypatch):
    """Yield a function that registers the tags of another manifest with timm, until the test ends."""
    monkeypatch.delenv(weights.SOURCE, raising=False)

    def use(path):
        timm_fractal.unregister()
        monkeypatch.setattr(weights, 'MANIFEST', path)
        timm_fractal.register()

    yield use
    timm_fractal.unregister()
    monkeypatch.undo()
    timm_fractal.register()


@pytest.fixture
def tag(shared, use):
    entry, folder = shared
    use(folder / 'manifest.json')
    return entry


def stored(folder):
    return safetensors.torch.load_file(folder / f'{NAME}.safetensors')


def test_timm_lists_exactly_the_manifest():
    names = sorted(weights.manifest())
    ours = ['*fractal*', '*image1*']
    assert sorted(timm.list_pretrained(ours)) == sorted(timm.list_models(ours, pretrained=True)) == names


def test_what_is_shipped():
    """All embedded weights are small, load offline, and reproduce the recorded features."""
    entries = weights.manifest()
    for name, entry in entries.items():
        assert entry.provenance['dataset']
        if entry.file is not None:
            assert entry.size <= weights.MAX_SHIPPED
            model = timm.create_model(name, pretrained=True)
            expected = torch.tensor(entry.provenance['reference_output'])
            found = torch.tensor(hub.reference_output(model))
            assert torch.allclose(found, expected, atol=2e-3)
            assert not torch.allclose(torch.tensor(hub.reference_output(timm.create_model(name))), expected, atol=2e-2)
    files = {path.name for path in weights.MANIFEST.parent.glob('*.safetensors')}
    assert files == {entry.file for entry in entries.values() if entry.file}


def test_large_weights_do_not_go_into_the_wheel(shared):
    entry = dataclasses.replace(shared[0], size=10**9)
    manifest = weights.MANIFEST.read_bytes()
    with pytest.raises(ValueError, match=r'must have at most 15,000,000 bytes, got 1,000,000,000: publish the folder'):
        weights.add(entry, shared[1] / 'x.safetensors', weights.MANIFEST)
    assert weights.MANIFEST.read_bytes() == manifest


def test_a_tag_of_another_size_says_so(caplog):
    caplog.set_level('INFO', 'timm_fractal')
    timm.create_model('test_vit.fractals1000_1k', pretrained=True)
    assert 'test_vit.fractals1000_1k is for 96 pixels; for N pixels use --img-size N' in caplog.text
    model = timm.create_model('test_vit.fractals1000_1k', pretrained=True, img_size=64)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_tag_is_loaded(tag, shared):
    assert timm.list_pretrained('*fractal*') == timm.list_models('*fractal*', pretrained=True) == [NAME]
    assert timm.is_model_pretrained(NAME)
    model = timm.create_model(NAME, pretrained=True)
    tensors = stored(shared[1])
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    config = timm.data.resolve_model_data_config(model)
    assert config['mean'] == config['std'] == (0.5, 0.5, 0.5) and config['input_size'] == (3, 64, 64)
    assert model.pretrained_cfg['license'] == 'apache-2.0' and model.num_classes == 5


def test_it_is_adapted_as_timm_does(tag, shared):
    image = torch.zeros(1, 3, 64, 64)
    tensors = stored(shared[1])
    other_head = timm.create_model(NAME, pretrained=True, num_classes=7)
    assert other_head(image).shape == (1, 7)
    assert torch.equal(other_head.state_dict()['blocks.0.attn.qkv.weight'], tensors['blocks.0.attn.qkv.weight'])
    assert timm.create_model(NAME, pretrained=True, num_classes=0)(image).shape == (1, 64)
    features = timm.create_model(NAME, pretrained=True, features_only=True)(image)
    assert [feature.shape for feature in features] == [(1, 64, 4, 4)] * 3
    assert timm.create_model(NAME, pretrained=True, img_size=96)(torch.zeros(1, 3, 96, 96)).shape == (1, 5)
    gray = timm.create_model(NAME, pretrained=True, in_chans=1)
    kernel = tensors['patch_embed.proj.weight'].sum(1, keepdim=True)
    assert torch.allclose(gray.state_dict()['patch_embed.proj.weight'], kernel, atol=1e-6)


def test_the_default_tag_stays_timms(tag):
    assert timm.get_pretrained_cfg('test_vit').tag == 'r160_in1k'
    assert timm.create_model('test_vit').pretrained_cfg['tag'] == 'r160_in1k'


def test_without_pretrained_nothing_is_read(tag, monkeypatch):
    monkeypatch.setattr(weights, 'load', lambda *args: pytest.fail('loaded'))
    assert timm.create_model(NAME).pretrained_cfg['tag'] == 'fractal1_loopback'


def test_a_source_that_the_user_names_wins(tag, tmp_path, monkeypatch):
    """As with train.py --pretrained-path."""
    make_weights(tmp_path / 'other.safetensors', seed=1)
    monkeypatch.setattr(weights, 'load', lambda *args: pytest.fail('loaded'))
    overlay = dict(file=str(tmp_path / 'other.safetensors'), num_classes=-1)
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5)
    other = safetensors.torch.load_file(tmp_path / 'other.safetensors')
    assert torch.equal(model.state_dict()['cls_token'], other['cls_token'])


@pytest.mark.parametrize(
    'name',
    [f'test_vit{words}' for words in ('.fractal1_lopback', '2.fractal1_loopback', '.fractl1_loopback', '.fractal')],
)
def test_unknown_tags_are_explained(tag, name):
    with pytest.raises(RuntimeError, match=f"unknown weights '{name}'; did you mean '{NAME}'"):
        timm.create_model(name, pretrained=True)


def test_other_unknown_tags_are_timms(tag):
    with pytest.raises(RuntimeError, match='Invalid pretrained tag'):
        timm.create_model('test_vit.in1k', pretrained=True)


def test_unregister_leaves_timm_as_it_was(tag):
    registry = timm.models._registry
    default, tags = registry._model_default_cfgs['test_vit'], list(registry._model_with_tags['test_vit'])
    timm_fractal.unregister()
    assert timm.list_pretrained('*fractal*') == [] and NAME not in registry._model_pretrained_cfgs
    assert registry._model_with_tags['test_vit'] == [name for name in tags if name != NAME]
    assert registry._model_default_cfgs['test_vit'] is default
    for function in (timm.models.load_pretrained, _builder.load_pretrained, _builder.get_pretrained_cfg):
        assert not hasattr(function, '__wrapped__')
    timm_fractal.register()
    timm_fractal.register()
    assert registry._model_with_tags['test_vit'] == tags
    assert not hasattr(_builder.load_pretrained.__wrapped__, '__wrapped__')


def test_an_architecture_that_timm_lacks_is_left_out(shared, use, tmp_path):
    content = json.loads((shared[1] / 'manifest.json').read_text())
    content['vit_of_the_future.fractal1_1k'] = content[NAME]
    (tmp_path / 'manifest.json').write_text(json.dumps(content))
    use(tmp_path / 'manifest.json')
    assert timm.list_pretrained('*fractal*') == [NAME]


def test_a_damaged_manifest_is_reported_and_timm_works(use, tmp_path, caplog):
    (tmp_path / 'manifest.json').write_text('{"test_vit.x": {"sha256"')
    use(tmp_path / 'manifest.json')
    assert 'its weights are not available' in caplog.text and 'is not a manifest of weights' in caplog.text
    assert timm.list_pretrained('*fractal*') == []
    assert timm.create_model('test_vit').num_classes == 1000


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(sha256='abc'), "sha256 must be 64 hexadecimal digits, got 'abc'"),
        (dict(file=None), 'file or hf_hub_id must be given'),
        (dict(file='../x'), "file must be the name of a file in the folder of the manifest, got '../x'"),
        (dict(name='test_vit'), "name must be architecture.tag, got 'test_vit'"),
        (dict(sha256=5), "sha256 must be 64 hexadecimal digits, got '5'"),
        (dict(size='5'), "size must be an integer from 1 to .*, got '5'"),
        (dict(size=True), "size must be an integer from 1 to .*, got 'True'"),
        (dict(size=0), "size must be an integer from 1 to .*, got '0'"),
        (dict(pretrained_cfg=[]), 'pretrained_cfg must be a mapping'),
        (dict(pretrained_cfg=None), 'pretrained_cfg must be a mapping'),
        (dict(pretrained_cfg={'input_size': 'x'}), 'input_size must be three integers'),
        (dict(pretrained_cfg={'num_classes': 'x'}), 'num_classes must be an integer'),
        (dict(license=None), 'license must be a string'),
        (dict(provenance='x'), 'provenance must be a mapping'),
        (dict(file=5), "file must be the name of a file in the folder of the manifest, got '5'"),
        (dict(hf_hub_id=['x']), 'hf_hub_id must be a string'),
        (dict(revision={}), 'revision must be a string'),
    ],
)
def test_entries_are_checked(shared, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(shared[0], **change)


def test_a_manifest_is_extended(shared, tmp_path):
    """A second entry keeps the first; an equal name replaces it."""
    entry, folder = shared
    path = tmp_path / 'new' / 'manifest.json'
    weights.add(entry, folder / 'x.safetensors', path)
    other = dataclasses.replace(entry, name='test_vit2.x')
    weights.add(other, folder / 'x.safetensors', path)
    weights.add(dataclasses.replace(other, license='mit'), folder / 'x.safetensors', path)
    found = weights.manifest(path)
    assert list(found) == [NAME, 'test_vit2.x'] and found[NAME] == entry and found['test_vit2.x'].license == 'mit'
    assert sorted(file.name for file in path.parent.iterdir()) == [
        'manifest.json',
        f'{NAME}.safetensors',
        'test_vit2.x.safetensors',
    ]


@pytest.mark.posix
def test_weights_lie_beside_a_manifest_that_is_a_link(shared, tmp_path):
    entry, folder = shared
    (tmp_path / 'there').mkdir()
    (tmp_path / 'link.json').symlink_to(tmp_path / 'there' / 'manifest.json')
    weights.add(entry, folder / 'x.safetensors', tmp_path / 'link.json')
    assert (tmp_path / 'link.json').is_symlink() and weights.manifest(tmp_path / 'link.json') == {NAME: entry}
    assert sorted(file.name for file in (tmp_path / 'there').iterdir()) == ['manifest.json', f'{NAME}.safetensors']


@pytest.mark.parametrize('damage', ['byte', 'truncated', 'other'])
def test_a_damaged_file_is_refused(tag, shared, tmp_path, monkeypatch, damage):
    content = bytearray((shared[1] / f'{NAME}.safetensors').read_bytes())
    if damage == 'byte':
        content[-1] ^= 1
    elif damage == 'truncated':
        del content[-1000:]
    else:
        make_weights(tmp_path / 'other', seed=2)
        content = (tmp_path / 'other').read_bytes()
    (tmp_path / f'{NAME}.safetensors').write_bytes(content)
    monkeypatch.setenv(weights.SOURCE, str(tmp_path))
    monkeypatch.setattr('safetensors.torch.load', lambda content: pytest.fail('read before it was checked'))
    expected = 'has 1,.* bytes instead of' if damage == 'truncated' else f'its sha256 is .* instead of {tag.sha256}'
    with pytest.raises(ValueError, match=f'is damaged, or not the weights {NAME}: .*{expected}.*delete it'):
        timm.create_model(NAME, pretrained=True)


def test_the_environment_names_the_first_source(shared, tmp_path, monkeypatch):
    entry, folder = shared
    hidden = dataclasses.replace(entry, file='not_in_this_wheel.safetensors')
    monkeypatch.setattr(weights, 'MANIFEST', folder / 'manifest.json')
    monkeypatch.delenv(weights.SOURCE, raising=False)
    with pytest.raises(
        FileNotFoundError, match=f'not_in_this_wheel.*install timm-fractal again, or set {weights.SOURCE}'
    ):
        weights.load(hidden)
    monkeypatch.setenv(weights.SOURCE, str(folder))
    assert weights.load(hidden).keys() == stored(folder).keys()
    # Files missing in the folder are searched for elsewhere.
    monkeypatch.setenv(weights.SOURCE, str(tmp_path))
    assert weights.load(entry).keys() == stored(folder).keys()
    monkeypatch.setenv(weights.SOURCE, str(tmp_path / 'absent'))
    with pytest.raises(NotADirectoryError, match=f'{weights.SOURCE} must be a folder, or start with http'):
        weights.load(entry)


@pytest.mark.slow
def test_the_hook_works_late_too(shared):
    """After timm was imported, and without reading weights to list the tags."""
    code = (
        'import sys, timm, pathlib\n'
        'import timm_fractal.hub.manifest as weights\n'
        'assert not timm.list_pretrained("*loopback")\n'
        'timm_fractal = sys.modules["timm_fractal"]; timm_fractal.unregister()\n'
        f'weights.MANIFEST = pathlib.Path({str(shared[1])!r}) / "manifest.json"\n'
        'timm_fractal.register()\n'
        f'assert timm.list_pretrained("*fractal*") == [{NAME!r}]\n'
        f'assert timm.create_model({NAME!r}, pretrained=True).num_classes == 5\n'
    )
    environment = {'TORCH_DEVICE_BACKEND_AUTOLOAD': '0', 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def talks(*parts, pause=0.0):
    """Serve fixed bytes in parts to any request; yield the address."""
    with socket.create_server(('127.0.0.1', 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                connection = listener.accept()[0]
                with connection:
                    connection.recv(65536)
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'


HEAD = b'HTTP/1.1 200 OK\r\n\r\n'


@pytest.mark.parametrize(
    'parts, kind, message',
    [
        ([b'nonsense\r\n\r\n'], ConnectionError, 'cannot be reached or read .*nonsense'),
        ([b'HTTP/1.1 200 OK\r\nX: ' + b'x' * 70_000], ConnectionError, 'cannot be reached or read'),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\nabc'], ValueError, 'is damaged, or not the weights'),
        ([b'HTTP/1.1 500 Oh\r\n\r\n'], ConnectionError, 'answers 500 Oh'),
        ([HEAD, *[b'x' * 2**20] * 100], ValueError, 'is damaged, or not the weights'),
        ([], ConnectionError, 'cannot be reached or read'),
    ],
)
def test_a_server_of_nonsense(shared, tmp_path, monkeypatch, parts, kind, message):
    entry, _ = shared
    with talks(*parts) as address:
        monkeypatch.setenv(weights.SOURCE, address)
        with pytest.raises(kind, match=message):
            weights.load(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('parts, pause', [([HEAD, *[b'x'] * 100], 0.05), ([HEAD, b'x'], 3.0)])
def test_a_server_that_takes_its_time(shared, tmp_path, monkeypatch, parts, pause):
    entry, _ = shared
    monkeypatch.setattr(weights, 'READ_TIMEOUT', 0.4)
    entry = dataclasses.replace(entry, size=1000)
    with talks(*parts, pause=pause) as address:
        monkeypatch.setenv(weights.SOURCE, address)
        with pytest.raises(ConnectionError, match='arrived in time|timed out'):
            weights.load(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'source, kind', [('http://[x', ConnectionError), ('http://a b/', ConnectionError), ('~nosuchuser', OSError)]
)
def test_sources_that_are_no_addresses(shared, tmp_path, monkeypatch, source, kind):
    monkeypatch.setenv(weights.SOURCE, source)
    with pytest.raises(kind, match=weights.SOURCE):
        weights.load(shared[0], tmp_path)


def test_a_file_of_another_size_is_not_read(shared, tmp_path, monkeypatch):
    """A sparse file of 200 GB."""
    entry, _ = shared
    with open(tmp_path / f'{entry.name}.safetensors', 'wb') as file:
        file.truncate(200 * 2**30)
    monkeypatch.setenv(weights.SOURCE, str(tmp_path))
    monkeypatch.setattr(type(tmp_path), 'read_bytes', lambda path: pytest.fail('read'))
    with pytest.raises(ValueError, match='it has 214,748,364,800 bytes instead of'):
        weights.load(entry)
