"""Evaluation on what users really have: other dtypes, odd models, late surprises."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import InputError, evaluation
from vfd_tf.attacks import NFGSM, PGD
from vfd_tf.evaluation import Engine, Journal, engine, evaluate, protocol, windows
from vfd_tf.models.precision import in_float32

SHAPE, N = (6, 6, 1), 24
EVERY = ["fgsm", "pgd3", "mim3", "cw:steps=5", "apgd-ce:steps=5", "apgd-t:steps=3"]
EVERY += ["fab:steps=3", "fab-t:steps=3", "square:queries=5"]


def network(dtype=None, classes=4):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE, dtype="float64" if dtype == "float64" else "float32")
    x = L.Flatten(dtype=dtype)(L.Conv2D(8, 3, activation="tanh", dtype=dtype)(inputs))
    return keras.Model(inputs, L.Dense(classes, dtype=dtype)(x))


def data(dtype="float32", n=N):
    x = np.random.RandomState(0).uniform(0.02, 0.98, (n, *SHAPE)).astype("float32")
    y = network().predict(x, verbose=0).argmax(-1)
    return x.astype(dtype), y


@pytest.mark.parametrize("images", ["float16", "float64"])
def test_images_of_other_floats_are_evaluated_as_float32(images):
    x, y = data(images)
    found = evaluate(network(), (x, y), EVERY, epsilon=0.05)
    expected = evaluate(network(), (x.astype("float32"), y), EVERY, epsilon=0.05)
    for name, verdict in expected.verdicts().items():
        np.testing.assert_array_equal(found.verdicts()[name], verdict)


def test_a_float64_model_is_attacked_in_float64():
    model = network("float64")
    found = evaluate(model, data(), EVERY, epsilon=0.05, examples=True)
    assert {x_adv.dtype.name for x_adv in found.examples.values()} == {"float64"}
    assert Engine(model).logits(data("float64")[0]).dtype == "float64"


def test_a_model_in_16_bits_is_judged_in_32():
    x, y = data()
    half, full = network("mixed_bfloat16"), network()
    half.set_weights(full.get_weights())
    found, expected = (evaluate(m, (x, y), ["pgd5"], epsilon=0.05) for m in (half, full))
    for name, verdict in expected.verdicts().items():
        np.testing.assert_array_equal(found.verdicts()[name], verdict)
    exact = in_float32(half)
    np.testing.assert_allclose(exact(x), full(x), 0, 1e-6)
    rounded = tf.cast(half(x), "float32")
    assert np.abs(rounded - full(x)).max() > 1e-4


def test_a_surprise_in_a_later_window_is_refused(monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_BYTES", 1)
    x, y = data()
    assert evaluate(network(), (x, y), [], batch_size=8).clean.all()
    late = x.copy()
    late[-1] *= 200
    with pytest.raises(InputError, match="range from"):
        evaluate(network(), (late, y), [], batch_size=8)
    with pytest.raises(InputError, match="labels range"):
        evaluate(network(), (x, np.r_[y[:-1], 77]), [], batch_size=8)
    lenient = evaluate(network(), (late, y), [], batch_size=8, strict=False)
    assert any("range from" in warning for warning in lenient.warnings)


def test_images_outside_the_bounds_leave_the_ball_and_it_is_said():
    x, y = data()
    x[0] += 2
    y[0] = network().predict(x[:1], verbose=0).argmax()
    with pytest.raises(InputError, match="range from") as refusal:
        evaluate(network(), (x, y), [])
    assert "mean nothing" not in str(refusal.value)  # there are none
    found = evaluate(network(), (x, y), ["fgsm"], epsilon=0.1, strict=False, examples=True)
    inside = np.abs(found.examples["fgsm"] - x).max((1, 2, 3)) < 0.1 + 1e-5
    assert not inside[0] and inside[1:].all()
    (text,) = [text for text in found.warnings if "range from" in text]
    assert "robust accuracies mean nothing" in text


def test_rounding_beyond_1_helps_no_image():
    x, y = data()
    off = x.copy()
    off[:, 0, 0] = 1.00009
    name = "cw:c=100:steps=300"
    assert evaluate(network(), (x, y), [name]).robust[name].mean() == 0
    assert evaluate(network(), (off, y), [name]).robust[name].mean() == 0


class Dictionary(keras.Model):
    """A subclassed model that returns a dict."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=None):
        return {"logits": self.inner(x), "features": x}


def test_a_subclassed_model_may_return_a_dict():
    found = evaluate(Dictionary(network()), data(), ["pgd3"], epsilon=0.05)
    expected = evaluate(network(), data(), ["pgd3"], epsilon=0.05)
    np.testing.assert_array_equal(found.robust["pgd3"], expected.robust["pgd3"])


class Distance(L.Layer):
    """Finite outputs, gradients that are not: the root of 0."""

    def call(self, x):
        return x + tf.norm(0 * x, axis=-1, keepdims=True)


def test_gradients_that_are_not_finite_are_warned_of_and_others_go_on():
    inner = network()
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, inner(Distance()(inputs)))
    found = evaluate(
        model, data(), ["pgd3", "cw:steps=3", "square:queries=60"], epsilon=0.2
    )
    assert any("not finite" in warning for warning in found.warnings)
    square, pgd = (found.robust[n].mean() for n in ("square:queries=60", "pgd3"))
    assert square < pgd - 0.2


def test_another_norm_needs_a_radius_of_its_own():
    with pytest.raises(InputError, match="epsilon=0.5"):
        evaluate(network(), data(), ["fgsm"], norm="l2")


def test_attacks_for_training_alone_are_refused_as_objects_too():
    with pytest.raises(InputError, match="training alone"):
        evaluate(network(), data(), [NFGSM()])


def test_objectives_tell_protocols_apart():
    twins = [evaluation.Protocol(PGD(0.1, steps=2), o) for o in ("ce", "margin")]
    assert len(evaluate(network(), data(), twins).robust) == 2


def test_stages_are_the_same_after_a_resume():
    """A stage keeps what it found, whenever the evaluation was killed."""

    class Two:
        transfer, threat, unbounded = False, "linf:0.05", False
        attack = PGD(0.1)

        def stages(self, classes):
            one = protocol("fgsm", 0.002).stages(classes)[""]
            return {"one": one, "two": protocol("pgd10", 0.1).stages(classes)[""]}

    judged, saved = Engine(network()), []
    (window,) = judged.windows.read(data())

    def keep(progress):
        for older in ({}, {"margins": None}):  # of a journal that has none yet
            copies = {k: v.copy() for k, v in vars(progress).items() if k != "runs_done"}
            copies |= {**older, "runs_done": progress.runs_done}
            saved.append(engine.Progress(**copies))

    whole = judged.attacked(Two(), window, save=keep)
    assert whole.after["one"].sum() > whole.after["two"].sum()
    for progress in saved:
        again = judged.attacked(Two(), window, progress)
        for stage, verdict in whole.after.items():
            np.testing.assert_array_equal(again.after[stage], verdict)


def test_a_journal_keeps_images_and_seeds_apart(tmp_path):
    x, y = data()
    plan = {"pgd3": protocol("pgd3", 0.05).describe()}

    def run(x, seed=0):
        journal = Journal(str(tmp_path), {}, plan)
        return evaluate(
            network(), (x, y), ["pgd3"], epsilon=0.05, seed=seed, journal=journal
        )

    first = run(x)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    np.testing.assert_array_equal(run(x).robust["pgd3"], first.robust["pgd3"])
    assert len(list(tmp_path.glob("*.npz"))) == 1
    run(x, seed=1)
    run(x[::-1].copy())
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_a_journal_keeps_settings_apart_that_no_plan_names(tmp_path, monkeypatch):
    """Whatever the caller wrote of a column, verdicts are those of a fresh evaluation."""
    (x, y), crafted, make = data(), [], Engine.examples
    monkeypatch.setattr(
        Engine, "examples", lambda *a, **k: crafted.append(a[1]) or make(*a, **k)
    )
    runs = [
        ((x, y), {"epsilon": 0.02}),
        ((x, y), {"epsilon": 0.1}),
        ((x, y), {"epsilon": 0.1, "norm": "l2"}),
        ((2 * x, y), {"epsilon": 0.02, "bounds": (0, 2)}),
        ((x, y), {"epsilon": 0.02, "early_stop": False}),
    ]
    fresh, journal = [], Journal(str(tmp_path), {}, {"pgd3": "mine"})
    for images, options in runs:
        found = evaluate(network(), images, "pgd3", journal=journal, **options)
        fresh.append(evaluate(network(), images, "pgd3", **options).robust["pgd3"])
        np.testing.assert_array_equal(found.robust["pgd3"], fresh[-1])
    assert len({verdict.tobytes() for verdict in fresh}) > 2
    crafted.clear()
    journal = Journal(str(tmp_path), {}, {"pgd3": "mine"})
    for images, options in runs[:2]:  # were kept
        evaluate(network(), images, "pgd3", journal=journal, **options)
    assert not [run for run in crafted if run.attack.steps == 3]


def test_a_journal_keeps_surrogates_apart(tmp_path):
    x, y = data()
    for scale in (1.0, -1.0, 1.0):
        other, journal = network(), Journal(str(tmp_path), {}, {"pgd3": "mine"})
        first, *rest = other.get_weights()
        other.set_weights([scale * first, *rest])
        judge = {"epsilon": 0.1, "surrogate": other}
        found, fresh = (
            evaluate(network(), (x, y), "pgd3", **judge, **more).robust["transfer-pgd3"]
            for more in ({"journal": journal}, {})
        )
        np.testing.assert_array_equal(found, fresh)
    assert len([*tmp_path.glob("*.npz")]) == 3


def test_a_journal_keeps_surrogates_apart_that_have_no_weights(tmp_path):
    (x, y), net, found = data(), network(), []
    for scale in (1.0, -1.0):
        judge = {"epsilon": 0.1, "surrogate": lambda x, s=scale: s * net(x)}
        for journal in (Journal(str(tmp_path), {}), None):
            result = evaluate(net, (x, y), "pgd3", **judge, journal=journal)
            found.append(result.robust["transfer-pgd3"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert not np.array_equal(found[0], found[2])


def test_the_worst_of_bounded_attacks_leaves_the_unbounded_out():
    clean = np.ones(4, bool)
    robust = {"pgd20": np.array([1, 1, 0, 1], bool), "cw": np.zeros(4, bool)}
    found = evaluation.EvaluationResult(clean, robust, {}, distances={"cw": np.ones(4)})
    rows = {row["attack"]: row["accuracy"] for row in found.rows()}
    assert rows == found.accuracies() == {"clean": 100, "pgd20": 75, "cw": 0, "worst": 75}
