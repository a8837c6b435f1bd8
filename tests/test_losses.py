"""Losses against their formulas in numpy, and finite where the formulas overflow."""

import numpy as np
import pytest
from scipy.special import logsumexp

from vfd_tf import losses

# isort: split

import tensorflow as tf

N, C = 7, 5
rng = np.random.RandomState(0)
Y = rng.randint(0, C, N).astype("int32")
A, B = 3 * rng.randn(2, N, C)
F, G = rng.randn(2, N, 4, 3, 2)


def _log_p(z):
    return z - logsumexp(z, axis=-1, keepdims=True)


def _of(y, z):
    return z[np.arange(len(y)), y]


def _others(y, z):
    return np.array([max(np.delete(row, label)) for label, row in zip(y, z, strict=True)])


def _kl(p, q):
    return (np.exp(_log_p(p)) * (_log_p(p) - _log_p(q))).sum(-1)


def _soft(teacher, z, t):
    return -(t**2) * (np.exp(_log_p(teacher / t)) * _log_p(z / t)).sum(-1)


def _weighted_kl(y, clean, adv):
    p, q = np.exp(_log_p(clean)), np.exp(_log_p(adv))
    return (p * (np.log(p) - np.log(q + 1e-12))).sum(-1) * (1.0000001 - _of(y, p))


# name -> (ours, in numpy); "two" takes logits twice, "labels" labels first.
LABELLED = {
    "cross_entropy": (losses.cross_entropy, lambda y, z: -_of(y, _log_p(z))),
    "true_logit": (losses.true_logit, _of),
    "best_other": (losses.best_other, _others),
    "margin": (losses.margin, lambda y, z: _others(y, z) - _of(y, z)),
    "runner_up_penalty": (
        losses.runner_up_penalty,
        lambda y, z: -np.log(1.0001 - _others(y, np.exp(_log_p(z))) + 1e-12),
    ),
}
PAIRED = {
    "kl_divergence": (losses.kl_divergence, _kl),
    "soft_cross_entropy": (losses.soft_cross_entropy, lambda t, z: _soft(t, z, 1.0)),
    "soft_cross_entropy at 4": (
        lambda t, z: losses.soft_cross_entropy(t, z, 4.0),
        lambda t, z: _soft(t, z, 4.0),
    ),
    "misclassification_weighted_kl": (
        lambda p, q: losses.misclassification_weighted_kl(Y, p, q),
        lambda p, q: _weighted_kl(Y, p, q),
    ),
    "squared_error": (losses.squared_error, lambda a, b: ((a - b) ** 2).mean(-1)),
    "squared_euclidean": (
        losses.squared_euclidean,
        lambda a, b: ((a - b) ** 2).reshape(len(a), -1).sum(-1),
    ),
    "euclidean": (
        losses.euclidean,
        lambda a, b: np.linalg.norm((a - b).reshape(len(a), -1), axis=-1),
    ),
}
labelled = pytest.mark.parametrize("name", LABELLED)
paired = pytest.mark.parametrize("name", PAIRED)


def _value_and_gradients(loss, *logits):
    logits = [tf.constant(z) for z in logits]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(*logits)
    return value, tape.gradient(value, logits)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("float64", 1e-9)])
@labelled
def test_losses_of_labels_are_their_formulas(name, dtype, tolerance):
    ours, formula = LABELLED[name]
    value = ours(Y, tf.constant(A, dtype))
    assert value.shape == (N,)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, formula(Y, A), tolerance, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("float64", 1e-9)])
@paired
def test_losses_of_pairs_are_their_formulas(name, dtype, tolerance):
    ours, formula = PAIRED[name]
    value = ours(tf.constant(A, dtype), tf.constant(B, dtype))
    assert value.shape == (N,)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, formula(A, B), tolerance, tolerance)


@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean"])
def test_distances_of_feature_maps_flatten_them(name):
    ours, formula = PAIRED[name]
    value = ours(tf.constant(F), tf.constant(G))
    assert value.shape == (N,)
    np.testing.assert_allclose(value, formula(F, G), rtol=1e-9)


def _saturated(scale, dtype="float32"):
    """The label's logit highest, lowest, and all equal."""
    z = np.zeros((3, C), dtype)
    z[0, 1], z[1, 1] = scale, -scale
    return z, np.array([1, 1, 1])


@pytest.mark.parametrize("scale", [0.0, 40.0, 1000.0])
@labelled
def test_losses_of_labels_are_finite_at_saturation(name, scale):
    z, y = _saturated(scale)
    ours, formula = LABELLED[name]
    value, gradients = _value_and_gradients(lambda z: ours(y, z), z)
    assert np.isfinite(value).all()
    assert np.isfinite(gradients[0]).all()
    np.testing.assert_allclose(value, formula(y, z.astype("float64")), 1e-3, 1e-3)


@pytest.mark.parametrize("scale", [0.0, 40.0, 1000.0])
@pytest.mark.parametrize("other", ["equal", "flat", "opposite"])
@paired
def test_losses_of_pairs_are_finite_at_equality_and_saturation(name, scale, other):
    z, y = _saturated(scale)
    q = {"equal": z, "flat": np.zeros_like(z), "opposite": -z}[other]
    ours = PAIRED[name][0]
    if name == "misclassification_weighted_kl":

        def ours(a, b):
            return losses.misclassification_weighted_kl(y, a, b)

    value, gradients = _value_and_gradients(ours, z, q)
    assert np.isfinite(value).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
def test_divergences_vanish_with_their_gradients_at_equality(scale):
    z, _ = _saturated(scale)
    for loss in (losses.kl_divergence, losses.squared_error, losses.squared_euclidean):
        value, gradients = _value_and_gradients(loss, z, z)
        np.testing.assert_array_equal(value, 0)
        for gradient in gradients:
            np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_kl_is_not_negative_and_ignores_shifts():
    value = losses.kl_divergence(A, B).numpy()
    assert (value > 0).all()
    np.testing.assert_allclose(losses.kl_divergence(A + 7, B - 3), value, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_of_the_distance_is_finite_at_zero_and_a_unit_vector_elsewhere(dtype):
    a = tf.constant(F, dtype)
    value, gradients = _value_and_gradients(losses.euclidean, a, a)
    np.testing.assert_allclose(value, 1e-6, rtol=1e-3)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)
    _, (gradient, _) = _value_and_gradients(losses.euclidean, a, tf.constant(G, dtype))
    length = np.linalg.norm(np.reshape(gradient, (N, -1)), axis=-1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["kl_divergence", "misclassification_weighted_kl"])
def test_gradients_flow_through_both_arguments(name):
    _, gradients = _value_and_gradients(PAIRED[name][0], A, B)
    assert all(np.abs(gradient).max() > 1e-3 for gradient in gradients)


def test_soft_cross_entropy_has_the_gradient_of_the_kl_form():
    t = 3.0

    def kl(teacher, z):
        return t**2 * losses.kl_divergence(teacher / t, z / t)

    _, (_, expected) = _value_and_gradients(kl, A, B)
    soft = _value_and_gradients(lambda a, b: losses.soft_cross_entropy(a, b, t), A, B)
    np.testing.assert_allclose(soft[1][1], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("integer", ["int32", "int64"])
@labelled
def test_labels_may_be_of_any_integer_type(name, integer):
    ours = LABELLED[name][0]
    z = tf.constant(A)
    np.testing.assert_array_equal(ours(Y.astype(integer), z), ours(Y, z))


def _masked(z):
    """Logits with one class more, which can't be."""
    return np.concatenate([z, np.full((N, 1), -np.inf)], 1)


@pytest.mark.parametrize("name", ["squared_error", "soft_cross_entropy", "kl_divergence"])
def test_masked_classes_count_as_if_they_were_not_there(name):
    """But in the mean over classes of `squared_error`, where they are equal."""
    share = C / (C + 1) if name == "squared_error" else 1.0
    function, masked = getattr(losses, name), _masked(A)
    found, (slope,) = _value_and_gradients(lambda z: function(masked, z), _masked(B))
    expected, (own,) = _value_and_gradients(lambda z: function(A, z), B)
    np.testing.assert_allclose(found, share * expected)
    np.testing.assert_allclose(slope[:, :C], share * own, atol=1e-12)
    np.testing.assert_array_equal(slope[:, C], 0)


def test_masked_classes_weigh_nothing_in_mart_and_dkl():
    p = tf.nn.softmax(A), tf.nn.softmax(_masked(A))
    for function, own, other in (
        (losses.half_variance, (p[0], A, B), (p[1], _masked(A), _masked(B))),
        (losses.misclassification_weighted_kl, (Y, A, B), (Y, _masked(A), _masked(B))),
    ):
        np.testing.assert_allclose(function(*other), function(*own))
        given, last = other[:-1], other[-1]
        _, (slope,) = _value_and_gradients(lambda z, f=function, g=given: f(*g, z), last)
        assert np.isfinite(slope).all()
