"""Random draws that are pure functions of (seed, step, position), per example.

Every example carries its own 64-bit seed, so what is drawn for it depends neither on the
batch it stands in, nor on its order, nor on the number of replicas, and nothing about
randomness needs saving. The bits come from a counter hash in integer arithmetic, which
gives the same numbers eagerly, in a graph and under XLA; `tf.random.stateless_*` takes
one seed a batch and draws other numbers under XLA than outside.
"""

import math

import tensorflow as tf

_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads consecutive counters


def _constant(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)


def _mix(word: tf.Tensor) -> tf.Tensor:
    """A bijection of 32-bit words that flips every output bit with probability 1/2."""
    shift, xor = tf.bitwise.right_shift, tf.bitwise.bitwise_xor
    word = xor(word, shift(word, _constant(16))) * _constant(0x21F0AAAD)
    word = xor(word, shift(word, _constant(15))) * _constant(0x735A2D97)
    return xor(word, shift(word, _constant(15)))


def _word(value) -> tf.Tensor:
    """The lower 32 bits of integers, as unsigned words."""
    value = tf.convert_to_tensor(value)
    if value.dtype == tf.uint32:
        return value
    if value.dtype == tf.int32:
        return tf.bitcast(value, tf.uint32)
    low = tf.bitwise.bitwise_and(tf.cast(value, tf.int64), 0xFFFFFFFF)
    return tf.cast(low, tf.uint32)


def example_seeds(seed, step, position) -> tf.Tensor:
    """Seeds of the examples at `position` of the global batch of `step`: [n] -> [n, 2]."""
    run = _mix(_mix(_word(seed) + _constant(_GOLDEN)) + _word(step))
    position = _word(position) * _constant(_GOLDEN)
    first = _mix(position + run)
    second = _mix(first + _mix(run + _constant(1)) + position)
    return tf.stack([first, second], axis=-1)


def or_positions(seeds, x) -> tf.Tensor:
    """`seeds`, or where there are none those of the positions 0, 1, ... in batch `x`."""
    if seeds is None:
        return example_seeds(0, 0, tf.range(tf.shape(x)[0]))
    return seeds


def fork(seeds: tf.Tensor, stream) -> tf.Tensor:
    """Independent seeds for another use of the same examples: [n, 2] -> [n, 2].

    `stream` is an integer, or a tensor of one.
    """
    seeds = _word(seeds)
    first = _mix(seeds[:, 0] + _word(stream) + _constant(1))
    return tf.stack([first, _mix(seeds[:, 1])], axis=-1)


def _bits(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """[n, 2] seeds -> [n, count] independent 32-bit words."""
    seeds = _word(seeds)
    counter = tf.cast(tf.range(count), tf.uint32) * _constant(_GOLDEN)
    words = _mix(counter[None] + seeds[:, :1])
    return _mix(words + seeds[:, 1:])


def uniform(seeds, shape, minval=0.0, maxval=1.0, dtype=tf.float32) -> tf.Tensor:
    """U[minval, maxval] of `shape` for each example: [n, 2] seeds -> [n, *shape]."""
    word = tf.bitwise.right_shift(_bits(seeds, math.prod(shape)), _constant(8))
    unit = tf.cast(word, dtype) * tf.constant(2.0**-24, dtype)
    unit = tf.reshape(unit, [-1, *shape])
    return minval + (maxval - minval) * unit


def normal(seeds, shape, dtype=tf.float32) -> tf.Tensor:
    """N(0, 1) of `shape` for each example, within +-5.3: [n, 2] seeds -> [n, *shape]."""
    word = tf.bitwise.right_shift(_bits(seeds, math.prod(shape)), _constant(9))
    # 23 bits, so that adding a half is exact in float32 and neither 0 nor 1 is reached.
    unit = (tf.cast(word, dtype) + 0.5) * tf.constant(2.0**-23, dtype)
    return tf.math.ndtri(tf.reshape(unit, [-1, *shape]))


def integers(seeds, shape, stop) -> tf.Tensor:
    """Integers of {0, ..., stop - 1}, uniform, for each example: [n, *shape] int32."""
    return tf.cast(uniform(seeds, shape) * tf.cast(stop, tf.float32), tf.int32)
