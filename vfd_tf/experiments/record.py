"""A record: what a run directory says, also while its run is being trained."""

import csv
import dataclasses
import functools
import os
import shlex

from vfd_tf.attacks import ATTACKS
from vfd_tf.experiments.experiment import Recipe
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS
from vfd_tf.training.schedules import LambdaSchedule

_TABLES = {**METHODS, **DISTILLATIONS, **ATTACKS}
_COMPONENTS = {cls.__name__: cls for cls in (*_TABLES.values(), Recipe, LambdaSchedule)}


class Record:
    """What the files of a run directory say, also while the run is being trained.

    Raises:
        InputError: `path` is no run directory.
    """

    def __init__(self, path: str):
        self.path = os.path.normpath(path)
        self.directory = RunDirectory(self.path)
        owner = self.directory.owner
        if not owner:
            raise InputError(
                f"{path} is neither a run directory (a folder with run.json) nor a .keras "
                "file; name one of these."
            )
        self.identity, self.fields = owner["identity"], owner["fields"]
        self.results = self.directory.results
        if not {"dataset", "helpers"} <= self.identity.keys():
            raise damaged(self.file("run.json"), "it names no data set or no helpers")

    def file(self, name: str) -> str:
        return self.directory.file(name)

    @property
    def command(self) -> str:
        """What repeats the run."""
        runs = os.path.dirname(self.path) or "."
        words = [f"--flagfile={self.file('flags.txt')}", f"--runs={runs}"]
        return shlex.join(["python", "run.py", *words, f"--workdir={self.path}"])

    @property
    def label(self) -> str:
        return f"{self.name('method')}+{self.name('distillation')}"

    @property
    def complete(self) -> bool:
        return "wall_time_s" in self.results

    @property
    def best_epoch(self) -> int:
        """Epoch of best.keras; 0 before the first."""
        known = self.results.get("best_epoch")
        return self._state.best_epoch if known is None else known

    @property
    def seconds(self) -> float:
        """How long training has taken."""
        known = self.results.get("wall_time_s")
        return self._state.seconds if known is None else known

    @property
    def accuracies(self) -> dict[str, dict[str, dict[str, float]]]:
        """Student -> "<threat model> n=<images>" -> column -> percent of test images."""
        return self.results.get("accuracies", {})

    @functools.cached_property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch, without the curves that the epoch doesn't have."""
        if not os.path.exists(self.file("history.csv")):
            return []
        try:
            with open(self.file("history.csv"), newline="") as file:
                rows = list(csv.DictReader(file))
            return [{n: float(cell) for n, cell in row.items() if cell} for row in rows]
        except (ValueError, TypeError, csv.Error) as error:
            raise damaged(self.file("history.csv"), error) from error

    @functools.cached_property
    def _state(self):
        return self.directory.state()

    def name(self, component: str) -> str:
        """The name of a component in its table, `trades`, or else that of its class."""
        cls = self.class_name(component)
        return next((name for name, c in _TABLES.items() if c.__name__ == cls), cls)

    def parameters(self, component: str) -> dict:
        """Hyper-parameters of a component; a field younger than the run has its default."""
        recorded = self.fields.get(component, {}).items()
        known = {name: tuple(v) if isinstance(v, list) else v for name, v in recorded}
        return {**self._defaults(component), **known}

    def changed(self, component: str) -> dict:
        """The hyper-parameters of a component that differ from their defaults."""
        defaults, nothing = self._defaults(component), object()
        values = self.parameters(component).items()
        return {name: v for name, v in values if defaults.get(name, nothing) != v}

    def class_name(self, component: str) -> str:
        """The name of a component's class, `TRADES`."""
        return self.identity.get(component, "").split("(")[0]

    def _defaults(self, component):
        cls = _COMPONENTS.get(self.class_name(component))
        return {f.name: f.default for f in dataclasses.fields(cls)} if cls else {}


def damaged(path, error) -> InputError:
    """The refusal of a file or folder that can't be read."""
    reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
    return InputError(f"{path} is damaged ({reason}); restore it or run again.")
