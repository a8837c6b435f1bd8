"""What models return: probabilities are found wherever they arise; one logit is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError, methods
from vfd_tf.evaluation import evaluate
from vfd_tf.models import classifiers, outputs

L = keras.layers
SHAPE, N = (4, 4, 1), 24
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(N, *SHAPE)).astype("float32")
Y = RANDOM.integers(0, 2, N)


def _stacked(base):
    """Layers one after the other inside a model or a layer, whose graph can't be seen."""

    class Stacked(base):
        def __init__(self, layers):
            super().__init__()
            self.stack = layers

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    return Stacked


Subclassed, Nested = _stacked(keras.Model), _stacked(L.Layer)


def _functional(layers):
    x = inputs = keras.Input(SHAPE)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def _function(layers):
    model = _functional(layers)
    return classifiers.as_model(lambda x: model(x))


def _compiled(layers):
    model = _functional(layers)
    return classifiers.as_model(tf.function(lambda x: model(x)))


def _layer(layers):
    return _functional([L.Flatten(), Nested(layers[1:])])


KINDS = {
    "functional": _functional,
    "subclassed": Subclassed,
    "function": _function,
    "compiled": _compiled,
    "layer": _layer,
}
PROBABILITIES = {
    "softmax": lambda: [L.Dense(3, "softmax")],
    "sigmoid": lambda: [L.Dense(3, "sigmoid")],
    "Activation": lambda: [L.Dense(3), L.Activation("sigmoid")],
    "Reshape": lambda: [L.Dense(3, "softmax"), L.Reshape((3,))],
    "Reshape of maps": lambda: [L.Reshape((1, 16)), L.Dense(3, "sigmoid"), L.Flatten()],
    "Lambda": lambda: [L.Dense(3), L.Lambda(lambda z: keras.ops.softmax(z))],
    "operation": lambda: [L.Dense(3), keras.ops.sigmoid],
    "Dropout": lambda: [L.Dense(3, "sigmoid"), L.Dropout(0.5)],
    "clip": lambda: [L.Dense(3, "softmax"), lambda p: keras.ops.clip(p, 1e-7, 1)],
    "cast": lambda: [L.Dense(3, "softmax"), lambda p: keras.ops.cast(p, "float16")],
    "padded": lambda: [L.Dense(1, "sigmoid"), lambda p: keras.ops.pad(p, [[0, 0], [1, 0]])],
    "scaled": lambda: [L.Dense(3, "softmax"), lambda p: 100 * p / 3],
    "shifted": lambda: [L.Dense(3, "sigmoid"), lambda p: p + 1e-7],
    "Rescaling": lambda: [L.Dense(3, "sigmoid"), L.Rescaling(10.0)],
    "pooled": lambda: [L.Reshape((4, 4)), L.Dense(3, "softmax"), lambda p: p[:, 0]],
}
LOGITS = {
    "Dense": lambda: [L.Dense(3)],
    "relu": lambda: [L.Dense(3, "relu")],
    "before": lambda: [L.Dense(3, "softmax"), L.Dense(3)],
    "log": lambda: [L.Dense(3, "softmax"), keras.ops.log],
    "log_softmax": lambda: [L.Dense(3, "log_softmax")],
    "swish": lambda: [L.Dense(3, "swish")],
    "gate": lambda: [L.Dense(3), lambda z: z * keras.ops.sigmoid(z)],
    "constant": lambda: [lambda x: keras.ops.zeros_like(x[:, :3])],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", PROBABILITIES)
def test_probabilities_are_found_in_any_model_behind_anything_that_moves_them(kind, end):
    model = KINDS[kind]([L.Flatten(), *PROBABILITIES[end]()])
    assert outputs.ends_in_probabilities(model, X)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", LOGITS)
def test_logits_are_not_taken_for_probabilities(kind, end):
    model = KINDS[kind]([L.Flatten(), *LOGITS[end]()])
    assert not outputs.ends_in_probabilities(model, X)


def test_probabilities_of_a_saved_model_are_found(tmp_path):
    _functional([L.Flatten(), L.Dense(3, "softmax")]).export(
        tmp_path / "model", verbose=False
    )
    with pytest.raises(InputError, match="remove its final softmax or sigmoid"):
        evaluate(str(tmp_path / "model"), (X, Y), ("fgsm",))


@pytest.mark.parametrize("kind", ["functional", "subclassed", "function", "layer"])
def test_weak_sigmoids_are_refused_though_their_values_might_be_logits(kind):
    """Outputs all near 0.5, as of an untrained network."""
    model = KINDS[kind]([L.Flatten(), L.Dense(3, "sigmoid"), L.Reshape((3,))])
    with pytest.raises(InputError, match="remove its final softmax or sigmoid"):
        evaluate(model, (X, Y), ("fgsm",))


def test_a_mean_of_probabilities_is_refused_with_what_an_ensemble_returns_instead():
    members = [_functional([L.Flatten(), L.Dense(3, "softmax")]) for _ in range(2)]
    inputs = keras.Input(SHAPE)
    voting = keras.Model(inputs, L.average([m(inputs) for m in members]))
    with pytest.raises(InputError, match="mean of its members' logits"):
        evaluate(voting, (X, Y), ("fgsm",))
    log = keras.Model(inputs, keras.ops.log(voting.output))
    assert len(evaluate(log, (X, Y), ("fgsm",)).clean) == N


# One number an image


def _binary(*end):
    return _functional([L.Flatten(), *end])


def _of_two_classes(model, y):
    """Accuracy of the one logit, counted by its sign."""
    return np.mean((model.predict(X, verbose=0).reshape(-1) > 0) == y)


def _advised(model):
    """The model that the refusal tells to write, by running its lines."""
    with pytest.raises(InputError) as refusal:
        evaluate(model, (X, Y), ("fgsm",))
    sentence = str(refusal.value)
    if "set model." in sentence:
        exec(sentence.split(": set ")[1].split(" and pass ")[0], {**globals(), **locals()})
    line = sentence.split("pass ")[1].split(", whose logits")[0].rstrip(".")
    return eval(line, {**globals(), **locals()})


@pytest.mark.parametrize(
    "end",
    [[L.Dense(1)], [L.Dense(1), L.Reshape(())], [L.Dense(1, "linear")]],
    ids=["column", "flat", "linear"],
)
def test_of_one_logit_the_refusal_gives_the_line_that_makes_two(end):
    model = _binary(*end)
    two = _advised(model)
    accuracy = evaluate(two, (X, Y), ()).clean.mean()
    assert accuracy == pytest.approx(_of_two_classes(model, Y))


@pytest.mark.parametrize(
    "end", [[L.Dense(1, "sigmoid")], [L.Dense(1), L.Activation("sigmoid")]]
)
def test_of_one_probability_the_refusal_gives_the_lines_that_undo_the_sigmoid(end):
    model = _binary(*end)
    logit = _binary(L.Dense(1))
    logit.set_weights(model.get_weights())
    two = _advised(model)
    accuracy = evaluate(two, (X, Y), ()).clean.mean()
    assert accuracy == pytest.approx(_of_two_classes(logit, Y))


def _sequential(*end):
    return keras.Sequential([keras.Input(SHAPE), L.Flatten(), *end])


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_the_lines_hold_for_a_sequential_model(activation):
    model = _sequential(L.Dense(1, activation))
    logit = _sequential(L.Dense(1))
    logit.set_weights(model.get_weights())
    accuracy = evaluate(_advised(model), (X, Y), ()).clean.mean()
    assert accuracy == pytest.approx(_of_two_classes(logit, Y))


@pytest.mark.parametrize("end", [keras.ops.sigmoid, L.Dropout(0.1)], ids=["op", "Dropout"])
def test_a_sigmoid_that_no_line_undoes_is_to_be_left_out(end):
    dense = L.Dense(1, "sigmoid" if isinstance(end, L.Dropout) else None)
    with pytest.raises(InputError, match="build it without its sigmoid"):
        evaluate(_binary(dense, end), (X, Y), ("fgsm",))


def test_one_number_named_logits_is_refused_alike():
    model = _binary(L.Dense(1))
    named = keras.Model(model.inputs, {"logits": model.output})
    with pytest.raises(InputError, match="one number an image"):
        evaluate(named, (X, Y), ("fgsm",))


COMPUTED = {
    "by hand": lambda z: 1 / (1 + keras.ops.exp(-z)),
    "hard": keras.ops.hard_sigmoid,
    "mean": lambda z: (keras.ops.sigmoid(z) + keras.ops.sigmoid(2 * z)) / 2,
    "gathered": lambda z: keras.ops.take(keras.ops.sigmoid(z), [1, 0, 2], axis=-1),
    "padded": lambda z: keras.ops.pad(1 / (1 + keras.ops.exp(-z[:, :1])), [[0, 0], [1, 0]]),
}


@pytest.mark.parametrize("end", COMPUTED)
def test_numbers_between_0_and_1_alone_are_refused_and_judged_if_they_have_to_be(end):
    model = _functional([L.Flatten(), L.Dense(3), COMPUTED[end]])
    with pytest.raises(InputError, match="strict=False if these are logits"):
        evaluate(model, (X, Y), ("fgsm",))
    result = evaluate(model, (X, Y), ("fgsm",), strict=False)
    assert any("between 0 and 1" in warning for warning in result.warnings)


@pytest.mark.parametrize("build", [Subclassed, _function])
def test_one_number_of_a_model_without_a_graph_is_refused_with_what_to_return(build):
    model = build([L.Flatten(), L.Dense(1)])
    with pytest.raises(InputError, match=r"let it return keras.ops.pad\(z"):
        evaluate(model, (X, Y), ("fgsm",))
    padded = build([L.Flatten(), L.Dense(1), lambda z: keras.ops.pad(z, [[0, 0], [1, 0]])])
    assert len(evaluate(padded, (X, Y), ("fgsm",)).clean) == N


def test_one_number_is_refused_before_training():
    with pytest.raises(InputError, match="one number an image"):
        AdversarialTrainer(_binary(L.Dense(1)), methods.PGDAT())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_model_of_integer_images_is_judged_with_gradients_on_what_it_predicts(
    dtype, nested
):
    inputs = keras.Input(SHAPE, dtype=dtype)
    adapted = L.Normalization(axis=-1)
    adapted.adapt(np.float32([[90.0], [200.0]]) * np.ones(SHAPE[-1], "float32"))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(adapted(inputs))))
    if nested:
        outer = keras.Input(SHAPE, dtype=dtype)
        model = keras.Model(outer, model(outer))
    grey = (255 * X).astype("uint8")
    expected = model.predict(grey, verbose=0).argmax(-1) == Y
    result = evaluate(model, (grey, Y), "fgsm", epsilon=0.2, bounds=(0, 255))
    np.testing.assert_array_equal(result.clean, expected)
    assert result.robust["fgsm"].sum() < expected.sum()
    with pytest.raises(InputError) as refusal:
        AdversarialTrainer(model, methods.PGDAT())
    taken = str(refusal.value).split(": take ")[1].split(", which has")[0]
    again = evaluate(eval(taken), (grey, Y), (), bounds=(0, 255)) if not nested else result
    np.testing.assert_array_equal(again.clean, expected)
