"""Training longer: a run that goes on from where one of fewer epochs has come to."""

import contextlib
import glob
import os

from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory, differences, key
from vfd_tf.hyperparameters import InputError
from vfd_tf.training.optimizers import learning_rate


class Source:
    """The run of `--continue_from`, complete or not.

    Raises:
        InputError: No run, or one without a whole epoch to go on from.
    """

    def __init__(self, path: str):
        self.directory = RunDirectory(path)
        self.owner, self.path = self.directory.owner, path
        if not self.owner:
            raise InputError(
                f"--continue_from={path} is no run directory (a folder with run.json): "
                "name one, as --runs holds them."
            )
        self.epoch = self.directory.state().epoch
        if not self.epoch:
            raise InputError(
                f"--continue_from={path} has no checkpoint of a whole epoch: leave the "
                "flag out to train from the beginning."
            )
        self.epochs = self.owner["fields"].get("recipe", {}).get("epochs", 0)
        before = self.owner["identity"].get("continues", {})
        # A run keeps its teachers, which were trained for the epochs of the first of all.
        self.teacher_epochs = before.get("teacher_epochs", self.epochs)
        self._before = {"continues": before} if before else {}

    @property
    def mark(self) -> dict:
        """What makes the identity of the continued run another than an unbroken one's."""
        run = key(self.owner["identity"])
        entry = {"run": run, "epoch": self.epoch, "teacher_epochs": self.teacher_epochs}
        return {"continues": entry}

    def first(self, experiment: Experiment) -> Experiment:
        """The experiment whose teachers these are."""
        return _of_epochs(experiment, self.teacher_epochs)

    def check(self, experiment: Experiment, digest: str, helpers: dict) -> None:
        """Raises `InputError` unless the experiment is this run but for more epochs."""
        if experiment.recipe.epochs <= self.epochs:
            raise InputError(
                f"--continue_from={self.path} is a run of {self.epochs} epochs already: "
                f"ask for more than --epochs={experiment.recipe.epochs}."
            )
        same = _of_epochs(experiment, self.epochs)
        identity = same.identity(digest, helpers) | self._before
        other = differences(self.owner, identity, same.fields())
        if other:
            raise InputError(
                f"--continue_from={self.path} is a run with {', '.join(other)}; give it "
                f"the same but for --epochs, as --flagfile={self.path}/flags.txt does."
            )

    def hand_over(self, directory: RunDirectory) -> None:
        """Copies what this run has come to into the new directory, unless it has begun."""
        if not directory.state().epoch:
            with self.directory.owned():
                directory.adopt(self.directory)

    def describe(self, experiment: Experiment, steps: int) -> str:
        """From where it goes on, and along which learning rate."""
        text = f"goes on from epoch {self.epoch} of {self.path}"
        recipes = experiment.recipe, _of_epochs(experiment, self.epochs).recipe
        new, old = (_rate(recipe, steps, self.epoch * steps) for recipe in recipes)
        if abs(new - old) <= 1e-6 * abs(old):
            return text
        return (
            f"{text}; the {experiment.recipe.schedule} schedule is that of "
            f"{experiment.recipe.epochs} epochs from here on, so that the learning rate is "
            f"{new:.3g} instead of {old:.3g}"
        )


def hint(experiment: Experiment, identity: dict, root: str) -> str | None:
    """A sentence about a run of fewer epochs that this one could go on from, or None."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(root), "*", "run.json")):
        with contextlib.suppress(InputError, OSError, KeyError, TypeError):
            directory = RunDirectory(os.path.dirname(path))
            owner = directory.owner
            epochs = owner["fields"]["recipe"]["epochs"]
            same = _of_epochs(experiment, epochs)
            # Teachers of fewer epochs are other teachers, and part of that run.
            known = {**owner["identity"], "recipe": "", "helpers": ""}
            ours = {**identity, "recipe": "", "helpers": ""}
            differ = differences({**owner, "identity": known}, ours, same.fields())
            if epochs < experiment.recipe.epochs and not differ and directory.state().epoch:
                found[epochs] = directory.path
    if not found:
        return None
    epochs = max(found)
    return (
        f"{found[epochs]} is the same run of {epochs} epochs: --continue_from="
        f"{found[epochs]} goes on from there instead of training from the beginning."
    )


def _of_epochs(experiment, epochs):
    return experiment.replace(recipe=experiment.recipe.replace(epochs=epochs))


def _rate(recipe, steps, step):
    rate = learning_rate(recipe, steps)
    return float(rate(step)) if callable(rate) else float(rate)
