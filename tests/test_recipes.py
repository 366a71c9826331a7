"""The recipes match the paper and their descriptions."""

from pathlib import Path

import pytest
import yaml
from timm.data import rand_augment_transform
from timm.models import create_model

from timm_fractal import parse_name

SCRIPTS = Path(__file__).parent.parent / 'train_scripts'
RECIPES = sorted(SCRIPTS.glob('*.yaml'))


def load(path):
    return yaml.safe_load(path.read_text())


# Without the recipes of the embedded weights, which are for a CPU.
PRETRAINING = [path for path in RECIPES if path.name.startswith('pretrain') and load(path).get('device') != 'cpu']


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {
        'pretrain_vit_tiny_fractal1_1k',
        'pretrain_vit_base_fractal1_21k',
        'finetune_cifar10',
        'finetune_cifar100',
    }
    types = {parse_name(load(path)['dataset']).type for path in PRETRAINING}
    assert types == {'fractal1', 'image1', 'ofdb', 'noise1', 'visualatom'}


def test_rows_of_the_same_table_differ_in_the_images_alone():
    recipes = [load(path) for path in PRETRAINING if path.name.startswith('pretrain_vit_tiny')]
    names = [recipe.pop('dataset') for recipe in recipes]
    assert len(set(names)) == len(names) == 8
    assert all(recipe == recipes[0] for recipe in recipes)


@pytest.mark.parametrize('path', PRETRAINING, ids=lambda path: path.stem)
def test_an_epoch_is_about_a_million_samples(path):
    recipe = load(path)
    spec = parse_name(recipe['dataset'])
    assert recipe['num_classes'] == spec.classes
    assert int(spec.classes * recipe['epoch_repeats']) == pytest.approx(1e6, rel=0.03)


def test_the_papers_schedule():
    recipe = load(SCRIPTS / 'pretrain_vit_tiny_fractal1_1k.yaml')
    steps = int(1000 * recipe['epoch_repeats']) // recipe['batch_size']
    assert steps * recipe['epochs'] == 80_000 * (1000 // 256) == 240_000
    assert recipe['lr_base'] * recipe['batch_size'] / recipe['lr_base_size'] == 5e-4


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_timm_knows_the_model_and_the_augmentation(path):
    recipe = load(path)
    create_model(recipe['model'], num_classes=recipe['num_classes'], drop_path_rate=recipe.get('drop_path', 0))
    rand_augment_transform(recipe.get('aa', 'rand-m9'), {})


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_numbers_are_numbers(path):
    """YAML reads 1e-3 as a string."""
    words = {key: value for key, value in load(path).items() if isinstance(value, str)}
    assert not [key for key, value in words.items() if value[0].isdigit()]
