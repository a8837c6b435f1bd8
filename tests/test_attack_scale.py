"""Attacks at the ends of floats: tiny gradients, sharp logits, NaN, -inf, ties."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import attacks, losses, noise
from vfd_tf.attacks.norms import BALLS, l2_norm
from vfd_tf.attacks.square import Square

L = keras.layers
TINY = float(np.finfo("float32").tiny)
SHAPE = (5, 5, 1)
# Attacks whose examples owe nothing to the scale of the logits, and their objective.
FREE = {
    "fgsm": (attacks.FGSM, {}),
    "pgd": (attacks.PGD, {"steps": 10}),
    "mim": (attacks.MIM, {"steps": 10}),
    "apgd": (attacks.APGD, {"steps": 20}),
    "fab": (attacks.FAB, {"steps": 15}),
}
RADII = {"linf": 0.06, "l2": 0.35}
norms = pytest.mark.parametrize("norm", RADII)


def images(count=40, classes=2):
    """Images and labels of a linear classifier, and its weights."""
    random = np.random.RandomState(0)
    w = random.normal(size=(25, classes)).astype("float32")
    x = random.uniform(0.3, 0.7, (count, *SHAPE)).astype("float32")
    return x, (x.reshape(count, -1) @ w).argmax(-1).astype("int32"), w


def compiled(attack, logits_fn, x, y):
    """The attack's examples on cross-entropy; FAB's slopes of all classes need a graph."""
    generate = attacks.generator(attack, logits_fn, attacks.cross_entropy)
    seeds = noise.or_positions(None, tf.constant(x))
    return generate(tf.constant(x), tf.constant(y), seeds).numpy()


def scaled(w, factor):
    return lambda x: factor * tf.reshape(x, [tf.shape(x)[0], -1]) @ w


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-18, 1e-30, 100 * TINY, 1e30])
def test_l2_directions_and_norms_do_not_depend_on_the_size(size):
    g = np.random.RandomState(0).normal(size=(3, 4, 4, 2))
    g[1] = 0
    length = np.sqrt(np.square(g).sum((1, 2, 3), keepdims=True))
    given = tf.constant(g * size, tf.float32)
    expected = np.divide(g, length, out=np.zeros_like(g), where=length > 0)
    np.testing.assert_allclose(BALLS["l2"].direction(given), expected, 0, 1e-6)
    np.testing.assert_allclose(l2_norm(given), length * size, 1e-5)


@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 60.0])
@pytest.mark.parametrize("name", ["cross_entropy", "kl"])
def test_softmax_objectives_have_the_gradient_of_float64(name, gap):
    """Against p - target in float64, where float32 rounds p_y - 1 to 0 from 17 on."""
    random = np.random.RandomState(0)
    z = random.normal(size=(6, 5)) + gap * np.eye(5)[[0, 1, 2, 3, 4, 0]]
    y, clean = np.array([0, 1, 2, 3, 4, 1]), z + random.normal(size=z.shape)

    def softmax(v):
        e = np.exp(v - v.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    z32, clean32 = z.astype("float32"), clean.astype("float32")
    p, t = (softmax(v.astype("float64")) for v in (z32, clean32))
    target = np.eye(5)[y] if name == "cross_entropy" else t
    expected = p - target
    top = p.argmax(-1)
    expected[np.arange(6), top] = 0
    expected[np.arange(6), top] = -expected.sum(-1)  # exact in float64, too
    objective = getattr(attacks, name)(
        y if name == "cross_entropy" else tf.constant(clean32)
    )
    logits = tf.constant(z32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        score = objective(logits)
    found = tape.gradient(score, logits).numpy()
    sizes = [np.abs(g).max(-1, keepdims=True) for g in (found, expected)]
    np.testing.assert_allclose(found / sizes[0], expected / sizes[1], 0, 2e-5)
    kept = sizes[1] > np.sqrt(TINY)
    np.testing.assert_allclose(sizes[0][kept], sizes[1][kept], 2e-5)


@norms
@pytest.mark.parametrize("factor", [1e-3, 6.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", FREE)
def test_the_scale_of_the_logits_changes_no_example(name, factor, norm):
    """On two classes all objectives point one way, so that nothing is forced to differ."""
    x, y, w = images()
    cls, options = FREE[name]
    attack = cls(epsilon=RADII[norm], norm=norm, **options)
    found = {}
    for scale in (1.0, factor):
        found[scale] = compiled(attack, scaled(w, scale), x, y)
    broken = {
        s: (x_adv.reshape(len(x), -1) @ w).argmax(-1) != y for s, x_adv in found.items()
    }
    assert broken[1.0].sum() > 5
    assert (broken[1.0] != broken[factor]).sum() <= 1  # one that lies on the boundary
    moved = np.abs(found[factor] - x).max((1, 2, 3))
    assert (moved > 0).sum() >= (np.abs(found[1.0] - x).max((1, 2, 3)) > 0).sum() - 1


@pytest.mark.parametrize("name", ["ce", "margin", "kl"])
def test_a_gap_of_thousands_has_a_direction(name):
    x, y, w = images(8)
    logits_fn = scaled(w, 1e5)
    objective = attacks.objectives.named(name, y, logits_fn(x) + 1.0)
    if name == "kl":
        objective = attacks.kl(tf.constant(np.eye(2, dtype="float32")[y] * 1e3))
    moved = attacks.PGD(0.5, steps=5, norm="l2", random_start=False)(
        logits_fn, tf.constant(x), objective
    )
    normal = (w[:, 1] - w[:, 0]) * np.where(y == 0, 1, -1)[:, None]
    steps = (moved.numpy() - x).reshape(8, -1)
    if name == "kl":  # at x itself, KL to the clean logits may be flat
        return
    cosine = (steps * normal).sum(-1) / np.linalg.norm(steps, axis=-1)
    np.testing.assert_allclose(cosine, np.linalg.norm(normal, axis=-1), 1e-3)


@pytest.mark.parametrize(
    "row, label, right",
    [
        ([1.0, 1.0, 0.0], 0, True),  # the first of the largest, as argmax has it
        ([1.0, 1.0, 0.0], 1, False),
        ([2.0, -np.inf, 1.0], 0, True),
        ([-np.inf, -np.inf, -3.0], 2, True),
        ([-np.inf, -np.inf, -np.inf], 0, False),
        ([np.nan, 0.0, 1.0], 2, False),
        ([3.0, np.nan, 1.0], 0, False),
        ([np.nan, np.nan, np.nan], 0, False),
        ([np.inf, 0.0, 1.0], 0, False),
    ],
)
def test_what_counts_as_correct(row, label, right):
    logits, y = tf.constant([row]), tf.constant([label])
    assert bool(losses.correct(y, logits)[0]) is right
    every = [attacks.cross_entropy(y), attacks.margin(y), attacks.dlr(y)]
    every.append(attacks.targeted_margin(y, (y + 1) % 3))
    assert all(bool(objective.success(logits)[0]) is not right for objective in every)


@pytest.mark.parametrize("masked", [5, 6, 7])
@pytest.mark.parametrize("name", attacks.OBJECTIVES)
def test_masked_classes_make_no_nan(name, masked):
    """-inf logits of `masked` of 8 classes: finite gradients, none into these classes."""
    mask = np.where(np.arange(8) < 8 - masked, 0, -np.inf).astype("float32")
    z = np.random.RandomState(0).normal(size=(4, 8)).astype("float32")
    y, target = np.zeros(4, "int32"), np.full(4, min(1, 7 - masked), "int32")
    logits = tf.constant(z)
    objective = attacks.objectives.named(name, y, tf.constant(z + 1) + mask, target)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        score = objective(logits + mask)
    gradient = tape.gradient(score, logits).numpy()
    assert not np.isnan(score).any() and np.isfinite(gradient).all()
    assert not gradient[:, 8 - masked :].any()
    clean = tf.constant(z) + mask
    for rank in range(2, 9):
        aim = attacks.AttackRun(attacks.APGD(0.1), rank=rank).target(clean).numpy()
        assert masked == 7 or (aim < 8 - masked).all()


NAN_SHORT = {"steps": 3, "queries": 20, "targets": 2}


@pytest.mark.parametrize("name", [n for n in attacks.ATTACKS if n != "autoattack"])
def test_nan_is_misclassified_and_reaches_no_image(name):
    """The model gives NaN off the clean image: that breaks every image there is."""
    x, y, w = images(6, classes=3)

    def logits_fn(images):
        away = tf.reduce_max(tf.abs(images - x), [1, 2, 3]) > 1e-4
        bad = tf.where(away, tf.cast(np.nan, tf.float32), 0.0)[:, None]
        return scaled(w, 1.0)(images) + bad

    cls = attacks.ATTACKS[name]
    fields = {f for f in cls.__dataclass_fields__}
    options = {k: v for k, v in NAN_SHORT.items() if k in fields}
    attack = cls(**options, **({"epsilon": 0.05} if "epsilon" in fields else {}))
    x_adv = compiled(attack, logits_fn, x, y)
    assert np.isfinite(x_adv).all() and (x_adv >= 0).all() and (x_adv <= 1).all()
    assert not losses.correct(y, logits_fn(x_adv)).numpy().any()


@pytest.mark.parametrize("label, robust", [(0, True), (1, False)])
def test_square_stops_at_a_tie_by_the_rule_of_argmax(label, robust):
    """All logits are equal wherever one looks: the first class wins each of the ties."""
    x, y = tf.constant(images(3)[0]), tf.fill([3], label)
    attack, goal = Square(0.05, queries=5), attacks.margin(y)
    state = attack.begin(x, None, noise.or_positions(None, x))
    state = attack.advance(lambda x: tf.zeros([3, 2]), x, goal, state, 0, 6)
    assert (attack.done(state).numpy() == (not robust)).all()


@norms
@pytest.mark.parametrize("shape", [(4, 9, 2), (1, 12, 1), (2, 30, 3)])
def test_square_on_tall_images_is_square_on_wide_ones_turned(shape, norm):
    random = np.random.RandomState(0)
    x = random.uniform(0.2, 0.8, (3, *shape)).astype("float32")
    w = random.normal(size=(*shape, 4)).astype("float32")
    y = np.tensordot(x, w, 3).argmax(-1).astype("int32")
    attack, found = Square(0.2, queries=30, norm=norm), []
    for turn in (lambda a: a, lambda a: np.swapaxes(a, -3, -2)):
        weights = tf.constant(w if not found else np.swapaxes(w, 0, 1))

        def logits_fn(images, weights=weights):
            return tf.tensordot(images, weights, 3)

        x_adv = attack(logits_fn, tf.constant(turn(x)), attacks.margin(y)).numpy()
        found.append(turn(x_adv))
    assert np.abs(found[0] - x).max() > 0
    np.testing.assert_allclose(found[0], found[1], 0, 1e-5)


def test_the_start_of_square_l2_is_one_graph_for_all_sizes():
    """The number of operations, and of bytes, that begin and propose take."""
    counts, sizes = [], []
    for shape in [(12, 12, 1), (12, 400, 1)]:
        attack = Square(0.5, norm="l2")

        def both(x, seeds, attack=attack):
            state = attack.begin(x, None, seeds)
            return attack.step(
                lambda x: tf.reshape(x, [2, -1])[:, :3],
                x,
                attacks.margin(tf.zeros([2], tf.int32)),
                state,
                tf.constant(1),
            )

        specs = tf.TensorSpec([2, *shape]), tf.TensorSpec([2, 2], tf.uint32)
        graph = tf.function(both, autograph=False).get_concrete_function(*specs).graph
        counts.append(len(graph.get_operations()))
        sizes.append(graph.as_graph_def().ByteSize())
    assert abs(counts[1] - counts[0]) < 20 and sizes[1] < 2 * sizes[0]


def test_carlini_wagner_leaves_no_image_early_unless_it_is_told_to():
    """On a linear classifier the distance is (z_y - z_t) / ||w_y - w_t||."""
    x, y, w = images(30)
    margin = np.abs(x.reshape(30, -1) @ (w[:, 0] - w[:, 1]))
    exact = margin / np.linalg.norm(w[:, 0] - w[:, 1])
    attack = attacks.CarliniWagner(c=5.0, steps=1000, lr=0.003)
    assert not attack.early_stop
    size = {}
    for early in (False, True):
        own = attacks.generator(
            attack.replace(early_stop=early), scaled(w, 1.0), attacks.cross_entropy
        )
        x_adv = own(tf.constant(x), y, noise.example_seeds(0, 0, tf.range(30))).numpy()
        size[early] = np.sqrt(np.square(x_adv - x).sum((1, 2, 3)))
    found = size[False] > 0
    assert found.mean() > 0.9 and (size[False] <= size[True] + 1e-6)[size[True] > 0].all()
    np.testing.assert_allclose(size[False][found], exact[found], 0.05, 0.01)
