import os
import subprocess
import sys

import numpy as np
import pytest

from timm_fractal.fractal import ifs
from timm_fractal.fractal.canvas import GRAY, row_bytes, unpack
from timm_fractal.fractal.render import LANES, render

from . import oracle

BACKENDS = ('numba', 'torch')
PATCHES = ('random', 'fill', 'point')


def example(count=5, points=3000, seed=0, maps=2, sigma=3.5, delta=0.1):
    rng = np.random.default_rng(seed)
    base = ifs.sample(maps, sigma, rng)
    systems = np.stack([ifs.perturb(base, delta, rng) for _ in range(count)])
    keys = rng.integers(0, 2**32, (count, 2), dtype=np.uint32)
    return systems, ifs.addresses(ifs.probabilities(base), points), keys


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('patch', PATCHES)
@pytest.mark.parametrize(
    'size, points, seed, maps, sigma',
    [
        (64, 3000, 0, 2, 3.5),
        (100, 3000, 1, 2, 3.5),
        (130, 5000, 2, 3, 5.0),
        (16, 40, 3, 2, 4.0),
        (512, 20000, 15, 2, 3.5),
        (17, 1, 0, 2, 3.5),
        (33, 2, 0, 2, 3.5),
        (96, 257, 4, 5, 7.0),
    ],
)
def test_images_are_those_of_the_oracle(backend, patch, size, points, seed, maps, sigma):
    systems, addresses, keys = example(3, points, seed, maps, sigma)
    images = unpack(render(systems, addresses, keys, size, patch, backend=backend).bits, size)
    for k, image in enumerate(images):
        expected = oracle.draw(systems[k], addresses, keys[k], size, patch)
        assert np.array_equal(image, expected), f'{np.sum(image != np.array(expected))} pixels differ'


@pytest.mark.slow
@pytest.mark.parametrize('patch', PATCHES)
def test_back_ends_agree_on_the_papers_settings(patch):
    systems, addresses, keys = example(8, 100_000, 15)
    numba, torch = (render(systems, addresses, keys, patch=patch, backend=backend) for backend in BACKENDS)
    assert np.array_equal(numba.bits, torch.bits)
    assert np.array_equal(numba.fill, torch.fill)


def test_full_patches_are_the_references_images():
    """The reference divides by the width before scaling: the same pixel, except for rounding of the last bit."""
    systems, addresses, keys = example(2, 100_000, 15)
    images = unpack(render(systems, addresses, keys, 512, 'fill').bits, 512)
    for system, image in zip(systems, images):
        points = np.array(oracle.trajectory(system, addresses))
        low, high = points.min(0), points.max(0)
        columns, rows = ((points - low) / (high - low) * 500.0 + 6.0).astype(np.uint16).T
        expected = np.zeros((512, 512), np.uint8)
        for i in range(1, 4):
            for j in range(1, 4):
                expected[rows + i, columns + j] = GRAY
        assert np.array_equal(image, expected[::-1])


@pytest.mark.parametrize('count', [1, LANES - 1, LANES, LANES + 1, 3 * LANES + 5])
def test_an_image_depends_on_nothing_beside_it(count):
    systems, addresses, keys = example(count)
    together = render(systems, addresses, keys, 64, threads=3).bits
    for k in (0, count // 2, count - 1):
        alone = render(systems[k : k + 1], addresses, keys[k : k + 1], 64, threads=1).bits
        assert np.array_equal(together[k], alone[0])


@pytest.mark.parametrize('backend', BACKENDS)
def test_divergence_is_noticed_and_stays_in_its_image(backend):
    systems, addresses, keys = example(6, 20_000)
    alone = render(systems, addresses, keys, 64, backend=backend)
    wild = systems.copy()
    wild[1] *= 3  # overflows to infinity, then to NaN
    wild[4, :, :, :2] = np.array([np.eye(2)] * 2)  # a random walk with a step of 1e6: stays finite
    wild[4, :, :, 2] = 1e6
    images = render(wild, addresses, keys, 64, backend=backend)
    assert np.flatnonzero(images.fill == 0).tolist() == [1, 4] and not images.bits[[1, 4]].any()
    others = [0, 2, 3, 5]
    assert np.array_equal(images.bits[others], alone.bits[others])


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_point_that_never_moves_is_one_patch(backend):
    systems = np.zeros((1, 2, 2, 3))
    images = render(systems, np.zeros(99, np.uint8), np.zeros((1, 2), np.uint32), 32, 'fill', backend=backend)
    expected = np.zeros((32, 32), np.uint8)
    expected[32 - 10 : 32 - 7, 7:10] = GRAY
    assert np.array_equal(unpack(images.bits, 32)[0], expected)
    assert images.fill[0] == 9 / 32**2


def own_sequences(maps, count, points=3000):
    """Return IFS with individual probabilities, their address sequences together and one by one, and keys."""
    rng = np.random.default_rng(maps)
    systems = np.stack([ifs.sample(maps, 1.75 * maps, rng) for _ in range(count)])
    systems[1::5] *= 3  # These diverge.
    probs = [ifs.probabilities(system) for system in systems]
    together = ifs.AddressSequences(ifs.draws(points, 7), np.stack([ifs.thresholds(p) for p in probs]))
    keys = rng.integers(0, 2**32, (count, 2), dtype=np.uint32)
    return systems, together, [ifs.addresses(p, points, 7) for p in probs], keys


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('patch', PATCHES)
@pytest.mark.parametrize('maps, count', [(2, LANES + 9), (3, 9), (7, LANES + 1)])
def test_images_with_address_sequences_of_their_own(backend, patch, maps, count):
    systems, together, paths, keys = own_sequences(maps, count)
    images = render(systems, together, keys, 64, patch, backend=backend, threads=2)
    for k, path in enumerate(paths):
        alone = render(systems[k : k + 1], path, keys[k : k + 1], 64, patch)
        assert np.array_equal(images.bits[k], alone.bits[0]), k
        assert images.fill[k] == alone.fill[0]
    assert (images.fill == 0).any() and images.fill.any()


def test_an_address_sequence_is_what_a_search_for_each_number_gives():
    for probs in ([0.5, 0.5], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6, 0.0], [1.0]):
        draws = np.random.RandomState(3).random_sample(1000)[:-1]
        first = [next((j for j, end in enumerate(np.cumsum(probs)) if draw <= end), 9) for draw in draws]
        assert ifs.addresses(np.array(probs), 1000, 3).tolist() == np.minimum(first, np.flatnonzero(probs)[-1]).tolist()


@pytest.mark.parametrize('patch', PATCHES)
@pytest.mark.parametrize('enough', [0.01, 0.05, 0.1, 0.2])
def test_enough_decides_as_whole_images_do(patch, enough):
    """Rendering stops early only for images that fill more; their pixels are a subset of the whole image."""
    systems, together, _, keys = own_sequences(2, 2 * LANES, 20_000)
    whole = render(systems, together, keys, 128, patch)
    judged = render(systems, together, keys, 128, patch, enough=enough)
    assert np.array_equal(judged.fill > enough, whole.fill > enough) and (judged.fill <= whole.fill).all()
    finished = whole.fill <= enough
    assert np.array_equal(judged.bits[finished], whole.bits[finished])
    assert not np.any(judged.bits & ~whole.bits) and (judged.fill < whole.fill).any()


def test_random_patches_are_fair_coins():
    """Inside the support each pixel is lit with probability 256/511, each of the 511 patches being equally likely."""
    systems, addresses, keys = example(40, 20_000)
    random, fill = (render(systems, addresses, keys, 128, patch) for patch in ('random', 'fill'))
    assert not np.any(random.bits & ~fill.bits)
    assert random.fill.sum() / fill.fill.sum() == pytest.approx(256 / 511, abs=0.005)
    counts = np.zeros(512, int)
    for index in range(51_100):
        pixels = oracle.patch((1, 2), index)
        counts[sum(pixels[i][j] << (3 * i + j) for i in range(3) for j in range(3))] += 1
    assert counts[0] == 0
    assert ((counts[1:] - 100) ** 2 / 100).sum() == pytest.approx(510, abs=5 * (2 * 510) ** 0.5)


def test_keys_change_patches_and_nothing_else():
    systems, addresses, keys = example(1)
    first, fill = render(systems, addresses, keys, 64)
    for bit in range(64):
        other = keys ^ np.array([[1 << bit & 0xFFFFFFFF, 1 << bit >> 32]], dtype=np.uint32)
        # About half of the support changes.
        assert np.mean(unpack(first, 64) != unpack(render(systems, addresses, other, 64).bits, 64)) > 0.6 * fill[0]
        full = [render(systems, addresses, k, 64, 'fill').bits for k in (keys, other)]
        assert np.array_equal(*full)


def test_draws_into_memory_that_it_is_given():
    systems, addresses, keys = example(4)
    memory = np.full((6, 64, row_bytes(64)), 255, np.uint8)
    images = render(systems, addresses, keys, 64, out=memory[1:5])
    assert images.bits.base is memory
    assert np.array_equal(memory[1:5], render(systems, addresses, keys, 64).bits)
    assert (memory[0] == 255).all() and (memory[5] == 255).all()


def test_unpack():
    bits = np.zeros((1, 20, row_bytes(20)), np.uint8)
    bits[0, 3, 1] = 0b101
    image = unpack(bits, 20)
    assert image.shape == (1, 20, 20) and image.dtype == np.uint8
    assert np.argwhere(image).tolist() == [[0, 3, 8], [0, 3, 10]] and image.max() == GRAY


@pytest.mark.slow
def test_torch_draws_where_numba_cannot_be_imported(tmp_path):
    (tmp_path / 'numba.py').write_text('raise ImportError("no numba for this Python")')
    script = (
        'import sys, logging; sys.path.insert(0, sys.argv[1]); logging.basicConfig()\n'
        'from timm_fractal import Fractal1\n'
        'import hashlib\n'
        'for _ in range(2): dataset = Fractal1("fractal1/classes=3,size=64,points=3000")\n'
        'print(hashlib.sha256(dataset[2][0].tobytes()).hexdigest())\n'
    )
    hashes, warnings = [], []
    for folder in (tmp_path, tmp_path / 'none'):
        run = subprocess.run([sys.executable, '-c', script, folder], capture_output=True, text=True, check=True)
        hashes.append(run.stdout)
        warnings.append(run.stderr.count("numba cannot be used (ImportError('no numba for this Python'))"))
    assert hashes[0] == hashes[1]
    assert warnings == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize('content', ['', 'raise RuntimeError("broken")', 'from ctypes import nothing'])
def test_torch_renders_where_numba_is_broken(tmp_path, content):
    (tmp_path / 'numba.py').write_text(content)
    script = (
        'import sys, logging; sys.path.insert(0, sys.argv[1]); logging.basicConfig()\n'
        'import numpy, PIL.Image\nfrom timm_fractal import Fractal1, RandomShape\n'
        'print(len(Fractal1("fractal1/classes=2,size=64,points=500")))\n'
        'print(RandomShape("affine")(PIL.Image.new("L", (32, 32))).size)\n'
    )
    run = subprocess.run([sys.executable, '-c', script, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == '2\n(32, 32)\n', run.stderr
    assert run.stderr.count('numba cannot be used') == 1


@pytest.mark.slow
def test_a_damaged_cache_is_compiled_anew(tmp_path):
    script = (
        'from timm_fractal import Fractal1; print(Fractal1("fractal1/classes=2,size=64,points=500").stored(0).sum())'
    )
    environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path)}
    runs = []
    for _ in range(2):
        runs.append(subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env=environment))
        for index in tmp_path.rglob('*.nbi'):
            index.write_bytes(b'')
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[0].stdout == runs[1].stdout and 'cannot be used' not in runs[0].stderr
    assert f'the compiled code in {tmp_path}' in runs[1].stderr and 'delete that folder' in runs[1].stderr


@pytest.mark.slow
def test_compiles_without_a_folder_for_the_cache(tmp_path):
    """As when installed read-only, for a user without a home folder."""
    script = (
        'from numba.core import caching\n'
        'caching.CacheImpl._locator_classes = []\n'
        'from timm_fractal import Fractal1\n'
        'print(Fractal1("fractal1/classes=2,size=32,points=500").stored(0).shape)\n'
    )
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert run.stdout == '(32, 8)\n'
