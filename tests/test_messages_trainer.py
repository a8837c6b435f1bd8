"""What users are told of mistakes in the parts of a trainer and in its callbacks."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from mistakes import (
    ENDLESS,
    Cases,
    L,
    X,
    Y,
    dataset,
    meet,
    network,
    subclassed,
    trainer,
    with_vfd,
)

from vfd_tf.attacks import PGD
from vfd_tf.training import checks
from vfd_tf.training.callbacks import RobustAccuracy, StochasticWeightAverage, VFDCallback
from vfd_tf.training.distillation import MTARD
from vfd_tf.training.options import TrainingOptions

CASES = Cases()
told = CASES.case


told(
    "nothing to learn",
    r"PGDAT with MTARD has no term of a weight above 0, .* of robust or vanilla\.",
)(lambda: trainer(
    method="pgd-at",
    distillation=MTARD(adv=0, clean=0),
    teacher=network(name="teacher"),
    robust_teacher=network(name="robust"),
))  # fmt: skip


told("an unknown method", r"Unknown method 'trade'\. Did you mean 'trades'\? .*")(
    lambda: trainer(method="trade")
)
told("a method that is none", r"The method is a int: pass one of .*")(
    lambda: trainer(method=3)
)
told("an attack that trains nothing", r"The attack Square is not made for training: .*")(
    lambda: trainer(attack="square")
)
told("a radius of grey levels", r"An L-inf epsilon of 8 exceeds .*; write 8/255 if .*")(
    lambda: PGD(8)
)
told("no radius", r"An attack with epsilon=0 trains on clean images: .* such as 8 / 255\.")(
    lambda: trainer(attack=PGD(0.0))
)
told("no step", r"An attack with step_size=0 takes no step: .*")(
    lambda: trainer(attack=PGD(8 / 255, step_size=0.0))
)
told("VFD without a teacher", r"TRADES with VFD needs a vanilla teacher \(teacher=.*")(
    lambda: trainer(distillation="vfd")
)
told(
    "a teacher that nothing uses",
    r"teacher=\.\.\. is not used by TRADES with .*\.",
    warning=True,
)(lambda: trainer(teacher=network(name="teacher")))


@told("a student as its own teacher", r"The teacher and the student share weights: .*")
def _():
    student = network()
    with_vfd(student, student)


@told("a partner that is the teacher", r"The .*teacher and the .* share weights: .*")
def _():
    one = network(name="one")
    trainer(
        method="hat", distillation="lbgat", teacher=one, partner=one
    )  # fmt: skip


@told("a partner and a teacher of one layer", r"The .*share weights: give the .*")
def _():
    shared = L.Dense(3)
    one, two = network(shared, name="one"), network(shared, name="two")
    trainer(method="hat", distillation="lbgat", teacher=one, partner=two)


told("a layer that isn't there", r"The model 'net' has no layer 'feature'\. Did you .*")(
    lambda: with_vfd(layer="feature")
)
told(
    "a layer that training doesn't move",
    r"The layer 'rescaling.*' of the student depends on no trainable weights, .*",
)(lambda: with_vfd(rescaled(), rescaled(), layer="rescaling"))
told(
    "no feature map at all",
    r"The model 'flat' has no feature map \[n, h, w, d\] .*; choose one of its layers: .*",
)(lambda: with_vfd(flat(), flat(), layer="last"))
told(
    "a teacher of another width",
    r"The teacher doesn't fit: its 'features' has shape \(2, 2, 5\), the student's .*",
)(lambda: with_vfd(teacher=wide_teacher()))
told(
    "layers of a subclassed model",
    r"The layers of the subclassed model 'subclassed' can't be tapped: .*",
)(lambda: with_vfd(built(subclassed()), network()))
told(
    "random augmentation in the student",
    r"The model 'net' holds the random augmentation layer 'random_flip.*' .*dataset\.map\.",
)(lambda: trainer(network(L.Reshape((2, 2, 2)), L.RandomFlip(), L.Flatten(), L.Dense(3))))
told("clipping twice", r"The optimizer clips gradients itself: leave out .*")(
    lambda: trainer(
        optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2, clipnorm=1.0),
        options=TrainingOptions(clip_norm=1.0),
    )
)
told("nothing to train", r"The student 'net' has no weights to train: set trainable=.*")(
    lambda: trainer(frozen())
)
for name, options, fix in [
    (
        "clipping",
        {"global_clipnorm": 1.0},
        r".*use TrainingOptions\(clip_norm=\.\.\.\) instead",
    ),
    ("accumulation", {"gradient_accumulation_steps": 2}, ".*or train on one device"),
    (
        "averages",
        {"use_ema": True, "ema_overwrite_frequency": 5},
        r".*use TrainingOptions\(average='ema'\) instead",
    ),
]:
    told(f"Keras's {name} on two replicas", rf"Keras .*replica.*{fix}\.")(
        lambda options=options: checks.check_optimizer(
            keras.optimizers.SGD(0.1, **options), SimpleNamespace(num_replicas_in_sync=2)
        )
    )
told(
    "an average of nothing",
    r"Nothing is averaged: pass options=TrainingOptions\(average='ema'\)\.",
)(lambda: trainer().averaged().__enter__())
told("swa_start without averages", r"swa_start needs average='swa' .*")(
    lambda: TrainingOptions(swa_start=3)
)
told("a trainer as a model file", r"An AdversarialTrainer is saved as its student: .*")(
    lambda: keras.saving.save_model(trainer(), "trainer.keras")
)


@told(
    "a teacher at chance",
    r"The teacher classifies 0% of the first 24 training images correctly, near chance: .*",
    warning=True,
)
def _():
    teacher = network(name="teacher")
    made = with_vfd(teacher=teacher)
    made.fit(
        X, (teacher.predict(X, verbose=0).argmax(-1) + 1) % 3, batch_size=24, verbose=0
    )


def rescaled():
    inputs = keras.Input((4, 4, 1))
    x = L.Rescaling(2.0, name="rescaling")(inputs)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)), name="rescaled")


def frozen():
    student = network()
    student.trainable = False
    return student


def flat():
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs)), name="flat")


def wide_teacher():
    inputs = keras.Input((4, 4, 1))
    x = L.Conv2D(5, 3, name="features")(inputs)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


def built(model):
    model(X)
    return model


# Callbacks.
told(
    "VFDCallback without a teacher",
    r"VFDCallback needs teacher=\.\.\., a frozen vanilla network, to train a plain .*",
)(lambda: plain().fit(X, Y, callbacks=[VFDCallback()], verbose=0))
told(
    "VFDCallback on a model with another loss",
    r"VFDCallback trains with the losses of its method instead of the model's own: .*",
)(lambda: plain("mse").fit(X, Y, callbacks=[VFDCallback(network())], verbose=0))
told("VFDCallback with a layer alone", r"VFDCallback\(layer\) needs teacher=.*")(
    lambda: VFDCallback(layer="features")
)
told(
    "VFDCallback on other distillations",
    r"VFDCallback needs an AdversarialTrainer with distillation='vfd'; this one has .*",
)(lambda: trainer().fit(X, Y, callbacks=[VFDCallback()], verbose=0))
told("averages that aren't asked for", r"StochasticWeightAverage needs an Adversarial.*")(
    lambda: trainer().fit(X, Y, callbacks=[StochasticWeightAverage((X, Y), 0)], verbose=0)
)
told("a generator to validate on", r"A generator can be read only once: .*")(
    lambda: RobustAccuracy(((X, Y) for _ in range(1)), "fgsm")
)
told("endless data to validate on", ENDLESS)(
    lambda: RobustAccuracy(dataset().repeat(), "fgsm")
)
told("one-hot labels of other classes to validate on", r"The labels have shape .*")(
    lambda: trainer().fit(
        X, Y, callbacks=[RobustAccuracy((X, np.eye(5)[Y]), "fgsm")], verbose=0
    )
)
told("images of another size to validate on", r"The model '.*' takes images \(4, 4, 1\).*")(
    lambda: trainer().fit(
        X, Y, callbacks=[RobustAccuracy((X[:, :3], Y), "fgsm")], verbose=0
    )
)


@told(
    "training that diverges",
    r"Training diverged in step \d of epoch \d: .*loss.* not finite \(images .*\); lower "
    r"the learning rate, or .*",
)
def _():
    made = trainer(optimizer=keras.optimizers.SGD(1e30))
    made.fit(X, Y, epochs=2, verbose=0)


def plain(loss=None):
    model = network()
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)
