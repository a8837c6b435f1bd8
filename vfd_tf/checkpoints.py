"""Checkpoints in a folder: checked files, of which the newest that is whole counts.

    checkpoint-<whole epochs>-<steps of the next one>.npz

A file holds arrays and, as its "manifest", the JSON of everything else: the state, the
versions that wrote it, and the SHA-256 of all of it.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from typing import Any

import numpy as np

from vfd_tf import archives, files
from vfd_tf.hyperparameters import InputError
from vfd_tf.versions import versions

FORMAT = "vfd_tf checkpoint 1"
REMEDY = "restore it from a copy, or remove it to go on from the one before"
_NAME = re.compile(r"checkpoint-(\d+)-(\d+)\.npz")
_HALF = re.compile(rf"{_NAME.pattern}(\.{files.MARK})?{re.escape(files.PART)}")


@dataclasses.dataclass
class State:
    """How far a training has come.

    Attributes:
        epoch: Whole epochs, with their validation.
        step: Steps of the next one.
        since: The trainer's step at which all of this began.
        stopped: Whether a callback has ended training.
        best, best_epoch: Of the value that is monitored.
        seconds: Spent so far.
        history: What was logged, one row an epoch.
        logs: Metrics and losses of the steps of the next epoch, so far: numbers, or lists.
        passed_over: Steps of the whole training whose batches are left out.
        callbacks: What other callbacks know from epoch to epoch.
    """

    epoch: int = 0
    step: int = 0
    since: int = 0
    stopped: bool = False
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict] = dataclasses.field(default_factory=list)
    logs: dict[str, Any] = dataclasses.field(default_factory=dict)
    passed_over: list[int] = dataclasses.field(default_factory=list)
    callbacks: dict[str, dict] = dataclasses.field(default_factory=dict)

    def checked(self) -> "State":
        """This one, from a file that may be a stranger's.

        Raises:
            ValueError: A value is not what it is declared to be.
        """
        counts = [self.epoch, self.step, self.since, self.best_epoch, *self.passed_over]
        logged = [value for row in [self.logs, *self.history] for value in row.values()]
        numbers = [self.best, self.seconds]
        numbers += [n for value in logged for n in np.ravel(value).tolist()]
        known = [value for each in self.callbacks.values() for value in each.values()]
        if not (
            all(type(n) is int and 0 <= n < 2**63 for n in counts)
            and all(type(n) is float or type(n) is int and abs(n) < 2**63 for n in numbers)
            and not any(isinstance(value, (dict, list)) for value in known)
            and type(self.stopped) is bool
        ):
            raise ValueError("its state is not valid")
        return self


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: Where they are, or will be.
        keep: How many of the newest stay; the newest between two epochs stays as well.
    """

    def __init__(self, folder: str, keep: int = 2):
        self.folder, self.keep = os.fspath(folder), keep

    def paths(self) -> list[str]:
        """All checkpoints, the newest first."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else ()
        places = {name: _place(name) for name in names if _NAME.fullmatch(name)}
        ordered = sorted(places, key=places.get, reverse=True)
        return [os.path.join(self.folder, name) for name in ordered]

    def whole_epoch(self) -> str | None:
        """The newest checkpoint between two epochs."""
        places = ((path, _place(os.path.basename(path))) for path in self.paths())
        return next((path for path, (_, step) in places if not step), None)

    def path(self, state: State) -> str:
        """The file of a state."""
        name = f"checkpoint-{state.epoch:05d}-{state.step:08d}.npz"
        return os.path.join(self.folder, name)

    def write(self, state: State, arrays: dict[str, np.ndarray]) -> None:
        """Writes a checkpoint, whole or not at all; then removes old ones.

        Raises:
            OSError: It can't be written, or the folder is gone.
        """
        manifest = {"format": FORMAT, "versions": versions()}
        manifest["state"] = dataclasses.asdict(state)
        manifest["sha256"] = _sha256(manifest, arrays)
        text = np.array(json.dumps(manifest))
        with (
            files.replaced(self.path(state)) as partial,
            open(partial, "wb") as file,
        ):
            np.savez(file, manifest=text, **arrays)
        self._prune()

    def _prune(self):
        for path in self.paths()[self.keep :]:
            if path != self.whole_epoch():
                os.remove(path)
        for name in os.listdir(self.folder):
            # Half written by a process that was killed.
            if _HALF.fullmatch(name):
                os.remove(os.path.join(self.folder, name))

    def keep_whole_epoch(self) -> None:
        """Removes all but the newest checkpoint between two epochs."""
        for path in self.paths():
            if path != self.whole_epoch():
                os.remove(path)

    def roll_back(self, passed_over: list[int]) -> State:
        """Goes back to the newest checkpoint between two epochs, and changes one thing.

        Args:
            passed_over: See `State`.

        Returns:
            Its state.

        Raises:
            InputError: There is none, or it can't be read.
        """
        path = self.whole_epoch()
        if path is None:
            raise InputError(
                f"{self.folder} has no checkpoint between two epochs to go back to: train "
                "from the beginning with on_nan='rollback'."
            )
        state, arrays = self._read(path)
        state.passed_over = passed_over
        self.write(state, arrays)
        for newer in self.paths():
            if newer == path:
                return state
            os.remove(newer)

    def newest(self, fits=lambda arrays: True) -> tuple[State, dict] | None:
        """(state, arrays) of the newest checkpoint that is whole, or None without any.

        Args:
            fits: arrays -> whether they are those of this training.

        Raises:
            InputError: There are checkpoints, and none can be used.
        """
        refusals = []
        for path in self.paths():
            try:
                state, arrays = self._read(path)
                if not fits(arrays):
                    raise InputError(f"{path} is of another network, optimizer or version.")
            except InputError as error:
                refusals.append(str(error).split(": ")[0].rstrip("."))
                continue
            for refusal in refusals:
                print(f"Note: {refusal}; training goes on from {path}.", flush=True)
            return state, arrays
        if refusals:
            raise InputError(
                f"No checkpoint can be used: {'; '.join(refusals)}. Restore one from a "
                f"copy, or remove them from {self.folder} to train from the first epoch."
            )
        return None

    def _read(self, path):
        arrays = files.read_arrays(path, REMEDY)
        with files.read_or_refused(path, REMEDY):
            manifest = archives.read_json(str(arrays.pop("manifest")))
            known = manifest.pop("sha256")
            if manifest["format"] != FORMAT or known != _sha256(manifest, arrays):
                raise ValueError("its checksum is another")
            state = State(**manifest["state"]).checked()
        _say_versions(path, manifest["versions"])
        return state, arrays

    def state(self) -> State:
        """How far training has come, of the newest file that tells, without its arrays.

        Raises:
            InputError: None tells.
        """
        refusal = None
        for path in self.paths():
            try:
                text = str(files.read_array(path, REMEDY, "manifest"))
                with files.read_or_refused(path, REMEDY):
                    return State(**archives.read_json(text)["state"]).checked()
            except InputError as error:
                refusal = error
        if refusal:
            raise refusal
        return State()


def _place(name):
    epoch, step = _NAME.fullmatch(name).groups()
    return int(epoch), int(step)


def _sha256(manifest, arrays):
    sha = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view("uint8"))
    return sha.hexdigest()


def _say_versions(path, then):
    now = versions()
    other = [f"{n} {v} (now {now.get(n)})" for n, v in then.items() if now.get(n) != v]
    if other:
        print(
            f"Note: {path} was written with {', '.join(other)}; what follows may differ in "
            "the last digits from an unbroken run."
        )
