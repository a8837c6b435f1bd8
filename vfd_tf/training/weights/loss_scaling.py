"""Loss scaling: training in float16, whose gradients would vanish or overflow."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from vfd_tf.types import Tensor


class Unscaled(keras.optimizers.LossScaleOptimizer):
    """Skips steps that are not finite and scales nothing."""

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        super().__init__(optimizer, initial_scale=1.0, dynamic_growth_steps=2**31 - 1)

    def _stateful_handle_non_finite_grads(self):
        """Nothing, where Keras halves the scale."""


class LossScaling:
    """Steps whose gradients overflow are skipped, counted, and leave no trace.

    The optimizer becomes Keras's `LossScaleOptimizer`: it leaves the weights of such a
    step as they are and halves the scale of the loss. What an overflow has reached in the
    forward, BatchNorm's statistics, is put back.

    Args:
        add_weight: `add_weight` of the trainer, so that the count is saved with it.
        scales: Whether the loss is scaled, as float16 needs it, or steps are only skipped.

    Attributes:
        skipped: How many steps were skipped.
    """

    def __init__(self, add_weight: Callable, scales: bool = True):
        self.scales = scales
        self.skipped = add_weight(
            name="skipped_steps",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def around(self, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        """The optimizer behind one that scales the loss, unless it is one."""
        scaling = keras.optimizers.LossScaleOptimizer if self.scales else Unscaled
        kind = keras.optimizers.LossScaleOptimizer
        return optimizer if isinstance(optimizer, kind) else scaling(optimizer)

    def state_of(self, models: list[keras.Model]) -> list[tuple]:
        """(variable, value) of what layers change in their forward."""
        return _values(v for model in models for v in model.non_trainable_variables)

    def settle(self, gradients: list, state: list[tuple]) -> Tensor:
        """Puts the state back if any gradient, summed over replicas, is not finite.

        Returns:
            Whether all are: a bool.
        """
        known = [g for g in gradients if g is not None]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in known])
        put_back(state, finite)
        self.skipped.assign_add(tf.cast(~finite, self.skipped.dtype))
        return finite

    def counts_of(self, model: keras.Model) -> list[tuple]:
        """(variable, value) of its metrics, which count nothing of a skipped step."""
        return _values(v for metric in model.metrics for v in metric.variables)

    def logs(self, optimizer: keras.optimizers.Optimizer) -> dict[str, Tensor]:
        """What is shown beside the losses."""
        logs = {"skipped_steps": tf.convert_to_tensor(self.skipped)}
        if self.scales:
            logs["loss_scale"] = tf.convert_to_tensor(optimizer.dynamic_scale)
        return logs


def unless(sound: Tensor, gradients: list) -> list:
    """Gradients, or NaN where the step is to be skipped."""
    factor = tf.where(sound, 1.0, float("nan"))
    return [None if g is None else g * tf.cast(factor, g.dtype) for g in gradients]


def _values(variables: Iterable[keras.Variable]) -> list[tuple]:
    """(variable, value) of each, as they are now."""
    return [(v, tf.identity(v.value)) for v in variables]


def put_back(state: list[tuple], finite: Tensor | None) -> None:
    """Gives variables these values again, unless the step was finite."""
    for variable, value in state:
        variable.assign(tf.where(finite, variable.value, value))
