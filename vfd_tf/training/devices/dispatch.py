"""One dispatch of a training or test step for every distribution strategy.

Keras's own fails with several workers and with `steps_per_execution` under a strategy
(keras-team/keras#20585, #19246), and compiling the whole step with XLA fails under one;
here XLA, where wanted, is inside the step.
"""

import collections
import contextlib
import warnings

import keras
import tensorflow as tf

from vfd_tf.hyperparameters import InputError


class Dispatch:
    """iterator -> logs: `step` on every replica, then the results of all replicas.

    Args:
        step: data -> {name: value}, run in every replica's context.
        results: () -> {name: value}, the metrics so far: read outside of the replicas, so
            that sums and counts are added up over all of them before one divides the other.
        strategy: The strategy that iterates and runs.
        model: Whose `run_eagerly` and `steps_per_execution` count.
        check: Called with the first batch that is run after each `restart`.
        scope: () -> the context in which steps are traced and run.
        own_logs: What the step returns counts where a result has the same name.
        one_size: Passes over batches of another size than the usual one, so that nothing
            is traced again and every replica always has the same share.
    """

    def __init__(
        self, step, results, strategy, model, check, scope, one_size=False, own_logs=False
    ):
        self.strategy, self.model = strategy, model
        self.check, self.one_size, self.results = check, one_size, results

        def one_step(data):
            with scope():  # around all replicas, which are traced in threads of their own
                logs = strategy.run(step, args=(data,))
            found = results()
            own = {k: v for k, v in logs.items() if own_logs or k not in found}
            own = {k: strategy.reduce("MEAN", v, axis=None) for k, v in own.items()}
            return {**found, **own} if own_logs else {**own, **found}

        if not model.run_eagerly:
            # Images of another size get a trace of their own: attacks need static shapes.
            one_step = tf.function(one_step, reduce_retracing=not one_size, autograph=False)
            # Every trainer traces its own; TensorFlow takes them for one traced too often.
            one_step._omit_frequent_tracing_warning = True
        self.one_step = one_step
        self.restart()

    def restart(self, steps=None):
        """The next batch is the first of a fit or of an evaluation.

        Args:
            steps: Those of an epoch of a set without an end; None: the set tells.
        """
        self.steps, self.taken, self.behind = steps, 0, 0
        self.checked, self.logs, self.ahead = False, None, []
        self.seen = collections.Counter()
        self.dropped_batches = self.dropped_images = 0
        self.leaves_out = None

    def continue_at(self, behind, logs, begun):
        """The fit goes on in the middle of an epoch.

        Args:
            behind: Steps of the epoch that were run before; no batch is read for them.
            logs: Those of the last one.
            begun: Called before the first step that is run.
        """
        if behind:
            self.behind, self.logs, self.begun = behind, dict(logs), begun

    def leave_out(self, leaves_out):
        """Batches are read but not trained on where `leaves_out()` says so before one."""
        self.leaves_out = leaves_out

    @property
    def passing(self) -> bool:
        """Whether the steps so far were all run before the resume."""
        return self.taken <= self.behind

    def __call__(self, iterator):
        done = False
        if self.taken == self.steps:
            self.taken = self.behind = 0
        for _ in range(self.model.steps_per_execution):
            if self.taken == self.steps:
                break
            self.taken += 1
            if self.passing:
                done = True
                continue
            try:
                data = self._next(iterator)
            except StopIteration:
                if not self.seen:
                    raise InputError("The data set is empty.") from None
                if not done:
                    raise
                break
            self._run(data)
            done = True
        return self.logs

    def _next(self, iterator):
        if self.ahead:
            return self.ahead.pop()
        data = self._read(iterator)
        if self.one_size and self.seen.total() == 1:
            # A shuffled set may begin with its ragged batch: a second one shows the size.
            with contextlib.suppress(StopIteration, tf.errors.OutOfRangeError):
                self.ahead.append(self._read(iterator))
        return data

    def _read(self, iterator):
        data = keras.tree.map_structure(_without_optional, next(iterator))
        self.seen[shares(self.strategy, data)] += 1
        return data

    @property
    def usual(self) -> tuple[int, ...]:
        """The most frequent shares of a batch; of equally frequent ones the largest."""
        return max(self.seen, key=lambda parts: (self.seen[parts], sum(parts)))

    def _run(self, data):
        parts = shares(self.strategy, data)
        if self.one_size and parts != self.usual:
            self._drop(sum(parts))
        elif sum(parts):
            if not self.checked:
                self.check(data)
                self.checked = True
                if self.behind:
                    self.begun()
            if self.leaves_out and self.leaves_out():
                self.logs = self.logs or self.results()
            else:
                self.logs = self.one_step(data)

    def _drop(self, images):
        if not self.dropped_batches:
            warnings.warn(
                f"A batch of {images} images is dropped: training keeps to the usual "
                f"{sum(self.usual)}; put .shuffle(...) before .batch(..., "
                "drop_remainder=True), so that it is other images each time.",
                stacklevel=2,
            )
        self.dropped_batches += 1
        self.dropped_images += images

    def say_dropped(self):
        """At the end of a fit, warns of how much was dropped in all."""
        if self.dropped_batches > 1:
            warnings.warn(
                f"This fit has dropped {self.dropped_batches} of {self.seen.total()} "
                f"batches, {self.dropped_images} images in all.",
                stacklevel=3,
            )


def shares(strategy, data) -> tuple[int, ...]:
    """How many examples of a batch each local replica has."""
    first = keras.tree.flatten(data)[0]
    parts = strategy.experimental_local_results(first)
    return tuple(int(part.shape[0]) for part in parts)


def _without_optional(value):
    """Keras's array adapter yields an empty Optional for a missing sample_weight."""
    return None if isinstance(value, tf.experimental.Optional) else value
