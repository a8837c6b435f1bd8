"""The callback that keeps a run directory up to date while its run is being trained."""

import keras

from vfd_tf.training.saving.checkpoint import Checkpoint

_CLOCK = ("images_per_second",)  # no part of the history: it depends on the machine


class Saver(Checkpoint):
    """Saves a run: checkpoints, and at the end of every epoch students and history.

    Behind what writes curves: those of an epoch that is run again are written again.
    """

    private = True  # every worker has a directory of its own

    def __init__(self, directory, monitor: str, **when):
        super().__init__(directory.path, monitor=monitor, **when)
        self.directory = directory

    def restore(self, trainer, seekable=True):
        state = super().restore(trainer, seekable)
        state.stopped = False  # a run is complete after its last epoch, not before
        return state

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        state, end = self.state, self.params["epochs"]
        done = f", step {state.step}" if state.step else ""
        print(f"{self.directory.path}: from epoch {state.epoch}{done} to {end}")

    def row(self, logs):
        rate = self.model.optimizer.learning_rate
        rate = float(keras.ops.convert_to_numpy(rate))
        known = {**super().row(logs), "learning_rate": rate}
        return {name: value for name, value in known.items() if name not in _CLOCK}

    def files_of_epoch(self):
        self.save_student("last")
        average = self.model.average
        if average is not None and average.started:
            with self.model.averaged():
                self.save_student("average")
        self.directory.write_history(self.state.history)
