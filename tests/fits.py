"""Small fits that are killed or stopped somewhere, and what they end with."""

import os
import signal

import keras
import numpy as np
import pytest

from vfd_tf import AdversarialTrainer, TrainingOptions, attacks
from vfd_tf.callbacks import Checkpoint
from vfd_tf.training.saving import training_state

STEPS, EPOCHS = 3, 2
L = keras.layers


class Killed(Exception):
    """What ends a fit."""


class Kill(keras.callbacks.Callback):
    """Raises at a place such as ("step", epoch, batch), ("test", epoch), ("end", epoch)."""

    def __init__(self, *place):
        super().__init__()
        self.place, self.ran = place, []

    def _at(self, *place):
        if place == self.place:
            raise Killed

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._at("begin", epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self._at("before", self.epoch, batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ran.append((self.epoch, batch, logs["loss"]))
        self._at("step", self.epoch, batch)

    def on_test_begin(self, logs=None):
        self._at("test", self.epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._at("end", epoch)


def send(name):
    """To this process; Python's handler runs before the next line."""
    os.kill(os.getpid(), getattr(signal, name))


class Send(Kill):
    """Sends signals at a place, see `Kill`."""

    def __init__(self, *place, names=("SIGTERM",)):
        super().__init__(*place)
        self.names = names

    def _at(self, *place):
        if place == self.place:
            for name in self.names:
                send(name)
            self.ran.append("sent")


def network():
    """With BatchNorm, whose statistics move, and dropout, whose seed does."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, use_bias=False)(inputs)
    x = L.ReLU(name="layer1")(L.BatchNormalization(momentum=0.9)(x))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(10)(x))


def natural(steps_per_execution=1, metrics=("accuracy",), **options):
    """A new trainer, always the same."""
    keras.utils.set_random_seed(0)
    options = TrainingOptions(**options)
    trainer = AdversarialTrainer(network(), "natural", seed=3, options=options)
    optimizer = keras.optimizers.Adam(0.01)
    trainer.compile(optimizer, metrics=metrics, steps_per_execution=steps_per_execution)
    return trainer


def vfd(**options):
    """One that trains by FGSM and VFD."""
    keras.utils.set_random_seed(0)
    teacher, attack = network(), attacks.PGD(steps=1, epsilon=0.1)
    options = TrainingOptions(**options)
    trainer = AdversarialTrainer(
        network(), "pgd-at", attack, "vfd", teacher=teacher, seed=3, options=options
    )
    trainer.compile(keras.optimizers.SGD(0.1, 0.9))
    return trainer


def images(count=26):
    """Two more than fill the batches of an epoch, and a weight for each."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(count, 8, 8, 3)).astype("float32")
    return x, random.integers(0, 10, count), random.uniform(0.1, 2, count)


def fit(trainer, folder, *callbacks, data=None, epochs=EPOCHS, verbose=0, **given):
    """Trains with a checkpoint behind every step: the trainer's History."""
    x, y, weight = images()
    own = {"x": x, "y": y, "sample_weight": weight, "batch_size": 8}
    own = own if data is None else {"x": data}
    given = {"steps": 1, **given}
    saves = [Checkpoint(folder, **given)] if folder else []
    return trainer.fit(
        **own,
        epochs=epochs,
        validation_data=(x[:11], y[:11]),
        callbacks=[*saves, *callbacks],
        verbose=verbose,
    )


def everything(trainer, history):
    """What a fit ends with: all variables, and the history."""
    found = [v.numpy() for v in training_state.variables(trainer)]
    return found, history.epoch, history.history


def assert_same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[1:] == other[1:]


def killed(make, folder, *place, **given):
    """A fit that ends at this place."""
    kill = Kill(*place)
    with pytest.raises(Killed):
        fit(make(), folder, kill, **given)
    return kill


def unbroken(make, **given):
    trainer = make()
    return everything(trainer, fit(trainer, None, **given))


def resumed(make, folder, *callbacks, **given):
    trainer = make()
    return everything(trainer, fit(trainer, folder, *callbacks, **given))
