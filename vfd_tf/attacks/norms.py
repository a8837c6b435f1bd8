"""Balls: the three things an attack asks of a norm."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from vfd_tf import noise


@dataclasses.dataclass(frozen=True)
class Ball:
    """A norm ball of images [n, ...].

    `project(x, x_adv, epsilon)`: nearest point of the ball around x;
    `direction(gradient)`: the unit step of steepest ascent;
    `sample(seeds, shape, epsilon, dtype)`: a random perturbation of each example.
    """

    project: Callable
    direction: Callable
    sample: Callable


def l2_norm(delta):
    """||delta||_2 of each example, kept broadcastable: [n, ...] -> [n, 1, ...]."""
    axes = list(range(1, delta.shape.rank))
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=axes, keepdims=True))


def _linf_project(x, x_adv, epsilon):
    return tf.clip_by_value(x_adv, x - epsilon, x + epsilon)


def _linf_sample(seeds, shape, epsilon, dtype):
    return noise.uniform(seeds, shape, -epsilon, epsilon, dtype)


def _l2_project(x, x_adv, epsilon):
    delta = x_adv - x
    length = tf.maximum(l2_norm(delta), 1e-12)
    return x + delta * tf.minimum(tf.cast(1.0, delta.dtype), epsilon / length)


def _l2_direction(gradient):
    return gradient / tf.maximum(l2_norm(gradient), 1e-12)


def _l2_sample(seeds, shape, epsilon, dtype):
    """A uniform direction and a uniform radius, as in Rice et al. 2020."""
    direction = _l2_direction(noise.normal(seeds, shape, dtype))
    radius = noise.uniform(noise.fork(seeds, 0), [1] * len(shape), dtype=dtype)
    return direction * radius * epsilon


BALLS = {
    "linf": Ball(_linf_project, tf.sign, _linf_sample),
    "l2": Ball(_l2_project, _l2_direction, _l2_sample),
}
