"""`perturb` is an attack to its end: in the ball, in the layout and range of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vfd_tf  # before TensorFlow
from vfd_tf import InputError, attacks, evaluation, noise

L = keras.layers
N, SHAPE, CLASSES, EPSILON = 40, (6, 6, 3), 4, 0.03
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(N, *SHAPE)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(L.Conv2D(8, 3)(inputs))))


MODEL = network()
Y = MODEL.predict(X, verbose=0).argmax(-1)


@pytest.mark.parametrize("name", ["fgsm", "pgd5", "mim5", "cw:steps=20"])
def test_it_is_the_attack_itself(name):
    x_adv = vfd_tf.perturb(MODEL, X, Y, name, epsilon=EPSILON)
    attack = evaluation.protocol(name, EPSILON).attack
    seeds = noise.example_seeds(0, 0, tf.range(N))
    objective = attacks.cross_entropy(tf.constant(Y, tf.int32))
    expected = attack(MODEL, tf.constant(X), objective, seeds=seeds)
    np.testing.assert_allclose(x_adv, expected, atol=1e-6)
    assert x_adv.shape == X.shape and x_adv.dtype == np.float32
    if attack.in_ball:
        assert np.abs(x_adv - X).max() <= EPSILON + 1e-6


def test_images_that_it_leaves_classified_correctly_are_robust_at_most():
    names = "apgd-ce:steps=10", "apgd-t:steps=5:targets=2"
    found = evaluation.evaluate(MODEL, (X, Y), names, epsilon=EPSILON)
    for name in names:
        x_adv = vfd_tf.perturb(MODEL, X, Y, name, epsilon=EPSILON)
        wrong = MODEL.predict(x_adv, verbose=0).argmax(-1) != Y
        assert wrong.any() and not (wrong & found.robust[name]).any()


def test_of_several_runs_an_image_that_stays_right_has_the_example_of_smallest_margin():
    """By hand: three PGD from other starts, each alone; the first wrong, else the least."""
    x_adv = vfd_tf.perturb(MODEL, X, Y, "pgd1:restarts=3:step_size=0.02", epsilon=EPSILON)
    attack = attacks.PGD(EPSILON, steps=1, step_size=0.02)
    seeds = noise.example_seeds(0, 0, tf.range(N))
    objective = attacks.cross_entropy(tf.constant(Y, tf.int32))
    runs = [seeds, noise.fork(seeds, 1), noise.fork(seeds, 2)]
    runs = [attack(MODEL, tf.constant(X), objective, seeds=own).numpy() for own in runs]
    least = np.full(N, np.inf)
    expected = np.empty_like(X)
    for run in runs:
        logits = MODEL(run).numpy()
        own, others = logits[range(N), Y], np.where(np.eye(CLASSES)[Y], -np.inf, logits)
        margin = own - others.max(-1)
        better = (least > 0) & (margin < least)
        expected[better], least[better] = run[better], margin[better]
    right = least > 0
    first = np.abs(expected - runs[0]).max((1, 2, 3)) == 0
    assert (right & ~first).any() and (~right).any()
    np.testing.assert_allclose(x_adv, expected, atol=1e-6)


def test_what_looks_like_probabilities_is_warned_about_where_it_is_not_refused():
    inputs = keras.Input(SHAPE)
    small = keras.Model(inputs, keras.ops.sigmoid(0.1 * MODEL(inputs)) * 0.9)
    with pytest.raises(InputError, match="probabilities"):
        vfd_tf.perturb(small, X, Y, "fgsm", epsilon=EPSILON)
    with pytest.warns(UserWarning, match="probabilities"):
        found = vfd_tf.perturb(small, X, Y, "fgsm", epsilon=EPSILON, strict=False)
    assert (np.abs(found - X) > 0).any()


def test_misclassified_images_are_attacked_too():
    other = (Y + 1) % CLASSES
    x_adv = vfd_tf.perturb(MODEL, X, other, "pgd5", epsilon=EPSILON)
    assert (np.abs(x_adv - X).max((1, 2, 3)) > 0).all()


def test_the_range_of_the_model_is_that_of_its_images():
    inputs = keras.Input(SHAPE)
    shifted = keras.Model(inputs, MODEL(L.Rescaling(0.5, 0.5)(inputs)))
    x_adv = vfd_tf.perturb(
        shifted, 2 * X - 1, Y, "pgd5", epsilon=EPSILON, bounds=(-1.0, 1.0)
    )
    expected = vfd_tf.perturb(MODEL, X, Y, "pgd5", epsilon=EPSILON)
    np.testing.assert_allclose(x_adv, 2 * expected - 1, atol=1e-5)


def test_the_layout_of_the_model_is_that_of_its_images():
    inputs = keras.Input((3, 6, 6))
    first = keras.Model(inputs, MODEL(L.Permute((2, 3, 1))(inputs)))
    x_adv = vfd_tf.perturb(first, np.moveaxis(X, -1, 1), Y, "pgd5", epsilon=EPSILON)
    expected = vfd_tf.perturb(MODEL, X, Y, "pgd5", epsilon=EPSILON)
    np.testing.assert_allclose(np.moveaxis(x_adv, 1, -1), expected, atol=1e-6)


def test_batches_and_one_hot_labels_change_nothing():
    attack, one_hot = attacks.PGD(EPSILON, steps=5), np.eye(CLASSES)[Y]
    one = vfd_tf.perturb(MODEL, X, Y, attack)
    other = vfd_tf.perturb(MODEL, X, one_hot, attack, batch_size=7)
    np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": 255 * X}, "divide by 255"),
        ({"y": Y + 10}, "but the model has 4 classes"),
        ({"attack": "pgdd20"}, "Unknown attack"),
        ({"norm": "l2"}, "Name the radius of the l2 ball"),
    ],
)
def test_what_can_not_be_attacked_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        vfd_tf.perturb(**{"model": MODEL, "x": X, "y": Y, **arguments})
