"""The report as one page: report.html, which asks for no other file."""

import dataclasses
import functools
import itertools

from vfd_tf.progress import duration
from vfd_tf.suites.report import curve_points, drawing, listing, tables, words
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.gains import gains, known_parts
from vfd_tf.suites.report.section import Section
from vfd_tf.suites.report.summary import Cell, Row


@dataclasses.dataclass(frozen=True)
class HtmlCell:
    """A cell: what it says, by what it is sorted, and how it looks."""

    text: str
    value: float | str = ""
    mark: str = ""
    kind: str = ""  # classes of the style sheet
    below: tuple[tuple[str, str], ...] = ()  # (class, text) of the small lines
    hint: str = ""
    link: str = ""


@dataclasses.dataclass(frozen=True)
class HtmlRow:
    """A row: its head with links, sentences below it, and its cells."""

    title: str
    links: tuple[tuple[str, str], ...]  # (text, anchor)
    sentences: tuple[str, ...]
    first: bool  # of its group
    cells: tuple[HtmlCell, ...]


@dataclasses.dataclass(frozen=True)
class HtmlTable:
    """A table: names that span columns, the heads below them, rows."""

    caption: str
    spans: tuple[tuple[str, int], ...]
    heads: tuple[str, ...]
    rows: tuple[HtmlRow, ...]


def page(sections: list[Section], drawn: dict[tuple[str, str], bytes]) -> str:
    """The whole page.

    Args:
        drawn: (section, figure) -> SVG.
    """
    template = _environment().get_template("report.html")
    return template.render(sections=[_section(s, drawn) for s in sections])


@functools.cache
def _environment():
    import jinja2  # for those who make a report

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["duration"] = duration
    return environment


def _section(section, drawn):
    from markupsafe import Markup

    summary, items = section.summary, section.items
    by_name = {item.node.name: item for item in items}
    anchors = listing.anchors(items)
    return {
        **{"name": section.name, "suite": summary.suite, "facts": words.facts(summary)},
        **{"progress": words.progress(summary.suite)},
        "progress_text": words.progress_text(summary.suite),
        "stuck": [item for item in items if item.node.status in ("failed", "stopped")],
        "findings": words.findings(summary),
        "tables": [
            _table(summary, rows, anchors, by_name) for rows in tables.students(summary)
        ],
        "gains": _gains(summary),
        "curves": _curve_points(summary, anchors),
        "explanations": words.explanations(summary),
        "problems": section.problems,
        "figures": [
            {
                **{"name": name, "caption": caption},
                "width": round(figure.get_figwidth() * 96),
                "svg": Markup(
                    drawing.inline(drawn[section.name, name], f"{section.name}-{name}")
                ),
            }
            for name, (caption, figure) in section.figures.items()
        ],
        "items": items,
    }


def _table(summary, rows, anchors, by_name):
    columns, kinds = summary.suite.columns, tables.curves(rows)
    uppers = [tables.head(column)[0] for column in columns]
    uppers += ["distance to the curve (AutoAttack)"] * len(kinds)
    spans = tuple((name, len(list(same))) for name, same in itertools.groupby(uppers))
    heads = [tables.head(column)[1] for column in columns]
    heads += [CURVE_KINDS[kind].title for kind in kinds]
    groups = [row.group for row in rows]
    body = [
        _row(row, kinds, anchors, by_name, first=i > 0 and groups[i] != groups[i - 1])
        for i, row in enumerate(rows)
    ]
    return HtmlTable(_caption(summary, rows), spans, ("defense", *heads), tuple(body))


def _caption(summary, rows):
    students = {
        "last": "Students of the last epoch.",
        "average": "Averaged students.",
    }
    said = students.get(rows[0].student, f"Students {rows[0].student!r}.")
    paper = any(cell.paper is not None for row in rows for cell in row.cells.values())
    lines = "the 95 % interval"
    if paper:
        lines += ", in italics the paper's value and our difference to it"
    best = "the best" if summary.suite.against else "the best of its method"
    return f"{said} Accuracy in percent; below it {lines}. Bold: {best}."


def _row(row, kinds, anchors, by_name, first):
    links = []
    for entry in row.entries:
        links.append((str(entry.item.seed), _anchor(entry, anchors)))
    node = by_name.get(row.entries[0].item.node)
    cells = [_cell(cell, row, node) for cell in row.cells.values()]
    cells += [_distance(row.distances.get(kind)) for kind in kinds]
    return HtmlRow(row.title, tuple(links), row.sentences, first, tuple(cells))


def _anchor(entry, anchors):
    return anchors.get(entry.item.node) or anchors.get(entry.item.directory) or ""


def _cell(cell: Cell, row: Row, node) -> HtmlCell:
    if cell.mean is None:
        log = node.log if node and cell.state in ("failed", "stopped", "running") else ""
        return HtmlCell(cell.state, kind=f"state {cell.state}", link=log)
    low, high = cell.interval
    below = [("interval", f"{low:.1f} – {high:.1f}")]
    if cell.paper is not None:
        difference = _minus(tables.signed(cell.difference))
        below.append(("paper", f"{cell.paper:.1f} ({difference})"))
    hint = f"{cell.images:,} images"
    if cell.p_value is not None:
        hint += (
            f"; against {row.base}: {cell.mean - cell.base:+.2f}, p = {cell.p_value:.2g}"
        )
    return HtmlCell(
        tables.value_text(cell),
        round(cell.mean, 6),
        tables.mark(cell),
        "best" if cell.best else "",
        tuple(below),
        hint,
    )


def _distance(distance) -> HtmlCell:
    if distance is None:
        return HtmlCell(tables.DASH, kind="state")
    remark = (("interval", distance.remark),) if distance.remark else ()
    if distance.value is None:
        return HtmlCell("outside", kind="state", below=remark, hint=distance.sentence)
    bounds = ()
    if distance.low is not None:
        bounds = (("interval", _minus(f"{distance.low:.1f} – {distance.high:.1f}")),)
    return HtmlCell(
        _minus(tables.signed(distance.value)),
        round(distance.value, 6),
        below=bounds + remark,
        hint=distance.sentence,
    )


def _minus(text):
    return text.replace("-", "−")


def _gains(summary):
    """The table of average gains, or None."""
    found = gains(summary)
    if not found:
        return None
    rows, parts = [], known_parts(found)
    paper = any(gain.quoted for gain in found)
    for number, gain in enumerate(found):
        cells = [
            HtmlCell(
                tables.AGAINST[gain.against], tables.AGAINST[gain.against], kind="text"
            )
        ]
        cells += [_gain(gain.ours[part], gain.paper[part]) for part in parts]
        quoted = ", ".join(map(tables.signed, gain.quoted)) if gain.quoted else tables.DASH
        if paper:
            cells.append(HtmlCell(quoted, gain.quoted[0] if gain.quoted else ""))
        first = number > 0 and gain.row != found[number - 1].row
        rows.append(HtmlRow(gain.row, (), (), first, tuple(cells)))
    caption = "Difference between rows in points, averaged over columns"
    caption += (
        "; in italics the same of the paper's table. Quoted: robust and clean, as in the "
        "text of section 5.2."
        if paper
        else "."
    )
    heads = ("defense", "against", *parts, *(["quoted"] if paper else []))
    return HtmlTable(caption, (), heads, tuple(rows))


def _curve_points(summary, anchors):
    """The table of the points of curves, or None."""
    found, rows = curve_points.points(summary), []
    for number, point in enumerate(found):
        kind, label, whose = point.texts
        cells = [HtmlCell(label, label, kind="text"), HtmlCell(whose, whose, kind="text")]
        cells += [_accuracy(cell) for cell in point.cells.values()]
        links = [(str(e.item.seed), _anchor(e, anchors)) for e in point.entries]
        first = number > 0 and point.texts[::2] != found[number - 1].texts[::2]
        reasons = tuple(dict.fromkeys(e.reason for e in point.entries if e.reason))
        rows.append(HtmlRow(kind, tuple(links), reasons, first, tuple(cells)))
    names = curve_points.columns(summary)
    heads = (*curve_points.HEADS, *map(tables.title, names))
    caption = (
        "What the trade-off curves are made of: values of a sweep, shares of mixtures. "
        "Accuracy in percent, all on the same images; below it the 95 % interval."
    )
    return HtmlTable(caption, (), heads, tuple(rows)) if rows else None


def _accuracy(cell):
    if cell.mean is None:
        return HtmlCell(cell.state, kind=f"state {cell.state.replace(' ', '-')}")
    low, high = cell.interval
    below = (("interval", f"{low:.1f} – {high:.1f}"),)
    return HtmlCell(tables.value_text(cell), round(cell.mean, 6), below=below)


def _gain(ours, paper):
    below = () if paper is None else (("paper", _minus(tables.signed(paper))),)
    value = "" if ours is None else round(ours, 6)
    return HtmlCell(_minus(tables.signed(ours)), value, below=below)
