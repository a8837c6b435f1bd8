"""One dispatch of a training or test step for every distribution strategy.

Keras's own fails with several workers and with `steps_per_execution` under a strategy
(keras-team/keras#20585, #19246), and compiling the whole step with XLA fails under one;
here XLA, where wanted, is inside the step.
"""

import keras
import tensorflow as tf

from vfd_tf.part import InputError


class Dispatch:
    """iterator -> logs: `step` on every replica, its results averaged over replicas.

    Args:
        step: data -> {name: value}, run in every replica's context.
        strategy: The strategy that iterates and runs.
        model: Whose `run_eagerly` and `steps_per_execution` count.
        check: Called with the first batch after each `restart`.
        drop_ragged: Passes over batches of another size than the first one, so that
            nothing is traced again and every replica always has the same share.
    """

    def __init__(self, step, strategy, model, check, drop_ragged=False):
        self.strategy, self.model = strategy, model
        self.check, self.drop_ragged = check, drop_ragged

        def one_step(data):
            logs = strategy.run(step, args=(data,))
            return {k: strategy.reduce("MEAN", v, axis=None) for k, v in logs.items()}

        if not model.run_eagerly:
            one_step = tf.function(one_step, reduce_retracing=True, autograph=False)
        self.one_step = one_step
        self.restart()

    def restart(self):
        """The next batch is the first of a fit or of an evaluation."""
        self.shares, self.logs = None, None

    def __call__(self, iterator):
        done = False
        for _ in range(self.model.steps_per_execution):
            try:
                data = next(iterator)
            except StopIteration:
                if self.shares is None:
                    raise InputError("The data set is empty.") from None
                if not done:
                    raise
                break
            self._run(keras.tree.map_structure(_without_optional, data))
            done = True
        return self.logs

    def _run(self, data):
        parts = shares(self.strategy, data)
        if self.shares is None:
            self.check(data)
            self.shares = parts
        if not self.drop_ragged or parts == self.shares:
            self.logs = self.one_step(data)


def shares(strategy, data) -> list[int]:
    """How many examples of a batch each local replica has."""
    first = keras.tree.flatten(data)[0]
    return [len(part) for part in strategy.experimental_local_results(first)]


def _without_optional(value):
    """Keras's array adapter yields an empty Optional for a missing sample_weight."""
    return None if isinstance(value, tf.experimental.Optional) else value
