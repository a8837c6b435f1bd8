"""TrainingOptions of a training step: each states its law and joins any pair."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    TrainingOptions,
    attacks,
    losses,
    noise,
)
from vfd_tf.models import network
from vfd_tf.training.callbacks import Anneal, Delay, LambdaSchedule, StochasticWeightAverage
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:.*is not used by")
PAIRS = [*((m, "vfd") for m in METHODS), *(("trades", d) for d in DISTILLATIONS)]
EVERYTHING = TrainingOptions(
    attack_bn_mode="train",
    attack_objective="ce",
    add_clean_ce=True,
    label_smoothing=0.1,
    clip_norm=0.5,
    awp_gamma=0.01,
    average="ema",
)


def trainer_of(make_network, method="natural", distillation="none", **arguments):
    student = arguments.pop("student", None) or make_network()
    roles = {r: make_network() for r in ("teacher", "robust_teacher", "partner")}
    attack = arguments.pop("attack", attacks.PGD(steps=2))
    compiling = arguments.pop("compile", {})
    trainer = AdversarialTrainer(
        student, method, attack, distillation, **roles, **arguments
    )
    trainer.compile(keras.optimizers.SGD(1.0), **compiling)
    return trainer


def copy_of(make_network, model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def gradient_of_cross_entropy(model, x, y):
    """Gradient of the mean cross-entropy in training mode, by Keras's own loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True)["logits"])
    variables = [v.value for v in model.trainable_variables]
    return [g.numpy() for g in tape.gradient(value, variables)]


@pytest.mark.parametrize(("method", "distill"), PAIRS)
def test_all_options_together_join_any_method_and_distillation(
    make_network, toy, method, distill
):
    x, y = (v[:8] for v in toy)
    options = {"options": EVERYTHING, "compile": {"run_eagerly": True}}
    trainer = trainer_of(make_network, method, distill, **options)
    before = trainer.student.get_weights()
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    assert all(np.isfinite(v).all() for v in logs.values())
    moved = [a - b for a, b in zip(trainer.student.get_weights(), before, strict=True)]
    assert any(np.abs(m).max() > 0 for m in moved)
    assert "clean_loss" in logs


def test_awp_steps_along_the_gradient_at_the_worst_weights_nearby(make_network, toy):
    x, y = (v[:8] for v in toy)
    gamma = 0.05
    trainer = trainer_of(make_network, options=TrainingOptions(awp_gamma=gamma))
    network = trainer.network
    twin, start = copy_of(make_network, network), network.get_weights()
    ascent = gradient_of_cross_entropy(twin, x, y)
    twin.set_weights(start)
    for variable, g in zip(twin.trainable_variables, ascent, strict=True):
        w = variable.numpy()
        if w.ndim > 1:  # kernels alone, as in the original
            length = np.linalg.norm(w) / np.linalg.norm(g)
            variable.assign(w + gamma * length * g)
    before = [v.numpy() for v in network.trainable_variables]
    gradients = gradient_of_cross_entropy(twin, x, y)
    trainer.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, w, g in zip(network.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), w - g, rtol=1e-4, atol=2e-6)
    # The search for the worst weights has not moved the statistics: one update, not two.
    for ours, theirs in zip(
        network.non_trainable_variables, twin.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_awp_keeps_the_regularisers_of_the_model_s_own_layers(toy):
    x, y = (v[:8] for v in toy)
    losses_of, added = [], []
    for gamma in (0.0, 1e-9):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((8, 8, 3))
        own = {"activity_regularizer": "l2", "kernel_regularizer": "l2"}
        h = keras.layers.Conv2D(4, 3, **own)(inputs)
        logits = keras.layers.Dense(10)(keras.layers.Flatten()(h))
        model = keras.Model(inputs, logits)
        trainer = AdversarialTrainer(
            model, "natural", options=TrainingOptions(awp_gamma=gamma)
        )
        trainer.compile(keras.optimizers.SGD(0.0))
        logs = trainer.fit(x, y, batch_size=8, verbose=0).history
        losses_of.append(logs["loss"][0])
        model(x)  # what Keras itself adds to a loss
        added.append(float(sum(model.losses)))
        assert losses_of[-1] - logs["clean_loss"][0] == pytest.approx(added[-1], 1e-4)
    assert losses_of[0] == pytest.approx(losses_of[1]) and added[0] > 0.01


def test_what_layers_add_in_their_forward_counts_in_every_pass(toy):
    """PGD-AT has a pass on x', ALP one on x and one on x': here the same images."""
    x, y = (v[:8] for v in toy)
    inputs = keras.Input((8, 8, 3))
    own = {"activity_regularizer": "l2", "kernel_regularizer": "l2"}
    h = keras.layers.Conv2D(4, 3, **own)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(h)))
    model(x)
    activities, weights = (float(value) for value in model.losses)
    for method, passes in (("pgd-at", 1), (METHODS["alp"](pairing=0.0), 2)):
        attack = attacks.PGD(1e-9, steps=1, random_start=False)
        trainer = AdversarialTrainer(model, method, attack)
        trainer.compile(keras.optimizers.SGD(0.0))
        logs = trainer.fit(x, y, batch_size=8, verbose=0).history
        terms = trainer.term_weights.items()
        own = sum(float(w.numpy()) * logs[f"{term}_loss"][0] for term, w in terms)
        assert logs["loss"][0] - own == pytest.approx(passes * activities + weights, 1e-4)


def test_awp_before_its_warm_up_is_over_changes_nothing(make_network, toy):
    x, y = toy
    weights = []
    for gamma, callbacks in ((0.0, []), (0.05, [Anneal("awp_gamma", Delay(1))])):
        keras.utils.set_random_seed(3)
        trainer = trainer_of(
            make_network, "trades", options=TrainingOptions(awp_gamma=gamma)
        )
        trainer.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        weights.append(trainer.student.get_weights())
    for plain, delayed in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, delayed)


def test_clipping_shortens_the_step_and_keeps_its_direction(make_network, toy):
    x, y = (v[:8] for v in toy)
    steps, norms = {}, {}
    for clip in (None, 1e3, 0.01):
        keras.utils.set_random_seed(3)
        trainer = trainer_of(make_network, options=TrainingOptions(clip_norm=clip))
        before = [v.numpy() for v in trainer.student.trainable_variables]
        norms[clip] = trainer.fit(x, y, batch_size=8, verbose=0).history["gradient_norm"][0]
        after = [v.numpy() for v in trainer.student.trainable_variables]
        pairs = zip(after, before, strict=True)
        steps[clip] = np.concatenate([(a - b).ravel() for a, b in pairs])
    length = np.linalg.norm(steps[None])
    np.testing.assert_allclose(norms[None], length, rtol=1e-4)
    np.testing.assert_allclose(norms[0.01], length, rtol=1e-4)  # reported before clipping
    np.testing.assert_allclose(steps[1e3], steps[None], atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(steps[0.01]), 0.01, rtol=1e-3)
    np.testing.assert_allclose(steps[0.01] / 0.01, steps[None] / length, atol=1e-3)


def test_label_smoothing_mixes_in_the_uniform_distribution(make_network, toy):
    x, y = (v[:8] for v in toy)
    trainer = trainer_of(make_network, options=TrainingOptions(label_smoothing=0.2))
    twin = copy_of(make_network, trainer.network)
    log_p = np.log(tf.nn.softmax(twin(x, training=True)["logits"]).numpy())
    of_label, uniform = -log_p[np.arange(8), y], -log_p.mean(1)
    loss = trainer.fit(x, y, batch_size=8, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, (0.8 * of_label + 0.2 * uniform).mean(), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_labels_as_distributions_train_as_their_classes_do(make_network, toy, method):
    x, y = (v[:8] for v in toy)
    weights = []
    for labels in (y, np.eye(10, dtype="float32")[y]):
        keras.utils.set_random_seed(3)
        trainer = trainer_of(make_network, method)
        logs = trainer.fit(x, labels, batch_size=8, shuffle=False, verbose=0).history
        weights.append((trainer.student.get_weights(), logs["accuracy"]))
    for a, b in zip(weights[0][0], weights[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert weights[0][1] == weights[1][1]


def test_labels_that_are_no_distributions_are_refused(make_network, toy):
    x, y = (v[:8] for v in toy)
    with pytest.raises(InputError, match="rows sum to 1"):
        trainer_of(make_network).fit(x, 2.0 * np.eye(10)[y], batch_size=8, verbose=0)


def test_attack_objective_ce_is_pgd_on_cross_entropy_from_the_method_s_start(
    make_network, toy
):
    x, y = (tf.constant(v[:8]) for v in toy)
    trainer = trainer_of(
        make_network, "trades", options=TrainingOptions(attack_objective="ce")
    )
    step, seeds = trainer._make_step(), noise.example_seeds(0, 0, tf.range(8))
    start = trainer.method.start(x, seeds)
    expected = attacks.PGD(steps=2)(
        lambda x: trainer.network(x)["logits"], x, attacks.cross_entropy(y), start=start
    )
    np.testing.assert_array_equal(step.adversarial(x, y, seeds), expected)
    own = trainer_of(make_network, "trades", student=trainer.student)._make_step()
    assert not np.array_equal(own.adversarial(x, y, seeds), expected)


@pytest.mark.parametrize(
    ("method", "terms"),
    [("pgd-at", {"clean", "adv"}), ("mart", {"clean", "adv", "margin", "weighted_kl"})],
)
def test_add_clean_ce_adds_the_clean_cross_entropy(make_network, toy, method, terms):
    x, y = (v[:8] for v in toy)
    trainer = trainer_of(make_network, method, options=TrainingOptions(add_clean_ce=True))
    assert set(trainer.term_weights) == terms
    assert float(trainer.term_weights["clean"].numpy()) == 1.0
    twin = copy_of(make_network, trainer.network)
    logits = twin(x, training=True)["logits"]
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
    logs = trainer.fit(x, y, batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["clean_loss"][0], expected, rtol=1e-5)


def test_add_clean_ce_leaves_methods_that_have_one(make_network):
    options = TrainingOptions(add_clean_ce=True)
    weights = [
        {
            k: float(w.numpy())
            for k, w in trainer_of(make_network, "trades", **o).term_weights.items()
        }
        for o in ({}, {"options": options})
    ]
    assert weights[0] == weights[1]


def test_the_attack_s_scale_is_another_epsilon_and_traces_nothing_anew(make_network, toy):
    x, y = toy
    trainer = trainer_of(make_network, "pgd-at", attack=attacks.PGD(0.1, steps=2))
    batch = tf.constant(x[:8]), tf.constant(y[:8]), noise.example_seeds(0, 0, tf.range(8))
    trainer.scheduled["attack_scale"].assign(0.5)
    half = trainer._make_step().adversarial(*batch)
    expected = attacks.PGD(0.05, steps=2)(
        lambda x: trainer.network(x)["logits"],
        batch[0],
        attacks.cross_entropy(batch[1]),
        seeds=batch[2],
    )
    np.testing.assert_allclose(half, expected, atol=1e-7)
    rise = Anneal("attack_scale", LambdaSchedule("linear", 4))
    beta = Anneal("adv_weight", LambdaSchedule("cosine", 4))
    logs = trainer.fit(
        x, y, batch_size=8, epochs=5, verbose=0, callbacks=[rise, beta]
    ).history
    assert logs["attack_scale"] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = [(1 - np.cos(np.pi * share)) / 2 for share in (0.25, 0.5, 0.75, 1.0, 1.0)]
    np.testing.assert_allclose(logs["adv_weight"], cosine, atol=1e-6)
    assert trainer.train_function.one_step.experimental_get_tracing_count() == 1


def test_an_unknown_running_value_is_refused(make_network, toy):
    with pytest.raises(InputError, match="Did you mean 'clean_weight'"):
        Anneal("clean_weigth", Delay(1)).set_model(trainer_of(make_network))


class Recorder(keras.callbacks.Callback):
    """Weights after every step, and after every epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.student.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.student.get_weights())


def test_ema_is_the_exponential_mean_of_the_steps(make_network, toy):
    x, y = toy
    options = TrainingOptions(average="ema", ema_decay=0.3)
    trainer, recorder = trainer_of(make_network, options=options), Recorder()
    trainer.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[recorder])
    expected = recorder.steps[0]
    for t, weights in enumerate(recorder.steps[1:], 1):
        decay = min(0.3, (1 + t) / (10 + t))
        pairs = zip(expected, weights, strict=True)
        expected = [decay * e + (1 - decay) * w for e, w in pairs]
    trained = trainer.student.get_weights()
    with trainer.averaged() as student:
        for ours, theirs in zip(student.get_weights(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(trainer.student.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_swa_is_the_mean_of_epochs_with_statistics_of_its_own(make_network, toy):
    x, y = toy
    trainer, recorder = (
        trainer_of(make_network, options=TrainingOptions(average="swa")),
        Recorder(),
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    swa = StochasticWeightAverage(data, start=1)
    trainer.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[recorder, swa])
    student = trainer.student
    trainable = {id(v) for v in student.trainable_variables}
    kept = [id(v) in trainable for v in student.weights]
    with trainer.averaged():
        averaged = student.get_weights()
    for i, keep in enumerate(kept):
        if keep:
            mean = np.mean([epoch[i] for epoch in recorder.epochs[1:]], axis=0)
            np.testing.assert_allclose(averaged[i], mean, rtol=1e-5, atol=1e-6)
    # BatchNorm sits on the first convolution: its statistics by the formula.
    convolution, norm = student.layers[1], student.layers[2]
    with trainer.averaged():
        batches = [convolution(x[i : i + 8]).numpy() for i in (0, 8, 16)]
        mean = np.mean([b.mean((0, 1, 2)) for b in batches], axis=0)
        variance = np.mean([b.var((0, 1, 2)) for b in batches], axis=0)
        np.testing.assert_allclose(norm.moving_mean.numpy(), mean, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance.numpy(), variance, rtol=1e-3)


def test_swa_leaves_a_frozen_batch_norm_as_it_is(make_network, toy):
    student = network.classifier(make_network())
    norm = student.layers[2]
    norm.trainable = False
    norm.moving_variance.assign(np.full(4, 3.0))
    trainer = trainer_of(
        make_network, student=student, options=TrainingOptions(average="swa")
    )
    data = tf.data.Dataset.from_tensor_slices(toy).batch(8)
    swa = StochasticWeightAverage(data, start=0)
    trainer.fit(*toy, batch_size=8, verbose=0, callbacks=[swa])
    with trainer.averaged():
        np.testing.assert_allclose(norm.moving_variance.numpy(), 3.0, rtol=1e-6)


def test_without_an_average_there_is_none_to_swap_in(make_network):
    with (
        pytest.raises(InputError, match="average='ema'"),
        trainer_of(make_network).averaged(),
    ):
        pass
    swa = trainer_of(make_network, options=TrainingOptions(average="swa"))
    with pytest.raises(InputError, match="StochasticWeightAverage"), swa.averaged():
        pass


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"average": "mean"}, "none, ema, swa"),
        ({"swa_start": 3}, "average='swa'"),
        ({"ema_decay": 0.9}, "average='ema'"),
        ({"clip_norm": 0.0}, "at least"),
        ({"label_smoothing": 1.0}, "at most"),
        ({"attack_bn_mode": "batch"}, "eval, train"),
    ],
)
def test_bad_options_are_refused(fields, hint):
    with pytest.raises(InputError, match=hint):
        TrainingOptions(**fields)


def test_smoothed_labels_stay_distributions():
    labels = losses.smooth(np.array([0, 2]), 4, 0.4).numpy()
    np.testing.assert_allclose(labels, [[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]])
    mixed = losses.smooth(np.array([[0.5, 0.5, 0, 0]], "float32"), 4, 0.4).numpy()
    np.testing.assert_allclose(mixed, [[0.4, 0.4, 0.1, 0.1]])
