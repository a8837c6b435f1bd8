"""What users are told of mistakes in evaluations: models, data, threat models, attacks."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from mistakes import (
    ENDLESS,
    GREY,
    ONE_HOT,
    Cases,
    L,
    X,
    Y,
    dataset,
    meet,
    network,
    subclassed,
)

from vfd_tf.attacks import PGD, Square, cross_entropy
from vfd_tf.evaluation import evaluate

CASES = Cases()
case = told = CASES.case


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


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)
