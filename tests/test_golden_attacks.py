"""Attacks on a trained network find the examples that the originals found."""

import functools

import golden_networks as golden
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import attacks

nets = pytest.mark.parametrize("net", ["robust", "standard"])


@functools.cache
def network(net):
    return golden.resnet(net)


def images(count=64):
    """The first images and labels, and where PGD starts; float64 keeps all signs."""
    values = golden.part_b()
    x, y, offset = (values[k][:count] for k in ("x_u8", "y", "pgd20/start_int"))
    x = x.astype("float64") / 255
    return tf.constant(x), tf.constant(y), tf.constant(np.clip(x + offset / 255, 0, 1))


def logits(net, x):
    return network(net)(x, training=False)


@functools.cache
def attacked(net, name, count):
    """Examples of our attack."""
    model = network(net)  # loads its weights, which a graph can't do
    x, y, start = images(count)
    attack, start = {
        "fgsm": (attacks.FGSM(8 / 255), None),
        "pgd20": (attacks.PGD(8 / 255, 2 / 255, steps=20), start),
    }[name]

    @tf.function(autograph=False)
    def generate():
        objective = attacks.cross_entropy(y)
        return attack(model, x, objective, start=start)

    return generate()


def assert_same_examples(net, name, count):
    x_adv = attacked(net, name, count).numpy() * 255
    expected = golden.part_b()[f"{net}/{name}/x_adv_u8_float64"][:count]
    # Starts and steps are whole grey levels, so examples are too.
    np.testing.assert_allclose(x_adv, np.round(x_adv), 0, 1e-9)
    np.testing.assert_array_equal(np.round(x_adv), expected)


def assert_same_verdicts(net, name, count):
    values = golden.part_b()
    ours = logits(net, attacked(net, name, count)).numpy()
    expected = values[f"{net}/{name}/logits_float64"][:count]
    np.testing.assert_allclose(ours, expected, 0, 1e-10)
    correct = ours.argmax(-1) == values["y"][:count]
    expected = values[f"{net}/{name}/correct_float64"][:count]
    np.testing.assert_array_equal(correct, expected)


@nets
def test_logits_are_those_of_the_original(net):
    values, (x, y, _) = golden.part_b(), images()
    ours = logits(net, x).numpy()
    np.testing.assert_allclose(ours, values[f"{net}/logits_float64"], 0, 1e-10)
    correct = ours.argmax(-1) == y.numpy()
    np.testing.assert_array_equal(correct, values[f"{net}/correct_float64"])


SOME = [("fgsm", 64), ("pgd20", 16)]
ALL = pytest.param("pgd20", 64, marks=pytest.mark.slow)


@nets
@pytest.mark.parametrize("name, count", [*SOME, ALL])
def test_examples_are_those_of_the_original(net, name, count):
    assert_same_examples(net, name, count)


@nets
@pytest.mark.parametrize("name, count", [*SOME, ALL])
def test_verdicts_are_those_of_the_original(net, name, count):
    assert_same_verdicts(net, name, count)
