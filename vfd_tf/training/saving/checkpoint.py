"""The callback that saves a training, so that the same `fit` goes on where it was."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import io
import json
import os
import time
import warnings
from typing import Any

import keras
import numpy as np

from vfd_tf import files
from vfd_tf.checkpoints import Checkpoints, State
from vfd_tf.hyperparameters import InputError
from vfd_tf.signals import NAMES, Signals, Stopped
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.training.saving import training_state
from vfd_tf.training.saving.divergence import (
    BEFORE,
    ROLLBACKS,
    Diverged,
    RolledBack,
    StopOnDivergence,
    left_out,
)

_TALK = 1.0  # seconds between two agreements of workers
_FURTHEST = 1000  # steps, at most


class Checkpoint(keras.callbacks.Callback):
    """Saves a training; the same `fit`, started again, goes on to the same bits.

        trainer.fit(x, y, epochs=100, callbacks=[vfd_tf.callbacks.Checkpoint("folder")])

    Saved are weights, optimizer, averages, BatchNorm's statistics, seeds, metrics, the
    history, and what Keras's EarlyStopping, ReduceLROnPlateau and ModelCheckpoint learn.
    Arrays and `TrainingBatches` are saved in the middle of an epoch; of another tf.data set
    only the end of an epoch is a place to come back to, and `fit` says so.

    A signal stops training at the next step, saves it, and raises `Stopped`, which ends a
    script with exit code 75; a second SIGINT at once.

    Args:
        directory: Folder of the checkpoints; of several workers the chief's counts.
        minutes: Between two checkpoints in an epoch.
        steps: Steps between two checkpoints in an epoch as well; None: minutes alone.
        keep: How many of the newest stay.
        monitor: Name in the logs whose best epoch is kept as `best.keras`; None: none.
        mode: Whether "max" or "min" of it is best.
        signals: Those that stop training; () leaves them alone.

    Raises:
        InputError: A number out of range, or a signal that there isn't.
    """

    def __init__(
        self,
        directory: str,
        minutes: float = 10.0,
        steps: int | None = None,
        keep: int = 2,
        monitor: str | None = None,
        mode: str = "max",
        signals: tuple[str, ...] = NAMES,
    ):
        super().__init__()
        if not minutes > 0 or (steps is not None and steps < 1) or keep < 1:
            raise InputError(
                f"Checkpoint needs minutes above 0, steps and keep from 1; got {minutes}, "
                f"{steps} and {keep}."
            )
        if mode not in ("max", "min"):
            raise InputError(f"Checkpoint's mode is 'max' or 'min'; got {mode!r}.")
        self.store = Checkpoints(directory, keep)
        self.minutes, self.steps = minutes, steps
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.signals = Signals(signals)
        self.state, self.others, self.seekable = State(), [], True
        self._arrays = self._writing = None
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")

    # Who writes: of several workers, which may share the folder, the chief.
    private = False

    @contextlib.contextmanager
    def around(self, callbacks: list) -> Any:
        """Inside, the signals are this callback's; what is being written is waited for."""
        self.others = [c for c in callbacks if c is not self]
        try:
            with self.signals:
                yield
        finally:
            self._listening.waits = False
            self._wait()

    def restore(self, trainer: Any, seekable: bool = True) -> State:
        """Puts the newest checkpoint into a trainer: how far training has come.

        Args:
            seekable: Whether training can begin in the middle of an epoch.

        Raises:
            InputError: There are checkpoints, and none of them can be used.
        """
        self.cluster, self.seekable = Cluster(trainer.distribute_strategy), seekable
        if self.writes:  # from here on, a folder that is gone is an error
            os.makedirs(self.store.folder, exist_ok=True)
        self.state, self._arrays = State(since=int(trainer.iteration.numpy())), None
        found = self._newest(trainer)
        if found:
            self.state, self._arrays = found
            training_state.restore(trainer, self._arrays)
        if self.state.step and not seekable:
            raise InputError(
                f"{self.store.folder} was saved in the middle of an epoch: pass the arrays "
                "or TrainingBatches that training began with."
            )
        return self.state

    def _newest(self, trainer):
        """(state, arrays) of the newest checkpoint, which workers get from the chief."""

        def fits(arrays):
            return training_state.fits(trainer, arrays)

        if self.cluster.count == 1:
            return self.store.newest(fits)
        found, refusal, packed = None, None, io.BytesIO()
        if self.cluster.chief:
            try:
                found = self.store.newest(fits)
            except InputError as error:
                refusal = str(error)
            np.savez(packed, **_packed(found, refusal))
        data = io.BytesIO(self.cluster.from_chief(packed.getvalue()))
        with np.load(data, allow_pickle=False) as arrays:
            return _unpacked(dict(arrays))

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if not hasattr(model, "iteration"):
            raise InputError(
                "Checkpoint needs an AdversarialTrainer; wrap the model in one."
            )

    def on_train_begin(self, logs=None) -> None:
        self._fresh, self._since, self._saved = True, time.time(), time.time()
        self._seen, self._meeting, self._met = 0, 1, (0, time.time())
        steps = self.model.train_function
        steps.continue_at(self.state.step, self.state.logs, self._restore_metrics)
        if self.state.passed_over:
            steps.leave_out(self._leaves_out)
        # Behind `on_train_begin` of all others, which forget there; also where no epoch is
        # left, since some act at the end of training.
        training_state.teach(self.others, self.state.callbacks, self._arrays or {})
        if not self.state.step:
            self._arrays = None

    def say_places(self, seekable: bool) -> None:
        """Prints where training can be taken up again, unless that is anywhere."""
        if not seekable:
            print(
                "Checkpoint: a data set of your own is taken up again at the end of an "
                "epoch; pass arrays or TrainingBatches for any step."
            )

    def _leaves_out(self):
        """Whether the next step is left out; then it counts as made."""
        step = int(self.model.iteration.numpy())
        leaves_out = left_out(step, self.state.passed_over)
        if leaves_out:
            self.model.iteration.assign_add(1)
        return leaves_out

    def roll_back(self, lost: RolledBack) -> None:
        """Makes the last whole epoch the newest checkpoint, and notes what to leave out.

        Raises:
            Diverged: It was the last of several times.
        """
        self._wait()
        before = [*self.state.passed_over, lost.step]
        if len(before) > ROLLBACKS:
            raise Diverged(
                f"{lost}; it was the {len(before)}th time: lower the learning rate.",
                lost.step,
            ) from lost
        if self.writes:
            state = self.store.roll_back(before)
            print(
                f"{lost}. It goes back to the end of epoch {state.epoch} and leaves out "
                f"that step and the {BEFORE} before it."
            )

    def _restore_metrics(self):
        training_state.restore_metrics(self.model, self._arrays, self.cluster)
        self._arrays = None

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        if self._fresh:  # after `on_train_begin` of Keras's own, which forgets there
            self._fresh = False
            self._restore_history()
            begins = not self.state.epoch and not self.state.step
            if begins and self.model.options.on_nan == "rollback":
                self._save()  # to go back to
        self._listening.waits = self.seekable

    @property
    def _listening(self):
        """The signals that count: those of the command line, where it listens already."""
        return Signals.active or self.signals

    def _restore_history(self):
        history = getattr(self.model, "history", None)
        if not self.state.history or not isinstance(history, keras.callbacks.History):
            return
        history.epoch = [row["epoch"] - 1 for row in self.state.history]
        names = dict.fromkeys(n for row in self.state.history for n in row if n != "epoch")
        history.history = {
            n: [row[n] for row in self.state.history if n in row] for n in names
        }

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        last = batch + 1 == self.params.get("steps")
        if self.seekable and not self.model.train_function.passing:
            self._save_if_due(batch, logs, last)
        if last:
            self._listening.waits = False
            self._listening.check()  # what came while it was saved

    def _save_if_due(self, batch, logs, last):
        self._seen += 1
        save, stop = self._agreed(last)
        if save or stop or last:
            self.state.step = batch + 1
            self.state.logs = _plain(logs)
            self._save()
        if stop:
            self._wait(ends=True)
            # What ends first may end all: not before the chief has written.
            self.cluster.sum(np.zeros(1))
            self._listening.check()
            raise Stopped(NAMES[0])  # another worker was asked

    def _agreed(self, last):
        """(whether to save, whether to stop), the same for all workers."""
        now, counted = time.time(), self.steps is not None and self._seen % self.steps == 0
        due = counted or now - self._saved >= 60 * self.minutes
        asked = self._listening.asked is not None
        if self.cluster.count == 1:
            return due, asked
        if not counted and not last and self._seen < self._meeting:
            return False, False
        # The chief's clock decides when to save, and how soon to ask all again.
        (seen, then), self._met = self._met, (self._seen, now)
        pace = (now - then) / (self._seen - seen)
        ahead = min(_FURTHEST, max(1, round(_TALK / max(pace, 1e-9))))
        own = [due, ahead] if self.cluster.chief else [0, 0]
        due, ahead, asked = self.cluster.sum([*own, asked])
        self._meeting = self._seen + int(ahead)
        return bool(due), bool(asked)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        state, row = self.state, self.row(logs or {})
        state.epoch, state.step, state.logs = epoch + 1, 0, {}
        state.stopped = self.model.stop_training
        state.history.append({"epoch": epoch + 1, **row})
        self._keep_best(epoch, row)
        self.files_of_epoch()
        self._save()

    def row(self, logs: dict) -> dict[str, Any]:
        """What the history has of an epoch's logs."""
        return _plain(logs)

    def _keep_best(self, epoch, row):
        if self.monitor is None:
            return
        if self.monitor not in row:
            raise InputError(
                f"Checkpoint can't monitor {self.monitor!r}: the logs have "
                f"{', '.join(sorted(row))}."
            )
        value, state = self.sign * row[self.monitor], self.state
        if value > state.best:
            state.best, state.best_epoch = value, epoch + 1
            if self.writes:
                self.save_student("best")

    @property
    def writes(self) -> bool:
        return self.private or self.cluster.chief

    def save_student(self, which: str) -> None:
        """Writes the student of now as `<which>.keras`."""
        path = os.path.join(self.store.folder, f"{which}.keras")
        with files.replaced(path, ".part.keras") as partial:
            self.model.student.save(partial)

    def files_of_epoch(self) -> None:
        """What else is written at the end of an epoch, before its checkpoint."""

    def _save(self):
        """Takes a copy of everything; writes it beside the training.

        Raises:
            Diverged: What would be written is not finite.
        """
        for callback in self.others:
            if isinstance(callback, StopOnDivergence):
                callback.look()
        now = time.time()
        self.state.seconds += now - self._since
        self._since = self._saved = now
        arrays = training_state.arrays_of(self.model, self.cluster)
        numbers, more = training_state.learned(self.others)
        self.state.callbacks = numbers
        self._wait()
        if self.writes:
            state = copy.deepcopy(self.state)
            writing = self._writer.submit(self.store.write, state, arrays | more)
            self._writing = writing, state.step

    def _wait(self, ends=False):
        """Until what is being written is on the disk.

        Args:
            ends: Whether training ends with it.

        Raises:
            OSError: It couldn't be written, and no other one comes before the next epoch.
        """
        (writing, step), self._writing = self._writing or (None, 0), None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            if ends or not step:
                raise
            warnings.warn(
                f"A checkpoint is not written ({files.sentence(error)}); training goes on "
                "to the next one.",
                stacklevel=2,
            )

    def on_train_end(self, logs=None) -> None:
        if self._fresh:  # no epoch was left to train
            self._restore_history()
        self._wait()


def _plain(logs):
    """Logs as JSON has them: numbers, and of metrics with several values lists."""
    return {name: np.asarray(value, float).tolist() for name, value in logs.items()}


def _packed(found, refusal):
    state, arrays = found or (None, {})
    text = {"state": state and dataclasses.asdict(state), "refusal": refusal}
    return {**arrays, "packed": np.array(json.dumps(text))}


def _unpacked(arrays):
    text = json.loads(str(arrays.pop("packed")))
    if text["refusal"]:
        raise InputError(text["refusal"])
    return (State(**text["state"]), arrays) if text["state"] else None
