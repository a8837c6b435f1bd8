"""VFDCallback anneals lambda, or turns a plain model's fit into VFD training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    RobustAccuracy,
    VFDCallback,
    attacks,
    evaluation,
    network,
)
from vfd_tf.callbacks import LambdaSchedule, StopOnDivergence
from vfd_tf.distillation import VFD

ATTACK = attacks.PGD(steps=2)


def plain(make_network):
    model = network.classifier(make_network())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    return model


def weights(model):
    return [v.numpy() for v in model.weights]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
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


def test_robust_accuracy_is_that_of_evaluate(make_network, toy):
    model = plain(make_network)
    callback = RobustAccuracy(toy, "pgd5", epsilon=0.1, every=2)
    logs = model.fit(*toy, epochs=3, callbacks=[callback], verbose=0).history
    assert len(logs["val_pgd5_accuracy"]) == 1
    callback.set_model(model)
    callback.on_epoch_end(1, now := {})
    result = evaluation.evaluate(model, toy, ["pgd5"], epsilon=0.1)
    assert now["val_pgd5_accuracy"] == pytest.approx(result.robust["pgd5"].mean())


def test_robust_accuracy_works_on_batches(make_network, toy, batches):
    model = plain(make_network)
    one, other = RobustAccuracy(toy, "fgsm"), RobustAccuracy(batches, "fgsm")
    found = []
    for callback in (one, other):
        callback.set_model(model)
        callback.on_epoch_end(0, logs := {})
        found.append(logs["val_fgsm_accuracy"])
    assert found[0] == found[1]


def test_divergence_stops_training_and_names_the_term(make_network):
    x = np.random.default_rng(0).uniform(size=(8, 8, 8, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(8, int))).batch(8).repeat(3)
    trainer = AdversarialTrainer(make_network(batch_norm=False), "natural")
    trainer.compile(keras.optimizers.SGD(1e38))
    with pytest.raises(InputError, match="clean_loss.*learning rate"):
        trainer.fit(data, callbacks=[StopOnDivergence()], verbose=0)
