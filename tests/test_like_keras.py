"""Natural training in a trainer is Keras's own fit: same data, weights, labels, metrics.

The reference of every test here is plain `keras.Model.fit` and `evaluate` of the same
network on the same data.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import metrics as M
from twins import (
    BATCH,
    CLASSES,
    ONE_HOT,
    SHAPE,
    WEIGHT,
    N,
    X,
    Y,
    ours,
    plain,
    same_history,
    sliced,
    weights,
)

from vfd_tf import AdversarialTrainer, RobustAccuracy, attacks, evaluation
from vfd_tf.training.options import TrainingOptions


class Batches(keras.utils.PyDataset):
    """The images in order, as a PyDataset."""

    def __len__(self):
        return N // BATCH

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return X[part], Y[part], WEIGHT[part]


def generator():
    for i in range(len(Batches())):
        yield Batches()[i]


SOURCES = {
    "arrays": lambda: {"x": X, "y": Y, "sample_weight": WEIGHT},
    "a column of weights": lambda: {"x": X, "y": Y, "sample_weight": WEIGHT[:, None]},
    "a column of labels": lambda: {"x": X, "y": Y[:, None], "sample_weight": WEIGHT},
    "tensors": lambda: {
        "x": tf.constant(X), "y": tf.constant(Y), "sample_weight": tf.constant(WEIGHT)
    },
    "tf.data": lambda: {"x": sliced(X, Y, WEIGHT).batch(BATCH)},
    "tf.data, a column": lambda: {"x": sliced(X, Y, WEIGHT[:, None]).batch(BATCH)},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": generator()},
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_a_fit_on_any_source_of_data_is_that_of_keras(source):
    options = {"metrics": ["accuracy"], "weighted_metrics": [M.MeanSquaredError("mse")]}
    options["weighted_metrics"] = [M.SparseCategoricalAccuracy("weighted")]
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    if source not in ("arrays", "tensors") and "column of" not in source:
        del fit["batch_size"]
    trainer, model = ours(**options), plain(**options)
    logs = trainer.fit(**SOURCES[source](), **fit).history
    same_history(logs, model.fit(**SOURCES[source](), **fit).history)
    np.testing.assert_allclose(
        weights(trainer.student), weights(model), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("source", SOURCES)
def test_an_evaluation_on_any_source_of_data_is_that_of_keras(source):
    options = {"weighted_metrics": [M.SparseCategoricalAccuracy("weighted")]}
    options["metrics"] = ["accuracy"]
    trainer, model = ours(**options), plain(**options)
    same_history(
        trainer.evaluate(**SOURCES[source](), return_dict=True, verbose=0),
        model.evaluate(**SOURCES[source](), return_dict=True, verbose=0),
    )


METRICS = {
    "accuracy": lambda: "accuracy",
    "categorical accuracy": lambda: M.CategoricalAccuracy("acc"),
    "top 2": lambda: M.TopKCategoricalAccuracy(2, "top2"),
    "F1": lambda: M.F1Score("macro"),
    "AUC": lambda: M.AUC(multi_label=True, from_logits=True, name="auc"),
    "cross-entropy": lambda: M.CategoricalCrossentropy(from_logits=True, name="ce"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_metrics_see_one_hot_labels_as_they_come(metric, dtype):
    if dtype == "int32" and metric != "accuracy":
        pytest.skip("Keras's metrics of distributions want floats")
    labels = ONE_HOT.astype(dtype)
    trainer = ours(metrics=[METRICS[metric]()])
    model = plain(one_hot=True, metrics=[METRICS[metric]()])
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    options["validation_data"] = (X[:20], labels[:20])
    logs = trainer.fit(X, labels, **options).history
    same_history(logs, model.fit(X, labels, **options).history)


@pytest.mark.parametrize("rest_first", [True, False])
def test_a_validation_set_may_begin_with_its_smallest_batch(rest_first):
    parts = [sliced(X[:4], Y[:4]).batch(4), sliced(X[4:], Y[4:]).batch(BATCH)]
    parts = parts if rest_first else parts[::-1]
    data = parts[0].concatenate(parts[1])
    trainer, model = ours(metrics=["accuracy"]), plain(metrics=["accuracy"])
    expected = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(trainer.evaluate(data, verbose=0), expected, rtol=1e-5)


def test_dictionaries_of_tensorflow_datasets_are_pairs():
    data = tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).batch(BATCH)
    trainer, model = ours(), plain()
    trainer.fit(data, validation_data=data, verbose=0)
    model.fit(sliced(X, Y).batch(BATCH), verbose=0)
    np.testing.assert_allclose(
        weights(trainer.student), weights(model), rtol=1e-5, atol=1e-6
    )
    verdicts = evaluation.evaluate(model, data, ()).clean
    np.testing.assert_array_equal(verdicts, model.predict(X, verbose=0).argmax(-1) == Y)


def test_images_whose_rank_only_their_values_tell_are_taken():
    def unknown(x, y):
        return tf.numpy_function(lambda v: v, [x], tf.float32), y

    data = sliced(X, Y).map(unknown).batch(BATCH)
    trainer, model = ours(), plain()
    logs = trainer.fit(data, validation_data=data, verbose=0).history
    model.fit(sliced(X, Y).batch(BATCH), verbose=0)
    np.testing.assert_allclose(logs["val_loss"], model.evaluate(X, Y, verbose=0), rtol=1e-5)


def test_every_argument_of_fit_has_keras_s_place():
    trainer, model = ours(), plain()
    one = trainer.fit(X, Y, BATCH, 2, 0, None, 0.0, (X, Y), False).history
    other = model.fit(X, Y, BATCH, 2, 0, None, 0.0, (X, Y), False).history
    same_history(one, other)


def test_a_share_of_arrays_is_held_out_as_keras_holds_it_out():
    trainer, model = ours(), plain()
    options = {"batch_size": 9, "validation_split": 0.25, "shuffle": False, "verbose": 0}
    one = trainer.fit(X, Y, sample_weight=WEIGHT, **options).history
    same_history(one, model.fit(X, Y, sample_weight=WEIGHT, **options).history)


def test_one_callback_needs_no_list():
    ended = []
    one = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ended.append(epoch)
    )
    ours().fit(X, Y, callbacks=one, verbose=0)
    assert ended == [0]


def test_a_loop_of_fits_is_one_fit_of_as_many_epochs():
    once, loop = ours(), ours()
    expected = once.fit(X, Y, batch_size=10, epochs=4, verbose=0).history["loss"]
    losses = [loop.fit(X, Y, batch_size=10, verbose=0).history["loss"][0] for _ in range(4)]
    assert losses == expected and len(set(losses)) == 4
    np.testing.assert_array_equal(weights(once.student), weights(loop.student))


def test_fully_convolutional_models_train_on_several_image_sizes():
    def build():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, None, 1))
        x = L.Conv2D(4, 3, activation="relu", name="layer1")(inputs)
        return keras.Model(inputs, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(x)))

    def batches():
        yield X[:BATCH], Y[:BATCH]
        yield (
            np.pad(X[BATCH : 2 * BATCH], ((0, 0), (1, 1), (2, 2), (0, 0))),
            Y[BATCH : 2 * BATCH],
        )

    spec = tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int64)
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    model, trainer = build(), AdversarialTrainer(build(), "natural")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    trainer.compile(keras.optimizers.SGD(0.5))
    expected = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    logs = trainer.fit(data, validation_data=data, epochs=2, verbose=0).history
    same_history(logs, expected)
    adversarial = AdversarialTrainer(build(), "trades", attacks.PGD(0.1, steps=2))
    adversarial.compile(keras.optimizers.SGD(0.5))
    assert np.isfinite(adversarial.fit(data, verbose=0).history["loss"]).all()
    found = evaluation.evaluate(model, data, ["fgsm"]).clean
    right = [model.predict(x, verbose=0).argmax(-1) == y for x, y in batches()]
    np.testing.assert_array_equal(found, np.concatenate(right))


def test_a_model_of_a_fixed_batch_size_is_fed_whole_batches():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(BATCH, *SHAPE))
    model = keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(inputs)))
    free = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(CLASSES)])
    free.set_weights(model.get_weights())
    trainer = AdversarialTrainer(model, "pgd-at", attacks.FGSM(0.1))
    trainer.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
    trainer.fit(X, Y, callbacks=[RobustAccuracy((X[:20], Y[:20]), "pgd2")], verbose=0)
    right = free.predict(X[:20], verbose=0).argmax(-1) == Y[:20]
    assert trainer.evaluate(X[:20], Y[:20], verbose=0)[1] == pytest.approx(right.mean())
    result = evaluation.evaluate(model, (X[:20], Y[:20]), ["pgd3"], epsilon=0.1)
    expected = evaluation.evaluate(free, (X[:20], Y[:20]), ["pgd3"], epsilon=0.1)
    np.testing.assert_array_equal(result.clean, right)
    np.testing.assert_array_equal(result.robust["pgd3"], expected.robust["pgd3"])


@pytest.mark.parametrize("steps_per_execution", [1, 2, 4, 32])
def test_steps_per_execution_end_with_the_epoch(steps_per_execution):
    options = {"steps_per_execution": steps_per_execution}
    trainer, model = ours(**options), plain(**options)
    fit = {"batch_size": BATCH, "epochs": 3, "shuffle": False, "verbose": 0}
    whole = N // BATCH * BATCH
    trainer.fit(X[:whole], Y[:whole], **fit)
    model.fit(X[:whole], Y[:whole], **fit)
    assert int(trainer.iteration) == int(model.optimizer.iterations) == 3 * (N // BATCH)
    np.testing.assert_allclose(weights(trainer.student), weights(model), 1e-5, 1e-6)


class Positions(L.Layer):
    """Adds a learned vector to each of 16 positions; its gradient comes as slices."""

    def build(self, shape):
        self.table = L.Embedding(16, shape[-1])
        self.table.build(None)

    def call(self, x):
        return x + keras.ops.reshape(self.table(keras.ops.arange(16)), (1, 4, 4, -1))


def with_positions(dtype=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = Positions()(L.Conv2D(4, 3, dtype=dtype)(inputs))
    return keras.Model(inputs, L.Dense(CLASSES)(L.Flatten()(x)))


@pytest.mark.parametrize("dtype", [None, "float64"], ids=["slices", "two dtypes"])
def test_gradients_of_any_kind_train_as_in_keras_and_can_be_clipped(dtype):
    model = with_positions(dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
    for options in (None, TrainingOptions(clip_norm=1e6), TrainingOptions(awp_gamma=1e-12)):
        trainer = AdversarialTrainer(with_positions(dtype), "natural", options=options)
        trainer.compile(keras.optimizers.SGD(0.5), metrics=None)
        trainer.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
        np.testing.assert_allclose(
            weights(trainer.student), weights(model), rtol=1e-5, atol=1e-6
        )
