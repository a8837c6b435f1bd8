"""The default layer k: the last features that training can move, wherever they are."""

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
from keras import layers as L

from vfd_tf import AdversarialTrainer, InputError, VFDCallback, attacks
from vfd_tf.models import network
from vfd_tf.training.distillation import VFD

SHAPE, CLASSES = (8, 8, 1), 3
X = np.random.RandomState(0).rand(8, *SHAPE).astype("float32")
Y = np.arange(8) % CLASSES


def classifier(inputs, x):
    return keras.Model(inputs, L.Dense(CLASSES, name="head")(x))


def convolutions(end=()):
    """Rescaling, two convolutions, what may follow them, and a head."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu", name="first")(L.Rescaling(2.0, -1.0)(inputs))
    x = L.Conv2D(4, 3, activation="relu", name="second")(x)
    for layer in end:
        x = layer(x)
    return classifier(inputs, L.Flatten()(x))


def backbone(pooling):
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, name="inner")(inputs)
    x = L.ReLU(name="inner_relu")(L.BatchNormalization(name="inner_norm")(x))
    if pooling:
        x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, x, name="backbone")


def nested(pooling=True, deep=False):
    """Rescaling before a nested backbone: the usual model of transfer learning."""
    inputs, inner = keras.Input(SHAPE), backbone(pooling)
    if deep:
        outer = keras.Input(SHAPE)
        inner = keras.Model(outer, inner(L.Rescaling(0.5)(outer)), name="outer")
    x = inner(L.Rescaling(2.0, -1.0)(inputs))
    return classifier(inputs, x if pooling else L.GlobalAveragePooling2D()(x))


def transformer():
    """Patch embedding, one block of attention, the mean of its tokens."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(8, 4, strides=4, name="patches")(L.Rescaling(2.0, -1.0)(inputs))
    x = L.Reshape((4, 8))(x)
    x = L.Add()([x, L.MultiHeadAttention(2, 4, name="attention")(x, x)])
    x = L.LayerNormalization(name="tokens")(x)
    return classifier(inputs, L.GlobalAveragePooling1D()(x))


def class_token():
    """The first token, taken by an index, is what the head sees."""
    inputs = keras.Input(SHAPE)
    x = L.Reshape((4, 8))(L.Conv2D(8, 4, strides=4, name="patches")(inputs))
    x = L.LayerNormalization(name="tokens")(L.Dense(8)(x))
    return classifier(inputs, x[:, 0])


def convolutional_head():
    """Logits as a 1x1 convolution of pooled features, as MobileNetV3 has them."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu", name="features")(inputs)
    x = L.GlobalAveragePooling2D(keepdims=True)(x)
    x = L.Conv2D(CLASSES, 1, name="logits_map")(x)
    return keras.Model(inputs, L.Flatten()(x))


def sequential():
    layers = L.Rescaling(2.0), L.Conv2D(4, 3, name="only"), L.Flatten(), L.Dense(CLASSES)
    return keras.Sequential([keras.Input(SHAPE), *layers])


def class_map():
    """Logits as the mean of a map of the classes, as SqueezeNet has them."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu", name="features")(inputs)
    x = L.ReLU()(L.Conv2D(CLASSES, 1, name="class_map")(x))
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x))


def side_branch():
    """A mask of one channel whose mean joins the pooled features."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu", name="features")(inputs)
    mask = L.Conv2D(1, 3, name="mask")(L.Conv2D(2, 3, name="before_mask")(inputs))
    pooled = [L.GlobalAveragePooling2D()(part) for part in (x, mask)]
    return classifier(inputs, L.Concatenate()(pooled))


@keras.saving.register_keras_serializable(package="tests")
class PooledEncoder(L.Layer):
    """A custom layer that makes a vector of feature maps, its own layers out of sight."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.inner = L.Conv2D(width, 3, name="hidden_convolution")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return keras.ops.mean(self.inner(x), (1, 2))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def custom_encoder(width, front):
    inputs = keras.Input(SHAPE)
    return classifier(inputs, PooledEncoder(width, name="encoder")(front(inputs)))


TAKEN = {
    "a map of the classes": (class_map, "features"),
    "a mask beside the features": (side_branch, "features"),
    "a small custom head": (
        lambda: custom_encoder(2, L.Conv2D(16, 5, name="trunk")),
        "trunk",
    ),
    "two convolutions": (convolutions, "second"),
    "pooling behind": (lambda: convolutions([L.MaxPooling2D()]), "second"),
    "dropout behind": (lambda: convolutions([L.Dropout(0.5)]), "second"),
    "padding behind": (lambda: convolutions([L.ZeroPadding2D()]), "second"),
    "sequential": (sequential, "only"),
    "a pooled backbone": (nested, "inner_relu"),
    "a backbone of feature maps": (lambda: nested(False), "backbone"),
    "a backbone in a backbone": (lambda: nested(deep=True), "inner_relu"),
    "a transformer": (transformer, "tokens"),
    "a class token": (class_token, "tokens"),
    "a head of convolutions": (convolutional_head, "features"),
}


@pytest.mark.parametrize("build, name", TAKEN.values(), ids=TAKEN)
def test_the_last_features_that_training_can_move_are_taken(build, name):
    model = build()
    assert network.last(network.graph_of(model)) == name
    model.trainable = False  # a frozen teacher has the same layer k
    assert network.last(network.graph_of(model)) == name


@pytest.mark.parametrize("build", [nested, transformer], ids=["backbone", "transformer"])
def test_lambda_moves_the_student(build):
    ends = []
    for lambda_ in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        student, teacher = build(), build()
        vfd = VFD(lambda_=lambda_)
        trainer = AdversarialTrainer(student, "natural", distillation=vfd, teacher=teacher)
        trainer.compile(keras.optimizers.SGD(0.1))
        trainer.fit(X, Y, verbose=0)
        ends.append(np.concatenate([np.ravel(v) for v in student.get_weights()]))
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


@pytest.mark.parametrize("way", ["trainer", "callback"])
def test_a_fit_says_which_layer_is_taken(capsys, way):
    if way == "trainer":
        trainer = AdversarialTrainer(nested(), "natural", None, "vfd", teacher=nested())
        trainer.compile(keras.optimizers.SGD(0.1))
        trainer.fit(X, Y, verbose=2)
    else:
        model = nested()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        callback = VFDCallback(nested(), attack=attacks.FGSM(0.1))
        model.fit(X, Y, verbose=2, callbacks=[callback])
    assert "Layer 'last' of the student is 'inner_relu', 6x6x4." in capsys.readouterr().out


def test_where_no_features_are_the_layers_to_choose_from_are_listed():
    inputs = keras.Input(SHAPE)
    x = L.Dense(5, activation="relu", name="hidden")(L.Flatten()(L.Rescaling(2.0)(inputs)))
    with pytest.raises(InputError, match="no feature map .* layers: hidden, logits.$"):
        AdversarialTrainer(
            classifier(inputs, x), "natural", None, "vfd", teacher=convolutions()
        )


@pytest.mark.parametrize("front", [L.BatchNormalization, lambda: L.Dense(4)])
def test_a_layer_in_front_of_a_custom_encoder_is_no_default(front):
    student, teacher = (custom_encoder(16, front()) for _ in range(2))
    with pytest.raises(InputError, match="no feature map .* layers: .*, encoder, logits.$"):
        AdversarialTrainer(student, "natural", None, "vfd", teacher=teacher)


@pytest.mark.parametrize("freeze", ["rescaling", "frozen"])
def test_a_layer_that_nothing_trainable_leads_to_is_refused(freeze):
    student = convolutions()
    if freeze == "frozen":
        for layer in student.layers[:-1]:
            layer.trainable = False
    layer = "last" if freeze == "frozen" else student.layers[1].name
    vfd = VFD(layer=layer)
    teacher = keras.models.clone_model(student)
    with pytest.raises(InputError, match="depends on no trainable weights"):
        AdversarialTrainer(student, "natural", distillation=vfd, teacher=teacher)
