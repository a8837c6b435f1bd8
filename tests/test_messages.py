"""What users are told: every mistake and the one sentence that names its fix.

A case is a function that makes the mistake, under the message it must meet: a regular
expression that has to match the whole sentence. Cases are refused with `InputError`, in
Python before anything is trained, at the command line with exit code 2 and one line on
stderr. Cases marked `warning=True` go on, with that warning.
"""

import contextlib
import io
import os
import re
import warnings
from types import SimpleNamespace
from unittest import mock

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vfd_tf import AdversarialTrainer, InputError, files
from vfd_tf.cli import main
from vfd_tf.data import image_folders
from vfd_tf.attacks import PGD, Square, cross_entropy
from vfd_tf.training import checks
from vfd_tf.training.callbacks import (
    RobustAccuracy,
    StochasticWeightAverage,
    VFDCallback,
)
from vfd_tf.training.distillation import MTARD, VFD
from vfd_tf.evaluation import evaluate
from vfd_tf.training.options import TrainingOptions

CASES = []


def case(name, message, warning=False):
    """Registers a mistake; `message` has to match what the user reads, as a whole."""

    def register(mistake):
        CASES.append(pytest.param(mistake, message, warning, id=name))
        return mistake

    return register


def command_line(*words):
    """Runs `python run.py WORDS`; raises what it prints on stderr as an `InputError`."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = main.main(["run.py", *words])
    lines = [li for li in stderr.getvalue().splitlines() if li.startswith("error: ")]
    if code:
        assert code == 2 and len(lines) == 1, stderr.getvalue()
        raise InputError(lines[0].removeprefix("error: "))


# --- training ---------------------------------------------------------------------------

X = np.random.default_rng(0).uniform(size=(24, 4, 4, 1)).astype("float32")
Y = np.arange(24) % 3
ONE_HOT, GREY = np.eye(3)[Y], np.where(X < 0.5, 0, 255).astype("float32")
L = keras.layers


def network(*end, shape=(4, 4, 1), batch_size=None, name="net"):
    """Images -> features "features" -> 3 logits, or another end."""
    x = inputs = keras.Input(shape, batch_size=batch_size)
    for layer in (L.Conv2D(2, 3, name="features"), L.Flatten(), *(end or (L.Dense(3),))):
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def subclassed(layers=()):
    """A model of `network` and more layers whose graph can't be seen."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="subclassed")
            self.inner, self.more = network(), list(layers)

        def call(self, x):
            x = self.inner(x)
            for layer in self.more:
                x = layer(x)
            return x

    return Subclassed()


def trainer(student=None, method="trades", optimizer="sgd", metrics=None, **fields):
    made = AdversarialTrainer(student or network(), method, **{"attack": "fgsm", **fields})
    made.compile(optimizer, metrics=metrics)
    return made


def with_vfd(student=None, teacher=None, layer="features", method="trades", **fields):
    vfd = VFD(layer=layer)
    teacher = teacher or network(name="teacher")
    return trainer(student, method, distillation=vfd, teacher=teacher, **fields)


def told(name, message, warning=False):
    """A mistake in one expression."""
    return lambda mistake: case(name, message, warning)(mistake)


def fits(name, message, *data, warning=False, **arguments):
    case(name, message, warning)(lambda: trainer().fit(*data, verbose=0, **arguments))


def dataset(x=X, y=Y, size=8):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


told(
    "nothing to learn",
    r"PGDAT with MTARD has no term of a weight above 0, .* of robust or vanilla\.",
)(lambda: trainer(
    method="pgd-at",
    distillation=MTARD(adv=0, clean=0),
    teacher=network(name="teacher"),
    robust_teacher=network(name="robust"),
))  # fmt: skip


ENDLESS = r"The data set repeats for ever: take \.repeat\(\) off, or bound it with .*\."

# The data of a fit.
fits(
    "grey levels",
    r"The images range from 0 to 255; attacks need float32 in \[0, 1\]: divide by 255 .*",
    GREY,
    Y,
)
fits("integer images", r"The images are uint8; .* x / 255\.", (255 * X).astype("uint8"), Y)
fits(
    "labels out of range",
    r"The labels range from 0 to 7, but the model has 3 classes, 0 to 2\.",
    X,
    np.arange(24) % 8,
)
fits(
    "one-hot labels of other classes",
    r"The labels have shape \(24, 4\): pass class indices \[n\], or distrib.*",
    X,
    np.eye(4)[Y],
)
fits(
    "labels of text", r"The labels are text or objects; number .*", X, np.array(["a"] * 24)
)
fits("fractions as labels", r"The labels are float64; .*", X, Y + 0.5)
fits("no labels", r"There are no labels: pass y, one label an image\.", X)
fits("fewer labels", r"There are 24 images and 23 labels: pass one each\.", X, Y[:-1])
fits(
    "weights of classes for images",
    r"sample_weight has shape \(8, 3\) for 8 images: pass one weight an image, .*",
    X,
    Y,
    sample_weight=ONE_HOT,
    batch_size=8,
)
fits("class weights", r"class_weight is not supported: .*", X, Y, class_weight={0: 2.0})
fits(
    "batches in a new order", r"shuffle='batch' is not supported: .*", X, Y, shuffle="batch"
)
fits(
    "a list as data",
    r"The images are a list: pass one array of them, as fit\(x, y\), or a tf\.data set .*",
    [(X, Y)],
)
fits("a list of one input", r"The images are a list: pass one array of them, .*", [X], Y)
fits("inputs by name", r"The images are a dict: pass one array .*", {"image": X}, Y)
for size in (-4, 16.0):
    fits(
        f"{size} images in a batch",
        rf"batch_size must be a whole number from 1; got {size}\.",
        X,
        Y,
        batch_size=size,
    )
fits(
    "NaN among the images",
    r"Some images are NaN or infinite: repair them, or leave them out\.",
    np.where(X.max() == X, np.nan, X),
    Y,
)
fits(
    "a later batch with NaN",
    r"A later batch has images that are NaN or infinite: repair them, or leave them out\.",
    dataset().concatenate(dataset(np.full_like(X, np.nan))),
)
fits("an endless data set", ENDLESS, dataset().repeat())
fits(
    "labels beside a data set",
    r"With a data set, labels and sample_weight belong into it: \(x, y, weight\)\.",
    dataset(),
    Y,
)
fits(
    "a split of a data set",
    r"validation_split needs arrays; pass validation_data=\.\.\. instead\.",
    dataset(),
    validation_split=0.5,
)
fits(
    "a split of everything",
    r"validation_split must be between 0 and 1; got 1\.",
    X,
    Y,
    validation_split=1,
)
fits("an empty data set", r"The data set is empty\.", dataset().take(0))
fits(
    "a later batch of grey levels",
    r"A later batch has images from 0 to 255: divide all images by 255, or clip them .*",
    dataset().concatenate(dataset(GREY)),
)
fits(
    "a later batch of other labels",
    r"A later batch has labels from 5 to 7: number the 3 classes from 0\.",
    dataset().concatenate(dataset(y=Y + 5)),
)
fits(
    "batches of two sizes",
    r"A batch of 4 images is dropped: training keeps to the usual 10; .*",
    dataset(size=10),
    warning=True,
)
fits(
    "images that never fill a batch",
    r"The last 4 of 24 images fill no batch of 10 and are never used: .*",
    X,
    Y,
    batch_size=10,
    shuffle=False,
    warning=True,
)
told("a batch size that the model fixes", r"The model takes batches of 8 images alone: .*")(
    lambda: trainer(network(batch_size=8)).fit(X, Y, batch_size=6, verbose=0)
)


@told(
    "TensorBoard that isn't installed",
    r"The TensorBoard callback needs tensorboard, which isn't installed: .*",
)
def _():
    with mock.patch("importlib.util.find_spec", return_value=None):
        trainer().fit(X, Y, callbacks=keras.callbacks.TensorBoard("logs"), verbose=0)


# The parts of a trainer.
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


# --- attacks and evaluation -------------------------------------------------------------


def judged(model=None, data=(X, Y), attacks=("fgsm",), **arguments):
    return evaluate(model or network(), data, attacks, **{"epsilon": 0.1, **arguments})


def with_labels(model, x=X):
    """The data that a model classifies correctly."""
    return x, model.predict(x, verbose=0).argmax(-1)


# What is called wrongly.
told("no attacks", r"attacks is None: pass names, such as \['pgd20'\], or \[\] for the .*")(
    lambda: judged(attacks=None)
)
for seed in (None, "a", -1, 0.5):
    told(f"a seed of {seed}", r"seed must be a whole number from 0 to 2\^32 - 1; got .*")(
        lambda seed=seed: judged(seed=seed)
    )
told("weights of classes", r"There are 72 weights for 24 images: pass one each\.")(
    lambda: judged(data=(X, Y, ONE_HOT))
)
told(
    "grey levels in an attack", r"The images are uint8: pass floats in \[0, 1\], x / 255\."
)(lambda: PGD()(network(), tf.cast(X, "uint8"), cross_entropy(Y)))
told("an attack on images without channels", r"Square takes images \[n, h, w, c\]; .*")(
    lambda: Square()(network(), tf.constant(X[..., 0]), cross_entropy(Y))
)


@told(
    "a function in 16 bits",
    r"The function 'half' returns float16, and verdicts are those of 16 bits: .*float32\.",
    warning=True,
)
def _():
    model = network()

    def half(x):
        return tf.cast(model(x), "float16")

    judged(half, strict=False)


@told(
    "a subclassed model in 16 bits",
    r"The subclassed model 'subclassed' computes in 16 bits; verdicts need float32: .*",
)
def _():
    judged(subclassed([L.Dense(3, dtype="mixed_float16")]))


# What the model returns.
for end in ("softmax", "sigmoid"):
    told(
        f"a final {end}",
        r"The model 'net' returns probabilities; remove its final softmax or sigmoid .*",
    )(lambda end=end: judged(network(L.Dense(3, end))))
    told(
        f"a {end} in a subclassed model, reshaped",
        r"The model 'subclassed' returns probabilities; remove its final softmax or .*",
    )(lambda end=end: judged(subclassed([L.Activation(end), L.Reshape((3,))])))
told(
    "an ensemble's mean of probabilities",
    r"The model 'net' returns probabilities, though not from a final softmax: of an .*",
)(lambda: judged(network(L.Dense(3, "softmax"), lambda p: 0.5 * p + 0.5 * p[:, ::-1])))
told(
    "a sigmoid written by hand",
    r"The model 'net' returns numbers between 0 and 1, as a sigmoid does: leave it out, .*",
)(lambda: judged(network(L.Dense(3), lambda z: 0.5 + 0.5 * keras.ops.tanh(40 * z))))
told(
    "one logit",
    r"The model 'net' returns one number an image: if it is a logit, pass keras\.Model\(.*",
)(lambda: judged(network(L.Dense(1))))
told(
    "one probability",
    r"The model 'net' returns one number an image, a probability: set model\.layers.*",
)(lambda: judged(network(L.Dense(1, "sigmoid"))))
told(
    "one logit of a subclassed model",
    r"The model 'subclassed' returns one number an image: let it return keras\.ops\.pad.*",
)(lambda: judged(subclassed([L.Dense(1)])))
told("maps instead of logits", r"The model 'net' must return logits \[n, classes\] as .*")(
    lambda: judged(network(L.Dense(4), L.Reshape((2, 2))))
)
told(
    "outputs without logits", r"The model 'net' returns \['a'\]; name one output 'logits'\."
)(lambda: judged(keras.Model((n := network()).inputs, {"a": n.output}, name="net")))
told("NaN on clean images", r"The model 'net' returns logits that are not finite\.")(
    lambda: judged(network(L.Dense(3), lambda z: keras.ops.log(z - 1e9)))
)
told("integer images as input", r"The model '.*' takes uint8 images, which have no grad.*")(
    lambda: judged(integer_model())
)
told("two inputs", r"The model '.*' has 2 inputs; an image classifier has one\.")(
    lambda: judged(two_inputs())
)
told("a class instead of a model", r"Subclassed is a class: pass a model, Subclassed\(.*")(
    lambda: judged(type(subclassed()))
)
told(
    "a number instead of a model", r"The model is a float: pass a Keras model, a path, .*"
)(lambda: judged(3.0))
told("a path to nothing", r"There is no model file nothing\.keras\.")(
    lambda: judged("nothing.keras")
)
told("float16 throughout", r"The model .* computes in 16 bits whatever its policy is; .*")(
    lambda: judged(network(L.Dense(3), lambda z: keras.ops.cast(z, "float16")))
)


def integer_model():
    inputs = keras.Input((4, 4, 1), dtype="uint8")
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Rescaling(1 / 255)(inputs))))


def two_inputs():
    one, two = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    return keras.Model([one, two], L.Dense(3)(L.Flatten()(one + two)))


# The data and the threat model.
told("grey levels to evaluate on", r"The images range from 0 to 255; .*")(
    lambda: judged(data=(GREY, Y))
)
told(
    "images of another size", r"The model 'net' takes images \(4, 4, 1\), the data has .*"
)(lambda: judged(data=(X[:, :3], Y)))
told("labels out of the classes", r"The labels range from 0 to 7, but the model has 3 .*")(
    lambda: judged(data=(X, np.arange(24) % 8))
)
told("an unbatched data set", r"An element of the data is a single image of shape .*")(
    lambda: judged(data=tf.data.Dataset.from_tensor_slices((X, Y)))
)
told("an endless evaluation", ENDLESS)(lambda: judged(data=dataset().repeat()))
told("an evaluation of nothing", r"The data set is empty\.")(
    lambda: judged(data=(X[:0], Y[:0]))
)
told("a text as radius", r"epsilon is the text '8/255': pass a number, such as 8 / 255\.")(
    lambda: judged(epsilon="8/255")
)
told(
    "several radii", r"epsilon has shape \(2,\): pass one number, .* once for each radius\."
)(lambda: judged(epsilon=[0.1, 0.2]))
told("no L2 radius", r"Name the radius of the l2 ball, such as epsilon=0\.5\.")(
    lambda: evaluate(network(), (X, Y), ("fgsm",), norm="l2")
)
told("bounds by channel", r"bounds must be two numbers, \(low, high\): put a normal.*")(
    lambda: judged(bounds=([0, 0, 0], [1, 1, 2]))
)
told("an attack that isn't there", r"Unknown attack 'pdg'\. Did you mean 'pgd'\? .*")(
    lambda: judged(attacks=("pdg",))
)
told(
    "pgd without steps", r"The protocol 'pgd' needs its number of steps, such as 'pgd20'\."
)(lambda: judged(attacks=("pgd",)))
told("a setting without a value", r"'c' in 'cw:c' is no setting: write name=value\.")(
    lambda: judged(attacks=("cw:c",))
)
told("an attack outside the ball", r"The attack 'n-fgsm' leaves the epsilon ball: .*")(
    lambda: judged(attacks=("n-fgsm",))
)
told("a surrogate of other classes", r"The surrogate '.*' has 5 classes, the model 3: .*")(
    lambda: judged(surrogate=network(L.Dense(5)))
)
told("no images in a batch", r"batch_size must be a whole number from 1; got 0\.")(
    lambda: judged(batch_size=0)
)


def warned(name, message):
    """A mistake whose evaluation has the warning."""

    def register(mistake):
        def judge():
            for text in mistake().warnings:
                warnings.warn(text, stacklevel=1)

        case(name, message, warning=True)(judge)

    return register


warned(
    "random outputs",
    r"The model's outputs change from call .*; use autoattack-rand:passes=20, or eot=20 .*",
)(lambda: judged(network(L.Dense(3), L.Lambda(lambda z: z + keras.random.normal((3,))))))


@warned(
    "logits of NaN",
    r"The model returned NaN or infinite logits \d+ times, for clean or adversarial .*",
)
def _():
    model = network()
    largest = np.abs(model.predict(X, verbose=0)).max()
    z = model.output
    near = keras.ops.max(keras.ops.abs(z), -1, keepdims=True) <= 1.01 * largest
    undefined_far_away = keras.Model(model.inputs, z / keras.ops.cast(near, "float32"))
    return judged(undefined_far_away, with_labels(model), epsilon=0.5)


warned(
    "an objective that few classes lack",
    r"apgd-t.*: targeted-dlr is not defined on 3 classes; \S+ stands in for it\.",
)(lambda: judged(attacks=("apgd-t",)))


# --- command line -----------------------------------------------------------------------

DIGITS = ("--dataset=digits", "--arch=resnet8", "--width=0.125", "--batch_size=256")
NATURAL = (*DIGITS, "--method=natural", "--distill=none", "--epsilon=0.2", "--epochs=1")
TRADES = (*DIGITS, "--method=trades", "--distill=none", "--lr_milestones=")


def refused_at_once(name, message, *words):
    case(name, message)(lambda: command_line(*words))


def warned_at_once(name, message, *words):
    """A warning before the refusal of `--batch_size=5000`, so that nothing is trained."""

    def mistake():
        with contextlib.suppress(InputError):
            command_line(*words, "--batch_size=5000")

    case(name, message, warning=True)(mistake)


refused_at_once(
    "an unknown flag",
    r"Unknown flag --vfd_lamda; the nearest name is --vfd_lambda\.",
    "--vfd_lamda=1",
)
refused_at_once("an unknown flag near none", r"Unknown flag --qqq; .*--help.*", "--qqq=1")
refused_at_once(
    "an unknown mode",
    r"Unexpected argument 'evalute'; .*did you mean evaluate\.",
    "evalute",
)
refused_at_once(
    "a flagfile that isn't there",
    r"The --flagfile can't be opened: .*'nope'\.",
    "--flagfile=nope",
)
refused_at_once(
    "a learning rate of inf", r".*--learning_rate must be finite.*", "--learning_rate=inf"
)
refused_at_once(
    "a radius of NaN", r".*--epsilon must be at least 0\.0; got nan\.", "--epsilon=nan"
)
refused_at_once(
    "adversarial training without a radius",
    r"An attack with epsilon=0 trains on clean images: use method='natural'.*",
    *TRADES,
    "--epsilon=0",
)
refused_at_once(
    "adversarial training without a step",
    r"An attack with step_size=0 takes no step: .*, or name one such as 2 / 255\.",
    *TRADES,
    "--epsilon=0.2",
    "--pgd_step_size=0",
)
refused_at_once(
    "a data_dir with a typo",
    r"There is no folder nowhere for --data_dir: correct it, or make it first.*",
    "--dataset=cifar10",
    "--data_dir=nowhere",
)
refused_at_once(
    "--continue_from no run",
    r"--continue_from=nowhere is no run directory .*",
    *NATURAL,
    "--continue_from=nowhere",
)
refused_at_once(
    "a place that can't be written",
    r"/proc/nope can't be written \(.*\): choose another --workdir or --runs\.",
    *NATURAL,
    "--workdir=/proc/nope",
)


@case(
    "a flagfile of bytes", r"The --flagfile is no text file; name one with a flag a line.*"
)
def _():
    with open("bytes", "wb") as file:
        file.write(bytes([0xFF, 0xFE, 0x00]) * 100)
    command_line("--flagfile=bytes")


@case("a workdir that is a file", r".*afile is a file, no folder: choose another place.*")
def _():
    open("afile", "w").close()
    command_line(*NATURAL, "--workdir=afile")


@case("a run.json cut short", r"run/run\.json can't be read \(.*\): restore it .*\.")
def _():
    os.mkdir("run")
    with open("run/run.json", "w") as file:
        file.write('{"identity": ')
    command_line(*NATURAL, "--workdir=run")


@case("a directory of another process", r"run is in use, started .*: wait for it, or .*")
def _():
    with files.owned("run"):
        command_line(*NATURAL, "--workdir=run")


warned_at_once(
    "a flag of another method",
    r"--hat_beta has no effect: it belongs to --method=hat, and --method is trades\.",
    *TRADES,
    "--hat_beta=2",
)
warned_at_once(
    "a flag that another makes idle",
    r"--lr_rise has no effect: it needs --schedule=one-cycle\.",
    *TRADES,
    "--lr_rise=0.3",
)
warned_at_once(
    "a flag of another mode",
    r"--model has no effect in the mode train\.",
    *TRADES,
    "--model=a.keras",
)


# Data sets from files, evaluations, info and plot.


def folder_of_images(root="photos", classes=("cat", "dog"), suffix="png", **odd):
    """A folder of two 4x4 images a class; `odd`: file -> pixels or bytes instead."""
    for name in [f"{c}/{i}.{suffix}" for c in classes for i in (0, 1)]:
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(f"{root}/{name}")
    for name, content in odd.items():
        path = f"{root}/cat/{name}.{suffix}"
        if isinstance(content, bytes):
            with open(path, "wb") as file:
                file.write(content)
        else:
            Image.fromarray(content).save(path)
    return root


def image_file(name, message, suffix="png", warning=False, **odd):
    def mistake():
        image_folders.read_folder(folder_of_images(suffix=suffix, **odd))[0].everything()

    case(name, message, warning)(mistake)


DAMAGED = r"photos/cat/a\.{} can't be read as an image \({}\); replace or remove it\."
image_file("an empty image", DAMAGED.format("png", "the file is empty"), a=b"")
image_file(
    "a damaged JPEG",
    DAMAGED.format("jpg", "the file is damaged or cut short"),
    "jpg",
    a=b"\xff\xd8\xff\xe0 no more",
)
image_file(
    "a web page for an image",
    DAMAGED.format("webp", "it is damaged or of no image format"),
    "webp",
    a=b"<html>",
)
image_file(
    "transparent pixels",
    r"photos/cat/a\.png has 4 channels; save it as greyscale or RGB, without .*",
    a=np.zeros((4, 4, 4), "uint8"),
)
image_file(
    "an image of another size",
    r"photos/cat/a\.bmp is 5x4x3 pixels where photos/cat/0\.bmp is 4x4x3; resize .*",
    "bmp",
    a=np.zeros((5, 4, 3), "uint8"),
)
image_file(
    "pixels of 32 bits",
    DAMAGED.format("tiff", r"its pixels are 32-bit numbers of no known range: .*"),
    "tiff",
    a=np.zeros((4, 4), "float32"),
)


@case(
    "files that are left out",
    r"Images are read from 4 of the 6 files in photos; left out: 1 \.csv, 1 \.txt\.",
    warning=True,
)
def _():
    folder_of_images()
    for name in ("labels.csv", "cat/notes.txt"):
        open(f"photos/{name}", "w").close()
    image_folders.read_folder("photos")[0].everything()


@case(
    "images of 16 bits",
    r"4 of 4 images of photos have 16 bits a channel, of which the upper 8 are read\.",
    warning=True,
)
def _():
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        os.makedirs(os.path.dirname(f"photos/{name}"), exist_ok=True)
        Image.fromarray(np.zeros((4, 4), "uint16")).save(f"photos/{name}.png")
    image_folders.read_folder("photos")[0].everything()


@case(
    "training on test images alone",
    r"npz:test\.npz has test images alone; save x_train and y_train in it, to train on\.",
)
def _():
    np.savez("test.npz", x_test=np.zeros((4, 8, 8, 1), "uint8"), y_test=np.arange(4))
    command_line("--dataset=npz:test.npz", "--epochs=1")


def linear(path="m.keras", classes=10, shape=(8, 8, 1)):
    inputs = keras.Input(shape)
    logits = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, logits).save(path)


def evaluated(name, message, *words, before=linear):
    def mistake():
        before()
        words_ = ("--dataset=digits", "--max_images=8", "--eval_epsilon=0.1")
        command_line("evaluate", "--eval_attacks=fgsm", *words_, *words)

    case(name, message)(mistake)


def run_without_student():
    os.mkdir("run")
    with open("run/run.json", "w") as file:
        file.write("{}")


def damaged_results(name, content):
    def before():
        linear()
        os.makedirs("m.eval", exist_ok=True)
        with open("m.eval/results.json", "w") as file:
            file.write('{"tables": {}, "rows": []}')
        with open(f"m.eval/{name}", "w") as file:
            file.write(content)

    return before


MODEL = "--model=m.keras"
evaluated("no model", r"Name the model: python run\.py evaluate --model=FILE\.keras\.")
evaluated(
    "a model that isn't there", r"There is no model file no\.keras.*", "--model=no.keras"
)
evaluated(
    "a model cut short",
    r"m\.keras is damaged or cut short: copy it again, or train it anew\.",
    "--model=m.keras",
    before=lambda: (linear(), os.truncate("m.keras", 1000)),
)
evaluated(
    "a run without a student",
    r"The run run has no best\.keras yet: wait for its first epoch\.",
    "--model=run",
    before=run_without_student,
)
evaluated(
    "a model of fewer classes",
    r"m\.keras takes images \(8, 8, 1\) of 3 classes; digits has \(8, 8, 1\) and 10: .*",
    MODEL,
    before=lambda: linear(classes=3),
)
for bounds, message in (
    ("low,high", r"--bounds=low,high must be two numbers, low and high, such as -1,1\."),
    ("1,-1", r"bounds must rise from low to high; got 1 and -1\."),
):
    evaluated(f"bounds of {bounds}", message, MODEL, f"--bounds={bounds}")
evaluated(
    "a results.json cut short",
    r"m\.eval/results\.json can't be read \(.*\): remove m\.eval, or choose another .*",
    MODEL,
    before=damaged_results("results.json", "{"),
)
evaluated(
    "a verdicts.npz that is none",
    r"m\.eval/verdicts\.npz can't be read \(.*\): remove m\.eval, or choose another .*",
    MODEL,
    before=damaged_results("verdicts.npz", "no archive"),
)
evaluated(
    "a folder of another model",
    r"m\.eval/journal holds an evaluation with model_sha256 .* \(now .*\); choose .*",
    MODEL,
    before=lambda: (
        linear(),
        command_line("evaluate", MODEL, "--dataset=digits", "--max_images=8",
                     "--eval_attacks=fgsm", "--eval_epsilon=0.1"),
        linear(),
    ),
)  # fmt: skip
refused_at_once("info of nothing", r"Name what to show: python run\.py info .*", "info")
refused_at_once(
    "info of what is no run", r"nowhere is neither a run directory .*", "info", "nowhere"
)
refused_at_once("a plot of nothing", r"Name the run directories to plot: .*", "plot")
refused_at_once(
    "a plot of what is no run", r"nowhere is neither a run directory .*", "plot", "nowhere"
)


# --- the test itself --------------------------------------------------------------------


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if warning:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mistake()
        told = [str(w.message) for w in caught]
        assert any(re.fullmatch(message, text) for text in told), told
        return
    with pytest.raises(InputError) as refusal:
        mistake()
    text = str(refusal.value)
    assert "\n" not in text and text.endswith((".", "?")), text
    assert re.fullmatch(message, text), text
