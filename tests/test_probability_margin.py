"""The probability margin of PMA: values, slopes of confident networks, protocols."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import attacks
from vfd_tf.evaluation import evaluate, protocol

LABELS = np.array([0, 1, 2, 3, 4, 1])


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits(gap, dtype="float32"):
    """Six rows of five logits, the first five right by about `gap`, the last wrong."""
    z = np.random.RandomState(0).normal(size=(6, 5))
    return (z + gap * np.eye(5)[[0, 1, 2, 3, 4, 0]]).astype(dtype)


def numpy_margin(z, y=LABELS):
    """1 + max_{j != y} p_j - p_y, with 1 - p_y as the sum of the other classes."""
    p = softmax(z.astype("float64"))
    others = np.where(np.eye(z.shape[-1], dtype=bool)[y], 0, p)
    return others.sum(-1) + others.max(-1)


def score_and_slope(z, y=LABELS):
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        score = attacks.pm(y)(z)
    return score.numpy(), tape.gradient(score, z).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [0.0, 3.0, 20.0, 35.0])
def test_the_score_is_the_margin_of_probabilities(gap, dtype):
    z = logits(gap, dtype)
    found, _ = score_and_slope(z)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(found, numpy_margin(z), tolerance)
    success = attacks.pm(LABELS).success(tf.constant(z)).numpy()
    np.testing.assert_array_equal(success, z.argmax(-1) != LABELS)
    np.testing.assert_array_equal(success, found > 1)


@pytest.mark.parametrize("gap", [0.0, 2.0, 8.0])
def test_the_slope_is_that_of_finite_differences(gap):
    z, h = logits(gap, "float64"), 1e-5
    _, slope = score_and_slope(z)
    for k in range(5):
        step = h * np.eye(5)[k]
        expected = (numpy_margin(z + step) - numpy_margin(z - step)) / (2 * h)
        np.testing.assert_allclose(slope[:, k], expected, 1e-5, 1e-10)


@pytest.mark.parametrize("gap", [18.0, 40.0, 80.0, 200.0, 1000.0])
def test_confident_float32_networks_have_the_direction_of_float64(gap):
    """p_y is 1 in float32 from 17 on, and the other p are 0 from 104 on."""
    z = logits(gap)
    found, wide = (score_and_slope(v)[1] for v in (z, z.astype("float64")))
    sizes = [np.abs(g).max(-1, keepdims=True) for g in (found, wide)]
    assert (sizes[0] > 0).all() and np.isfinite(found).all()
    np.testing.assert_allclose(found / sizes[0], wide / sizes[1], 0, 1e-4)


def test_confident_scores_stay_apart():
    """APGD compares scores: margins of -1 + 1e-9 and of -1 + 1e-60 are no ties."""
    z = np.array([[gap, 0.0, 0.5] for gap in (16, 20, 40, 90, 150, 1000)], "float32")
    found, _ = score_and_slope(z, np.zeros(6, int))
    assert (np.diff(found) < 0).all() and (found > 0).all()


def test_ties_and_shifts():
    z = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, -1.0]], "float32")
    y = np.array([1, 1])
    found, slope = score_and_slope(z, y)
    np.testing.assert_allclose(found, [1, 1], 1e-6)
    np.testing.assert_allclose(score_and_slope(z + 3, y)[0], found, 1e-6)
    np.testing.assert_allclose(slope.sum(-1), 0, 0, 1e-6)
    assert attacks.pm(y).success(tf.constant(z)).numpy().all()


def test_protocols_of_it_have_names():
    assert protocol("pgd20-pm").objective == "pm"
    assert protocol("mim-pm").objective == "pm"
    (runs,) = protocol("apgd-pm").stages(10).values()
    assert [(type(run.attack), run.objective) for run in runs] == [(attacks.APGDPM, "pm")]
    (runs,) = protocol("apgd-pm:restarts=2").stages(2).values()
    assert [run.objective for run in runs] == ["pm", "pm"]


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_it_breaks_what_a_linear_classifier_lets_it(scale):
    """A fall of epsilon * ||w||_1 is all there is, however confident the classifier."""
    w = np.random.RandomState(1).normal(size=(16, 2)).astype("float32")
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.set_weights([scale * w, scale * -w.sum(0) / 2])
    x = np.random.RandomState(2).uniform(0.3, 0.7, (24, 4, 4, 1)).astype("float32")
    z = (x.reshape(24, 16) - 0.5) @ w
    y = z.argmax(-1)
    left = np.abs(z[:, 0] - z[:, 1]) > 0.05 * np.abs(w[:, 0] - w[:, 1]).sum()
    names = ["pgd20-pm", "apgd-pm:steps=20"]
    result = evaluate(model, (x, y), names, epsilon=0.05)
    for name in names:
        np.testing.assert_array_equal(result.robust[name], left)
