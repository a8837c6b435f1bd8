"""The report of an evaluation: a table on paper, and the same as JSON, CSV and LaTeX."""

import csv
import io
import json
import os

import numpy as np

_COLUMNS = {
    "attack": "attack",
    "threat": "threat model",
    "accuracy": "accuracy (%)",
    "interval": "95% interval",
    "distance": "distance (mean / median)",
    "seconds": "seconds",
}
_SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}


def markdown(rows: list[dict], title: str = "", warnings=()) -> str:
    """The rows of `Evaluation.rows` as a Markdown table, warnings below it."""
    cells = [[*_COLUMNS.values()], *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row):
        first = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        rest = [c.rjust(w) for c, w in zip(row[2:], widths[2:], strict=True)]
        return f"| {' | '.join([*first, *rest])} |"

    rule = [":" + "-" * (w - 1) for w in widths[:2]] + [
        "-" * (w - 1) + ":" for w in widths[2:]
    ]
    lines = [line(cells[0]), line(rule), *map(line, cells[1:])]
    notes = "".join(f"\n- Warning: {warning}" for warning in warnings)
    return "\n".join([*([title, ""] if title else []), *lines]) + (
        "\n" + notes if notes else ""
    )


def latex(rows: list[dict]) -> str:
    """The rows as a LaTeX tabular with booktabs rules, the lowest accuracy in bold."""
    lowest = min(row["accuracy"] for row in rows)
    body = []
    for row in rows:
        cells = [_escaped(cell) for cell in _cells(row)]
        if row["accuracy"] == lowest:
            cells[2] = rf"\textbf{{{cells[2]}}}"
        body.append(" & ".join(cells) + r" \\")
    head = " & ".join(map(_escaped, _COLUMNS.values())) + r" \\"
    rules = r"\toprule", r"\midrule", r"\bottomrule"
    lines = [rules[0], head, rules[1], *body, rules[2]]
    return "\n".join([r"\begin{tabular}{llrrrr}", *lines, r"\end{tabular}"]) + "\n"


def comma_separated(rows: list[dict]) -> str:
    """The rows as CSV, numbers as they are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder: str, evaluation, facts: dict, title: str) -> str:
    """Writes results.json, .csv, .md, .tex and verdicts.npz; returns the Markdown."""
    rows = evaluation.rows()
    text = markdown(rows, title, evaluation.warnings)
    whole = {
        **facts,
        "rows": rows,
        "warnings": evaluation.warnings,
        "referee": evaluation.referee,
    }
    files = {
        "results.json": json.dumps(whole, indent=2) + "\n",
        "results.csv": comma_separated(rows),
        "results.md": text + "\n",
        "results.tex": latex(rows),
    }
    for name, content in files.items():
        path = os.path.join(folder, name)
        with open(path + ".part", "w") as file:
            file.write(content)
        os.replace(path + ".part", path)
    np.savez_compressed(os.path.join(folder, "verdicts.npz"), **evaluation.verdicts())
    return text


def _cells(row):
    distance = row["mean_distance"]
    sizes = "" if distance is None else f"{distance:.3f} / {row['median_distance']:.3f}"
    seconds = row["seconds"]
    return [
        row["attack"],
        row["threat"],
        f"{row['accuracy']:.2f}",
        f"{row['low']:.2f} - {row['high']:.2f}",
        sizes,
        "" if seconds is None else f"{seconds:.1f}",
    ]


def _escaped(text):
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
