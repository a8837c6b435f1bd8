"""Losses, gradients and weights that stop being finite: which step it was, what follows.

`TrainingOptions(on_nan=...)` decides: training stops, leaves the step out and goes on, or
goes back to the last whole epoch and leaves out the batches that led there.
"""

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import files
from vfd_tf.hyperparameters import InputError
from vfd_tf.training.devices import replicas
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.types import Tensor

FILE = "not_finite.json"
BEFORE = 20  # steps before the one that diverged, left out with it
ROLLBACKS = 10  # at most
_EVERY = 1.0  # seconds between two looks
_STEPS = 100  # between two looks of workers, who look at the same time
_SHOWN = 8


class Diverged(InputError):
    """Training diverged.

    Attributes:
        step: The trainer's step, from 0.
    """

    def __init__(self, sentence: str, step: int):
        super().__init__(sentence)
        self.step = step


class RolledBack(Diverged):
    """Training diverged and goes back to the last whole epoch."""


def left_out(step: int, diverged: list[int]) -> bool:
    """Whether a step is left out where training went back from these."""
    return any(at - BEFORE <= step <= at for at in diverged)


class Watch:
    """Notes the first step whose terms or gradient are not finite.

    Args:
        add_weight: `add_weight` of the trainer.
        terms: Names of the terms of the loss.
    """

    def __init__(self, add_weight: Callable, terms: list[str]):
        self.terms = terms
        own = {"shape": (), "dtype": "int64", "trainable": False}
        own["aggregation"] = "only_first_replica"
        least = keras.initializers.Constant(-1)
        self.step = add_weight(name="first_not_finite", initializer=least, **own)
        self.parts = add_weight(name="parts_not_finite", initializer="zeros", **own)

    def look(self, step: Tensor, terms: dict[str, Tensor], gradient_norm: Tensor) -> Tensor:
        """Whether a step is finite on all replicas, a bool; notes the first that isn't."""
        values = [terms[name] for name in self.terms] + [gradient_norm]
        lost = [~tf.reduce_all(tf.math.is_finite(value)) for value in values]
        (lost,) = replicas.summed([tf.cast(tf.stack(lost), tf.float32)])
        bits = tf.constant([2**i for i in range(len(values))], tf.int64)
        parts = tf.reduce_sum(tf.where(lost > 0, bits, tf.zeros_like(bits)))
        first = (parts > 0) & (self.step.value < 0)
        self.step.assign(tf.where(first, step, self.step.value))
        self.parts.assign(tf.where(first, parts, self.parts.value))
        return parts == 0

    def found(self) -> tuple[int, list[str]] | None:
        """(the first step that wasn't finite, what of it wasn't), or None."""
        step = int(self.step.numpy())
        if step < 0:
            return None
        names = [f"{term}_loss" for term in self.terms] + ["gradient"]
        names = ["loss" if name == "total_loss" else name for name in names]
        parts = int(self.parts.numpy())
        return step, [name for i, name in enumerate(names) if parts >> i & 1]

    def clear(self) -> None:
        self.step.assign(-1)
        self.parts.assign(0)


class StopOnDivergence(keras.callbacks.Callback):
    """What `TrainingOptions(on_nan=...)` says; every `AdversarialTrainer.fit` has one.

    Looks once a second and at the end of an epoch, and before a `Checkpoint` saves; what
    it reports is the first step that was not finite, and the images of its batch.

    Raises:
        Diverged: Loss, gradient or weights aren't finite, or all steps of an epoch were
            skipped.
    """

    def __init__(self):
        super().__init__()
        self.index = self.checkpoint = None

    def tell(self, index: Callable | None, checkpoint: Any) -> None:
        """Tells about a fit that begins.

        Args:
            index: (since, done) -> places of a batch's images, or None.
            checkpoint: Its `Checkpoint`, in whose folder they are written down, or None.
        """
        self.index, self.checkpoint = index, checkpoint

    def on_train_begin(self, logs=None) -> None:
        self._looked, self._batches, self._since = time.time(), 0, None
        if self.model.watch:
            self.model.watch.clear()  # of a fit that ended there
        self._cluster = Cluster(self.model.distribute_strategy)
        # Weights that never were, such as masks, say nothing.
        self._weights = [v for v in self.model.weights if _is_finite(v)]

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        scaling = self.model.loss_scaling
        self._skipped = int(scaling.skipped.numpy()) if scaling else 0
        self._steps, self._epoch = 0, epoch
        if self._since is None:
            own = self.checkpoint and self.checkpoint.state.since
            self._since = self._now() + 1 if own is None else own

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self._steps, self._batches = batch + 1, self._batches + 1
        due = time.time() > self._looked + _EVERY
        if self._cluster.count > 1:
            due = self._batches % _STEPS == 0
        if due:
            self._look_at_steps()

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.look()
        logs = logs or {}
        lost = [n for n in logs if n.endswith("loss") and not math.isfinite(logs[n])]
        if lost:
            self._diverged(self._now(), lost, skips=False)
        skipped = logs.get("skipped_steps", 0) - self._skipped
        if self._steps and skipped >= self._steps and self._scale <= 1:
            remedy = "lower the learning rate"
            if self.model.float16:
                remedy = "train in mixed_bfloat16 or float32"
            raise Diverged(
                f"All {self._steps} steps of epoch {epoch + 1} were skipped; none had a "
                f"finite gradient: {remedy}.",
                self._now(),
            )

    @property
    def _scale(self):
        """Of the loss; above 1 it still falls until nothing overflows."""
        return float(self.model.optimizer.dynamic_scale.numpy())

    def look(self) -> None:
        """Raises, or warns, if a step or the weights are not finite."""
        self._look_at_steps()
        for variable in self._weights:
            if not _is_finite(variable):
                self._diverged(self._now(), [f"the weights {variable.path}"], skips=False)

    def _look_at_steps(self):
        self._looked = time.time()
        watch = self.model.watch
        found = watch and watch.found()
        if found:
            self._diverged(*found)
            watch.clear()

    def _now(self):
        """The last step."""
        return int(self.model.iteration.numpy()) - 1

    def _diverged(self, step, parts, skips=True):
        on_nan, place = self.model.options.on_nan, self._steps - (self._now() - step)
        images = self.index and self.index(self._since, step - self._since)
        self._write_down(step, parts, images)
        where = f"step {place} of epoch {self._epoch + 1}"
        what = f"{', '.join(parts)} not finite{self._described(images)}"
        if on_nan == "skip" and skips:
            warnings.warn(f"{where.capitalize()} is skipped: {what}.", stacklevel=2)
        elif on_nan == "rollback":
            raise RolledBack(f"Training diverged in {where}: {what}", step)
        else:
            raise Diverged(
                f"Training diverged in {where}: {what}; {self._advice(skips)}.", step
            )

    def _advice(self, skips):
        """What helps here; what is kept.

        Args:
            skips: Whether a step can be skipped: that mends no weights.
        """
        options, values = self.model.options, []
        if skips and options.on_nan != "skip":
            values.append("skip")
        if not self.model.float16:
            values.append("rollback")
        advice = "lower the learning rate"
        if values and self.model.fitted is self.model:  # a guest is given no options
            advice += f", or go on with on_nan={' or '.join(map(repr, values))}"
            advice += " (--on_nan)" if self.checkpoint else ", which needs a Checkpoint"
        if self.checkpoint and self.checkpoint.store.paths():
            advice += "; the last checkpoint is kept"
        return advice

    def _described(self, images):
        if images is None:
            return ""
        shown = ", ".join(map(str, images[:_SHOWN]))
        if len(images) > _SHOWN:
            shown += f", ... {len(images)} in all"
        rest = f", see {self._file}" if self._file else ""
        return f" (images {shown}{rest})"

    @property
    def _file(self):
        writes = self.checkpoint and self.checkpoint.writes
        return os.path.join(self.checkpoint.store.folder, FILE) if writes else None

    def _write_down(self, step, parts, images):
        path, known = self._file, {}
        if path is None:
            return
        with contextlib.suppress(InputError):
            known = files.read_json(path, "")
        entry = {"epoch": self._epoch + 1, "not_finite": parts}
        if images is not None:
            entry["images"] = np.asarray(images).tolist()
        with files.replaced(path) as partial, open(partial, "w") as file:
            json.dump({**known, str(step): entry}, file)


def _is_finite(variable):
    value = tf.convert_to_tensor(variable.value)
    return not value.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(value)))
