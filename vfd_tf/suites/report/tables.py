"""The tables of a suite in the paper's layout: Markdown, LaTeX, and CSV in long form."""

import re

from vfd_tf import text
from vfd_tf.suites.report import published, statistics
from vfd_tf.suites.report.collect import AUTOATTACK
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.gains import Gain, known_parts
from vfd_tf.suites.report.summary import Cell, Row, Summary
from vfd_tf.suites.report.trade_off import Distance

BLACK_BOX, WHITE_BOX, ADDED = "black-box attack", "white-box attack", "added"
_ATTACKS = {"pgd20": "PGD", "fgsm": "FGSM", "cw": "C&W"}
AGAINST = {"base": "the method alone", "best other": "the best other row, per column"}
CURVE_HEADS = {kind: f"to the {own.title}" for kind, own in CURVE_KINDS.items()}
DASH = "–"


def head(column: str) -> tuple[str, str]:
    """The two lines above a column, as the paper has them."""
    if column in published.BLACK_BOX:
        return BLACK_BOX, _ATTACKS[column.removeprefix("transfer-")]
    if column in published.WHITE_BOX:
        return WHITE_BOX, _ATTACKS[column]
    named = {published.CLEAN: ("", "ACC"), AUTOATTACK: (ADDED, "AutoAttack")}
    return named.get(column, (ADDED, column))


def one_line(column: str) -> str:
    """The head of a column in one line: `black-box PGD`."""
    setting, attack = head(column)
    setting = {BLACK_BOX: "black-box ", WHITE_BOX: "white-box "}.get(setting, "")
    return setting + attack


def title(column: str) -> str:
    """A column in words: `black-box PGD`."""
    names = {published.CLEAN: "clean", AUTOATTACK: "AutoAttack", "pgd20": "PGD-20"}
    return names.get(column) or " ".join(head(column)).strip()


def curves(rows: list[Row]) -> list[str]:
    """The curves that any row has a distance to."""
    return [kind for kind in CURVE_KINDS if any(kind in row.distances for row in rows)]


def students(summary: Summary) -> list[list[Row]]:
    """The rows of each student, the last epoch's first: a table each."""
    names = dict.fromkeys(row.student for row in summary.rows)
    return [[row for row in summary.rows if row.student == name] for name in names]


def signed(value: float | None) -> str:
    """A difference, `+1.2`; a rounded zero has no sign."""
    if value is None:
        return DASH
    rounded = f"{value:+.1f}"
    return "0.0" if rounded in ("+0.0", "-0.0") else rounded


def _plain(value):
    """A number of one digit, a rounded zero without a sign."""
    return f"{value:.1f}".replace("-0.0", "0.0") if abs(value) < 0.05 else f"{value:.1f}"


def mark(cell: Cell) -> str:
    """Whether the cell differs from the base row by more than chance."""
    return {"better": "▲", "worse": "▼", "": ""}[cell.against_base]


def value_text(cell: Cell) -> str:
    """`52.6`, of several seeds `52.6 ± 0.3`; what stands for it where it is missing."""
    if cell.mean is None:
        return cell.state
    spread = "" if cell.deviation is None else f" ± {cell.deviation:.1f}"
    return f"{cell.mean:.1f}{spread}"


def distance_text(distance: Distance | None) -> str:
    """`+3.3 [0.7, 6.5]`, with `(13% outside)` if so many resamples were; or `outside`."""
    if distance is None:
        return DASH
    if distance.value is None:
        return "outside"
    bounds = ""
    if distance.low is not None:
        bounds = f" [{_plain(distance.low)}, {_plain(distance.high)}]"
    remark = f" ({distance.remark})" if distance.remark else ""
    return signed(distance.value) + bounds + remark


def markdown(summary: Summary, rows: list[Row]) -> str:
    """One student's rows, compact: ours, and in brackets the paper's and the difference."""
    columns, kinds = summary.suite.columns, curves(rows)
    heads = [
        "accuracy (%)",
        *map(one_line, columns),
        *(CURVE_HEADS[kind] for kind in kinds),
    ]
    body = [
        [
            row.title,
            *(_markdown_cell(row.cells[column]) for column in columns),
            *(distance_text(row.distances.get(kind)) for kind in kinds),
        ]
        for row in rows
    ]
    return text.markdown(heads, body)


def _markdown_cell(cell):
    if cell.mean is None:
        return cell.state
    value = f"**{value_text(cell)}**" if cell.best else value_text(cell)
    beside = "" if cell.paper is None else f" ({cell.paper:.1f}, {signed(cell.difference)})"
    return value + mark(cell) + beside


def gains_rows(gains: list[Gain]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of average gains: ours, and in brackets the paper's."""
    parts = known_parts(gains)
    paper = any(value is not None for gain in gains for value in gain.paper.values())
    quoted = any(gain.quoted for gain in gains)
    body = []
    for gain in gains:
        row = [gain.row, AGAINST[gain.against]]
        for part in parts:
            beside = f" ({signed(gain.paper[part])})" if paper else ""
            row.append(signed(gain.ours[part]) + beside)
        if quoted:
            row.append(", ".join(map(signed, gain.quoted)) if gain.quoted else DASH)
        body.append(row)
    last = ["quoted in 5.2 (robust, clean)"] if quoted else []
    return ["gain (points)", "against", *parts, *last], body


def latex(summary: Summary, rows: list[Row]) -> str:
    """One student's rows as a booktabs tabular with the paper's two lines of heads."""
    columns, kinds = summary.suite.columns, curves(rows)
    heads = ["Defense", *(head(c)[1] for c in columns), *(CURVE_HEADS[k] for k in kinds)]
    body = [
        [
            row.title,
            *(_latex_cell(row.cells[column]) for column in columns),
            *(_math(text.escaped(distance_text(row.distances.get(k)))) for k in kinds),
        ]
        for row in rows
    ]
    lines = text.latex(heads, body).split("\n")
    upper = _upper_heads([head(column)[0] for column in columns])
    groups = [row.group for row in rows]
    borders = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    for i in reversed(borders):
        lines.insert(4 + i, r"\midrule")
    lines[2:2] = upper
    return "\n".join(lines) + "\n"


def _upper_heads(names):
    """The line that spans the columns of an attack setting, and the rules below it."""
    cells, rules, start = [], [], 0
    while start < len(names):
        end = start
        while end < len(names) and names[end] == names[start]:
            end += 1
        if names[start]:
            cells.append(rf"\multicolumn{{{end - start}}}{{c}}{{{names[start]}}}")
            rules.append(rf"\cmidrule(lr){{{start + 2}-{end + 1}}}")
        else:
            cells += [""] * (end - start)
        start = end
    return [" & ".join(["", *cells]) + r" \\", " ".join(rules)] if rules else []


def _latex_cell(cell):
    if cell.mean is None:
        return cell.state
    value = value_text(cell)  # digits and signs, which need no escape
    if cell.best:
        value = rf"\textbf{{{value}}}"
    sign = {"better": "$^{+}$", "worse": "$^{-}$", "": ""}[cell.against_base]
    beside = "" if cell.paper is None else f" ({cell.paper:.1f}, {signed(cell.difference)})"
    return _math(value + sign + beside)


def _math(cell):
    """Signs as LaTeX sets them."""
    cell = cell.replace("±", r"$\pm$").replace(DASH, "--")
    return text.Latex(re.sub(r"(^|[ (\[])-(?=\d)", r"\1$-$", cell))


def long_rows(summary: Summary) -> list[dict]:
    """One row of numbers a cell and seed, then one of the mean where there are several."""
    found = []
    for row in summary.rows:
        for column, cell in row.cells.items():
            found += [
                _long(summary, row, column, cell, entry.item.seed, entry.run.path)
                for entry in row.entries
            ]
            if len(row.entries) > 1:
                found.append(_long(summary, row, column, cell, "mean", ""))
        found += [_long_distance(summary, row, kind) for kind in row.distances]
    return found


def _long(summary, row, column, cell, seed, directory):
    whole = seed == "mean"
    value = cell.mean if whole else cell.values.get(seed)
    low, high = (None, None)
    if value is not None:
        low, high = statistics.interval(value, cell.images)
    missing = value is None or cell.paper is None
    state = next((e.state for e in row.entries if e.item.seed == seed), cell.state)
    return {
        **_of_row(summary, row, seed, column),
        "value": value,
        "deviation": cell.deviation if whole else None,
        **{"low": low, "high": high, "images": cell.images},
        "paper": cell.paper,
        "difference": None if missing else value - cell.paper,
        "p_value": cell.p_value if whole else cell.p_values.get(seed),
        "state": state if value is None else "done",
        "directory": directory,
    }


def _long_distance(summary, row, kind):
    distance = row.distances[kind]
    seed = "mean" if len(row.entries) > 1 else row.entries[0].item.seed
    return {
        **_of_row(summary, row, seed, f"distance to the {kind} curve"),
        **{"value": distance.value, "low": distance.low, "high": distance.high},
        "images": summary.suite.images.get(AUTOATTACK),
        "state": distance.sentence or "done",
    }


def _of_row(summary, row, seed, column):
    return {
        **{"suite": summary.suite.name, "row": row.name, "group": row.group},
        **{"base": row.base, "student": row.student, "setting": row.value},
        **{"seed": seed, "column": column},
    }
