"""Objectives of attacks: values and successes against numpy, ties, shifts, scales."""

import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import attacks

LOGITS = np.array(
    [[2.0, -1.0, 0.5, 1.5, 0.0], [0.0, 3.0, 1.0, -2.0, 2.5], [1.0, 1.25, -4.0, 0.0, 0.5]]
)
LABELS = np.array([0, 4, 2], "int32")
TARGETS = np.array([3, 1, 0], "int32")


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


# Written out row by row: z_y, the largest other, and the sorted logits.
TRUE, OTHER = np.array([2.0, 2.5, -4.0]), np.array([1.5, 3.0, 1.25])
FIRST, THIRD = np.array([2.0, 3.0, 1.25]), np.array([0.5, 1.0, 0.5])
FOURTH, TARGET = np.array([0.0, 0.0, 0.0]), np.array([1.5, 3.0, 1.0])
CLEAN = np.array([[1.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 1.0], [0, 0, 0, 3.0, 0]])
P, Q = _softmax(CLEAN), _softmax(LOGITS)
OBJECTIVES = {
    "cross_entropy": (
        attacks.cross_entropy(LABELS),
        -np.log([Q[0, 0], Q[1, 4], Q[2, 2]]),
        [False, True, True],
    ),
    "margin": (attacks.margin(LABELS), OTHER - TRUE, [False, True, True]),
    "dlr": (
        attacks.dlr(LABELS),
        -(TRUE - OTHER) / (FIRST - THIRD),
        [False, True, True],
    ),
    "targeted_dlr": (
        attacks.targeted_dlr(LABELS, TARGETS),
        -(TRUE - TARGET) / (FIRST - (THIRD + FOURTH) / 2),
        [False, True, True],
    ),
    "kl": (
        attacks.kl(CLEAN),
        (P * np.log(P / Q)).sum(-1),
        [False, False, True],
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_objectives_and_successes_are_their_definitions(name, dtype):
    objective, score, success = OBJECTIVES[name]
    if name == "kl":
        objective = attacks.kl(tf.constant(CLEAN, dtype))
    logits = tf.constant(LOGITS, dtype)
    assert objective(logits).dtype == dtype
    tolerance = 1e-5 if dtype == tf.float32 else 1e-9
    np.testing.assert_allclose(objective(logits), score, rtol=tolerance)
    np.testing.assert_array_equal(objective.success(logits), success)


def test_ties_and_shifts_are_handled_as_the_definitions_say():
    z = tf.constant([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, -1.0]])
    y = np.array([1, 1])
    for make in (attacks.margin, attacks.dlr, attacks.cross_entropy):
        objective = make(y)
        assert np.isfinite(objective(z)).all()
        np.testing.assert_allclose(objective(z + 3), objective(z), atol=1e-6)
        np.testing.assert_array_equal(objective.success(z), [True, True])


def test_dlr_ignores_the_scale_of_the_logits():
    z = tf.constant(LOGITS)
    for make in (attacks.dlr, lambda y: attacks.targeted_dlr(y, TARGETS)):
        np.testing.assert_allclose(make(LABELS)(1e3 * z), make(LABELS)(z), rtol=1e-9)


def test_kl_is_ascended_against_fixed_clean_logits():
    z = tf.constant(CLEAN)
    with tf.GradientTape() as tape:
        tape.watch(z)
        score = attacks.kl(z)(2 * tf.stop_gradient(z))
    assert tape.gradient(score, z) is None
