"""Laws of MixedNUTS: its formula, its gradient, its file, and the fit of its numbers."""

import itertools
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import evaluation, mixture
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network
from vfd_tf.models.mixed_nuts import NothingToFit
from vfd_tf.models.mixture import Nuts, fit_nuts, mixed_nuts

L = keras.layers
SHAPE, CLASSES, COUNT = (2, 3, 1), 5, 12
IDENTITY = {"scale": 1.0, "power": 1.0, "clip": None, "normalize": False}
NUMBERS = {"scale": 1.5, "power": 2.5, "clip": -0.4}


def linear(seed, classes=CLASSES, scale=3.0):
    """A network whose logits are x W + b."""
    random = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), L.Dense(classes)])
    model.set_weights([scale * random.normal(size=w.shape) for w in model.get_weights()])
    return model


def images(count=COUNT):
    return np.random.default_rng(9).uniform(size=(count, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def pair():
    return linear(1), linear(2)


def logits(model, x):
    """Those of `linear` in float64."""
    w, b = (v.astype("float64") for v in model.get_weights())
    return x.reshape(len(x), -1) @ w + b


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(h):
    return h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2


def g(z, power, clip):
    """The paper's transformation without its scale, in float64."""
    top = np.sort(z, -1)[:, ::-1][:, :250]
    variance = top.var(-1, ddof=1, keepdims=True)
    h = gelu((z - top.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-8) + clip)
    return np.sign(h) * np.abs(h) ** power


def wanted(pair, x, alpha, scale, power, clip, temperature=1.0):
    p, z = logits(pair[0], x) / temperature, g(logits(pair[1], x), power, clip)
    return np.log((1 - alpha) * softmax(p) + alpha * softmax(scale * z))


def gradient(model, x, y):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.gather(model(x), y, axis=1, batch_dims=1)
    return tape.gradient(z, x).numpy()


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("numbers", [NUMBERS, {"scale": 0.1, "power": 1.0, "clip": -2.0}])
def test_its_logits_are_those_of_the_formula(pair, alpha, numbers):
    model, x = mixed_nuts(*pair, alpha=alpha, temperature=0.5, **numbers), images()
    found = model(x)
    assert found.dtype == "float32" and model.output_shape == (None, CLASSES)
    theory = wanted(pair, x, alpha, **numbers, temperature=0.5)
    np.testing.assert_allclose(found, theory, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_identity_gives_the_plain_mixture(pair, alpha):
    x = images()
    found = mixed_nuts(*pair, alpha=alpha, **IDENTITY)(x)
    np.testing.assert_array_equal(found, mixture.mixture(*pair, alpha)(x))


def test_an_endless_scale_makes_the_robust_share_one_hot(pair):
    x, alpha = images(), 0.7
    model = mixed_nuts(*pair, scale=1e6, power=1.0, clip=0.0, alpha=alpha)
    top = np.eye(CLASSES)[logits(pair[1], x).argmax(-1)]
    theory = (1 - alpha) * softmax(logits(pair[0], x)) + alpha * top
    np.testing.assert_allclose(np.exp(model(x)), theory, rtol=1e-4, atol=1e-6)
    assert np.isfinite(gradient(model, x, np.zeros(COUNT, int))).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_transformation_keeps_the_order_of_one_network(pair, scale, power):
    """With the largest logit above -clip, and of two classes all their order."""
    x = images(200)
    model = mixed_nuts(*pair, scale=scale, power=power, clip=0.0, alpha=1.0)
    np.testing.assert_array_equal(
        model(x).numpy().argmax(-1), logits(pair[1], x).argmax(-1)
    )
    two = linear(3, classes=2), linear(4, classes=2)
    model = mixed_nuts(*two, scale=scale, power=power, clip=0.7, alpha=1.0)
    found = np.diff(model(x)).ravel() > 0
    np.testing.assert_array_equal(found, np.diff(logits(two[1], x)).ravel() > 0)


@pytest.mark.parametrize("alpha", [0.2, 0.9, 1.0])
def test_its_gradient_is_that_of_finite_differences_in_float64(pair, alpha):
    x, y, step = images().astype("float64"), np.arange(COUNT) % CLASSES, 1e-6
    theory = np.zeros_like(x)
    for where in np.ndindex(*SHAPE):
        move = np.zeros(SHAPE)
        move[where] = step
        up, down = (wanted(pair, x + s * move, alpha, **NUMBERS) for s in (1, -1))
        slope = (up - down) / (2 * step)
        theory[(slice(None), *where)] = slope[np.arange(COUNT), y]
    model = mixed_nuts(*pair, alpha=alpha, **NUMBERS)
    found = gradient(model, x.astype("float32"), y)
    np.testing.assert_allclose(found, theory, rtol=2e-3, atol=1e-3)


def test_at_temperature_0_the_vanilla_share_is_one_hot_and_has_a_gradient(pair):
    x, alpha = images(), 0.6
    model = mixed_nuts(*pair, alpha=alpha, temperature=0.0, **NUMBERS)
    top = logits(pair[0], x).argmax(-1)
    robust = softmax(NUMBERS["scale"] * g(logits(pair[1], x), 2.5, -0.4))
    theory = (1 - alpha) * np.eye(CLASSES)[top] + alpha * robust
    np.testing.assert_allclose(np.exp(model(x)), theory, rtol=1e-4, atol=1e-6)
    alone = mixed_nuts(*pair, alpha=0.0, temperature=0.0, **NUMBERS)
    soft = mixture.mixture(*pair, 0.0)
    np.testing.assert_allclose(gradient(alone, x, top), gradient(soft, x, top), atol=1e-6)


def test_of_many_classes_the_largest_logits_decide_mean_and_variance():
    many = linear(5, classes=300), linear(6, classes=300)
    x = images()
    found = mixed_nuts(*many, alpha=0.9, **NUMBERS)(x)
    theory = wanted(many, x, 0.9, **NUMBERS)
    np.testing.assert_allclose(found, theory, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masked_classes_and_huge_logits_leave_gradients_finite(temperature):
    def masked(scale):
        x = keras.Input(SHAPE)
        z = L.Dense(CLASSES)(L.Flatten()(x))
        return keras.Model(x, scale * z + np.array([0, 0, 0, 0, -np.inf], "float32"))

    x, y = images(), np.arange(COUNT) % 4
    for pair in ((masked(1.0), masked(1.0)), (linear(1, scale=3e3), linear(2, scale=3e3))):
        model = mixed_nuts(*pair, alpha=0.9, temperature=temperature, **NUMBERS)
        assert np.isfinite(model(x)).all() and np.isfinite(gradient(model, x, y)).all()


def test_it_is_saved_and_read_without_this_package(pair, tmp_path):
    x, path = images(), tmp_path / "nuts.keras"
    for temperature in (0.0, 1.0):
        both = mixed_nuts(*pair, alpha=0.9, temperature=temperature, **NUMBERS)
        both.save(path)
        np.testing.assert_array_equal(network.load(str(path))(x), both(x))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import keras, numpy as np, sys; "
        "z = keras.saving.load_model('nuts.keras')(np.load('x.npy')); "
        "np.save('z.npy', z); assert 'vfd_tf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), both(x), rtol=1e-4, atol=1e-5)


def test_an_attack_goes_through_it(pair):
    x = np.random.default_rng(0).uniform(0.2, 0.8, (64, *SHAPE)).astype("float32")
    both = mixed_nuts(*pair, alpha=0.6, **NUMBERS)
    y = both(x).numpy().argmax(-1)
    result = evaluation.evaluate(both, (x, y), ["pgd10"], epsilon=0.05)
    assert result.clean.all() and 0 < result.robust["pgd10"].mean() < 1
    assert not any("gradient" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"alpha": 1.1}, "alpha is the share"),
        ({"scale": 0.0}, "scale must be a finite number above 0"),
        ({"power": 0.5}, "power must be a finite number of at least 1"),
        ({"clip": float("nan")}, "clip must be a finite number"),
        ({"clip": "deep"}, "clip must be a finite number"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"scale": True}, "scale must be"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(pair, change, words):
    with pytest.raises(InputError, match=words):
        mixed_nuts(*pair, **{**NUMBERS, "alpha": 0.5, **change})


# --- the fit ------------------------------------------------------------------------------


def held_out(count=400, classes=6, seed=0):
    """(clean, attacked, y) of a network that is surer where it is right."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, count)
    clean = random.normal(size=(count, classes))
    clean[np.arange(count), y] += random.normal(2.0, 1.0, count)
    attacked = clean + 0.3 * random.normal(size=clean.shape)
    attacked[np.arange(count), y] -= 0.8
    return clean, attacked, y


def margin(p):
    top = np.sort(p, -1)
    return top[:, -1] - top[:, -2]


def brute(clean, attacked, y, kept, grid):
    """The paper's problem, one point of the grid and one threshold after the other."""
    wrong = clean[clean.argmax(-1) != y]
    right = attacked.argmax(-1) == y
    attacked, labels, found = attacked[right], y[right], []
    for clip, power, scale in grid:
        p = softmax(scale * g(attacked, power, clip))
        sure = np.where(p.argmax(-1) == labels, margin(p), -1.0)
        other = margin(softmax(scale * g(wrong, power, clip)))
        holds = [m for m in sure if m > 0 and (sure >= m).mean() >= kept]
        if holds:
            threshold = max(holds)
            found.append(((other >= threshold).mean(), -threshold, clip, power, scale))
    return min(found, key=lambda row: row[:2])


@pytest.mark.parametrize("kept", [0.9, 0.985, 1.0])
def test_the_fit_is_the_best_of_all_that_is_tried_one_by_one(kept):
    data = held_out()
    axes = {"clips": (-1.5, -0.5, 0.0), "powers": (1.0, 3.0), "scales": (0.2, 1.0, 3.0)}
    errors, threshold, clip, power, scale = brute(
        *data, kept, itertools.product(*axes.values())
    )
    found = fit_nuts(*data, kept=kept, **axes)
    assert (found.clip, found.power, found.scale) == (clip, power, scale)
    assert found.alpha == pytest.approx(1 / (1 - threshold), abs=1e-9)
    assert found.errors == pytest.approx(errors) and found.kept >= kept
    assert found == fit_nuts(*data, kept=kept, **axes)


def test_the_fit_recovers_an_optimum_made_by_hand():
    """Right answers lead by 3 and wrong ones by 1: every threshold between tells them."""
    y = np.zeros(40, int)
    attacked = np.tile([3.0, 0.0, -1.0, -2.0], (40, 1))
    clean = np.tile([0.0, 1.0, 0.2, -1.2], (40, 1))
    found = fit_nuts(clean, attacked, y)
    assert (found.errors, found.kept) == (0.0, 1.0)
    margins = [
        margin(softmax(found.scale * g(z[:1], found.power, found.clip)))[0]
        for z in (clean, attacked)
    ]
    threshold = (1 - found.alpha) / found.alpha
    assert margins[0] < threshold <= margins[1] + 1e-9


def test_a_threshold_of_the_fit_is_kept_by_the_model_for_any_vanilla_network():
    """Answers whose margin is above (1 - alpha) / alpha stand; the promised share does."""
    clean, attacked, y = held_out(classes=CLASSES)
    fit = fit_nuts(clean, attacked, y)
    x = keras.Input((CLASSES,))
    robust = keras.Model(x, L.Identity()(x))
    right = attacked.argmax(-1) == y
    for seed, temperature in ((1, 0.0), (2, 1.0)):
        keras.utils.set_random_seed(seed)
        vanilla = keras.Sequential([keras.Input((CLASSES,)), L.Dense(CLASSES)])
        model = mixed_nuts(vanilla, robust, **fit.numbers, temperature=temperature)
        answers = model(attacked[right].astype("float32")).numpy().argmax(-1)
        assert (answers == y[right]).mean() >= fit.kept - 0.005  # float32, ties


def test_less_that_is_kept_leaves_more_to_the_vanilla_network():
    fits = [fit_nuts(*held_out(), kept=kept) for kept in (1.0, 0.99, 0.95, 0.8)]
    errors = [fit.errors for fit in fits]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert all(0.5 < fit.alpha <= 1 for fit in fits)


def test_a_point_of_the_grid_that_changes_answers_is_not_taken():
    """Under a clip far below all logits GELU turns their order around."""
    clean, attacked, y = held_out()
    with pytest.raises(InputError, match="add 0"):
        fit_nuts(clean, attacked, y, clips=(-6.0,))
    assert fit_nuts(clean, attacked, y, clips=(-6.0, 0.0)).clip == 0.0


def test_ties_are_named_where_no_clip_could_help():
    """1 of 20 right answers may be overruled, and 2 of them are ties."""
    y = np.arange(20) % 4
    attacked = 2.0 * np.eye(4)[y]
    clean = np.roll(attacked, 1, -1)
    assert fit_nuts(clean, attacked, y, kept=0.95).kept >= 0.95
    attacked[[0, 4]] = [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(NothingToFit, match=r"More than 0.05 .* ties .* another network"):
        fit_nuts(clean, attacked, y, kept=0.95)
    with pytest.raises(NothingToFit, match="ties"):
        fit_nuts(clean, np.zeros((20, 4)), y)


def test_what_predicts_nothing_is_no_right_answer():
    clean, attacked, y = held_out()
    whole = fit_nuts(clean, attacked, y)
    more = np.full((1, 6), np.nan)
    rows = [np.concatenate(pair) for pair in ((clean, np.eye(6)[:1]), (attacked, more))]
    assert fit_nuts(*rows, np.append(y, 0)) == whole


def test_the_fit_refuses_what_has_no_answer():
    clean, attacked, y = held_out()
    perfect = np.eye(6)[y]
    for arguments, words in (
        (((perfect, attacked, y), {}), "wrong on no clean image"),
        (((clean, -9 * perfect, y), {}), "right on no attacked image"),
        (((clean, attacked[:-1], y), {}), "don't belong"),
        (((clean, attacked, y), {"kept": 0.0}), "kept must be"),
        (((clean, attacked, y), {"scales": ()}), "scales is empty"),
        (((clean, attacked, y), {"powers": (0.5,)}), "power must be"),
    ):
        with pytest.raises(InputError, match=words):
            fit_nuts(*arguments[0], **arguments[1])


def test_its_numbers_are_the_arguments():
    nuts = Nuts(1.0, 2.0, -1.0, 0.9, 0.99, 0.4)
    assert nuts.numbers == {"scale": 1.0, "power": 2.0, "clip": -1.0, "alpha": 0.9}
