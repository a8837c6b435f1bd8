"""Networks of one training: which may share what, and how parts and attacks are named."""

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
from keras import layers as L

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    attacks,
    distillation,
    methods,
)

SHAPE, CLASSES = (6, 6, 1), 3
X = np.random.RandomState(0).rand(32, *SHAPE).astype("float32")
Y = np.arange(32) % CLASSES


def network(first=None):
    inputs = keras.Input(SHAPE)
    x = (first or L.Conv2D(4, 3))(inputs)
    x = L.ReLU(name="layer1")(L.Conv2D(4, 3)(x))
    return keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(x)))


def train(*args, **kwargs):
    trainer = AdversarialTrainer(*args, attack=attacks.FGSM(0.1), **kwargs)
    trainer.compile(keras.optimizers.SGD(0.1))
    trainer.fit(X, Y, verbose=0)
    return trainer


ROLES = {
    "student and teacher": ("hat", "none", ("student", "teacher")),
    "student and robust teacher": ("pgd-at", "kd", ("student", "robust_teacher")),
    "student and partner": ("trades", "lbgat", ("student", "partner")),
    "teacher and partner": ("hat", "lbgat", ("teacher", "partner")),
}


@pytest.mark.parametrize("method, distill, shared", ROLES.values(), ids=ROLES)
@pytest.mark.parametrize("how", ["one network", "one layer"])
def test_roles_that_training_would_move_together_are_refused(method, distill, shared, how):
    roles = "student", "teacher", "robust_teacher", "partner"
    if how == "one network":
        same = network()
        given = {role: same if role in shared else network() for role in roles}
    else:
        layer = L.Conv2D(4, 3)
        given = {role: network(layer if role in shared else None) for role in roles}
    with pytest.raises(InputError, match="share weights: give the"):
        AdversarialTrainer(method=method, distillation=distill, **given)


def test_two_frozen_teachers_may_be_one_network():
    teacher = network()
    before = teacher.get_weights()
    train(network(), "pgd-at", distillation="kd", teacher=teacher, robust_teacher=teacher)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", ["normalisation", "frozen layer"])
def test_what_no_training_moves_may_be_shared(kind):
    if kind == "normalisation":
        layer = L.Normalization()
        layer.adapt(X)
    else:
        layer = L.Conv2D(4, 3)
        network(layer)
        layer.trainable = False
    before = [np.copy(v) for v in layer.get_weights()]
    train(network(layer), "hat", teacher=network(layer))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "method", ["trades", methods.TRADES, methods.TRADES()], ids=["name", "class", "object"]
)
@pytest.mark.parametrize("vfd", ["vfd", distillation.VFD, distillation.VFD()])
def test_a_part_is_a_name_a_class_or_an_object(method, vfd):
    trainer = AdversarialTrainer(network(), method, None, vfd, teacher=network())
    assert trainer.method == methods.TRADES() and trainer.distillation == distillation.VFD()


NAMED = {
    "pgd10": attacks.PGD(8 / 255, steps=10),
    "pgd7:epsilon=0.1": attacks.PGD(0.1, steps=7),
    "pgd": attacks.PGD(),
    "fgsm": attacks.FGSM(),
    "n-fgsm": attacks.NFGSM(),
    "mim5": attacks.MIM(steps=5),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_attack_may_be_named(name):
    assert AdversarialTrainer(network(), "pgd-at", name).attack == NAMED[name]


def test_an_attack_may_be_a_class():
    assert AdversarialTrainer(network(), "pgd-at", attacks.FGSM).attack == attacks.FGSM()


def test_a_teacher_near_chance_is_warned_of_and_a_good_one_is_not(recwarn):
    inputs = keras.Input(SHAPE)
    grey = keras.Model(inputs, network()(L.Rescaling(0.0)(inputs)))  # blind: one class
    with pytest.warns(UserWarning, match="teacher classifies .* near chance"):
        train(network(), "hat", teacher=grey)
    flat = X.reshape(32, -1)
    good = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(CLASSES)])
    solution = np.linalg.lstsq(flat, np.eye(CLASSES)[Y], rcond=None)[0]
    good.set_weights([solution, np.zeros(CLASSES)])
    recwarn.clear()
    train(network(), "hat", teacher=good)
    trainer = AdversarialTrainer(network(), "hat", teacher=grey)
    trainer.compile("sgd")
    trainer.evaluate(X, Y, verbose=0)  # which uses no teacher
    assert not [w for w in recwarn if "near chance" in str(w.message)]


def test_a_trainer_as_a_teacher_stands_for_its_student():
    trained = train(network(), "natural")
    for teacher in (trained, trained.student):
        trainer = AdversarialTrainer(network(), "natural", None, "vfd", teacher=teacher)
        logits = trainer.teacher(X)["logits"]
        np.testing.assert_array_equal(logits, trained.student(X))


def test_regularisers_of_the_partner_join_the_loss_like_the_student_s():
    totals = {}
    for strength in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        regular = L.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(strength))
        partner, student = network(regular), network()
        trainer = AdversarialTrainer(student, "natural", None, "lbgat", partner=partner)
        trainer.compile(keras.optimizers.SGD(0.0))
        history = trainer.fit(X, Y, batch_size=32, verbose=0)
        totals[strength] = history.history["loss"][0]
    decay = np.square(regular.kernel).sum()
    np.testing.assert_allclose(totals[1.0] - totals[0.0], decay, rtol=1e-4)
