import json
import math
import random
import re

import numpy as np
import pytest

from timm_fractal import IFSCodes
from timm_fractal.fractal import ifs

from . import oracle


class Replay(random.Random):
    """A random.Random that replays a numpy generator, so that the oracle samples the same numbers as the package."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        super().__init__()

    def random(self) -> float:
        return float(self.rng.random())


def plain_singular_values(n, sigma, rng):
    """Sample singular values as in section 3.2 of "Improving Fractal Pre-training", independently of the package."""
    p, q, values = sigma, sigma - 3 * n + 3, []
    for _ in range(n - 1):
        s1 = oracle.uniform(rng, max(0, q / 3), min(1, p))
        p, q = p - s1, q - s1
        s2 = oracle.uniform(rng, max(0, q / 2), min(s1, p / 2))
        p, q = p - 2 * s2, q - 2 * s2 + 3
        values.append((s1, s2))
    s2 = oracle.uniform(rng, max(0, (p - 1) / 2), p / 3)
    return [*values, (p - 2 * s2, s2)]


def plain_sample(n, sigma, rng):
    signs = [[math.copysign(1, rng.random() - 0.5) for _ in range(2)] for _ in range(2 * n)]
    angles = [oracle.uniform(rng, -math.pi, math.pi) for _ in range(2 * n)]
    values = plain_singular_values(n, oracle.uniform(rng, sigma - 0.1, sigma + 0.1), rng)
    # Sign k multiplies column k of the rotation.
    turns = [
        [[math.cos(a) * s0, -math.sin(a) * s1], [math.sin(a) * s0, math.cos(a) * s1]]
        for a, (s0, s1) in zip(angles, signs)
    ]
    system = []
    for j in range(n):
        u, v, s = turns[j], turns[n + j], values[j]
        linear = [[sum(u[r][k] * s[k] * v[k][c] for k in range(2)) for c in range(2)] for r in range(2)]
        system.append(linear)
    shifts = [[oracle.uniform(rng, -1, 1) for _ in range(2)] for _ in range(n)]
    return [[[*row, b] for row, b in zip(linear, shift)] for linear, shift in zip(system, shifts)]


@pytest.mark.parametrize('maps', [2, 3, 7])
@pytest.mark.parametrize('share', [0.01, 0.3, 0.6, 0.99])
def test_singular_values_keep_their_constraints(maps, share):
    sigma = 3 * maps * share
    for seed in range(50):
        values = ifs.sample_singular_values(maps, sigma, np.random.default_rng(seed))
        assert values.shape == (maps, 2)
        assert values.min() >= -1e-12 and values.max() <= 1 + 1e-12
        assert (values[:, 0] >= values[:, 1] - 1e-12).all()
        assert (values @ [1, 2]).sum() == pytest.approx(sigma)


@pytest.mark.parametrize('maps, sigma', [(2, 3.5), (2, 5.0), (3, 4.0), (5, 9.0)])
def test_sample_follows_the_written_procedure(maps, sigma):
    for seed in range(20):
        system = ifs.sample(maps, sigma, np.random.default_rng(seed))
        np.testing.assert_allclose(system, plain_sample(maps, sigma, Replay(seed)), rtol=0, atol=1e-14)


def test_sample_has_the_sigma_factor_and_the_translations():
    factors, shifts = [], []
    for seed in range(400):
        system = ifs.sample(2, 3.5, np.random.default_rng(seed))
        factors.append((np.linalg.svd(system[:, :, :2])[1] @ [1, 2]).sum())
        shifts.append(system[:, :, 2])
    assert 3.4 <= min(factors) < 3.42 and 3.58 < max(factors) <= 3.6
    assert np.abs(shifts).max() <= 1 and abs(np.mean(shifts)) < 0.05


@pytest.mark.parametrize('sigma', [0.05, 5.95])
def test_sigma_margin_is_cut_at_the_ends_of_the_range(sigma):
    for seed in range(50):
        values = np.linalg.svd(ifs.sample(2, sigma, np.random.default_rng(seed))[:, :, :2])[1]
        assert 0 < (values @ [1, 2]).sum() < 6


def test_probabilities_are_the_shares_of_the_areas():
    system = np.array([[[0.5, 0.1, 0], [0.2, 0.4, 0]], [[0.0, -0.6, 1], [0.5, 0.0, 1]]])
    np.testing.assert_allclose(ifs.probabilities(system), [0.18 / 0.48, 0.3 / 0.48])
    np.testing.assert_array_equal(ifs.probabilities(np.zeros((4, 2, 3))), [0.25] * 4)


def test_perturbation_multiplies_every_parameter_by_its_own_factor():
    system = ifs.sample(2, 3.5, np.random.default_rng(0))
    factors = np.stack([ifs.perturb(system, 0.1, np.random.default_rng(seed)) for seed in range(500)]) / system
    assert factors.min() >= 0.9 and factors.max() <= 1.1
    assert np.all(factors.reshape(500, -1).std(0) > 0.05)  # 0.2 / sqrt(12) = 0.058
    correlation = np.corrcoef(factors.reshape(500, -1).T)
    assert np.abs(correlation - np.eye(12)).max() < 0.2


def test_perturbation_can_add():
    system = ifs.sample(2, 3.5, np.random.default_rng(0))
    shifts = np.stack([ifs.perturb(system, 0.1, np.random.default_rng(seed), 'add') for seed in range(500)]) - system
    assert -0.05 <= shifts.min() < -0.045 and 0.045 < shifts.max() <= 0.05


@pytest.mark.parametrize('mode', ['multiply', 'add'])
def test_no_perturbation_changes_nothing(mode):
    system = ifs.sample(2, 3.5, np.random.default_rng(0))
    np.testing.assert_array_equal(ifs.perturb(system, 0, np.random.default_rng(1), mode), system)


def test_addresses_are_the_references():
    """The reference seeds numpy's global generator with 100 and takes the first map with r <= cumulative p."""
    probs = np.array([0.2, 0.5, 0.3])
    draws = np.random.RandomState(100).random_sample(1000)
    plain = [next(j for j in range(3) if r <= sum(probs[: j + 1])) for r in draws[:-1]]
    np.testing.assert_array_equal(ifs.addresses(probs, 1000), plain)
    assert len(ifs.addresses(probs, 1)) == 0


def test_addresses_survive_probabilities_that_round_below_one():
    sequence = ifs.addresses(np.array([0.5, 0.4]), 1000)
    assert set(sequence.tolist()) == {0, 1}


def test_family_is_saved_and_loaded_bit_for_bit(tmp_path):
    base = ifs.sample(3, 4.0, np.random.default_rng(0))
    systems = np.stack([ifs.perturb(base, 0.1, np.random.default_rng(k)) for k in range(5)])
    IFSCodes('fractal1/classes=5,maps=3,sigma=4.0', base[None], systems).save(tmp_path / 'codes.json')
    loaded = IFSCodes.load(tmp_path / 'codes.json')
    assert loaded.name == 'fractal1/classes=5,maps=3,sigma=4.0'
    assert loaded.bases.tobytes() == base.tobytes() and loaded.systems.tobytes() == systems.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ['codes.json']


def damaged():
    good = {'dataset': 'fractal1', 'bases': np.zeros((1, 2, 2, 3)).tolist(), 'systems': np.zeros((4, 2, 2, 3)).tolist()}
    yield 'cut', json.dumps(good)[:-20]
    yield 'empty', ''
    yield 'binary', '\x00\x93'
    yield 'list', '[1, 2]'
    yield 'key', json.dumps({key: good[key] for key in ('dataset', 'bases')})
    yield 'ragged', json.dumps(good | {'bases': [[[[1, 2, 3], [1, 2]]]]})
    yield 'shape', json.dumps(good | {'systems': np.zeros((4, 3, 2, 3)).tolist()})
    yield 'infinite', json.dumps(good | {'systems': np.full((4, 2, 2, 3), np.inf).tolist()})
    yield 'maps', json.dumps(good | {key: np.zeros((1, 257, 2, 3)).tolist() for key in ('bases', 'systems')})
    yield 'name', json.dumps(good | {'dataset': 3})


@pytest.mark.parametrize('text', [pytest.param(text, id=name) for name, text in damaged()])
def test_damaged_files_are_refused(tmp_path, text):
    path = tmp_path / 'codes.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        IFSCodes.load(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError):
        IFSCodes.load('no/such/file.json')


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    codes = IFSCodes('fractal1', np.zeros((1, 2, 2, 3)), np.zeros((4, 2, 2, 3)))
    codes.save(tmp_path / 'codes.json')
    before = (tmp_path / 'codes.json').read_bytes()
    monkeypatch.setattr('pathlib.Path.write_text', lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, 'full')))
    with pytest.raises(OSError, match='full'):
        codes.save(tmp_path / 'codes.json')
    assert (tmp_path / 'codes.json').read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['codes.json']
