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
"""

import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import subprocess
import time

import keras
import numpy as np

from vfd_tf.evaluation import accuracies
from vfd_tf.part import InputError


@dataclasses.dataclass
class State:
    """How far a run has come."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict] = dataclasses.field(default_factory=list)


class RunDirectory:
    """One run on disk. Files are replaced whole, so that a crash leaves the older one."""

    def __init__(self, path: str, label: str = "run"):
        self.path, self.label = path, label

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
    def complete(self) -> bool:
        return "wall_time_s" in self._json("results.json")

    def check_owner(self, identity: dict, fields: dict[str, dict]) -> None:
        """Raises `InputError` if something else than this run has the directory.

        Fields count where both know them, so that one added later doesn't.
        """
        owner = self._json("run.json")
        if not owner and os.path.isdir(self.path) and os.listdir(self.path):
            raise InputError(
                f"{self.path} holds files but no run; choose another --workdir."
            )
        theirs = owner.get("fields", {})
        other = [
            f"{part}.{name.rstrip('_')} {theirs[part][name]} (now {value})"
            for part in fields.keys() & theirs.keys()
            for name, value in fields[part].items()
            if name in theirs[part] and theirs[part][name] != value
        ]
        known = owner.get("identity", identity)
        parts = {*known, *identity}
        other += [
            f"{name} {known.get(name)} (now {identity.get(name)})"
            for name in parts
            if known.get(name) != identity.get(name)
        ]
        if other:
            raise InputError(
                f"{self.path} holds a run with {', '.join(sorted(other))}; choose another "
                "--workdir, or leave it out for a directory of its own."
            )

    def claim(self, identity: dict, fields: dict[str, dict], flags: str) -> None:
        """Writes down whose directory this is."""
        os.makedirs(self.path, exist_ok=True)
        self._write("flags.txt", flags)
        owner = {"identity": identity, "fields": fields}
        self._write("run.json", json.dumps(owner, indent=2) + "\n")

    def save(self, trainer, state: State) -> None:
        """Writes what `restore` needs to go on after this epoch."""
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(_variables(trainer))}
        arrays["state"] = np.array(json.dumps(dataclasses.asdict(state)))
        with open(self.file("resume.npz.part"), "wb") as file:
            np.savez(file, **arrays)
        os.replace(self.file("resume.npz.part"), self.file("resume.npz"))

    def restore(self, trainer) -> State:
        """Puts a saved state, if there is one, into the trainer."""
        if not os.path.exists(self.file("resume.npz")):
            return State()
        variables = _variables(trainer)
        with np.load(self.file("resume.npz"), allow_pickle=False) as saved:
            shapes = [saved[n].shape for n in saved.files if n != "state"]
            if shapes != [tuple(v.shape) for v in variables]:
                raise InputError(
                    f"{self.path} was begun by another version: its resume.npz has other "
                    "variables. Remove the directory to start again."
                )
            for i, variable in enumerate(variables):
                variable.assign(saved[f"v{i}"])
            return State(**json.loads(str(saved["state"])))

    def saver(self, monitor: str, state: State) -> "Saver":
        """Callback that keeps this directory up to date; `monitor` chooses the best."""
        return Saver(self, monitor, state)

    def save_student(self, student, which: str) -> None:
        part = self.file(f"{which}.part.keras")
        student.save(part)
        os.replace(part, self.student(which))

    def write_history(self, history: list[dict]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in history)
        self._write("metrics.jsonl", lines)
        columns = list(dict.fromkeys(name for row in history for name in row))
        with open(self.file("history.csv.part"), "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)
        os.replace(self.file("history.csv.part"), self.file("history.csv"))

    def finish(self, seed: int, strategy) -> None:
        """Marks training as complete and records what made it."""
        with np.load(self.file("resume.npz")) as saved:
            state = State(**json.loads(str(saved["state"])))
        self._merge(
            seed=seed,
            best_epoch=state.best_epoch,
            wall_time_s=round(state.seconds, 1),
            replicas=strategy.num_replicas_in_sync,
            **provenance(),
        )

    def accuracies(self, which: str, threat: str, count: str) -> dict[str, float]:
        """Percentages known for a student under a threat model on that many images."""
        known = self._json("results.json").get("accuracies", {})
        return known.get(which, {}).get(f"{threat} {count}", {})

    def keep_only(self, test_data: str) -> None:
        """Drops verdicts on other test images than those of this digest."""
        if self._json("results.json").get("test_data", test_data) != test_data:
            self._merge(accuracies={})
            os.remove(self.file("verdicts.npz"))
        self._merge(test_data=test_data)

    def verdicts(self, which: str, threat: str, count: str) -> dict[str, np.ndarray]:
        """Column -> bool [n] known for a student: which test images it got right."""
        prefix, path = f"{which}|{threat} {count}|", self.file("verdicts.npz")
        if not os.path.exists(path):
            return {}
        with np.load(path) as saved:
            names = [name for name in saved.files if name.startswith(prefix)]
            return {name[len(prefix) :]: saved[name] for name in names}

    def add_verdicts(self, which, threat, count, verdicts) -> None:
        """Adds columns of verdicts, and the accuracies they amount to."""
        path, everything = self.file("verdicts.npz"), {}
        if os.path.exists(path):
            with np.load(path) as saved:
                everything = dict(saved)
        new = {f"{which}|{threat} {count}|{name}": v for name, v in verdicts.items()}
        with open(path + ".part", "wb") as file:
            np.savez_compressed(file, **{**everything, **new})
        os.replace(path + ".part", path)
        known = self._json("results.json").get("accuracies", {})
        row = known.setdefault(which, {}).setdefault(f"{threat} {count}", {})
        row.update(accuracies(self.verdicts(which, threat, count)))
        self._merge(accuracies=known)

    def _merge(self, **entries) -> None:
        results = {**self._json("results.json"), **entries}
        self._write("results.json", json.dumps(results, indent=2) + "\n")

    def _json(self, name: str) -> dict:
        if not os.path.exists(self.file(name)):
            return {}
        with open(self.file(name)) as file:
            return json.load(file)

    def _write(self, name: str, text: str) -> None:
        with open(self.file(name + ".part"), "w") as file:
            file.write(text)
        os.replace(self.file(name + ".part"), self.file(name))


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


def _variables(trainer):
    """Everything of a trainer that training moves; its teachers are not among them."""
    return [*trainer.weights, *trainer.optimizer.variables]


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
