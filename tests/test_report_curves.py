"""Trade-off curves of rows and points that are made by hand: numbers and figures."""

import dataclasses
import hashlib
import types

import numpy as np
import pytest
import suites
from by_hand import (
    drawn,
    entry,
    lines,
    measured,
    point,
    summarized,
    summed,
    whole,
)

from vfd_tf.experiments import mixtures
from vfd_tf.suites.report import (
    collect,
    curve_points,
    figures,
    suite_record,
    summary,
    tables,
    words,
)
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.suite_record import CurvePoint, Entry


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
    """And that they are averaged is said once, not behind every name."""
    rows = ("TRADES", None, 5, 5), ("TRADES+KD", "TRADES", 7, 7)
    items = [entry(name, base=base, student="average") for name, base, *_ in rows]
    suite = whole(entries=tuple(items))
    entries = [
        measured(suite, item, clean=x, autoattack=y)
        for item, (_, _, x, y) in zip(items, rows, strict=True)
    ]
    (one, *_), known = summarized(entries), summed(entries=tuple(items))
    assert one.title == "TRADES" and ("students", "averaged") in words.facts(known)
    points = [measured(suite, point("1", "average"), clean=9, autoattack=1)]
    figure = drawn(entries, points)[1]
    assert lines(figure)["sweep curve"] == [[50, 50], [90, 10]]
    markers = {marker.get_fillstyle() for marker in figure.axes[0].lines}
    assert markers == {"full"}


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
    assert set(CURVE_KINDS) == {"sweep", *mixtures.KINDS}
    for part in ("title", "phrase", "way", "line"):
        assert len({getattr(kind, part) for kind in CURVE_KINDS.values()}) == 4


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
    """Of beta 1 from (70, 30) to (90, 10), of beta 6 from (60, 60) to (70, 50): at 80 there
    is 20 of beta 1. A line through all four would have 30 there.
    """
    suite = whole(kind="sweep", sweep="trades_beta")
    places = {"1": ((7, 3), (9, 1)), "6": ((6, 6), (7, 5))}
    entries, points = [], []
    for value, ((clean, robust), (x, y)) in places.items():
        known = {"clean": clean, "autoattack": robust}
        entries.append(measured(suite, entry("TRADES", value=value), **known))
        item = CurvePoint(*("TRADES", 0, "mixture", "0.8", "", "last"), value=value)
        points.append(measured(suite, item, clean=x, autoattack=y))
        rival = entry("TRADES+KD", base="TRADES", value=value)
        entries.append(measured(suite, rival, clean=8, autoattack=5))
    rows = {row.title: row for row in summarized(entries, points)}
    found = [rows[f"TRADES+KD, trades_beta={v}"].distances["mixture"] for v in places]
    assert [each.value for each in found] == [50 - 20, 50 - 20]
    curves = [
        line.get_xydata().tolist()
        for line in drawn(entries, points)[1].axes[0].lines
        if line.get_label() == "mixture curve"
    ]
    assert curves == [[[70, 30], [90, 10]], [[60, 60], [70, 50]]]


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
