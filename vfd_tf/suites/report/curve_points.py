"""The points of trade-off curves as a table: what each is, and how accurate."""

import dataclasses

from vfd_tf.suites.report import statistics
from vfd_tf.suites.report.collect import AUTOATTACK, LEFT_OUT, Measured, images_of
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.published import CLEAN
from vfd_tf.suites.report.summary import Cell, Summary, student_text
from vfd_tf.suites.report.tables import title, value_text

HEADS = ("curve", "point", "of")


@dataclasses.dataclass(frozen=True)
class CurvePoints:
    """One point of a curve, over its seeds.

    Attributes:
        kind, label: Of which curve, and the value or the share.
        whose: The row whose student it is made of, in words.
        cells: "clean" and the robust column, on the same images.
        entries: The point of every seed.
    """

    kind: str
    label: str
    whose: str
    cells: dict[str, Cell]
    entries: tuple[Measured, ...]

    @property
    def texts(self) -> tuple[str, str, str]:
        """What stands under `HEADS`."""
        return CURVE_KINDS[self.kind].title, self.label, self.whose


def columns(summary: Summary) -> tuple[str, ...]:
    """The columns of the table: clean, and AutoAttack or else the last attack."""
    attacks = [name for name in summary.suite.columns if name != CLEAN]
    robust = [AUTOATTACK] if AUTOATTACK in attacks else attacks[-1:]
    return (CLEAN, *robust)


def points(summary: Summary) -> list[CurvePoints]:
    """The points of all curves in the order of the suite."""
    members = {}
    for point in summary.collected.points:
        item = point.item
        if item.kind in CURVE_KINDS:
            whose = item.whose + student_text(item.student, summary.suite)
            members.setdefault((item.kind, item.label, whose), []).append(point)
    return [
        CurvePoints(*key, _cells(summary, entries), tuple(entries))
        for key, entries in members.items()
    ]


def sentences(summary: Summary) -> list[str]:
    """Why points are left out, each once."""
    said = {
        f"{' '.join(point.texts[:2])} of {point.whose}: {entry.reason}": None
        for point in points(summary)
        for entry in point.entries
        if entry.state == LEFT_OUT
    }
    return list(said)


def _cells(summary, entries):
    """Accuracies on the images of the robust column, the clean one too."""
    names = columns(summary)
    images = images_of(summary.suite, names[-1])
    found = {}
    for name in names:
        verdicts = {e.item.seed: e.verdicts(name, images) for e in entries}
        values = {s: 100 * float(v.mean()) for s, v in verdicts.items() if v is not None}
        found[name] = Cell(values, images, state="" if values else entries[0].state)
    return found


def rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table in text: accuracies with their 95 % intervals."""
    names = columns(summary)
    heads = [*HEADS, *(f"{title(name)} (%)" for name in names)]
    return heads, [
        [*point.texts, *(_text(point.cells[name]) for name in names)]
        for point in points(summary)
    ]


def _text(cell):
    if cell.mean is None:
        return cell.state
    low, high = cell.interval
    return f"{value_text(cell)} [{low:.1f}, {high:.1f}]"


def long_rows(summary: Summary) -> list[dict]:
    """One row of numbers a point, column and seed."""
    return [
        _long(summary, point, name, entry)
        for point in points(summary)
        for name in columns(summary)
        for entry in point.entries
    ]


def _long(summary, point, column, entry):
    cell = point.cells[column]
    value, (low, high) = cell.values.get(entry.item.seed), (None, None)
    if value is not None:
        low, high = statistics.interval(value, cell.images)
    return {
        **{"suite": summary.suite.name, "curve": point.kind, "point": point.label},
        **{"row": entry.item.whose, "group": entry.item.group},
        **{"student": entry.item.student, "seed": entry.item.seed, "column": column},
        **{"value": value, "low": low, "high": high, "images": cell.images},
        "state": entry.state if value is None else "done",
        "directory": entry.run.path,
    }
