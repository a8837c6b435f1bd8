"""Verdicts over several passes of a model whose outputs are random."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binom

from vfd_tf import InputError, attacks
from vfd_tf.evaluation import Engine, Protocol, evaluate, protocol

N, SHAPE = 600, (2, 2, 1)


@keras.saving.register_keras_serializable("tests")
class Coin(keras.layers.Layer):
    """Logits of class 0 with probability p in every pass, whatever the image."""

    def __init__(self, p, **options):
        super().__init__(**options)
        self.p = p

    def call(self, x):
        heads = tf.random.uniform([tf.shape(x)[0], 1]) < self.p
        right, wrong = [3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 0.0, 1.0]
        return tf.where(heads, right, wrong) + 0 * x[:, 0, 0]


def coin(p):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, Coin(p)(inputs))


def data(n=N):
    return np.full((n, *SHAPE), 0.5, "float32"), np.zeros(n, "int32")


@keras.saving.register_keras_serializable("tests")
class Majority(attacks.PGD):
    """PGD whose verdicts are those of 5 passes."""

    passes = 5


def close(found, expected, count=N):
    assert abs(found - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("p", [0.3, 0.7, 0.9])
def test_a_verdict_is_that_of_most_passes(p):
    """On the image and on the example: right in 3, 4 or 5 of 5 passes, each time."""
    engine = Engine(coin(p), batch_size=N)
    robust = engine.correct(data(), Protocol(Majority(steps=1)))
    close(robust.mean(), binom.sf(2, 5, p) ** 2)


@pytest.mark.parametrize("attack", [attacks.FGSM(), attacks.PGD(steps=2)], ids=repr)
@pytest.mark.parametrize("p", [0.5, 0.7])
def test_an_unlucky_pass_of_the_attack_is_no_second_attack(attack, p):
    """Right in the clean pass and in the one that judges the example, whatever it saw."""
    engine = Engine(coin(p), batch_size=3000)
    close(engine.correct(data(3000), Protocol(attack)).mean(), p * p, 3000)


def test_half_of_the_passes_are_no_majority():
    engine = Engine(coin(0.5), batch_size=N)
    found = [engine._judged(data()[1], data()[0], 4)[0] for _ in range(5)]
    close(np.mean(found), binom.sf(2, 4, 0.5), 5 * N)


def test_a_single_wrong_pass_ends_nothing():
    """One pass of each iterate and verdict leaves 0.9^k; the majority leaves nearly all."""
    names = ["autoattack-rand", "autoattack-rand:passes=25"]
    x, y = data(40)
    result = evaluate(coin(0.9), (x, y), names, epsilon=0.1, batch_size=40)
    assert result.robust[names[1]].mean() >= 0.95
    assert result.robust[names[0]].mean() < 0.95
    assert "passes=25" in result.attacks[names[1]]


def test_attacks_go_on_after_a_single_misclassified_iterate():
    (run,) = Protocol(Majority(steps=3)).stages(4)[""]
    assert run.passes == 5
    goal = run.goal(np.zeros(2, "int32"), None, None)
    wrong = tf.constant([[0.0, 1.0, 0.0, 0.0]] * 2)
    assert not goal.success(wrong).numpy().any() and (goal(wrong).numpy() > 0).all()
    once = attacks.AttackRun(attacks.PGD(), "ce").goal(np.zeros(2, "int32"), None, None)
    assert once.success(wrong).numpy().all()


def test_passes_belong_to_rand_and_default_to_one():
    assert protocol("autoattack-rand:passes=20").attack.passes == 20
    assert protocol("autoattack-rand").attack.passes == 1
    assert {r.passes for rs in protocol("autoattack").stages(10).values() for r in rs} == {
        1
    }
    with pytest.raises(InputError, match="autoattack-rand:passes=20"):
        protocol("autoattack:passes=20")


def test_a_model_without_noise_has_the_verdicts_of_one_pass():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    x = np.random.RandomState(0).uniform(size=(24, 4, 4, 1)).astype("float32")
    y = model(x).numpy().argmax(-1)
    one, many = (
        Engine(model).correct((x, y), Protocol(cls(0.05, steps=10)), seed=1)
        for cls in (attacks.PGD, Majority)
    )
    np.testing.assert_array_equal(one, many)
    assert 0 < one.sum() < 24
