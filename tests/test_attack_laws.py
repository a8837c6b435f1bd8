"""What holds for every attack: ball, box, dtype, statistics, draws of each image."""

import dataclasses

import gradient_attacks
import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_attacks import length_of, linear_classifier, seeds_of

from vfd_tf import attacks, noise
from vfd_tf.attacks import ATTACKS, PGD
from vfd_tf.attacks.fab import nearest_on_plane
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.square import LinfSquares, Square, dents

model, images = gradient_attacks.model, gradient_attacks.images
logits_fn = gradient_attacks.logits_fn

EPSILON = {"linf": 0.05, "l2": 0.4}
SHORT = {"steps": 4, "queries": 12, "targets": 2}
EVALUATED = [name for name, cls in ATTACKS.items() if cls.in_ball and name != "autoattack"]
every = pytest.mark.parametrize("name", [*EVALUATED, "cw"])
norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def short(name, norm="linf"):
    """The attack with few iterations."""
    cls = ATTACKS[name]
    known = {field.name for field in dataclasses.fields(cls)}
    options = {"epsilon": EPSILON[norm], "norm": norm, **SHORT}
    return cls(**{k: v for k, v in options.items() if k in known})


def network(dtype="float32"):
    """A small convolutional network with BatchNorm: image 8x8x3 -> 5 logits."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3), dtype=dtype)
    x = keras.layers.Conv2D(6, 3, activation="tanh", dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(5, dtype=dtype)(x))


def batch(dtype="float32", count=6):
    """Images, a fifth of their pixels at 0 or 1, and their labels by the network."""
    x = np.random.RandomState(0).uniform(-0.2, 1.2, (count, 8, 8, 3)).clip(0, 1)
    x = tf.constant(x, dtype)
    return x, tf.argmax(network(dtype)(x), -1, output_type=tf.int32)


def run(attack, dtype="float32", pick=tuple(range(6))):
    """Images and examples, those of `pick`; the network stays as it was."""
    parts = (*batch(dtype), noise.example_seeds(5, 0, tf.range(6)))
    (x, y, seeds), model = (tf.gather(part, pick) for part in parts), network(dtype)

    @tf.function(autograph=False)
    def generate():
        return attack(model, x, attacks.cross_entropy(y), seeds=seeds)

    before = [w.numpy() for w in model.weights]
    x_adv = generate()
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    return x.numpy(), x_adv.numpy()


@norms
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EVALUATED)
def test_examples_stay_in_ball_and_box_and_dtype(name, norm, dtype):
    x, x_adv = run(short(name, norm), dtype)
    assert x_adv.dtype == x.dtype == dtype
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    delta = (x_adv - x).reshape(len(x), -1)
    order = {"linf": np.inf, "l2": 2}[norm]
    assert np.linalg.norm(delta, order, axis=1).max() <= EPSILON[norm] + 1e-6


def test_carlini_wagner_keeps_box_and_dtype():
    for dtype in ("float32", "float64"):
        x, x_adv = run(short("cw"), dtype)
        assert x_adv.dtype == dtype and x_adv.min() >= 0 and x_adv.max() <= 1


@every
def test_what_is_drawn_for_an_image_is_its_own(name):
    """A part of the batch, in another order, gets the same examples."""
    pick = np.array([4, 1, 3])
    _, whole = run(short(name), "float64")
    _, part = run(short(name), "float64", pick)
    np.testing.assert_allclose(part, whole[pick], 0, 1e-9)


@gradient_attacks.every
def test_adversary_stays_inside_the_ball_and_the_box(attack, logits_fn, images):
    x, y = images
    for scale in (1.0, 1e-6, 1e6):  # gradients of any length

        def scaled(z, scale=scale):
            return scale * attacks.margin(y)(z)

        x_adv = attack(logits_fn, tf.constant(x), scaled).numpy()
        assert x_adv.shape == x.shape
        assert (length_of(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert (x_adv != x).any()


@gradient_attacks.every
def test_a_flat_objective_leaves_finite_images_in_the_ball(attack, logits_fn, images):
    x, _ = images
    x_adv = attack(logits_fn, tf.constant(x), lambda z: 0.0 * z[:, 0]).numpy()
    assert np.isfinite(x_adv).all()
    assert (length_of(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()


@gradient_attacks.every
def test_images_off_the_box_end_inside(attack, logits_fn, images):
    x, y = images
    x_adv = attack.replace(epsilon=0.0)(
        logits_fn, tf.constant(2 * x - 0.5), attacks.cross_entropy(y)
    )
    np.testing.assert_allclose(x_adv, np.clip(2 * x - 0.5, 0, 1), atol=1e-6)


@gradient_attacks.every
def test_epsilon_zero_gives_the_images_back(attack, logits_fn, images):
    x, y = images
    x_adv = attack.replace(epsilon=0.0)(logits_fn, tf.constant(x), attacks.cross_entropy(y))
    np.testing.assert_array_equal(x_adv, x)


@gradient_attacks.every
def test_a_start_outside_is_brought_into_the_ball(attack, logits_fn, images):
    x, y = images
    start = tf.constant(x + 5.0)
    x_adv = attack(logits_fn, tf.constant(x), attacks.cross_entropy(y), start=start)
    assert (length_of(x_adv - x, attack.norm) <= attack.epsilon + 1e-6).all()
    assert float(tf.reduce_max(x_adv)) <= 1


@gradient_attacks.every
def test_float64_images_give_float64_adversaries(attack, images):
    _, logits_fn = linear_classifier()
    x = tf.constant(images[0], tf.float64)
    objective = attacks.cross_entropy(np.zeros(gradient_attacks.N, "int32"))
    x_adv = attack(logits_fn, x, objective)
    assert x_adv.dtype == tf.float64
    assert (length_of(x_adv - x, attack.norm) <= attack.epsilon + 1e-12).all()


@gradient_attacks.every
def test_weights_and_statistics_are_bit_identical_after_an_attack(attack, model, images):
    x, y = images
    before = model.get_weights()
    attack(lambda x: model(x, training=False), tf.constant(x), attacks.cross_entropy(y))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@gradient_attacks.every
@pytest.mark.parametrize("seeded", [False, True])
def test_same_seeds_same_adversary_whatever_the_batch(attack, seeded, logits_fn, images):
    x, y = images

    def run(index, seeds):
        objective = attacks.cross_entropy(y[index])
        return attack(logits_fn, tf.constant(x[index]), objective, seeds=seeds).numpy()

    index = np.arange(gradient_attacks.N)
    whole = run(index, seeds_of() if seeded else None)
    np.testing.assert_array_equal(run(index, seeds_of()), whole)
    order = [4, 1, 2]
    part = run(order, tf.gather(seeds_of(), order))
    np.testing.assert_allclose(part, whole[order], atol=1e-5)


@gradient_attacks.every
def test_other_seeds_other_adversary_where_the_start_is_random(attack, logits_fn, images):
    x, y = images
    one, other = (
        attack(
            logits_fn, tf.constant(x), attacks.cross_entropy(y), seeds=seeds_of(seed=seed)
        )
        for seed in (0, 1)
    )
    # Any, not all: big steps may end in the same corner of the box.
    differ = (one.numpy() != other.numpy()).any()
    assert differ == (attack.own_start or getattr(attack, "random_start", False))


def scores_of(logits_fn, objective, x):
    return objective(logits_fn(tf.convert_to_tensor(x))).numpy()


@norms
@pytest.mark.parametrize("objective", [attacks.cross_entropy, attacks.margin])
@pytest.mark.parametrize("random_start", [False, True])
def test_small_steps_do_not_lower_the_objective(
    norm, objective, random_start, logits_fn, images
):
    x, y = images
    step = 0.01 * gradient_attacks.EPSILON[norm]
    attack = PGD(gradient_attacks.EPSILON[norm], step, 5, norm, random_start=random_start)
    start = x
    if random_start:  # the projected start is where an attack without steps would end
        start = attack._start(tf.constant(x), seeds_of()).numpy()
    x_adv = attack(logits_fn, tf.constant(x), objective(y), seeds=seeds_of())
    before = scores_of(logits_fn, objective(y), start)
    after = scores_of(logits_fn, objective(y), x_adv)
    assert (after >= before - 1e-6).all()
    assert (after > before).any()


@norms
def test_the_nearest_point_of_a_plane_in_the_box_is_that_of_an_optimiser(norm):
    """Against linear programming (L-inf) and a general solver (L2)."""
    from scipy import optimize

    random = np.random.RandomState(0)
    x, w = random.uniform(size=(12, 9)), random.randn(12, 9)
    w[:, 0] = 0
    c = random.uniform(-1, 1, 12) * np.abs(w).sum(-1) * 0.3
    found = nearest_on_plane(*map(tf.constant, (x, w, c)), BALLS[norm].rate).numpy()
    for i in range(12):
        slope, limits = -np.sign(c[i]) * w[i], np.stack([-x[i], 1 - x[i]], 1)
        room = (slope[:, None] * limits).max(-1).sum()
        target = -np.sign(c[i]) * min(abs(c[i]), room)
        np.testing.assert_allclose(w[i] @ found[i], target, 0, 1e-9)
        assert (x[i] + found[i]).min() > -1e-12 and (x[i] + found[i]).max() < 1 + 1e-12
        if norm == "linf":
            # Variables d and t: minimise t with |d| <= t.
            eye, ones = np.eye(9), np.ones((9, 1))
            above = np.block([[eye, -ones], [-eye, -ones]])
            best = optimize.linprog(
                np.r_[np.zeros(9), 1],
                A_ub=above,
                b_ub=np.zeros(18),
                A_eq=[np.r_[w[i], 0]],
                b_eq=[target],
                bounds=[*limits, (0, None)],
            ).fun
            np.testing.assert_allclose(np.abs(found[i]).max(), best, 0, 1e-7)
        else:
            best = optimize.minimize(
                lambda d: d @ d,
                np.zeros(9),
                jac=lambda d: 2 * d,
                bounds=limits,
                constraints={
                    "type": "eq",
                    "fun": lambda d, i=i, target=target: w[i] @ d - target,
                },
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            np.testing.assert_allclose(found[i] @ found[i], best.fun, 0, 1e-6)


def test_steep_planes_are_reached_with_finite_steps():
    """Slopes whose square overflows, and an entry that the box lets go nowhere."""
    x = np.full((1, 9), 0.5, "float32")
    x[0, 0] = 0
    w = np.full((1, 9), 1e21, "float32")
    found = nearest_on_plane(
        tf.constant(x), tf.constant(w), tf.constant([1e20]), BALLS["l2"].rate
    )
    assert np.isfinite(found).all()


def test_a_proposal_of_square_owes_nothing_to_its_start():
    seeds = noise.example_seeds(0, 0, tf.range(400))
    x = tf.fill([400, 4, 4, 3], 0.5)
    start = LinfSquares.start(x, 0.1, seeds) > x
    for query in range(1, 60):
        own = noise.fork(seeds, query)
        moved = LinfSquares.propose(x, x, 0.1, 4, own) > x  # the square is the image
        same = tf.reduce_mean(tf.cast(start == moved, tf.float32), [0, 1])
        np.testing.assert_allclose(same, 0.5, 0, 0.15)


def test_the_squares_shrink_as_the_schedule_says():
    sides = Square(queries=5000).sides((32, 32))
    turns = {0: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3}
    for query, side in turns.items():
        assert sides[query] == side and (query == 0 or sides[query - 1] > side)


def test_dents_have_norm_1_and_two_opposite_halves():
    for side, pattern in zip(range(3, 12), dents(range(3, 12)), strict=True):
        half = side // 2
        np.testing.assert_allclose((pattern**2).sum(), 1)
        assert (pattern[:half, :side] > 0).all() and (pattern[half:side, :side] < 0).all()
        assert not pattern[side:].any() and not pattern[:, side:].any()


def test_momentum_outlasts_a_gradient_that_turns():
    """g_2 = decay * g_1 + grad / mean |grad|: by hand on a score with a known gradient."""
    x = tf.constant(np.full((1, 1, 2, 1), 0.5))
    slopes = iter(([[1.0, 3.0]], [[-1.0, 1.0]]))
    given = []

    class Score:
        def __call__(self, logits):
            given.append(next(slopes))
            return tf.reduce_sum(logits * tf.constant(given[-1], tf.float64), -1)

    attack = attacks.MIM(0.3, 0.1, steps=2, norm="l2", decay=1.0)
    state, flatten = attack.begin(x, None, None), lambda t: tf.reshape(t, [1, 2])
    for i in range(2):
        state = attack.step(flatten, x, Score(), state, i)
    momentum = np.array([1 / 2 - 1, 3 / 2 + 1])
    first, second = np.array([1, 3]) / np.sqrt(10), momentum / np.linalg.norm(momentum)
    np.testing.assert_allclose(state["momentum"].numpy().ravel(), momentum)
    expected = 0.5 + 0.1 * (first + second)
    np.testing.assert_allclose(state["x_adv"].numpy().ravel(), expected)


def test_early_stop_stays_at_the_first_misclassified_iterate():
    x, y = batch("float64")
    model, score = network("float64"), attacks.cross_entropy(y)
    attack = attacks.PGD(0.2, 0.02, steps=12, random_start=False)
    path = [x.numpy()]
    for _ in range(12):
        one = attack.replace(steps=1)
        ahead = one(model, tf.constant(path[-1]), score)  # an own ball of 0.2 each
        path.append(np.clip(ahead, x.numpy() - 0.2, x.numpy() + 0.2))
    wrong = np.array([model(p).numpy().argmax(-1) != y.numpy() for p in path])
    first = np.where(wrong.any(0), wrong.argmax(0), 12)
    assert len(set(first)) > 1 and wrong.any()
    stopped = attack.replace(early_stop=True)(model, x, score).numpy()
    for i, step in enumerate(first):
        np.testing.assert_allclose(stopped[i], path[step][i], 0, 1e-12)


def test_expectation_over_transformation_is_a_mean_of_gradients():
    """On z = a x with a fresh a in each pass, the gradient is the mean of all a."""
    from vfd_tf.attacks.attack import ascent

    draws = tf.Variable(0.0, dtype=tf.float64)

    def logits_fn(x):
        draws.assign_add(1.0)
        return tf.reshape(x, [1, 2]) * draws.read_value()

    class Sum:
        def __call__(self, logits):
            return tf.reduce_sum(logits, -1)

    x = tf.ones([1, 1, 2, 1], tf.float64)
    run = tf.function(lambda: ascent(logits_fn, x, Sum(), eot=4), autograph=False)
    _, score, gradient = run()
    np.testing.assert_allclose(gradient.numpy().ravel(), [2.5, 2.5])
    np.testing.assert_allclose(score, [5.0])
    assert draws.numpy() == 4


def test_the_runs_of_a_targeted_attack_share_one_compiled_function():
    from vfd_tf.evaluation import Engine, protocol

    x, y = batch(count=16)
    engine = Engine(network(), batch_size=16)
    attack = protocol("apgd-t:steps=3:targets=4", 0.01)
    engine.correct((x.numpy(), y.numpy()), attack)
    compiled = engine.runner._compiled.items()
    (advance,) = (function for (_, (key, _)), function in compiled if key[0] == "advance")
    assert advance.experimental_get_tracing_count() <= 2
