import dataclasses

import pytest

from timm_fractal.spec import SPECS, VIEWS, WARPS, Fractal1Spec, parse_name


def test_plain_name_is_the_papers_data_set():
    assert dataclasses.asdict(parse_name('fractal1')) == dict(
        classes=1000,
        delta=0.1,
        sigma=3.5,
        maps=2,
        points=100_000,
        size=512,
        patch='random',
        perturb='multiply',
        fractals=1,
        seed=20,
        instances=1,
        cache='auto',
        loader='auto',
        redraw='false',
    )


def test_canonical_name_has_what_differs_in_a_fixed_order():
    spec = parse_name('fractal1/seed=3,delta=5e-2, classes=21000,size=512')
    assert str(spec) == 'fractal1/classes=21000,delta=0.05,seed=3'
    assert parse_name(str(spec)) == spec
    assert str(parse_name('fractal1')) == 'fractal1'


def test_options_that_do_not_change_images_do_not_change_the_name():
    spec = parse_name('fractal1/cache=none,seed=3')
    assert str(spec) == 'fractal1/seed=3'
    assert spec.name() == 'fractal1/seed=3,cache=none'
    assert parse_name(spec.name()) == spec


def test_whole_numbers_are_numbers():
    assert str(Fractal1Spec(sigma=4)) == str(parse_name('fractal1/sigma=4')) == 'fractal1/sigma=4.0'


@pytest.mark.parametrize(
    'name, message',
    [
        ('fractal', r"unknown data set 'fractal'; did you mean 'fractal1'\?"),
        ('fractal1/detla=0.1', r"unknown option 'detla'; did you mean 'delta'\? Valid: classes, delta"),
        ('fractal1/', r"fractal1/: expected option=value .* got ''; options: classes, delta"),
        ('fractal1/delta', r"expected option=value .* got 'delta'"),
        ('fractal1/delta=', r"expected option=value .* got 'delta='"),
        ('fractal1/=3', r"expected option=value .* got '=3'"),
        ('fractal1/delta=0.1,', r"expected option=value .* got ''"),
        ('fractal1/delta=0.1,delta=0.1', "option 'delta' is given twice"),
        ('fractal1/delta=x', "delta must be a number, got 'x'"),
        ('fractal1/delta=nan', 'delta must be a finite number, got nan'),
        ('fractal1/delta=-0.1', 'delta must be at least 0, got -0.1'),
        ('fractal1/delta=1', 'delta must be less than 1, got 1.0'),
        ('fractal1/classes=1', 'classes must be at least 2, got 1'),
        ('fractal1/classes=1e3', "classes must be an integer, got '1e3'"),
        ('fractal1/maps=1', 'maps must be at least 2, got 1'),
        ('fractal1/size=15', 'size must be at least 16, got 15'),
        ('fractal1/points=0', 'points must be at least 1, got 0'),
        ('fractal1/sigma=0', 'sigma must be greater than 0, got 0.0'),
        ('fractal1/sigma=6', r'sigma must be less than 3 \* maps = 6, got 6.0'),
        ('fractal1/instances=0', 'instances must be at least 1, got 0'),
        ('fractal1/seed=-1', 'seed must be at least 0, got -1'),
        ('fractal1/patch=ful', r"unknown patch 'ful'; did you mean 'fill'\? Valid: random, fill, point"),
        ('fractal1/perturb=plus', r"unknown perturb 'plus'; Valid: multiply, add"),
    ],
)
def test_bad_names_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        parse_name(name)


def test_wrong_type_is_explained():
    with pytest.raises(TypeError, match="fractal1: classes must be an integer, got '10'"):
        Fractal1Spec(classes='10')


def test_names_as_timm_takes_them():
    assert parse_name('torch/Fractal1/Classes=20') == parse_name('fractal1/classes=20')


def test_a_name_of_five_megabytes_is_not_echoed():
    for name in ('x' * 5_000_000, 'fractal1/' + 'x' * 5_000_000, 'fractal1/seed=' + '9' * 5_000_000):
        with pytest.raises(ValueError, match='at most 1000 characters, got 5') as error:
            parse_name(name)
        assert len(str(error.value)) < 200


def test_warps_and_views_are_those_of_shape():
    from timm_fractal import shape

    assert (tuple(shape.WARPS), tuple(shape.VIEWS)) == (WARPS, VIEWS)


@pytest.mark.parametrize('kind', [kind for kind in SPECS.built_in.values()], ids=list(SPECS.built_in))
def test_names_lose_nothing(kind):
    """Every option at a value of maximum length."""
    long = {'delta': 0.12345678901234567, 'sigma': 3.4567890123456789, 'seed': 2**32 - 1, 'classes': 999_999}
    for field in dataclasses.fields(kind):
        for value in field.metadata['choices'] or [long.get(field.name, field.default)]:
            extra = {'atoms': 1} if field.name == 'delta' and kind.type == 'visualatom' else {}
            extra |= {'loader': 'device'} if field.name == 'redraw' else {}
            spec = kind(**{field.name: value} | extra)
            assert parse_name(spec.name()) == spec
