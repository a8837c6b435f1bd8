"""Verdicts, rows and suites made by hand, for tests of the report."""

import types

import numpy as np

from vfd_tf.suites.report import (
    collect,
    figures,
    published,
    summary,
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


def summarized(entries, points=(), **fields):
    found = collect.Collected(whole(**fields), tuple(entries), tuple(points), {})
    return summary.summarize(found).rows


def lines(figure):
    """Label -> points of the curves of the first plot."""
    found = figure.axes[0].lines
    return {line.get_label(): line.get_xydata().tolist() for line in found}


def drawn(entries, points=(), **fields):
    collected = collect.Collected(whole(**fields), tuple(entries), tuple(points), {})
    return figures.draw(summary.summarize(collected))["trade-off-autoattack"]
