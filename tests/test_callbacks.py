"""Callbacks of a fit: robust accuracy, divergence, averages, alarms, shares of terms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_models import plain
from twins import ONE_HOT, X, Y, network, ours, weights

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    RobustAccuracy,
    TrainingOptions,
    attacks,
    evaluation,
)
from vfd_tf.data.datasets import Images
from vfd_tf.training.callbacks import (
    Anneal,
    CatastrophicOverfitting,
    LambdaSchedule,
    StochasticWeightAverage,
    StopOnDivergence,
    TermShares,
    Throughput,
)


def test_robust_accuracy_is_that_of_evaluate(make_network, toy):
    model = plain(make_network)
    callback = RobustAccuracy(toy, "pgd5", epsilon=0.1, every=2)
    logs = model.fit(*toy, epochs=3, callbacks=[callback], verbose=0).history
    assert len(logs["val_pgd5_accuracy"]) == 1
    callback.set_model(model)
    callback.on_epoch_end(1, now := {})
    result = evaluation.evaluate(model, toy, ["pgd5"], epsilon=0.1)
    assert now["val_pgd5_accuracy"] == pytest.approx(result.robust["pgd5"].mean())


def test_a_plain_model_in_16_bits_is_attacked_in_float32():
    """Confident logits, whose gradients vanish in float16: as its float32 twin's."""
    exact = network()
    exact.set_weights([100 * w for w in exact.get_weights()])
    half = keras.models.clone_model(exact, clone_function=in_float16)
    half.set_weights(exact.get_weights())
    y = exact.predict(X, verbose=0).argmax(-1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    half.compile(keras.optimizers.SGD(0.0), loss)
    callback = RobustAccuracy((X, y), "pgd5", epsilon=0.1)
    found = half.fit(X, y, verbose=0, callbacks=[callback]).history
    expected = evaluation.evaluate(exact, (X, y), "pgd5", epsilon=0.1).robust["pgd5"]
    assert found["val_pgd5_accuracy"] == [pytest.approx(expected.mean())]
    assert expected.mean() < 1


def in_float16(layer):
    config = {**layer.get_config(), "dtype": "mixed_float16"}
    return type(layer).from_config(config)


def test_robust_accuracy_works_on_batches(make_network, toy, batches):
    model = plain(make_network)
    one, other = RobustAccuracy(toy, "fgsm"), RobustAccuracy(batches, "fgsm")
    found = []
    for callback in (one, other):
        callback.set_model(model)
        callback.on_epoch_end(0, logs := {})
        found.append(logs["val_fgsm_accuracy"])
    assert found[0] == found[1]


def test_the_best_robust_accuracy_is_known_to_be_the_highest():
    robust = RobustAccuracy((X, ONE_HOT), "pgd2", epsilon=0.1)
    early = keras.callbacks.EarlyStopping(robust.metric, patience=5)
    plateau = keras.callbacks.ReduceLROnPlateau("adv_accuracy", patience=5)
    ours().fit(X, Y, callbacks=[robust, early, plateau], epochs=2, verbose=0)
    assert early.mode == plateau.mode == "max" and early.best is not None


def test_divergence_stops_training_and_names_the_term(make_network):
    x = np.random.default_rng(0).uniform(size=(8, 8, 8, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(8, int))).batch(8).repeat(3)
    trainer = AdversarialTrainer(make_network(batch_norm=False), "natural")
    trainer.compile(keras.optimizers.SGD(1e38))
    with pytest.raises(InputError, match="clean_loss.*learning rate"):
        trainer.fit(data, callbacks=[StopOnDivergence()], verbose=0)


@pytest.mark.parametrize(
    "callback",
    [
        Anneal("attack_scale", LambdaSchedule()),
        TermShares(),
        StochasticWeightAverage(None, 0),
    ],
)
def test_what_needs_a_trainer_says_so(callback, make_network):
    with pytest.raises(InputError, match="needs an AdversarialTrainer"):
        callback.set_model(plain(make_network))


def test_an_average_of_epochs_is_not_mixed_with_one_of_steps(make_network):
    trainer = AdversarialTrainer(
        make_network(), "natural", options=TrainingOptions(average="ema")
    )
    with pytest.raises(InputError, match="average='swa'"):
        StochasticWeightAverage(None, 0).set_model(trainer)


def test_stochastic_weight_averages_take_arrays():
    trainer = AdversarialTrainer(
        network(), "natural", options=TrainingOptions(average="swa")
    )
    trainer.compile(keras.optimizers.SGD(0.5))
    trainer.fit(X, Y, callbacks=[StochasticWeightAverage((X, Y), 0)], verbose=0)
    with trainer.averaged() as student:
        average = weights(student)
    np.testing.assert_allclose(average, weights(trainer.student), rtol=1e-6)


def test_the_alarm_rings_when_robust_accuracy_collapses(capsys):
    alarm = CatastrophicOverfitting("robust", fall=0.2, stop=True)
    alarm.set_model(keras.Sequential())
    alarm.model.stop_training = False
    alarm.on_train_begin()
    rung = []
    for epoch, robust in enumerate((0.3, 0.45, 0.3, 0.24, 0.1)):
        logs = {"robust": robust}
        alarm.on_epoch_end(epoch, logs)
        rung.append((logs["catastrophic_overfitting"], alarm.model.stop_training))
    assert rung == [(0, False)] * 3 + [(1, True)] * 2
    assert capsys.readouterr().out.count("Catastrophic overfitting in epoch 4") == 1


def test_a_continued_fit_remembers_the_best_epoch():
    alarm = CatastrophicOverfitting("robust", best=0.5)
    alarm.set_model(keras.Sequential())
    alarm.on_train_begin()
    alarm.on_epoch_end(3, logs := {"robust": 0.2})
    assert logs["catastrophic_overfitting"] == 1


def test_shares_of_the_terms_sum_to_one(make_network, toy):
    trainer = AdversarialTrainer(make_network(), "mart", attacks.PGD(steps=1))
    trainer.compile("sgd")
    callbacks = [TermShares(), Throughput(8)]
    logs = trainer.fit(*toy, batch_size=8, verbose=0, callbacks=callbacks).history
    shares = [logs[f"{term}_share"][0] for term in trainer.term_weights]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1)
    assert logs["images_per_second"][0] > 0


def test_the_averaged_student_has_a_robust_accuracy_of_its_own(make_network, toy):
    options = TrainingOptions(average="ema", ema_decay=0.99)
    trainer = AdversarialTrainer(
        make_network(), "pgd-at", attacks.PGD(steps=1), options=options
    )
    trainer.compile(keras.optimizers.SGD(0.5))
    robust = RobustAccuracy(toy, "pgd2", epsilon=0.05)
    logs = trainer.fit(*toy, batch_size=8, epochs=2, verbose=0, callbacks=[robust]).history
    with trainer.averaged() as student:
        expected = evaluation.evaluate(student, toy, ["pgd2"], epsilon=0.05).accuracies()
    assert logs["val_average_pgd2_accuracy"][-1] == pytest.approx(expected["pgd2"] / 100)


def test_a_plain_model_may_have_options_of_its_own(make_network, toy):
    network = make_network()
    model = keras.Model(network.input, network.output["logits"])
    model.options = {"precision": "mine"}
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    robust = RobustAccuracy(toy, "pgd1")
    logs = model.fit(*toy, callbacks=[robust], verbose=0).history
    assert "val_pgd1_accuracy" in logs


def test_the_quick_verdict_is_apgd_ce_and_apgd_t_on_the_first_images(make_network, toy):
    model, x = plain(make_network), toy[0]
    robust = RobustAccuracy(toy, "autoattack-quick", epsilon=0.02, images=10)
    assert robust.metric == "val_autoattack-quick_accuracy"
    stages = robust.attack.stages(10)
    assert {name: len(runs) for name, runs in stages.items()} == {"apgd-ce": 1, "apgd-t": 3}
    y = evaluation.Engine(model).logits(x).argmax(-1)
    robust = RobustAccuracy((x, y), "autoattack-quick", epsilon=0.002, images=10)
    robust.set_model(model)
    robust.on_train_begin()
    robust.on_epoch_end(0, logs := {})
    first, name = (x[:10], y[:10]), "autoattack-quick"
    result = evaluation.evaluate(model, first, name, epsilon=0.002)
    assert logs[robust.metric] == pytest.approx(result.robust[name].mean())
    assert [*result.stages[name]] == ["apgd-ce", "apgd-t"]


def test_the_first_images_are_those_of_any_data(make_network, toy, batches):
    model, (x, y) = plain(make_network), toy
    split = Images((x * 255).round().astype("uint8"), y)
    for data, one in (
        (toy, (x[:11], y[:11])),
        (batches, (x[:11], y[:11])),
        ((x, y, np.arange(24) >= 5), (x[5:16], y[5:16])),
        (split, split[:11]),
    ):
        found = []
        for callback in (
            RobustAccuracy(data, "fgsm", images=11),
            RobustAccuracy(one, "fgsm"),
        ):
            callback.set_model(model)
            callback.on_epoch_end(0, logs := {})
            found.append(logs["val_fgsm_accuracy"])
            assert len(callback.engine.correct(callback.dataset)) == 11
        assert found[0] == found[1]
    whole = RobustAccuracy(toy, "fgsm", images=100)
    whole.set_model(model)
    assert len(whole.engine.correct(whole.dataset)) == 24
    with pytest.raises(InputError, match="images must be a whole number from 1"):
        RobustAccuracy(toy, images=0)


def test_the_quick_verdict_can_be_monitored(make_network, toy):
    model = plain(make_network)
    robust = RobustAccuracy(toy, "autoattack-quick", epsilon=0.3, images=4)
    stop = keras.callbacks.EarlyStopping(robust.metric, patience=0, mode="max")
    logs = model.fit(*toy, epochs=6, callbacks=[robust, stop], verbose=0).history
    assert len(logs[robust.metric]) < 6  # nothing is robust, and stays so
