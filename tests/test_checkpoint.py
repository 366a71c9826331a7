"""Reading checkpoints: their contents, without running code in them."""

import argparse
import json
import pickle

import pytest
import safetensors.torch
import timm
import torch
import yaml

from timm_fractal.hub import architecture, checkpoint, origin

DATASET = 'fractal1/classes=20,points=5000,size=64'
ARGS = dict(
    model='test_vit',
    dataset=DATASET,
    num_classes=20,
    img_size=64,
    model_kwargs={'img_size': 64},
    mean=[0.5, 0.5, 0.5],
    std=[0.5, 0.5, 0.5],
    epoch_repeats=8.0,
    batch_size=16,
    world_size=1,
    output='/home/somebody/output',
    device='cpu',
)


def tensors(seed, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model('test_vit', **(dict(img_size=64, num_classes=20) | options)).state_dict()


def write(path, **changes):
    """Write a checkpoint like train.py."""
    content = dict(
        epoch=1,
        arch='test_vit',
        state_dict=tensors(0),
        state_dict_ema=tensors(1),
        optimizer={'state': {0: {'exp_avg': torch.zeros(3)}}, 'param_groups': [{'lr': 1e-3}]},
        version=2,
        args=argparse.Namespace(**ARGS),
        metric=12.5,
    )
    content.update(changes)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


class Code:
    """An object that writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_what_train_py_writes(tmp_path):
    path = write(tmp_path / 'last.pth.tar')
    (tmp_path / 'summary.csv').write_text('epoch,train_loss,eval_top1\n0,3.0,5\n1,2.5,6\n2,2.0,7\n')
    found = checkpoint.read(path)
    assert found.ema and found.epochs == 2 and found.loss == 2.5
    # 160 images per epoch, in 10 batches.
    assert found.samples == 320
    assert torch.equal(found.tensors['cls_token'], tensors(1)['cls_token'])
    assert found.args['dataset'] == DATASET and found.args['model_kwargs'] == {'img_size': 64}
    assert found.args['output'] == ARGS['output']


@pytest.mark.parametrize('use_ema, seed', [(True, 1), (False, 0)])
def test_the_moving_average_is_a_choice(tmp_path, use_ema, seed):
    found = checkpoint.read(write(tmp_path / 'x.pth.tar'), use_ema)
    assert found.ema == use_ema and torch.equal(found.tensors['cls_token'], tensors(seed)['cls_token'])


def test_there_may_be_no_moving_average(tmp_path):
    path = write(tmp_path / 'x.pth.tar', state_dict_ema=None)
    assert not checkpoint.read(path).ema
    with pytest.raises(ValueError, match="no 'state_dict_ema' in this checkpoint, it has: epoch, arch, state_dict"):
        checkpoint.read(path, use_ema=True)


def test_samples_are_counted_in_whole_batches(tmp_path):
    args = ARGS | dict(batch_size=9, world_size=2, epoch_repeats=0)
    assert checkpoint.read(write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**args))).samples == 2 * 18
    args = ARGS | dict(dataset='imagenet')
    assert checkpoint.read(write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**args))).samples is None


def test_wrappers_leave_no_trace(tmp_path):
    wrapped = {f'module.{name}': value for name, value in tensors(0).items()}
    found = checkpoint.read(write(tmp_path / 'x.pth.tar', state_dict=wrapped), use_ema=False)
    assert found.tensors.keys() == tensors(0).keys()


def test_safetensors_with_arguments(tmp_path):
    safetensors.torch.save_file(tensors(0), tmp_path / 'x.safetensors')
    assert checkpoint.read(tmp_path / 'x.safetensors').args == {}
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(ARGS))
    assert checkpoint.read(tmp_path / 'x.safetensors').args['dataset'] == DATASET
    safetensors.torch.save_file(tensors(0), tmp_path / 'y.safetensors', {'train_args': json.dumps({'model': 'y'})})
    assert checkpoint.read(tmp_path / 'y.safetensors').args == {'model': 'y'}
    safetensors.torch.save_file(tensors(0), tmp_path / 'z.safetensors', {'train_args': '[1]'})
    with pytest.raises(ValueError, match="z.safetensors: the metadata 'train_args' must be a JSON object"):
        checkpoint.read(tmp_path / 'z.safetensors')
    with pytest.raises(ValueError, match='--use-ema cannot be used with a safetensors file'):
        checkpoint.read(tmp_path / 'x.safetensors', use_ema=True)


def test_code_is_refused_and_not_run(tmp_path):
    path = write(tmp_path / 'x.pth.tar', optimizer=Code(tmp_path / 'ran'))
    # torch 2.5 cannot list the functions that a file calls.
    listed = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
    reason = 'it calls .*open' if listed else 'it was not written by torch'
    with pytest.raises(ValueError, match=f'is refused: {reason}.*Only tensors and plain values are allowed'):
        checkpoint.read(path)
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps({'state_dict': Code(tmp_path / 'ran')}, protocol=2))
    with pytest.raises(ValueError, match='is refused'):
        checkpoint.read(tmp_path / 'plain.pth')
    assert not (tmp_path / 'ran').exists()


def test_damaged_files(tmp_path):
    path = write(tmp_path / 'x.pth.tar')
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match='x.pth.tar is (damaged|refused)'):
        checkpoint.read(path)
    (tmp_path / 'text.pth').write_text('nothing of the kind')
    with pytest.raises(ValueError, match='text.pth is (damaged|refused)'):
        checkpoint.read(tmp_path / 'text.pth')
    (tmp_path / 'empty.pth').write_bytes(b'')
    with pytest.raises(ValueError, match='empty.pth is damaged'):
        checkpoint.read(tmp_path / 'empty.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='must be a dict, got list'):
        checkpoint.read(tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='must be a dict of tensors'):
        checkpoint.read(write(tmp_path / 'x.pth.tar', state_dict={'x': 1}), use_ema=False)
    with pytest.raises(FileNotFoundError, match='absent.pth: no such file'):
        checkpoint.read(tmp_path / 'absent.pth')


def test_truncated_safetensors(tmp_path):
    path = tmp_path / 'x.safetensors'
    safetensors.torch.save_file(tensors(0), path)
    path.write_bytes(path.read_bytes()[:-100])
    for read in (checkpoint.read, checkpoint.shapes):
        with pytest.raises(ValueError, match='is truncated, or not a safetensors file'):
            read(path)


@pytest.mark.parametrize('text', ['[1, 2]', '{x: ', '!!python/object/apply:os.getcwd []'])
def test_arguments_are_plain_yaml(tmp_path, text):
    safetensors.torch.save_file(tensors(0), tmp_path / 'x.safetensors')
    (tmp_path / 'args.yaml').write_text(text)
    with pytest.raises(ValueError, match='args.yaml'):
        checkpoint.read(tmp_path / 'x.safetensors')


@pytest.mark.parametrize(
    'name',
    [
        'vit_tiny_patch16_224',
        pytest.param('vit_base_patch16_224', marks=pytest.mark.slow),
        'swin_tiny_patch4_window7_224',
    ],
)
@pytest.mark.parametrize('classes', [0, pytest.param(1000, marks=pytest.mark.slow)])
def test_architectures_are_recognized(tmp_path, name, classes):
    found = architecture.on_meta(timm.create_model, name, num_classes=classes).state_dict()
    assert architecture.recognize(tmp_path, found) == (name, classes)


def test_others_are_not(tmp_path):
    found = architecture.on_meta(timm.create_model, 'vit_tiny_patch16_224', depth=11, num_classes=10).state_dict()
    with pytest.raises(ValueError, match=r'the nearest is vit_tiny_patch16_224, but blocks.11.* use export-weights'):
        architecture.recognize(tmp_path, found)


def test_unknown_architecture():
    with pytest.raises(ValueError, match="unknown architecture 'test_vitt'; did you mean 'test_vit"):
        origin.find('test_vitt.x')


@pytest.mark.parametrize(
    'options, message',
    [
        ({'color': 'red'}, "model_kwargs: 'color' is not an option of test_vit"),
        ({'checkpoint_path': 'other.bin'}, "'checkpoint_path' is not an option"),
        ({'pretrained': True}, "'pretrained' is not an option"),
        ({'pretrained_cfg': {'file': 'other.bin'}}, "'pretrained_cfg' is not an option"),
        ({'pretrained_cfg_overlay': {'file': 'other.bin'}}, "'pretrained_cfg_overlay' is not an option"),
        ({'cache_dir': '/tmp'}, "'cache_dir' is not an option"),
        ({'features_only': True}, "'features_only' is not an option"),
        ({'depth': 10**9}, 'depth must be at most 1024'),
        ({'embed_dim': 2**40}, 'embed_dim must be at most'),
        ({'img_size': {'x': 1}}, 'img_size must be a number, a string or a list of them, got dict'),
        ({'global_pool': '../x'}, 'global_pool must be letters'),
        ({'depth': float('inf')}, 'depth must be at most'),
        (5, 'model_kwargs must be a mapping, got int'),
    ],
)
def test_only_an_architecture_is_described(options, message, monkeypatch):
    monkeypatch.setattr(timm.models._builder, 'load_pretrained', lambda *args, **kwargs: pytest.fail('loads weights'))
    with pytest.raises(ValueError, match=message):
        architecture.build({'model_kwargs': options}, origin.find('test_vit'))


@pytest.mark.parametrize(
    'name, kind, message',
    [
        ('../x', ValueError, "unknown architecture ''"),
        ('https://x/y', ValueError, "unknown architecture 'https:"),
        ('local-dir:x', FileNotFoundError, "x/config.json: no such file; the training started from 'local-dir:x'"),
    ],
)
def test_models_from_elsewhere_are_not_built(name, kind, message):
    with pytest.raises(kind, match=message):
        origin.find(name)


def test_damage_of_one_bit(tmp_path):
    """torch does not verify the CRC-32."""
    path = write(tmp_path / 'x.pth.tar')
    content = bytearray(path.read_bytes())
    weight = tensors(1)['blocks.0.attn.qkv.weight'].numpy().tobytes()
    content[content.index(weight) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match='x.pth.tar is damaged: .* has a wrong CRC-32'):
        checkpoint.read(path)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(batch_size=0), "batch_size must be an integer from 1 to .*, got '0'"),
        (dict(batch_size='x'), 'batch_size must be an integer'),
        (dict(epoch_repeats=float('inf')), 'epoch_repeats must be a number'),
        (dict(world_size='x'), 'world_size must be an integer'),
        (dict(input_size=5), 'input_size must be three integers'),
        (dict(model_kwargs=5), 'model_kwargs must be a mapping'),
        (dict(mean=[0.5] * 4), 'mean must be one number or 3, one per channel, got 4'),
        (dict(std=['x']), 'std must be a list of numbers'),
        (dict(num_classes=-1), 'num_classes must be an integer from 0'),
        (dict(dataset='fractal1/' + 'x' * 10**6), 'dataset must be a string of at most 1,000 characters'),
        (dict(model=['x']), 'model must be the name'),
        (dict(more=[[0] * 100] * 1000), 'at most 20000 values'),
    ],
)
@pytest.mark.parametrize('place', ['checkpoint', 'args.yaml'])
def test_arguments_have_types(tmp_path, changes, message, place):
    args = ARGS | changes
    if place == 'checkpoint':
        path = write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**args))
    else:
        path = write(tmp_path / 'x.pth.tar', args=None)
        (tmp_path / 'args.yaml').write_text(yaml.safe_dump(args))
    with pytest.raises(ValueError, match=message) as error:
        checkpoint.read(path)
    assert len(str(error.value)) < 1000


def test_arguments_may_be_missing(tmp_path):
    found = checkpoint.read(write(tmp_path / 'x.pth.tar', args=argparse.Namespace(**ARGS | dict(batch_size=None))))
    assert found.samples is None


LAUGHS = '\n'.join(['a0: &a0 [x, x]', *(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 12))])


@pytest.mark.parametrize(
    'text, message',
    [
        ('&a {x: *a}', 'nested at most 16 times'),
        ('[' * 100_000, 'is not a YAML file of plain values'),
        (LAUGHS, 'at most 20000 values'),
        ('x: ' + '[' * 50 + ']' * 50, 'nested at most 16 times'),
        ('x: \udcff'.encode('utf-8', 'surrogatepass').decode('latin-1') + '\x00', 'is not a YAML file'),
    ],
)
def test_text_that_stands_for_more_than_it_says(tmp_path, text, message):
    path = write(tmp_path / 'x.pth.tar', args=None)
    (tmp_path / 'args.yaml').write_text(text)
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path)


@pytest.mark.parametrize('loss', ['x' * 200_000, 'none'])
def test_a_damaged_summary(tmp_path, loss):
    path = write(tmp_path / 'x.pth.tar')
    (tmp_path / 'summary.csv').write_text(f'epoch,train_loss\n1,{loss}\n')
    with pytest.raises(ValueError, match='summary.csv is not a summary of train.py'):
        checkpoint.read(path)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(version='x'), 'version must be an integer'),
        (dict(epoch='x'), 'epoch must be an integer'),
        (dict(state_dict={1: torch.zeros(1)}, state_dict_ema=None), 'tensor names must be strings'),
        (dict(state_dict={'a': torch.zeros(3).to_sparse()}, state_dict_ema=None), 'must be a plain tensor'),
        (dict(state_dict={'a': torch.zeros(3, device='meta')}, state_dict_ema=None), 'must be a plain tensor'),
    ],
)
def test_checkpoints_of_other_things(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.read(write(tmp_path / 'x.pth.tar', **changes))


@pytest.mark.parametrize('name', ['averaged.pth', 'averaged.safetensors'])
def test_bare_weights_with_arguments_beside_them(tmp_path, name):
    """As written by timm's avg_checkpoints.py and clean_checkpoint.py."""
    save = safetensors.torch.save_file if name.endswith('safetensors') else torch.save
    save(tensors(3), tmp_path / name)
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(ARGS))
    found = checkpoint.read(tmp_path / name)
    assert found.args['model'] == 'test_vit' and found.epochs is None and not found.ema
    assert all(torch.equal(found.tensors[key], value) for key, value in tensors(3).items())
    with pytest.raises(ValueError, match='--use-ema cannot be used'):
        checkpoint.read(tmp_path / name, use_ema=True)


def test_advice_and_lists_are_short(tmp_path):
    torch.save({'model': tensors(0), **{f'key {i}': i for i in range(100)}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'it has: model, key 0, .* \(101 in total\): .*, use convert$'):
        checkpoint.read(tmp_path / 'x.pth')
