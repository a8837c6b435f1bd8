"""The rows of an evaluation as Markdown, LaTeX and CSV."""

from vfd_tf import text

_COLUMNS = {
    "attack": "attack",
    "threat": "threat model",
    "accuracy": "accuracy (%)",
    "interval": "95% interval",
    "distance": "distance (mean / median)",
    "seconds": "seconds",
}
_LEFT = 2  # columns of words


def markdown(rows: list[dict], title: str = "", warnings=()) -> str:
    """The rows of `EvaluationResult.rows` as a Markdown table, warnings below it.

    Columns without a value are left out: most tables then fit 80 columns.
    """
    cells = [_cells(row) for row in rows]
    filled = [i for i in range(len(_COLUMNS)) if any(row[i] for row in cells)]
    heads = list(_COLUMNS.values())
    table = text.markdown(
        [heads[i] for i in filled],
        [[row[i] for i in filled] for row in cells],
        left=sum(i < _LEFT for i in filled),
    )
    notes = "".join(f"\n- Warning: {warning}" for warning in warnings)
    return "\n".join([*([title, ""] if title else []), table]) + (
        "\n" + notes if notes else ""
    )


def latex(rows: list[dict]) -> str:
    """The rows as a LaTeX tabular with booktabs rules, the lowest accuracy in bold."""
    accuracy = list(_COLUMNS).index("accuracy")
    lowest = min(row["accuracy"] for row in rows)
    bold = [(i, accuracy) for i, row in enumerate(rows) if row["accuracy"] == lowest]
    cells = [_cells(row) for row in rows]
    return text.latex(list(_COLUMNS.values()), cells, _LEFT, bold) + "\n"


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
