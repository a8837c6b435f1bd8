"""One dispatch of a training or test step for every distribution strategy.

Keras's own fails with several workers and with `steps_per_execution` under a strategy
(keras-team/keras#20585, #19246), and compiling the whole step with XLA fails under one;
here XLA, where wanted, is inside the step.
"""

import keras
import tensorflow as tf

from vfd_tf.part import InputError


def distributed(step, strategy, model, check, drop_ragged=False):
    """iterator -> logs: `step` on every replica, its results averaged over replicas.

    Args:
        step: data -> {name: value}, run in every replica's context.
        strategy: The strategy that iterates and runs.
        model: Whose `run_eagerly` and `steps_per_execution` count.
        check: Called once with the first batch.
        drop_ragged: Passes over batches of another size than the first one, so that
            nothing is traced again and every replica always has the same share.
    """

    def one_step(data):
        logs = strategy.run(step, args=(data,))
        return {k: strategy.reduce("MEAN", v, axis=None) for k, v in logs.items()}

    if not model.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, autograph=False)
    seen = {}

    def function(iterator):
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                data = keras.tree.map_structure(_without_optional, next(iterator))
            except StopIteration:
                if not seen:
                    raise InputError("The data set is empty.") from None
                if logs is None:
                    raise
                break
            if not seen:
                check(data)
                seen["size"] = shares(strategy, data)
            ragged = drop_ragged and shares(strategy, data) != seen["size"]
            logs = seen["logs"] if ragged else one_step(data)
            seen["logs"] = logs
        return logs

    return function


def shares(strategy, data) -> list[int]:
    """How many examples of a batch each local replica has."""
    first = keras.tree.flatten(data)[0]
    return [len(part) for part in strategy.experimental_local_results(first)]


def _without_optional(value):
    """Keras's array adapter yields an empty Optional for a missing sample_weight."""
    return None if isinstance(value, tf.experimental.Optional) else value
