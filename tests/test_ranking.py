"""The score of a base fractal: its components, and its output on the console."""

import numpy as np
import pytest

from timm_fractal import cli
from timm_fractal.data import create, ranking
from timm_fractal.spec import parse_name

# By transfer results, 20, 9 and 3 are among the five best of 40 seeds, 18 and 24 among the five worst.
GOOD, BAD = (20, 9, 3), (18, 24)


@pytest.mark.slow
def test_good_and_bad_fractals_are_told_apart():
    scores = {seed: quality.score for seed, quality in ranking.rank(parse_name('fractal1'), (*GOOD, *BAD))}
    assert min(scores[seed] for seed in GOOD) > 0.5 and max(scores[seed] for seed in BAD) < -3


def test_overlap_is_that_of_the_images():
    """Pair by pair, with the images of the data set."""
    dataset = create('fractal1/seed=20,classes=100,delta=0.2,points=20000,size=96,patch=fill')
    shapes = [np.asarray(image) > 0 for image in dataset.images(range(100), 'L')]
    found = [(a & b).sum() / (a | b).sum() for i, a in enumerate(shapes) for b in shapes[:i]]
    quality = ranking.measure(parse_name('fractal1/seed=20'))
    assert quality.overlap == pytest.approx(np.mean(found), rel=1e-5) and 0.28 < quality.contrast < 0.3


def test_contrast_of_stripes_and_of_flat_images():
    columns = np.tile(np.repeat(np.array([0, 127], np.uint8), 12), (96, 4))
    assert ranking._contrast(np.full((96, 96), 127, np.uint8), 0) == 0 < 0.2 < ranking._contrast(columns, 0) <= 0.5


def test_other_options_of_the_data_set_do_not_count():
    one, other = (
        ranking.measure(parse_name(f'fractal1/seed=3{more}')) for more in ('', ',delta=0.05,classes=7,size=224')
    )
    assert one == other != ranking.measure(parse_name('fractal1/seed=3,sigma=3.2'))


@pytest.mark.parametrize('name', ['fractal1/fractals=2', 'ofdb', 'noise1'])
def test_only_one_fractal_has_a_score(name):
    with pytest.raises(ValueError, match='one base fractal.*got ' + name.partition('/')[0]):
        ranking.measure(parse_name(name))


def test_ranking_on_the_console(capsys):
    assert cli.main(['doctor', '--dataset', 'fractal1/delta=0.2', '--seeds', '14:17']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ['seed', '20', '14', '15', '16']
    assert lines[5] == 'seed=20 of fractal1/delta=0.2 ranks 1 of 4' and 'Spearman' in lines[6]


def test_a_seed_without_a_fractal_is_named(capsys, monkeypatch):
    found = {1: ranking.Quality(0.4, 0.3), 20: ranking.Quality(0.5, 0.3), 2: None}
    monkeypatch.setattr(ranking, 'rank', lambda spec, seeds: [(seed, found[seed]) for seed in seeds])
    assert cli.main(['doctor', '--seeds', '1:3']) == 0
    assert 'no fractal found for 1 of the seeds: 2' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--seeds', '5'], "must be FIRST:END such as 0:100, got '5'"),
        (['--seeds', '5:5'], 'must be 1 to 10,000 seeds'),
        (['--seeds', '-1:5'], '--seeds'),
        (['--seeds', '0:5', '--dataset', 'ofdb'], 'ranks data sets with one base fractal, such as fractal1, got ofdb'),
        (['--seeds', '0:5', '--dataset', 'fractal1', '--data-dir', 'base.csv'], 'a fractal from a file has no seed'),
    ],
)
def test_wrong_uses(arguments, message, capsys):
    try:
        code = cli.main(['doctor', *arguments])
    except SystemExit as error:
        code = error.code
    assert code != 0 and message in capsys.readouterr().err
