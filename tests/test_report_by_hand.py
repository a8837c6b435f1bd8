"""What the report makes of verdicts and rows that are made by hand."""

import shutil

import pytest
import suites
from by_hand import (
    IMAGES,
    ROWS,
    drawn,
    entry,
    level,
    measured,
    point,
    row_of,
    summarized,
    summed,
    whole,
)

from vfd_tf.suites.report import (
    collect,
    drawing,
    gains,
    suite_record,
    summary,
    tables,
    trade_off,
    words,
)
from vfd_tf.suites.report.suite_record import Entry


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


def test_the_table_of_gains_has_the_columns_that_have_a_number():
    """Of a suite without black-box columns, and without a table of the paper beside it."""
    white = {"pgd20": 50.0, "clean": 80.0}
    rows = row_of("TRADES", white), row_of("TRADES+VFD-Adv", white, "TRADES")
    found = gains.gains(summed(*rows, columns=("pgd20", "clean")))
    heads, (first, *_) = tables.gains_rows(found)
    assert heads == ["gain (points)", "against", "robust", "white-box", "clean"]
    assert first == ["TRADES+VFD-Adv", "the method alone", "0.0", "0.0", "0.0"]
    whole_table = summed(*ROWS, published="table1")
    heads, (first, *_) = tables.gains_rows(gains.gains(whole_table))
    assert "black-box" in heads and heads[-1].startswith("quoted in 5.2")
    assert first[-1] == "+4.3, +6.4" and first[5] == "+4.0 (+6.4)"


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
    assert said(-1.0, 5.0).endswith("+2.0 [-1.0, 5.0] points, the interval includes zero.")


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
        "AutoAttack accuracy against TRADES's, beyond chance in every seed: higher: A.",
        "AutoAttack at the same clean accuracy, against MixedNUTS of TRADES and vanilla: "
        "above: A +2.0 [1.0, 3.0]; below: B -2.0 [-3.0, -1.0]; the interval includes "
        "zero: 1 row.",
    ]
