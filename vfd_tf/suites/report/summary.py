"""A suite as rows of cells: what every table, figure and sentence of the report says."""

import dataclasses
import functools

import numpy as np

from vfd_tf.suites.report import published, statistics, trade_off
from vfd_tf.suites.report.collect import (
    AUTOATTACK,
    Collected,
    Measured,
    images_of,
)
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.published import CLEAN
from vfd_tf.suites.report.suite_record import SuiteRecord

# Distillation by its flag -> as the paper calls it.
DISTILLATIONS = {
    "none": "none",
    "kd": "KD",
    "bgat": "BGAT",
    "lbgat": "LBGAT",
    "vfd": "VFD-Adv",
    "rslad": "RSLAD",
    "igdm": "IGDM",
    "mtard": "MTARD",
    "b-mtard": "B-MTARD",
}
LAST, AVERAGE = "last", "average"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One column of a row, over its seeds.

    Attributes:
        values: Seed -> percent, of the seeds that are evaluated.
        images: Test images of each.
        paper: The paper's value, in percent.
        p_values: Seed -> p of McNemar's test against the base row of that seed.
        bases: Seed -> percent of the base row of that seed.
        state: What stands for it where there is no value: "waiting", "failed", ...
        best: Whether it is the highest of its group.
    """

    values: dict[int, float]
    images: int
    paper: float | None = None
    p_values: dict[int, float] = dataclasses.field(default_factory=dict)
    bases: dict[int, float] = dataclasses.field(default_factory=dict)
    state: str = ""
    best: bool = False

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values.values())

    @property
    def deviation(self) -> float | None:
        return statistics.deviation(list(self.values.values()))

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        return None if self.mean is None else statistics.interval(self.mean, self.images)

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        missing = self.mean is None or self.paper is None
        return None if missing else self.mean - self.paper

    @property
    def p_value(self) -> float | None:
        """The largest of the seeds': a difference counts where every seed has it."""
        return max(self.p_values.values(), default=None)

    @property
    def base(self) -> float | None:
        """Mean of the base row."""
        return statistics.mean(self.bases.values())

    @property
    def against_base(self) -> str:
        """ "better" or "worse" than the base row, beyond chance in every seed; else ""."""
        if self.p_value is None or self.p_value >= statistics.LEVEL:
            return ""
        higher = {value > self.bases[seed] for seed, value in self.values.items()}
        return {(True,): "better", (False,): "worse"}.get(tuple(higher), "")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: one student of one method, over its seeds."""

    name: str
    group: str
    student: str
    base: str | None
    value: str | None
    entries: tuple[Measured, ...]
    cells: dict[str, Cell]
    distances: dict[str, trade_off.Distance]

    @property
    def title(self) -> str:
        swept = self.entries[0].suite.sweep or "value"
        setting = "" if self.value is None else f", {swept}={self.value}"
        return self.name + student_text(self.student, self.entries[0].suite) + setting

    @property
    def distillation(self) -> str:
        """As the paper calls it; without its flag the name after the plus, or "none"."""
        known = self.entries[0].item.distillation
        if known is not None:
            return DISTILLATIONS.get(known, known)
        last = self.name.rpartition("+")[2]
        named = last in DISTILLATIONS.values() and "+" in self.name
        return last if named else "none"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Why numbers are missing, each once."""
        reasons = (entry.reason for entry in self.entries)
        return tuple(dict.fromkeys(reason for reason in reasons if reason))


@dataclasses.dataclass(frozen=True)
class Summary:
    """A suite with its rows."""

    collected: Collected
    rows: tuple[Row, ...]

    @property
    def suite(self) -> SuiteRecord:
        return self.collected.suite

    @property
    def student(self) -> str:
        """The student whose curves are drawn: that of the last epoch, if it is there."""
        students = [row.student for row in self.rows]
        return LAST if LAST in students or not students else students[0]

    @property
    def comparisons(self) -> int:
        """How many tests against a base row the table holds."""
        return sum(c.p_value is not None for row in self.rows for c in row.cells.values())


def student_text(student: str, suite: SuiteRecord) -> str:
    """What is said after the name of a row: nothing for the student of the last epoch, and
    nothing where all rows are of one student.
    """
    named = {LAST: "", AVERAGE: " (averaged)"}.get(student, f" ({student})")
    return "" if len(suite.students) == 1 else named


def summarize(collected: Collected) -> Summary:
    """The rows of a suite in the order of its entries, best cells marked."""
    suite, members = collected.suite, {}
    for entry in collected.entries:
        key = entry.item.row, entry.item.student, entry.item.value
        members.setdefault(key, []).append(entry)
    bases = {_place(entry.item): entry for entry in collected.entries}
    rows = [_row(collected, entries, bases) for entries in members.values()]
    best = _best(rows, suite.columns)
    marked = []
    for row in rows:
        cells = {
            column: dataclasses.replace(cell, best=(row.title, column) in best)
            for column, cell in row.cells.items()
        }
        marked.append(dataclasses.replace(row, cells=cells))
    return Summary(collected, tuple(marked))


def _place(item, row=None):
    return row or item.row, item.student, item.seed, item.value


def _base(entry, bases):
    """The entry that another one is compared with: of the same value in a sweep."""
    item = entry.item
    if not item.base or item.base == item.row:
        return None
    same = bases.get(_place(item, item.base))
    return same or bases.get((item.base, item.student, item.seed, None))


def _row(collected, entries, bases):
    suite, first = collected.suite, entries[0].item
    cells = {column: _cell(suite, entries, bases, column) for column in suite.columns}
    distances = {kind: _distance(collected, entries, bases, kind) for kind in CURVE_KINDS}
    return Row(
        name=first.row,
        group=first.group,
        student=first.student,
        base=first.base,
        value=first.value,
        entries=tuple(entries),
        cells=cells,
        distances={kind: found for kind, found in distances.items() if found},
    )


def _cell(suite, entries, bases, column):
    values, p_values, of_base, images = {}, {}, {}, images_of(suite, column)
    for entry in entries:
        verdicts = entry.verdicts(column)
        if verdicts is None:
            continue
        seed = entry.item.seed
        values[seed] = 100 * float(verdicts.mean())
        base = _base(entry, bases)
        theirs = None if base is None else base.verdicts(column)
        if theirs is not None and base.data == entry.data:
            p_values[seed] = statistics.mcnemar(verdicts, theirs)
            of_base[seed] = 100 * float(theirs.mean())
    first = entries[0].item
    paper = None
    if suite.published and first.student == LAST and first.value is None:
        paper = published.accuracies(suite.published).get((first.row, column))
    whole = p_values.keys() == values.keys()  # else the seeds differ
    return Cell(
        values=values,
        images=images,
        paper=paper,
        p_values=p_values if whole else {},
        bases=of_base if whole else {},
        state="" if values else entries[0].state,
    )


def _best(rows, columns):
    """(title, column) of the highest cells of a group's rows of one student."""
    groups, best = {}, set()
    for row in rows:
        groups.setdefault((row.group, row.student), []).append(row)
    for members in (rows for rows in groups.values() if len(rows) > 1):
        for column in columns:
            means = {row.title: row.cells[column].mean for row in members}
            known = {title: round(m, 4) for title, m in means.items() if m is not None}
            top = max(known.values(), default=0)
            if len(set(known.values())) > 1:
                best |= {(title, column) for title, m in known.items() if m == top}
    return best


def _distance(collected, entries, bases, kind):
    """The distance of a row to a curve of its base row, over the seeds that have one."""
    seeds, asked = [], 0
    for entry in entries:
        curves = _curves(collected, entry, bases, kind)
        model = None if entry.item.base in (None, entry.item.row) else _both(entry)
        known = [
            [v for v in map(_both, (p for p in c if p.data == entry.data)) if v is not None]
            for c in curves
        ]
        known = [np.stack(points) for points in known if len(points) > 1]
        asked = max(asked, sum(map(len, curves)))
        if model is not None and known:
            seeds.append((model, known))
    found = trade_off.distance(seeds)
    return found and dataclasses.replace(found, missing=_missing(found, entries, asked))


def _missing(distance, entries, asked):
    """`1 of 2 seeds, 3 of 4 points`: what of a distance isn't there; "" where all is."""
    pairs = ("seeds", distance.seeds, len(entries)), ("points", distance.points, asked)
    return ", ".join(f"{n} of {whole} {name}" for name, n, whole in pairs if n < whole)


def _curves(collected, entry, bases, kind):
    """The points of the curves of a kind that an entry is held against, its base with them.

    They are one curve; mixtures in a sweep are one for every value, of its student.
    """
    members = [point for point in collected.points if _is_of(point, entry, kind)]
    curves = []
    for value in dict.fromkeys(point.item.value for point in members):
        if value is None:
            base = _base(entry, bases)
        else:
            place = (entry.item.base, entry.item.student, entry.item.seed, value)
            base = bases.get(place)
        own = [point for point in members if point.item.value == value]
        curves.append([*own, *([base] if base else [])])
    return curves


def _is_of(point, entry, kind):
    one, other = point.item, entry.item
    same = (one.group, one.seed, one.student) == (other.group, other.seed, other.student)
    return same and one.kind == kind and one.whose == one.group


def _both(measured):
    """Clean and AutoAttack verdicts on the same images: bool [2, n]; None without."""
    images = images_of(measured.suite, AUTOATTACK)
    clean, robust = (measured.verdicts(name, images) for name in (CLEAN, AUTOATTACK))
    return None if clean is None or robust is None else np.stack([clean, robust])
