"""The average gains of section 5.2: of VFD rows over their methods, ours and theirs."""

import dataclasses

from vfd_tf.suites.report import published, statistics
from vfd_tf.suites.report.summary import LAST, Summary, student_text

PARTS = {
    "robust": published.ROBUST,
    "black-box": published.BLACK_BOX,
    "white-box": published.WHITE_BOX,
    "clean": (published.CLEAN,),
}
_VFD = "VFD-Adv"


@dataclasses.dataclass(frozen=True)
class Gain:
    """Average gain of a row, as section 5.2 has it, in points.

    Attributes:
        against: "base" for the method alone, "best other" for the best other row of the
            method in each column.
        ours: Part of the table ("robust", "clean", ...) -> points, None where missing.
        paper: The same of the paper's table.
        quoted: As the paper's text says: points of robust and clean accuracy.
    """

    row: str
    group: str
    student: str
    against: str
    ours: dict[str, float | None]
    paper: dict[str, float | None]
    quoted: tuple[float, float] | None = None


def known_parts(gains: list[Gain]) -> list[str]:
    """The parts of the table that any gain has a number for, ours or the paper's."""
    sides = [side for gain in gains for side in (gain.ours, gain.paper)]
    return [part for part in PARTS if any(side[part] is not None for side in sides)]


def gains(summary: Summary) -> list[Gain]:
    """Gains of every VFD row, then their averages over methods where there are several."""
    suite, found = summary.suite, []
    if suite.kind != "table" or suite.against:  # which is not the method alone
        return []
    paper = published.accuracies(suite.published) if suite.published else {}
    quoted = published.quoted_gains(suite.published) if suite.published else {}
    ours = {(r.title, c): cell.mean for r in summary.rows for c, cell in r.cells.items()}
    for row in summary.rows:
        if row.distillation != _VFD or not row.base:
            continue
        rivals = [
            r for r in summary.rows if (r.group, r.student) == (row.group, row.student)
        ]
        rivals = [r for r in rivals if r.title != row.title and r.distillation != _VFD]
        alone = [r for r in rivals if r.name == row.base]
        for against, others in (("base", alone), ("best other", rivals)):
            mine = _parts(ours, row.title, [r.title for r in others], suite)
            theirs = _parts(paper, row.name, [r.name for r in others], suite)
            known = quoted.get((row.name, against))
            if row.student != LAST:  # the paper has no others
                theirs, known = dict.fromkeys(PARTS), None
            found.append(
                Gain(row.title, row.group, row.student, against, mine, theirs, known)
            )
    return found + _averages(found, quoted, suite)


def _parts(accuracies, row, others, suite):
    """Part -> gain over the columns of the part that the suite has."""
    parts = {
        part: [c for c in columns if c in suite.columns] for part, columns in PARTS.items()
    }
    return {
        part: statistics.gain(accuracies, row, others, columns) if columns else None
        for part, columns in parts.items()
    }


def _averages(single, quoted, suite):
    found, kinds = [], dict.fromkeys((gain.student, gain.against) for gain in single)
    for student, against in kinds:
        members = [g for g in single if (g.student, g.against) == (student, against)]
        if len(members) < 2:
            continue
        ours, paper = (
            {part: _whole_mean([getattr(m, side)[part] for m in members]) for part in PARTS}
            for side in ("ours", "paper")
        )
        title = f"average of {len(members)} methods{student_text(student, suite)}"
        known = quoted.get((f"*+{_VFD}", against)) if student == LAST else None
        found.append(Gain(title, "average", student, against, ours, paper, known))
    return found


def _whole_mean(values):
    """The mean, None unless all are there."""
    return None if None in values else statistics.mean(values)
