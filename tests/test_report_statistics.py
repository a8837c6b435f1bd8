"""The numbers of the report against references made by hand or by brute force."""

import json

import numpy as np
import pytest
import suites
from scipy.stats import binomtest

from vfd_tf.suites.report import (
    collect,
    gains,
    published,
    statistics,
    suite_record,
    summary,
    tables,
    trade_off,
)

BLACK_BOX, WHITE_BOX = published.BLACK_BOX, published.WHITE_BOX
COLUMNS = (*BLACK_BOX, *WHITE_BOX, "clean")
# Summed by awk from the text of the paper, in the order of COLUMNS.
SUMS = {
    "table1": (1667.9, 1691.1, 1764.3, 1056.4, 1184.7, 872.6, 1778.1),
    "table2": (1161.9, 1152.8, 1229.7, 588.3, 644.9, 489.2, 1257.8),
}
# The same by rows, as they stand there.
ROW_SUMS = {
    "table1": "256.2 468.1 478.1 474.7 477 495.2 484 482.8 488.4 492.5 516 487.6 480.3 "
    "482.2 485.4 515.1 482.2 489.3 485.4 488.2 506.4",
    "table2": "188.7 289.6 300.7 293.5 318.9 338 299.2 314.8 330.8 313.5 354.3 311.1 289.3 "
    "323.1 322.2 349.5 308.5 307.5 320.6 317.2 333.6",
}
METHODS = ("ALP", "TRADES", "MART", "HAT")


@pytest.mark.parametrize("table", SUMS)
def test_the_paper_s_tables_have_its_sums(table):
    known = published.accuracies(table)
    assert len(known) == 21 * 7
    for column, total in zip(COLUMNS, SUMS[table], strict=True):
        assert sum(v for (_, c), v in known.items() if c == column) == pytest.approx(total)
    rows = {name: 0.0 for name, _ in known}
    for (name, _), value in known.items():
        rows[name] += value
    enhanced = ("", "+KD", "+BGAT", "+LBGAT", "+VFD-Adv")
    assert [*rows] == ["Vanilla", *(m + e for m in METHODS for e in enhanced)]
    assert [*rows.values()] == pytest.approx([*map(float, ROW_SUMS[table].split())])


def test_a_few_of_the_paper_s_values():
    one, two = published.accuracies("table1"), published.accuracies("table2")
    assert one["Vanilla", "transfer-cw"] == 90.5 and one["MART", "pgd20"] == 55.4
    assert one["TRADES+VFD-Adv", "clean"] == 87.5 and two["HAT+VFD-Adv", "cw"] == 20.1
    assert published.accuracies("table3") == {}


@pytest.mark.parametrize("table", SUMS)
def test_the_gains_that_the_text_quotes_are_those_of_the_tables(table):
    """By hand: TRADES 25.6 / 6 and 6.4; the text rounds them to 4.3 and 6.4."""
    known = published.accuracies(table)

    def gain(method, others, columns):
        row = f"{method}+VFD-Adv"
        names = [method + other for other in others]
        return statistics.gain(known, row, names, columns)

    others = {"base": ("",), "best other": ("", "+KD", "+BGAT", "+LBGAT")}
    for (row, against), quoted in published.quoted_gains(table).items():
        methods = METHODS if row.startswith("*") else (row.split("+")[0],)
        for columns, said in zip((published.ROBUST, ("clean",)), quoted, strict=True):
            found = [gain(method, others[against], columns) for method in methods]
            assert np.mean(found) == pytest.approx(said, abs=0.0501), (row, against)
    if table == "table1":
        assert gain("TRADES", ("",), published.ROBUST) == pytest.approx(25.6 / 6)


def test_a_gain_needs_all_of_its_numbers():
    known = {("a", "x"): 50.0, ("a", "y"): 40.0, ("b", "x"): 48.0, ("b", "y"): 41.0}
    assert statistics.gain(known, "a", ["b"], ("x", "y")) == pytest.approx(0.5)
    assert statistics.gain(known, "a", ["b", "c"], ("x", "y")) is None
    assert statistics.gain(known, "a", [], ("x",)) is None
    known |= {("c", "x"): 45.0, ("c", "y"): 39.0}  # per column: 50 - 48, 40 - 41
    assert statistics.gain(known, "a", ["b", "c"], ("x", "y")) == pytest.approx(0.5)


def test_wilson_s_interval_is_the_textbook_s():
    assert statistics.interval(50.0, 100) == pytest.approx((40.383, 59.617), abs=1e-3)
    low, high = statistics.interval(0.0, 100)
    assert low == pytest.approx(0, abs=1e-9) and high == pytest.approx(3.699, abs=1e-3)


def test_mcnemar_s_test_is_two_binomial_tails():
    one = np.array([True] * 8 + [False] * 2 + [True] * 50)
    other = np.array([False] * 8 + [True] * 2 + [True] * 50)
    # 8 and 2 of 10: twice (1 + 10 + 45) / 1024.
    assert statistics.mcnemar(one, other) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(other, one) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(one, one) == 1.0
    for better, worse in ((0, 7), (5, 5), (40, 61), (300, 200)):
        one = np.arange(600) < better
        other = (np.arange(600) >= better) & (np.arange(600) < better + worse)
        expected = binomtest(better, better + worse).pvalue
        assert statistics.mcnemar(one, other) == pytest.approx(expected)


def test_means_and_deviations_are_over_what_is_there():
    assert statistics.mean([1.0, None, 3.0]) == 2.0 and statistics.mean([]) is None
    assert statistics.deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    assert statistics.deviation([1.0]) is None


def shares(images, *counts):
    """bool [len(counts), images]: the first so many are right."""
    return np.arange(images) < np.array(counts)[:, None]


def test_the_height_of_a_polyline_is_its_highest_there_or_further_right():
    x, y = np.array([80.0, 86.0, 92.0]), np.array([50.0, 44.0, 20.0])
    asked = np.array([80.0, 83.0, 86.0, 89.0, 92.0, 92.1])
    found = trade_off.height(asked, x, y)
    assert found.tolist() == pytest.approx([50, 47, 44, 32, 20, -np.inf])
    # What it reaches at a higher clean accuracy it reaches at a lower one, too.
    assert trade_off.height(70.0, x, y) == 50
    assert trade_off.height(np.array([81.0, 83.0]), x, y[::-1]).tolist() == [50, 50]
    # Where it turns back on itself, or stands upright, the highest counts.
    assert trade_off.height(2.0, np.array([0.0, 4.0, 1.0]), np.array([0.0, 0.0, 9.0])) == 6
    assert trade_off.height(2.0, np.array([4.0, 1.0, 0.0]), np.array([0.0, 9.0, 0.0])) == 6
    assert trade_off.height(1.0, np.array([1.0, 1.0]), np.array([3.0, 5.0])) == 5


def test_the_distance_is_that_to_the_line_between_two_points():
    model = shares(10, 8, 5)
    curve = np.stack([shares(10, 10, 2), shares(10, 6, 4)])  # (100, 20) and (60, 40)
    found = trade_off.distance([(model, [curve])])
    assert found.value == pytest.approx(50 - 30)
    assert found.clean == 80 and found.range == (60, 100) and found.points == 2
    assert found.low <= found.value <= found.high and found.sentence == ""


def test_outside_of_the_curve_there_is_no_distance():
    curve = np.stack([shares(10, 7, 4), shares(10, 6, 4)])
    found = trade_off.distance([(shares(10, 9, 5), [curve])])
    assert (found.value, found.low, found.high) == (None, None, None)
    assert (
        found.sentence
        == "at 90.0 %, outside of the curve's 60.0 to 70.0 % of clean accuracy"
    )
    assert trade_off.distance([]) is None
    assert trade_off.distance([(shares(10, 9, 5), [curve[:1]])]) is None


def test_left_of_the_curve_a_model_below_it_is_beaten_and_one_above_is_elsewhere():
    """From (60, 40): at 50 the method alone has 40 without any loss."""
    curve = np.stack([shares(10, 10, 2), shares(10, 6, 4)])
    beaten = trade_off.distance([(shares(10, 5, 1), [curve])])
    assert beaten.value == pytest.approx(10 - 40) and beaten.high <= 0
    assert beaten.inside == 1 and beaten.remark == ""
    assert trade_off.distance([(shares(10, 5, 5), [curve])]).value is None


def test_of_several_curves_the_highest_counts():
    """Of one student (100, 20) to (60, 40), of another (90, 30) to (70, 50); no line joins
    both: at 80 they are at 30 and at 40, and at 95 there is the first alone.
    """
    one = np.stack([shares(20, 20, 4), shares(20, 12, 8)])
    other = np.stack([shares(20, 18, 6), shares(20, 14, 10)])
    for clean, height in ((16, 40), (19, 22.5)):
        found = trade_off.distance([(shares(20, clean, 10), [one, other])])
        assert found.value == pytest.approx(50 - height) and found.points == 4


def test_a_model_on_its_curve_is_at_distance_zero_in_every_resample():
    curve = np.stack([shares(50, 20, 20), shares(50, 30, 10), shares(50, 40, 5)])
    found = trade_off.distance([(curve[1], [curve])])
    assert (found.value, found.low, found.high) == (0, 0, 0) and found.inside == 1


def test_over_a_curve_on_the_ground_the_interval_is_the_binomial_s():
    """No point is ever robust: what is left is the model's accuracy, 50 +- 1.96 * 2.5."""
    images = 400
    model = np.stack([np.arange(images) < 200, np.arange(images) % 2 == 0])
    curve = np.stack([shares(images, 0, 0), shares(images, images, 0)])
    found = trade_off.distance([(model, [curve])])
    assert found.value == 50
    assert (found.low, found.high) == pytest.approx((45.1, 54.9), abs=0.6)


def brute_force(model, curve, resamples, seed):
    """The bootstrap by a loop over resamples and over segments."""
    random, images = np.random.default_rng(seed), model.shape[-1]
    curve, found = curve[np.argsort(curve[:, 0].mean(-1))], []
    for _ in range(resamples):
        drawn = random.integers(0, images, images)
        x, y = 100 * model[:, drawn].mean(-1)
        points = 100 * curve[:, :, drawn].mean(-1)
        heights = []
        for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
            heights += [y for at, y in ((x0, y0), (x1, y1)) if at >= x]
            if min(x0, x1) < x < max(x0, x1):
                heights.append(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
        if heights and x < points[:, 0].min():
            found.append(min(y - max(heights), 0))  # elsewhere, or beaten
        elif heights:
            found.append(y - max(heights))
    return np.percentile(found, [2.5, 97.5]), len(found) / resamples


@pytest.mark.parametrize("place", [(0.71, 0.6), (0.8, 0.5), (0.88, 0.5)])
def test_the_interval_is_that_of_a_loop_over_resamples(place):
    """Of a model near the curve's left end, in its middle, and near its right end."""
    random = np.random.default_rng(1)
    difficulty = random.uniform(size=300)

    def student(clean, robust):
        noise = random.normal(0, 0.05, (2, 300))
        return difficulty + noise < np.array([[clean], [robust]])

    model, curve = (
        student(*place),
        np.stack([student(*p) for p in ((0.7, 0.5), (0.78, 0.45), (0.9, 0.2))]),
    )
    found = trade_off.distance([(model, [curve])])
    (low, high), inside = brute_force(model, curve, 2000, seed=5)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.8)
    assert found.inside == pytest.approx(inside, abs=0.02)
    trade_off._resampled.cache_clear(), trade_off._weights.cache_clear()
    again = trade_off.distance([(model, [curve])])
    assert again == found  # seeded


def test_distances_of_seeds_are_pooled():
    curve = np.stack([shares(10, 10, 2), shares(10, 6, 4)])
    seeds = [(shares(10, 8, robust), [curve]) for robust in (5, 3)]
    found = trade_off.distance(seeds)
    assert found.value == pytest.approx((20 + 0) / 2) and found.seeds == 2
    outside = trade_off.distance([*seeds, (shares(10, 5, 5), [curve])])
    assert outside.value is None and outside.clean == 50


def test_the_curve_goes_through_its_points_in_the_order_of_clean_accuracy():
    """(60, 50), (80, 20), (100, 10): at 70 it is at 35, however they are named."""
    curve = np.stack([shares(10, 8, 2), shares(10, 10, 1), shares(10, 6, 5)])
    assert trade_off.distance([(shares(10, 7, 5), [curve])]).value == pytest.approx(15)


def test_of_several_seeds_the_one_outside_is_named():
    short = np.stack([shares(10, 7, 4), shares(10, 6, 4), shares(10, 6, 4)])
    long = np.stack([shares(10, 10, 4), shares(10, 5, 4)])
    model = shares(10, 9, 5)
    found = trade_off.distance([(model, [long]), (model, [short])])
    assert found.sentence.startswith("at 90.0 %, outside of the curve's 60.0 to 70.0 %")
    assert found.remark == "90.0 ∉ 60.0 – 70.0"
    seeds = [(shares(10, 6, 5), [long]), (shares(10, 7, 5), [short])]
    inside = trade_off.distance(seeds)
    assert (inside.clean, inside.range, inside.points) == (65, (50, 100), 2)


def test_at_the_end_of_the_curve_there_is_no_interval():
    """The model and the curve's end have as many right, and of two seeds not the same."""
    first = np.arange(100) < 50
    seeds = []
    for mine in (first, ~first):
        curve = np.stack([np.stack([~mine, ~mine]), np.zeros((2, 100), bool)])
        seeds.append((np.stack([mine, mine]), [curve]))
    found = trade_off.distance(seeds)
    assert (found.value, found.low, found.high) == (0, None, None) and found.inside < 0.2
    assert found.sentence.startswith("too near the end of the curve's 0.0 to 50.0 %")
    assert found.remark == "at the curve's end"


def test_the_share_of_resamples_outside_is_said():
    known = {"value": 3.0, "low": 1.0, "high": 5.0, "clean": 80.0, "points": 2}
    some = trade_off.Distance(**known, range=(70.0, 90.0), inside=0.9)
    assert some.remark == "10% outside"
    assert some.sentence.startswith("10% of the resamples were right of the curve's 70.0")
    assert tables.distance_text(some) == "+3.0 [1.0, 5.0] (10% outside)"
    assert trade_off.Distance(**known, range=(70.0, 90.0), inside=0.995).sentence == ""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    workdir = suites.table(
        tmp_path_factory.mktemp("runs"), groups=("TRADES",), seeds=(0, 1)
    )
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    return {row.title: row for row in found.rows}, found


def test_cells_are_the_verdicts_of_the_run_directories(rows):
    by_title, found = rows
    cell = by_title["TRADES+KD"].cells["pgd20"]
    expected = []
    for seed in (0, 1):
        columns = suites.measured("TRADES+KD", 400, 100 * seed + 2)[400]
        expected.append(100 * columns["pgd20"].mean())
        base = suites.measured("TRADES", 400, 100 * seed + 1)[400]["pgd20"]
        p = statistics.mcnemar(columns["pgd20"], base)
        assert cell.p_values[seed] == pytest.approx(p)
    assert list(cell.values.values()) == pytest.approx(expected)
    assert cell.mean == pytest.approx(np.mean(expected))
    assert cell.deviation == pytest.approx(np.std(expected, ddof=1))
    assert cell.paper == 52.8 and cell.difference == pytest.approx(cell.mean - 52.8)
    assert found.comparisons == 4 * 8


def test_the_distance_of_a_row_is_that_to_its_base_row_and_its_points(rows):
    by_title, _ = rows
    row = by_title["TRADES+VFD-Adv"]
    pairs = []
    for seed in (0, 1):
        few = suites.measured("TRADES+VFD-Adv", 400, 100 * seed + 5)[100]
        base = suites.measured("TRADES", 400, 100 * seed + 1)[100]
        points = [base]
        for which in ("last-mixture-0.75", "last-mixture-0.5"):
            points.append(suites._mixtures("TRADES", 400, seed)[which][100])
        both = [np.stack([c["clean"], c["autoattack"]]) for c in (few, *points)]
        pairs.append((both[0], [np.stack(both[1:])]))
    assert row.distances["mixture"] == trade_off.distance(pairs)
    assert row.distances["sweep"].points == 4
    assert by_title["TRADES"].distances == {} == by_title["Vanilla"].distances


def test_gains_of_a_suite_are_those_of_its_means(rows):
    by_title, found = rows
    over, best = gains.gains(found)
    assert (over.against, best.against) == ("base", "best other")
    vfd, base = by_title["TRADES+VFD-Adv"], by_title["TRADES"]
    expected = np.mean([vfd.cells[c].mean - base.cells[c].mean for c in BLACK_BOX])
    assert over.ours["black-box"] == pytest.approx(expected)
    assert over.paper["robust"] == pytest.approx(25.6 / 6) and over.quoted == (4.3, 6.4)
    assert best.paper["clean"] == pytest.approx(4.4) and best.quoted == (3.1, 4.4)


def test_other_test_images_are_never_compared(tmp_path):
    workdir = suites.table(tmp_path, groups=("TRADES",), images=80)
    other = suites.run_directory.RunDirectory(str(tmp_path / "cifar10-resnet8-TRADES-0"))
    other._merge(test_data="of another set")
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    row = next(row for row in found.rows if row.name == "TRADES+KD")
    assert row.cells["pgd20"].p_value is None and row.cells["pgd20"].mean is not None
    assert row.distances["sweep"].points == 3  # without the base row


def test_rows_of_a_sweep_are_held_against_a_curve_that_is_no_row(tmp_path):
    """As lambda is swept, TRADES alone has no row of that value, and its curve counts."""
    workdir = suites.sweep(tmp_path, images=80)
    path = workdir / "suite.json"
    whole = json.loads(path.read_text())
    for entry in whole["entries"]:
        entry["base"] = "TRADES"
    for number, (clean, robust) in enumerate(((95, 30), (60, 55))):
        folder = tmp_path / f"point{number}"
        known = suites.verdicts({"clean": clean, "autoattack": robust}, 80)
        suites.run(folder, {"last": {80: known}})
        point = {"group": "TRADES", "seed": 0, "student": "last", "kind": "sweep"}
        point |= {"label": str(number), "directory": str(folder), "which": "last"}
        whole.setdefault("curves", []).append(point)
    path.write_text(json.dumps(whole))
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    assert [row.distances["sweep"].points for row in found.rows] == [2] * 4


def test_where_all_are_equal_none_is_the_best(tmp_path):
    workdir = suites.sweep(tmp_path, images=40, values=("1", "2"))
    for path in tmp_path.glob("*/run.json"):
        known = {"clean": np.ones(40, bool), "pgd20": np.zeros(40, bool)}
        suites.run(path.parent, {"last": {40: known}})
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    assert not any(row.cells[c].best for row in found.rows for c in ("clean", "pgd20"))


def test_a_difference_is_marked_where_every_seed_has_it():
    better = {"values": {0: 60.0, 1: 58.0}, "images": 100, "bases": {0: 50.0, 1: 57.0}}
    assert summary.Cell(**better, p_values={0: 0.01, 1: 0.04}).against_base == "better"
    assert summary.Cell(**better, p_values={0: 0.01, 1: 0.06}).against_base == ""
    opposed = {"values": {0: 60.0, 1: 50.0}, "images": 100, "bases": {0: 50.0, 1: 59.0}}
    assert summary.Cell(**opposed, p_values={0: 0.001, 1: 0.01}).against_base == ""
    worse = {"values": {0: 40.0}, "images": 100, "bases": {0: 50.0}}
    assert summary.Cell(**worse, p_values={0: 0.01}).against_base == "worse"
    assert summary.Cell(**worse).against_base == ""
