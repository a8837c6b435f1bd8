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

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    RobustAccuracy,
    VFDCallback,
    attacks,
    evaluation,
)
from vfd_tf.training.callbacks import StochasticWeightAverage
from vfd_tf.training.options import TrainingOptions

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


class Batches(keras.utils.PyDataset):
    """The images in order, as a PyDataset."""

    def __len__(self):
        return N // BATCH

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return X[part], Y[part], WEIGHT[part]


def sliced(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


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


def test_a_callback_on_a_model_of_one_hot_labels_leaves_its_metrics_alone():
    model = plain(one_hot=True, metrics=["accuracy"])
    callback = VFDCallback(network(1), "layer1", 0.01, attack=attacks.FGSM(0.1))
    fit = {"batch_size": BATCH, "verbose": 0, "callbacks": [callback]}
    logs = model.fit(X, ONE_HOT, validation_data=(X, ONE_HOT), **fit).history
    right = (model.predict(X, verbose=0).argmax(-1) == Y).mean()
    assert logs["val_accuracy"][-1] == pytest.approx(right)
    assert model.evaluate(X, ONE_HOT, verbose=0)[1] == pytest.approx(right)


def test_a_callback_follows_a_model_that_is_compiled_anew():
    model = plain(metrics=["accuracy"])
    callback = VFDCallback(network(1), "layer1", 0.01, attack=attacks.FGSM(0.1))
    fit = {"batch_size": BATCH, "verbose": 0, "callbacks": [callback]}
    model.fit(X, Y, **fit)
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(model.optimizer, loss, metrics=["accuracy", top2])
    assert "top2" in model.fit(X, Y, **fit).history


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
    trainer = ours()
    trainer.fit(X, Y, callbacks=keras.callbacks.TerminateOnNaN(), verbose=0)


def test_a_loop_of_fits_is_one_fit_of_as_many_epochs():
    once, loop = ours(), ours()
    expected = once.fit(X, Y, batch_size=10, epochs=4, verbose=0).history["loss"]
    losses = [loop.fit(X, Y, batch_size=10, verbose=0).history["loss"][0] for _ in range(4)]
    assert losses == expected and len(set(losses)) == 4
    np.testing.assert_array_equal(weights(once.student), weights(loop.student))


def test_other_images_are_left_out_of_every_epoch():
    """At rate 0 the weighted loss of an epoch tells which images were in it."""
    weight = 2.0 ** np.arange(11)
    x, y = np.repeat(X[:1], 11, axis=0), np.repeat(Y[:1], 11)
    trainer = AdversarialTrainer(network(), "natural")
    trainer.compile(keras.optimizers.SGD(0.0))
    alone = trainer.evaluate(x[:1], y[:1], verbose=0)[0]
    missing = set()
    for _ in range(30):
        logs = trainer.fit(x, y, sample_weight=weight, batch_size=10, verbose=0).history
        total = logs["loss"][0] * 10 / alone
        missing.add(round(np.log2(weight.sum() - total)))
    assert len(missing) > 5


def test_the_usual_batch_is_kept_wherever_the_ragged_one_stands():
    for seed in range(6):
        data = sliced(X[:34], Y[:34]).batch(8).shuffle(5, seed=seed)
        trainer = ours()
        with pytest.warns(UserWarning, match="batch of 2 images is dropped.*usual 8"):
            trainer.fit(data, epochs=2, verbose=0)
        assert int(trainer.iteration.numpy()) == 2 * 4


def test_what_a_fit_drops_is_counted():
    data = sliced(X[:2], Y[:2]).batch(2).concatenate(sliced(X[2:34], Y[2:34]).batch(8))
    with pytest.warns(UserWarning, match="dropped 3 of 15 batches, 6 images in all"):
        ours().fit(data, epochs=3, verbose=0)
    with pytest.warns(UserWarning, match="last 4 of 36 images .* never used"):
        ours().fit(X, Y, batch_size=8, shuffle=False, verbose=0)


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


def test_the_best_robust_accuracy_is_known_to_be_the_highest():
    robust = RobustAccuracy((X, ONE_HOT), "pgd2", epsilon=0.1)
    early = keras.callbacks.EarlyStopping(robust.metric, patience=5)
    plateau = keras.callbacks.ReduceLROnPlateau("adv_accuracy", patience=5)
    ours().fit(X, Y, callbacks=[robust, early, plateau], epochs=2, verbose=0)
    assert early.mode == plateau.mode == "max" and early.best is not None


def test_stochastic_weight_averages_take_arrays():
    trainer = AdversarialTrainer(
        network(), "natural", options=TrainingOptions(average="swa")
    )
    trainer.compile(keras.optimizers.SGD(0.5))
    trainer.fit(X, Y, callbacks=[StochasticWeightAverage((X, Y), 0)], verbose=0)
    with trainer.averaged() as student:
        average = weights(student)
    np.testing.assert_allclose(average, weights(trainer.student), rtol=1e-6)


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


@pytest.mark.parametrize(
    "data",
    [
        lambda images: images.train_batches(4),
        lambda images: images.batches(4),
    ],
    ids=["training", "validation"],
)
def test_pipelines_of_images_are_not_tuned_at_run_time(data):
    from vfd_tf.data.datasets import Images

    images = Images((255 * X).astype("uint8"), Y.astype("int32"))
    assert data(images).options().autotune.enabled is False


def test_pipelines_of_arrays_are_not_tuned_at_run_time(monkeypatch):
    seen = []

    def spy(self, x, *args, **kwargs):
        seen.append(x)
        seen.append(kwargs.get("validation_data"))
        return keras.callbacks.History()

    trainer = ours()
    trainer.make_train_function()
    monkeypatch.setattr(keras.Model, "fit", spy)
    trainer.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert [data.options().autotune.enabled for data in seen] == [False, False]


# What is checked before the first step, and what it leaves


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


def _single(x, y, w=None):
    return tf.data.Dataset.from_tensor_slices((x, y))


LATE = (np.arange(N) == N - 1)[:, None, None, None]
BAD_VALIDATION = {
    "grey levels": (lambda: (255 * X, Y), "divide by 255"),
    "grey levels at the end": (lambda: (X * (1 + 254 * LATE), Y), "divide by 255"),
    "NaN at the end": (lambda: (np.where(LATE, np.nan, X), Y), "NaN or infinite"),
    "labels at the end": (lambda: (X, Y + 100 * (np.arange(N) == N - 1)), "has 4 classes"),
    "four parts": (lambda: (X, Y, WEIGHT, WEIGHT), "validation_data has 4 parts"),
    "labels": (lambda: (X, Y + 100), "but the model has"),
    "a size": (lambda: (X[:, :4], Y), "resize the images"),
    "weights": (lambda: (X, Y, ONE_HOT), "one weight an image"),
    "no batches": (lambda: _single(X, Y), r"add \.batch\(100\)"),
    "a PyDataset": (lambda: sliced(255 * X, Y).batch(8), "divide by 255"),
}


@pytest.mark.parametrize("case", BAD_VALIDATION)
def test_validation_is_checked_before_the_first_step(case):
    data, message = BAD_VALIDATION[case]
    trainer = ours()
    with pytest.raises(InputError, match=message):
        trainer.fit(X, Y, validation_data=data(), batch_size=BATCH, verbose=0)
    assert int(trainer.iteration) == 0


@pytest.mark.parametrize("part", ["images", "labels"])
def test_arrays_are_checked_to_their_end_before_the_first_step(part):
    x = X * (1 + 254 * LATE) if part == "images" else X
    y = Y + 100 * LATE.ravel() if part == "labels" else Y
    message = "divide by 255" if part == "images" else "has 4 classes"
    # More than one batch of an evaluation, with the mistake in the last.
    many = np.concatenate([X] * 5 + [x]), np.concatenate([Y] * 5 + [y])
    for callbacks, data in ([], (x, y)), ([RobustAccuracy(many, "fgsm")], (X, Y)):
        trainer = ours()
        with pytest.raises(InputError, match=message):
            trainer.fit(*data, batch_size=BATCH, callbacks=callbacks, verbose=0)
        assert int(trainer.iteration) == 0


def test_a_later_batch_of_nan_is_called_so():
    x = np.where(LATE, np.nan, X)
    with pytest.raises(InputError, match="later batch has images that are NaN"):
        ours().fit(sliced(x, Y).batch(BATCH), verbose=0)


def test_a_fit_that_is_resumed_goes_on_in_the_order_of_the_whole(tmp_path):
    """`BackupAndRestore` brings the step back after `fit` has its data."""

    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole, first, second = ours(), ours(), ours()
    whole.fit(X, Y, batch_size=BATCH, epochs=4, verbose=0)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        first.fit(
            X, Y, batch_size=BATCH, epochs=4, callbacks=[backup(), Killed()], verbose=0
        )
    second.fit(X, Y, batch_size=BATCH, epochs=4, callbacks=[backup()], verbose=0)
    assert int(second.iteration) == int(whole.iteration)
    np.testing.assert_allclose(weights(second), weights(whole), rtol=1e-6)


@pytest.mark.parametrize("train, validation", [(Y, ONE_HOT), (ONE_HOT, Y)])
def test_labels_of_two_kinds_are_refused_where_metrics_know_one(train, validation):
    trainer = ours(metrics=["accuracy"])
    with pytest.raises(InputError, match="compile again"):
        trainer.fit(X, train, validation_data=(X, validation), verbose=0)
    assert int(trainer.iteration) == 0
    without = ours()
    without.fit(X, train, validation_data=(X, validation), batch_size=BATCH, verbose=0)
    trainer = ours(metrics=["accuracy"])
    trainer.fit(X, train, batch_size=BATCH, verbose=0)
    trainer.compile("sgd", metrics=["accuracy"])
    trainer.fit(X, validation, batch_size=BATCH, verbose=0)


def test_an_unbatched_set_to_train_on_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="single image"):
        ours().fit(_single(X, Y), verbose=0)


@pytest.mark.parametrize(
    "options",
    [{"ignore_class": 1}, {"reduction": "sum"}, {"from_logits": False}],
    ids=str,
)
def test_losses_that_mean_another_thing_are_refused(options):
    loss = keras.losses.SparseCategoricalCrossentropy(**{"from_logits": True, **options})
    with pytest.raises(InputError, match="The method is the loss"):
        ours(loss=loss)
    with pytest.raises(InputError, match="The method is the loss"):
        ours(loss_weights=[3.0])


OTHER_LOSSES = {
    "smoothed": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    "of probabilities": "sparse_categorical_crossentropy",
    "squares": ["mse"],
    "focal": keras.losses.CategoricalFocalCrossentropy(from_logits=True),
}


@pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_a_callback_takes_the_place_of_no_other_loss(loss):
    model = network()
    model.compile("sgd", loss)
    before = weights(model)
    with pytest.raises(InputError, match="losses of its method instead of the model's"):
        model.fit(X, ONE_HOT, callbacks=[VFDCallback(network())], verbose=0)
    np.testing.assert_array_equal(weights(model), before)


@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_from_logits_is_the_loss_that_a_trainer_has(one_hot):
    kind = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    ours(loss=getattr(keras.losses, kind)(from_logits=True))


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


class Counter(L.Layer):
    """Counts its calls, in any mode."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


@pytest.mark.parametrize("awp_gamma", [0.0, 0.01])
@pytest.mark.parametrize("method, passes", [("natural", 1), ("pgd-at", 1), ("trades", 2)])
def test_checks_attacks_and_logs_leave_no_trace_in_layers_that_count(
    method, passes, awp_gamma
):
    """Only the passes of the loss count: one a view."""
    inputs = keras.Input(SHAPE)
    counter = Counter()
    h = L.Flatten()(counter(L.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, L.Dense(CLASSES)(h))
    options = TrainingOptions(awp_gamma=awp_gamma)
    trainer = AdversarialTrainer(model, method, attack="pgd2", options=options)
    trainer.compile("sgd", metrics=None)
    trainer.fit(X, Y, batch_size=BATCH, epochs=2, verbose=0)
    assert float(counter.calls) == passes * 2 * (N // BATCH)
