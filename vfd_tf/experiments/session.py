"""A session: what all runs of one command share."""

import dataclasses
import functools
import sys
from collections.abc import Callable

import tensorflow as tf

from vfd_tf import evaluation
from vfd_tf.data import datasets
from vfd_tf.experiments import forecast
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.training.devices.cluster import Cluster


@functools.cache
def _shared():
    """The compiled attacks that all commands of a process share."""
    return evaluation.Compilations()


@dataclasses.dataclass
class Session:
    """What the runs of one command share: data, strategy, folders, evaluation."""

    data: datasets.Dataset
    plan: EvaluationPlan
    root: str = "runs"
    strategy: tf.distribute.Strategy = dataclasses.field(
        default_factory=tf.distribute.get_strategy
    )
    jit_compile: bool | str = "auto"
    steps_per_execution: int = 1
    panel_every: int = 5  # epochs between TensorBoard panels of images; 0: none
    checkpoint_minutes: float = 10.0  # between two checkpoints in an epoch
    checkpoint_steps: int | None = None  # steps between two of them as well
    describe: Callable[[Experiment], str] | None = None  # the flags that repeat a run
    verbose: int = dataclasses.field(
        default_factory=lambda: 1 if sys.stdout.isatty() else 2
    )
    # Path -> work of what is still to be trained, as far as it was checked.
    pending: dict[str, forecast.Work] = dataclasses.field(default_factory=dict)
    compilations: evaluation.Compilations = dataclasses.field(default_factory=_shared)

    @functools.cached_property
    def cluster(self) -> Cluster:
        """The workers that train together."""
        return Cluster(self.strategy)

    @property
    def test(self) -> datasets.Split:
        """The test images that the plan asks for."""
        return self.data.test[: self.plan.max_images]

    def of_teachers(self) -> "Session":
        """The session of the networks that are trained before a run."""
        return self.with_plan(self.plan.of_teachers())

    def with_plan(self, plan: EvaluationPlan) -> "Session":
        """The same session with another evaluation."""
        other = dataclasses.replace(self, plan=plan)
        other.cluster = self.cluster
        return other

    def report(self, directories: list[RunDirectory]) -> str:
        """A table of the students of runs for each number of images, and their folders."""
        tables = []
        for images in self.plan.rounds():
            count = f"n={len(self.data.test[:images])}"
            rows = {
                f"{directory.label} ({which})": columns
                for directory in directories
                for which in directory.evaluated
                if (columns := directory.accuracies(which, self.plan.threat, count))
            }
            title = f"{self.data.name}, {count} test images, {self.plan.threat}"
            tables.append(f"\n{title}\n\n{evaluation.table(rows)}")
        folders = "".join(f"\n  {d.label}: {d.path}" for d in directories)
        return "\n".join([*tables, folders])
