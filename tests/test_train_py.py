"""timm's unedited train.py and validate.py, in separate processes.

They are not in timm's wheel: set TIMM_SOURCE to a checkout of huggingface/pytorch-image-models (make test-timm).
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sklearn.datasets
import torch

from tests import hub_server
from timm_fractal.hub import folder as hub
from timm_fractal.hub.manifest import manifest

SOURCE = os.environ.get('TIMM_SOURCE', '')

pytestmark = [
    pytest.mark.timm_source,
    pytest.mark.skipif(not SOURCE, reason='TIMM_SOURCE is not set to a checkout of timm: its train.py is not run'),
]

DATASET = 'fractal1/classes=20,points=5000,size=64'
SMALL_VIT = '--model test_vit --img-size 64 --model-kwargs img_size=64 --device cpu'
PAPER = (
    '--aa rand-m9-mstd0.5-inc1 --mixup 0.8 --cutmix 1.0 --smoothing 0.1 --vflip 0.5 --reprob 0.5 --remode pixel '
    '--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --opt adamw --lr 1e-3 --warmup-epochs 0 --batch-size 16 --epoch-repeats 8'
)

# train.py passes device_ids, which torch refuses for a model on the CPU: without this, timm cannot train on the CPU in
# several processes.
ON_CPU = """
import runpy, sys, torch
init = torch.nn.parallel.DistributedDataParallel.__init__
def on_cpu(self, module, device_ids=None, **kwargs):
    init(self, module, **kwargs)
torch.nn.parallel.DistributedDataParallel.__init__ = on_cpu
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def python(folder, *arguments, ok=True, **environment):
    words = [word for argument in arguments for word in argument.split()]
    environment = os.environ | {'OMP_NUM_THREADS': '1'} | environment
    run = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert (run.returncode == 0) == ok, run.stdout[-2000:] + run.stderr[-4000:]
    return run.stdout + run.stderr


def train(folder, name, *arguments, **options):
    output = python(folder, f'{SOURCE}/train.py --experiment {name} --output out', SMALL_VIT, *arguments, **options)
    summary = Path(folder, 'out', name, 'summary.csv')
    return output, list(csv.DictReader(summary.read_text().splitlines())) if summary.exists() else []


def test_trains_resumes_and_validates(tmp_path):
    options = f'--dataset {DATASET} --num-classes 20 --workers 2 {PAPER}'
    _, first = train(tmp_path, 'first', options, '--epochs 2')
    assert [row['epoch'] for row in first] == ['0', '1']
    assert all(float(row['train_loss']) < 4 for row in first)
    output, more = train(tmp_path, 'more', options, '--epochs 3 --resume out/first/last.pth.tar')
    assert "Loaded checkpoint 'out/first/last.pth.tar'" in output
    assert [row['epoch'] for row in more] == ['2']
    checkpoint = '--checkpoint out/more/last.pth.tar'
    output = python(tmp_path, f'{SOURCE}/validate.py --dataset {DATASET} --num-classes 20', SMALL_VIT, checkpoint)
    top1 = float(output.split('"top1": ')[1].split(',')[0])
    assert top1 == pytest.approx(float(more[0]['eval_top1']), abs=1e-3)


def test_weights_go_to_the_hub_and_back(tmp_path):
    """Trained, exported, published, loaded bit for bit, and fine-tuned, by name and by file."""
    recipe = f'--dataset {DATASET} --num-classes 20 --workers 1 {PAPER} --epochs 1'
    train(tmp_path, 'first', recipe, '--model-ema')
    checkpoint = tmp_path / 'out' / 'first' / 'last.pth.tar'
    expected = torch.load(checkpoint, weights_only=False)['state_dict_ema']
    folder = hub.export_weights(checkpoint, tmp_path / 'exported')
    with hub_server.serve() as server:
        client = server.environment(tmp_path / 'hf', HF_TOKEN=hub_server.TOKEN)
        program = 'import sys; from timm_fractal.cli import main; sys.exit(main())'
        (tmp_path / 'program.py').write_text(program)
        output = python(tmp_path, f'program.py publish {folder} --repo-id me/x --manifest', **client)
        assert hub_server.TOKEN not in output
        entry = json.loads(output[output.index('{') : output.rindex('}') + 1])
        assert entry['test_vit.fractal1_20']['provenance']['samples'] == 160
        (tmp_path / 'load.py').write_text(
            'import timm, torch\n'
            "torch.save(timm.create_model('hf-hub:me/x', pretrained=True).state_dict(), 'loaded.pt')\n"
        )
        python(tmp_path, 'load.py', **client)
        loaded = torch.load(tmp_path / 'loaded.pt', weights_only=True)
        assert loaded.keys() == expected.keys() and all(torch.equal(loaded[k], expected[k]) for k in expected)
        finetune = f'{SOURCE}/train.py --output out {recipe} --img-size 64 --device cpu --pretrained'
        # timm 1.0.20 and older do not support the newest Hub client.
        (tmp_path / 'knows.py').write_text('from timm.models._hub import has_hf_hub; print(has_hf_hub())')
        path = os.pathsep.join(filter(None, (SOURCE, os.environ.get('PYTHONPATH'))))
        if 'True' in python(tmp_path, 'knows.py', PYTHONPATH=path):
            output = python(tmp_path, finetune, '--model hf-hub:me/x --experiment name', **client)
            assert 'Loading pretrained weights from Hugging Face hub (me/x)' in output and 'Missing keys' not in output
            assert (tmp_path / 'out' / 'name' / 'last.pth.tar').exists()
    by_file = f'{SMALL_VIT} --pretrained-path {folder}/model.safetensors --experiment file'
    output = python(tmp_path, finetune, by_file)
    assert f'Loading pretrained weights from file ({folder}/model.safetensors)' in output
    assert (tmp_path / 'out' / 'file' / 'last.pth.tar').exists()


def test_fine_tunes_embedded_weights(tmp_path):
    names = [name for name, entry in manifest().items() if entry.file]
    if not names:
        pytest.skip('this version has no embedded weights')
    options = (
        f'--model {names[0]} --pretrained --dataset {DATASET} --num-classes 20 --device cpu --workers 1 --epochs 1'
    )
    output = python(tmp_path, f'{SOURCE}/train.py --output out --experiment tag {options} {PAPER}')
    assert f'{names[0]}: loaded from' in output
    assert (tmp_path / 'out' / 'tag' / 'last.pth.tar').exists()


PHOTOS = Path(sklearn.datasets.__file__).parent / 'images'


@pytest.mark.parametrize(
    'name, options',
    [
        ('fractal1', ',points=3000,fractals=7'),
        ('fractal1', ',points=3000 --aa rand-m9-n2-tshape'),
        ('fractal1', ',points=3000,loader=device --aa rand-m9-mstd0.5-inc1-tdefault+shape'),
        ('ofdb', ',points=3000'),
        ('fractaldb', ',points=3000,instances=3'),
        ('noise1', ',noise=uniform'),
        ('visualatom', ',atoms=1,instances=2'),
        ('image1', f' --data-dir {PHOTOS}/china.jpg'),
        ('image1', f',view=rgb,warp=elastic,cache=none --data-dir {PHOTOS} --aa rand-m9-mstd0.5-inc1-tdefault+shape'),
        ('image1', f',view=contour,warp=polynomial,delta=0.3 --data-dir {PHOTOS}/flower.jpg --mixup 0.8'),
    ],
)
def test_every_data_set(tmp_path, name, options):
    dataset = f'--dataset {name}/classes=20,size=64{options}'
    _, rows = train(tmp_path, 'x', dataset, '--num-classes 20 --workers 1 --epochs 1 --batch-size 10')
    assert len(rows) == 1 and 2 < float(rows[0]['train_loss']) < 4


def test_files_of_an_export(tmp_path):
    python(tmp_path, f'-m timm_fractal export {DATASET} folder --split all')
    python(tmp_path, f'-m timm_fractal export {DATASET} shards --split all --shards 2')
    for name, options in (
        ('folder', '--data-dir folder'),
        ('wds', '--dataset wds/ --data-dir shards'),
        ('hfds', '--dataset hfds/folder'),
        ('columns', '--dataset hfds/shards --input-key png --target-key cls'),
    ):
        options += ' --num-classes 20 --workers 2 --epochs 1 --warmup-epochs 0 --batch-size 5'
        output, rows = train(tmp_path, name, options, HF_HOME=str(tmp_path / 'hf'), HF_HUB_OFFLINE='1')
        # 3.0 is the loss at chance.
        assert 2 < float(rows[0]['train_loss']) < 4 and 2 < float(rows[0]['eval_loss']) < 4, output


def test_batches_of_the_device(tmp_path):
    """Trains, resumes with the same batches, validates."""
    options = f'--dataset {DATASET},loader=device --num-classes 20 {PAPER}'
    _, whole = train(tmp_path, 'whole', options, '--epochs 2 --sched step --decay-epochs 99')
    train(tmp_path, 'first', options, '--epochs 1 --sched step --decay-epochs 99')
    _, more = train(
        tmp_path, 'more', options, '--epochs 2 --sched step --decay-epochs 99 --resume out/first/last.pth.tar'
    )
    assert [row['epoch'] for row in whole] == ['0', '1'] and [row['epoch'] for row in more] == ['1']
    assert float(more[0]['train_loss']) == pytest.approx(float(whole[1]['train_loss']), abs=1e-4)
    checkpoint = '--checkpoint out/more/last.pth.tar'
    tops = []
    for name in (f'{DATASET},loader=device', DATASET):
        output = python(tmp_path, f'{SOURCE}/validate.py --dataset {name} --num-classes 20', SMALL_VIT, checkpoint)
        tops.append(float(output.split('"top1": ')[1].split(',')[0]))
    assert tops[0] == pytest.approx(float(more[0]['eval_top1']), abs=1e-3) and tops[0] == pytest.approx(tops[1], abs=6)


@pytest.mark.parametrize('loader', ['auto', 'device'])
def test_two_processes(tmp_path, loader):
    (tmp_path / 'on_cpu.py').write_text(ON_CPU)
    launcher = '-m torch.distributed.run --standalone --nproc-per-node 2 on_cpu.py'
    script = f'{SOURCE}/train.py --experiment two --output out'
    options = f'--dataset {DATASET},loader={loader} --num-classes 20 --workers 1 --epochs 1'
    output = python(tmp_path, launcher, script, SMALL_VIT, options, PAPER)
    assert 'Process 1, total 2' in output
    assert output.count('train split: 160 samples') == 1
    assert Path(tmp_path, 'out', 'two', 'last.pth.tar').exists()


def test_without_the_autoload(tmp_path):
    options = '--device-modules timm_fractal --dataset torch/fractal1 --val-split= --epochs 1 --batch-size 500'
    _, rows = train(tmp_path, 'late', options, '--num-classes 1000', TORCH_DEVICE_BACKEND_AUTOLOAD='0')
    assert len(rows) == 1


def test_bad_input_ends_before_training(tmp_path):
    for options, message in (
        (f'--dataset {DATASET} --num-classes 10 --mixup 0.8', 'use --num-classes 20'),
        ('--dataset fractal1/detla=0.1', "unknown option 'detla'; did you mean 'delta'?"),
        ('--dataset fractal1/', 'expected option=value'),
        (f'--dataset {DATASET} --train-split trian', "unknown split 'trian'; did you mean 'train'?"),
        ('--dataset image1', 'image1 needs an image: --data-dir photo.jpg'),
        ('--dataset imge1', "unknown data set 'imge1'; did you mean 'image1'?"),
        (f'--dataset {DATASET} --aa rand-m9-tshape+Rotat', "unknown operation 'Rotat'"),
        (f'--dataset {DATASET} --num-classes 10', 'train with --num-classes 20'),
    ):
        output, rows = train(tmp_path, 'bad', options, '--epochs 1', ok=False)
        assert message in output and not rows


def test_no_workers(tmp_path):
    _, rows = train(tmp_path, 'none', f'--dataset {DATASET} --num-classes 20 --workers 0 --epochs 1 --batch-size 10')
    assert len(rows) == 1
