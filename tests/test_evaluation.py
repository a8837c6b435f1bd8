"""Evaluation: known answers, independence of batching, protocols and tables."""

from fractions import Fraction

import numpy as np
import pytest
from evaluations import linear

from vfd_tf import InputError, attacks, datasets, evaluation, noise, perturb
from vfd_tf.attacks import FGSM, PGD
from vfd_tf.attacks.attack import radius
from vfd_tf.data.datasets import Images
from vfd_tf.evaluation import Engine, Protocol, evaluate, protocol, tables, wilson
from vfd_tf.evaluation.windows import Share

# isort: split

import keras
import tensorflow as tf
from keras import layers as L

SHAPE, N, EPSILON = (4, 4, 1), 29, 0.05


def _linear(seed=0):
    """Logits (0, w.x + b), and w and b."""
    rng = np.random.RandomState(seed)
    w = rng.randn(16).astype("float32")
    b = np.float32(-w.sum() / 2)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(inputs)))
    model.set_weights([np.stack([0 * w, w], 1), np.array([0, b], "float32")])
    return model, w, b


def _data(seed=1, n=N):
    rng = np.random.RandomState(seed)
    x = rng.uniform(0.3, 0.7, (n, *SHAPE)).astype("float32")  # the box stays far away
    return x, rng.randint(0, 2, n).astype("int32")


def _network(classes=2):
    keras.utils.set_random_seed(4)
    inputs = keras.Input(SHAPE)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3)(inputs)))
    return keras.Model(inputs, L.Dense(classes, name="logits")(L.Flatten()(x)))


def _signed_margin(x, y, w, b):
    score = x.reshape(len(x), -1) @ w + b
    return np.where(y == 1, score, -score)


def _equal(one, other):
    np.testing.assert_array_equal(one.clean, other.clean)
    assert list(one.robust) == list(other.robust)
    for name in one.robust:
        np.testing.assert_array_equal(one.robust[name], other.robust[name])


@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.1])
def test_robust_accuracy_of_a_linear_classifier_is_the_closed_form(norm, dual, epsilon):
    model, w, b = _linear()
    x, y = _data()
    m, drop = _signed_margin(x, y, w, b), epsilon * np.linalg.norm(w, dual)
    assert np.abs(m - drop).min() > 1e-4  # no image lies on the boundary
    result = evaluate(model, (x, y), ("fgsm", "pgd40"), epsilon=epsilon, norm=norm)
    np.testing.assert_array_equal(result.clean, m > 0)
    np.testing.assert_array_equal(result.robust["fgsm"], m > drop)
    np.testing.assert_array_equal(result.robust["pgd40"], m > drop)
    expected = {"clean": 100 * (m > 0).mean(), "fgsm": 100 * (m > drop).mean()}
    accuracies = result.accuracies()
    assert accuracies["clean"] == pytest.approx(expected["clean"])
    assert accuracies["fgsm"] == accuracies["pgd40"] == pytest.approx(expected["fgsm"])


def test_the_box_counts_beside_the_ball():
    model, w, b = _linear()
    y = np.ones(N, "int32")
    x = np.random.RandomState(2).randint(0, 2, (N, *SHAPE)).astype("float32")
    worst = np.clip(x - 0.3 * np.sign(w).reshape(SHAPE), 0, 1)
    robust = evaluate(model, (x, y), ("fgsm",), epsilon=0.3).robust["fgsm"]
    np.testing.assert_array_equal(robust, _signed_margin(worst, y, w, b) > 0)


@pytest.mark.parametrize(
    "batch_size", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 29, 64))]
)
def test_arrays_and_data_sets_of_any_batch_size_give_the_same(batch_size):
    model, (x, y) = _network(), _data()
    attacks = (PGD(0.1, 0.05, steps=1),)  # an attack whose start decides
    expected = evaluate(model, (x, y), attacks, batch_size=10)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
    _equal(evaluate(model, (x, y), attacks, batch_size=batch_size), expected)
    _equal(evaluate(model, data, attacks), expected)
    _equal(evaluate(model, Images(x, y).batches(batch_size), attacks), expected)
    filled = np.concatenate([x, x[:3]]), np.concatenate([y, y[:3]])
    weight = (np.arange(len(x) + 3) < len(x)).astype("float32")
    weighted = tf.data.Dataset.from_tensor_slices((*filled, weight)).batch(batch_size)
    _equal(evaluate(model, weighted, attacks), expected)
    assert len(expected.clean) == N


def test_starts_depend_on_seed_and_position_not_on_the_batch():
    """A model that shows the noise: one logit is the first pixel after the start."""
    inputs = keras.Input((1, 1, 1))
    flat = L.Flatten()(inputs)
    model = keras.Model(inputs, L.Dense(2)(flat))
    model.set_weights([np.array([[0.0, 1.0]]), np.array([1.499, 1.0])])
    x, y = np.full((64, 1, 1, 1), 0.5, "float32"), np.ones(64, "int32")
    attack = PGD(0.1, 0.0, steps=1)  # stays at its start

    def verdicts(batch_size, seed=0):
        result = evaluate(model, (x, y), (attack,), seed=seed, batch_size=batch_size)
        return next(iter(result.robust.values()))

    expected = verdicts(64)
    assert 10 < expected.sum() < 54
    for batch_size in (1, 5, 33, 200):
        np.testing.assert_array_equal(verdicts(batch_size), expected)
    assert (verdicts(64, seed=1) != expected).any()


def test_verdicts_keep_the_order_of_the_images():
    model, (x, y) = _network(), _data()
    order = np.random.RandomState(0).permutation(N)
    result = evaluate(model, (x, y), ("fgsm",), epsilon=EPSILON)
    shuffled = evaluate(
        model, (x[order], y[order]), ("fgsm",), epsilon=EPSILON, batch_size=8
    )
    np.testing.assert_array_equal(shuffled.clean, result.clean[order])
    np.testing.assert_array_equal(shuffled.robust["fgsm"], result.robust["fgsm"][order])


def test_images_of_bytes_are_the_floats_they_stand_for():
    model = _network()
    x = np.random.RandomState(3).randint(0, 256, (N, *SHAPE)).astype("uint8")
    y = _data()[1]
    floats = (x / np.float32(255)).astype("float32")
    _equal(
        evaluate(model, Images(x, y), ("fgsm",), epsilon=EPSILON),
        evaluate(model, (floats, y), ("fgsm",), epsilon=EPSILON),
    )


def test_worst_is_correct_clean_and_under_every_attack():
    clean, one, two = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0]], bool)
    result = evaluation.EvaluationResult(clean, {"one": one, "two": two}, {})
    np.testing.assert_array_equal(result.worst, [True, False, False, False, False])
    alone = evaluation.EvaluationResult(clean, {}, {})
    np.testing.assert_array_equal(alone.worst, clean)
    assert result.accuracies() == pytest.approx(
        {"clean": 80, "one": 60, "two": 40, "worst": 20}
    )


def test_a_verdict_of_several_passes_is_no_single_pass_worse():
    """The majority on the clean image is in each verdict: an unlucky pass is none."""
    clean, many = np.array([[1, 0, 1], [1, 1, 0]], bool)
    result = evaluation.EvaluationResult(
        clean, {"rand": many, "cw": many}, {}, distances={"cw": np.ones(1)}
    )
    np.testing.assert_array_equal(result.worst, many)
    found = {row["attack"]: row["accuracy"] for row in result.rows()}
    assert found["worst"] == pytest.approx(200 / 3)
    assert result.accuracies()["worst"] == pytest.approx(200 / 3)


def _of_threats(threats, distances=()):
    """A result of attacks a, b, ... of threat models, each with one image broken."""
    names = "abcd"[: len(threats)]
    robust = dict(zip(names, ~np.eye(len(threats), 8, dtype=bool), strict=True))
    return evaluation.EvaluationResult(
        np.ones(8, bool),
        robust,
        {},
        threats=dict(zip(names, threats, strict=True)),
        distances={name: np.ones(1) for name in distances},
    )


def test_threat_models_have_a_worst_each_and_none_together():
    result = _of_threats(["linf:0.1", "l2:2", "linf:0.1", "linf:0.2"])
    found = result.accuracies()
    assert {n: v for n, v in found.items() if "worst" in n} == {"worst linf:0.1": 75.0}
    assert [row["attack"] for row in result.rows()] == list(found)
    assert "| worst linf:0.1 |" in result.table()
    with pytest.raises(InputError, match="linf:0.1 and l2:2 and linf:0.2"):
        _ = result.worst
    assert str(result)


def test_unbounded_attacks_are_in_no_worst_of_bounded_ones():
    threats = ["linf:0.1", "l2, unbounded", "linf:0.1", "l2, unbounded"]
    result = _of_threats(threats, "bd")
    np.testing.assert_array_equal(result.worst, [0, 1, 0, 1, 1, 1, 1, 1])
    assert result.accuracies()["worst"] == 75.0
    alone = _of_threats(threats[1:2] * 2, "ab")
    assert alone.worst.sum() == 6 and alone.accuracies()["worst"] == 75.0


def test_a_model_s_weights_and_statistics_stay_as_they_were():
    model = _network()
    before = model.get_weights()
    evaluate(model, _data(), ("fgsm", "pgd2"), epsilon=EPSILON)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Subclassed(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(x, training=training)


def test_any_kind_of_classifier_is_evaluated():
    model, data = _network(), _data()
    expected = evaluate(model, data, ("fgsm",), epsilon=EPSILON)
    named = keras.Model(model.inputs[0], {"logits": model.output})
    stacked = keras.Sequential([keras.Input(SHAPE), *model.layers[1:]])
    for other in (named, Subclassed(model), stacked):
        _equal(evaluate(other, data, ("fgsm",), epsilon=EPSILON), expected)


def _cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("distance, columns", [(None, 5), (0.5, 6)])
def test_a_table_has_the_columns_that_say_something(distance, columns):
    row = {"attack": "square:queries=300", "threat": "linf:8/255", "accuracy": 15.0}
    row |= {"low": 9.31, "high": 23.28, "seconds": 2.6}
    row |= {"mean_distance": distance, "median_distance": distance}
    lines = tables.markdown([{**row, "attack": "clean", "seconds": None}, row]).split("\n")
    assert [line.count("|") - 1 for line in lines] == [columns] * 4
    assert len({len(line) for line in lines}) == 1
    assert ("distance" in lines[0]) == (distance is not None)
    if distance is None:
        assert len(lines[0]) <= 80


def test_the_table_is_markdown_with_the_accuracies():
    model, data = _network(), _data()
    result = evaluate(model, data, ("fgsm", "pgd2"), epsilon=EPSILON)
    head, rule, row = result.table().split("\n")
    assert _cells(head)[1:] == ["clean", "fgsm", "pgd2", "worst"]
    assert all(set(cell) <= set("-:") and len(cell) >= 3 for cell in _cells(rule))
    expected = [f"{value:.2f}" for value in result.accuracies().values()]
    assert _cells(row)[1:] == expected
    assert all(line.startswith("|") and line.endswith("|") for line in (head, rule, row))


def test_rows_of_a_table_may_lack_columns_and_all_lines_are_equally_wide():
    rows = {"short": {"clean": 90.0}, "a much longer name": {"clean": 8.126, "pgd20": 50.0}}
    lines = evaluation.table(rows).split("\n")
    assert [_cells(line) for line in lines[2:]] == [
        ["short", "90.00", ""],
        ["a much longer name", "8.13", "50.00"],
    ]
    assert len({line.count("|") for line in lines}) == 1
    assert len({len(line) for line in lines}) == 1
    short = evaluation.table({"a": {"clean": 1.0, "pgd1000@linf": 2.0}}).split("\n")
    assert len({len(line) for line in short}) == 1


def test_print_shows_the_table_and_the_warnings():
    found = evaluation.evaluate(
        linear(), datasets.load("digits").test[:16], "fgsm", epsilon=0.1
    )
    found.warnings = ["Something is odd."]
    head, _, clean, fgsm, *rest = str(found).split("\n")
    assert "95% interval" in head and "| clean " in clean and "linf:0.1" in fgsm
    assert f" {found.accuracies()['fgsm']:.2f} " in fgsm
    assert rest == ["", "- Warning: Something is odd."]


@pytest.mark.parametrize(
    "successes, count, low, high",
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_the_interval_is_wilson_s(successes, count, low, high):
    # Values of the usual tables of Wilson's interval, Newcombe 1998.
    np.testing.assert_allclose(wilson(successes, count), (low, high), 0, 1e-4)


@pytest.mark.parametrize(
    "name, attack",
    [
        ("fgsm", FGSM(0.1, "l2")),
        ("pgd20", PGD(0.1, steps=20, norm="l2")),
        ("pgd1", PGD(0.1, steps=1, norm="l2")),
        (PGD(0.3, steps=2), PGD(0.3, steps=2)),
    ],
)
def test_protocols_stand_for_their_attack(name, attack):
    assert protocol(name, 0.1, "l2") == Protocol(attack)
    assert protocol(Protocol(attack, "dlr")) == Protocol(attack, "dlr")


def test_protocols_say_what_they_run():
    assert protocol("cw").attack.c == 1 and protocol("cw").threat == "l2, unbounded"
    assert protocol("cw_search").attack.search_steps == 9
    assert protocol("cw_linf", 0.1) == protocol("pgd100-margin", 0.1)
    assert protocol("mim").attack.steps == 20 and protocol("mim7").attack.steps == 7
    assert protocol("pgd20-kl").objective == "kl"
    settings = protocol("pgd20:restarts=3:step_size=1/255", 0.1).attack
    assert (settings.restarts, settings.step_size, settings.epsilon) == (3, 1 / 255, 0.1)
    (runs,) = protocol("pgd20:restarts=3").stages(10).values()
    assert [run.stream for run in runs] == [None, 1, 2]
    assert protocol("pgd20:epsilon=1/255:norm=l2").threat == "l2:1/255"
    plus = protocol("autoattack-plus", 0.5, "l2")
    assert plus.threat == "l2:0.5"
    stages = {name: len(runs) for name, runs in plus.stages(10).items()}
    assert stages == {
        "apgd-ce": 5, "apgd-dlr": 5, "fab": 5, "square": 1, "apgd-t": 9, "fab-t": 9
    }  # fmt: skip
    rand = protocol("autoattack-rand").stages(10)
    assert all(run.attack.eot == 20 for runs in rand.values() for run in runs)


@pytest.mark.parametrize(
    "text", ["1/255", "8/255", "16/255", "128/255", "0.031", "0.1", "0.2", "0.5", "1", "3"]
)
def test_a_radius_is_called_as_users_write_it(text):
    value = float(Fraction(text))
    assert radius(value) == text
    assert "/" in text or radius(np.float32(value)) == text


def test_radii_that_differ_in_the_fourth_digit_are_two_threat_models():
    near = [PGD(size, steps=1, norm="l2") for size in (0.5, 0.5001)]
    found = evaluate(_network(4), _data(), [*near, PGD(0.03137, steps=1)])
    assert [*found.threats.values()] == ["l2:0.5", "l2:0.5001", "linf:0.03137"]
    with pytest.raises(InputError, match="several threat models"):
        _ = found.worst


def test_cw_linf_is_an_attack_in_linf_whatever_the_norm():
    with pytest.raises(InputError, match="norm of its own.*cw-linf:epsilon=8/255"):
        protocol("cw-linf", 0.5, "l2")
    own = protocol("cw-linf:epsilon=0.1", 0.5, "l2")
    assert own == protocol("cw-linf", 0.1) and own.threat == "linf:0.1"


@pytest.mark.parametrize("objective", ["ce", "margin", "dlr"])
def test_a_protocol_names_the_objective_it_ascends(objective):
    named = protocol(f"pgd5-{objective}", 0.1)
    assert named == Protocol(PGD(0.1, steps=5), objective)
    model, (x, y) = _network(4), _data()
    seeds = noise.example_seeds(0, 0, tf.range(len(x)))
    score = getattr(attacks, {"ce": "cross_entropy"}.get(objective, objective))(y)
    expected = PGD(0.1, steps=5)(model, tf.constant(x), score, seeds=seeds)
    np.testing.assert_array_equal(named(model, tf.constant(x), y, seeds), expected)


def test_the_worst_case_is_that_of_each_image_by_itself():
    verdicts = {"clean": [1, 1, 1, 0], "a": [1, 0, 1, 0], "b": [0, 1, 1, 0]}
    verdicts = {name: np.array(v, bool) for name, v in verdicts.items()}
    assert evaluation.accuracies(verdicts) == {
        "clean": 75.0, "a": 50.0, "b": 50.0, "worst": 25.0
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, hint",
    [
        ("pgd20-cw", "Choose one of: ce, margin, dlr"),
        ("pdg20", "Did you mean 'pgd'"),
        ("fsgm", "Did you mean 'fgsm'"),
        ("pgd", "number of steps, such as 'pgd20'"),
        ("pgd0", "at least 1"),
        ("fgsm5", "Unknown attack 'fgsm5'"),
        ("", "Unknown attack"),
        ("20", "Unknown attack"),
    ],
)
def test_names_that_stand_for_no_protocol_are_refused(name, hint):
    model, data = _network(), _data()
    with pytest.raises(InputError, match=hint) as refusal:
        evaluate(model, data, ("fgsm", name))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["fgsm-kl", "mim20-kl", "transfer-mim-kl", "pgd20-kl:random_start=false"]
)
def test_kl_without_a_random_start_is_refused(name):
    """KL(p(x) || p(x')) has its minimum, 0, at x' = x: nothing to ascend from there."""
    with pytest.raises(InputError, match="starts at x, .*: take pgd20-kl, which"):
        protocol(name)
    with pytest.raises(InputError, match="take pgd20-kl"):
        Protocol(PGD(0.1, random_start=False), "kl")
    moved = Protocol(FGSM(0.1))(_network(), *map(tf.constant, _data()), None)
    assert np.abs(moved - _data()[0]).max() > 0.09
    assert protocol("mim20-kl:random_start=true").objective == "kl"


def test_a_radius_in_grey_levels_is_refused():
    with pytest.raises(InputError, match="8/255"):
        evaluate(_network(), _data(), ("fgsm",), epsilon=8)


def test_two_attacks_of_a_kind_are_told_apart():
    attacks = (PGD(0.1, steps=2), PGD(0.2, steps=2), "pgd2")
    result = evaluate(_network(), _data(), attacks, epsilon=EPSILON)
    assert len(result.robust) == len(result.attacks) == 3
    assert "epsilon=0.2" in str(result.attacks.values())


@pytest.mark.parametrize(
    "attack, epsilon, norm",
    [
        (PGD(steps=2), EPSILON, "linf"),
        (Protocol(PGD(steps=2), "margin"), EPSILON, "linf"),
        ((PGD(EPSILON, steps=2), FGSM(0.1)), EPSILON, "linf"),
        (FGSM(EPSILON), EPSILON, "l2"),
    ],
)
def test_a_radius_that_no_attack_takes_is_refused(attack, epsilon, norm):
    with pytest.raises(InputError, match="of its own: leave out epsilon and norm"):
        evaluate(_network(), _data(), attack, epsilon=epsilon, norm=norm)
    if isinstance(attack, FGSM):
        with pytest.raises(InputError, match="epsilon 0.05 in linf of its own"):
            perturb(_network(), *_data(), attack, epsilon=epsilon, norm=norm)


def test_objects_keep_their_threat_model_beside_names_and_where_none_is_given():
    wide, same = FGSM(0.2), FGSM(EPSILON)
    for plan, epsilon, threats in (
        (["fgsm", wide], EPSILON, ["linf:0.05", "linf:0.2"]),
        (["fgsm", same], EPSILON, ["linf:0.05"] * 2),
        (same, EPSILON, ["linf:0.05"]),
        ([FGSM(0.5, "l2"), wide], None, ["l2:0.5", "linf:0.2"]),
        (FGSM(0.5, "l2"), 0.5, ["l2:0.5"]),
        (FGSM, EPSILON, ["linf:0.05"]),
    ):
        result = evaluate(_network(), _data(), plan, epsilon=epsilon)
        assert list(result.threats.values()) == threats


def test_verbose_prints_a_bar_and_changes_nothing(capsys):
    model, data = _network(), _data()
    quiet = evaluate(model, data, ("fgsm",), epsilon=EPSILON)
    assert capsys.readouterr().out == ""
    _equal(
        evaluate(model, data, ("fgsm",), epsilon=EPSILON, verbose=1, batch_size=8), quiet
    )
    assert "fgsm@linf:0.05" in capsys.readouterr().out


def test_a_terminal_sees_how_far_an_attack_has_come(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    evaluate(_network(), _data(), ("pgd20",), epsilon=EPSILON, verbose=1)
    out = capsys.readouterr().out
    steps = [f"step {n} of 20" for n in (5, 10, 15, 20)]
    places = [out.index(f"pgd20, images 1 to {N} of {N}, {step}") for step in steps]
    assert places == sorted(places) and out.rindex("pgd20@linf") > places[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_workers_find_together_what_one_finds_alone(make_network, toy, count):
    """Every image keeps its place, and with it its draws; a share may be empty."""
    x, y = toy
    engine, whole = Engine(make_network(), batch_size=4), np.zeros(len(x), bool)
    alone = engine.correct((x, y), "pgd3", seed=5)
    for index in range(count):
        share = Share((x, y), index, count)
        whole[index::count] = engine.correct(share, "pgd3", seed=5)
    np.testing.assert_array_equal(whole, alone)
    assert alone.sum() > 0


def test_shares_of_a_split_read_their_own_images_alone(make_network, toy):
    images = Images((255 * toy[0]).astype("uint8"), toy[1])
    windows = Engine(make_network(), batch_size=4).windows
    (alone,) = windows.read(images, seed=5)
    for index in range(3):
        (own,) = windows.read(Share(images, index, 3), seed=5)
        np.testing.assert_array_equal(own.x, alone.x[index::3])
        np.testing.assert_array_equal(own.seeds, alone.seeds[index::3])


def test_devices_share_the_batches_of_an_evaluation(make_network, toy):
    model = make_network()
    several = Engine(model, batch_size=4, devices=("CPU:0", "CPU:0"))
    found = several.correct(toy, "pgd3")
    np.testing.assert_array_equal(found, Engine(model, batch_size=4).correct(toy, "pgd3"))
