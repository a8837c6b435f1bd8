"""The trainer: every pair steps, and a step is what eq. 6 and the strategy say it is."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, InputError, TrainingOptions, attacks, losses
from vfd_tf.attacks import Attack
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.distillation import DISTILLATIONS, VFD
from vfd_tf.training.methods import MART, METHODS, PGDAT

pytestmark = pytest.mark.filterwarnings("ignore:.*is not used by")
PAIRS = [(m, d) for m in METHODS for d in DISTILLATIONS]
ROLES = ("teacher", "robust_teacher", "partner")


def values(model):
    return [v.numpy() for v in model.weights]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@component
class Shifted(Attack):
    """Adversary that needs no gradient: x + epsilon."""

    epsilon: float = hyper(0.1, "shift")
    norm: str = hyper("linf", "norm")

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        return x + self.epsilon


def trainer_of(make_network, method, distillation="none", optimizer=None, **options):
    roles = {role: make_network() for role in ROLES}
    attack = options.pop("attack", attacks.PGD(steps=2))
    student = options.pop("student", None) or make_network()
    compile_options = options.pop("compile", {})
    trainer = AdversarialTrainer(student, method, attack, distillation, **roles, **options)
    trainer.compile(optimizer or keras.optimizers.SGD(0.1), **compile_options)
    return trainer, roles


@pytest.mark.parametrize(("method", "distill"), PAIRS)
def test_every_pair_moves_the_student_and_no_frozen_network(
    make_network, toy, method, distill
):
    x, y = (v[:8] for v in toy)
    trainer, roles = trainer_of(
        make_network, method, distill, compile={"run_eagerly": True}
    )
    before = values(trainer.student), {r: values(net) for r, net in roles.items()}
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    assert all(np.isfinite(v).all() for v in logs.values())
    assert not same(values(trainer.student), before[0])
    needs = {*trainer.method.needs, *trainer.distillation.needs}
    for role, network in roles.items():
        moved = not same(values(network), before[1][role])
        assert moved == (role == "partner" and "partner" in needs)
    the_loss_is_the_weighted_sum_of_its_logged_terms(trainer, logs)


def the_loss_is_the_weighted_sum_of_its_logged_terms(trainer, logs):
    weights = {term: float(w.numpy()) for term, w in trainer.term_weights.items()}
    total = sum(weight * logs[f"{term}_loss"][0] for term, weight in weights.items())
    np.testing.assert_allclose(logs["loss"][0], total, rtol=1e-5)
    adversarial = {"adv_accuracy"} if trainer.method.adversarial else set()
    watched = {"gradient_norm", *trainer.distillation.reports}
    terms = {f"{term}_loss" for term in weights}
    running = trainer.method.schedules(1) | trainer.distillation.schedules(1)
    terms |= {f"{term}_weight" for term in running if term in weights}
    terms |= set(trainer.learning.scalars())
    assert set(logs) == {"loss", "accuracy", *adversarial, *watched, *terms}


def test_pairs_follow_the_replacement_rule():
    def weights(method, distill):
        base = METHODS[method]()
        return DISTILLATIONS[distill]().reweigh(base.weights, base.hard_label)

    assert weights("trades", "bgat") == {"adv": 6.0, "boundary": 1.0}
    assert weights("alp", "bgat") == {"pairing": 1.0, "boundary": 1.0}
    assert weights("mart", "bgat") == {"weighted_kl": 5.0, "boundary": 1.0}
    assert weights("pgd-at", "bgat") == {"boundary": 1.0}
    assert weights("natural", "bgat") == {"boundary": 1.0}
    assert weights("hat", "lbgat") == {
        "adv": 2.5, "helper": 0.5, "boundary": 1.0, "partner": 1.0
    }  # fmt: skip
    assert weights("pgd-at", "kd") == {"adv": 0.3, "kd_vanilla": 0.1, "kd_robust": 0.6}
    assert weights("trades", "kd") == {
        "clean": 0.3, "adv": 6.0, "kd_vanilla": 0.1, "kd_robust": 0.6
    }  # fmt: skip
    assert weights("mart", "kd") == {
        "adv": 0.3, "margin": 1.0, "weighted_kl": 5.0, "kd_vanilla": 0.1, "kd_robust": 0.6
    }  # fmt: skip
    assert weights("alp", "kd") == {
        "clean": 0.5, "adv": 0.15, "pairing": 0.5, "kd_vanilla": 0.05, "kd_robust": 0.3
    }  # fmt: skip
    assert weights("hat", "vfd") == {"clean": 1.0, "adv": 2.5, "helper": 0.5, "vfd": 0.01}


def test_a_step_traces_once_for_all_epochs(make_network, batches):
    traces = []

    @component
    class Counted(MART):
        def terms(self, y, student, teacher):
            traces.append(1)
            return super().terms(y, student, teacher)

    trainer, _ = trainer_of(make_network, Counted(), "vfd")
    trainer.fit(batches, epochs=3, verbose=0)
    assert len(traces) == 1
    assert trainer.iteration.numpy() == 9


def test_clean_images_pass_before_adversarial_ones():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(momentum=0.9, name="layer1")(inputs)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    student = keras.Model(inputs, logits)
    teacher = keras.models.clone_model(student)
    clean = np.full((4, 8, 8, 3), 0.5, "float32")
    clean[:2] = 0.1
    trainer = AdversarialTrainer(
        student, PGDAT(), Shifted(0.25), VFD(layer="layer1"), teacher=teacher
    )
    trainer.compile(keras.optimizers.SGD(0.0))
    trainer.fit(clean, np.zeros(4, int), batch_size=4, verbose=0)
    after_clean = 0.1 * clean.mean()
    expected = 0.9 * after_clean + 0.1 * (clean.mean() + 0.25)
    np.testing.assert_allclose(
        student.get_layer("layer1").moving_mean.numpy(), expected, rtol=1e-5
    )


def test_an_attack_on_batch_statistics_leaves_the_moving_ones(make_network, toy):
    x, y = toy
    x_adv = {}
    for mode in ("eval", "train"):
        keras.utils.set_random_seed(1)
        options = TrainingOptions(attack_bn_mode=mode)
        trainer, _ = trainer_of(make_network, "pgd-at", options=options)
        before = values(trainer.student)
        x_adv[mode] = trainer._make_step().adversarial(x, y, trainer._seeds(len(x))).numpy()
        assert same(values(trainer.student), before)
    assert not np.array_equal(x_adv["eval"], x_adv["train"])


def test_sample_weight_scales_the_gradient_of_its_image(make_network, toy):
    x, y = (v[:8] for v in toy)

    def change(weight):
        keras.utils.set_random_seed(3)
        trainer, _ = trainer_of(
            make_network, "trades", "vfd", optimizer=keras.optimizers.SGD(1e-3)
        )
        before = [v.numpy() for v in trainer.trainable_variables]
        trainer.fit(x, y, batch_size=8, sample_weight=weight, shuffle=False, verbose=0)
        after = [v.numpy() for v in trainer.trainable_variables]
        return np.concatenate([(b - a).ravel() for a, b in zip(before, after, strict=True)])

    plain, ones, twos = (change(w) for w in (None, np.ones(8), np.full(8, 2.0)))
    np.testing.assert_allclose(ones, plain, atol=1e-7)
    np.testing.assert_allclose(twos, 2 * plain, rtol=1e-2, atol=1e-6)
    assert np.abs(change(np.zeros(8))).max() == 0


def test_equal_seeds_give_equal_weights_and_others_do_not(make_network, batches):
    def train(seed):
        keras.utils.set_random_seed(5)
        trainer, _ = trainer_of(make_network, "trades", seed=seed)
        trainer.fit(batches, verbose=0)
        return values(trainer.student)

    assert same(train(0), train(0))
    assert not same(train(0), train(1))


def test_ragged_batches_are_dropped_in_training_and_counted_in_evaluation(
    make_network, toy
):
    x, y = toy
    trainer, _ = trainer_of(make_network, "natural")
    data = tf.data.Dataset.from_tensor_slices(toy).batch(10)
    trainer.fit(data, verbose=0)
    assert trainer.iteration.numpy() == 2
    logs = trainer.evaluate(data, return_dict=True, verbose=0)
    logits = trainer.predict(x, verbose=0)
    assert logs["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())
    expected = losses.cross_entropy(y, logits).numpy().mean()
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_logs_nothing_that_only_training_knows(make_network, batches):
    trainer, _ = trainer_of(make_network, "hat", "vfd")
    logs = trainer.fit(batches, validation_data=batches, verbose=0).history
    assert {k for k in logs if k.startswith("val_")} == {"val_loss", "val_accuracy"}


def test_a_users_model_is_trained_in_place_and_handed_back(make_network, toy):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="features")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    teacher = keras.models.clone_model(model)
    trainer = AdversarialTrainer(
        model, "trades", attacks.PGD(steps=1), VFD(layer="features"), teacher=teacher
    )
    trainer.compile(keras.optimizers.SGD(0.1))
    before = values(model)
    trainer.fit(*toy, batch_size=8, verbose=0)
    assert trainer.student is model
    assert not same(values(model), before)
    assert teacher.trainable


@pytest.mark.slow
def test_xla_takes_the_same_step(make_network, toy):
    def train(jit):
        keras.utils.set_random_seed(7)
        trainer, _ = trainer_of(make_network, "trades", "vfd", compile={"jit_compile": jit})
        trainer.fit(*toy, batch_size=8, shuffle=False, verbose=0)
        return np.concatenate([v.ravel() for v in values(trainer.student)])

    np.testing.assert_allclose(train(True), train(False), atol=2e-4)


def test_several_steps_an_execution_are_the_same_steps(make_network, batches):
    def train(steps):
        keras.utils.set_random_seed(7)
        trainer, _ = trainer_of(
            make_network, "mart", compile={"steps_per_execution": steps}
        )
        trainer.fit(batches, epochs=2, verbose=0)
        return trainer.iteration.numpy(), values(trainer.student)

    (one, weights), (two, others) = train(1), train(2)
    assert one == two == 6
    assert same(weights, others)


def test_stock_callbacks_work(make_network, batches, tmp_path):
    trainer, _ = trainer_of(make_network, "trades")
    path = str(tmp_path / "best.weights.h5")
    callbacks = [
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True, monitor="val_loss"),
        keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = trainer.fit(
        batches, validation_data=batches, epochs=5, callbacks=callbacks, verbose=0
    )
    assert len(history.epoch) == 2
    before = values(trainer.student)
    trainer.load_weights(path)
    assert len(values(trainer.student)) == len(before)


def test_a_second_fit_with_other_batches_trains_and_is_checked(make_network, toy):
    trainer, _ = trainer_of(make_network, "natural")
    trainer.fit(*toy, batch_size=8, verbose=0)
    before = values(trainer.student)
    trainer.fit(*toy, batch_size=12, verbose=0)
    assert trainer.iteration.numpy() == 3 + 2
    assert not same(values(trainer.student), before)
    with pytest.raises(InputError, match="divide by 255"):
        trainer.fit(255 * toy[0], toy[1], batch_size=12, verbose=0)


def test_regularisers_of_the_model_join_the_loss(toy):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.5))
    trainer = AdversarialTrainer(keras.Model(inputs, dense(x)), "natural")
    trainer.compile(keras.optimizers.SGD(0.0))
    logs = trainer.fit(*toy, batch_size=24, verbose=0).history
    penalty = 0.5 * float((dense.kernel.numpy() ** 2).sum())
    assert logs["loss"][0] == pytest.approx(logs["clean_loss"][0] + penalty, rel=1e-5)


def test_weights_beside_a_data_set_are_refused(make_network, batches):
    trainer, _ = trainer_of(make_network, "natural")
    with pytest.raises(InputError, match="belong into it"):
        trainer.fit(batches, sample_weight=np.ones(24), verbose=0)


def test_an_unused_teacher_is_mentioned(make_network):
    with pytest.warns(UserWarning, match="teacher=... is not used"):
        AdversarialTrainer(make_network(), "trades", teacher=make_network())


def test_saving_the_trainer_saves_the_student(make_network, batches, tmp_path):
    trainer, _ = trainer_of(make_network, "natural")
    path = str(tmp_path / "best.keras")
    trainer.fit(batches, callbacks=[keras.callbacks.ModelCheckpoint(path)], verbose=0)
    x = np.zeros((2, 8, 8, 3), "float32")
    saved = keras.saving.load_model(path, compile=False)
    np.testing.assert_array_equal(saved(x), trainer.student(x))


def test_a_missing_tensorboard_is_noticed_before_training(
    make_network, batches, monkeypatch
):
    trainer, _ = trainer_of(make_network, "natural")
    callback = keras.callbacks.TensorBoard("nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        trainer.fit(batches, callbacks=[callback], verbose=0)
    assert trainer.iteration.numpy() == 0


def test_a_subclassed_model_trains_once_it_has_weights(toy):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

        def call(self, x, training=None):
            return self.dense(self.flatten(x))

    model = Own()
    with pytest.raises(InputError, match="call it once"):
        AdversarialTrainer(model, "trades")
    model(toy[0])
    trainer = AdversarialTrainer(model, "trades", attacks.PGD(steps=1))
    trainer.compile(keras.optimizers.SGD(0.1))
    before = values(model)
    trainer.fit(*toy, batch_size=8, verbose=0)
    assert not same(values(model), before)


def test_a_custom_loss_is_refused(make_network):
    trainer = AdversarialTrainer(make_network(), "trades")
    with pytest.raises(ValueError, match="leave out loss"):
        trainer.compile("sgd", loss="mse")
    trainer.compile(
        "sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )


def test_parts_of_the_trainer_are_frozen_records():
    assert dataclasses.replace(VFD(), lambda_=0.1) == VFD(lambda_=0.1)
