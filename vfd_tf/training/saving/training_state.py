"""Everything that moves while a trainer trains, as arrays and back."""

from typing import Any

import keras
import numpy as np

from vfd_tf.hyperparameters import InputError
from vfd_tf.models.keras_graph import random_states
from vfd_tf.training.devices.cluster import Cluster

# What Keras's callbacks learn from epoch to epoch, and forget when a fit begins.
_LEARNED = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


def variables(trainer: keras.Model) -> list:
    """Weights, optimizer, averages, seeds; teachers, which nothing moves, are not there."""
    return [*trainer.weights, *trainer.optimizer.variables, *random_states(trainer)]


def metric_variables(trainer: keras.Model) -> list:
    """Sums and counts of metrics and losses; of metrics only when they are built."""
    metrics = [*trainer.metrics, *trainer._untracked.trackers.values()]
    return [v for metric in metrics for v in metric.variables]


def arrays_of(trainer: keras.Model, cluster: Cluster) -> dict[str, np.ndarray]:
    """Name -> array; called by all workers."""
    arrays = {f"v{i}": v.numpy() for i, v in enumerate(variables(trainer))}
    for i, variable in enumerate(metric_variables(trainer)):
        own = np.stack([part.numpy() for part in _parts(variable)])
        arrays[f"m{i}"] = np.stack(cluster.gather(own))
    return arrays


def fits(trainer: keras.Model, arrays: dict[str, np.ndarray]) -> bool:
    """Whether arrays are those of a trainer like this one."""
    known = variables(trainer)
    named = [name for name in arrays if name.startswith("v")]
    return len(named) == len(known) and all(
        f"v{i}" in arrays and arrays[f"v{i}"].shape == tuple(v.shape)
        for i, v in enumerate(known)
    )


def restore(trainer: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Puts back everything but the metrics."""
    for i, variable in enumerate(variables(trainer)):
        variable.assign(arrays[f"v{i}"])


def restore_metrics(
    trainer: keras.Model, arrays: dict[str, np.ndarray], cluster: Cluster
) -> None:
    """Puts back sums and counts, when the metrics are built.

    On another number of replicas or workers than theirs, the first has the sum of all.

    Raises:
        InputError: They are those of other metrics.
    """
    known = metric_variables(trainer)
    saved = [arrays[f"m{i}"].shape[2:] for i in range(len(arrays)) if f"m{i}" in arrays]
    if saved != [tuple(variable.shape) for variable in known]:
        raise InputError(
            "The epoch was begun with other metrics: compile the same ones to go on in the "
            "middle of it."
        )
    for i, variable in enumerate(known):
        parts, saved = _parts(variable), arrays[f"m{i}"]
        if saved.shape[:2] != (cluster.count, len(parts)):
            whole = saved.sum((0, 1))
            saved = np.zeros((cluster.count, len(parts), *whole.shape), whole.dtype)
            saved[0, 0] = whole
        for part, value in zip(parts, saved[cluster.index], strict=True):
            part.assign(value)


def _parts(variable):
    """What each replica of this process has of a metric's variable."""
    return getattr(variable._value, "values", None) or (variable,)


def learned(callbacks: list) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """(callback -> attribute -> number, name -> array) of what callbacks have learned.

    Of Keras's EarlyStopping, ReduceLROnPlateau and ModelCheckpoint, and of any callback
    with an attribute `remembered`, the names of others.
    """
    numbers, arrays = {}, {}
    for key, callback, names in _learners(callbacks):
        for name in names:
            value = getattr(callback, name, None)
            if isinstance(value, list):
                arrays |= {f"{key}/{name}/{i}": np.asarray(v) for i, v in enumerate(value)}
            else:
                numbers.setdefault(key, {})[name] = _plain(value)
    return numbers, arrays


def teach(callbacks: list, numbers: dict, arrays: dict[str, np.ndarray]) -> None:
    """Gives callbacks back what they had learned."""
    for key, callback, names in _learners(callbacks):
        for name in names:
            found = [f"{key}/{name}/{i}" for i in range(len(arrays))]
            values = [arrays[each] for each in found if each in arrays]
            if values:
                setattr(callback, name, values)
            elif name in numbers.get(key, {}):
                setattr(callback, name, numbers[key][name])


def _learners(callbacks):
    """(key, callback, names of what it learns) of those that learn."""
    seen = {}
    for callback in callbacks:
        kinds = (names for kind, names in _LEARNED.items() if isinstance(callback, kind))
        names = getattr(callback, "remembered", None) or next(kinds, None)
        if names:
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield f"{kind}{seen[kind]}", callback, names


def _plain(value: Any):
    """A number, a bool or None, as JSON has them."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return float(value) if np.size(value) == 1 else None
