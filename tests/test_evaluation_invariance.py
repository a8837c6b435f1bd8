"""What decides no verdict: ranges, early stops, sizes of batches and images, rounding."""

import keras
import numpy as np
import tensorflow as tf
from evaluations import linear
from keras import layers as L

from vfd_tf import datasets, evaluation, noise
from vfd_tf.evaluation import Engine, protocol
from vfd_tf.models import folding


def test_models_of_other_ranges_are_attacked_in_theirs():
    """The same network, once for [0, 1] and once for [-1, 1]: the same verdicts."""
    model, test = linear(), datasets.load("digits").test[:48]
    kernel, bias = model.get_weights()
    other = linear()
    other.set_weights([kernel / 2, bias + kernel.sum(0) / 2])
    x, y = test.floats(), test.y
    names = "fgsm", "pgd5", "apgd-ce:steps=5", "fab-t:steps=5"
    one = evaluation.evaluate(model, (x, y), names, epsilon=0.1)
    two = evaluation.evaluate(other, (2 * x - 1, y), names, epsilon=0.1, bounds=(-1, 1))
    for name, verdict in one.verdicts().items():
        assert (verdict != two.verdicts()[name]).sum() <= 1  # rounding


def test_early_stop_changes_no_verdict():
    test = datasets.load("digits").test[:48]
    names = "pgd10", "mim10", "apgd-ce:steps=20", "square:queries=150"
    stopped = evaluation.evaluate(linear(), test, names, epsilon=0.1)
    ended = evaluation.evaluate(linear(), test, names, epsilon=0.1, early_stop=False)
    assert 0 < stopped.robust["pgd10"].mean() < stopped.clean.mean()
    for name, verdict in stopped.verdicts().items():
        np.testing.assert_array_equal(verdict, ended.verdicts()[name])


def test_the_batch_size_changes_no_verdict():
    test = datasets.load("digits").test[:40]
    names = "pgd10", "apgd-t:steps=10", "square:queries=100", "fab-t:steps=10"
    one = evaluation.evaluate(linear(), test, names, epsilon=0.1, batch_size=64)
    two = evaluation.evaluate(linear(), test, names, epsilon=0.1, batch_size=16)
    for name, verdict in one.verdicts().items():
        np.testing.assert_array_equal(verdict, two.verdicts()[name])


def test_batches_have_few_sizes_and_none_is_of_0_images():
    target, sizes, traces = Engine(linear(), batch_size=32), set(), []

    def spy(x):
        traces.append(x.shape[0])
        tf.py_function(lambda n: sizes.add(int(n)), [tf.shape(x)[0]], [])
        return {"x": x}

    for count in [*range(1, 100), *range(99, 0, -1)]:
        x = np.random.rand(count, 2)
        np.testing.assert_array_equal(target.runner.run("spy", spy, {"x": x})["x"], x)
    assert sizes == {8, 12, 16, 24, 32}
    assert len(traces) <= 2


def test_a_target_takes_images_of_several_sizes():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    logits = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    target, random = Engine(keras.Model(inputs, logits), batch_size=8), np.random.rand
    for size in (16, 20):
        for attack in ("pgd2", "square:queries=3"):
            data = random(9, size, size, 3).astype("float32"), np.arange(9) % 5
            assert len(target.correct(data, attack)) == 9


def test_crafting_in_bfloat16_is_judged_in_float32():
    test = datasets.load("digits").test[:48]
    # The same function, with a layer between its ends to compute in bfloat16.
    eyes = [L.Dense(64, kernel_initializer="identity") for _ in range(2)]
    one = linear()
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), *eyes, one.layers[-1]])
    full = evaluation.evaluate(model, test, ["pgd10"], epsilon=0.1, examples=True)
    half = evaluation.evaluate(
        model, test, ["pgd10"], epsilon=0.1, craft_precision="mixed_bfloat16", examples=True
    )
    x_adv, y = half.examples["pgd10"], test.y
    right = model.predict(x_adv, verbose=0).argmax(-1) == y
    np.testing.assert_array_equal(half.robust["pgd10"], right & half.clean)
    assert abs(int(full.robust["pgd10"].sum()) - int(right.sum())) <= 3


def test_rounding_of_the_folded_network_decides_no_verdict(monkeypatch):
    """Crafted on a network that calls every image broken from the start."""
    test, whole = datasets.load("digits").test[:48], folding.folded

    def wrong(model):
        function = whole(model)
        shift = tf.constant([[1e3] + 9 * [0.0]])

        def rounded(x):
            outputs = function(x)
            return {**outputs, "logits": outputs["logits"] + shift}

        return rounded

    expected = evaluation.evaluate(linear(), test, "pgd10", epsilon=0.1)
    monkeypatch.setattr(folding, "folded", wrong)
    found = evaluation.evaluate(linear(), test, "pgd10", epsilon=0.1)
    assert expected.robust["pgd10"].sum() < expected.clean.sum()
    keep = test.y != 0  # those of class 0 are never broken in the wrong network's eyes
    np.testing.assert_array_equal(
        found.robust["pgd10"][keep], expected.robust["pgd10"][keep]
    )


def test_what_is_transferred_knows_the_surrogate_alone():
    """On KL, too, whose clean logits are then the surrogate's own."""
    test, other = datasets.load("digits").test[:48], linear(1)
    found = evaluation.evaluate(
        linear(), test, ["pgd3-kl"], epsilon=0.1, surrogate=other, examples=True
    )
    seeds = noise.example_seeds(0, 0, np.arange(48))
    x = tf.constant(test.floats())
    expected = protocol("pgd3-kl", 0.1)(other, x, test.y, seeds)
    x_adv = found.examples["transfer-pgd3-kl"]
    np.testing.assert_allclose(x_adv, expected, 0, 1e-6)
