"""Files of a trainer: weights, and an export, which is its student."""

import keras
import numpy as np
import tensorflow as tf
from twins import BATCH, N, X, Y, network, ours, weights

from vfd_tf import AdversarialTrainer
from vfd_tf.training.options import TrainingOptions


def test_a_file_of_weights_loads_into_the_student_s_architecture_and_into_a_trainer(
    tmp_path,
):
    path = tmp_path / "last.weights.h5"
    options = TrainingOptions(average="ema")
    trainer = AdversarialTrainer(network(), "natural", options=options)
    trainer.compile(keras.optimizers.SGD(0.5, momentum=0.9))
    checkpoint = keras.callbacks.ModelCheckpoint(path, "loss", save_weights_only=True)
    trainer.fit(X, Y, batch_size=BATCH, callbacks=[checkpoint], verbose=0)
    student = network(5)
    student.load_weights(path)
    np.testing.assert_array_equal(weights(student), weights(trainer.student))
    other = AdversarialTrainer(network(5), "natural", options=options)
    other.compile(keras.optimizers.SGD(0.5, momentum=0.9))
    other.load_weights(path)
    assert int(other.iteration.numpy()) == N // BATCH
    for each in (trainer, other):  # momentum, averages and order go on alike
        each.fit(X, Y, batch_size=BATCH, verbose=0)
    np.testing.assert_array_equal(weights(other.student), weights(trainer.student))


def test_an_exported_trainer_is_its_student(tmp_path):
    trainer = ours()
    trainer.export(str(tmp_path / "served"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    served = loaded.serve(X)
    np.testing.assert_allclose(
        served, trainer.student.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )
