"""Laws of two networks as one: mixtures of probabilities, means of weights."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from vfd_tf import evaluation
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import architectures, network
from vfd_tf.models.anatomy import anatomy
from vfd_tf.models.mixture import interpolation, mixture

L = keras.layers
SHAPE, CLASSES = (8, 8, 1), 5


def resnet(seed):
    """A classifier with random weights and BatchNorm statistics of its own."""
    keras.utils.clear_session()  # layers of all networks are named from the beginning
    keras.utils.set_random_seed(seed)
    net = architectures.resnet8(SHAPE, CLASSES, width=0.25, mean=0.4, variance=0.1)
    model, random = network.classifier(net), np.random.default_rng(seed)
    noise = (np.abs(random.normal(size=v.shape)) for v in model.weights)
    pairs = zip(model.get_weights(), noise, strict=True)
    model.set_weights([w * (1 + 0.3 * n) + 0.01 * n for w, n in pairs])
    return model


def dense(*layers, classes=CLASSES, shape=SHAPE, scale=1.0):
    model = keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(classes)])
    model.set_weights([scale * w for w in model.get_weights()])
    return model


def images(count=16):
    return np.random.default_rng(3).uniform(size=(count, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two networks of files, whose layers have the same names."""
    folder, found = tmp_path_factory.mktemp("pair"), []
    for seed in (1, 2):
        resnet(seed).save(folder / f"{seed}.keras")
        found.append(network.load(str(folder / f"{seed}.keras")))
    assert [la.name for la in found[0].layers] == [la.name for la in found[1].layers]
    return found


def gradient(model, x, y):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True)
    return tape.gradient(losses, x).numpy()


def log_softmax(z):
    z = np.asarray(z, "float64")
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_mixture_is_that_of_the_probabilities(pair, weight):
    x = images()
    p, q = (np.exp(log_softmax(model(x))) for model in pair)
    wanted = np.log((1 - weight) * p + weight * q)
    both = mixture(*pair, weight)
    assert both.output_shape == (None, CLASSES) and both(x).dtype == "float32"
    np.testing.assert_allclose(both(x), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(both(x)).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("weight", [0, 1])
def test_at_the_ends_it_is_one_network(pair, weight):
    x, y = images(), np.arange(16) % CLASSES
    own, both = pair[weight], mixture(*pair, weight)
    shift = own(x).numpy() - both(x).numpy()
    assert np.ptp(shift, -1).max() < 1e-4
    np.testing.assert_array_equal(own(x).numpy().argmax(-1), both(x).numpy().argmax(-1))
    np.testing.assert_allclose(
        gradient(both, x, y), gradient(own, x, y), rtol=1e-3, atol=1e-6
    )
    assert both.count_params() == own.count_params()


def test_its_gradient_is_that_of_both(pair):
    """d log(a p + b q) = (a p d log p + b q d log q) / (a p + b q)."""
    x, y, weight = images(), np.arange(16) % CLASSES, 0.3
    rows = np.arange(16)
    shares = [
        s * np.exp(log_softmax(model(x)))[rows, y]
        for s, model in zip((1 - weight, weight), pair, strict=True)
    ]
    parts = [gradient(model, x, y) for model in pair]
    a, b = (share / sum(shares) for share in shares)
    wanted = a[:, None, None, None] * parts[0] + b[:, None, None, None] * parts[1]
    found = gradient(mixture(*pair, weight), x, y)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_a_network_mixed_with_itself_is_itself(pair):
    x, y = images(), np.arange(16) % CLASSES
    both = mixture(pair[0], pair[0], 0.5)
    np.testing.assert_allclose(both(x), log_softmax(pair[0](x)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gradient(both, x, y), gradient(pair[0], x, y), rtol=1e-3, atol=1e-6
    )


def test_where_both_agree_its_gradient_is_still_that_of_both():
    """On a black image both give zeros, whatever their kernels: half of each gradient."""
    x, y = np.zeros((4, *SHAPE), "float32"), np.arange(4)
    both = dense(), dense(scale=-3.0)
    one, other = (gradient(model, x, y) for model in both)
    assert np.abs(one - other).max() > 0.1
    found = gradient(mixture(*both, 0.5), x, y)
    np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_networks_that_were_trained_in_bfloat16_are_mixed_in_float32():
    x = images()
    model = keras.Sequential(
        [keras.Input(SHAPE), L.Flatten(), L.Dense(CLASSES, dtype="mixed_bfloat16")]
    )
    kernel = model.get_weights()[0]
    wanted = log_softmax(x.reshape(len(x), -1) @ kernel)
    np.testing.assert_allclose(mixture(model, model, 0.5)(x), wanted, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1e-12, 0.5, 1 - 1e-12, 1.0])
def test_gradients_are_finite_where_probabilities_underflow(weight):
    """Logits of thousands: softmax in float32 is 0 and 1, and its logarithm -inf."""
    x = images()
    both = mixture(dense(scale=3000.0), dense(scale=5000.0), weight)
    assert np.isfinite(both(x)).all() and np.min(both(x)) < -200
    y = both(x).numpy().argmin(-1)
    found = gradient(both, x, y)
    assert np.isfinite(found).all() and np.abs(found).max(axis=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_class_that_both_mask_leaves_gradients_finite(weight):
    def masked():
        x = keras.Input(SHAPE)
        z = L.Dense(CLASSES)(L.Flatten()(x))
        hidden = keras.ops.convert_to_tensor([0.0, 0.0, 0.0, 0.0, -np.inf])
        return keras.Model(x, z + hidden)

    x, y = images(), np.arange(16) % 4
    found = gradient(mixture(masked(), masked(), weight), x, y)
    assert np.isfinite(found).all() and np.abs(found).max() > 0


def test_it_is_saved_and_read_without_this_package(pair, tmp_path):
    x, path = images(), tmp_path / "both.keras"
    both = mixture(*pair, 0.7)
    both.save(path)
    np.testing.assert_array_equal(network.load(str(path))(x), both(x))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import keras, numpy as np, sys; "
        f"m = keras.saving.load_model({str(path)!r}); "
        f"np.save({str(tmp_path / 'z.npy')!r}, m(np.load({str(tmp_path / 'x.npy')!r}))); "
        "assert 'vfd_tf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), both(x), rtol=1e-4, atol=1e-5)


def test_a_mixture_can_be_mixed_again(pair):
    x = images()
    p, q = (np.exp(log_softmax(model(x))) for model in pair)
    twice = mixture(mixture(*pair, 0.5), pair[1], 0.5)
    np.testing.assert_allclose(twice(x), np.log(0.25 * p + 0.75 * q), rtol=1e-4, atol=1e-5)


def test_later_training_of_a_network_leaves_it_alone(pair):
    x, own = images(), dense()
    both = mixture(own, pair[1], 0.5)
    before = both(x).numpy()
    own.set_weights([w + 1 for w in own.get_weights()])
    np.testing.assert_array_equal(both(x), before)


def test_an_attack_goes_through_it():
    """PGD on the mixture is no weaker than the images made on either network."""
    random = np.random.default_rng(0)
    x = random.uniform(0.2, 0.8, size=(256, *SHAPE)).astype("float32")
    ones = [dense(scale=4.0), dense(L.Conv2D(4, 3, activation="relu"), scale=2.0)]
    both = mixture(*ones, 0.5)
    y = both(x).numpy().argmax(-1)  # all of them right
    result = evaluation.evaluate(both, (x, y), ["pgd20"], epsilon=0.03)
    robust = result.robust["pgd20"].mean()
    assert result.clean.all() and 0 < robust < 1
    assert not any("gradient" in warning for warning in result.warnings)
    for own in ones:
        moved = evaluation.perturb(own, x, y, "pgd20", epsilon=0.03)
        assert robust <= (both(moved).numpy().argmax(-1) == y).mean()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_interpolation_is_that_of_all_weights(pair, weight):
    found = interpolation(*pair, weight)
    triples = zip(found.get_weights(), *(m.get_weights() for m in pair), strict=True)
    for own, one, other in triples:
        wanted = (1 - weight) * one.astype("float64") + weight * other.astype("float64")
        np.testing.assert_allclose(own, wanted, rtol=1e-6)
    if weight in (0, 1):
        np.testing.assert_array_equal(found(images()), pair[int(weight)](images()))


def test_the_interpolation_of_a_network_with_itself_is_itself_and_is_saved(pair, tmp_path):
    found = interpolation(pair[0], pair[0], 0.4)
    np.testing.assert_allclose(found(images()), pair[0](images()), rtol=1e-5, atol=1e-5)
    found.save(tmp_path / "one.keras")
    again = network.load(str(tmp_path / "one.keras"))
    np.testing.assert_array_equal(again(images()), found(images()))


def test_whole_numbers_are_those_of_the_first_network():
    pair = dense(L.Normalization()), dense(L.Normalization())
    for model, count in zip(pair, (7, 9), strict=True):
        model.set_weights(
            [
                np.full_like(w, count) if w.dtype == "int64" else w
                for w in model.get_weights()
            ]
        )
    counts = [w for w in interpolation(*pair, 0.5).get_weights() if w.dtype == "int64"]
    assert counts == [7]


def softened():
    return keras.Sequential([*dense().layers, L.Softmax()])


@pytest.mark.parametrize("join", [mixture, interpolation])
@pytest.mark.parametrize(
    "other, weight, words",
    [
        (dense, -0.1, "from 0 to 1"),
        (dense, 1.1, "from 0 to 1"),
        (dense, float("nan"), "from 0 to 1"),
        (dense, "half", "from 0 to 1"),
        (lambda: dense(classes=4), 0.5, "numbers of classes, 5 and 4"),
        (lambda: dense(shape=(9, 8, 1)), 0.5, r"images, \(8, 8, 1\) and \(9, 8, 1\)"),
        (lambda: keras.Sequential([keras.Input(SHAPE), softened()]), 0.5, "probabilities"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(join, other, weight, words):
    with pytest.raises(InputError, match=words):
        join(dense(), other(), weight)


def test_other_architectures_have_no_mean_of_weights(pair):
    relu = dense(L.Conv2D(2, 3, activation="relu"))
    tanh = dense(L.Conv2D(2, 3, activation="tanh"))
    for one, other in ((relu, tanh), (relu, dense()), (pair[0], dense())):
        with pytest.raises(InputError, match="mixture"):
            interpolation(one, other, 0.5)
    # Of the same weights, but not of the same function.
    for kind, one, other in (
        (L.Conv2D, {"strides": 2, "padding": "same"}, {"strides": 1, "padding": "valid"}),
        (L.Conv2D, {"activation": L.ReLU(max_value=6.0)}, {"activation": "relu"}),
        (L.BatchNormalization, {"epsilon": 1e-3}, {"epsilon": 1e-5}),
        (L.MaxPooling2D, {"pool_size": 2}, {"pool_size": (2, 1)}),
        (L.MaxPooling2D, {}, {"strides": 1, "padding": "same"}),
        (L.Rescaling, {"scale": 2.0}, {"scale": 1.0}),
    ):
        own = {"filters": 2, "kernel_size": 4} if kind is L.Conv2D else {}
        both = [
            keras.Sequential(
                [
                    *(keras.Input(SHAPE), kind(**own, **options)),
                    *(L.GlobalAveragePooling2D(), L.Dense(CLASSES)),
                ]
            )
            for options in (one, other)
        ]
        with pytest.raises(InputError, match="settings"):
            interpolation(*both, 0.5)
    scaled = [dense(L.Normalization(mean=m, variance=1.0)) for m in (0.3, 0.4)]
    with pytest.raises(InputError, match="normalise"):
        interpolation(*scaled, 0.5)


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda x, h: x + h, lambda x, h: h + h),
        (lambda x, h: x + 2.0 * h, lambda x, h: x + 3.0 * h),
        (lambda x, h: L.Dropout(0.1)(h), lambda x, h: L.Dropout(0.1)(h, training=True)),
        (lambda x, h: ops.max(h, -1), lambda x, h: ops.max(h, 1)),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_other_connections_have_no_mean_of_weights(one, other, nested):
    def net(join):
        x = keras.Input(SHAPE)
        whole = keras.Model(x, join(x, L.Conv2D(1, 3, padding="same")(x)))
        if nested:
            x = keras.Input(SHAPE)
        return keras.Model(x, L.Dense(CLASSES)(L.Flatten()(whole(x))))

    interpolation(net(one), net(one), 0.5)
    with pytest.raises(InputError, match="mixture"):
        interpolation(net(one), net(other), 0.5)


class Own(L.Layer):
    """A layer that can't tell its settings."""

    def __init__(self, function):
        super().__init__()
        self.function, self.inner = function, L.Dense(3)

    def call(self, x):
        return self.function(self.inner(x))


def test_what_is_another_in_training_alone_has_a_mean(tmp_path):
    def net(**options):
        rate, momentum = (0.1, 0.9) if options else (0.5, 0.99)
        x = keras.Input(SHAPE)
        h = L.Conv2D(2, 3, **options)(x)
        h = L.BatchNormalization(momentum=momentum)(L.Dropout(rate, seed=int(9 * rate))(h))
        inner = keras.Sequential([L.Dense(3, activation=L.LeakyReLU(0.2))])
        return keras.Model(
            x, L.Dense(CLASSES)(L.Flatten()(L.TimeDistributed(inner)(h + 1)))
        )

    one = net()
    other = net(
        name="first",
        trainable=False,
        kernel_initializer="zeros",
        kernel_regularizer="l2",
        kernel_constraint="non_neg",
    )
    other.save(tmp_path / "other.keras")
    loaded = network.load(str(tmp_path / "other.keras"))
    found = interpolation(one, loaded, 0.25)
    for own, a, b in zip(*(m.get_weights() for m in (found, one, other)), strict=True):
        np.testing.assert_allclose(own, 0.75 * a + 0.25 * b, rtol=1e-6)


def test_layers_that_tell_no_settings_are_known_by_their_class_and_weights():
    one, other = (
        keras.Sequential([keras.Input((4,)), Own(function)]) for function in (abs, ops.abs)
    )
    assert anatomy(one) == anatomy(other)
    assert anatomy(one) != anatomy(keras.Sequential([keras.Input((4,)), L.Dense(3)]))
