"""Views of pre-trained weights: filters and attention, against plain computations."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timm_fractal.cli.main import main
from timm_fractal.explore.weights import attention_maps, filter_tiles, first_layer, weights_sheet

NAME = 'fractal1/size=64,points=3000'


def test_filters_that_vary_most_come_first_in_their_own_range():
    filters = np.zeros((4, 3, 2, 2), np.float32)
    filters[2, 1], filters[0, 0, 0, 1] = [[0, 3], [6, 9]], 0.5
    strongest, second = filter_tiles(filters, 2, 2)
    assert strongest.mode == 'RGB' and np.asarray(strongest)[..., 1].tolist() == [[0, 85], [170, 255]]
    assert not np.asarray(strongest)[..., [0, 2]].any() and np.asarray(second)[..., 0].tolist() == [[0, 255], [0, 0]]
    (gray,) = filter_tiles(filters[:, :1], 1, 4)
    assert gray.mode == 'L' and gray.size == (4, 4)


def test_attention_is_that_of_the_class_token():
    torch.manual_seed(0)
    model = timm.create_model('test_vit', img_size=32, patch_size=8).eval()
    image = torch.randn(3, 32, 32)
    maps = attention_maps(model, image)
    assert len(maps) == 6 and {one.shape for one in maps} == {(4, 4)}
    with torch.inference_mode():
        tokens = model._pos_embed(model.patch_embed(image[None]))
        attention = model.blocks[0].attn
        q, k, _ = attention.qkv(model.blocks[0].norm1(tokens)).view(17, 3, attention.num_heads, -1).permute(1, 2, 0, 3)
        expected = (q @ k.transpose(1, 2) * attention.scale).softmax(-1)[:, 0, 1:].mean(0)
    np.testing.assert_allclose(maps[0].flatten(), expected, rtol=1e-4)


def test_without_a_class_token_it_is_the_mean():
    model = timm.create_model('test_vit', img_size=32, patch_size=8, class_token=False, global_pool='avg').eval()
    for one in attention_maps(model, torch.randn(3, 32, 32)):
        assert one.shape == (4, 4) and one.sum() == pytest.approx(1, abs=1e-4)


def test_a_model_without_attention_shows_filters_alone():
    assert attention_maps(timm.create_model('test_resnet').eval(), torch.randn(3, 160, 160)) == []


def test_a_model_without_a_convolution_is_refused():
    with pytest.raises(
        ValueError, match=r"weights: 'linear' has no convolution as its first layer \(first_conv is None\)"
    ):
        first_layer('linear', nn.Linear(2, 2))


@pytest.mark.parametrize('weights', ['test_vit.fractal2_1k', 'test_vit.', 'fractal1'])
def test_unknown_weights_are_refused(weights):
    with pytest.raises(
        ValueError, match=f'weights must be a name of pretrained weights, got {weights!r}; the nearest is'
    ):
        weights_sheet(weights, NAME)


def test_a_folder_of_weights_needs_a_prefix(tmp_path):
    with pytest.raises(ValueError, match='got a folder: use local-dir:'):
        weights_sheet(str(tmp_path), NAME)


def test_the_sheet_of_the_embedded_weights(tmp_path, monkeypatch):
    before = torch.random.get_rng_state()
    path = tmp_path / 'weights.png'
    words = ['--weights', 'test_vit.fractal1_1k', '-o', str(path), '--columns', '5', '--tile', '32']
    assert main(['preview', NAME, *words]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)
    sheet = Image.open(path)
    assert sheet.mode == 'RGB' and sheet.height == 4 * 34 + 2
    tiles = np.asarray(sheet)[2:138, -170:].reshape(4, 34, 5, 34, 3)[:, :32].transpose(0, 2, 1, 3, 4)
    # Trained filters are smooth, random ones are noise.
    rough = [np.abs(np.diff(row[..., ::2, :].astype(float), axis=1)).mean() for row in tiles[:2]]
    assert rough[0] < 0.5 * rough[1]


def test_what_has_no_meaning_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(['preview', '--weights', 'test_vit.fractal1_1k', '--sweep', 'delta'])
    assert 'cannot be combined with --weights' in capsys.readouterr().err
