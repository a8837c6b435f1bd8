"""Networks of one architecture take turns in the same compiled attacks."""

import keras
import numpy as np
import pytest

from vfd_tf.evaluation import Compilations, evaluate
from vfd_tf.mixture import mixture

RNG = np.random.default_rng(0)
X = RNG.random((24, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 10, 24)
ATTACKS = ["pgd3", "square:queries=3"]


def network(seed, width=4):
    inputs = keras.Input((8, 8, 1), name="image")
    h = keras.layers.Conv2D(width, 3, name="convolution")(inputs)
    h = keras.layers.BatchNormalization(name="norm")(h)
    h = keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="relu")(h))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(h), name="network")
    for variable in model.weights:  # statistics and weights that tell networks apart
        value = np.random.default_rng(seed).normal(0, 0.5, variable.shape)
        variable.assign(np.abs(value) if "variance" in variable.path else value)
    return model


def verdicts(model, **options):
    found = evaluate(model, (X, Y), ATTACKS, epsilon=0.1, **options)
    return found.verdicts()


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_verdicts_are_those_of_each_network_alone():
    alone = [verdicts(network(seed)) for seed in range(3)]
    assert not same(alone[0], alone[1]) or not same(alone[1], alone[2])
    shared = Compilations()
    for seed in (0, 1, 2, 0):
        assert same(verdicts(network(seed), compilations=shared), alone[seed])


def test_black_box_columns_are_those_of_each_surrogate_alone():
    attacks = ["transfer-pgd3"]

    def found(seed, surrogate, **options):
        result = evaluate(
            network(seed),
            (X, Y),
            attacks,
            epsilon=0.3,
            surrogate=network(surrogate),
            **options,
        )
        return result.verdicts()

    pairs = [(0, 1), (0, 2), (1, 2), (0, 1)]
    alone = [found(*pair) for pair in pairs]
    shared = Compilations()
    for pair, expected in zip(pairs, alone, strict=True):
        assert same(found(*pair, compilations=shared), expected)


def test_models_that_are_handed_in_stay_as_they_are():
    """One, another and the first again, which is its own surrogate, too."""
    models = [network(0), network(1)]
    before = [[v.numpy() for v in model.weights] for model in models]
    alone = [verdicts(model, surrogate=model) for model in models]
    assert not same(*alone)
    shared = Compilations()
    for seed in (0, 1, 0, 0):
        its = {"surrogate": models[seed], "compilations": shared}
        assert same(verdicts(models[seed], **its), alone[seed])
    found = evaluate(
        models[1], (X, Y), ["transfer-pgd3"], epsilon=0.1, surrogate=models[0],
        compilations=shared,
    )  # fmt: skip
    other = evaluate(models[1], (X, Y), ["transfer-pgd3"], epsilon=0.1, surrogate=models[0])
    assert same(found.verdicts(), other.verdicts())
    for model, weights in zip(models, before, strict=True):
        for variable, value in zip(model.weights, weights, strict=True):
            np.testing.assert_array_equal(variable, value)


@keras.saving.register_keras_serializable("tests")
class Shift(keras.layers.Layer):
    """Adds a constant that neither its config nor its weights know."""

    shift = 0.0

    def call(self, x):
        return x + self.shift


def odd(kind, seed):
    """A network with what a clone may lose."""
    inputs, inner = keras.Input((8, 8, 1), name="image"), network(seed)
    if kind == "constant":
        layer = Shift(name="shift")
        layer.shift = float(seed)
        h = layer(inputs)
    elif kind == "lambda":
        h = keras.layers.Lambda(lambda x: x + float(seed), name="shift")(inputs)
    elif kind == "shared":
        half = keras.Sequential([keras.Input((8, 8, 1)), inner.layers[1]], name="half")
        h = keras.layers.Flatten(name="flat")(half(inputs) + inner.layers[1](inputs))
        return keras.Model(inputs, inner.layers[-1](h), name="network")
    elif kind == "bfloat16":
        half = keras.layers.Conv2D(1, 1, dtype="mixed_bfloat16", name="half")
        h = half(inputs)
        half.kernel.assign(np.full((1, 1, 1, 1), 1.0 + seed))
    return keras.Model(inputs, inner(h), name="network")


@pytest.mark.parametrize("kind", ["constant", "lambda", "shared", "bfloat16"])
@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 1)])
def test_networks_without_a_faithful_clone_keep_their_verdicts(kind, order):
    shared, models = Compilations(), [odd(kind, seed) for seed in (0, 1)]
    alone = [verdicts(model) for model in models]
    assert not same(*alone)
    for seed in order:
        assert same(verdicts(models[seed], compilations=shared), alone[seed])


def test_mixtures_take_turns_as_networks_do():
    shared, mixes = Compilations(), []
    for seed in (0, 1):
        keras.backend.clear_session()  # their operations have numbers in their names
        mixes.append(mixture(network(seed), network(2), 0.5))
    alone = [verdicts(model) for model in mixes]
    for seed in (0, 1, 0):
        assert same(verdicts(mixes[seed], compilations=shared), alone[seed])
    assert len(shared._kept) == 1


def test_clones_are_kept_as_long_as_what_was_compiled_for_them():
    shared = Compilations()
    for width in range(1, 12):
        shared.engine(network(0, width), source=network(1, 2))
    assert len(shared._kept) == 8 and len(shared._clones) == 9


def test_the_second_network_compiles_nothing():
    shared = Compilations()
    verdicts(network(0), compilations=shared)
    (kept,) = shared._kept.values()
    compiled = dict(kept.runner._compiled)
    traces = {key: each.experimental_get_tracing_count() for key, each in compiled.items()}
    verdicts(network(1), compilations=shared)
    assert kept.runner._compiled == compiled
    for key, each in compiled.items():
        assert each.experimental_get_tracing_count() == traces[key]


def test_other_architectures_and_settings_are_kept_apart():
    shared = Compilations()
    for model, options in (
        (network(0), {}),
        (network(0, width=8), {}),
        (network(0), {"batch_size": 8}),
    ):
        expected = verdicts(model, **options)
        assert same(verdicts(model, compilations=shared, **options), expected)
    assert len(shared._kept) == 3


def test_without_compilations_no_model_is_changed():
    first, second = network(0), network(1)
    before = [variable.numpy() for variable in first.weights]
    verdicts(first), verdicts(second)
    for variable, value in zip(first.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_few_are_kept():
    shared = Compilations()
    for size in range(1, 12):
        shared.engine(network(0), batch_size=size)
    assert len(shared._kept) == 8


def test_the_one_that_was_asked_for_last_is_kept_longest():
    shared = Compilations()
    first = shared.engine(network(0), batch_size=1)
    for size in range(2, 9):
        shared.engine(network(0), batch_size=size)
    assert shared.engine(network(1), batch_size=1) is first
    shared.engine(network(0), batch_size=9)  # takes the place of 2
    assert shared.engine(network(2), batch_size=1) is first


def test_what_was_said_of_one_network_is_not_said_of_the_next():
    broken, shared = network(0), Compilations()
    broken.set_weights([np.full_like(w, np.nan) for w in broken.get_weights()])
    said = []
    for model in (broken, network(1)):
        found = evaluate(
            model, (X, Y), ["fgsm"], epsilon=0.1, strict=False, compilations=shared
        )
        said.append([warning for warning in found.warnings if "NaN" in warning])
    assert said[0] and not said[1]


def shifted(images):
    """A network that sees images through a `Normalization` adapted to others."""
    inner, normalization = network(0), keras.layers.Normalization(axis=None, name="own")
    inputs = keras.Input((8, 8, 1), name="input")
    first = keras.Input((8, 8, 1), name="first")
    nested = keras.Sequential([first, normalization], name="nested")
    model = keras.Model(inputs, inner(nested(inputs)), name="network")
    normalization.adapt(images)
    return model


def test_networks_adapted_to_other_images_are_kept_apart():
    """Adapted statistics are constants of what is compiled, and not in the config."""
    own, shared = [X, 20 * X - 3, X], Compilations()
    for images in own:
        model = shifted(images)
        right = model.predict(X, verbose=0).argmax(-1) == Y
        found = verdicts(model, compilations=shared)
        np.testing.assert_array_equal(found["clean"], right)
        assert same(found, verdicts(shifted(images)))
    assert len(shared._kept) == 2
    first, second = (shifted(images).predict(X, verbose=0).argmax(-1) for images in own[:2])
    assert ((first == Y) != (second == Y)).any()
