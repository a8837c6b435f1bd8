"""The input contract: what fit and evaluate refuse, each in one line that names the fix."""

from types import SimpleNamespace

import numpy as np
import pytest

from vfd_tf import AdversarialTrainer, InputError, evaluation
from vfd_tf.attacks import FGSM
from vfd_tf.models import contract

# isort: split

import keras
import tensorflow as tf
from keras import layers as L

SHAPE, CLASSES, N = (4, 4, 1), 3, 8
X = np.random.RandomState(0).rand(N, *SHAPE).astype("float32")
Y = (np.arange(N) % CLASSES).astype("int32")


def _model(classes=CLASSES, end=(), shape=SHAPE, channels=2):
    inputs = keras.Input(shape)
    x = L.Conv2D(channels, 3, padding="same", name="layer1")(inputs)
    x = L.Dense(classes)(L.Flatten()(x))
    for layer in end:
        x = layer(x)
    return keras.Model(inputs, x)


def _one_line(refusal):
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def _fit(model, x, y, **options):
    trainer = AdversarialTrainer(model, "pgd-at", FGSM(0.1))
    trainer.compile(keras.optimizers.SGD(0.01))
    before = trainer.student.get_weights()
    try:
        trainer.fit(x, y, batch_size=4, verbose=0, **options)
    finally:
        for old, new in zip(before, trainer.student.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def _fit_data_set(model, x, y):
    _fit(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4), None)


def _evaluate(model, x, y):
    evaluation.evaluate(model, (x, y), ())


def _evaluate_data_set(model, x, y):
    evaluation.evaluate(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4), ())


ENTRIES = [_fit, _fit_data_set, _evaluate, _evaluate_data_set]
entries = pytest.mark.parametrize("entry", ENTRIES, ids=lambda f: f.__name__.strip("_"))


@entries
@pytest.mark.parametrize(
    "x, hint",
    [
        ((255 * X).astype("uint8"), "uint8.*/ 255"),
        ((255 * X).astype("int64"), "int64.*/ 255"),
        (255 * X, "divide by 255"),
        (2 * X - 1, "range from -.*normalisation into the model"),
        (np.where(X > 0.5, np.nan, X).astype("float32"), "NaN or infinite"),
    ],
    ids=["uint8", "int64", "to 255", "from -1", "nan"],
)
def test_images_outside_the_contract_are_refused(entry, x, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        entry(_model(), x, Y)
    _one_line(refusal)


@entries
@pytest.mark.parametrize(
    "y, hint",
    [
        (Y + 1, "range from 1 to 3.*3 classes, 0 to 2"),
        (Y - 1, "range from -1 to 1"),
        (Y + 0.5, "integer class indices"),
    ],
    ids=["too high", "negative", "fractional"],
)
def test_labels_outside_the_contract_are_refused(entry, y, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        entry(_model(), X, y)
    _one_line(refusal)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_an_evaluation_takes_one_hot_labels(dtype):
    expected = evaluation.evaluate(model := _model(), (X, Y), ()).clean
    one_hot = np.eye(CLASSES)[Y].astype(dtype)
    np.testing.assert_array_equal(
        evaluation.evaluate(model, (X, one_hot), ()).clean, expected
    )


def test_an_evaluation_refuses_labels_that_name_no_class():
    soft = np.full((N, CLASSES), 1 / CLASSES, "float32")
    with pytest.raises(InputError, match="class indices.*argmax") as refusal:
        evaluation.evaluate(_model(), (X, soft), ())
    _one_line(refusal)


@pytest.mark.parametrize(
    "y", [Y, Y.astype("int64"), Y.astype("uint8"), Y.astype("float32"), Y[:, None]]
)
def test_any_integer_labels_are_accepted_as_a_column_too(y):
    expected = evaluation.evaluate(model := _model(), (X, Y), ()).clean
    np.testing.assert_array_equal(evaluation.evaluate(model, (X, y), ()).clean, expected)


def test_images_off_by_rounding_are_accepted():
    x = np.clip(X, 0, 1) * np.float32(1 + 2e-6) - np.float32(1e-6)
    assert evaluation.evaluate(_model(), (x, Y), ()).clean.shape == (N,)


ENDS = {
    "dense": lambda: [L.Dense(CLASSES, "softmax")],
    "layer": lambda: [L.Softmax()],
    "activation": lambda: [L.Activation("softmax")],
    "sigmoid": lambda: [L.Dense(CLASSES, "sigmoid")],
}


@entries
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", ["functional", "nested", "sequential"])
def test_probabilities_are_refused(entry, end, kind):
    model = _model(end=ENDS[end]())
    if kind == "nested":
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, model(inputs))
    if kind == "sequential":
        model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), *ENDS[end]()])
    with pytest.raises(InputError, match="softmax") as refusal:
        entry(model, X, Y)
    assert "logits" in _one_line(refusal)


class Probabilities(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.dense = L.Flatten(), L.Dense(CLASSES, "softmax")

    def call(self, x):
        return self.dense(self.flat(x))


@entries
def test_probabilities_of_a_subclassed_model_are_seen_in_its_values(entry):
    model = Probabilities()
    model(X)
    with pytest.raises(InputError, match="softmax") as refusal:
        entry(model, X, Y)
    _one_line(refusal)


@entries
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(entry, bad):
    model = _model()
    model.set_weights([w + bad for w in model.get_weights()])
    # Weights compare equal afterwards: assert_array_equal holds for NaN.
    with pytest.raises(InputError, match="not finite") as refusal:
        entry(model, X, Y)
    _one_line(refusal)


def test_class_weight_is_refused():
    with pytest.raises(InputError, match="sample_weight") as refusal:
        _fit(_model(), X, Y, class_weight={0: 1.0, 1: 2.0, 2: 1.0})
    _one_line(refusal)


def test_an_empty_data_set_is_refused():
    with pytest.raises(InputError, match="empty") as refusal:
        _fit_data_set(_model(), X[:0], Y[:0])
    _one_line(refusal)
    with pytest.raises(InputError, match="empty") as refusal:
        _evaluate_data_set(_model(), X[:0], Y[:0])
    _one_line(refusal)


def test_a_loss_beside_the_method_is_refused():
    trainer = AdversarialTrainer(_model(), "pgd-at")
    with pytest.raises(InputError, match="method is the loss") as refusal:
        trainer.compile(loss="mse")
    _one_line(refusal)
    trainer.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def _trainer(student, **options):
    return AdversarialTrainer(student, "pgd-at", distillation="vfd", **options)


def test_the_student_is_refused_as_its_own_teacher():
    student = _model()
    with pytest.raises(InputError, match="share weights") as refusal:
        _trainer(student, teacher=student)
    _one_line(refusal)


def test_a_teacher_that_shares_weights_is_refused():
    student = _model()
    hidden = student.get_layer("layer1").output
    logits = L.Dense(CLASSES)(L.Flatten()(hidden))
    with pytest.raises(InputError, match="weights of its own") as refusal:
        _trainer(student, teacher=keras.Model(student.inputs[0], logits))
    _one_line(refusal)


@pytest.mark.parametrize(
    "teacher, hint",
    [
        (lambda: _model(classes=5), "'logits' has shape.*same architecture"),
        (lambda: _model(channels=3), "'last' has shape.*same architecture"),
        (lambda: _model(shape=(6, 6, 1)), "'last' has shape.*same architecture"),
        (lambda: _model(end=[L.Softmax()]), "softmax"),
        (lambda: None, "teacher="),
    ],
    ids=["classes", "channels", "size", "probabilities", "missing"],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        _trainer(_model(), teacher=teacher())
    _one_line(refusal)


@pytest.mark.parametrize(
    "options, hint",
    [
        ({"method": "hat"}, "teacher="),
        ({"distillation": "kd"}, "teacher="),
        ({"distillation": "kd", "teacher": _model()}, "robust_teacher="),
        ({"distillation": "bgat"}, "teacher="),
        ({"distillation": "lbgat"}, "partner="),
        ({"method": "trade"}, "Did you mean 'trades'"),
        ({"distillation": "vdf"}, "Did you mean 'vfd'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_missing_network_or_unknown_name_is_refused(options, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        AdversarialTrainer(_model(), **options)
    _one_line(refusal)


@pytest.mark.parametrize(
    "shape, classes, fits, fits_exactly",
    [
        ((8, 8, 1), 3, True, True),
        ((8, 8, 1), 4, True, False),
        ((None, None, 1), 3, True, False),
        ((8, 8), 3, True, False),
        ((8, 8, 1), 2, False, False),
        ((8, 8, 3), 3, False, False),
        ((9, 8, 1), 3, False, False),
    ],
)
def test_a_model_fits_a_data_set_of_its_images_and_classes(
    shape, classes, fits, fits_exactly
):
    inputs = keras.Input(shape)
    x = inputs if len(shape) == 3 else keras.layers.Reshape((8, 8, 1))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(classes)(x))
    data = SimpleNamespace(name="three", input_shape=(8, 8, 1), num_classes=3)
    for exactly, wanted in ((False, fits), (True, fits_exactly)):
        if wanted:
            assert contract.check_fits(model, "m", data, exactly) == classes
        else:
            with pytest.raises(InputError, match=f"^m takes images .* of {classes}"):
                contract.check_fits(model, "m", data, exactly)
