"""The figure of trade-offs, clean against robust accuracy: rows as points, and curves."""

import dataclasses

import numpy as np

from vfd_tf.suites.report import drawing
from vfd_tf.suites.report.collect import AUTOATTACK, images_of
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS, needs_autoattack
from vfd_tf.suites.report.drawing import BAR, COLOURS, LINES, Look
from vfd_tf.suites.report.published import CLEAN
from vfd_tf.suites.report.summary import Row, Summary, student_text
from vfd_tf.suites.report.tables import title

_FAR = 0.1  # share of the highest robust accuracy, below which a row is left out
_LOW = 0.8  # share of the lowest clean accuracy, below which a point of a curve may be


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve as it is drawn: percents in the order of clean accuracy.

    Attributes:
        far: Names of the points that are left out.
    """

    kind: str
    label: str
    colour: str
    places: list[tuple[float, float]]
    far: list[str]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: its title, its rows, its curves."""

    title: str
    rows: list[Row]
    curves: list[Curve]


def draw(summary: Summary, column: str) -> tuple[str, object] | None:
    """What the figure shows, and the figure: a panel a method, or one where all rows are
    compared with one; None where nothing is known.
    """
    rows, suite = [row for row in summary.rows if _place(row, column)], summary.suite
    looks = drawing.looks(summary.rows, suite.against)
    panels = (_one if suite.against else _panels)(summary, rows, column, looks)
    if not panels:
        return None
    with drawing.style():
        figure, plots = _blank(panels, bool(suite.against))
        for plot, panel in zip(plots, panels, strict=False):
            _curves(plot, [curve for curve in panel.curves if curve.places])
            _points(plot, panel.rows, column, looks, summary)
            plot.set_title(panel.title)
            plot.set_xlabel("clean accuracy (%)")
            plot.set_ylabel(f"{title(column)} accuracy (%)")
            plot.margins(0.1)
        for plot in plots[len(panels) :]:
            plot.set_axis_off()
        drawing.legend(figure, plots[: len(panels)], aside=bool(suite.against))
    return _caption(suite, panels, rows, column), figure


def _caption(suite, panels, rows, column):
    shown = {row.title for panel in panels for row in panel.rows}
    alone = [row.title for row in rows if row.title not in shown]
    alone += [name for panel in panels for curve in panel.curves for name in curve.far]
    left_out = f" Left out for the sake of the scale: {', '.join(alone)}." if alone else ""
    of = f" Curves without a name are those of {suite.against}." if suite.against else ""
    return (
        f"Clean against {title(column)} accuracy, both on the same "
        f"{images_of(suite, column):,} test images; bars are 95 % intervals.{of}{left_out}"
    )


def _panels(summary, rows, column, looks):
    """A panel a method, without those of one row: vanilla would set the scale of all."""
    groups, names = {}, {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
        names.setdefault(row.group, set()).add(row.name)
    shown = [group for group in groups if len(names[group]) > 1] or list(groups)
    return [
        Panel(group, members, _curves_of(summary, group, members, column, looks))
        for group, members in groups.items()
        if group in shown
    ]


def _one(summary, rows, column, looks):
    """One panel of all rows, without those that are hardly robust."""
    robust = {row.title: _place(row, column)[1] for row in rows}
    least = _FAR * max(robust.values(), default=0)
    near = [row for row in rows if robust[row.title] >= least]
    if not near:
        return []
    return [
        Panel("", near, _curves_of(summary, summary.suite.against, near, column, looks))
    ]


def _blank(panels, aside):
    """An empty figure with a plot for every panel, and the plots."""
    if aside:
        entries = len(panels[0].rows) + len(panels[0].curves)
        columns = -(-entries // LINES)
        height = max(4.2, 0.19 * min(entries, LINES) + 0.7)
        figure = drawing.blank(5.4 + 2.1 * columns, height)
        return figure, [figure.subplots()]
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = drawing.blank(3.9 * columns + 0.4, 3.2 * lines + 0.7)
    return figure, figure.subplots(lines, columns, squeeze=False).ravel()


def _place(row, column):
    """Clean and robust percent on the same images, the mean over seeds; None without."""
    pairs = [pair for pair in (_pair(entry, column) for entry in row.entries) if pair]
    return tuple(np.mean(pairs, 0)) if pairs else None


def _pair(measured, column):
    """Clean and robust percent on the same images, or None."""
    images = images_of(measured.suite, column)
    found = [measured.verdicts(name, images) for name in (CLEAN, column)]
    return None if any(v is None for v in found) else [100 * v.mean() for v in found]


def _points(plot, rows, column, looks, summary):
    """The rows of a panel; those of a sweep joined in the order of its values."""
    suite, series = summary.suite, {}
    joined, faint = suite.kind == "sweep", 0.3 if suite.against else 0.5
    for row in rows:
        series.setdefault((row.name, row.student), []).append(row)
    for (name, student), members in series.items():
        look, style = looks[name], "full" if student == summary.student else "none"
        places = [_place(row, column) for row in members]
        images = images_of(suite, column)
        for row, (x, y) in zip(members, places, strict=True):
            bars = {"xerr": drawing.bar(x, images), "yerr": drawing.bar(y, images)}
            plot.errorbar(
                *(x, y),
                **{**bars, "fmt": look.marker, "fillstyle": style},
                **{"color": look.colour, "ecolor": (look.colour, faint)},
                **{"label": look.label + student_text(student, suite), "zorder": 3, **BAR},
            )
            if joined and row.value is not None:
                _annotate(plot, row.value, x, y, look.colour)
        if joined and len(members) > 1:
            plot.plot(*zip(*places, strict=True), color=look.colour, linewidth=1.4)


def _annotate(plot, text, x, y, colour):
    plot.annotate(
        *(text, (x, y), (5, 5)),
        **{"textcoords": "offset points", "fontsize": 7.5, "color": colour},
    )


def _curves_of(summary, group, rows, column, looks):
    """The curves of a group, of one student, by their means over seeds; first its own.

    Mixtures in a sweep are a curve for every value, of its student. Points that are far
    below all rows, such as collapsed interpolations, are left out.
    """
    found = _means(summary, group, column)
    lowest = np.min([_place(row, column) for row in rows], axis=0)
    order = {kind: i for i, kind in enumerate(CURVE_KINDS)}
    keys = sorted(found, key=lambda key: (key[0] != group, key[0], order[key[1]]))
    curves = []
    for whose, kind, value in keys:
        means = found[whose, kind, value]
        far = [n for n, (x, y) in means.items() if x < _LOW * lowest[0] and y < lowest[1]]
        near = [place for label, place in means.items() if label not in far]
        if near:
            own = [row for row in summary.rows if _is_end(row, whose, value, summary)]
            near += [place for place in (_place(row, column) for row in own) if place]
        names = [f"{CURVE_KINDS[kind].title} {label} of {whose}" for label in far]
        curves.append(_curve(group, whose, kind, looks, sorted(near), names))
    return curves


def _is_end(row, whose, value, summary):
    """Whether a curve of a row, or of one of its values, goes through this row."""
    same = (row.name, row.student) == (whose, summary.student)
    return same and value in (None, row.value)


def _means(summary, group, column):
    """(row, kind, value) -> label -> mean place, of the points that a column shows."""
    every = column == AUTOATTACK
    found, kinds = {}, {k for k in CURVE_KINDS if every or not needs_autoattack(k)}
    for point in summary.collected.points:
        item, pair = point.item, _pair(point, column)
        same = (item.group, item.student) == (group, summary.student)
        if same and item.kind in kinds and pair:
            members = found.setdefault((item.whose, item.kind, item.value), {})
            members.setdefault(item.label, []).append(pair)
    return {
        key: {label: tuple(np.mean(pairs, 0)) for label, pairs in members.items()}
        for key, members in found.items()
    }


def _curve(group, whose, kind, looks, places, far):
    if whose == group:
        return Curve(kind, f"{CURVE_KINDS[kind].title} curve", COLOURS["none"], places, far)
    look = looks.get(whose, Look(whose, COLOURS["none"]))
    return Curve(kind, f"{CURVE_KINDS[kind].title} of {whose}", look.colour, places, far)


def _curves(plot, curves):
    for curve in curves:
        dash, marker = CURVE_KINDS[curve.kind].line
        plot.plot(
            *zip(*curve.places, strict=True),
            **{"color": curve.colour, "linestyle": dash, "linewidth": 1.2},
            **{"marker": marker, "markersize": 5, "zorder": 2, "label": curve.label},
        )
