"""Export, conversion and publishing, with the real client of the Hub and a minimal local Hub.

The client reads its environment at import, so it runs in a separate process, shared by all tests.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from importlib import metadata

import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

import timm_fractal
from tests import hub_server
from tests.hub_server import TOKEN, Repo
from tests.test_checkpoint import ARGS, DATASET, tensors, write
from timm_fractal import Fractal1, cli
from timm_fractal.fractal.ifs import IFSCodes
from timm_fractal.hub import checkpoint
from timm_fractal.hub import folder as hub
from timm_fractal.hub import manifest as weights
from timm_fractal.hub.manifest import Weights
from timm_fractal.hub.origin import Origin

publish = importlib.import_module('timm_fractal.hub.upload')

needs_local_dir = pytest.mark.skipif(
    not hasattr(timm.models._hub, 'load_model_config_from_path'), reason='this timm loads no local folders'
)

# Export.


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    Image.new('RGB', (30, 20), 'white').save(folder / 'curves.png')
    return hub.export_weights(
        write(folder / 'last.pth.tar'),
        folder / 'model',
        license='apache-2.0',
        hardware='a machine',
        results=['digits=93.1'],
        curves=folder / 'curves.png',
    )


OLD_CLIENT = int(metadata.version('huggingface_hub').partition('.')[0]) < 1


def meta_works():
    """Return whether timm builds models on the meta device; 1.0.20 and older cannot."""
    try:
        with torch.device('meta'):
            timm.create_model('test_vit')
    except RuntimeError:
        return False
    return True


def copy(folder, dest):
    dest.mkdir()
    for path in folder.iterdir():
        (dest / path.name).write_bytes(path.read_bytes())
    return dest


def same(model, expected):
    found = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_export(exported):
    assert sorted(path.name for path in exported.iterdir()) == sorted(hub.FILES)
    config = json.loads((exported / 'config.json').read_text())
    assert config['architecture'] == 'test_vit' and config['num_classes'] == 20
    assert config['pretrained_cfg']['tag'] == 'fractal1_20' and config['pretrained_cfg']['input_size'] == [3, 64, 64]
    assert config['pretrained_cfg']['mean'] == config['pretrained_cfg']['std'] == [0.5, 0.5, 0.5]
    provenance = config['provenance']
    assert provenance['dataset'] == DATASET and provenance['samples'] == 320 and provenance['epochs'] == 2
    assert provenance['weights'] == 'EMA' and provenance['results'] == {'digits': '93.1'}
    assert provenance['base'] == Fractal1(DATASET).codes.bases[0].tolist()
    codes = IFSCodes.load(exported / 'ifs.json')
    assert codes.systems.tolist() == Fractal1(DATASET).codes.systems.tolist()
    args = yaml.safe_load((exported / 'train_args.yaml').read_text())
    assert args['dataset'] == DATASET and args['output'] == 'output'


@needs_local_dir
def test_timm_loads_the_folder(exported):
    model = timm.create_model(f'local-dir:{exported}', pretrained=True)
    assert same(model, tensors(1))
    config = timm.data.resolve_model_data_config(model)
    assert list(config['mean']) == list(config['std']) == [0.5] * 3 and list(config['input_size']) == [3, 64, 64]
    assert timm.create_model(f'local-dir:{exported}', pretrained=True, num_classes=3).num_classes == 3


def test_the_card_is_complete(exported):
    text = (exported / 'README.md').read_text()
    front = yaml.safe_load(text.split('---')[1])
    assert front == {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'license': 'apache-2.0',
        'tags': ['timm', 'timm-fractal', 'synthetic-data', 'fractal1'],
        'model-index': [
            {
                'name': 'test_vit.fractal1_20',
                'results': [
                    {
                        'task': {'type': 'image-classification'},
                        'dataset': {'type': 'digits', 'name': 'digits'},
                        'metrics': [{'type': 'accuracy', 'value': 93.1, 'name': 'top-1 accuracy'}],
                    }
                ],
            }
        ],
    }
    for words in (
        DATASET,
        'Samples seen: 320',
        'a machine',
        '| digits | 93.1 |',
        "create_model('local-dir:model', pretrained=True, num_classes=10)",
        '@inproceedings',
    ):
        assert words in text


@needs_local_dir
def test_without_head(tmp_path):
    path = write(tmp_path / 'last.pth.tar')
    folder = hub.export_weights(path, tmp_path / 'x', head=False, use_ema=False, tag='bare')
    found = checkpoint.shapes(folder / 'model.safetensors')
    assert tensors(0).keys() - found.keys() == {'head.weight', 'head.bias'}
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert model.num_classes == 0 and torch.equal(model.state_dict()['cls_token'], tensors(0)['cls_token'])
    assert 'pipeline_tag: image-feature-extraction' in (folder / 'README.md').read_text()
    assert hub.entry_of(folder, file='x').pretrained_cfg['num_classes'] == 0


@needs_local_dir
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_the_size(tmp_path, exported, dtype):
    path = write(tmp_path / 'last.pth.tar')
    folder = hub.export_weights(path, tmp_path / 'x', dtype=dtype)
    half, whole = ((place / 'model.safetensors').stat().st_size for place in (folder, exported))
    assert 0.45 < half / whole < 0.55 and f'Stored as: {dtype}' in (folder / 'README.md').read_text()
    expected = {name: t.to(getattr(torch, dtype)).float() for name, t in tensors(1).items()}
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert same(model, expected)
    assert hub.reference_output(model) == hub.entry_of(folder, file='x').provenance['reference_output']
    # timm resamples position embeddings in float32.
    larger = timm.create_model(f'local-dir:{folder}', pretrained=True, img_size=96)
    assert larger.pos_embed.dtype == torch.float32 and larger.pos_embed.isfinite().all()


def test_curves_on_the_card(tmp_path):
    path = write(tmp_path / 'last.pth.tar')
    Image.new('RGB', (30, 20), 'white').save(tmp_path / 'a.png')
    folder = hub.export_weights(path, tmp_path / 'x', curves=tmp_path / 'a.png')
    assert (folder / 'curves.png').read_bytes() == (tmp_path / 'a.png').read_bytes()
    assert '](curves.png)' in (folder / 'README.md').read_text()
    hub.check(folder)
    # Exporting again without curves removes them.
    hub.export_weights(path, folder)
    assert not (folder / 'curves.png').exists() and 'curves.png' not in (folder / 'README.md').read_text()
    for content in (b'', b'<svg/>', (tmp_path / 'a.png').read_bytes()[:60]):
        (tmp_path / 'b.png').write_bytes(content)
        with pytest.raises(ValueError, match='b.png is not a PNG file, or is damaged'):
            hub.export_weights(path, tmp_path / 'y', curves=tmp_path / 'b.png')
    with pytest.raises(FileNotFoundError):
        hub.export_weights(path, tmp_path / 'y', curves=tmp_path / 'none.png')
    assert not (tmp_path / 'y').exists()


def test_weights_that_a_dtype_cannot_hold(tmp_path):
    large = {name: t * 1e6 for name, t in tensors(1).items()}
    path = write(tmp_path / 'last.pth.tar', state_dict_ema=large)
    with pytest.raises(ValueError, match='has values too large for float16: store the weights as bfloat16'):
        hub.export_weights(path, tmp_path / 'x', dtype='float16')
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, got 'half'"):
        hub.export_weights(path, tmp_path / 'x', dtype='half')
    assert not (tmp_path / 'x' / 'model.safetensors').exists()
    assert hub.export_weights(path, tmp_path / 'x', dtype='bfloat16')


@needs_local_dir
def test_a_safetensors_file_with_arguments(tmp_path):
    safetensors.torch.save_file(tensors(0), tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='has no training arguments: put the args.yaml'):
        hub.export_weights(tmp_path / 'model.safetensors', tmp_path / 'x')
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(ARGS))
    assert same(
        timm.create_model(f'local-dir:{hub.export_weights(tmp_path / "model.safetensors", tmp_path / "x")}', True),
        tensors(0),
    )


def test_other_data_sets_have_no_fractals(tmp_path):
    path = write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**ARGS | dict(dataset='folder')))
    with pytest.raises(ValueError, match='--tag must be given: .* not for folder'):
        hub.export_weights(path, tmp_path / 'x')
    folder = hub.export_weights(path, tmp_path / 'x', tag='photos')
    assert not (folder / 'ifs.json').exists()
    assert 'base' not in json.loads((folder / 'config.json').read_text())['provenance']


@pytest.mark.parametrize('dataset', ['image1', 'noise1/classes=20,size=64', 'fractal1/classes=20,fractals=2,size=64'])
def test_provenance_of_all_data_sets(dataset):
    """A single base IFS is in the provenance; several are only in ifs.json."""
    args = ARGS | dict(dataset=dataset, data_dir='photos' if dataset == 'image1' else None)
    found = checkpoint.Checkpoint('x', {}, args)
    codes = hub._ifs_codes(found, 1000)
    said = hub._provenance(found, Origin('test_vit', 'test_vit'))
    assert said['dataset'].startswith(dataset.partition('/')[0]) and 'base' not in said
    assert (codes is not None) == dataset.startswith('fractal1')


@pytest.mark.parametrize(
    'dataset, tag',
    [
        ('fractal1', 'fractal1_1k'),
        ('torch/fractal1/classes=21000', 'fractal1_21k'),
        ('fractal1/classes=1500', 'fractal1_1500'),
        ('fractal1/fractals=10', 'fractals10_1k'),
        ('visualatom/atoms=1', 'visualatom1_1k'),
        ('visualatom', 'visualatom_1k'),
    ],
)
def test_tags_follow_the_data_set(tmp_path, dataset, tag):
    found = checkpoint.Checkpoint(tmp_path, {}, {'dataset': dataset})
    assert hub._default_tag(found) == tag


def test_what_does_not_fit_is_refused(tmp_path):
    path = write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**ARGS | dict(model='test_vit2')))
    with pytest.raises(ValueError, match='x.pth.tar does not fit test_vit2: .* and [0-9]+ more'):
        hub.export_weights(path, tmp_path / 'x')
    path = write(tmp_path / 'x.pth.tar')
    with pytest.raises(ValueError, match="tag must be letters, digits, .* got 'a.b'"):
        hub.export_weights(path, tmp_path / 'x', tag='a.b')
    with pytest.raises(ValueError, match="a result must be name=value, got 'digits'"):
        hub.export_weights(path, tmp_path / 'x', results=['digits'])
    assert not (tmp_path / 'x').exists()


def test_folders_of_the_machine_are_not_told(tmp_path):
    args = argparse.Namespace(**ARGS | dict(data_dir='/home/me/private/photos', output='/scratch/me/out'))
    folder = hub.export_weights(write(tmp_path / 'last.pth.tar', args=args), tmp_path / 'x')
    told = yaml.safe_load((folder / 'train_args.yaml').read_text())
    assert (told['data_dir'], told['output']) == ('photos', 'out') and told['model'] == ARGS['model']


def test_nothing_else_is_overwritten(tmp_path):
    path = write(tmp_path / 'last.pth.tar')
    with pytest.raises(
        FileExistsError, match="contains 'last.pth.tar', which is not part of an export: choose another"
    ):
        hub.export_weights(path, tmp_path)
    with pytest.raises(FileExistsError, match='is a file: the destination must be a folder'):
        hub.export_weights(path, path)
    (tmp_path / 'project').mkdir()
    (tmp_path / 'project' / 'README.md').write_text('mine')
    with pytest.raises(FileExistsError, match="contains 'README.md', which is not part of an export"):
        hub.export_weights(path, tmp_path / 'project')
    assert (tmp_path / 'project' / 'README.md').read_text() == 'mine'
    folder = hub.export_weights(path, tmp_path / 'x', hardware='one')
    # Leftovers of a killed process are ignored.
    (folder / '.export-killed').mkdir()
    hub.export_weights(path, tmp_path / 'x', hardware='two')
    assert 'two' in (folder / 'README.md').read_text() and set(os.listdir(folder)) >= set(hub.FILES) - {'curves.png'}


def test_a_folder_in_one_that_is_not_writable(tmp_path, monkeypatch):
    """A mounted volume: the lock is in it, and a lock that a killed process left there is ignored."""
    path, volume = write(tmp_path / 'last.pth.tar'), tmp_path / 'volumes' / 'mine'
    volume.mkdir(parents=True)
    access = os.access
    monkeypatch.setattr(os, 'access', lambda place, mode: place != volume.parent and access(place, mode))
    (volume / '.export-lock').touch()
    hub.export_weights(path, volume)
    assert not list(volume.parent.glob('.*')) and set(os.listdir(volume)) <= set(hub.FILES)


# Conversion.


def authors_file(path, architecture='vit_tiny_patch16_224', prefix='', **more):
    """Save random weights in the format of the files released by the authors of 1p-frac, OFDB and FractalDB."""
    torch.manual_seed(3)
    state = timm.create_model(architecture, num_classes=1000).state_dict()
    torch.save({'model': {prefix + name: value for name, value in state.items()}} | more, path)
    return state


@needs_local_dir
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_convert(tmp_path, prefix):
    state = authors_file(tmp_path / 'ViT-T 1p-frac.pth', prefix=prefix, epoch=3, args=argparse.Namespace(lr=1e-3))
    folder = hub.convert(tmp_path / 'ViT-T 1p-frac.pth', tmp_path / 'x')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert same(model, state) and model.pretrained_cfg['tag'] == 'vit_t_1p_frac'
    config = json.loads((folder / 'config.json').read_text())
    assert config['architecture'] == 'vit_tiny_patch16_224' and config['pretrained_cfg']['mean'] == [0.5] * 3
    assert config['provenance']['converted_from'] == 'ViT-T 1p-frac.pth'
    text = (folder / 'README.md').read_text()
    assert "converted from the authors' file" in text and 'license: unknown' in text
    assert sorted(os.listdir(folder)) == ['README.md', 'config.json', 'model.safetensors']


@pytest.mark.slow
def test_convert_refuses(tmp_path):
    path = write(tmp_path / 'x.pth.tar')
    with pytest.raises(ValueError, match="no 'model' in this file, it has: epoch, arch"):
        hub.convert(path)
    torch.save({'model': tensors(0)}, tmp_path / 'small.pth')
    with pytest.raises(ValueError, match='Known: vit_tiny_patch16_224'):
        hub.convert(tmp_path / 'small.pth', tmp_path / 'x')
    with pytest.raises(FileNotFoundError, match='absent.pth: no such file'):
        hub.convert(tmp_path / 'absent.pth')


# Manifest entries.


def test_an_entry_is_enough_to_build_the_model(exported):
    entry = hub.entry_of(exported, file='x')
    content = (exported / 'model.safetensors').read_bytes()
    assert (entry.name, entry.size, entry.license) == ('test_vit.fractal1_20', len(content), 'apache-2.0')
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert len(set(entry.provenance['reference_output'])) > 4
    config = json.loads((exported / 'config.json').read_text())
    assert entry.pretrained_cfg == {k: v for k, v in config['pretrained_cfg'].items() if k not in ('tag', 'license')}
    assert entry.pretrained_cfg['fixed_input_size'] and entry.pretrained_cfg['input_size'] == [3, 64, 64]


@needs_local_dir
def test_an_unusual_model_has_no_tag(tmp_path):
    args = ARGS | dict(model_kwargs={'img_size': 64, 'depth': 2})
    path = write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**args), state_dict_ema=tensors(1, depth=2))
    folder = hub.export_weights(path, tmp_path / 'x')
    assert same(timm.create_model(f'local-dir:{folder}', pretrained=True), tensors(1, depth=2))
    with pytest.raises(ValueError, match='this model differs in depth: load it with hf-hub: or local-dir:'):
        hub.entry_of(folder, file='x')


def test_from_checkpoint_to_tag_in_one_command(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / 'last.pth.tar')
    manifest = tmp_path / 'weights' / 'manifest.json'
    command = ['export-weights', str(path), str(tmp_path / 'model'), '--tag', 'fractal1_x', '--manifest', str(manifest)]
    assert cli.main([*command, '--no-ema', '--result', 'digits=1', '--license', 'mit']) == 0
    output = capsys.readouterr().out
    (entry,) = weights.manifest(manifest).values()
    assert f"timm.create_model('local-dir:{tmp_path / 'model'}', pretrained=True)" in output and entry.sha256 in output
    assert entry.license == 'mit'
    timm_fractal.unregister()
    monkeypatch.setattr(weights, 'MANIFEST', manifest)
    timm_fractal.register()
    try:
        assert timm.list_pretrained('*fractal*') == ['test_vit.fractal1_x']
        model = timm.create_model('test_vit.fractal1_x', pretrained=True)
        assert same(model, tensors(0)) and hub.reference_output(model) == entry.provenance['reference_output']
    finally:
        timm_fractal.unregister()
        monkeypatch.undo()
        timm_fractal.register()


@pytest.mark.posix
@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """Exit code 1, a message, no partial files; an earlier export stays intact."""
    path = write(tmp_path / 'last.pth.tar')
    code = (
        'import resource, sys\nfrom timm_fractal.cli import main\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'
        f'sys.exit(main(["export-weights", {str(path)!r}, {str(tmp_path / "out")!r}]))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'the weights cannot be written (' in done.stderr, done.stderr
    assert 'File too large' in done.stderr, done.stderr
    assert 'Traceback' not in done.stderr and not (tmp_path / 'out').exists()


def test_what_a_killed_export_has_left_is_removed(tmp_path):
    path = write(tmp_path / 'last.pth.tar')
    (tmp_path / 'out' / '.export-abc').mkdir(parents=True)
    (tmp_path / 'out' / '.export-abc' / 'model.safetensors').write_bytes(b'x' * 1000)
    hub.export_weights(path, tmp_path / 'out')
    assert {file.name for file in (tmp_path / 'out').iterdir()} == set(hub.FILES) - {'curves.png'}


@pytest.mark.skipif(not meta_works(), reason='this timm asks tensors for their values while it builds')
def test_a_model_of_terabytes_is_not_built(tmp_path):
    args = ARGS | dict(model_kwargs={'img_size': 64, 'embed_dim': 2**19, 'depth': 100})
    path = write(tmp_path / 'last.pth.tar', args=argparse.Namespace(**args))
    with pytest.raises(ValueError, match='last.pth.tar does not fit test_vit: cls_token has shape'):
        hub.export_weights(path, tmp_path / 'out')


# Publishing: refused before an upload.


def other_architecture(folder, name):
    path = folder / 'config.json'
    path.write_text(path.read_text().replace('"test_vit"', f'"{name}"'))


def edit(*keys, value):
    """Return a function that changes one value of config.json."""

    def change(folder):
        path = folder / 'config.json'
        content = json.loads(path.read_text())
        place = content
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    'change, message',
    [
        (edit('model_args', 'checkpoint_path', value='other.bin'), "model_args: 'checkpoint_path' is not an option"),
        (edit('model_args', 'depth', value=10**9), 'depth must be at most 1024'),
        (edit('model_args', value=[1]), r"model_args must be a mapping, got '\[1\]'"),
        (edit('architecture', value='hf-hub:me/x'), 'unknown architecture'),
        (edit('architecture', value=['x']), 'architecture must be a string'),
        (edit('pretrained_cfg', 'file', value='other.bin'), "pretrained_cfg must not have 'file'"),
        (edit('pretrained_cfg', 'hf_hub_id', value='me/x'), "pretrained_cfg must not have 'hf_hub_id'"),
        (edit('pretrained_cfg', 'custom_load', value=True), "pretrained_cfg must not have 'custom_load'"),
        (edit('pretrained_cfg', 'tag', value='../../x'), 'tag must be letters, digits'),
        (edit('pretrained_cfg', 'input_size', value='x'), 'input_size must be three integers'),
        (edit('pretrained_cfg', 'mean', value=[0.5] * 4), 'mean must be one number or 3'),
        (edit('pretrained_cfg', 'color', value='red'), "unknown key 'color' in pretrained_cfg"),
        (edit('num_classes', value=-1), "num_classes must be an integer from 0 to .*, got '-1'"),
        (edit('num_classes', value=20.0), 'num_classes must be an integer from 0'),
        (edit('num_classes', value='x'), 'num_classes must be an integer from 0'),
        (edit('provenance', value=['x']), 'provenance must be a mapping'),
        (
            lambda folder: (folder / 'config.json').write_text('[' * 100_000),
            'is not a configuration of timm, or is damaged',
        ),
        (lambda folder: (folder / 'model.pth').write_bytes(b''), "contains 'model.pth': remove it"),
        (lambda folder: (folder / 'config.json').unlink(), 'is not an exported folder, config.json missing'),
        (lambda folder: (folder / 'config.json').write_text('{}'), 'config.json is not a configuration of timm'),
        (
            lambda folder: (folder / 'README.md').write_text('---\ntags: [timm]\n---\n'),
            'must have library_name, pipeline_tag',
        ),
        (lambda folder: (folder / 'README.md').write_text('---\n{x: [\n---\n'), 'front matter is not valid'),
        (lambda folder: (folder / 'README.md').write_text('---\n- 1\n---\n'), 'front matter'),
        (lambda folder: (folder / 'README.md').write_text('nothing'), 'the front matter must have library_name'),
        (lambda folder: os.truncate(folder / 'model.safetensors', 10_000), 'is truncated, or not a safetensors file'),
        (lambda folder: other_architecture(folder, 'test_vit2'), '(timm cannot build|does not fit) .?test_vit2'),
        (
            lambda folder: other_architecture(folder, 'vit_tiny_patch16_224'),
            'does not fit vit_tiny_patch16_224: cls_tok',
        ),
    ],
)
def test_what_is_not_published(exported, tmp_path, change, message):
    folder = copy(exported, tmp_path / 'x')
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        publish.publish(folder, 'me/x', dry_run=True)


@pytest.mark.parametrize(
    'repo_id', ['model', '../..', '-me/x', 'me/x.git', 'é/x', 'me/' + 'x' * 200, 'me/x--y', 'me/..', 'a/b/c', 'me/x\n']
)
def test_names_that_the_hub_refuses(exported, repo_id):
    with pytest.raises(ValueError, match='repo_id must be owner/name'):
        publish.publish(exported, repo_id, dry_run=True)


@pytest.mark.posix
def test_a_link_is_not_published(exported, tmp_path):
    folder = copy(exported, tmp_path / 'x')
    (folder / 'config.json').rename(tmp_path / 'elsewhere.json')
    (folder / 'config.json').symlink_to(tmp_path / 'elsewhere.json')
    with pytest.raises(ValueError, match='config.json must be a regular file'):
        publish.publish(folder, 'me/x', dry_run=True)


def test_arguments_of_publish(exported):
    with pytest.raises(ValueError, match='leave out --create-pr or --revision dev'):
        publish.publish(exported, 'me/x', create_pr=True, revision='dev', dry_run=True)


def test_dry_run(exported, tmp_path, capsys, monkeypatch):
    def refuse(card):
        raise ConnectionError('no network')

    monkeypatch.setattr('huggingface_hub.HfApi', lambda **options: pytest.fail('talks to the Hub'))
    monkeypatch.setattr('huggingface_hub.ModelCard.validate', refuse)
    folder = copy(exported, tmp_path / 'x')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = ['publish', str(folder), '--repo-id', 'me/my_model', '--dry-run']
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert said.err == 'timm-fractal publish: the Hub did not check the model card: no network\n'
    first, *files = said.out.splitlines()[: 1 + len(hub.FILES)]
    assert first == f'{folder}: complete; not uploaded to me/my_model'
    assert files == [f'{len(before[name]):>13,} bytes  {name}' for name in hub.FILES]
    assert '\nlicense: apache-2.0\n' in said.out and 'Model card for' not in said.out and 'sha256' not in said.out
    assert said.out.endswith(f' lines, all in {folder / "README.md"})\n')
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setattr('huggingface_hub.ModelCard.validate', lambda card: None)
    assert cli.main([*command, '--manifest']) == 0
    assert '"test_vit.fractal1_20": {' in capsys.readouterr().out


# Publishing and loading over HTTP. Functions that run in the client's process cannot use fixtures.


def start_client(environment):
    """Set the environment, and shorten waits between retries."""
    os.environ.update(environment)
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))


@pytest.fixture(scope='module')
def server():
    with hub_server.serve() as server:
        yield server


@pytest.fixture(scope='module')
def process(server, tmp_path_factory):
    environment = server.environment(tmp_path_factory.mktemp('hf'), HF_TOKEN=TOKEN, HF_HUB_ETAG_TIMEOUT='5')
    with pytest.MonkeyPatch.context() as patch:
        # Before any module of the process is imported.
        for name, value in environment.items():
            patch.setenv(name, value)
        context = multiprocessing.get_context('spawn')
        with concurrent.futures.ProcessPoolExecutor(1, context, start_client, (environment,)) as pool:
            pool.submit(os.getpid).result()
            yield pool


@pytest.fixture
def client(server, process):
    """Return a function that calls another in the client's process, with the Hub's faults cleared."""
    server.faults.clear()
    server.cut = server.damage = None
    server.requests.clear()
    return lambda function, *args, **kwargs: process.submit(function, *args, **kwargs).result(timeout=120)


def load_from_hub(name):
    return {key: value.numpy() for key, value in timm.create_model(name, pretrained=True).state_dict().items()}


def load_tag(manifest, name, **environment):
    """Load the weights of a tag in another manifest."""
    old = weights.MANIFEST
    timm_fractal.unregister()
    os.environ.update(environment)
    try:
        weights.MANIFEST = manifest
        timm_fractal.register()
        assert timm.list_pretrained('*fractal*') == [name]
        return load_from_hub(name)
    finally:
        for variable in environment:
            del os.environ[variable]
        timm_fractal.unregister()
        weights.MANIFEST = old
        timm_fractal.register()


def equal(found, expected):
    return found.keys() == expected.keys() and all((found[key] == expected[key].numpy()).all() for key in expected)


def write_manifest(path, entries):
    path.write_text(
        json.dumps({name: {k: v for k, v in entry.items() if k != 'file'} for name, entry in entries.items()})
    )
    return path


def published_card(folder, repo_id):
    """Return the folder's model card with the name of the repository."""
    return (folder / 'README.md').read_bytes().replace(b'local-dir:model', f'hf-hub:{repo_id}'.encode())


@pytest.mark.slow
def test_publish_and_load(client, server, exported, tmp_path):
    folder = copy(exported, tmp_path / 'x')
    done = client(publish.publish, folder, 'me/model')
    commit = server.repos['me/model'].refs['main']
    assert done.url == f'{server.url}/me/model/commit/{commit}'
    files = server.repos['me/model'].commits[commit]
    assert files.keys() - {'.gitattributes'} == set(hub.FILES)
    assert files['README.md'] == published_card(folder, 'me/model') and b"'hf-hub:me/model'" in files['README.md']
    assert all(files[name] == (folder / name).read_bytes() for name in hub.FILES if name != 'README.md')
    (name, entry), *_ = done.entry.items()
    assert entry['hf_hub_id'] == 'me/model' and entry['revision'] == commit
    assert equal(client(load_from_hub, 'hf-hub:me/model'), tensors(1))
    manifest = write_manifest(tmp_path / 'manifest.json', done.entry)
    assert equal(client(load_tag, manifest, name), tensors(1))
    # Publishing again changes nothing.
    assert client(publish.publish, folder, 'me/model').entry == done.entry
    assert len(server.repos['me/model'].commits) == 2
    # The manifest's revision is still loaded after a later commit.
    server.repos['me/model'].commit('main', {'model.safetensors': b'something else'})
    assert equal(client(load_tag, manifest, name), tensors(1))


@pytest.mark.parametrize(
    'license, datasets, message',
    [
        ('mitt', None, '"license" must be one of apache-2.0'),
        ('mit', ['unknown'], 'with value .*unknown.* is not valid'),
        ('mit', ['images in a folder'], 'datasets must be names on the Hub, such as owner/name, or be left out'),
    ],
)
@pytest.mark.parametrize('dry_run', [True, False])
def test_a_card_that_the_hub_refuses(client, server, exported, tmp_path, license, datasets, message, dry_run):
    """It is refused before the repository is created."""
    folder = copy(exported, tmp_path / 'x')
    card = (folder / 'README.md').read_text().replace('license: apache-2.0', f'license: {license}')
    if datasets:
        card = card.replace('library_name:', f'datasets: {datasets}\nlibrary_name:')
    (folder / 'README.md').write_text(card)
    with pytest.raises(ValueError, match=message):
        client(publish.publish, folder, 'me/refused', dry_run=dry_run)
    assert 'me/refused' not in server.repos and not server.count('repos/create')


@pytest.mark.parametrize('dataset', ['', 'torch/cifar10', 'hfds/uoft-cs/cifar10', 'tfds/x', 'wds//data'])
def test_trainings_on_images_of_ones_own(client, server, tmp_path, dataset):
    args = argparse.Namespace(**ARGS | dict(dataset=dataset, data_dir='imgs'))
    folder = hub.export_weights(write(tmp_path / 'last.pth.tar', args=args), tmp_path / 'model', tag='mine')
    assert client(publish.publish, folder, 'me/mine', dry_run=True).unchecked == ''
    assert client(publish.publish, folder, 'me/mine').url
    assert equal(client(load_from_hub, 'hf-hub:me/mine'), tensors(1))


def test_a_training_that_began_with_a_name_of_the_hub(client, server, exported, tmp_path):
    client(publish.publish, copy(exported, tmp_path / 'model'), 'me/first')
    args = argparse.Namespace(**ARGS | dict(model='hf-hub:me/first', model_kwargs={}, pretrained=True))
    folder = client(hub.export_weights, write(tmp_path / 'last.pth.tar', args=args), tmp_path / 'y', tag='mine')
    front = yaml.safe_load((folder / 'README.md').read_text().split('---')[1])
    assert front['base_model'] == 'me/first'
    client(publish.publish, folder, 'me/second')
    assert equal(client(load_from_hub, 'hf-hub:me/second'), tensors(1))


@needs_local_dir
def test_a_converted_file_is_published(client, server, tmp_path):
    state = authors_file(tmp_path / 'a.pth')
    folder = hub.convert(tmp_path / 'a.pth', tmp_path / 'model')
    client(publish.publish, folder, 'me/converted')
    assert equal(client(load_from_hub, 'hf-hub:me/converted'), state)


def test_private_branch_and_pull_request(client, server, exported, tmp_path):
    folder = copy(exported, tmp_path / 'x')
    client(publish.publish, folder, 'me/hidden', private=True, revision='dev')
    repo = server.repos['me/hidden']
    assert repo.private and 'model.safetensors' in repo.commits[repo.refs['dev']]
    assert 'model.safetensors' not in repo.commits[repo.refs['main']]
    server.repos['others/model'] = theirs = Repo()
    theirs.commit('main', {'README.md': b'theirs'})
    done = client(publish.publish, copy(exported, tmp_path / 'y'), 'others/model', create_pr=True)
    assert done.url == f'{server.url}/others/model/discussions/1'
    assert 'model.safetensors' in theirs.commits[theirs.refs['refs/pr/1']]
    assert theirs.commits[theirs.refs['main']] == {'README.md': b'theirs'}


@pytest.mark.slow
def test_an_interrupted_upload_is_completed(client, server, exported, tmp_path):
    """The process is killed when half of the weights are uploaded."""
    safetensors.torch.save_file(tensors(7), tmp_path / 'model.safetensors')
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(ARGS))
    folder = hub.export_weights(tmp_path / 'model.safetensors', tmp_path / 'model')
    server.cut = '^PUT /lfs/'
    command = [sys.executable, '-c', 'import sys; from timm_fractal.cli import main; sys.exit(main())']
    command += ['publish', str(folder), '--repo-id', 'me/half']
    environment = os.environ | server.environment(tmp_path / 'hf', HF_TOKEN=TOKEN)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and not server.count('^PUT /lfs/'):
            time.sleep(0.02)
        process.kill()
    repo = server.repos['me/half']
    assert server.count('^PUT /lfs/') and 'model.safetensors' not in repo.commits[repo.refs['main']]
    server.cut = None
    client(publish.publish, folder, 'me/half')
    files = repo.commits[repo.refs['main']]
    (folder / 'README.md').write_bytes(published_card(folder, 'me/half'))
    assert all(files[path.name] == path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize('request_', ['^POST /api/models/me/cut/preupload', '^PUT /lfs/'])
def test_a_cut_connection_is_tried_again_with_limits(client, server, tmp_path, request_):
    """With weights that are not on the server yet."""
    safetensors.torch.save_file(tensors(8), tmp_path / 'model.safetensors')
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(ARGS))
    folder = hub.export_weights(tmp_path / 'model.safetensors', tmp_path / 'model')
    server.cut = request_
    with pytest.raises(ConnectionError, match='publishing to me/cut: .* cannot be reached'):
        client(publish.publish, folder, 'me/cut')
    assert 1 <= server.count(request_) <= 20
    server.cut = None
    server.faults[request_] = [500] * 50
    with pytest.raises(ConnectionError, match=r'publishing to me/cut: .* fails \(500\)'):
        client(publish.publish, folder, 'me/cut')
    assert server.count(request_) <= 40


def test_a_busy_hub_is_asked_again(client, server, exported, tmp_path):
    server.faults['POST /api/repos/create'] = [429, 500]
    server.faults['preupload'] = [503]
    server.faults['commit/main'] = [500]
    server.faults['GET .*model.safetensors'] = [500]
    client(publish.publish, copy(exported, tmp_path / 'x'), 'me/busy')
    assert 'model.safetensors' in server.repos['me/busy'].commits[server.repos['me/busy'].refs['main']]
    assert server.count('POST /api/repos/create') == 3 and server.count('commit/main') == 2


@pytest.mark.parametrize(
    'status, message',
    [(429, r'too many requests to .* \(429\): wait a few minutes'), (500, r'fails \(500\): try again later')],
)
def test_not_for_ever(client, server, exported, tmp_path, status, message):
    server.faults['commit/main'] = [status] * 50
    with pytest.raises(ConnectionError, match=f'publishing to me/fails: .*{message}'):
        client(publish.publish, copy(exported, tmp_path / 'x'), 'me/fails')
    assert server.count('commit/main') == 3


def publish_as(token, *args):
    old = os.environ.pop('HF_TOKEN')
    try:
        if token is not None:
            os.environ['HF_TOKEN'] = token
        return publish.publish(*args)
    finally:
        os.environ['HF_TOKEN'] = old


def test_tokens(client, server, exported, tmp_path):
    folder = copy(exported, tmp_path / 'x')
    with pytest.raises(PermissionError, match='no token for the Hub: run `hf auth login`, or set HF_TOKEN') as info:
        client(publish_as, None, folder, 'me/x')
    assert server.requests == []
    with pytest.raises(PermissionError, match='publishing to me/x: .*the token is invalid') as info:
        client(publish_as, 'hf_wrong', folder, 'me/x')
    assert 'hf_wrong' not in str(info.value)
    with pytest.raises(PermissionError, match=r'publishing to others/x: your token lacks permission \(403\)') as info:
        client(publish.publish, folder, 'others/x')
    assert TOKEN not in str(info.value)


def test_what_came_back_is_compared(client, server, exported, tmp_path):
    server.damage = 'model.safetensors'
    with pytest.raises(OSError, match='me/damaged: model.safetensors came back from the Hub with a different sha256'):
        client(publish.publish, copy(exported, tmp_path / 'x'), 'me/damaged')


@pytest.fixture
def published(client, server, exported, tmp_path):
    """Return a function that puts weights on the Hub, uncached, with a manifest."""

    def published(name):
        server.repos[name] = repo = Repo()
        commit = repo.commit('main', {'model.safetensors': (exported / 'model.safetensors').read_bytes()})
        entry = hub.entry_of(exported, hf_hub_id=name, revision=commit)
        # Each name must be new, or the file would come from the cache.
        return entry.name, write_manifest(tmp_path / 'manifest.json', {entry.name: entry.to_json()})

    return published


def test_a_byte_that_changed_on_the_way(client, server, published):
    name, manifest = published('me/bad_line')
    server.damage = 'model.safetensors'
    with pytest.raises(ValueError, match=f'is damaged, or not the weights {name}: its sha256 is .* delete it'):
        client(load_tag, manifest, name)


def test_a_busy_hub_and_a_broken_one(client, server, published):
    name, manifest = published('me/asked_often')
    server.faults['HEAD .*me/asked_often'] = [500] * 1000
    with pytest.raises(ConnectionError, match=rf'{name} \(me/asked_often\): .* fails \(500\): try again later'):
        client(load_tag, manifest, name)
    assert server.count('HEAD') < 50
    server.faults.clear()
    server.faults['HEAD .*me/asked_often'] = [429, 500]
    # Old clients do not retry: all three attempts are ours.
    server.faults['GET .*me/asked_often'] = [] if OLD_CLIENT else [429, 503]
    assert equal(client(load_tag, manifest, name), tensors(1))


def publish_offline(*args):
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    try:
        return publish.publish(*args)
    finally:
        constants.HF_HUB_OFFLINE = False


@pytest.mark.skipif(OLD_CLIENT, reason='this client looks at HF_HUB_OFFLINE once, when it is imported')
def test_publishing_offline(client, exported, tmp_path):
    with pytest.raises(
        ConnectionError, match='publishing to me/x: HF_HUB_OFFLINE is set, so .* is not contacted: unset it'
    ):
        client(publish_offline, copy(exported, tmp_path / 'x'), 'me/x')


def limited(bytes_, *args):
    """Call `load_tag` with a limit on file size, which acts like a full disk."""
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, old[1]))
    try:
        return load_tag(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.posix
def test_no_room_in_the_cache(client, published, tmp_path):
    pytest.importorskip('resource')
    cache = tmp_path / 'cache'
    name, manifest = published('me/large')
    with pytest.raises(OSError, match=rf'{name} \(me/large\): File too large: free some space, or set HF_HOME'):
        client(limited, 100_000, manifest, name)
    assert not cache.exists()
    assert equal(client(load_tag, manifest, name), tensors(1))


def test_absent_weights(client, server, published):
    name, manifest = published('me/gone')
    del server.repos['me/gone']
    with pytest.raises(OSError, match=rf'{name} \(me/gone\): (there is )?no such repository'):
        client(load_tag, manifest, name)


def test_a_mirror(client, server, exported, tmp_path, published):
    """A web server with the files; missing ones come from other sources."""
    name, manifest = published('me/mirrored')
    content = (exported / 'model.safetensors').read_bytes()
    server.repos['me/mirror'] = Repo()
    server.repos['me/mirror'].commit('main', {'other': b''})
    options = dict(TIMM_FRACTAL_WEIGHTS=f'{server.url}/me/mirror/resolve/main/', TORCH_HOME=str(tmp_path / 'torch'))
    assert equal(client(load_tag, manifest, name, **options), tensors(1))
    assert server.count(f'me/mirror/.*{name}.safetensors') == 1 and server.count('GET /me/mirrored') == 1
    server.repos['me/mirror'].commit('main', {f'{name}.safetensors': content[:-1] + b'!'})
    with pytest.raises(ValueError, match=f'{name}.safetensors is damaged, or not the weights {name}'):
        client(load_tag, manifest, name, **options)
    server.repos['me/mirror'].commit('main', {f'{name}.safetensors': content})
    assert equal(client(load_tag, manifest, name, **options), tensors(1))
    # Now from the cache.
    count = len(server.requests)
    assert equal(client(load_tag, manifest, name, **options), tensors(1)) and len(server.requests) == count
    options = dict(TIMM_FRACTAL_WEIGHTS='http://127.0.0.1:9', TORCH_HOME=str(tmp_path / 'torch2'))
    with pytest.raises(ConnectionError, match='http://127.0.0.1:9/.* cannot be reached'):
        client(load_tag, manifest, name, **options)


@pytest.mark.slow
def test_without_network(exported, tmp_path):
    """Embedded weights load; for others, the message says what to set."""
    entry = hub.entry_of(exported, file='x')
    weights.add(entry, exported / 'model.safetensors', tmp_path / 'manifest.json')
    other = dataclasses.replace(entry, name='test_vit.fractal1_remote', hf_hub_id='me/remote')
    content = json.loads((tmp_path / 'manifest.json').read_text())
    content[other.name] = {k: v for k, v in other.to_json().items() if k != 'file'}
    (tmp_path / 'manifest.json').write_text(json.dumps(content))
    code = f"""
import pathlib, timm_fractal.hub.manifest as weights
weights.MANIFEST = pathlib.Path({str(tmp_path)!r}) / 'manifest.json'
import timm
print(timm.create_model({entry.name!r}, pretrained=True).pretrained_cfg['tag'])
try:
    timm.create_model({other.name!r}, pretrained=True)
except FileNotFoundError as error:
    print(error)
"""
    environment = os.environ | {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'hf')}
    environment.pop(weights.SOURCE, None)
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == 'fractal1_20'
    assert re.match(r'test_vit.fractal1_remote \(me/remote\): not in the cache, and .* cannot be reached.', second)
    assert 'HF_HUB_OFFLINE' in second and 'TIMM_FRACTAL_WEIGHTS' in second


def test_an_entry_knows_its_place():
    entry = Weights('a.b', '0' * 64, 1, {}, 'mit', {}, hf_hub_id='me/x', revision='abc')
    assert entry.to_json()['revision'] == 'abc' and 'file' not in entry.to_json()
