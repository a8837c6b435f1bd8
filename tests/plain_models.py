"""A model as its user compiles it, without a trainer."""

import keras

from vfd_tf.models import network


def plain(make_network):
    model = network.classifier(make_network())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    return model
