"""VFDCallback anneals lambda, or turns a plain model's fit into VFD training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    RobustAccuracy,
    TrainingOptions,
    VFDCallback,
    attacks,
    evaluation,
    methods,
)
from vfd_tf.data.datasets import Images
from vfd_tf.models import network
from vfd_tf.training.callbacks import (
    Anneal,
    CatastrophicOverfitting,
    LambdaSchedule,
    StochasticWeightAverage,
    StopOnDivergence,
    TermShares,
    Throughput,
)
from vfd_tf.training.distillation import VFD

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


def test_a_schedule_without_shape_or_epochs_is_constant_or_refused():
    assert [LambdaSchedule()(epoch) for epoch in range(3)] == [1.0, 1.0, 1.0]
    for fields in (("constant", 4), ("linear", 0)):
        with pytest.raises(InputError, match="both a shape"):
            LambdaSchedule(*fields)


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
