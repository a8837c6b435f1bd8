"""FGSM and PGD agree with a second implementation, cleverhans."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from vfd_tf import attacks

THREATS = {"linf": (np.inf, 0.1), "l2": (2, 1.0)}
norms = pytest.mark.parametrize("norm", THREATS)


@functools.cache
def network():
    """A small network with random weights: image -> logits."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="tanh"),
            keras.layers.Conv2D(8, 3, strides=2, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def batch(norm):
    """Images and labels, as far from 0 and 1 as the norm needs."""
    generator = np.random.default_rng(1)
    # In L2 cleverhans clips to [0, 1] before it projects and we after: the same only
    # where the box doesn't matter. In L-inf the order makes no difference.
    low, high = {"linf": (0.0, 1.0), "l2": (0.4, 0.6)}[norm]
    x = generator.uniform(low, high, (16, 8, 8, 3)).astype("float32")
    return tf.constant(x), tf.constant(generator.integers(0, 10, 16))


def assert_within(x, x_adv, norm, epsilon):
    delta = (x_adv - x).numpy().reshape(len(x), -1)
    size = np.linalg.norm(delta, THREATS[norm][0], axis=1)
    np.testing.assert_allclose(size, epsilon, 1e-4)


@norms
def test_fgsm_is_that_of_cleverhans(norm):
    order, epsilon = THREATS[norm]
    x, y = batch(norm)
    ours = attacks.FGSM(epsilon, norm)(network(), x, attacks.cross_entropy(y))
    theirs = fast_gradient_method(
        network(), x, epsilon, order, clip_min=0.0, clip_max=1.0, y=y
    )
    assert_within(x, ours, norm, epsilon)
    np.testing.assert_allclose(ours, theirs, 0, 1e-5)


@norms
def test_pgd_is_that_of_cleverhans(norm):
    order, epsilon = THREATS[norm]
    x, y = batch(norm)
    attack = attacks.PGD(epsilon, epsilon / 4, steps=10, norm=norm, random_start=False)
    ours = attack(network(), x, attacks.cross_entropy(y))
    theirs = projected_gradient_descent(
        network(), x, epsilon, epsilon / 4, 10, order, clip_min=0.0, clip_max=1.0, y=y
    )
    assert_within(x, ours, norm, epsilon)
    np.testing.assert_allclose(ours, theirs, 0, 1e-5)
