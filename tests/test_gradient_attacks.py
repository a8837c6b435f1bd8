"""FGSM and PGD: restarts, graphs, balls, and threat models that can't be."""

import gradient_attacks
import numpy as np
import pytest
import tensorflow as tf
from gradient_attacks import EPSILON, every, length_of, norms, seeds_of

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    TrainingOptions,
    attacks,
    evaluation,
    noise,
)
from vfd_tf.attacks import BALLS, FGSM, PGD, generator

model, images = gradient_attacks.model, gradient_attacks.images
logits_fn = gradient_attacks.logits_fn


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("graph", [False, True])
def test_the_trainer_s_attack_leaves_the_statistics_as_they_were(
    mode, graph, model, images
):
    x, y = images
    trainer = AdversarialTrainer(
        model, "pgd-at", PGD(0.1, steps=3), options=TrainingOptions(attack_bn_mode=mode)
    )
    before = model.get_weights()
    adversary = trainer._make_step().adversarial
    attack = tf.function(adversary) if graph else adversary
    x_adv = attack(tf.constant(x), tf.constant(y), seeds_of()).numpy()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # The mode decides whose statistics the attack sees: those of the batch, or its own.
    saved = model.get_weights()
    expected = PGD(0.1, steps=3)(
        lambda x: model(x, training=mode == "train"),
        tf.constant(x),
        attacks.cross_entropy(y),
        seeds=seeds_of(),
    )
    model.set_weights(saved)
    np.testing.assert_allclose(x_adv, expected, atol=1e-5)


@norms
@pytest.mark.parametrize("objective", [attacks.cross_entropy, attacks.margin])
def test_restarts_are_never_worse_than_any_of_their_runs(
    norm, objective, logits_fn, images
):
    x, y = images
    attack, objective = PGD(EPSILON[norm], steps=2, norm=norm), objective(y)
    seeds = [seeds_of(), *(noise.fork(seeds_of(), run) for run in (1, 2))]
    several = attack.replace(restarts=3)(
        logits_fn, tf.constant(x), objective, seeds=seeds[0]
    )
    logits = logits_fn(several)
    best, won = objective(logits).numpy(), objective.success(logits).numpy()
    for each in seeds:
        logits = logits_fn(attack(logits_fn, tf.constant(x), objective, seeds=each))
        score, success = objective(logits).numpy(), objective.success(logits).numpy()
        assert (won >= success).all()
        assert ((best >= score - 1e-6) | (won & ~success)).all()


def test_restarts_prefer_success_to_a_higher_score():
    """The score rises to both sides of the image, success lies where it rises less."""

    def logits_fn(x):
        return tf.reshape(x, [-1, 1])

    objective = attacks.Objective(
        score=lambda z: tf.maximum(z[:, 0] - 0.4, 2 * (0.4 - z[:, 0])),
        success=lambda z: z[:, 0] > 0.4,
    )
    x = tf.fill([64, 1, 1, 1], 0.4)
    attack = PGD(0.1, 0.1, steps=3, restarts=8)
    end = attack(logits_fn, x, objective).numpy().ravel()
    np.testing.assert_allclose(end, 0.5, atol=1e-6)


@every
def test_plain_callables_are_objectives_too(attack, logits_fn, images):
    x, y = images
    objective = attacks.cross_entropy(y)
    plain = attack(logits_fn, tf.constant(x), lambda z: objective(z)).numpy()
    assert (length_of(plain - x, attack.norm) <= attack.epsilon + 1e-6).all()
    if getattr(attack, "restarts", 1) == 1:
        full = attack(logits_fn, tf.constant(x), objective)
        np.testing.assert_array_equal(plain, full)


@every
def test_a_generator_traces_once_a_shape_and_gives_the_same_images(
    attack, logits_fn, images
):
    x, y = images
    traces = []

    def counted(x):
        traces.append(tuple(x.shape))
        return logits_fn(x)

    generate = generator(attack, counted, attacks.cross_entropy)
    first = generate(tf.constant(x), tf.constant(y), seeds_of())
    count = len(traces)
    for seed in (1, 2, 0):
        again = generate(tf.constant(x), tf.constant(y), seeds_of(seed=seed))
    assert len(traces) == count
    np.testing.assert_array_equal(again, first)
    eager = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=seeds_of())
    np.testing.assert_allclose(first, eager, atol=1e-5)


def test_the_number_of_steps_does_not_grow_the_graph(logits_fn, images):
    def size(steps):
        generate = generator(PGD(0.1, steps=steps), logits_fn, attacks.cross_entropy)
        x, y = images
        graph = generate.get_concrete_function(tf.constant(x), tf.constant(y), seeds_of())
        return len(graph.graph.as_graph_def().node)

    assert size(20) == size(2)


@pytest.mark.parametrize("xla", [False, True])
@norms
def test_attacks_are_the_same_under_xla(xla, norm, logits_fn, images):
    x, y = images
    attack = PGD(EPSILON[norm], steps=2, norm=norm)

    @tf.function(jit_compile=xla)
    def run(x, seeds):
        return attack(logits_fn, x, attacks.cross_entropy(y), seeds=seeds)

    eager = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=seeds_of())
    np.testing.assert_allclose(run(tf.constant(x), seeds_of()), eager, atol=1e-4)


@norms
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_balls_sample_project_and_point_as_defined(norm, dtype):
    ball, shape, epsilon = BALLS[norm], (4, 3, 2), 0.3
    sample = ball.sample(seeds_of(2000), shape, epsilon, dtype)
    assert sample.dtype == dtype
    length = length_of(sample, norm)
    assert length.max() <= epsilon + 1e-6
    assert length.max() > 0.9 * epsilon
    if norm == "l2":  # the radius is uniform
        assert length.mean() == pytest.approx(epsilon / 2, rel=0.05)
    assert np.abs(np.mean(sample, axis=0)).max() < 0.03
    x = tf.constant(np.random.RandomState(0).randn(50, *shape), dtype)
    delta = tf.constant(np.random.RandomState(1).randn(50, *shape), dtype)
    scale = tf.reshape(tf.linspace(tf.constant(0.0, dtype), 1.0, 50), [-1, 1, 1, 1])
    projected = ball.project(x, x + scale * delta, epsilon).numpy()
    far = (scale * delta).numpy().astype("float64")
    if norm == "linf":
        expected = np.clip(far, -epsilon, epsilon)
    else:
        lengths = length_of(far, norm).reshape(-1, 1, 1, 1)
        expected = far * np.minimum(1, epsilon / np.maximum(lengths, 1e-12))
    np.testing.assert_allclose(projected - x, expected, atol=1e-6)
    np.testing.assert_allclose(length_of(ball.direction(delta), norm), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "make, hint",
    [
        (lambda: PGD(epsilon=8), "8/255"),
        (lambda: FGSM(epsilon=8.0), "8/255"),
        (lambda: PGD(norm="l3"), "linf, l2"),
        (lambda: FGSM(norm="l1"), "linf, l2"),
        (lambda: PGD(2.0, norm="l2").replace(norm="linf", epsilon=4.0), "4/255"),
        (lambda: PGD(epsilon=-0.1), "at least 0"),
        (lambda: PGD(restarts=0), "at least 1"),
        (lambda: PGD(restarts=4, random_start=False), "repeats one run"),
        (lambda: evaluation.protocol("pgd5:random_start=false:restarts=4"), "leave out"),
        (lambda: evaluation.protocol("transfer-pgd5:restarts=2:random_start=0"), "x"),
    ],
)
def test_an_impossible_threat_model_is_refused(make, hint):
    with pytest.raises(InputError, match=hint) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_an_l2_radius_may_exceed_one():
    assert PGD(epsilon=3.0, norm="l2").epsilon == 3.0


def test_describe_names_every_hyperparameter():
    text = PGD(0.25, steps=7, norm="l2").describe()
    assert text.startswith("PGD(")
    assert "\n" not in text
    for part in ("epsilon=0.25", "steps=7", "norm='l2'", "restarts=1", "step_size=None"):
        assert part in text


def test_what_leaves_the_ball_is_no_protocol_of_evaluation():
    with pytest.raises(InputError, match="n-fgsm.*training alone"):
        evaluation.protocol("n-fgsm")


@every
def test_a_scaled_attack_is_the_attack_of_another_radius(attack, logits_fn, images):
    x, y = (tf.constant(v) for v in images)
    objective = attacks.cross_entropy(y)
    lengths = {
        n: attack[n] * 0.5 for n in ("epsilon", "step_size") if getattr(attack, n, 0)
    }
    expected = attack.replace(**lengths)(logits_fn, x, objective, seeds=seeds_of())
    scaled = attack.scaled(tf.constant(0.5))(logits_fn, x, objective, seeds=seeds_of())
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
