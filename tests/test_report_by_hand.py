"""What the report makes of verdicts and rows that are made by hand."""

import dataclasses
import hashlib
import shutil
import types

import numpy as np
import pytest
import suites

from vfd_tf.experiments import mixtures
from vfd_tf.suites.report import (
    collect,
    curve_points,
    drawing,
    figures,
    gains,
    published,
    suite_record,
    summary,
    tables,
    trade_off,
    trade_off_figure,
    words,
)
from vfd_tf.suites.report.suite_record import CurvePoint, Entry, SuiteRecord

COLUMNS = (*published.ROBUST, "clean", "autoattack")
IMAGES = 10


def whole(**fields):
    """A suite of columns on `IMAGES` test images each."""
    plain = {"folder": "", "name": "hand", "title": "By hand", "kind": "table"}
    plain |= {"dataset": "digits", "arch": "net", "threat": "linf:0.1"}
    plain |= {"columns": COLUMNS, "images": dict.fromkeys(COLUMNS, IMAGES)}
    return SuiteRecord(**{**plain, **fields})


def measured(suite, item, **rights):
    """An entry or point of a curve whose columns have so many images right."""
    known = {c: np.arange(IMAGES) < count for c, count in rights.items()}
    run = types.SimpleNamespace(
        **{"verdicts": lambda which, threat, images: known, "path": "", "problem": ""},
        **{"results": {"test_data": "a"}, "record": None, "history": []},
    )
    return collect.Measured(item, run, suite)


def entry(row, seed=0, **fields):
    return Entry(row, row.split("+")[0], seed, "", **fields)


def point(label, student="last", kind="sweep", group="TRADES", row=None):
    return CurvePoint(group, 0, kind, label, "", student, student, row=row)


def row_of(name, percents, base=None, student="last"):
    """A row of cells that have these percents; None where one is missing."""
    values = {c: {} if p is None else {0: p} for c, p in percents.items()}
    cells = {c: summary.Cell(known, IMAGES) for c, known in values.items()}
    first = measured(whole(), entry(name, base=base, student=student))
    group = name.split("+")[0]
    return summary.Row(name, group, student, base, None, (first,), cells, {})


def summed(*rows, **fields):
    return summary.Summary(collect.Collected(whole(**fields), (), (), {}), rows)


# --- gains ------------------------------------------------------------------------------


def level(robust, clean):
    return {**dict.fromkeys(published.ROBUST, robust), "clean": clean, "autoattack": 1.0}


ROWS = (
    row_of("TRADES+KD", level(53, 80), "TRADES"),
    row_of("TRADES", level(50, 82)),
    row_of("TRADES+VFD-Adv", level(54, 86), "TRADES"),
    row_of("HAT", level(40, 70)),
    row_of("HAT+VFD-Adv", level(46, 72), "HAT"),
    row_of("TRADES", level(10, 20), student="average"),
    row_of("TRADES+VFD-Adv", level(17, 21), "TRADES", student="average"),
)


def test_gains_are_over_rows_of_the_same_method_and_student():
    found = gains.gains(summed(*ROWS))
    said = [
        (g.row, g.against, g.ours["robust"], g.ours["clean"], g.ours["white-box"])
        for g in found
    ]
    assert said == [
        ("TRADES+VFD-Adv", "base", 4, 4, 4),
        ("TRADES+VFD-Adv", "best other", 1, 4, 1),  # 54 - 53, and 86 - 82
        ("HAT+VFD-Adv", "base", 6, 2, 6),
        ("HAT+VFD-Adv", "best other", 6, 2, 6),
        ("TRADES+VFD-Adv (averaged)", "base", 7, 1, 7),
        ("TRADES+VFD-Adv (averaged)", "best other", 7, 1, 7),
        ("average of 2 methods", "base", 5, 3, 5),
        ("average of 2 methods", "best other", 3.5, 3, 3.5),
    ]


def test_the_paper_s_gains_are_those_of_its_last_students():
    found = gains.gains(summed(*ROWS, published="table1"))
    by_row = {(g.row, g.against): g for g in found}
    one, averaged = (
        by_row["TRADES+VFD-Adv", "base"],
        by_row["TRADES+VFD-Adv (averaged)", "base"],
    )
    assert one.paper["clean"] == pytest.approx(87.5 - 81.1) and one.quoted == (4.3, 6.4)
    assert averaged.paper["clean"] is None and averaged.quoted is None


def test_a_row_with_vfd_is_no_rival_of_another_one():
    other = row_of("TRADES+Mine", level(99, 99), "TRADES")
    vfd = measured(whole(), entry("TRADES+Mine", base="TRADES", distillation="vfd"))
    other = summary.Row(*("TRADES+Mine", "TRADES", "last", "TRADES", None),
                        (vfd,), other.cells, {})  # fmt: skip
    found = gains.gains(summed(*ROWS[:3], other))
    assert [g.ours["robust"] for g in found[:2]] == [4, 1]


def test_a_gain_is_over_the_columns_there_are_and_an_average_over_all_methods():
    few = [row_of(r.name, {"pgd20": r.cells["pgd20"].mean}, r.base) for r in ROWS[1:5]]
    found = gains.gains(summed(*few, columns=("pgd20",)))
    assert found[-1].row == "average of 2 methods"
    assert found[-1].ours == {"robust": 5, "black-box": None, "white-box": 5, "clean": None}
    missing = row_of("HAT", {"pgd20": None})
    found = gains.gains(summed(*few[:2], missing, few[3], columns=("pgd20",)))
    assert found[0].ours["robust"] == 4 and found[-1].ours["robust"] is None


def test_a_row_without_its_flag_is_of_the_distillation_in_its_name():
    names = {"TRADES+VFD-Adv": "VFD-Adv", "TRADES+KD": "KD", "KD": "none"}
    names |= {"TRADES": "none", "TRADES+mine": "none", "A+KD+mine": "none"}
    for name, expected in names.items():
        assert row_of(name, {}).distillation == expected


# --- rows -------------------------------------------------------------------------------


def summarized(entries, points=(), **fields):
    found = collect.Collected(whole(**fields), tuple(entries), tuple(points), {})
    return summary.summarize(found).rows


def test_a_swept_row_is_compared_with_its_value_s_base_or_the_one_without_a_value():
    suite = whole()
    vfd = [entry("A+KD", base="A", value=value) for value in ("1", "2")]
    rows = summarized(
        [
            measured(suite, entry("A"), clean=5),
            measured(suite, entry("A", value="2"), clean=2),
            *(measured(suite, item, clean=8) for item in vfd),
        ]
    )
    assert [row.cells["clean"].base for row in rows] == [None, None, 50, 20]


def test_the_paper_says_nothing_of_a_swept_row():
    suite = whole()
    items = entry("TRADES"), entry("TRADES", value="1"), entry("TRADES", student="best")
    rows = summarized([measured(suite, i, clean=8) for i in items], published="table1")
    assert [row.cells["clean"].paper for row in rows] == [81.1, None, None]


def test_a_distance_is_to_the_curve_of_the_same_student():
    """Both curves are flat: the last student's at 20, the averaged one's at 40."""
    suite, high = whole(), {"last": 2, "average": 4}
    entries = [
        measured(suite, entry("TRADES+KD", base="TRADES", student=s), clean=8, autoattack=5)
        for s in high
    ]
    points = [
        measured(suite, point(str(clean), s), clean=clean, autoattack=robust)
        for s, robust in high.items()
        for clean in (6, 10)
    ]
    rows = summarized(entries, points)
    assert [row.distances["sweep"].value for row in rows] == [30, 10]


def test_columns_without_a_number_of_images_have_all():
    suite = whole(images={"autoattack": 3, "clean": 7})
    assert [collect.images_of(suite, c) for c in ("autoattack", "fgsm")] == [3, 7]
    assert collect.images_of(whole(images={}), "fgsm") == 1


def test_a_directory_with_nothing_but_a_lock_is_no_problem(tmp_path):
    (tmp_path / "lock.json").write_text("{}")
    assert collect.Run(str(tmp_path), whole()).problem == ""


def test_a_seed_without_its_base_leaves_no_test_and_says_that_it_is_missing(tmp_path):
    workdir = suites.table(tmp_path, 80, seeds=(0, 1), groups=("TRADES",))
    shutil.rmtree(tmp_path / "cifar10-resnet8-TRADES-1")
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    rows = {row.title: row for row in found.rows}
    cell = rows["TRADES+KD"].cells["pgd20"]
    assert cell.values.keys() == {0, 1} and cell.p_values == {}
    states = [
        r["state"]
        for r in tables.long_rows(found)
        if (r["row"], r["column"]) == ("TRADES", "pgd20")
    ]
    assert states == ["done", "missing", "done"]


# --- tables -----------------------------------------------------------------------------


def test_marks_and_signs():
    up, down = row_of("A+KD", {}, "A"), row_of("A+LBGAT", {}, "A")
    for row, percent in ((up, 60.0), (down, 40.0)):
        cell = summary.Cell({0: percent}, IMAGES, p_values={0: 0.01}, bases={0: 50.0})
        row.cells["clean"] = cell
    found = summed(up, down, columns=("clean",))
    assert [tables.mark(r.cells["clean"]) for r in (up, down)] == ["▲", "▼"]
    markdown = tables.markdown(found, [up, down]).splitlines()[2:]
    assert ["60.0▲" in markdown[0], "40.0▼" in markdown[1]] == [True, True]
    latex = tables.latex(found, [up, down])
    assert "60.0$^{+}$" in latex and "40.0$^{-}$" in latex
    assert [tables.signed(v) for v in (-0.04, 0.04, 1.26, -1.26, None)] == [
        *("0.0", "0.0", "+1.3", "-1.3", tables.DASH)
    ]


def test_every_seed_has_its_own_numbers_in_the_long_table():
    suite = whole(images={"clean": 100, "autoattack": 10}, columns=("autoattack",))
    items = [entry("A+KD", seed, base="A") for seed in (0, 1)]
    entries = tuple(measured(suite, item) for item in items)
    cell = summary.Cell(
        {0: 40.0, 1: 60.0}, 10, p_values={0: 0.2, 1: 0.5}, bases={0: 10.0, 1: 10.0}
    )
    far = trade_off.Distance(3.0, 1.0, 5.0, 80.0, (70.0, 90.0), 1.0, 2)
    row = summary.Row("A+KD", "A", "last", "A", None, entries, {"autoattack": cell},
                      {"sweep": far})  # fmt: skip
    collected = collect.Collected(suite, entries, (), {})
    found = tables.long_rows(summary.Summary(collected, (row,)))
    assert [(r["seed"], r["value"]) for r in found] == [
        *((0, 40.0), (1, 60.0), ("mean", 50.0), ("mean", 3.0))
    ]
    assert [r["p_value"] for r in found[:3]] == [0.2, 0.5, 0.5]
    # Wilson's interval of 5 of 10 images.
    assert (found[2]["low"], found[2]["high"]) == pytest.approx((23.66, 76.34), abs=0.01)
    assert [r["images"] for r in found] == [10] * 4


def test_a_finding_names_a_side_where_the_interval_does():
    def said(low, high):
        row = row_of("A+VFD-Adv", level(1, 1), "A")
        far = trade_off.Distance(2.0, low, high, 80.0, (70.0, 90.0), 1.0, 2)
        row = summary.Row(*("A+VFD-Adv", "A", "last", "A", None), row.entries, row.cells,
                          {"sweep": far})  # fmt: skip
        return words.findings(summed(row))[-1]

    assert said(1.0, 3.0).endswith("+2.0 [1.0, 3.0] points, above.")
    assert said(-1.0, 5.0).endswith("+2.0 [-1.0, 5.0] points, no difference to be seen.")


# --- figures ----------------------------------------------------------------------------


def test_the_curve_in_the_figure_is_that_of_the_last_student_and_of_its_kind():
    suite = whole()
    entries = [
        measured(suite, entry("TRADES", student=student), clean=5, autoattack=5)
        for student in ("last", "average")
    ]
    entries.append(
        measured(suite, entry("TRADES+KD", base="TRADES"), clean=7, autoattack=7)
    )
    points = [
        measured(suite, point("1"), clean=9, autoattack=1),
        measured(suite, point("2"), clean=7, autoattack=3),
        measured(suite, point("1", "average"), clean=10, autoattack=10),
        measured(suite, point("1", kind="mixture"), clean=8, autoattack=0),
    ]
    collected = collect.Collected(suite, tuple(entries), tuple(points), {})
    figure = figures.draw(summary.summarize(collected))["trade-off-autoattack"][1]
    curves = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert curves["sweep curve"] == [[50, 50], [70, 30], [90, 10]]
    assert curves["mixture curve"] == [[50, 50], [80, 0]]


def test_where_averaged_students_alone_are_evaluated_the_curve_is_theirs():
    suite = whole()
    rows = ("TRADES", None, 5, 5), ("TRADES+KD", "TRADES", 7, 7)
    entries = [
        measured(suite, entry(name, base=base, student="average"), clean=x, autoattack=y)
        for name, base, x, y in rows
    ]
    points = [measured(suite, point("1", "average"), clean=9, autoattack=1)]
    figure = drawn(entries, points)[1]
    assert lines(figure)["sweep curve"] == [[50, 50], [90, 10]]
    markers = {marker.get_fillstyle() for marker in figure.axes[0].lines}
    assert markers == {"full"}


def lines(figure):
    """Label -> points of the curves of the first plot."""
    found = figure.axes[0].lines
    return {line.get_label(): line.get_xydata().tolist() for line in found}


def drawn(entries, points=(), **fields):
    collected = collect.Collected(whole(**fields), tuple(entries), tuple(points), {})
    return figures.draw(summary.summarize(collected))["trade-off-autoattack"]


def test_every_kind_of_mixture_is_a_curve_from_the_row_it_is_made_of():
    suite = whole()
    entries = [
        measured(suite, entry("TRADES"), clean=5, autoattack=5),
        measured(suite, entry("TRADES+KD", base="TRADES"), clean=7, autoattack=7),
    ]
    points = [
        measured(suite, point("0.9", kind=kind), clean=clean, autoattack=4)
        for clean, kind in ((6, "mixture"), (7, "weights"), (8, "nuts"))
    ]
    curves = lines(drawn(entries, points)[1])
    assert curves["mixture curve"] == [[50, 50], [60, 40]]
    assert curves["interpolation curve"] == [[50, 50], [70, 40]]
    assert curves["MixedNUTS curve"] == [[50, 50], [80, 40]]


def test_every_kind_of_curve_is_named_and_drawn_in_its_own_way():
    assert set(summary.CURVES) == {"sweep", *mixtures.KINDS}
    styles = trade_off_figure.STYLES
    assert styles.keys() == summary.CURVES.keys() and len({*styles.values()}) == 4


def test_mixtures_of_another_row_are_a_curve_of_its_own_and_in_no_distance():
    """TRADES's curve is flat at 20; the other row's mixtures are far above it."""
    suite = whole()
    entries = [
        measured(suite, entry("TRADES"), clean=6, autoattack=2),
        measured(suite, entry("TRADES+KD", base="TRADES"), clean=8, autoattack=5),
    ]
    points = [
        measured(suite, point("0.8", kind="mixture"), clean=10, autoattack=2),
        measured(
            suite, point("0.8", kind="mixture", row="TRADES+KD"), clean=9, autoattack=9
        ),
        measured(suite, point("0.8", kind="mixture", row="TRADES"), clean=9, autoattack=2),
    ]
    curves = lines(drawn(entries, points)[1])
    assert curves["mixture of TRADES+KD"] == [[80, 50], [90, 90]]
    assert curves["mixture curve"][0] == [60, 20]
    assert summarized(entries, points)[1].distances["mixture"].value == 30


def test_the_points_of_curves_are_a_table_with_their_intervals():
    """5 of 10 images are 23.66 to 76.34 % by Wilson's interval."""
    suite = whole(images={"clean": 10, "autoattack": 10})
    points = [
        measured(suite, point("1"), clean=8, autoattack=5),
        measured(
            suite, point("0.8", kind="mixture", row="TRADES+KD"), clean=9, autoattack=5
        ),
        measured(suite, point("0.985", "average", "nuts"), clean=5, autoattack=5),
        measured(suite, point("2")),
        measured(suite, point("1", kind="of a later version"), clean=5, autoattack=5),
    ]
    found = summary.Summary(collect.Collected(suite, (), tuple(points), {}), ())
    heads, body = curve_points.rows(found)
    assert heads == ["curve", "point", "of", "clean (%)", "AutoAttack (%)"]
    half = "50.0 [23.7, 76.3]"
    assert [row[:3] + row[4:] for row in body] == [
        ["sweep", "1", "TRADES", half],
        ["mixture", "0.8", "TRADES+KD", half],
        ["MixedNUTS", "0.985", "TRADES (averaged)", half],
        ["sweep", "2", "TRADES", "waiting"],
    ]
    numbers = curve_points.long_rows(found)[1]
    assert (numbers["curve"], numbers["column"]) == ("sweep", "autoattack")
    assert (numbers["low"], numbers["high"]) == pytest.approx((23.66, 76.34), abs=0.01)


def test_points_of_several_seeds_are_one_row_and_two_of_numbers():
    suite = whole()
    seeds = [CurvePoint("A", seed, "sweep", "1", "", "last") for seed in (0, 1)]
    points = [
        measured(suite, item, clean=5, autoattack=count)
        for item, count in zip(seeds, (4, 6), strict=True)
    ]
    found = summary.Summary(collect.Collected(suite, (), tuple(points), {}), ())
    (row,) = curve_points.rows(found)[1]
    assert row[-1].startswith("50.0 ± 14.1 [")
    values = [r["value"] for r in curve_points.long_rows(found) if r["column"] != "clean"]
    assert values == [40, 60]


def test_clean_accuracies_of_points_are_on_the_images_of_the_robust_ones(tmp_path):
    """In this suite AutoAttack takes a quarter of the images."""
    workdir = suites.table(tmp_path, 80, groups=("TRADES",))
    found = summary.summarize(collect.collect(suite_record.read(str(workdir))))
    counts = {r["column"]: r["images"] for r in curve_points.long_rows(found)}
    assert counts == {"clean": 20, "autoattack": 20}
    assert len(curve_points.points(found)) == 5


def test_a_point_of_a_curve_that_is_far_below_all_rows_doesn_t_set_the_scale():
    """As of networks whose weights have nothing between them; the others stand."""
    suite = whole()
    entries = [
        measured(suite, entry("TRADES"), clean=8, autoattack=5),
        measured(suite, entry("TRADES+KD", base="TRADES"), clean=9, autoattack=4),
    ]
    kinds = ("weights", 1, 0), ("weights", 7, 3), ("nuts", 2, 1), ("mixture", 10, 0)
    points = [
        measured(suite, point(f"0.{c}", kind=kind), clean=c, autoattack=r)
        for kind, c, r in kinds
    ]
    caption, figure = drawn(entries, points)
    curves = lines(figure)
    assert curves["interpolation curve"] == [[70, 30], [80, 50]]
    assert curves["mixture curve"] == [[80, 50], [100, 0]]
    assert "MixedNUTS curve" not in curves
    assert "scale: interpolation 0.1 of TRADES, MixedNUTS 0.2 of TRADES." in caption


# --- one reference for all rows ---------------------------------------------------------


def against_trades(names, rights, points=()):
    """Rows that are compared with TRADES, whatever their names; its sweep is flat at 50."""
    suite = whole(against="TRADES")
    entries = [
        measured(suite, Entry(name, "TRADES", 0, "", base), clean=c, autoattack=r)
        for name, (c, r) in zip(names, rights, strict=True)
        for base in [None if name == "TRADES" else "TRADES"]
    ]
    points = [measured(suite, point("1"), clean=9, autoattack=5), *points]
    return entries, points


NAMES = "Vanilla", "TRADES", "PGD-AT", "HAT", "GAT"
RIGHTS = (10, 0), (5, 5), (6, 8), (8, 2), (4, 5)


def test_all_rows_are_compared_with_the_reference_whatever_their_names():
    rows = summarized(*against_trades(NAMES, RIGHTS), against="TRADES")
    assert [row.cells["clean"].base for row in rows] == [50, None, 50, 50, 50]
    values = {row.name: row.distances["sweep"].value for row in rows if row.distances}
    assert values == {"Vanilla": None, "PGD-AT": 30, "HAT": -30, "GAT": 0}


def test_a_distance_says_what_of_it_is_missing():
    """The curve has three points with the row itself, and two of them in seed 1."""
    suite = whole(against="TRADES")
    entries, points = [], []
    for seed in (0, 1):
        for name, base in (("TRADES", None), ("HAT", "TRADES")):
            item = Entry(name, "TRADES", seed, "", base)
            entries.append(measured(suite, item, clean=6, autoattack=4))
        for label in ("1", "2"):
            item = CurvePoint("TRADES", seed, "sweep", label, "", "last")
            known = {"clean": 8, "autoattack": 2} if (seed, label) != (1, "2") else {}
            points.append(measured(suite, item, **known))
    assert summarized(entries, points)[1].distances["sweep"].missing == "2 of 3 points"
    whole_seed = [p for p in points if p.item.seed == 0]
    (found,) = summarized(entries, whole_seed)[1].distances.values()
    assert found.missing == "1 of 2 seeds"
    assert tables.distance_text(found).endswith("(1 of 2 seeds)")


def test_mixtures_in_a_sweep_are_a_curve_for_every_value():
    """Of beta 1 (90, 0) and (80, 20), of beta 6 (80, 40) and (60, 60): at 80 it is 40, and
    at 90 the first one's 0; a line through all four would have 30 at 85.
    """
    suite = whole(kind="sweep", sweep="trades_beta")
    places = {"1": ((8, 2), (9, 0)), "6": ((6, 6), (8, 4))}
    entries, points = [], []
    for value, ((clean, robust), (x, y)) in places.items():
        own = {"value": value}
        known = {"clean": clean, "autoattack": robust}
        entries.append(measured(suite, entry("TRADES", **own), **known))
        item = CurvePoint(*("TRADES", 0, "mixture", "0.8", "", "last"), **own)
        points.append(measured(suite, item, clean=x, autoattack=y))
        rival = entry("TRADES+KD", base="TRADES", **own)
        entries.append(measured(suite, rival, clean=9 if value == "1" else 8, autoattack=5))
    rows = {row.title: row for row in summarized(entries, points)}
    found = [
        rows[f"TRADES+KD, trades_beta={value}"].distances["mixture"].value
        for value in places
    ]
    assert found == [50 - 0, 50 - 40]
    curves = [
        line.get_xydata().tolist()
        for line in drawn(entries, points)[1].axes[0].lines
        if line.get_label() == "mixture curve"
    ]
    assert curves == [[[80, 20], [90, 0]], [[60, 60], [80, 40]]]


def test_a_mixture_that_no_numbers_fit_is_left_out_with_the_reason():
    suite = whole()
    item = CurvePoint("TRADES", 0, "nuts", "0.99", "", "last-nuts-0.99", node="run")
    one = measured(suite, item)
    one.run.results["fits"] = {"last-nuts-0.99": {"linf:0.1": {"reason": "No numbers."}}}
    nodes = {"run": suite_record.Node("run", "", status="done")}
    one = collect.Measured(item, one.run, whole(nodes=nodes))
    assert (one.state, one.reason) == ("left out", "No numbers.")
    found = summary.Summary(collect.Collected(suite, (), (one,), {}), ())
    assert curve_points.rows(found)[1][0][-1] == "left out"
    assert curve_points.sentences(found) == ["MixedNUTS 0.99 of TRADES: No numbers."]


def test_mixtures_with_another_vanilla_network_are_left_out_with_the_reason(tmp_path):
    """Two suites in one folder may name different teachers for one run."""
    weights = tmp_path / "best.keras"
    weights.write_bytes(b"weights")
    mine = hashlib.sha256(b"weights").hexdigest()
    item = CurvePoint("A", 0, "mixture", "0.8", "", "last-mixture-0.8", node="run")
    item = dataclasses.replace(item, vanilla=str(tmp_path))
    suite = whole(nodes={"run": suite_record.Node("run", "", status="done")})
    for known, left_out in ((mine, False), ("another", True), (None, False)):
        point = measured(suite, item, clean=8, autoattack=4)
        directory = types.SimpleNamespace(results={"vanilla": known})
        point.run.record = types.SimpleNamespace(directory=directory)
        assert (point.verdicts("clean") is None) == left_out
        assert (point.reason != "") == left_out
    weights.unlink()  # as of runs that are published without weights
    point.run.record.directory.results["vanilla"] = "another"
    assert collect.Measured(item, point.run, suite).reason == ""


def test_mixed_nuts_are_drawn_under_autoattack_alone():
    suite = whole()
    entries = [measured(suite, entry("TRADES"), clean=8, autoattack=5, pgd20=6)]
    points = [
        measured(suite, point("0.9", kind=kind), clean=9, autoattack=4, pgd20=5)
        for kind in ("nuts", "mixture")
    ]
    found = figures.draw(
        summary.summarize(collect.Collected(suite, tuple(entries), tuple(points), {}))
    )
    named = {name: set(lines(figure)) for name, (_, figure) in found.items()}
    assert {"MixedNUTS curve", "mixture curve"} <= named["trade-off-autoattack"]
    assert "mixture curve" in named["trade-off-pgd20"]
    assert "MixedNUTS curve" not in named["trade-off-pgd20"]


def test_training_is_drawn_under_whatever_attack_was_watched():
    one = measured(whole(), entry("TRADES"), clean=5)
    watched = "val_accuracy", "val_pgd20_accuracy", "val_autoattack-quick_accuracy"
    one.run.history[:] = [
        {"epoch": e, "val_average_pgd20_accuracy": 1.0, "loss": 1.0}
        | dict.fromkeys(watched, 0.5)
        for e in (1, 2, 3)
    ]
    found = summary.summarize(collect.Collected(whole(), (one,), (), {}))
    plots = figures.draw(found)["training"][1].axes
    said = [plot.get_ylabel() for plot in plots if plot.get_ylabel()]
    assert said == ["clean (%)", "APGD-CE, APGD-T (%)", "PGD-20 (%)"]


def test_with_a_reference_every_row_is_a_point_of_its_own_in_one_plot():
    caption, figure = drawn(*against_trades(NAMES, RIGHTS), against="TRADES")
    assert len(figure.axes) == 1
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert sorted(labels) == sorted(["sweep curve", "TRADES", "PGD-AT", "HAT", "GAT"])
    assert "scale: Vanilla." in caption  # not robust at all


def test_twenty_rows_and_more_look_unlike_each_other_and_unlike_the_reference():
    rows = [row_of(f"row {i}", {}) for i in range(30)] + [row_of("TRADES", {})]
    looks = drawing.looks(rows, "TRADES")
    assert {name: look.label for name, look in looks.items()} == {n: n for n in looks}
    assert len({(look.colour, look.marker) for look in looks.values()}) == 31
    assert len({(look.colour, look.dash) for look in looks.values()}) == 31
    grey = [n for n, look in looks.items() if look.colour == drawing.COLOURS["none"]]
    assert grey == ["TRADES"]


def test_with_a_reference_there_are_no_gains_over_the_method_alone():
    assert gains.gains(summed(*ROWS)) and not gains.gains(summed(*ROWS, against="TRADES"))


def test_with_a_reference_the_sentences_sort_all_rows_by_their_side():
    suite, far = whole(against="TRADES", columns=("autoattack",)), trade_off.Distance
    rows = []
    for name, low, high in (("A", 1.0, 3.0), ("B", -3.0, -1.0), ("C", -1.0, 3.0)):
        cell = summary.Cell(
            {0: 60.0}, 10, p_values={0: 0.01 if low > 0 else 0.9}, bases={0: 50.0}
        )
        value = (low + high) / 2
        distance = far(value, low, high, 80.0, (70.0, 90.0), 1.0, 2)
        first = measured(suite, entry(name, base="TRADES"))
        rows.append(summary.Row(name, "TRADES", "last", "TRADES", None, (first,),
                                {"autoattack": cell}, {"nuts": distance}))  # fmt: skip
    assert words.findings(summed(*rows, against="TRADES", columns=("autoattack",))) == [
        "More than by chance, AutoAttack accuracy against TRADES: higher: A.",
        "AutoAttack at the same clean accuracy, against MixedNUTS of TRADES and vanilla: "
        "above: A +2.0 [1.0, 3.0]; no difference to be seen: C +1.0 [-1.0, 3.0]; "
        "below: B -2.0 [-3.0, -1.0].",
    ]


def test_bars_are_wilson_s_interval_around_their_point():
    """All of 10 right: from 10 / (10 + 1.96^2) to 1; none of 10 the other way round."""
    suite = whole()
    one = measured(suite, entry("A"), clean=10, autoattack=0)
    collected = collect.Collected(suite, (one,), (), {})
    figure = figures.draw(summary.summarize(collected))["trade-off-autoattack"][1]
    (container,) = figure.axes[0].containers
    across, along = (bars.get_segments()[0] for bars in container.lines[2])
    np.testing.assert_allclose(across, [[72.25, 0], [100, 0]], atol=0.01)
    np.testing.assert_allclose(along, [[100, 0], [100, 27.75]], atol=0.01)
