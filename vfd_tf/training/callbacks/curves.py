"""The curves of a run in TensorBoard: grouped, on one axis, with hyper-parameters."""

import glob
import os
import re
import time

import keras
import tensorflow as tf

from vfd_tf import files

_GROUPS = (
    ("schedule", r"learning_rate|.*_weight|vfd_lambda|attack_scale|awp_gamma"),
    ("speed", r".*_per_second|skipped_steps|loss_scale"),
    ("vfd", r"vfd_.*|.*_distance_.*"),
    ("loss", r"(.*_)?loss|.*_share|gradient_norm"),
    ("accuracy", r"(.*_)?acc(uracy)?|catastrophic_overfitting"),
)
_VALIDATION = "val_"


def tag_of(name: str) -> str:
    """The tag of a value in the logs, `val_` left out: accuracy/accuracy, vfd/vfd_loss."""
    name = name.removeprefix(_VALIDATION)
    groups = (group for group, names in _GROUPS if re.fullmatch(names, name))
    return f"{next(groups, 'metric')}/{name}"


class Curves(keras.callbacks.Callback):
    """Writes what is in the logs at the end of every epoch, for TensorBoard.

    The step is the epoch as it is printed, 1 for the first. Values of validation go to
    `<log_dir>/validation` under the tag of their training value in `<log_dir>/train`, so
    that both share a chart. Hyper-parameters go to `<log_dir>` itself, where
    `write_accuracies` adds what is known after the fit. A fit that begins at an earlier
    epoch than what is there takes the place of the later epochs.

    Behind all callbacks that add to the logs. `keras.callbacks.TensorBoard` may be used as
    well, with a folder of its own.

    Args:
        log_dir: TensorBoard's folder of the run.
        hyperparameters: Name -> number, text, bool, or a list or None, shown as text.
    """

    def __init__(self, log_dir, hyperparameters=None):
        super().__init__()
        self.log_dir, self.hyperparameters = log_dir, hyperparameters
        self._writers = {}

    def on_epoch_begin(self, epoch, logs=None):
        if self._writers:
            return
        for part in ("train", "validation"):
            self._writers[part] = _Writer(os.path.join(self.log_dir, part), epoch + 1)
        if self.hyperparameters:
            _write_hyperparameters(self.log_dir, self.hyperparameters)

    def on_epoch_end(self, epoch, logs=None):
        rate = getattr(getattr(self.model, "optimizer", None), "learning_rate", None)
        values = dict(logs or {})
        if rate is not None:
            values.setdefault("learning_rate", keras.ops.convert_to_numpy(rate))
        for name, value in values.items():
            part = "validation" if name.startswith(_VALIDATION) else "train"
            self._writers[part].scalar(tag_of(name), float(value), epoch + 1)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def write_accuracies(log_dir: str, student: str, threat: str, accuracies: dict) -> None:
    """Adds accuracies in percent as test/<student>/<threat>/<attack>, also for HParams."""
    writer = _Writer(log_dir)
    for name, value in accuracies.items():
        writer.scalar(f"test/{student}/{threat}/{name}", value, 0)
    writer.close()


def _write_hyperparameters(log_dir, values):
    from tensorboard.plugins.hparams import api

    plain = (bool, int, float, str)
    shown = {n: v if isinstance(v, plain) else _text(v) for n, v in values.items()}
    writer = _Writer(log_dir)
    writer.add(api.hparams_pb(shown, trial_id=log_dir), 0)
    writer.close()


def _text(value):
    listed = isinstance(value, (list, tuple))
    return ",".join(map(str, value)) if listed else str(value).lower()


class _Writer:
    """A new file of events in a folder; what is there from step `first` on goes."""

    def __init__(self, folder, first=None):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if first is not None:
            remove_from(folder, first)
        self._event, self._file = Event, EventFileWriter(folder)

    def scalar(self, tag, value, step):
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self.add(scalar_pb(tag, value), step)

    def add(self, summary, step):
        event = self._event(step=step, wall_time=time.time(), summary=summary)
        self._file.add_event(event)

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()


def remove_from(folder: str, first: int) -> None:
    """Takes the events of a step and all later ones out of the files of a folder."""
    if not os.path.isdir(folder):
        return
    files.remove_parts(folder)
    for path in glob.glob(os.path.join(glob.escape(folder), "*.tfevents.*")):
        events = list(_events(path))
        kept = [e for e in events if e.step < first]
        if len(kept) == len(events):
            continue
        with files.replaced(path) as partial, tf.io.TFRecordWriter(partial) as file:
            for event in kept:
                file.write(event.SerializeToString())


def _events(path):
    """All events of a file, as far as it can be read."""
    from tensorboard.backend.event_processing import event_file_loader

    return event_file_loader.LegacyEventFileLoader(path).Load()
