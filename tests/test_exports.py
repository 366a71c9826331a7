"""Exports of users' trainings: they contain the trained weights, and other programs can load them."""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from timm.layers import convert_splitbn_model

from tests.test_hub import needs_local_dir
from timm_fractal import cli
from timm_fractal.hub import check, checkpoint, export_weights
from timm_fractal.hub import folder as hub_folder
from timm_fractal.hub.manifest import manifest

pytestmark = needs_local_dir


def trained(path, model, name, /, **args):
    """Write a checkpoint like train.py after training on a user's images."""
    said = dict(model=name, num_classes=3, data_dir='/home/me/imgs', dataset='', batch_size=4, pretrained=False)
    content = dict(epoch=1, arch=name, state_dict=model.state_dict(), version=2, args=argparse.Namespace(**said | args))
    torch.save(content, path)
    return path


def make(name, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, **dict(num_classes=3) | options).eval()


def loads(folder, expected):
    """Return whether timm restores the model: the same outputs and weights."""
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    found, expected_state = model.state_dict(), expected.state_dict()
    image = torch.randn(2, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.equal(model(image), expected.float()(image))
    return same and all(torch.equal(found[key], expected_state[key].float()) for key in found if 'num_b' not in key)


@pytest.mark.parametrize('tag', manifest())
def test_a_published_tag_is_fine_tuned_and_exported(tmp_path, tag):
    """Its input size is the tag's, not the architecture's."""
    model = timm.create_model(tag, pretrained=True, num_classes=3).eval()
    path = trained(tmp_path / 'last.pth.tar', model, tag, pretrained=True)
    folder = export_weights(path, tmp_path / 'x', tag='mine')
    assert loads(folder, model)
    config = json.loads((folder / 'config.json').read_text())
    entry = manifest()[tag]
    assert config['pretrained_cfg']['input_size'] == entry.pretrained_cfg['input_size']
    assert config['pretrained_cfg']['mean'] == entry.pretrained_cfg['mean']
    assert config['provenance']['started_from'] == {'weights': tag, 'dataset': entry.provenance['dataset']}
    card = (folder / 'README.md').read_text()
    assert '## Citation' in card
    assert f'Started from: {tag}, pre-trained on {entry.provenance["dataset"]}' in card and 'synthetic-data' not in card
    check(folder)


@pytest.mark.parametrize(
    'name, build, args',
    [
        ('test_vit.fractal1_1k', dict(name='test_vit', img_size=64), dict(model_kwargs={'img_size': 64}, img_size=64)),
        # Newer versions of train.py build the model for --img-size, older ones do not.
        ('test_vit.fractal1_1k', dict(name='test_vit', img_size=64), dict(img_size=64)),
        ('test_vit.fractal1_1k', dict(name='test_vit.fractal1_1k'), dict(img_size=64)),
        ('test_vit.fractal1_1k', dict(name='test_vit.fractal1_1k', global_pool='avg'), dict(gp='avg')),
        (
            'test_vit.fractal1_1k',
            dict(name='test_vit.fractal1_1k', in_chans=1),
            dict(in_chans=1, mean=[0.5], std=[0.5]),
        ),
        ('test_resnet', dict(name='test_resnet'), dict(img_size=64)),
        ('test_resnet', dict(name='test_resnet', global_pool='max'), dict(gp='max')),
        ('test_efficientnet', dict(name='test_efficientnet', bn_eps=0.1), dict(bn_eps=0.1)),
        ('coat_lite_tiny', dict(name='coat_lite_tiny'), {}),
        pytest.param('coat_lite_mini', dict(name='coat_lite_mini'), {}, marks=pytest.mark.slow),
        pytest.param(
            'vit_tiny_patch16_224',
            dict(name='vit_tiny_patch16_224', use_naflex=True),
            dict(model_kwargs={'use_naflex': True}),
            marks=pytest.mark.slow,
        ),
    ],
    ids='model_kwargs img_size img_size-of-data pool gray no-img_size max-pool bn_eps tied tied2 naflex'.split(),
)
def test_what_a_training_can_make(tmp_path, name, build, args):
    try:
        model = make(**build)
    except TypeError:
        pytest.skip('this timm has no use_naflex')
    folder = export_weights(trained(tmp_path / 'x.pth.tar', model, name, **args), tmp_path / 'x', tag='mine')
    assert loads(folder, model)
    assert 'num_classes' not in json.loads((folder / 'config.json').read_text())['model_args']
    check(folder)


@pytest.mark.parametrize('args', [dict(gp='max'), dict(bn_eps=0.1)])
def test_a_model_with_other_outputs_has_no_tag(tmp_path, args):
    """Its weights would load into the default architecture, which computes something else."""
    name, options = ('test_resnet', dict(global_pool='max')) if 'gp' in args else ('test_efficientnet', args)
    path = trained(tmp_path / 'x.pth.tar', make(name, **options), name, **args)
    folder = export_weights(path, tmp_path / 'x', tag='mine')
    with pytest.raises(ValueError, match=f'this model differs in {next(iter(options))}: load it with'):
        hub_folder.entry_of(folder, file='x')


@pytest.mark.parametrize('name', ['a b_c-ü', "it's"])
def test_the_card_names_the_folder(tmp_path, name, monkeypatch):
    path = trained(tmp_path / 'x.pth.tar', make('test_resnet'), 'test_resnet')
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    export_weights(path, '.', tag='mine')
    card = (tmp_path / name / 'README.md').read_text()
    assert f"""'local-dir:{name.replace("'", '_')}'""" in card


def test_split_batch_norm(tmp_path):
    """Only the statistics used in evaluation are exported."""
    model = make('test_resnet')
    split = convert_splitbn_model(make('test_resnet'), 2)
    split.load_state_dict(model.state_dict(), strict=False)
    folder = export_weights(
        trained(tmp_path / 'x.pth.tar', split, 'test_resnet', split_bn=True), tmp_path / 'x', tag='m'
    )
    assert loads(folder, model)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_as_trained(tmp_path, dtype):
    model = make('test_vit').to(dtype)
    path = trained(tmp_path / 'x.pth.tar', model, 'test_vit')
    stored = safetensors.torch.load_file(export_weights(path, tmp_path / 'x', tag='m') / 'model.safetensors')
    assert all(
        tensor.dtype == dtype and torch.equal(tensor, model.state_dict()[name]) for name, tensor in stored.items()
    )
    whole = export_weights(path, tmp_path / 'y', tag='m', dtype='float32') / 'model.safetensors'
    assert {tensor.dtype for tensor in safetensors.torch.load_file(whole).values()} == {torch.float32}
    assert loads(tmp_path / 'x', model)


@pytest.mark.parametrize('name', ['averaged.pth', 'averaged.safetensors'])
def test_a_cleaned_state_dict_of_a_fine_tuned_tag(tmp_path, name):
    model = make('test_vit.fractal1_1k')
    save = safetensors.torch.save_file if name.endswith('safetensors') else torch.save
    save(model.state_dict(), tmp_path / name)
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(dict(model='test_vit.fractal1_1k', num_classes=3)))
    assert loads(export_weights(tmp_path / name, tmp_path / 'x', tag='m'), model)


def test_what_began_with_an_export(tmp_path, monkeypatch):
    model = make('test_vit.fractal1_1k')
    first = export_weights(trained(tmp_path / 'a.pth.tar', model, 'test_vit.fractal1_1k'), tmp_path / 'first', tag='m')
    other = make(f'local-dir:{first}', num_classes=5)
    path = trained(tmp_path / 'b.pth.tar', other, f'local-dir:{first}', num_classes=5, pretrained=True)
    second = export_weights(path, tmp_path / 'second', tag='n')
    assert loads(second, other)
    assert 'Started from: local-dir:first, pre-trained on images in a folder' in (second / 'README.md').read_text()
    assert yaml.safe_load((second / 'train_args.yaml').read_text())['model'] == 'local-dir:first'
    # Relative to the folder where train.py was run.
    path = trained(tmp_path / 'b.pth.tar', other, 'local-dir:first', num_classes=5)
    with pytest.raises(
        FileNotFoundError, match='restore the folder, or run the command in the folder where train.py ran'
    ):
        export_weights(path, tmp_path / 'third', tag='n')
    monkeypatch.chdir(tmp_path)
    assert loads(export_weights(path, tmp_path / 'third', tag='n'), other)
    (first / 'config.json').write_text('{"architecture": "test_vit", "pretrained_cfg": {"input_size": "x"}}')
    with pytest.raises(ValueError, match='first/config.json is not a configuration of timm, or is damaged'):
        export_weights(path, tmp_path / 'fourth', tag='n')


def test_weights_of_timm_are_named_as_the_hub_does(tmp_path):
    path = trained(tmp_path / 'x.pth.tar', make('test_vit.r160_in1k'), 'test_vit.r160_in1k', pretrained=True)
    card = (export_weights(path, tmp_path / 'x', tag='m') / 'README.md').read_text()
    assert yaml.safe_load(card.split('---')[1])['base_model'] == 'timm/test_vit.r160_in1k'
    # The name of the architecture without pretrained weights.
    path = trained(tmp_path / 'x.pth.tar', make('test_vit.r160_in1k'), 'test_vit.r160_in1k')
    card = (export_weights(path, tmp_path / 'x', tag='m') / 'README.md').read_text()
    assert 'base_model' not in card and 'Started from' not in card
    path = trained(
        tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit', pretrained=True, pretrained_path='/a/b/last.pth.tar'
    )
    assert 'Started from: last.pth.tar' in (export_weights(path, tmp_path / 'x', tag='m') / 'README.md').read_text()


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(model='test_vit.fractal1_zz', img_size=None),
            'test_vit.fractal1_zz is unknown here: install the versions of timm',
        ),
        (dict(model='test_vitt'), "unknown architecture 'test_vitt'; did you mean 'test_vit"),
        (dict(dataset='fractal1/classes=1000000,fractals=1000000'), 'has 1000000 classes, but num_classes is 3'),
        (dict(model_kwargs={'use_naflex': True}), '(does not fit|has no) test_vit'),
    ],
)
def test_what_cannot_be_exported_is_explained_at_once(tmp_path, change, message):
    path = trained(tmp_path / 'x.pth.tar', make('test_vit', img_size=96), 'test_vit', **dict(img_size=96) | change)
    with pytest.raises(ValueError, match=message):
        export_weights(path, tmp_path / 'x', tag='m')
    assert not (tmp_path / 'x').exists()


def test_weights_that_are_not_numbers(tmp_path):
    model = make('test_vit')
    with torch.no_grad():
        model.pos_embed[0, 3] = float('nan')
    with pytest.raises(ValueError, match='pos_embed has NaN values'):
        export_weights(trained(tmp_path / 'x.pth.tar', model, 'test_vit'), tmp_path / 'x', tag='m')
    path = trained(tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit')
    (tmp_path / 'summary.csv').write_text('epoch,train_loss\n0,3.0\n2,nan\n')
    assert 'nan' not in (export_weights(path, tmp_path / 'x', tag='m') / 'README.md').read_text()


SECRETS = dict(
    hf_token='hf_abcdefghijklmnop',
    wandb_api_key='0123456789',
    note='resume with hf_token=hf_qrstuvwxyz012345 please',
    dataset='wds/s3://key:pass@bucket/shards?X-Amz-Signature=123',
    data_dir='file:///home/me/private/photos',
    output='C:\\Users\\me\\out',
    val_split='/home/me/private/split',
    pretrained_path='s3://key:pass@bucket/weights.pth',
)


def test_secrets_and_folders_are_not_told(tmp_path):
    path = trained(tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit', pretrained=True, **SECRETS)
    folder = export_weights(path, tmp_path / 'x', tag='m')
    text = ''.join((folder / file).read_text() for file in ('README.md', 'config.json', 'train_args.yaml'))
    for secret in ('hf_abc', 'hf_qrs', '0123456789', 'key:pass', 'pass@', 'Signature', '/home/me', 'private/', 'Users'):
        assert secret not in text
    told = yaml.safe_load((folder / 'train_args.yaml').read_text())
    assert told['dataset'] == 'wds/s3://bucket/shards' and told['data_dir'] == 'photos' and told['output'] == 'out'
    assert told['hf_token'] == 'REDACTED' and told['note'] == 'resume with hf_token=REDACTED please'


def test_text_of_a_checkpoint_is_no_markup(tmp_path):
    evil = 'x\n# Heading\n<script>alert(1)</script> [a](javascript:b) | `c`'
    args = dict(dataset=evil, pretrained=True, initial_checkpoint='<img src=x>')
    path = trained(tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit', **args)
    card = (
        export_weights(path, tmp_path / 'x', tag='m', hardware=evil, results=[f'{evil}=1']) / 'README.md'
    ).read_text()
    body = card.split('---', 2)[2]
    assert '<script' not in body and '<img' not in body and '\n# Heading' not in body and '\n# ' in body
    assert '[a](' not in body and '\\| \\`c\\`' in body
    assert yaml.safe_load(card.split('---')[1])['library_name'] == 'timm'


@pytest.mark.parametrize(
    'dataset, datasets, synthetic',
    [
        ('', None, False),
        ('torch/cifar10', None, False),
        ('hfds/uoft-cs/cifar10', ['uoft-cs/cifar10'], False),
        ('hfds//home/me/data', None, False),
        ('tfds/cifar10', None, False),
        ('wds//data/shards', None, False),
        ('fractal1/classes=3,size=64,points=1000', None, True),
        ('noise1/classes=3,size=64', None, True),
        ('image1/classes=3', None, False),
    ],
)
def test_the_front_matter_names_what_is_there(tmp_path, dataset, datasets, synthetic):
    path = trained(tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit', dataset=dataset)
    folder = export_weights(path, tmp_path / 'x', tag='m', results=['cifar100=84.2', 'a b | c=5 %', 'speed=fast'])
    front = yaml.safe_load((folder / 'README.md').read_text().split('---')[1])
    assert front.get('datasets') == datasets and ('synthetic-data' in front['tags']) == synthetic
    (model,) = front['model-index']
    found = [(result['dataset']['type'], result['metrics'][0]['value']) for result in model['results']]
    assert found == [('cifar100', 84.2), ('a-b-c', 5.0)]
    check(folder)


def test_no_traceback(tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError('shared')

    monkeypatch.setattr('timm_fractal.hub.folder.save_file', fail)
    path = trained(tmp_path / 'x.pth.tar', make('test_vit'), 'test_vit')
    assert cli.main(['export-weights', str(path), str(tmp_path / 'x'), '--tag', 'm']) == 1
    assert 'shared' in capsys.readouterr().err and not (tmp_path / 'x').exists()


# Other programs.

CASES = [
    ('test_vit.fractal1_1k', {}, {}),
    ('test_vit.fractal1_1k', dict(in_chans=1, global_pool='avg'), dict(in_chans=1, gp='avg', mean=[0.5], std=[0.5])),
    ('coat_lite_tiny', {}, {}),
    ('test_resnet', {}, {}),
    ('vit_tiny_patch16_224', dict(img_size=64), dict(model_kwargs={'img_size': 64}, img_size=64)),
]


@pytest.fixture(scope='module')
def exports(tmp_path_factory):
    """Export models, with their logits for one image; return the folders."""
    found = []
    for number, (name, options, args) in enumerate(CASES):
        place = tmp_path_factory.mktemp(f'case{number}')
        model = make(name, **options)
        folder = export_weights(trained(place / 'x.pth.tar', model, name, **args), place / 'model', tag='m')
        size = json.loads((folder / 'config.json').read_text())['pretrained_cfg']['input_size']
        image = torch.randn(1, *size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            torch.save({'image': image, 'logits': model(image)}, place / 'expected.pt')
        found.append(folder)
    return found


def test_names_of_classes_are_exported(tmp_path):
    """From a folder, in timm's natural order; timm's inference.py and transformers read them."""
    transformers = pytest.importorskip('transformers')
    for name in ('2 cats', '10 dogs', 'valid'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'train' / name / 'x.png')
    path = trained(tmp_path / 'last.pth.tar', make('test_vit'), 'test_vit')
    # The folder of both splits does as well.
    names = ['2 cats', '10 dogs', 'valid']
    for split in ('train', 'val', 'validation'):
        (tmp_path / split).mkdir(exist_ok=True)
        place = tmp_path / 'train' if split == 'train' else tmp_path
        folder = export_weights(path, tmp_path / 'x', tag='mine', label_names=place)
        assert list(timm.create_model(f'local-dir:{folder}', pretrained=True).pretrained_cfg['label_names']) == names
        if split != 'train':
            (tmp_path / split).rmdir()
    config = transformers.AutoConfig.from_pretrained(folder)
    assert [config.id2label[k] for k in range(3)] == names
    # Not trained on fractals.
    assert 'Citation' not in (folder / 'README.md').read_text()
    check(folder)
    (tmp_path / 'names.txt').write_text('one\ntwo\n\n')
    with pytest.raises(ValueError, match='label_names must have one name per output, which are 3, got 2'):
        export_weights(path, tmp_path / 'y', tag='mine', label_names=tmp_path / 'names.txt')
    assert not (tmp_path / 'y').exists()


@pytest.mark.slow
def test_transformers(exports):
    transformers = pytest.importorskip('transformers')
    for folder in exports:
        expected = torch.load(folder.with_name('expected.pt'), weights_only=True)
        model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        assert model.config.num_labels == 3
        with torch.inference_mode():
            assert torch.equal(model(expected['image']).logits, expected['logits'])
            features = transformers.AutoModel.from_pretrained(folder).eval()(expected['image']).pooler_output
            plain = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
            assert torch.equal(features, plain.forward_head(plain.forward_features(expected['image']), pre_logits=True))
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        config = timm.data.resolve_model_data_config(plain)
        if config['input_size'][0] == 3:
            image = Image.linear_gradient('L').convert('RGB')
            found = processor(image, return_tensors='pt')['pixel_values'][0]
            assert torch.equal(found, timm.data.create_transform(**config, is_training=False)(image))


OTHER_TIMM = """
import json, sys, pathlib, torch, timm, timm_fractal
assert timm.__version__.startswith(sys.argv[1]), timm.__version__
for folder in map(pathlib.Path, sys.argv[2:]):
    expected = torch.load(folder.with_name('expected.pt'), weights_only=True)
    config = json.loads((folder / 'config.json').read_text())
    if hasattr(timm.models._hub, 'load_model_config_from_path'):
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    else:
        # What an older one does for hf-hub:.
        cfg = dict(config['pretrained_cfg'], num_classes=config['num_classes'], file=str(folder / 'model.safetensors'))
        model = timm.create_model(config['architecture'], True, pretrained_cfg=cfg, **config['model_args'])
    with torch.inference_mode():
        assert torch.allclose(model.eval()(expected['image']), expected['logits'], atol=1e-5), folder

# What train.py does with --pretrained --pretrained-path, for an architecture whose default weights are a file of JAX.
state = timm.create_model('vit_tiny_patch16_224').state_dict()
torch.save({'state_dict': state}, 'last.pth.tar')
overlay = dict(file='last.pth.tar', num_classes=-1)
model = timm.create_model('vit_tiny_patch16_224', pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay)
assert torch.equal(model.state_dict()['blocks.3.mlp.fc1.weight'], state['blocks.3.mlp.fc1.weight'])
assert model.num_classes == 5
"""


@pytest.mark.wheel
@pytest.mark.parametrize('version', ['1.0.12', '1.0.20', '1.0.31'])
def test_other_versions_of_timm(exports, tmp_path, version):
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', f'timm=={version}', '-d', str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(tmp_path / 'timm')
    (tmp_path / 'load.py').write_text(OTHER_TIMM)
    command = [sys.executable, 'load.py', version, *map(str, exports)]
    environment = {'PYTHONPATH': str(tmp_path / 'timm'), 'PYTHONWARNINGS': 'ignore', 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    'dataset, data_dir, known',
    [
        ('fractal1/classes=2', None, True),
        # Only fractal data sets of categories read a folder.
        ('fractal1/classes=2', 'images', True),
        ('fractal1/classes=2', 'base.csv', False),
        ('ofdb/classes=2', None, True),
        ('ofdb/classes=2', 'categories', False),
    ],
)
def test_ifs_codes_that_were_read_are_not_taken_for_those_of_the_name(dataset, data_dir, known):
    args = {'model': 'test_vit', 'dataset': dataset, 'data_dir': data_dir}
    codes = hub_folder._ifs_codes(checkpoint.Checkpoint(Path('last.pth.tar'), {}, args), 2)
    assert (codes is not None) == known


@pytest.mark.parametrize(
    'content, args, expected',
    [
        ({'metric': 35.0}, {}, 'top1 35'),
        ({'metric': 35.0}, {'val_split': ''}, None),  # The metric is the training loss.
        ({'metric': float('nan')}, {}, None),
        ({'metric': 'x'}, {}, None),
        ({}, {}, None),
        ({'metric': 35.0}, {'eval_metric': 'loss'}, 'loss 35'),
    ],
)
def test_what_the_training_measured_is_on_the_card(tmp_path, content, args, expected):
    model = make('test_vit')
    args = dict(val_split='validation', eval_metric='top1') | args
    path = trained(tmp_path / 'last.pth.tar', model, 'test_vit', **args)
    saved = torch.load(path, weights_only=False) | content
    torch.save(saved, path)
    card = (export_weights(path, tmp_path / 'out', tag='x') / 'README.md').read_text()
    assert (f'- Validation during training: {expected}\n' in card) == (expected is not None)
    assert ('Validation during training' in card) == (expected is not None)
    # If there are EMA weights, the metric is theirs.
    torch.save(saved | {'state_dict_ema': model.state_dict()}, path)
    assert checkpoint.read(path, use_ema=False).metric is None and checkpoint.read(path).metric == expected
