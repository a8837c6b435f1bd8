"""Balls: the three things an attack asks of a norm."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from vfd_tf import noise


@dataclasses.dataclass(frozen=True)
class Ball:
    """A norm ball of images [n, ...].

    `size(delta)`: its norm, and `dual(gradient)`: the dual norm, [n, ...] -> [n, 1, ...];
    `project(x, x_adv, epsilon)`: nearest point of the ball around x;
    `direction(gradient)`: the unit step of steepest ascent;
    `sample(seeds, shape, epsilon, dtype)`: a random perturbation of each example;
    `edge(seeds, shape, epsilon, dtype)`: one whose norm is epsilon;
    `rate(gradient)`: how fast each entry grows in the smallest step across a plane.
    """

    size: Callable
    dual: Callable
    project: Callable
    direction: Callable
    sample: Callable
    edge: Callable
    rate: Callable


def l2_norm(delta):
    """||delta||_2 of each example, kept broadcastable: [n, ...] -> [n, 1, ...]."""
    parts, largest = _scaled(delta)
    return largest * _root(parts)


def _scaled(delta):
    """Each example in units of its largest entry, and that: squares stay in range."""
    largest = linf_norm(delta)
    return tf.math.divide_no_nan(delta, largest), largest


def _root(delta):
    axes = list(range(1, delta.shape.rank))
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=axes, keepdims=True))


def linf_norm(delta):
    """||delta||_inf of each example, kept broadcastable: [n, ...] -> [n, 1, ...]."""
    return tf.reduce_max(tf.abs(delta), list(range(1, delta.shape.rank)), keepdims=True)


def l1_norm(delta):
    """||delta||_1 of each example, kept broadcastable: [n, ...] -> [n, 1, ...]."""
    return tf.reduce_sum(tf.abs(delta), list(range(1, delta.shape.rank)), keepdims=True)


def _linf_project(x, x_adv, epsilon):
    return tf.clip_by_value(x_adv, x - epsilon, x + epsilon)


def _linf_sample(seeds, shape, epsilon, dtype):
    return noise.uniform(seeds, shape, -epsilon, epsilon, dtype)


def _linf_edge(seeds, shape, epsilon, dtype):
    u = noise.uniform(seeds, shape, -1.0, 1.0, dtype)
    return u / tf.maximum(linf_norm(u), 1e-12) * epsilon


def _l2_project(x, x_adv, epsilon):
    delta = x_adv - x
    length = tf.maximum(l2_norm(delta), 1e-12)
    return x + delta * tf.minimum(tf.cast(1.0, delta.dtype), epsilon / length)


def _l2_direction(gradient):
    parts, _ = _scaled(gradient)
    return tf.math.divide_no_nan(parts, _root(parts))


def _l2_sample(seeds, shape, epsilon, dtype):
    """A uniform direction and a uniform radius, as in Rice et al. 2020."""
    direction = _l2_direction(noise.normal(seeds, shape, dtype))
    radius = noise.uniform(noise.fork(seeds, 0), [1] * len(shape), dtype=dtype)
    return direction * radius * epsilon


def _l2_edge(seeds, shape, epsilon, dtype):
    return _l2_direction(noise.normal(seeds, shape, dtype)) * epsilon


BALLS = {
    "linf": Ball(
        size=linf_norm,
        dual=l1_norm,
        project=_linf_project,
        direction=tf.sign,
        sample=_linf_sample,
        edge=_linf_edge,
        rate=tf.ones_like,
    ),
    "l2": Ball(
        size=l2_norm,
        dual=l2_norm,
        project=_l2_project,
        direction=_l2_direction,
        sample=_l2_sample,
        edge=_l2_edge,
        rate=tf.abs,
    ),
}
