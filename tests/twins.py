"""One small network, as Keras compiles it and in a trainer, and the images of both."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

from vfd_tf import AdversarialTrainer

SHAPE, CLASSES, N, BATCH = (6, 6, 1), 4, 36, 12
RANDOM = np.random.RandomState(0)
X = RANDOM.rand(N, *SHAPE).astype("float32")
Y = RANDOM.randint(0, CLASSES, N)
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]
WEIGHT = np.linspace(0.0, 2.0, N).astype("float32")


def network(seed=0, end=()):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, activation="relu", name="layer1")(inputs)
    x = L.Dense(CLASSES)(L.Flatten()(x))
    return keras.Model(inputs, x)


def plain(one_hot=False, **options):
    kind = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    model = network()
    loss = getattr(keras.losses, kind)(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, **options)
    return model


def ours(**options):
    trainer = AdversarialTrainer(network(), "natural")
    trainer.compile(keras.optimizers.SGD(0.5), **{"metrics": None, **options})
    return trainer


def weights(model):
    return np.concatenate([np.ravel(v) for v in model.get_weights()])


def same_history(one, other):
    for name, values in other.items():
        np.testing.assert_allclose(one[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def sliced(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)
