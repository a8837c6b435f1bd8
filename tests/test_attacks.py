"""Laws of the attacks: ball, box, ascent, determinism; objectives against numpy."""

import numpy as np
import pytest

from vfd_tf import (
    AdversarialTrainer,
    InputError,
    TrainingOptions,
    attacks,
    evaluation,
    noise,
)
from vfd_tf.attacks import BALLS, FGSM, FGSMRS, NFGSM, PGD, generator
from vfd_tf.training.methods import METHODS

# isort: split

import keras
import tensorflow as tf

N, SHAPE, CLASSES = 6, (5, 5, 2), 4
EPSILON = {"linf": 0.1, "l2": 0.5}
ATTACKS = {
    f"{kind} {norm}": attack
    for norm, epsilon in EPSILON.items()
    for kind, attack in {
        "fgsm": FGSM(epsilon, norm),
        "fgsm-rs": FGSMRS(epsilon, norm=norm),
        "pgd": PGD(epsilon, steps=4, norm=norm),
        "pgd of big steps": PGD(epsilon, 3 * epsilon, steps=3, norm=norm),
        "pgd with restarts": PGD(epsilon, steps=2, norm=norm, restarts=3),
    }.items()
}
every = pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
norms = pytest.mark.parametrize("norm", EPSILON)


@pytest.fixture(scope="module")
def model():
    """A small network with BatchNorm whose statistics are not the initial ones."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    logits = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, logits)
    model(np.random.RandomState(2).rand(32, *SHAPE), training=True)
    return model


@pytest.fixture(scope="module")
def images():
    """Images that touch the borders of the box, and labels."""
    x = np.random.RandomState(0).uniform(-0.2, 1.2, (N, *SHAPE)).clip(0, 1)
    return x.astype("float32"), np.arange(N, dtype="int32") % CLASSES


@pytest.fixture
def logits_fn(model):
    return lambda x: model(x, training=False)


def _seeds(n=N, seed=0):
    return noise.example_seeds(seed, 0, tf.range(n))


def _length(delta, norm):
    delta = np.reshape(delta, (len(delta), -1)).astype("float64")
    return np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)


def _scores(logits_fn, objective, x):
    return objective(logits_fn(tf.convert_to_tensor(x))).numpy()


@every
def test_adversary_stays_inside_the_ball_and_the_box(attack, logits_fn, images):
    x, y = images
    for scale in (1.0, 1e-6, 1e6):  # gradients of any length

        def scaled(z, scale=scale):
            return scale * attacks.margin(y)(z)

        x_adv = attack(logits_fn, tf.constant(x), scaled).numpy()
        assert x_adv.shape == x.shape
        assert (_length(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert (x_adv != x).any()


@every
def test_a_flat_objective_leaves_finite_images_in_the_ball(attack, logits_fn, images):
    x, _ = images
    x_adv = attack(logits_fn, tf.constant(x), lambda z: 0.0 * z[:, 0]).numpy()
    assert np.isfinite(x_adv).all()
    assert (_length(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()


@norms
@pytest.mark.parametrize("objective", [attacks.cross_entropy, attacks.margin])
@pytest.mark.parametrize("random_start", [False, True])
def test_small_steps_do_not_lower_the_objective(
    norm, objective, random_start, logits_fn, images
):
    x, y = images
    step = 0.01 * EPSILON[norm]
    attack = PGD(EPSILON[norm], step, 5, norm, random_start=random_start)
    start = x
    if random_start:  # the projected start is where an attack without steps would end
        start = attack._start(tf.constant(x), _seeds()).numpy()
    x_adv = attack(logits_fn, tf.constant(x), objective(y), seeds=_seeds())
    before = _scores(logits_fn, objective(y), start)
    after = _scores(logits_fn, objective(y), x_adv)
    assert (after >= before - 1e-6).all()
    assert (after > before).any()


def _linear(dtype="float64", seed=3):
    """Two-class logits (0, w.x + b): the margin of label 0 is linear."""
    w = np.random.RandomState(seed).randn(*SHAPE).astype(dtype)

    def logits_fn(x):
        score = tf.reduce_sum(x * w, axis=[1, 2, 3])
        return tf.stack([tf.zeros_like(score), score], axis=-1)

    return w, logits_fn


def _linf_optimum(x, w, epsilon):
    return np.clip(x + epsilon * np.sign(w), 0, 1)


@pytest.mark.parametrize("objective", [attacks.cross_entropy, attacks.margin])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_fgsm_on_a_linear_classifier_is_the_closed_form(objective, epsilon, images):
    x = images[0].astype("float64")
    w, logits_fn = _linear()
    y = np.zeros(N, "int32")
    x_adv = FGSM(epsilon)(logits_fn, tf.constant(x), objective(y))
    np.testing.assert_allclose(x_adv, _linf_optimum(x, w, epsilon), atol=1e-12)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("restarts", [1, 3])
def test_pgd_reaches_the_optimum_of_a_linear_classifier(random_start, restarts, images):
    x = images[0].astype("float64")
    w, logits_fn = _linear()
    attack = PGD(0.1, steps=9, restarts=restarts, random_start=random_start)
    x_adv = attack(logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")))
    np.testing.assert_allclose(x_adv, _linf_optimum(x, w, 0.1), atol=1e-12)


@pytest.mark.parametrize("attack", [FGSM(0.2, "l2"), PGD(0.2, steps=40, norm="l2")])
def test_l2_attacks_of_a_linear_classifier_follow_its_normal(attack):
    w, logits_fn = _linear()
    x = np.random.RandomState(0).uniform(0.4, 0.6, (N, *SHAPE))  # far from the box
    x_adv = attack(logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")))
    expected = x + 0.2 * w / np.linalg.norm(w)
    np.testing.assert_allclose(x_adv, expected, atol=2e-3)


@norms
def test_each_step_is_as_long_as_the_step_size(norm, logits_fn):
    x = np.random.RandomState(0).uniform(0.4, 0.6, (N, *SHAPE)).astype("float32")
    y = np.zeros(N, "int32")
    attack = PGD(EPSILON[norm], 0.02, 1, norm, random_start=False)
    x_adv = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y))
    np.testing.assert_allclose(_length(x_adv - x, norm), 0.02, rtol=1e-4)


@norms
def test_the_default_step_is_a_quarter_of_epsilon_also_under_another_radius(norm):
    attack = PGD(0.5, norm="l2", steps=3).replace(norm=norm, epsilon=EPSILON[norm])
    explicit = PGD(EPSILON[norm], EPSILON[norm] / 4, 3, norm)
    _, logits_fn = _linear()
    x = tf.fill([2, *SHAPE], tf.constant(0.5, tf.float64))
    objective = attacks.margin(np.zeros(2, "int32"))
    np.testing.assert_array_equal(
        attack(logits_fn, x, objective), explicit(logits_fn, x, objective)
    )


@every
@pytest.mark.parametrize("seeded", [False, True])
def test_same_seeds_same_adversary_whatever_the_batch(attack, seeded, logits_fn, images):
    x, y = images

    def run(index, seeds):
        objective = attacks.cross_entropy(y[index])
        return attack(logits_fn, tf.constant(x[index]), objective, seeds=seeds).numpy()

    index = np.arange(N)
    whole = run(index, _seeds() if seeded else None)
    np.testing.assert_array_equal(run(index, _seeds()), whole)
    order = [4, 1, 2]
    part = run(order, tf.gather(_seeds(), order))
    np.testing.assert_allclose(part, whole[order], atol=1e-5)


@every
def test_other_seeds_other_adversary_where_the_start_is_random(attack, logits_fn, images):
    x, y = images
    one, other = (
        attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=_seeds(seed=seed))
        for seed in (0, 1)
    )
    # Any, not all: big steps may end in the same corner of the box.
    differ = (one.numpy() != other.numpy()).any()
    assert differ == (attack.own_start or getattr(attack, "random_start", False))


@every
def test_weights_and_statistics_are_bit_identical_after_an_attack(attack, model, images):
    x, y = images
    before = model.get_weights()
    attack(lambda x: model(x, training=False), tf.constant(x), attacks.cross_entropy(y))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


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
    x_adv = attack(tf.constant(x), tf.constant(y), _seeds()).numpy()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # The mode decides whose statistics the attack sees: those of the batch, or its own.
    saved = model.get_weights()
    expected = PGD(0.1, steps=3)(
        lambda x: model(x, training=mode == "train"),
        tf.constant(x),
        attacks.cross_entropy(y),
        seeds=_seeds(),
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
    seeds = [_seeds(), *(noise.fork(_seeds(), run) for run in (1, 2))]
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
def test_float64_images_give_float64_adversaries(attack, images):
    _, logits_fn = _linear()
    x = tf.constant(images[0], tf.float64)
    objective = attacks.cross_entropy(np.zeros(N, "int32"))
    x_adv = attack(logits_fn, x, objective)
    assert x_adv.dtype == tf.float64
    assert (_length(x_adv - x, attack.norm) <= attack.epsilon + 1e-12).all()


@norms
def test_a_given_start_is_where_the_attack_begins(norm, images):
    w, logits_fn = _linear()
    x = np.full((N, *SHAPE), 0.5)
    start = x + 0.01 * np.random.RandomState(5).randn(*x.shape)
    attack = PGD(EPSILON[norm], 0.001, 1, norm)
    x_adv = attack(
        logits_fn, tf.constant(x), attacks.margin(np.zeros(N, "int32")), tf.constant(start)
    )
    direction = np.sign(w) if norm == "linf" else w / np.linalg.norm(w)
    np.testing.assert_allclose(x_adv, start + 0.001 * direction, atol=1e-12)


@every
def test_a_start_outside_is_brought_into_the_ball(attack, logits_fn, images):
    x, y = images
    start = tf.constant(x + 5.0)
    x_adv = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), start=start)
    assert (_length(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()
    assert float(tf.reduce_max(x_adv)) <= 1


@every
def test_epsilon_zero_gives_the_images_back(attack, logits_fn, images):
    x, y = images
    x_adv = attack.replace(epsilon=0.0)(logits_fn, tf.constant(x), attacks.cross_entropy(y))
    np.testing.assert_array_equal(x_adv, x)


@every
def test_images_off_the_box_end_inside(attack, logits_fn, images):
    x, y = images
    x_adv = attack.replace(epsilon=0.0)(
        logits_fn, tf.constant(2 * x - 0.5), attacks.cross_entropy(y)
    )
    np.testing.assert_allclose(x_adv, np.clip(2 * x - 0.5, 0, 1), atol=1e-6)


@every
def test_plain_callables_are_objectives_too(attack, logits_fn, images):
    x, y = images
    objective = attacks.cross_entropy(y)
    plain = attack(logits_fn, tf.constant(x), lambda z: objective(z)).numpy()
    assert (_length(plain - x, attack.norm) <= attack.epsilon + 1e-6).all()
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
    first = generate(tf.constant(x), tf.constant(y), _seeds())
    count = len(traces)
    for seed in (1, 2, 0):
        again = generate(tf.constant(x), tf.constant(y), _seeds(seed=seed))
    assert len(traces) == count
    np.testing.assert_array_equal(again, first)
    eager = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=_seeds())
    np.testing.assert_allclose(first, eager, atol=1e-5)


def test_the_number_of_steps_does_not_grow_the_graph(logits_fn, images):
    def size(steps):
        generate = generator(PGD(0.1, steps=steps), logits_fn, attacks.cross_entropy)
        x, y = images
        graph = generate.get_concrete_function(tf.constant(x), tf.constant(y), _seeds())
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

    eager = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=_seeds())
    np.testing.assert_allclose(run(tf.constant(x), _seeds()), eager, atol=1e-4)


@norms
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_balls_sample_project_and_point_as_defined(norm, dtype):
    ball, shape, epsilon = BALLS[norm], (4, 3, 2), 0.3
    sample = ball.sample(_seeds(2000), shape, epsilon, dtype)
    assert sample.dtype == dtype
    length = _length(sample, norm)
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
        lengths = _length(far, norm).reshape(-1, 1, 1, 1)
        expected = far * np.minimum(1, epsilon / np.maximum(lengths, 1e-12))
    np.testing.assert_allclose(projected - x, expected, atol=1e-6)
    np.testing.assert_allclose(_length(ball.direction(delta), norm), 1, rtol=1e-5)


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


LOGITS = np.array(
    [[2.0, -1.0, 0.5, 1.5, 0.0], [0.0, 3.0, 1.0, -2.0, 2.5], [1.0, 1.25, -4.0, 0.0, 0.5]]
)
LABELS = np.array([0, 4, 2], "int32")
TARGETS = np.array([3, 1, 0], "int32")


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


# Written out row by row: z_y, the largest other, and the sorted logits.
TRUE, OTHER = np.array([2.0, 2.5, -4.0]), np.array([1.5, 3.0, 1.25])
FIRST, THIRD = np.array([2.0, 3.0, 1.25]), np.array([0.5, 1.0, 0.5])
FOURTH, TARGET = np.array([0.0, 0.0, 0.0]), np.array([1.5, 3.0, 1.0])
CLEAN = np.array([[1.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 1.0], [0, 0, 0, 3.0, 0]])
P, Q = _softmax(CLEAN), _softmax(LOGITS)
OBJECTIVES = {
    "cross_entropy": (
        attacks.cross_entropy(LABELS),
        -np.log([Q[0, 0], Q[1, 4], Q[2, 2]]),
        [False, True, True],
    ),
    "margin": (attacks.margin(LABELS), OTHER - TRUE, [False, True, True]),
    "dlr": (
        attacks.dlr(LABELS),
        -(TRUE - OTHER) / (FIRST - THIRD),
        [False, True, True],
    ),
    "targeted_dlr": (
        attacks.targeted_dlr(LABELS, TARGETS),
        -(TRUE - TARGET) / (FIRST - (THIRD + FOURTH) / 2),
        [False, True, True],
    ),
    "kl": (
        attacks.kl(CLEAN),
        (P * np.log(P / Q)).sum(-1),
        [False, False, True],
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_objectives_and_successes_are_their_definitions(name, dtype):
    objective, score, success = OBJECTIVES[name]
    if name == "kl":
        objective = attacks.kl(tf.constant(CLEAN, dtype))
    logits = tf.constant(LOGITS, dtype)
    assert objective(logits).dtype == dtype
    tolerance = 1e-5 if dtype == tf.float32 else 1e-9
    np.testing.assert_allclose(objective(logits), score, rtol=tolerance)
    np.testing.assert_array_equal(objective.success(logits), success)


def test_ties_and_shifts_are_handled_as_the_definitions_say():
    z = tf.constant([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, -1.0]])
    y = np.array([1, 1])
    for make in (attacks.margin, attacks.dlr, attacks.cross_entropy):
        objective = make(y)
        assert np.isfinite(objective(z)).all()
        np.testing.assert_allclose(objective(z + 3), objective(z), atol=1e-6)
        np.testing.assert_array_equal(objective.success(z), [True, True])


def test_dlr_ignores_the_scale_of_the_logits():
    z = tf.constant(LOGITS)
    for make in (attacks.dlr, lambda y: attacks.targeted_dlr(y, TARGETS)):
        np.testing.assert_allclose(make(LABELS)(1e3 * z), make(LABELS)(z), rtol=1e-9)


def test_kl_is_ascended_against_fixed_clean_logits():
    z = tf.constant(CLEAN)
    with tf.GradientTape() as tape:
        tape.watch(z)
        score = attacks.kl(z)(2 * tf.stop_gradient(z))
    assert tape.gradient(score, z) is None


def test_fgsm_rs_is_one_long_step_from_a_uniform_start(logits_fn, images):
    x, y = (tf.constant(v) for v in images)
    objective = attacks.cross_entropy(y)
    expected = PGD(0.1, 0.125, steps=1)(logits_fn, x, objective, seeds=_seeds())
    # Its own start stands, whatever the base method would start from.
    for start in (None, x + 0.01):
        x_adv = FGSMRS(0.1)(logits_fn, x, objective, start=start, seeds=_seeds())
        np.testing.assert_allclose(x_adv, expected, atol=1e-6)
    for method in ("trades", "hat", "mart"):
        x_adv = METHODS[method]().adversary(
            FGSMRS(0.1), logits_fn, x, y, seeds=_seeds(), objective=objective
        )
        np.testing.assert_allclose(x_adv, expected, atol=1e-6)


@norms
def test_n_fgsm_steps_by_epsilon_from_noise_of_twice_epsilon(norm):
    # In the middle of the box nothing is clipped; the gradient is the same everywhere.
    weights, logits_fn = _linear()
    x = tf.fill([400, *SHAPE], tf.constant(0.5, tf.float64))
    y, epsilon = np.zeros(400, "int32"), 0.05
    attack = NFGSM(epsilon, norm=norm)
    objective = attacks.margin(y)
    x_adv = attack(logits_fn, x, objective, seeds=_seeds(400)).numpy()
    gradient = tf.constant(attacks.attack.input_gradient(logits_fn, x, objective))
    noise_alone = x_adv - x.numpy() - epsilon * BALLS[norm].direction(gradient).numpy()
    reach = _length(noise_alone, norm)
    assert (reach <= 2 * epsilon + 1e-7).all()
    assert reach.max() > 1.9 * epsilon
    assert (_length(x_adv - x.numpy(), norm) > epsilon).any()  # it leaves the ball


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
    expected = attack.replace(**lengths)(logits_fn, x, objective, seeds=_seeds())
    scaled = attack.scaled(tf.constant(0.5))(logits_fn, x, objective, seeds=_seeds())
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
