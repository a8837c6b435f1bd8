"""MALT's order of targets: distances of linear models, in APGD-T and in evaluations."""

import golden_networks as golden
import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import InputError, attacks, evaluation
from vfd_tf.attacks.targets import MALT
from vfd_tf.evaluation import Engine, protocol

SHAPE, CLASSES, N = (4, 4, 1), 6, 20
DUAL = {"linf": 1, "l2": 2}
norms = pytest.mark.parametrize("norm", DUAL)


def linear(unit=None, seed=0):
    """A linear model and its weights [16, c]; `unit`: w_0 - w_j is as long for all j."""
    w = np.random.RandomState(seed).normal(size=(16, CLASSES))
    w *= np.geomspace(0.2, 3.0, CLASSES)
    if unit:
        away = w - w[:, :1]
        w = w[:, :1] + away / np.maximum(np.linalg.norm(away, DUAL[unit], 0), 1e-9)
    inputs = keras.Input(SHAPE)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    b = -0.5 * w.sum(0) + np.linspace(0, 0.3, CLASSES)
    model.set_weights([w.astype("float32"), b.astype("float32")])
    return model, w


def images(model):
    """Images far from the box, with the labels that the model gives them."""
    x = np.random.RandomState(1).uniform(0.4, 0.6, (N, *SHAPE)).astype("float32")
    return x, model(x).numpy().argmax(-1).astype("int32")


def distances(model, w, x, y, norm):
    """[n, c], infinite at the label."""
    z = model(x).numpy().astype("float64")
    sizes = np.linalg.norm(w[:, :, None] - w[:, None, :], DUAL[norm], 0)
    found = (z[np.arange(N), y][:, None] - z) / np.where(sizes[y] > 0, sizes[y], np.nan)
    found[np.arange(N), y] = np.inf
    return found


@norms
def test_the_order_on_a_linear_model_is_that_of_the_distances(norm):
    model, w = linear()
    x, y = images(model)
    exact = distances(model, w, x, y, norm).argsort(-1)
    found = MALT(norm, count=5)(model, tf.constant(x), tf.constant(y)).numpy()
    np.testing.assert_array_equal(found, exact[:, :5])
    few = MALT(norm, count=2)(model, tf.constant(x), tf.constant(y)).numpy()
    np.testing.assert_array_equal(few, exact[:, :2])
    likeliest = np.where(np.eye(CLASSES, dtype=bool)[y], -np.inf, model(x)).argsort(-1)
    assert (found[:, 0] != likeliest[:, -1]).any()  # or the test says nothing


@norms
def test_equal_gradients_give_the_order_of_the_logits(norm):
    model, w = linear(unit=norm)
    x, y = images(model)[0], np.zeros(N, "int32")
    found = MALT(norm, count=5)(model, tf.constant(x), tf.constant(y)).numpy()
    np.testing.assert_array_equal(found, model(x).numpy()[:, 1:].argsort(-1)[:, ::-1] + 1)


def test_candidates_are_the_likeliest_wrong_classes():
    model, w = linear()
    x, y = images(model)
    z = np.where(np.eye(CLASSES, dtype=bool)[y], -np.inf, model(x).numpy())
    for k in (1, 3):
        found = MALT(candidates=k, count=k)(model, tf.constant(x), tf.constant(y)).numpy()
        expected = z.argsort(-1)[:, ::-1][:, :k]
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def test_masked_and_unreachable_classes_come_last():
    w = np.random.RandomState(0).normal(size=(16, 5)).astype("float32")
    w[:, 3] = w[:, 0]  # the gradient of z_0 - z_3 vanishes

    def logits_fn(x):
        z = tf.reshape(x, [-1, 16]) @ w + [9.0, 0.0, 0.0, 9.0, 0.0]
        return z + np.array([0.1, 0, 0, 0, -np.inf], "float32")

    x, y = tf.fill([2, *SHAPE], 0.5), tf.zeros(2, tf.int32)
    found = MALT(count=4)(logits_fn, x, y).numpy()
    assert (np.sort(found[:, :2]) == [1, 2]).all()
    assert (found[:, 2] == 3).all() and (found[:, 3] == found[:, 0]).all()


def test_fields_protocols_and_defaults():
    assert protocol("malt").attack == protocol("apgd-t:target_order=malt").attack
    (runs,) = protocol("malt").stages(10).values()
    assert [run.rank for run in runs] == list(range(2, 11))
    assert {run.order for run in runs} == {MALT("linf", 100, 9)}
    assert {run.objective for run in runs} == {"targeted-dlr"}
    (runs,) = protocol("apgd-t").stages(10).values()
    assert {run.order for run in runs} == {None}
    with pytest.raises(InputError, match="aims at 9 classes of 3 candidates"):
        protocol("malt:candidates=3")
    for idle in ("apgd-t:candidates=5", "malt:candidates=20:target_order=logits"):
        with pytest.raises(InputError, match="no effect in .* add target_order=malt"):
            protocol(idle)
    assert protocol("apgd-t:target_order=malt:candidates=20").attack.candidates == 20
    assert protocol("apgd-t:candidates=100") == protocol("apgd-t")  # the default
    with pytest.raises(InputError, match="target_order"):
        protocol("apgd-t:target_order=distance")


@norms
def test_one_run_at_the_nearest_class_is_enough_on_a_linear_model(norm):
    """Robust is what is farther than epsilon from every class: the first target decides."""
    model, w = linear()
    x, y = images(model)
    nearest = distances(model, w, x, y, norm).min(-1)
    epsilon = float(np.median(nearest)) + 1e-4
    name = "malt:targets=1:steps=40"
    result = evaluation.evaluate(model, (x, y), name, epsilon=epsilon, norm=norm)
    np.testing.assert_array_equal(result.robust[name], nearest > epsilon)
    attack = attacks.APGDT(epsilon, 40, norm, targets=1, target_order="malt")
    x_adv = attack(model, tf.constant(x), attacks.cross_entropy(y)).numpy()
    left = model(x_adv).numpy().argmax(-1) == y
    np.testing.assert_array_equal(left, nearest > epsilon)


def test_an_evaluation_orders_once_what_is_robust_so_far():
    model, w = linear()
    x, y = images(model)
    y[:3] = (y[:3] + 1) % CLASSES  # misclassified, and so not attacked
    engine = Engine(model, batch_size=8)
    (window,) = engine.windows.read((x, y))
    attack = protocol("malt:targets=2:steps=3", 0.001)
    progress = engine.attacked(attack, window)
    (found,) = progress.ordered.values()
    exact = distances(model, w, x, y, "linf").argsort(-1)
    np.testing.assert_array_equal(found[3:], exact[3:, :2])
    assert not found[:3].any()


@norms
@pytest.mark.parametrize("count, candidates", [(9, 100), (5, 6)])
def test_the_order_is_that_of_the_original(norm, count, candidates):
    values = golden.arrays("malt_targets")

    def logits_fn(x):
        hidden = tf.tanh((tf.reshape(x, [len(x), -1]) - 0.5) @ values["w1"])
        return hidden @ values["w2"] + values["b2"]

    order = MALT(norm, candidates, count)
    found = order(logits_fn, tf.constant(values["x"]), tf.constant(values["y"])).numpy()
    np.testing.assert_array_equal(found, values[f"{norm}/{count}"])
