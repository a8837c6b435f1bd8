"""What the run directories of a suite say so far, whatever state they are in.

A directory that is not there yet is no problem; one that is damaged, or of another data set
than the suite, is a sentence beside its row, and everything else is reported as if it were
alone.
"""

import dataclasses
import functools
import os

import numpy as np

from vfd_tf import evaluation, files
from vfd_tf.experiments.mixtures import are_of_another
from vfd_tf.experiments.record import Record, damaged
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.report.suite_record import CurvePoint, Entry, SuiteRecord

AUTOATTACK = "autoattack"
MISSING, DAMAGED, LEFT_OUT = "missing", "damaged", "left out"
_DAMAGED = (InputError, LookupError, TypeError, ValueError, AttributeError, OSError)


class Run:
    """One run directory as it is: its record, or the sentence why it has none.

    Attributes:
        record: None where there is no run yet, or none that can be read.
        history: One row an epoch.
        problem: What can't be read of it; "" where all can, or isn't there yet.
    """

    def __init__(self, path: str, suite: SuiteRecord):
        self.path, self.problem = os.path.normpath(path), ""
        self.record, self.history = None, []
        if not os.path.isdir(path) or not set(os.listdir(path)) - {files.LOCK}:
            return
        try:
            record = Record(path)
            self.problem = _foreign(record, suite)
            if not self.problem:
                self.record = record
                self.history = record.history
        except _DAMAGED as error:
            self.problem = _sentence(path, error)

    @property
    def results(self) -> dict:
        return self.record.results if self.record else {}

    @functools.cache  # noqa: B019 -- as long as the report
    def verdicts(self, which: str, threat: str, images: int) -> dict[str, np.ndarray]:
        """Column -> bool [images]; a file that can't be read becomes the problem."""
        if self.record is None:
            return {}
        try:
            return self.record.directory.verdicts(which, threat, f"n={images}")
        except _DAMAGED as error:
            self.problem = _sentence(self.path, error)
            return {}


@dataclasses.dataclass(frozen=True)
class Measured:
    """An entry of a suite, or a point of a curve, with what is known of it."""

    item: Entry | CurvePoint
    run: Run
    suite: SuiteRecord

    @property
    def which(self) -> str:
        return self.item.which if isinstance(self.item, CurvePoint) else self.item.student

    @property
    def data(self) -> str | None:
        """Digest of the test images."""
        return self.run.results.get("test_data")

    @property
    def state(self) -> str:
        """What stands for a number that isn't there."""
        if self.run.problem:
            return DAMAGED
        status = self.suite.node(self.item).status
        if status != "done":
            return status
        return LEFT_OUT if self._unusable or self._foreign else MISSING

    @property
    def reason(self) -> str:
        """One sentence on that state; "" where there is nothing to say."""
        node = self.suite.node(self.item)
        said = node.reason if self.state in ("failed", "stopped") else ""
        return self.run.problem or said or self._unusable or self._foreign

    @functools.cached_property
    def _unusable(self):
        """Why a mixture is left out: no numbers fit it, or it is with another network."""
        fits = self.run.results.get("fits", {}).get(self.which, {})
        vanilla = getattr(self.item, "vanilla", None)
        if self.run.record and are_of_another(self.run.record.directory, vanilla):
            return (
                f"{self.run.path} is mixed with another vanilla network than {vanilla}: "
                "run the suite again."
            )
        return str(fits.get(self.suite.threat, {}).get("reason", ""))

    @functools.cached_property
    def _foreign(self):
        """Why black-box columns are left out: they are of another surrogate."""
        record, its = self.run.record, getattr(self.item, "surrogate", None)
        if record is None or not are_of_another(record.directory, its, "surrogate"):
            return ""
        return (
            f"The black-box columns of {self.run.path} were made on another surrogate than "
            f"{its}: run the suite again."
        )

    def verdicts(self, column: str, images: int | None = None) -> np.ndarray | None:
        """bool [n] of a column, on as many images as the suite says; None without."""
        if self._unusable or self._foreign and evaluation.is_transfer(column):
            return None
        images = images or images_of(self.suite, column)
        return self.run.verdicts(self.which, self.suite.threat, images).get(column)


@dataclasses.dataclass(frozen=True)
class Collected:
    """A suite with what its runs say."""

    suite: SuiteRecord
    entries: tuple[Measured, ...]
    points: tuple[Measured, ...]
    runs: dict[str, Run]


def collect(suite: SuiteRecord) -> Collected:
    """Reads every run directory of a suite once."""
    items = (*suite.entries, *suite.curves)
    runs = {path: Run(path, suite) for path in dict.fromkeys(i.directory for i in items)}
    entries, points = (
        tuple(Measured(item, runs[item.directory], suite) for item in part)
        for part in (suite.entries, suite.curves)
    )
    return Collected(suite, entries, points, runs)


def images_of(suite: SuiteRecord, column: str) -> int:
    """How many test images a column is evaluated on; most have all of them."""
    return suite.images.get(column) or max(suite.images.values(), default=1)


def _foreign(record, suite):
    """Why a run does not belong to this suite; "" where it does."""
    found = record.identity["dataset"]
    if found == suite.dataset:
        return ""
    return (
        f"{record.path} holds a run on {found}, and the suite is on {suite.dataset}: see "
        "that its suite.json names the right directory."
    )


def _sentence(path, error):
    return str(error if isinstance(error, InputError) else damaged(path, error))
