"""What the paper published: its Tables 1 and 2, and the gains quoted in section 5.2."""

import csv
import functools
import importlib.resources

BLACK_BOX = ("transfer-pgd20", "transfer-fgsm", "transfer-cw")
WHITE_BOX = ("pgd20", "fgsm", "cw")
ROBUST = BLACK_BOX + WHITE_BOX
CLEAN = "clean"


@functools.cache
def accuracies(table: str) -> dict[tuple[str, str], float]:
    """(row, column) -> percent of a table of the paper; {} of one it doesn't have."""
    rows = _rows("published.csv")
    return {(r["row"], r["column"]): float(r["value"]) for r in rows if r["table"] == table}


@functools.cache
def quoted_gains(table: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(row, against) -> points of robust and clean accuracy, as section 5.2 says them.

    The row "*+VFD-Adv" is the average over all methods. Against "base" is against the
    method alone; against "best other", in each column, against the best other row of the
    method: the numbers of the text are those of the tables under this reading, and under
    no other that was tried (each of the enhanced rows, their mean).
    """
    rows = [row for row in _rows("gains.csv") if row["table"] == table]
    return {
        (row["row"], row["against"]): (float(row["robust"]), float(row["clean"]))
        for row in rows
    }


def _rows(name):
    path = importlib.resources.files(__package__) / name
    return list(csv.DictReader(path.read_text().splitlines()))
