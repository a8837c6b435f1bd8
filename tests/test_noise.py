"""Laws of the noise: pure functions of (seed, step, position), uniform and independent."""

import itertools

import numpy as np
import pytest
from scipy import stats

from vfd_tf import noise

# isort: split

import tensorflow as tf

DRAWS = {
    "uniform": lambda seeds: noise.uniform(seeds, [4, 3]),
    "uniform between": lambda seeds: noise.uniform(seeds, [4, 3], -0.25, 0.5),
    "normal": lambda seeds: noise.normal(seeds, [4, 3]),
    "integers": lambda seeds: noise.integers(seeds, [4, 3], 9),
    "float64": lambda seeds: noise.uniform(seeds, [4, 3], dtype=tf.float64),
}
KEYS = {
    "seed": lambda a, n: noise.example_seeds(a, 7, tf.range(n)),
    "step": lambda a, n: noise.example_seeds(7, a, tf.range(n)),
    "position": lambda a, n: noise.example_seeds(7, 7, a * n + tf.range(n)),
    "stream": lambda a, n: noise.fork(noise.example_seeds(7, 7, tf.range(n)), a),
    "seed and step": lambda a, n: noise.example_seeds(a, 1000 - a, tf.range(n)),
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))


def _correlation(a, b):
    return abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@draws
def test_a_draw_depends_on_seed_step_and_position_alone(draw):
    whole = draw(noise.example_seeds(3, 5, tf.range(64))).numpy()
    for positions in ([0], [63, 0, 17], list(range(10, 40)), [5, 5]):
        part = draw(noise.example_seeds(3, 5, tf.constant(positions)))
        np.testing.assert_array_equal(part, whole[positions])


@draws
def test_draws_are_equal_eagerly_in_a_graph_and_under_xla(draw):
    def of_step(step):
        return draw(noise.example_seeds(3, step, tf.range(16)))

    step = tf.constant(5, tf.int64)
    eager = of_step(step).numpy()
    graph = tf.function(of_step)(step).numpy()
    compiled = tf.function(of_step, jit_compile=True)(step).numpy()
    np.testing.assert_array_equal(graph, eager)
    # The bits are the same; ndtri's last digits are the compiler's.
    np.testing.assert_allclose(compiled, eager, rtol=2e-6, atol=2e-7)


def test_seeds_and_uniform_bits_are_the_same_under_xla():
    def bits(seed):
        return noise.uniform(noise.fork(noise.example_seeds(seed, 1, [2, 3]), 4), [99])

    compiled = tf.function(bits, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(11)), bits(tf.constant(11)))


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_different_keys_give_uncorrelated_draws(key):
    count, size = 64, 100
    samples = [noise.uniform(key(a, count), [size]).numpy() for a in range(6)]
    bound = 5 / np.sqrt(count * size)
    for a, b in itertools.combinations(samples, 2):
        assert _correlation(a, b) < bound
        assert _correlation(a[1:], b[:-1]) < 5 / np.sqrt((count - 1) * size)


def test_a_fork_is_uncorrelated_with_its_parent():
    seeds = noise.example_seeds(0, 0, tf.range(64))
    parent = noise.uniform(seeds, [100])
    for stream in (0, 1, 2, 0xA06):
        child = noise.uniform(noise.fork(seeds, stream), [100])
        assert _correlation(parent, child) < 5 / np.sqrt(6400)


def test_examples_and_pixels_are_uncorrelated():
    sample = noise.uniform(noise.example_seeds(1, 1, tf.range(2000)), [40]).numpy()
    # Columns are pixels and rows are examples.
    for variables in (sample.T, sample[:40]):
        off = np.abs(np.corrcoef(variables)[~np.eye(40, dtype=bool)])
        assert off.max() < 6 / np.sqrt(variables.shape[1])


def test_seeds_of_a_long_run_do_not_collide():
    seeds = np.concatenate(
        [noise.example_seeds(0, step, tf.range(512)).numpy() for step in range(200)]
    )
    assert len(np.unique(seeds, axis=0)) == len(seeds)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-0.1, 0.3)])
def test_uniform_draws_are_uniform(dtype, low, high):
    seeds = noise.example_seeds(2, 3, tf.range(500))
    sample = noise.uniform(seeds, [10, 10, 2], low, high, dtype)
    assert sample.dtype == dtype
    assert sample.shape == (500, 10, 10, 2)
    sample = np.ravel(sample)
    assert sample.min() >= low
    # In float32 the last value below `high` may round up to it.
    assert sample.max() <= np.asarray(high, dtype.as_numpy_dtype)
    unit = (sample - low) / (high - low)
    assert stats.kstest(unit, "uniform").statistic < 2 / np.sqrt(len(unit))
    assert unit.mean() == pytest.approx(1 / 2, abs=5 * np.sqrt(1 / 12 / len(unit)))
    assert unit.var() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_normal_draws_have_the_moments_of_a_gaussian(dtype):
    seeds = noise.example_seeds(2, 3, tf.range(500))
    sample = noise.normal(seeds, [20, 10], dtype)
    assert sample.dtype == dtype
    sample = np.ravel(sample).astype("float64")
    n = len(sample)
    assert sample.mean() == pytest.approx(0, abs=5 / np.sqrt(n))
    assert sample.var() == pytest.approx(1, abs=5 * np.sqrt(2 / n))
    assert stats.skew(sample) == pytest.approx(0, abs=5 * np.sqrt(6 / n))
    assert stats.kurtosis(sample) == pytest.approx(0, abs=5 * np.sqrt(24 / n))
    assert stats.kstest(sample, "norm").statistic < 2 / np.sqrt(n)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_normal_draws_stay_within_the_promised_bound(dtype):
    for step in range(10):
        sample = noise.normal(noise.example_seeds(0, step, tf.range(2048)), [3072], dtype)
        assert float(tf.reduce_max(tf.abs(sample))) < 5.4


@pytest.mark.parametrize("stop", [1, 2, 3, 9, 256])
def test_integers_cover_their_range_uniformly(stop):
    sample = noise.integers(noise.example_seeds(0, 0, tf.range(400)), [100], stop)
    assert sample.dtype == tf.int32
    counts = np.bincount(np.ravel(sample), minlength=stop)
    assert len(counts) == stop
    if stop > 1:
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_integer_types_of_seed_step_and_position_agree(value):
    types = [np.uint32, np.int64, np.uint64, *([np.int32] if value < 2**31 else [])]
    for i in range(3):
        key = [5, 6, np.array([7])]
        seeds = []
        for kind in types:
            key[i] = np.array([value] if i == 2 else value, kind)
            seeds.append(noise.example_seeds(*key).numpy())
        for other in seeds[1:]:
            np.testing.assert_array_equal(other, seeds[0])


@draws
def test_int32_and_uint32_seeds_agree(draw):
    seeds = noise.example_seeds(1, 2, tf.range(50))
    assert seeds.dtype == tf.uint32
    signed = tf.bitcast(seeds, tf.int32)
    assert (signed.numpy() < 0).any()
    np.testing.assert_array_equal(draw(signed), draw(seeds))
    np.testing.assert_array_equal(draw(noise.fork(signed, 3)), draw(noise.fork(seeds, 3)))


def test_negative_seeds_are_their_lower_bits():
    np.testing.assert_array_equal(
        noise.example_seeds(-1, 0, [0]), noise.example_seeds(2**32 - 1, 0, [0])
    )
