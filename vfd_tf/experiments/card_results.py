"""The results of a model card: tables with intervals, and what makes them doubtful."""

import dataclasses
import re

import numpy as np

from vfd_tf.evaluation import wilson
from vfd_tf.evaluation.result import with_worst
from vfd_tf.experiments.record import Record

_IRON = re.compile(r"autoattack(-plus)?(:.*)?")
_ITERATED = re.compile(r"(pgd\d|mim\d|apgd|autoattack).*")
_PLAIN = "clean", "worst"
_SURE = 2  # standard errors of a difference that is told from chance


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The accuracies of all students under one threat model on so many test images.

    Attributes:
        threat: linf:8/255.
        images: How many.
        rows: Student -> column -> percent.
        verdicts: Student -> column -> bool [images], as far as they are known.
    """

    threat: str
    images: int
    rows: dict[str, dict[str, float]]
    verdicts: dict[str, dict[str, np.ndarray]]

    @property
    def title(self) -> str:
        return f"{self.threat}, {self.images:,} test images"

    def table(self) -> list[list[str]]:
        """Rows of student, attack, accuracy, low and high end of its interval, images."""
        lines = []
        for student, row in self.rows.items():
            for name, percent in row.items():
                right = round(percent * self.images / 100)
                low, high = (100 * end for end in wilson(right, self.images))
                numbers = f"{percent:.2f}", f"{low:.2f} to {high:.2f}"
                lines.append([student, name, *numbers, f"{right:,}"])
        return lines

    @property
    def hardest(self) -> str | None:
        """The column that all students have and that says most: worst, or the lowest."""
        shared = set.intersection(*(set(row) for row in self.rows.values())) - {"clean"}
        first = next(iter(self.rows.values()))
        if "worst" in shared:
            return "worst"
        return min(sorted(shared), key=first.get, default=None)


def evaluations(record: Record) -> list[Evaluation]:
    """All evaluations of a run, by threat model and number of images."""
    keys = dict.fromkeys(key for row in record.accuracies.values() for key in row)
    found = []
    for key in keys:
        threat, images = key.rsplit(" n=", 1)
        rows = {s: known[key] for s, known in record.accuracies.items() if key in known}
        verdicts = {s: _verdicts(record, s, threat, f"n={images}") for s in rows}
        found.append(Evaluation(threat, int(images), rows, verdicts))
    return found


def _verdicts(record, student, threat, count):
    return with_worst(record.directory.verdicts(student, threat, count), threat)


def warnings(record: Record, found: list[Evaluation]) -> list[str]:
    """What makes the numbers of a run doubtful, a sentence each."""
    notes = []
    if not record.complete:
        notes.append("The training is not complete: these are the numbers so far.")
    attack = record.fields.get("attack", {})
    for each in found:
        notes += _of_bounds(each) + _of_masking(each) + _of_overfitting(each)
        notes += _of_files(each)
        norm = each.threat.split(":")[0]
        if attack.get("norm", norm) != norm:
            notes.append(
                f"It was trained against {attack['norm']} and is evaluated under "
                f"{each.threat}: robustness to one norm is no robustness to another."
            )
    return notes


def _of_bounds(each):
    names = dict.fromkeys(name for row in each.rows.values() for name in row)
    attacks = [name for name in names if name not in _PLAIN]
    if not attacks:
        return [f"Under {each.threat} only clean accuracies are known."]
    lacking = [
        student for student, row in each.rows.items() if not any(map(_IRON.fullmatch, row))
    ]
    if not lacking:
        return []
    return [
        f"Without AutoAttack ({each.title}, {', '.join(lacking)}), the robust accuracies "
        f"of {', '.join(attacks)} are upper bounds: add --eval_attacks=autoattack."
    ]


def _of_masking(each):
    """An attack that should be weaker leaves fewer images than a stronger one."""
    notes = []
    for student, row in each.rows.items():
        strong = {name: v for name, v in row.items() if _ITERATED.fullmatch(name)}
        for weak in ("fgsm", "square"):
            for name, value in strong.items():
                if row.get(weak, value) < value:
                    notes.append(
                        f"{student}, {each.title}: {weak} leaves {row[weak]:.2f} %, fewer "
                        f"than the {value:.2f} % of {name}; a sign that gradients are "
                        "masked, and that the higher number is too high."
                    )
    return notes


def _of_overfitting(each):
    """The best student is more robust than the last, by more than chance."""
    column = each.hardest
    if column is None or not {"best", "last"} <= each.rows.keys():
        return []
    best, last = (each.rows[student][column] for student in ("best", "last"))
    pair = [each.verdicts[s].get(column) for s in ("best", "last")]
    if best <= last or any(verdict is None for verdict in pair):
        return []
    difference = pair[0].astype(float) - pair[1]
    error = 100 * difference.std() / np.sqrt(each.images)
    if best - last <= _SURE * error:
        return []
    return [
        f"Robust overfitting: under {column} ({each.title}) best has {best:.2f} % and last "
        f"{last:.2f} %, {best - last:.2f} points less (standard error of the paired "
        f"difference {error:.2f})."
    ]


def _of_files(each):
    """Accuracies that are not those of the verdicts."""
    return [
        f"results.json says {percent:.2f} % for {student} under {name} ({each.title}), "
        f"and verdicts.npz {100 * each.verdicts[student][name].mean():.2f} %."
        for student, row in each.rows.items()
        for name, percent in row.items()
        if name in each.verdicts[student]
        and abs(percent - 100 * each.verdicts[student][name].mean()) > 1e-6
    ]
