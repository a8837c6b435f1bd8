"""The figures of a suite: trade-offs, sweeps, training curves."""

import re

import numpy as np

from vfd_tf.suites.report import drawing, trade_off_figure
from vfd_tf.suites.report.collect import AUTOATTACK
from vfd_tf.suites.report.drawing import BAR, CLASSES, COLOURS, DASHES
from vfd_tf.suites.report.published import CLEAN
from vfd_tf.suites.report.summary import AVERAGE, Summary, student_text
from vfd_tf.suites.report.tables import title

_WATCHED = re.compile(r"val_(?!average_)(?:(.+)_)?accuracy")  # curves of a run's history


def draw(summary: Summary) -> dict[str, tuple[str, object]]:
    """Name -> what the figure shows, and the figure, where there is something to show."""
    found, suite = {}, summary.suite
    for column in (AUTOATTACK, "pgd20"):
        if column in suite.columns:
            found[f"trade-off-{column}"] = trade_off_figure.draw(summary, column)
    if suite.kind == "sweep":
        found["sweep"] = sweep(summary)
    found["training"] = training(summary)
    return {name: figure for name, figure in found.items() if figure}


def _has(row, *columns):
    return all(c in row.cells and row.cells[c].mean is not None for c in columns)


def sweep(summary: Summary):
    """Clean and robust accuracy against the swept value, as the paper's Fig. 4."""
    robust = next((c for c in (AUTOATTACK, "pgd20") if c in summary.suite.columns), None)
    rows = [row for row in summary.rows if row.value is not None and _has(row, CLEAN)]
    series = {}
    for row in rows:
        series.setdefault((row.name, row.student), []).append(row)
    if not series or robust is None:
        return None
    values = list(dict.fromkeys(row.value for row in rows))
    places = _places(values)
    made_by = _twin if len(series) == 1 else _side_by_side
    with drawing.style():
        figure = made_by(summary, series, robust, places)
    flag = summary.suite.sweep or "the swept value"
    return (
        f"Clean and {title(robust)} accuracy against {flag}; bars are 95 % intervals over "
        "the test images.",
        figure,
    )


def _places(values):
    """Value -> place on the axis: the number, or of names their order."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(i) for i, value in enumerate(values)}


def _twin(summary, series, robust, places):
    """One series: two axes, clean on the left and robust on the right."""
    figure = drawing.blank(5.6, 3.7)
    left = figure.subplots()
    right = left.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    (rows,) = series.values()
    styles = ((left, CLEAN, CLASSES[0], "o-"), (right, robust, COLOURS["VFD-Adv"], "s--"))
    for plot, column, colour, fmt in styles:
        _line(plot, rows, column, places, colour, fmt, title(column))
        plot.set_ylabel(f"{title(column)} accuracy (%)", color=colour)
        plot.tick_params(axis="y", colors=colour)
        plot.margins(0.08, 0.12)
    _value_axis(left, summary.suite, places)
    drawing.legend(figure, (left, right))
    return figure


def _side_by_side(summary, series, robust, places):
    figure = drawing.blank(8.4, 3.7)
    looks = drawing.looks(summary.rows, summary.suite.against)
    for plot, column in zip(figure.subplots(1, 2), (CLEAN, robust), strict=True):
        for (name, student), rows in series.items():
            look, label = looks[name], name + student_text(student, summary.suite)
            fmt = "s--" if student == AVERAGE else f"{look.marker}-"
            _line(plot, rows, column, places, look.colour, fmt, label)
        plot.set_ylabel(f"{title(column)} accuracy (%)")
        _value_axis(plot, summary.suite, places)
    drawing.legend(figure, figure.axes)
    return figure


def _line(plot, rows, column, places, colour, fmt, label):
    rows = sorted((r for r in rows if _has(r, column)), key=lambda row: places[row.value])
    if not rows:
        return
    cells = [row.cells[column] for row in rows]
    errors = np.concatenate([drawing.bar(cell.mean, cell.images) for cell in cells], axis=1)
    plot.errorbar(
        [places[row.value] for row in rows],
        [cell.mean for cell in cells],
        **{"yerr": errors, "fmt": fmt, "color": colour, "label": label, **BAR},
    )


def _value_axis(plot, suite, places):
    plot.set_xlabel(suite.sweep or "value")
    if len(places) <= 12:
        plot.set_xticks(list(places.values()), list(places))


def training(summary: Summary):
    """Validation accuracy of every epoch, clean and robust, a column of plots a method."""
    rows = [row for row in summary.rows if row.student == summary.student]
    rows = [row for row in rows if any(_curve(e, "val_accuracy") for e in row.entries)]
    if not rows:
        return None
    groups, against = list(dict.fromkeys(row.group for row in rows)), summary.suite.against
    looks = drawing.looks(summary.rows, against)
    shown = _watched(rows)
    with drawing.style():
        width = 8.2 if against else 2.3 * max(len(groups), 2) + 0.6
        figure = drawing.blank(width, 2.2 * len(shown) + 0.8)
        plots = figure.subplots(
            len(shown), len(groups), squeeze=False, sharex="col", sharey="row"
        )
        for i, (name, said) in enumerate(shown.items()):
            for plot, group in zip(plots[i], groups, strict=True):
                _histories(plot, [row for row in rows if row.group == group], name, looks)
            plots[i, 0].set_ylabel(f"{said} (%)")
        for plot, group in zip(plots[0], groups, strict=True):
            plot.set_title("" if against else group)
        for plot in plots[-1]:
            plot.set_xlabel("epoch")
        drawing.legend(figure, plots.ravel(), aside=bool(against))
    return (
        "Accuracy on the held-out images after every epoch: above clean, below under the "
        "attack of the validation. One line per seed.",
        figure,
    )


def _watched(rows):
    """Curve of the histories -> what it is, in words: clean first, then every attack."""
    names = {
        name for r in rows for e in r.entries for line in e.run.history for name in line
    }
    found = {name: _WATCHED.fullmatch(name) for name in sorted(names)}
    attacks = {name: match[1] for name, match in found.items() if match}
    said = {None: "clean", "autoattack-quick": "APGD-CE, APGD-T"}
    return {
        name: said.get(attack) or re.sub(r"^pgd(\d+)$", r"PGD-\1", attack)
        for name, attack in sorted(attacks.items(), key=lambda pair: pair[1] or "")
    }


def _curve(entry, name):
    """Epochs and percents of a curve of a run's history; None without one."""
    rows = [row for row in entry.run.history if name in row and "epoch" in row]
    return [(row["epoch"], 100 * row[name]) for row in rows] or None


def _histories(plot, rows, name, looks):
    """The colours of the rows, or in a sweep of only one a colour a value."""
    values = list(dict.fromkeys(row.value for row in rows))
    alone = len(values) > 1 and len({row.name for row in rows}) == 1
    for row in rows:
        number = values.index(row.value)
        colour, label = looks[row.name].colour, looks[row.name].label
        dash = DASHES[number % len(DASHES)] if number else looks[row.name].dash
        if alone:
            colour, label = CLASSES[number % len(CLASSES)], str(row.value)
        for entry in row.entries:
            points = _curve(entry, name)
            if points:
                plot.plot(
                    *zip(*points, strict=True),
                    **{"color": colour, "label": label, "linewidth": 1.2},
                    linestyle="-" if alone else dash,
                    marker="." if len(points) < 3 else "",
                )
