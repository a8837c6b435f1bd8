"""Attacks whose answer is known: linear classifiers, lengths of steps and of starts."""

import gradient_attacks
import numpy as np
import pytest
import tensorflow as tf
from gradient_attacks import (
    EPSILON,
    SHAPE,
    N,
    length_of,
    linear_classifier,
    norms,
    seeds_of,
)

from vfd_tf import attacks
from vfd_tf.attacks import BALLS, FGSM, FGSMRS, NFGSM, PGD
from vfd_tf.training.methods import METHODS

model, images = gradient_attacks.model, gradient_attacks.images
logits_fn = gradient_attacks.logits_fn


def _linf_optimum(x, w, epsilon):
    return np.clip(x + epsilon * np.sign(w), 0, 1)


@pytest.mark.parametrize("objective", [attacks.cross_entropy, attacks.margin])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_fgsm_on_a_linear_classifier_is_the_closed_form(objective, epsilon, images):
    x = images[0].astype("float64")
    w, logits_fn = linear_classifier()
    y = np.zeros(N, "int32")
    x_adv = FGSM(epsilon)(logits_fn, tf.constant(x), objective(y))
    np.testing.assert_allclose(x_adv, _linf_optimum(x, w, epsilon), atol=1e-12)


@pytest.mark.parametrize("random_start, restarts", [(False, 1), (True, 1), (True, 3)])
def test_pgd_reaches_the_optimum_of_a_linear_classifier(random_start, restarts, images):
    x = images[0].astype("float64")
    w, logits_fn = linear_classifier()
    attack = PGD(0.1, steps=9, restarts=restarts, random_start=random_start)
    x_adv = attack(logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")))
    np.testing.assert_allclose(x_adv, _linf_optimum(x, w, 0.1), atol=1e-12)


@pytest.mark.parametrize("attack", [FGSM(0.2, "l2"), PGD(0.2, steps=40, norm="l2")])
def test_l2_attacks_of_a_linear_classifier_follow_its_normal(attack):
    w, logits_fn = linear_classifier()
    x = np.random.RandomState(0).uniform(0.4, 0.6, (N, *SHAPE))  # far from the box
    x_adv = attack(logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")))
    expected = x + 0.2 * w / np.linalg.norm(w)
    np.testing.assert_allclose(x_adv, expected, atol=2e-3)


@norms
def test_each_step_is_as_long_as_the_step_size(norm, logits_fn):
    x = np.random.RandomState(0).uniform(0.4, 0.6, (N, *SHAPE)).astype("float32")
    y = np.zeros(N, "int32")
    attack = PGD(EPSILON[norm], 0.02, 1, norm, random_start=False)
    x_adv = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y))
    np.testing.assert_allclose(length_of(x_adv - x, norm), 0.02, rtol=1e-4)


@norms
def test_the_default_step_is_a_quarter_of_epsilon_also_under_another_radius(norm):
    attack = PGD(0.5, norm="l2", steps=3).replace(norm=norm, epsilon=EPSILON[norm])
    explicit = PGD(EPSILON[norm], EPSILON[norm] / 4, 3, norm)
    _, logits_fn = linear_classifier()
    x = tf.fill([2, *SHAPE], tf.constant(0.5, tf.float64))
    objective = attacks.margin(np.zeros(2, "int32"))
    np.testing.assert_array_equal(
        attack(logits_fn, x, objective), explicit(logits_fn, x, objective)
    )


@norms
def test_a_given_start_is_where_the_attack_begins(norm, images):
    w, logits_fn = linear_classifier()
    x = np.full((N, *SHAPE), 0.5)
    start = x + 0.01 * np.random.RandomState(5).randn(*x.shape)
    attack = PGD(EPSILON[norm], 0.001, 1, norm)
    x_adv = attack(
        logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")), tf.constant(start)
    )
    direction = np.sign(w) if norm == "linf" else w / np.linalg.norm(w)
    np.testing.assert_allclose(x_adv, start + 0.001 * direction, atol=1e-12)


def test_fgsm_rs_is_one_long_step_from_a_uniform_start(logits_fn, images):
    x, y = (tf.constant(v) for v in images)
    objective = attacks.cross_entropy(y)
    expected = PGD(0.1, 0.125, steps=1)(logits_fn, x, objective, seeds=seeds_of())
    # Its own start stands, whatever the base method would start from.
    for start in (None, x + 0.01):
        x_adv = FGSMRS(0.1)(logits_fn, x, objective, start=start, seeds=seeds_of())
        np.testing.assert_allclose(x_adv, expected, atol=1e-6)
    for method in ("trades", "hat", "mart"):
        x_adv = METHODS[method]().adversary(
            FGSMRS(0.1), logits_fn, x, y, seeds=seeds_of(), objective=objective
        )
        np.testing.assert_allclose(x_adv, expected, atol=1e-6)


@norms
def test_n_fgsm_steps_by_epsilon_from_noise_of_twice_epsilon(norm):
    # In the middle of the box nothing is clipped; the gradient is the same everywhere.
    weights, logits_fn = linear_classifier()
    x = tf.fill([400, *SHAPE], tf.constant(0.5, tf.float64))
    y, epsilon = np.zeros(400, "int32"), 0.05
    attack = NFGSM(epsilon, norm=norm)
    objective = attacks.margin(y)
    x_adv = attack(logits_fn, x, objective, seeds=seeds_of(400)).numpy()
    gradient = tf.constant(attacks.attack.input_gradient(logits_fn, x, objective))
    noise_alone = x_adv - x.numpy() - epsilon * BALLS[norm].direction(gradient).numpy()
    reach = length_of(noise_alone, norm)
    assert (reach <= 2 * epsilon + 1e-7).all()
    assert reach.max() > 1.9 * epsilon
    assert (length_of(x_adv - x.numpy(), norm) > epsilon).any()  # it leaves the ball
