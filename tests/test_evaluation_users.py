"""Evaluation as users call it: their models, their data, their slips."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import InputError
from vfd_tf.evaluation import evaluate, perturb, windows
from vfd_tf.evaluation.batch_runner import bucket

SHAPE, N = (6, 6, 1), 24


def network(shape=SHAPE, classes=4):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    h = L.Dense(16, activation="tanh")(L.Flatten()(inputs))
    return keras.Model(inputs, L.Dense(classes)(h))


def data(model=None):
    x = np.random.RandomState(0).uniform(0.02, 0.98, (N, *SHAPE)).astype("float32")
    return x, (model or network()).predict(x, verbose=0).argmax(-1)


class Subclassed(keras.Model):
    """A model without a graph, of images [n, h, w]; `end` makes its output."""

    def __init__(self, inner, end=lambda z: z):
        super().__init__()
        self.inner, self.end = inner, end

    def call(self, x):
        assert x.shape.rank == 3
        return self.end(self.inner(x[..., None]))


@pytest.mark.parametrize("kind", ["flat", "with channels", "subclassed"])
def test_images_without_channels_are_attacked_by_everything(kind):
    model, flat = network(), network((6, 6))
    flat.set_weights(model.get_weights())
    x, y = data()
    own = {"flat": flat, "with channels": model, "subclassed": Subclassed(model)}[kind]
    names = ["pgd5", "fab-t:steps=3", "square:queries=10"]
    expected = evaluate(model, (x, y), names, epsilon=0.05)
    found = evaluate(own, (x[..., 0], y), names, epsilon=0.05, surrogate=network())
    for name, verdict in expected.verdicts().items():
        np.testing.assert_array_equal(found.verdicts()[name], verdict)


def test_augmentation_inside_a_model_is_the_identity_it_is_in_inference():
    model, (x, y) = network(), data()
    inputs = keras.Input(SHAPE)
    h = L.RandomRotation(0.1)(L.RandomFlip("horizontal")(inputs))
    found = evaluate(keras.Model(inputs, model(h)), (x, y), "pgd5", epsilon=0.05)
    expected = evaluate(model, (x, y), "pgd5", epsilon=0.05)
    np.testing.assert_array_equal(found.robust["pgd5"], expected.robust["pgd5"])
    assert 0 < expected.robust["pgd5"].sum() < N and not found.warnings


def test_one_attack_needs_no_list():
    one, several = (
        evaluate(network(), data(), a, epsilon=0.05) for a in ("pgd5", ["pgd5"])
    )
    np.testing.assert_array_equal(one.robust["pgd5"], several.robust["pgd5"])


@pytest.mark.parametrize("kind", ["float64", "bytes", "float16"])
def test_the_referee_reads_what_the_attacks_read(kind):
    x, y = data()
    levels = np.round(255 * x).astype("uint8")
    bounds = (0, 255) if kind == "bytes" else (0, 1)
    images = levels if kind == "bytes" else (levels / 255).astype(kind)
    inputs = keras.Input(SHAPE)
    scaled = keras.Model(inputs, network()(L.Rescaling(1 / bounds[1])(inputs)))
    batches = tf.data.Dataset.from_tensor_slices((images, y)).batch(10)
    found = evaluate(scaled, batches, "pgd5", epsilon=0.05, referees=True, bounds=bounds)
    assert found.referee["pgd5"]["images"] == N
    assert found.referee["pgd5"]["verdicts_that_differ"] == 0


def test_the_referee_repeats_one_run_of_an_attack_with_restarts():
    name = "pgd5:restarts=3"
    found = evaluate(network(), data(), name, epsilon=0.05, referees=True)
    assert found.referee[name]["verdicts_that_differ"] == 0


def test_a_referee_refuses_a_generator_before_it_is_read():
    batches = iter([data()])
    with pytest.raises(InputError, match="can be read only once"):
        evaluate(network(), batches, "fgsm", epsilon=0.05, referees=True)
    assert len(list(batches)) == 1


def test_examples_are_in_the_range_of_the_model():
    inputs = keras.Input(SHAPE)
    centred = keras.Model(inputs, network()(L.Rescaling(0.5, 0.5)(inputs)))
    x, y = data()
    own = 2 * x - 1
    found = evaluate(centred, (own, y), "pgd5", epsilon=0.05, bounds=(-1, 1), examples=True)
    x_adv = found.examples["pgd5"]
    assert np.abs(x_adv - own).max() == pytest.approx(0.1, rel=1e-4)
    right = centred.predict(x_adv, verbose=0).argmax(-1) == y
    np.testing.assert_array_equal(found.robust["pgd5"], right)


@pytest.mark.parametrize("bounds", [(-1, 1), (0, 255)])
def test_images_of_a_narrower_range_than_the_bounds_are_warned_of(bounds, monkeypatch):
    """Of images in [0, 1] the radius would be 2 or 255 times epsilon."""
    monkeypatch.setattr(windows, "_WINDOW_BYTES", 1)
    low, high = bounds
    (x, y), half = data(), N // 2

    def said(images, bounds=bounds):
        found = evaluate(network(), (images, y), [], bounds=bounds, batch_size=half)
        return [text for text in found.warnings if "All images lie in [0, 1]" in text]

    (text,) = said(x)
    assert f"bounds are ({low}, {high})" in text and f"{high - low} times epsilon" in text
    assert not said(x, (0, 1)) and not said(low + x * (high - low))
    one = x.copy()
    one[-1] = high if low == 0 else low  # in the last window alone
    assert not said(one)
    with pytest.warns(UserWarning, match="All images lie"):
        perturb(network(), x, y, "fgsm", epsilon=0.01, bounds=bounds)


def test_a_surrogate_sees_images_in_the_range_of_the_model():
    inputs = keras.Input(SHAPE)
    x, y = data()

    def centred(model):
        return keras.Model(inputs, model(L.Rescaling(0.5, 0.5)(inputs)))

    keras.utils.set_random_seed(2)
    other = keras.models.clone_model(network())
    plain = evaluate(network(), (x, y), "pgd5", epsilon=0.1, surrogate=other)
    found = evaluate(
        centred(network()),
        (2 * x - 1, y),
        "pgd5",
        epsilon=0.1,
        bounds=(-1, 1),
        surrogate=centred(other),
    )
    name = "transfer-pgd5"
    assert 0 < plain.robust[name].sum() < N
    np.testing.assert_array_equal(found.robust[name], plain.robust[name])
    right = other.predict(x, verbose=0).argmax(-1) == y
    np.testing.assert_array_equal(plain.surrogate_clean, right)
    np.testing.assert_array_equal(found.surrogate_clean, right)


@pytest.mark.parametrize(
    "names, told, fix",
    [
        (["autoattack-quick"], "autoattack-quick", True),
        (["apgd-t:steps=2", "pgd2", "malt:steps=2"], "apgd-t:steps=2, malt:steps=2", False),
        (["transfer-pgd2", "apgd-t:steps=2"], None, False),
        (["pgd2"], None, False),
    ],
)
def test_ensembles_without_a_black_box_column_are_told(names, told, fix):
    found = evaluate(network(), data(), names, epsilon=0.05, surrogate=network())
    warnings = [w for w in found.warnings if "black-box" in w]
    assert len(warnings) == (told is not None)
    for warning in warnings:
        assert f"no black-box column for {told}, since" in warning
        assert ("add pgd20" in warning) == fix


def test_a_surrogate_with_a_softmax_is_refused():
    inputs = keras.Input(SHAPE)
    soft = keras.Model(inputs, L.Softmax()(network()(inputs)))
    with pytest.raises(InputError, match="probabilities"):
        evaluate(network(), data(), "pgd5", epsilon=0.05, surrogate=soft)
    found = evaluate(network(), data(), "pgd5", epsilon=0.05, surrogate=soft, strict=False)
    assert any("probabilities" in warning for warning in found.warnings)


def test_gradients_that_vanish_late_in_the_data_are_seen():
    """The first 200 of 360 images have gradients, the others none."""
    inputs = keras.Input(SHAPE)
    h = keras.ops.where(inputs > 0.5, keras.ops.stop_gradient(inputs), inputs)
    model = keras.Model(inputs, network()(h))
    x = np.random.RandomState(0).uniform(0.1, 0.4, (360, *SHAPE)).astype("float32")
    x[200:] += 0.5
    y = model.predict(x, verbose=0).argmax(-1)
    found = evaluate(model, (x, y), "fgsm", epsilon=0.01)
    (warning,) = [w for w in found.warnings if "zero or not finite" in w]
    assert re.search("4[45]% of 128 images", warning)  # 160 of 360
    assert not evaluate(model, (x[:200], y[:200]), "fgsm", epsilon=0.01).warnings


@pytest.mark.parametrize("classes, missing", [(2, True), (3, True), (4, False)])
def test_a_stand_in_for_dlr_is_told(classes, missing):
    model = network(classes=classes)
    names = ["apgd-t:steps=2", "pgd2-dlr", "pgd2"]
    found = evaluate(model, data(model), names, epsilon=0.05)
    told = [w for w in found.warnings if "stands in" in w]
    assert len(told) == (classes < 3) + missing
    assert all("margin" in w for w in told)
    assert any(w.startswith("apgd-t:steps=2") for w in told) == missing


def test_a_norm_of_its_own_needs_a_radius_of_its_own():
    with pytest.raises(InputError, match="pgd20:norm=l2:epsilon=0.5"):
        evaluate(network(), data(), ["pgd20:norm=l2"])
    found = evaluate(network(), data(), ["pgd2:norm=l2:epsilon=0.5", "pgd2:norm=linf"])
    assert [*found.threats.values()] == ["l2:0.5", "linf:8/255"]


x, y = data()
REFUSED = {
    "images and labels": ((x, y[:-1]), {}, "24 images and 23 labels"),
    "no batches": (tf.data.Dataset.from_tensor_slices((x, y)), {}, "batch"),
    "dictionaries": (
        tf.data.Dataset.from_tensor_slices({"picture": x, "label": y}).batch(4),
        {},
        "label, picture: pass pairs",
    ),
    "another size": ((x[:, :5], y), {}, r"takes images \(6, 6, 1\), the data has \(5"),
    "vectors": ((x.reshape(N, -1), y), {}, "have shape"),
    "a radius as text": ((x, y), {"epsilon": "8/255"}, "8 / 255"),
    "a surrogate of 3 classes": ((x, y), {"surrogate": network(classes=3)}, "3 classes"),
    "a surrogate of another size": ((x, y), {"surrogate": network((5, 6, 1))}, "takes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_slips_are_refused_in_one_sentence(case):
    given, options, hint = REFUSED[case]
    with pytest.raises(InputError, match=hint) as refusal:
        evaluate(network(), given, "fgsm", **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "end, hint",
    [
        (lambda z: {"scores": z, "twice": 2 * z}, "name one output 'logits'"),
        (lambda z: (z, z), "only"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(end, hint):
    inputs = keras.Input(SHAPE)
    for model in (
        keras.Model(inputs, end(network()(inputs))),
        Subclassed(network(), end),
    ):
        with pytest.raises(InputError, match=hint):
            evaluate(model, (x[..., 0], y), "fgsm", epsilon=0.05)


def test_short_steps_that_cannot_cross_the_ball_are_no_sign_of_masked_gradients():
    """On two classes of a linear model one full step is the strongest attack there is."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(inputs)))
    x = np.random.default_rng(0).uniform(0.3, 0.7, (200, *SHAPE)).astype("float32")
    z = model.predict(x, verbose=0)
    kernel = model.get_weights()[0]
    distance = np.abs(z[:, 0] - z[:, 1]) / np.abs(kernel[:, 0] - kernel[:, 1]).sum()
    epsilon = float(np.quantile(distance, 0.5))
    result = evaluate(model, (x, z.argmax(-1)), ("fgsm", "pgd2", "pgd20"), epsilon=epsilon)
    broken = {name: 200 - verdict.sum() for name, verdict in result.robust.items()}
    assert broken["fgsm"] >= broken["pgd2"] + 20 and broken["fgsm"] <= broken["pgd20"] + 1
    assert not any("masked" in warning for warning in result.warnings)


def test_nan_on_some_clean_images_counts_as_misclassified():
    model, (x, y) = network(), data()
    dark = x.copy()
    dark[3] = 0.0
    inputs = keras.Input(SHAPE)
    z = model(inputs)
    bright = keras.ops.max(inputs, (1, 2, 3))[:, None] > 0
    odd = keras.Model(inputs, keras.ops.where(bright, z, np.nan))
    result = evaluate(odd, (dark, y), ("fgsm",), epsilon=0.001)
    assert not result.clean[3] and result.clean.sum() == N - 1
    assert any("NaN" in warning for warning in result.warnings)


def test_examples_of_several_image_sizes_are_kept_in_the_order_of_the_data():
    inputs = keras.Input((None, None, 1))
    h = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="tanh")(inputs))
    model = keras.Model(inputs, L.Dense(3)(h))
    random = np.random.default_rng(0)
    parts = [random.uniform(size=(8, side, 6, 1)).astype("float32") for side in (6, 9)]
    labels = [model.predict(part, verbose=0).argmax(-1) for part in parts]
    found = evaluate(
        model, zip(parts, labels, strict=True), ("fgsm",), epsilon=0.01, examples=True
    )
    for part, x_adv in zip(parts, found.examples["fgsm"], strict=True):
        assert np.abs(x_adv - part).max() <= 0.01 + 1e-6


def test_a_later_batch_of_a_size_that_the_model_does_not_take_is_refused():
    x, y = data()
    with pytest.raises(InputError, match="resize the images"):
        evaluate(network(), [(x, y), (np.zeros((5, 9, 7, 1), "float32"), y[:5])], ("fgsm",))


class ByCount(keras.utils.PyDataset):
    """A PyDataset that says how long it is as Keras asks for it."""

    num_batches = 2

    def __getitem__(self, index):
        x, y = data()
        return x[12 * index : 12 * index + 12], y[12 * index : 12 * index + 12]


def test_arguments_as_keras_takes_them():
    model = network()
    expected = evaluate(model, data(), ("fgsm",), epsilon=0.05).robust["fgsm"]
    for arguments in ({"batch_size": None}, {"batch_size": 5003}):
        found = evaluate(model, data(), ("fgsm",), epsilon=0.05, **arguments)
        np.testing.assert_array_equal(found.robust["fgsm"], expected)
    found = evaluate(model, ByCount(), ("fgsm",), epsilon=0.05)
    np.testing.assert_array_equal(found.robust["fgsm"], expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": "32"}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"bounds": 255}, "two numbers"),
        ({"bounds": None}, "two numbers"),
        ({"bounds": (0, float("inf"))}, "rise from low to high"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate(network(), data(), ("fgsm",), epsilon=0.05, **arguments)


def test_a_padded_batch_is_no_larger_than_the_images_ask_for():
    for count, batch_size in ((40, 5003), (3, 10**9 + 1), (40, 127)):
        assert count <= bucket(count, batch_size) <= max(2 * count, 127)
