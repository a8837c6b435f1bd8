"""Tables as text: Markdown, LaTeX, CSV, and plain columns."""

import csv
import io

_SPECIAL = {letter: "\\" + letter for letter in "&%_#${}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}"}
_SPECIAL["~"] = r"\textasciitilde{}"


class Latex(str):
    """Text that is LaTeX already."""


def markdown(head, rows, left: int = 1) -> str:
    """A Markdown table of cells of text, every column at one width.

    Args:
        head: The titles of the columns.
        rows: Rows of as many cells.
        left: How many columns from the first are aligned left; the others are right.
    """
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [_rule(width, i < left) for i, width in enumerate(widths)]
    lines = (_aligned(row, widths, left) for row in (cells[0], rule, *cells[1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(rows, left: int = 1) -> str:
    """Lines of cells of text in columns, two spaces apart; see `markdown`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_aligned(row, widths, left)).rstrip() for row in rows)


def comma_separated(rows: list[dict]) -> str:
    """Rows {column: value} as CSV, numbers as they are."""
    file = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(file, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def latex(head, rows, left: int = 1, bold=()) -> str:
    """A LaTeX tabular with booktabs rules; see `markdown`.

    Cells are text, unless they are `Latex`.

    Args:
        bold: (row, column) of the cells in bold.
    """
    body = [[escaped(cell) for cell in row] for row in rows]
    for i, j in bold:
        body[i][j] = rf"\textbf{{{body[i][j]}}}"
    lines = [" & ".join(row) + r" \\" for row in (map(escaped, head), *body)]
    sides = "l" * left + "r" * (len(head) - left)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _rule(width, left):
    return "-" * width if left else "-" * (width - 1) + ":"


def _aligned(row, widths, left):
    sides = (str.ljust if i < left else str.rjust for i in range(len(widths)))
    return [side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)]


def escaped(cell: str) -> str:
    """A text as LaTeX that prints it; what is `Latex` stays."""
    if isinstance(cell, Latex):
        return cell
    return "".join(_SPECIAL.get(letter, letter) for letter in cell)
