"""The figures of a suite: trade-offs, sweeps, training curves."""

import numpy as np

from vfd_tf.experiments.report import drawing
from vfd_tf.experiments.report.collect import AUTOATTACK, images_of
from vfd_tf.experiments.report.drawing import BAR, CLASSES, COLOURS, DASHES
from vfd_tf.experiments.report.published import CLEAN
from vfd_tf.experiments.report.statistics import interval
from vfd_tf.experiments.report.summary import AVERAGE, LAST, Summary, student_text
from vfd_tf.experiments.report.tables import head

HISTORY = {
    "val_accuracy": "clean",
    "val_pgd10_accuracy": "PGD-10",
    "val_autoattack-quick_accuracy": "APGD-CE, APGD-T",
}
FILLED = {LAST: "full", AVERAGE: "none"}
_ENTRY = 1.9  # inches of an entry of a legend


def draw(summary: Summary) -> dict[str, tuple[str, object]]:
    """Name -> what the figure shows, and the figure, where there is something to show."""
    found, suite = {}, summary.suite
    for column in (AUTOATTACK, "pgd20"):
        if column in suite.columns:
            found[f"trade-off-{column}"] = trade_off(summary, column)
    if suite.kind == "sweep":
        found["sweep"] = sweep(summary)
    found["training"] = training(summary)
    return {name: figure for name, figure in found.items() if figure}


def title(column: str) -> str:
    """A column in words: `black-box PGD`."""
    names = {CLEAN: "clean", AUTOATTACK: "AutoAttack", "pgd20": "PGD-20"}
    return names.get(column) or " ".join(head(column)).strip()


def trade_off(summary: Summary, column: str):
    """Clean against robust accuracy, a point a row, and the curves of the methods alone."""
    rows = [row for row in summary.rows if _place(row, column)]
    names = {row.group: set() for row in rows}
    for row in rows:
        names[row.group].add(row.name)
    # Vanilla alone would set the scale of everything.
    shown = [group for group in names if len(names[group]) > 1] or list(names)
    if not shown:
        return None
    columns = min(len(shown), 2)
    lines = -(-len(shown) // columns)
    with drawing.style():
        figure = drawing.blank(3.9 * columns + 0.4, 3.2 * lines + 0.7)
        plots = figure.subplots(lines, columns, squeeze=False).ravel()
        for plot, group in zip(plots, shown, strict=False):
            _curves(plot, summary, group, column)
            members = [row for row in rows if row.group == group]
            _points(plot, members, column, summary.suite.kind == "sweep")
            plot.set_title(group)
            plot.set_xlabel("clean accuracy (%)")
            plot.set_ylabel(f"{title(column)} accuracy (%)")
            plot.margins(0.1)
        for plot in plots[len(shown) :]:
            plot.set_axis_off()
        _legend(figure, plots[: len(shown)])
    alone = [row.title for row in rows if row.group not in shown]
    left_out = f" Left out for the sake of the scale: {', '.join(alone)}." if alone else ""
    return (
        f"Clean against {title(column)} accuracy, both on the same "
        f"{images_of(summary.suite, column):,} test images; bars are 95 % intervals."
        f"{left_out}",
        figure,
    )


def _place(row, column):
    """Clean and robust percent on the same images, the mean over seeds; None without."""
    pairs = [pair for pair in (_pair(entry, column) for entry in row.entries) if pair]
    return tuple(np.mean(pairs, 0)) if pairs else None


def _bar(percent, images):
    """Lengths of an error bar: down and up."""
    low, high = interval(percent, images)
    return [[percent - low], [high - percent]]


def _has(row, *columns):
    return all(c in row.cells and row.cells[c].mean is not None for c in columns)


def _points(plot, rows, column, joined):
    """The rows of a method; those of a sweep joined in the order of its values."""
    series = {}
    for row in rows:
        series.setdefault((row.name, row.student), []).append(row)
    for (_, student), members in series.items():
        colour = drawing.colour(members[0])
        label = drawing.label(members[0]) + student_text(student)
        places = [_place(row, column) for row in members]
        images = images_of(members[0].entries[0].suite, column)
        for row, (x, y) in zip(members, places, strict=True):
            plot.errorbar(
                *(x, y),
                **{"xerr": _bar(x, images), "yerr": _bar(y, images), "fmt": "o"},
                **{"color": colour, "ecolor": (colour, 0.5)},
                **{"fillstyle": FILLED.get(student, "full")},
                **{"label": label, "zorder": 3, **BAR},
            )
            if joined and row.value is not None:
                _annotate(plot, row.value, x, y, colour)
        if joined and len(members) > 1:
            plot.plot(*zip(*places, strict=True), color=colour, linewidth=1.4)


def _annotate(plot, text, x, y, colour):
    plot.annotate(
        *(text, (x, y), (5, 5)),
        **{"textcoords": "offset points", "fontsize": 7.5, "color": colour},
    )


def _curves(plot, summary, group, column):
    """The curves of the method alone, of last students, by their means over seeds."""
    for kind, dash in (("sweep", "-"), ("mixture", ":")):
        places, wanted = {}, (group, kind, LAST)
        for point in summary.collected.points:
            item = point.item
            if (item.group, item.kind, item.student) == wanted:
                pair = _pair(point, column)
                if pair:
                    places.setdefault(item.label, []).append(pair)
        if not places:
            continue
        for row in summary.rows:
            if row.name == row.group == group and row.student == LAST:
                pairs = [_pair(entry, column) for entry in row.entries]
                places["base"] = [pair for pair in pairs if pair]
        means = sorted(tuple(np.mean(pairs, 0)) for pairs in places.values() if pairs)
        plot.plot(
            *zip(*means, strict=True),
            **{"color": COLOURS["none"], "linestyle": dash, "linewidth": 1.2},
            **{"marker": ".", "markersize": 5, "zorder": 2, "label": f"{kind} curve"},
        )


def _pair(measured, column):
    """Clean and robust percent on the same images, or None."""
    images = images_of(measured.suite, column)
    found = [measured.verdicts(name, images) for name in (CLEAN, column)]
    return None if any(v is None for v in found) else [100 * v.mean() for v in found]


def _legend(figure, plots):
    """One legend below all plots, every label once."""
    known = {}
    for plot in plots:
        for handle, label in zip(*plot.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    beside = max(1, int(figure.get_figwidth() / _ENTRY))
    columns = min(len(known), beside)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns)


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
        figure = made_by(summary.suite, series, robust, places)
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


def _twin(suite, series, robust, places):
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
    _value_axis(left, suite, places)
    _legend(figure, (left, right))
    return figure


def _side_by_side(suite, series, robust, places):
    figure = drawing.blank(8.4, 3.7)
    for plot, column in zip(figure.subplots(1, 2), (CLEAN, robust), strict=True):
        for (name, student), rows in series.items():
            colour, label = drawing.colour(rows[0]), name + student_text(student)
            fmt = "s--" if student == AVERAGE else "o-"
            _line(plot, rows, column, places, colour, fmt, label)
        plot.set_ylabel(f"{title(column)} accuracy (%)")
        _value_axis(plot, suite, places)
    _legend(figure, figure.axes)
    return figure


def _line(plot, rows, column, places, colour, fmt, label):
    rows = sorted((r for r in rows if _has(r, column)), key=lambda row: places[row.value])
    if not rows:
        return
    cells = [row.cells[column] for row in rows]
    errors = np.concatenate([_bar(cell.mean, cell.images) for cell in cells], axis=1)
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
    rows = [row for row in summary.rows if row.student != AVERAGE]
    rows = [row for row in rows if any(_curve(e, "val_accuracy") for e in row.entries)]
    if not rows:
        return None
    groups = list(dict.fromkeys(row.group for row in rows))
    shown = [
        name for name in HISTORY if any(_curve(e, name) for r in rows for e in r.entries)
    ]
    with drawing.style():
        figure = drawing.blank(2.3 * max(len(groups), 2) + 0.6, 2.2 * len(shown) + 0.8)
        plots = figure.subplots(
            len(shown), len(groups), squeeze=False, sharex="col", sharey="row"
        )
        for i, name in enumerate(shown):
            for plot, group in zip(plots[i], groups, strict=True):
                _histories(plot, [row for row in rows if row.group == group], name)
            plots[i, 0].set_ylabel(f"{HISTORY[name]} (%)")
        for plot, group in zip(plots[0], groups, strict=True):
            plot.set_title(group)
        for plot in plots[-1]:
            plot.set_xlabel("epoch")
        _legend(figure, plots.ravel())
    return (
        "Accuracy on the held-out images after every epoch: above clean, below under the "
        "attack of the validation. A line a seed.",
        figure,
    )


def _curve(entry, name):
    """Epochs and percents of a curve of a run's history; None without one."""
    rows = [row for row in entry.run.history if name in row and "epoch" in row]
    return [(row["epoch"], 100 * row[name]) for row in rows] or None


def _histories(plot, rows, name):
    """A colour a distillation, or in a sweep of only one a colour a value."""
    values = list(dict.fromkeys(row.value for row in rows))
    alone = len(values) > 1 and len({row.name for row in rows}) == 1
    for row in rows:
        number = values.index(row.value)
        colour, label = drawing.colour(row), drawing.label(row)
        dash = DASHES[number % len(DASHES)]
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
