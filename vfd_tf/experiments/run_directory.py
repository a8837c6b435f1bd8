"""A run directory: everything one run made, enough to resume, replay and cite it.

flags.txt         flags that repeat the run: --flagfile=<directory>/flags.txt
run.json          what the result depends on
history.csv       one row an epoch; metrics.jsonl: the same as JSON lines
best.keras        student of the epoch chosen on validation; last.keras: of the last
average.keras     the last epoch's averaged student, where weights are averaged
resume.npz        weights, optimizer, step, history: the end of the last whole epoch
tensorboard/      events
verdicts.npz      which test images each student got right, under each attack
results.json      accuracies on the test split, versions, commit, seed, wall time
lock.json         only while a process has the directory: which, where, since when
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import time

import keras
import numpy as np

from vfd_tf import archives, files
from vfd_tf.evaluation import accuracies
from vfd_tf.experiments import sound
from vfd_tf.hyperparameters import InputError
from vfd_tf.models.keras_graph import random_states

# What a damaged file is answered with.
REMEDIES = {
    "run.json": "restore it from a copy, or choose another --workdir",
    "resume.npz": "restore it from a copy, or remove it to train again from the first "
    "epoch; best.keras and last.keras are good until that epoch ends",
    "results.json": "remove it, and the same command makes it again",
    "verdicts.npz": "remove it, and the same command evaluates again",
}
_OWN = {files.LOCK}  # what a directory that is claimed by nobody may hold
_PROGRESS = ("best.keras", "last.keras", "average.keras", "history.csv", "metrics.jsonl")
_PROGRESS += ("resume.npz",)


@dataclasses.dataclass
class State:
    """How far a run has come."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict] = dataclasses.field(default_factory=list)


class RunDirectory:
    """One run on disk. Files are replaced whole, so that a crash leaves the older one.

    Raises:
        InputError: A file that was damaged, naming it and what to do.
    """

    def __init__(self, path: str, label: str = "run"):
        self.path, self.label = path, label

    def owned(self, wait: bool = False):
        """Context in which no other process has the directory: `vfd_tf.files.owned`."""
        return files.owned(self.path, wait)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def student(self, which: str) -> str:
        """Path of the "best", the "last" or the "average" student."""
        return self.file(f"{which}.keras")

    @property
    def students(self) -> tuple[str, ...]:
        """Which students there are: "best", "last", and "average" where there is one."""
        names = ("best", "last", "average")
        return tuple(name for name in names if os.path.exists(self.student(name)))

    @property
    def key(self) -> str:
        """Name of the run's identity."""
        return key(self._json("run.json")["identity"])

    @property
    def results(self) -> dict:
        """What results.json says; {} without one."""
        results = self._json("results.json")
        if not sound.are_results(results):
            raise self._damaged("results.json", "its accuracies or times are none")
        return results

    @property
    def complete(self) -> bool:
        return "wall_time_s" in self.results

    def check_owner(self, identity: dict, fields: dict[str, dict]) -> None:
        """Raises `InputError` if something else than this run has the directory."""
        owner = self.owner
        if not owner and os.path.isdir(self.path) and set(os.listdir(self.path)) - _OWN:
            raise InputError(
                f"{self.path} holds files but no run; choose another --workdir."
            )
        other = differences(owner, identity, fields) if owner else []
        if other:
            raise InputError(
                f"{self.path} holds a run with {', '.join(other)}; choose another "
                "--workdir, or leave it out for a directory of its own."
            )

    @property
    def owner(self) -> dict:
        """What run.json says: "identity" and "fields" of the run; {} without one."""
        owner = self._json("run.json")
        for name in ("identity", "fields") if owner else ():
            if not isinstance(owner.get(name), dict):
                raise InputError(
                    f"{self.file('run.json')} has no {name!r}, which names the run: "
                    f"{REMEDIES['run.json']}."
                )
        if owner and not sound.is_owner(owner["identity"], owner["fields"]):
            raise self._damaged("run.json", "its fields are none")
        return owner

    def claim(self, identity: dict, fields: dict[str, dict], flags: str) -> None:
        """Writes down whose directory this is."""
        os.makedirs(self.path, exist_ok=True)
        self._write("flags.txt", flags)
        owner = {"identity": identity, "fields": fields}
        self._write("run.json", json.dumps(owner, indent=2) + "\n")

    def adopt(self, source: "RunDirectory") -> None:
        """Copies what another run has come to, to go on from there; its state last."""
        for name in _PROGRESS:
            if os.path.exists(source.file(name)):
                with files.replaced(self.file(name)) as partial:
                    shutil.copyfile(source.file(name), partial)

    def save(self, trainer, state: State) -> None:
        """Writes what `restore` needs to go on after this epoch."""
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(_variables(trainer))}
        arrays["state"] = np.array(json.dumps(dataclasses.asdict(state)))
        with (
            files.replaced(self.file("resume.npz")) as partial,
            open(partial, "wb") as file,
        ):
            np.savez(file, **arrays)

    def state(self) -> State:
        """How far the run has come; epoch 0 where nothing was saved."""
        return self._saved()[0]

    def restore(self, trainer) -> State:
        """Puts a saved state, if there is one, into the trainer."""
        state, saved = self._saved()
        if not saved:
            return state
        variables = _variables(trainer)
        shapes = [saved[name].shape for name in saved]
        if shapes != [tuple(v.shape) for v in variables] or "v0" not in saved:
            raise InputError(
                f"{self.path} was begun by another version: its resume.npz has other "
                "variables. Remove the directory to start again."
            )
        for i, variable in enumerate(variables):
            variable.assign(saved[f"v{i}"])
        return state

    def _saved(self):
        """The state and the arrays of resume.npz."""
        path, remedy = self.file("resume.npz"), REMEDIES["resume.npz"]
        saved = files.read_arrays(path, remedy)
        if not saved:
            return State(), {}
        with files.read_or_refused(path, remedy):
            state = State(**archives.read_json(str(saved.pop("state"))))
            if not sound.is_state(state):
                raise ValueError("its state is none")
            return state, saved

    def saver(self, monitor: str, state: State) -> "Saver":
        """Callback that keeps this directory up to date; `monitor` chooses the best."""
        return Saver(self, monitor, state)

    def save_student(self, student, which: str) -> None:
        with files.replaced(self.student(which), ".part.keras") as partial:
            student.save(partial)

    def write_history(self, history: list[dict]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in history)
        self._write("metrics.jsonl", lines)
        columns = list(dict.fromkeys(name for row in history for name in row))
        with (
            files.replaced(self.file("history.csv")) as partial,
            open(partial, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)

    def finish(self, epochs: int, seed: int, strategy) -> None:
        """Marks training as complete and records what made it.

        Raises:
            InputError: It ended before so many epochs.
        """
        state = self.state()
        if state.epoch < epochs:
            raise InputError(
                f"{self.path}: training ended after {state.epoch} of {epochs} epochs, and "
                "the run is not complete; the same command continues it."
            )
        self._merge(
            seed=seed,
            best_epoch=state.best_epoch,
            wall_time_s=round(state.seconds, 1),
            replicas=strategy.num_replicas_in_sync,
            **provenance(),
        )

    def accuracies(self, which: str, threat: str, count: str) -> dict[str, float]:
        """Percentages known for a student under a threat model on that many images."""
        known = self.results.get("accuracies", {})
        return known.get(which, {}).get(f"{threat} {count}", {})

    def keep_only(self, test_data: str) -> None:
        """Drops verdicts on other test images than those of this digest."""
        known = self.results.get("test_data")
        if known not in (None, test_data):
            self._merge(accuracies={})
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.file("verdicts.npz"))
        if known != test_data:
            self._merge(test_data=test_data)

    def verdicts(self, which: str, threat: str, count: str) -> dict[str, np.ndarray]:
        """Column -> bool [n] known for a student: which test images it got right."""
        prefix, everything = f"{which}|{threat} {count}|", self._verdicts()
        found = {
            name[len(prefix) :]: right
            for name, right in everything.items()
            if name.startswith(prefix)
        }
        shape = (int(count.removeprefix("n=")),)
        if any(right.dtype != bool or right.shape != shape for right in found.values()):
            raise self._damaged("verdicts.npz", "its verdicts are of other images")
        return found

    def _verdicts(self):
        path = self.file("verdicts.npz")
        return files.read_arrays(path, REMEDIES["verdicts.npz"])

    def add_verdicts(self, which, threat, count, verdicts) -> None:
        """Adds columns of verdicts, and the accuracies they amount to."""
        everything = self._verdicts()
        new = {f"{which}|{threat} {count}|{name}": v for name, v in verdicts.items()}
        with (
            files.replaced(self.file("verdicts.npz")) as partial,
            open(partial, "wb") as file,
        ):
            np.savez_compressed(file, **{**everything, **new})
        known = self.results.get("accuracies", {})
        row = known.setdefault(which, {}).setdefault(f"{threat} {count}", {})
        row.update(accuracies(self.verdicts(which, threat, count)))
        self._merge(accuracies=known)

    def _merge(self, **entries) -> None:
        results = {**self.results, **entries}
        self._write("results.json", json.dumps(results, indent=2) + "\n")

    def _damaged(self, name: str, reason: str) -> InputError:
        return InputError(f"{self.file(name)} is damaged ({reason}): {REMEDIES[name]}.")

    def _json(self, name: str) -> dict:
        return files.read_json(self.file(name), REMEDIES[name])

    def _write(self, name: str, text: str) -> None:
        with files.replaced(self.file(name)) as partial, open(partial, "w") as file:
            file.write(text)


class Saver(keras.callbacks.Callback):
    """Saves students, state and history at the end of every epoch."""

    def __init__(self, directory: RunDirectory, monitor: str, state: State):
        super().__init__()
        self.directory, self.monitor, self.state = directory, monitor, state
        self.since = time.time()

    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(rate))
        row = {name: float(value) for name, value in logs.items()}
        state = self.state
        state.epoch = epoch + 1
        state.seconds += time.time() - self.since
        self.since = time.time()
        state.history.append({"epoch": epoch + 1, **row})
        if row[self.monitor] > state.best:
            state.best, state.best_epoch = row[self.monitor], epoch + 1
            self.directory.save_student(self.model.student, "best")
        self.directory.save_student(self.model.student, "last")
        if self.model.average is not None and self.model.average.started:
            with self.model.averaged() as student:
                self.directory.save_student(student, "average")
        self.directory.write_history(state.history)
        self.directory.save(self.model, state)


def differences(owner: dict, identity: dict, fields: dict[str, dict]) -> list[str]:
    """What a run.json has otherwise than a run of this identity and these fields.

    Fields count where both know them, so that one added later doesn't.
    """
    theirs = owner["fields"]
    other = [
        f"{part}.{name.rstrip('_')} {theirs[part][name]} (now {value})"
        for part in fields.keys() & theirs.keys()
        for name, value in fields[part].items()
        if name in theirs[part] and theirs[part][name] != value
    ]
    known = owner["identity"]
    other += [
        f"{name} {known.get(name)} (now {identity.get(name)})"
        for name in {*known, *identity}
        if known.get(name) != identity.get(name)
    ]
    return sorted(other)


def _variables(trainer):
    """Everything of a trainer that training moves; its teachers are not among them."""
    return [*trainer.weights, *trainer.optimizer.variables, *random_states(trainer)]


def key(identity: dict) -> str:
    """Eight hexadecimal digits that name an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def provenance() -> dict[str, str | None]:
    """Versions and commit of what runs."""
    import tensorflow as tf

    import vfd_tf

    return {
        "vfd_tf": vfd_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "git_commit": _commit(os.path.dirname(os.path.dirname(vfd_tf.__file__))),
        "devices": ", ".join(d.name for d in tf.config.list_logical_devices()),
    }


def _commit(root: str) -> str | None:
    """The commit of the checkout at `root`, "-dirty" if changed; None without one."""

    def git(*words):
        command = ["git", "-C", root, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel").strip(), root):
            return None  # installed inside a checkout of something else
        return git("describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
