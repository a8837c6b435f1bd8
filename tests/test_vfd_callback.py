"""VFDCallback anneals lambda, or turns a plain model's fit into VFD training."""

import keras
import numpy as np
import pytest
import twins
from plain_models import plain
from twins import BATCH, ONE_HOT, X, Y

from vfd_tf import AdversarialTrainer, InputError, VFDCallback, attacks, methods
from vfd_tf.training.callbacks import LambdaSchedule
from vfd_tf.training.distillation import VFD

ATTACK = attacks.PGD(steps=2)


def weights(model):
    return [v.numpy() for v in model.weights]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.25, 0.5, 0.75, 1.0]),
        ("cosine", [0.1464466, 0.5, 0.8535534, 1.0]),
    ],
)
def test_lambda_rises_in_its_shape_and_stays(shape, expected):
    schedule = LambdaSchedule(shape, warmup_epochs=4)
    np.testing.assert_allclose([schedule(e) for e in range(4)], expected, atol=1e-7)
    assert schedule(9) == 1.0


def test_lambda_is_annealed_and_logged_without_another_trace(make_network, batches):
    trainer = AdversarialTrainer(
        make_network(), "trades", ATTACK, VFD(0.04), teacher=make_network()
    )
    trainer.compile(keras.optimizers.SGD(0.05))
    callback = VFDCallback(schedule=LambdaSchedule("linear", 4))
    logs = trainer.fit(batches, epochs=3, callbacks=[callback], verbose=0).history
    np.testing.assert_allclose(logs["vfd_lambda"], [0.01, 0.02, 0.03], rtol=1e-6)
    share = np.multiply(logs["vfd_lambda"], logs["vfd_loss"]) / logs["loss"]
    np.testing.assert_allclose(logs["vfd_share"], share, rtol=1e-5)


def test_a_plain_model_trains_as_in_the_trainer(make_network, batches):
    keras.utils.set_random_seed(3)
    model, teacher = plain(make_network), make_network()
    callback = VFDCallback(teacher, "layer1", 0.02, method="mart", attack=ATTACK)
    logs = model.fit(batches, callbacks=[callback], verbose=0).history
    keras.utils.set_random_seed(3)
    student, teacher = make_network(), make_network()
    trainer = AdversarialTrainer(
        student, "mart", ATTACK, VFD(0.02, "layer1"), teacher=teacher
    )
    trainer.compile(keras.optimizers.SGD(0.05))
    wanted = trainer.fit(batches, verbose=0).history
    for one, other in zip(weights(model), weights(student), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("loss", "adv_loss", "vfd_loss", "accuracy"):
        assert logs[name] == wanted[name]


@pytest.mark.parametrize("method", [methods.GAT(late_share=0.5), methods.ARAT()])
def test_a_plain_model_logs_what_the_trainer_logs(make_network, batches, method):
    """Weights that the method changes by the epoch, and what it learns, included."""
    model, teacher = plain(make_network), make_network()
    callback = VFDCallback(teacher, method=method, attack=ATTACK)
    guest = model.fit(batches, epochs=2, callbacks=[callback], verbose=0).history
    own = method, ATTACK, VFD()
    trainer = AdversarialTrainer(make_network(), *own, teacher=make_network())
    trainer.compile(keras.optimizers.SGD(0.05))
    fit = {"epochs": 2, "callbacks": [VFDCallback()], "verbose": 0}
    logs = trainer.fit(batches, **fit).history
    assert set(guest) == set(logs)
    for name in {"guided_weight", *trainer.learning.scalars()} & set(logs):
        assert len(guest[name]) == 2 and (
            name != "guided_weight" or guest[name] == [10, 40]
        )


def test_the_stock_step_comes_back_after_the_fit(make_network, batches):
    model = plain(make_network)
    callback = VFDCallback(make_network(), "layer1", attack=ATTACK)
    model.fit(batches, callbacks=[callback], verbose=0)
    logs = model.fit(batches, verbose=0).history
    assert set(logs) == {"loss", "accuracy"}
    logs = model.fit(batches, callbacks=[callback], verbose=0).history
    assert "vfd_loss" in logs


def test_the_stock_step_comes_back_after_a_failed_fit(make_network, batches):
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("stop")

    model = plain(make_network)
    callback = VFDCallback(make_network(), "layer1", attack=ATTACK)
    with pytest.raises(RuntimeError):
        model.fit(batches, callbacks=[callback, Fails()], verbose=0)
    assert "vfd_loss" not in model.fit(batches, verbose=0).history


def test_a_callback_added_for_a_second_fit_takes_effect(make_network, batches):
    model = plain(make_network)
    model.fit(batches, verbose=0)
    callback = VFDCallback(make_network(), "layer1", attack=ATTACK)
    assert "vfd_loss" in model.fit(batches, callbacks=[callback], verbose=0).history


def test_misuse_is_refused_in_one_sentence(make_network, batches):
    with pytest.raises(InputError, match="needs teacher"):
        VFDCallback(lambda_=0.1)
    with pytest.raises(InputError, match="needs teacher"):
        plain(make_network).fit(batches, callbacks=[VFDCallback()], verbose=0)
    trainer = AdversarialTrainer(make_network(), "trades", ATTACK)
    trainer.compile()
    with pytest.raises(InputError, match="distillation='vfd'"):
        trainer.fit(batches, callbacks=[VFDCallback()], verbose=0)
    with pytest.raises(InputError, match="AdversarialTrainer already"):
        trainer.fit(batches, callbacks=[VFDCallback(make_network())], verbose=0)


def test_a_schedule_without_shape_or_epochs_is_constant_or_refused():
    assert [LambdaSchedule()(epoch) for epoch in range(3)] == [1.0, 1.0, 1.0]
    for fields in (("constant", 4), ("linear", 0)):
        with pytest.raises(InputError, match="both a shape"):
            LambdaSchedule(*fields)


def test_a_callback_on_a_model_of_one_hot_labels_leaves_its_metrics_alone():
    model = twins.plain(one_hot=True, metrics=["accuracy"])
    callback = VFDCallback(twins.network(1), "layer1", 0.01, attack=attacks.FGSM(0.1))
    fit = {"batch_size": BATCH, "verbose": 0, "callbacks": [callback]}
    logs = model.fit(X, ONE_HOT, validation_data=(X, ONE_HOT), **fit).history
    right = (model.predict(X, verbose=0).argmax(-1) == Y).mean()
    assert logs["val_accuracy"][-1] == pytest.approx(right)
    assert model.evaluate(X, ONE_HOT, verbose=0)[1] == pytest.approx(right)


def test_a_callback_follows_a_model_that_is_compiled_anew():
    model = twins.plain(metrics=["accuracy"])
    callback = VFDCallback(twins.network(1), "layer1", 0.01, attack=attacks.FGSM(0.1))
    fit = {"batch_size": BATCH, "verbose": 0, "callbacks": [callback]}
    model.fit(X, Y, **fit)
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(model.optimizer, loss, metrics=["accuracy", top2])
    assert "top2" in model.fit(X, Y, **fit).history


OTHER_LOSSES = {
    "smoothed": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    "of probabilities": "sparse_categorical_crossentropy",
    "squares": ["mse"],
    "focal": keras.losses.CategoricalFocalCrossentropy(from_logits=True),
}


@pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_a_callback_takes_the_place_of_no_other_loss(loss):
    model = twins.network()
    model.compile("sgd", loss)
    before = twins.weights(model)
    with pytest.raises(InputError, match="losses of its method instead of the model's"):
        model.fit(X, ONE_HOT, callbacks=[VFDCallback(twins.network())], verbose=0)
    np.testing.assert_array_equal(twins.weights(model), before)
