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
from vfd_tf.evaluation import evaluate, perturb
from vfd_tf.models.mixture import mixture

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
ANOTHER = (
    r"keras\.Model\(model\.inputs, model\.outputs\[0\]\), or with another of its outputs"
)


def several_outputs(pack):
    net = network()
    return keras.Model(net.inputs, pack(net.output, 2 * net.output), name="net")


told(
    "outputs without logits",
    rf"The model 'net' returns \['a', 'b'\]; name one output 'logits', or pass {ANOTHER}\.",
)(lambda: judged(several_outputs(lambda a, b: {"a": a, "b": b})))
told(
    "a list of outputs",
    rf"The model 'net' must return logits \[n, classes\] as its only .*: pass {ANOTHER}\.",
)(lambda: judged(several_outputs(lambda a, b: [a, b])))
for pack in (lambda p: [p], lambda p: {"probs": p}):
    told(
        f"probabilities in a {type(pack(0)).__name__}",
        r"The model 'net' returns probabilities; remove its final softmax or sigmoid .*",
    )(
        lambda pack=pack: judged(
            keras.Model(
                (n := network(L.Dense(3, "softmax"))).inputs, pack(n.output), name="net"
            )
        )
    )
    told(
        f"probabilities in a function's {type(pack(0)).__name__}",
        r"The model 'lambda' returns probabilities; remove its final softmax or .*",
    )(
        lambda pack=pack: judged(
            (lambda model: lambda x: pack(model(x)))(network(L.Dense(3, "softmax")))
        )
    )
told("NaN on clean images", r"The model 'net' returns logits that are not finite\.")(
    lambda: judged(network(L.Dense(3), lambda z: keras.ops.log(z - 1e9)))
)
told(
    "integer images as input",
    r"The model '.*' takes uint8 images: pass these and their range, bounds=\(0, 255\) .*",
)(lambda: judged(integer_model()))


@told(
    "integers computed with as such",
    r"The model '.*' computes with uint8 numbers, which have no gradient: build it with .*",
)
def _():
    inputs = keras.Input((4, 4, 1), dtype="uint8")
    odd = L.Flatten()(inputs * np.uint8(2))
    judged(keras.Model(inputs, L.Dense(3)(odd / 255)), bounds=(0, 255))


# Functions that TensorFlow can't trace, and models of other images without a graph.
LEAVES = r"The model '.*' leaves TensorFlow, as model\.predict, np\.asarray and .*\(x\)\."
told("a function of predictions", LEAVES)(
    lambda: judged((lambda m: lambda x: m.predict(x, verbose=0))(network()))
)
told("a function of NumPy arrays", LEAVES)(
    lambda: judged((lambda m: lambda x: m(np.asarray(x)))(network()))
)
told(
    "a function with Python's if",
    r"The model 'lambda' has Python's if, for or while on the values of tensors: .*",
)(
    lambda: judged(
        (lambda m: lambda x: m(x) if tf.reduce_max(x) > 2 else m(1 - x))(network())
    )
)


def built():
    class Built(keras.Model):
        def __init__(self):
            super().__init__(name="built")
            self.stack = [L.Conv2D(2, 3), L.Flatten(), L.Dense(3)]

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    model = Built()
    model(X[:1])
    return model


told(
    "images without channels",
    r"The model 'built' doesn't take images \(4, 4\): pass x\[\.\.\., None\], images .*",
)(lambda: judged(built(), (X[..., 0], Y)))
told(
    "other channels",
    r"The model 'built' doesn't take images \(4, 4, 3\): pass images of the shape that .*",
)(lambda: judged(built(), (np.repeat(X, 3, -1), Y)))
told(
    "a path in a mixture",
    r"'a\.keras' is no Keras model: load it with keras\.saving\.load.*",
)(lambda: mixture("a.keras", network(), 0.3))
told("Keras's order", r"attacks is an array: pass images and labels as one argument, .*")(
    lambda: evaluate(network(), X, Y)
)
told("a path as journal", r"journal is the path 'j': pass vfd_tf\.evaluation\.Journal\(.*")(
    lambda: judged(journal="j")
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
told(
    "grey levels to evaluate on",
    r"The images range from 0 to 255; .* needs bounds=\(0, 255\) \(--bounds=0,255\)\.",
)(lambda: judged(data=(GREY, Y)))
told(
    "images around 0",
    r"The images range from -\S+ to \S+; .* needs bounds=\(-1, 1\) \(--bounds=-1,1\)\.",
)(lambda: judged(data=(2 * X - 1, Y)))
told(
    "integer images",
    r"The images are uint8; pass bounds=\(0, 255\) \(--bounds=0,255\) for a .* x / 255\.",
)(lambda: judged(data=(GREY.astype("uint8"), Y)))
told(
    "colour images",
    r"The model 'net' takes images \(4, 4, 1\), .*: make them grey, x\.mean\(-1, .*",
)(lambda: judged(data=(np.repeat(X, 3, -1), Y)))
told(
    "grey images",
    r"The model 'net' takes images \(4, 4, 3\), .*: repeat the channel, np\.repeat\(.*",
)(lambda: judged(network(shape=(4, 4, 3))))
told(
    "a single image", r"The data is a single image of shape \(4, 4, 1\): pass a batch of .*"
)(lambda: judged(data=(X[0], Y[0])))
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
told("no L2 radius of L2", r"Name the radius of the l2 ball, such as epsilon=0\.5\.")(
    lambda: evaluate(network(), (X, Y), ("fgsm",), norm="L2")
)
told("an unknown norm", r"Unknown norm 'l1'\. .*Choose one of: linf, l2\.")(
    lambda: evaluate(network(), (X, Y), ("fgsm",), norm="l1")
)
told("a norm in a name", r"'l2-pgd20' names a norm: pass norm='l2' and .* as 'pgd20'\.")(
    lambda: judged(attacks=("L2-PGD20",))
)
told("eps", r"'eps' in 'pgd20:eps=0\.3' is called epsilon: epsilon=0\.3\.")(
    lambda: judged(attacks=("pgd20:eps=0.3",))
)
told("perturb on a surrogate", r"'transfer-pgd20' needs a surrogate, which perturb has .*")(
    lambda: perturb(network(), X, Y, "transfer-pgd20")
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


warned(
    "labels of other classes",
    r"The model classifies 0% of 24 clean images correctly, near chance: .*",
)(lambda: judged(model := network(), (X, (with_labels(model)[1] + 1) % 3)))
warned(
    "an L2 radius in grey levels",
    r"fgsm: an L2 ball of radius 127\.5 holds every image of this size .* by 255\.",
)(lambda: judged(norm="l2", epsilon=127.5))


@pytest.mark.parametrize(
    "attacks, arguments, data",
    [
        (["PGD3"], {"norm": "Linf"}, (X, Y)),
        (["PGD3"], {"norm": "l-inf"}, (X.tolist(), Y.tolist())),
        (["pgd3"], {}, (list(X), Y)),
    ],
)
def test_names_and_lists_are_taken_however_they_are_written(attacks, arguments, data):
    model = network()
    expected = judged(model, attacks=["pgd3"]).robust["pgd3"]
    (found,) = judged(model, data, attacks, **arguments).robust.values()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)
