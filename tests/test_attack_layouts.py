"""Attacks on images of any layout and shape: the same as on the transposed problem."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf.attacks import APGD, FAB, FGSM, PGD, CarliniWagner, Square, cross_entropy
from vfd_tf.evaluation import evaluate
from vfd_tf.training.callbacks import RobustAccuracy

L = keras.layers
N, CLASSES = 16, 3
ATTACKS = {
    "fgsm": "fgsm",
    "pgd10": "pgd10",
    "mim10": "mim10",
    "cw": "cw:steps=20",
    "apgd-dlr": "apgd-dlr:steps=10",
    "fab": "fab:steps=5,restarts=1",
    "square": "square:queries=60",
}
SHAPES = {"tall": (12, 5, 3), "wide": (5, 12, 3), "row": (1, 20, 3)}


def _problem(shape, seed=0):
    """Images, labels, and a network that sees all of an image, position by position."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(N, *shape)).astype("float32")
    inputs = keras.Input(shape)
    hidden = L.Dense(16, "tanh")(L.Flatten()(inputs))
    model = keras.Model(inputs, L.Dense(CLASSES)(hidden))
    for weight in model.weights:
        weight.assign(random.normal(0, 0.4, weight.shape))
    y = model.predict(x, verbose=0).argmax(-1)
    y[:2] = (y[:2] + 1) % CLASSES
    return model, x, y


def _after(permutation, model, shape):
    """The model on images whose axes are to be permuted first."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, model(L.Permute(permutation)(inputs)))


def _evaluated(model, x, y, norm):
    linf = norm == "linf"
    attacks = ATTACKS if linf else {name: ATTACKS[name] for name in ("apgd-dlr", "square")}
    epsilon = 0.02 if linf else 0.4
    return evaluate(model, (x, y), attacks, epsilon=epsilon, norm=norm, examples=True)


@pytest.mark.slow
@pytest.mark.parametrize("shape, norm", [("wide", "linf"), ("tall", "l2"), ("row", "l2")])
def test_channels_first_images_get_the_verdicts_of_their_transposes(shape, norm):
    model, x, y = _problem(SHAPES[shape])
    height, width, channels = SHAPES[shape]
    first = _after((2, 3, 1), model, (channels, height, width))
    expected = _evaluated(model, x, y, norm)
    result = _evaluated(first, np.moveaxis(x, -1, 1), y, norm)
    np.testing.assert_array_equal(result.clean, expected.clean)
    for name in expected.robust:
        np.testing.assert_array_equal(result.robust[name], expected.robust[name], name)
        x_adv = np.moveaxis(expected.examples[name], -1, 1)
        np.testing.assert_allclose(result.examples[name], x_adv, atol=1e-5, err_msg=name)
    assert 0 < np.mean(list(expected.robust.values())) < 1


@pytest.mark.parametrize("build", ["functional", "subclassed"])
def test_convolutions_on_channels_first_are_attacked_as_those_on_channels_last(build):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 3, 4)), np.zeros(4)
    dense = random.normal(size=(4, CLASSES)), np.zeros(CLASSES)

    def network(layout):
        shape = (3, 8, 8) if layout == "channels_first" else (8, 8, 3)
        stack = [
            L.Conv2D(4, 3, activation="relu", data_format=layout),
            L.GlobalAveragePooling2D(data_format=layout),
            L.Dense(CLASSES),
        ]
        model = keras.Sequential([keras.Input(shape), *stack])
        model.set_weights([*kernel, *dense])
        if build == "functional":
            return model

        class Opaque(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = model

            def call(self, x):
                return self.inner(x)

        return Opaque()

    x = random.uniform(size=(N, 8, 8, 3)).astype("float32")
    bias = -network("channels_last").predict(x, verbose=0).mean(0)  # no class prevails
    dense = dense[0], bias
    last, first = network("channels_last"), network("channels_first")
    y = last.predict(x, verbose=0).argmax(-1)
    attack = ("square:queries=100",)
    expected = evaluate(last, (x, y), attack, epsilon=0.04)
    result = evaluate(first, (np.moveaxis(x, -1, 1), y), attack, epsilon=0.04)
    ours, theirs = (r.robust["square:queries=100"] for r in (result, expected))
    np.testing.assert_array_equal(ours, theirs)
    assert 0 < theirs.mean() < 1


def test_signals_of_many_channels_are_told_from_channels_first_by_the_layers():
    inputs = keras.Input((1, 20, 12))
    outputs = L.GlobalAveragePooling2D()(L.Conv2D(4, (1, 3))(inputs))
    model = keras.Model(inputs, L.Dense(CLASSES)(outputs))
    x = np.random.default_rng(0).uniform(size=(N, 1, 20, 12)).astype("float32")
    y = model.predict(x, verbose=0).argmax(-1)
    assert evaluate(model, (x, y), ("square:queries=10",)).clean.all()


def _turn(x):
    return keras.ops.transpose(x, (0, 2, 3, 1))


@pytest.mark.parametrize("build", ["Lambda", "subclassed"])
def test_images_that_are_turned_out_of_sight_are_taken_as_channels_first(build):
    """What lies before layers of channels last may still take channels first."""
    stack = [L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(CLASSES)]

    class Turned(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = stack

        def call(self, x):
            x = _turn(x)
            for layer in self.stack:
                x = layer(x)
            return x

    last = keras.Sequential([keras.Input((10, 8, 3)), *stack])
    if build == "Lambda":
        first = keras.Sequential([keras.Input((3, 10, 8)), L.Lambda(_turn), *stack])
    else:
        first = Turned()
    x = np.random.default_rng(0).uniform(size=(N, 10, 8, 3)).astype("float32")
    y = last.predict(x, verbose=0).argmax(-1)
    attack = {"attacks": "square:queries=20", "epsilon": 0.1, "examples": True}
    (expected,) = evaluate(last, (x, y), **attack).examples.values()
    (x_adv,) = evaluate(first, (np.moveaxis(x, -1, 1), y), **attack).examples.values()
    np.testing.assert_allclose(np.moveaxis(x_adv, 1, -1), expected, atol=1e-6)
    assert np.abs(expected - x).max() > 0.05


DETERMINISTIC = {
    "fgsm": FGSM(0.05),
    "pgd": PGD(0.05, steps=5, random_start=False),
    "cw": CarliniWagner(steps=20),
    "square": Square(0.05, queries=60),
    "square L2": Square(0.5, queries=60, norm="l2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", DETERMINISTIC)
@pytest.mark.parametrize("shape", ["tall", "row"])
def test_tall_images_are_attacked_as_wide_ones(attack, shape):
    model, x, y = _problem(SHAPES[shape])
    height, width, channels = SHAPES[shape]
    turned = _after((2, 1, 3), model, (width, height, channels))
    attack = DETERMINISTIC[attack]
    x_adv = attack(model, tf.constant(x), cross_entropy(y))
    other = attack(turned, tf.constant(x.swapaxes(1, 2)), cross_entropy(y))
    np.testing.assert_allclose(np.swapaxes(other, 1, 2), x_adv, atol=1e-5)
    assert np.abs(x_adv - x).max() > 0.001


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [PGD, APGD, Square])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 2), (2, 30, 1)])
def test_images_of_any_size_stay_in_ball_and_box(attack, shape, norm):
    model, x, y = _problem(shape)
    fields = {"queries": 30} if attack is Square else {"steps": 5}
    run = attack(0.3, norm=norm, **fields)
    x_adv = run(model, tf.constant(x), cross_entropy(y)).numpy()
    delta = (x_adv - x).reshape(N, -1)
    size = np.abs(delta).max(-1) if norm == "linf" else np.linalg.norm(delta, axis=-1)
    assert size.max() <= 0.3 + 1e-6
    assert size.max() > 0.01
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_validation_on_channels_first_is_that_of_their_transposes():
    model, x, y = _problem((8, 8, 3))
    first = _after((2, 3, 1), model, (3, 8, 8))
    measured = []
    for network, images in ((model, x), (first, np.moveaxis(x, -1, 1))):
        callback = RobustAccuracy((images, y), "square:queries=30", epsilon=0.05)
        callback.set_model(network)
        callback.on_train_begin()
        logs = {}
        callback.on_epoch_end(0, logs)
        measured.append(logs)
    assert measured[0] == measured[1]


def test_layers_that_flatten_tell_no_layout():
    model, x, y = _problem((6, 6, 3))
    inputs = keras.Input((3, 6, 6))
    flat = L.Flatten()(inputs)  # of [c, h, w]
    kernel = model.layers[-2].get_weights()[0].reshape(6, 6, 3, -1)
    hidden = L.Dense(16, "tanh")(flat)
    first = keras.Model(inputs, L.Dense(CLASSES)(hidden))
    kernel = np.moveaxis(kernel, 2, 0).reshape(108, -1)
    bias = model.layers[-2].get_weights()[1]
    first.set_weights([kernel, bias, *model.layers[-1].get_weights()])
    attack = ("square:queries=60",)
    expected = evaluate(model, (x, y), attack, epsilon=0.05)
    result = evaluate(first, (np.moveaxis(x, -1, 1), y), attack, epsilon=0.05)
    ours, theirs = (list(r.robust.values())[0] for r in (result, expected))
    np.testing.assert_array_equal(ours, theirs)


def test_fab_runs_outside_of_a_graph():
    model, x, y = _problem((6, 6, 1))
    attack = FAB(0.05, steps=3)
    eager = attack(model, tf.constant(x), cross_entropy(y))
    graph = tf.function(lambda x: attack(model, x, cross_entropy(y)), autograph=False)
    np.testing.assert_allclose(eager, graph(tf.constant(x)), atol=1e-5)
