"""Networks of one architecture take turns in the same compiled attacks."""

import keras
import numpy as np

from vfd_tf.evaluation import Compilations, evaluate

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


def test_the_second_network_compiles_nothing():
    shared = Compilations()
    verdicts(network(0), compilations=shared)
    (kept,) = shared._kept.values()
    compiled = dict(kept[0].runner._compiled)
    traces = {key: each.experimental_get_tracing_count() for key, each in compiled.items()}
    verdicts(network(1), compilations=shared)
    assert kept[0].runner._compiled == compiled
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
