"""Networks that are refused: no such layer, augmentation, no classifier, probabilities."""

import keras
import pytest
from keras import layers as L
from tappable import FLAT, NESTED, SHAPE, head, small_backbone, stack

from vfd_tf import AdversarialTrainer, InputError
from vfd_tf.models import network, outputs


@pytest.mark.parametrize(
    "augmentation",
    [
        L.RandomFlip("horizontal"),
        L.RandomTranslation(0.1, 0.1),
        L.RandomRotation(0.1),
        L.RandomCrop(8, 8),
        L.RandomContrast(0.2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("nested", [False, True])
def test_random_augmentation_is_refused_anywhere_in_a_model(augmentation, nested):
    inputs = keras.Input(SHAPE)
    x = augmentation
    if nested:
        inner = keras.Input(SHAPE)
        x = keras.Model(inner, augmentation(inner))
    model = keras.Model(inputs, head(x(inputs)))
    with pytest.raises(InputError, match=type(augmentation).__name__) as refusal:
        AdversarialTrainer(model, "pgd-at")
    assert "dataset.map" in str(refusal.value)


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_unknown_layer_suggests_the_nearest(build):
    with pytest.raises(InputError, match="Did you mean 'conv2'"):
        network.tap(build(), ["conv22"])


def test_unknown_layer_without_a_near_one_lists_them():
    with pytest.raises(InputError, match="conv1, conv2"):
        network.tap(FLAT["functional"](), ["zzz"])


def test_last_without_a_feature_map_is_refused():
    inputs = keras.Input(SHAPE)
    hidden = L.Dense(4, name="hidden")(L.Flatten(name="flat")(inputs))
    model = keras.Model(inputs, L.Dense(5, name="head")(hidden))
    with pytest.raises(InputError, match="feature map.*: hidden, logits"):
        network.tap(model, ["last"])


def _two_inputs():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    return keras.Model([one, two], head(L.Add()([one, two])))


def _two_outputs():
    inputs = keras.Input(SHAPE)
    pooled = L.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, [L.Dense(5)(pooled), L.Dense(2)(pooled)])


def _dict_without_logits():
    inputs = keras.Input(SHAPE)
    scores = head(inputs)
    return keras.Model(inputs, {"scores": scores, "twice": 2 * scores})


def _feature_map_output():
    return small_backbone()


@pytest.mark.parametrize(
    "build, hint",
    [
        (_two_inputs, "2 inputs"),
        (_two_outputs, "logits"),
        (_dict_without_logits, "scores.*'logits'"),
        (_feature_map_output, "logits"),
        (lambda: keras.Sequential(stack()), "keras.Input"),
    ],
)
@pytest.mark.parametrize("layers", [[], ["last"]])
def test_models_that_are_no_classifiers_are_refused(build, hint, layers):
    with pytest.raises(InputError, match=hint):
        network.tap(build(), layers)


@pytest.mark.parametrize(
    "end, probabilities",
    [
        ([L.Dense(3, "softmax")], True),
        ([L.Dense(3), L.Softmax()], True),
        ([L.Dense(3), L.Activation("softmax")], True),
        ([L.Dense(3, "sigmoid")], True),
        ([L.Dense(3)], False),
        ([L.Dense(3, "relu")], False),
        ([L.Dense(3, "softmax"), L.Dense(3)], False),
    ],
)
@pytest.mark.parametrize("kind", ["functional", "nested", "sequential", "tapped"])
def test_probabilities_are_recognised_by_the_last_operation(end, probabilities, kind):
    end = [type(layer).from_config(layer.get_config()) for layer in end]
    x = inputs = keras.Input(SHAPE)
    for layer in [L.Flatten(name="flat"), *end]:
        x = layer(x)
    model = keras.Model(inputs, x)
    if kind == "nested":
        outer = keras.Input(SHAPE)
        model = keras.Model(outer, model(outer))
    if kind == "sequential":
        model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), *end])
    if kind == "tapped":
        model = network.tap(model, ["flat"])
    assert outputs.ends_in_probabilities(model) is probabilities
