"""Every attack on models whose robust accuracy is known without any attack."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import InputError, attacks, noise
from vfd_tf.attacks.attack import AttackRun
from vfd_tf.evaluation import EvaluationResult, evaluate, protocol, sanity

SHAPE, N = (4, 4, 1), 40
threats = pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])


def linear(classes=2, scale=1.0):
    """Logits that are linear in the image, and their weights [16, c] and biases."""
    rng = np.random.RandomState(classes)
    w = rng.randn(16, classes).astype("float32") * scale
    b = -w.mean(0) * 8 + 0.1 * rng.randn(classes).astype("float32")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(classes)(L.Flatten()(inputs)))
    model.set_weights([w, b.astype("float32")])
    return model, w, b


def data(classes=2, n=N):
    rng = np.random.RandomState(1)
    x = rng.uniform(0.35, 0.65, (n, *SHAPE)).astype("float32")  # the box stays far away
    model, w, b = linear(classes)
    y = (x.reshape(n, -1) @ w + b).argmax(-1)
    wrong = rng.rand(n) < 0.1
    return x, np.where(wrong, (y + 1) % classes, y).astype("int32")


def distances(x, y, w, b, dual):
    """Distance of each image to the nearest boundary, negative where misclassified.

    Of all boundaries of a class, the nearest is (z_y - z_j) / ||w_y - w_j||_dual.
    """
    z = x.reshape(len(x), -1) @ w + b
    gap = z[np.arange(len(x)), y][:, None] - z
    length = np.linalg.norm(w[:, y].T[:, :, None] - w[None], dual, axis=1)
    other = np.arange(w.shape[1])[None] != y[:, None]
    ratio = np.where(other, gap / np.where(other, length, 1), np.inf)
    return ratio.min(-1)


GRADIENT = ["pgd40", "mim20", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"]


def half_way(distance, slack):
    """A radius that about half of the images withstand, and those not too near to it."""
    epsilon = float(np.median(distance[distance > 0])) * 1.01
    clear = np.abs(distance - epsilon) > slack * epsilon
    assert 0.2 * N < (distance > epsilon).sum() < 0.8 * N and clear.mean() > 0.8
    return epsilon, clear


@threats
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [*GRADIENT, "pgd40-margin", "pgd40-kl", "pgd100-margin"])
def test_attacks_reach_the_closed_form_of_a_linear_classifier(name, classes, norm, dual):
    model, w, b = linear(classes)
    x, y = data(classes)
    distance = distances(x, y, w, b, dual)
    epsilon, clear = half_way(distance, 0.02)
    robust = evaluate(model, (x, y), [name], epsilon=epsilon, norm=norm).robust[name]
    assert not (robust < (distance > epsilon))[clear].any()
    if name == "pgd40-kl":
        return  # may climb away from the boundary, too
    if name in ("pgd40", "mim20", "apgd-ce") and classes > 2:
        # Cross-entropy climbs away from a class, not towards the nearest other.
        assert robust.sum() - (distance > epsilon).sum() <= 6
    else:
        np.testing.assert_array_equal(robust[clear], (distance > epsilon)[clear])


@pytest.mark.slow
@threats
def test_autoattack_and_square_reach_it_too(norm, dual):
    model, w, b = linear(5)
    x, y = data(5)
    distance = distances(x, y, w, b, dual)
    epsilon, clear = half_way(distance, 0.02)
    names = ["autoattack", "autoattack-plus", "square:queries=2000"]
    result = evaluate(model, (x, y), names, epsilon=epsilon, norm=norm)
    for name in names[:2]:
        np.testing.assert_array_equal(
            result.robust[name][clear], (distance > epsilon)[clear], name
        )
    # Square knows no gradient, and its squares are coarse on 4 x 4 pixels: from above.
    square = result.robust[names[2]]
    assert not (square < (distance > epsilon))[clear].any()
    breakable = (distance > 0) & (distance < epsilon)
    assert (breakable & ~square).sum() > 0.4 * breakable.sum()
    assert [*result.stages["autoattack"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]


@pytest.mark.parametrize("classes", [2, 5])
def test_carlini_wagner_finds_the_distance_to_the_boundary(classes):
    model, w, b = linear(classes)
    x, y = data(classes)
    distance = distances(x, y, w, b, 2)
    right = distance > 0
    name = "cw:steps=1000:lr=0.003:early_stop=false"
    result = evaluate(model, (x, y), [name])
    assert not result.robust[name].any()
    np.testing.assert_array_less(distance[right], result.distances[name] + 1e-4)
    np.testing.assert_allclose(result.distances[name], distance[right], 0.1, 5e-3)


def test_a_search_of_c_needs_no_good_c():
    model, w, b = linear(5)
    x, y = data(5)
    right = distances(x, y, w, b, 2) > 0
    fixed = evaluate(model, (x, y), ["cw:c=1e-4:steps=100"])
    assert next(iter(fixed.robust.values())).sum() > right.sum() / 2
    search = evaluate(model, (x, y), ["cw:c=1e-4:steps=300:lr=0.003:search_steps=9"])
    assert not next(iter(search.robust.values())).any()
    expected = distances(x, y, w, b, 2)[right]
    np.testing.assert_allclose(next(iter(search.distances.values())), expected, 0.1, 5e-3)


class Quantised(L.Layer):
    """Rounds to steps: the outputs stay, all gradients vanish."""

    def call(self, x):
        return tf.round(x * 64) / 64


def masked():
    """A linear classifier behind a layer without gradients, and what stands behind."""
    model, w, b = linear(5)
    inputs = keras.Input(SHAPE)
    x = L.Flatten()(Quantised()(inputs))
    hidden = keras.Model(inputs, L.Dense(5)(x))
    hidden.set_weights([w, b])
    return hidden, model


def test_a_model_that_masks_its_gradients_is_found_out():
    hidden, open_ = masked()
    x, y = data(5)
    names = ["pgd20", "square:queries=1500"]
    result = evaluate(hidden, (x, y), names, epsilon=0.05)
    pgd, square = (result.robust[name] for name in names)
    assert pgd.sum() - square.sum() > 5
    text = " ".join(result.warnings)
    assert "masked gradients" in text and "zero or not finite" in text
    honest = evaluate(open_, (x, y), names, epsilon=0.05)
    assert not honest.warnings


def test_only_what_the_warning_of_dead_gradients_trusts_moves_such_images():
    hidden, open_ = masked()
    x, y = data(5)
    blind = ["fgsm", "mim20-margin", "mim20-dlr", "mim20-pm", "fab-t"]
    trusted = ["square:queries=1500", "transfer-pgd20"]
    result = evaluate(
        hidden, (x, y), [*blind, *trusted], epsilon=0.05, surrogate=open_, examples=True
    )
    for name in blind:
        np.testing.assert_array_equal(result.robust[name], result.clean)
    for name in trusted:
        assert result.clean.sum() - result.robust[name].sum() > 5
    (warning,) = [w for w in result.warnings if "zero or not finite" in w]
    _, advice = warning.split("whatever its objective; ")
    assert advice.startswith("trust square and transfer attacks")
    assert not any(name in advice for name in ("margin", "DLR"))


def test_a_model_whose_accuracy_never_falls_is_found_out():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(5)(L.Flatten()(inputs)))
    model.set_weights([np.zeros((16, 5)), np.arange(5.0)])
    x, _ = data(5)
    result = evaluate(model, (x, np.full(N, 4)), ["pgd20"], epsilon=0.03)
    assert any("twice the radius" in warning for warning in result.warnings)


def test_a_constant_model_is_right_as_often_as_its_class():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(5)(L.Flatten()(inputs)))
    model.set_weights([np.zeros((16, 5)), np.arange(5.0)])
    x, y = data(5)
    names = ["fgsm", "pgd5", "apgd-ce", "apgd-t", "fab-t", "square:queries=20"]
    result = evaluate(model, (x, y), names, epsilon=0.05)
    for verdict in result.verdicts().values():
        np.testing.assert_array_equal(verdict, y == 4)
    assert any("zero or not finite" in warning for warning in result.warnings)


class Noisy(L.Layer):
    """Adds noise in inference, too."""

    def call(self, x):
        return x + tf.random.normal(tf.shape(x), stddev=0.02)


def test_a_random_model_is_found_out():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(5)(L.Flatten()(Noisy()(inputs))))
    result = evaluate(model, data(5), ["pgd2:eot=3"], epsilon=0.05)
    assert any("autoattack-rand" in warning for warning in result.warnings)


def test_one_step_that_beats_many_is_found_out():
    clean, fgsm, pgd = np.ones(100, bool), np.arange(100) > 60, np.arange(100) > 20
    plan = {name: protocol(name) for name in ("fgsm", "pgd20")}
    found = EvaluationResult(clean, {"fgsm": fgsm, "pgd20": pgd}, {})
    (warning,) = sanity.of_verdicts(found, plan)
    assert "fgsm" in warning and "breaks more images than pgd20" in warning
    usual = EvaluationResult(clean, {"fgsm": pgd, "pgd20": fgsm}, {})
    assert not sanity.of_verdicts(usual, plan)


def test_a_blind_attack_that_beats_the_gradient_is_found_out_from_4_images_on():
    clean, pgd = np.ones(100, bool), np.arange(100) > 20
    plan = {"pgd20": protocol("pgd20"), "square": protocol("square")}
    for more, found in [(3, False), (4, True)]:
        robust = {"pgd20": pgd, "square": np.arange(100) > 20 + more}
        warnings = sanity.of_verdicts(EvaluationResult(clean, robust, {}), plan)
        assert bool(warnings) == found


def test_few_classes_replace_the_objectives_that_need_more():
    for classes, dlr, targeted in [
        (2, "margin", "targeted-margin"),
        (3, "dlr", "targeted-margin"),
        (4, "dlr", "targeted-dlr"),
    ]:
        (run,) = attacks.APGDDLR().attack_runs(classes)
        assert run.objective == dlr
        runs = attacks.APGDT().attack_runs(classes)
        assert {run.objective for run in runs} == {targeted}
        assert [run.rank for run in runs] == [*range(2, classes + 1)]
    with pytest.raises(InputError, match="at least 3 classes.*use margin"):
        attacks.dlr(tf.constant([0]))(tf.zeros([1, 2]))
    with pytest.raises(InputError, match="at least 4 classes.*use targeted_margin"):
        attacks.targeted_dlr(tf.constant([0]), tf.constant([1]))(tf.zeros([1, 3]))


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_targeted_attacks_aim_at_more_than_the_second_class(name):
    """The second class can't win anywhere; the third does when all pixels rise by 0.05."""
    inputs = keras.Input(SHAPE)
    total = L.Dense(1, use_bias=False, kernel_initializer="ones")(L.Flatten()(inputs))
    rise = total - 16 * 0.5
    label = 0 * total
    logits = [label, -0.5 - 4 * rise**2, 2 * rise - 1, label - 9, label - 9]
    model = keras.Model(inputs, keras.ops.concatenate(logits, -1))
    x, y = np.full((4, *SHAPE), 0.5, "float32"), np.zeros(4, "int32")
    assert (np.argsort(model.predict(x, verbose=0))[:, -2] == 1).all()
    second = AttackRun(attacks.ATTACKS[name](epsilon=0.1), "margin", rank=2)
    assert second.target(model(x)).numpy().tolist() == [1] * 4
    steps = "targets=2:steps=50"
    assert not evaluate(
        model, (x, y), f"{name}:{steps}", epsilon=0.1, strict=False
    ).worst.any()


def test_restarts_begin_at_other_points():
    attack = attacks.PGD(epsilon=0.1, steps=1, restarts=3)
    seeds, x = noise.example_seeds(0, 0, np.arange(2)), tf.zeros([2, *SHAPE]) + 0.5
    starts = [
        attack.begin(x, None, run.seeds(seeds))["x_adv"].numpy()
        for run in attack.attack_runs(3)
    ]
    for one in range(3):
        for other in range(one):
            assert np.abs(starts[one] - starts[other]).max() > 0.05


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_eot_is_so_many_passes_a_step(name):
    passes = tf.Variable(0)

    def logits_fn(x):
        with tf.control_dependencies([passes.assign_add(1)]):
            return tf.reshape(x, [2, -1])[:, :3] * 1.0

    x, y = tf.zeros([2, *SHAPE]) + 0.5, tf.constant([0, 1])
    counts = []
    for eot in (1, 4):
        attack = attacks.ATTACKS[name](epsilon=0.1, steps=6, eot=eot)
        passes.assign(0)
        attack(logits_fn, x, attacks.cross_entropy(y))
        counts.append(int(passes))
    assert counts[1] == 4 * counts[0] >= 24


def test_logits_that_are_no_class_are_found_out():
    """Twice as many logits as classes: a warning, once, unless the images are too few."""
    x, y = data(3, 40)
    inputs = keras.Input(SHAPE)
    z = L.Dense(3)(L.Flatten()(inputs))
    doubled = keras.Model(inputs, keras.ops.concatenate([z, z - 1], -1))

    def found(model, count, labels=y):
        result = evaluate(model, (x[:count], labels[:count]), ["fgsm"], epsilon=0.05)
        return [text for text in result.warnings if "logits, and the labels" in text]

    (warning,) = found(doubled, 40)
    assert "6 logits" in warning and "40 images are 0 to 2" in warning
    assert not found(doubled, 6) and not found(keras.Model(inputs, z), 40)
    assert not found(doubled, 40, 0 * y)  # a folder of one class says nothing
    assert not found(doubled, 40, 2 * y)


@pytest.mark.parametrize("classes, images, warned", [(10, 64, 0), (19, 64, 0), (20, 64, 1)])
def test_a_part_of_the_classes_is_no_reason_for_a_warning(classes, images, warned):
    assert len(sanity.of_many_logits(set(range(10)), images, classes)) == warned
