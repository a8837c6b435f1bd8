"""What methods and distillations learn beside weights, in variables that are saved."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.training.devices import replicas
from vfd_tf.types import Tensor, Terms

State = dict[str, Tensor]
Heads = Mapping[str, keras.Model]


class Learner:
    """Base of methods and distillations, which may learn from step to step.

    What is learned is `state`, by name. A step reads it as `self.learned`, sums `seen` of
    all images, and `after_step` moves it; `after_epoch` moves it between epochs. It is the
    same on all replicas, saved in checkpoints, and no weight of the student. So are
    `heads`, networks that are trained with the student; a step has them as `self.trained`,
    and as `self.weights_now` the weights of all terms, which schedules change.

    Class facts:
        watches: names in `terms` that enter no loss and are for `seen` alone.
    """

    learned: State | None = None
    trained: Heads = MappingProxyType({})
    weights_now: Mapping[str, Tensor] = MappingProxyType({})
    watches = ()

    def state(self, classes: int | None) -> dict[str, np.ndarray]:
        """Name -> value before the first step.

        Args:
            classes: Of the student, or None where its graph doesn't tell.
        """
        return {}

    def heads(self, channels: dict[str, int]) -> dict[str, keras.Model]:
        """Name -> network.

        Args:
            channels: Of the student's layers that a method's `taps` or a distillation's
                `layers` name.
        """
        return {}

    def bound(
        self,
        state: State | None,
        heads: Heads = MappingProxyType({}),
        weights: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> "Learner":
        """A copy that reads this state, these heads and these weights of terms."""
        bound = copy.copy(self)
        now = {"learned": state, "trained": heads, "weights_now": weights}
        for name, value in now.items():
            object.__setattr__(bound, name, value)  # no field: components stay frozen
        return bound

    def seen(self, y: Tensor, logits: Tensor, terms: Terms) -> State:
        """Sums over the images of a step of what it learns from.

        Args:
            y: Labels, integers [n] or distributions [n, c].
            logits: The student's on clean images [n, c], training mode.
            terms: Per-example terms and what `watches` names {name: [n]}.
        """
        return {}

    def after_step(self, state: State, seen: State) -> State:
        """The state after a step, from the sums of all replicas."""
        return state

    def after_epoch(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The state after an epoch."""
        return state


class Learning:
    """The variables of what the parts of a trainer learn, and their heads.

    Args:
        parts: The method and the distillation.
        channels: Part by part, of the student's layers that it reads.
        add_weight: `add_weight` of the trainer, so that they are saved with it.
        classes: Of the student, or None where its graph doesn't tell.
    """

    def __init__(
        self,
        parts: tuple[Any, ...],
        add_weight: Callable,
        classes: int | None,
        channels: list[dict[str, int]],
    ):
        self.parts, self.variables = parts, []
        self.heads = [p.heads(own) for p, own in zip(parts, channels, strict=True)]
        for part in parts:
            start = part.state(classes).items()
            self.variables.append({n: _variable(add_weight, n, v) for n, v in start})

    def bound(self, weights: dict[str, keras.Variable]) -> list:
        """The parts, as a step uses them: with the state that it begins with.

        Args:
            weights: Term -> its weight.
        """
        bound, weights = [], {n: tf.identity(v.value) for n, v in weights.items()}
        for part, own, heads in zip(self.parts, self.variables, self.heads, strict=True):
            state = {n: tf.identity(v.value) for n, v in own.items()}
            bound.append(part.bound(state or None, heads, weights))
        return bound

    def after_step(
        self, y: Tensor, logits: Tensor, terms: Terms, taken: Tensor | None = None
    ) -> None:
        """Moves the state, in a replica's context, unless a step saw what is not finite.

        Args:
            y, logits, terms: See `Learner.seen`.
            taken: False where the step was skipped; None where none is.
        """
        for part, own in zip(self.parts, self.variables, strict=True):
            seen = part.seen(y, logits, terms) if own else {}
            if not seen:
                continue
            dtype = next(iter(own.values())).dtype
            sums = replicas.summed([tf.cast(value, dtype) for value in seen.values()])
            seen = dict(zip(seen, sums, strict=True))
            values = [tf.math.is_finite(value) for value in seen.values()]
            sound = tf.reduce_all([tf.reduce_all(value) for value in values])
            sound = sound if taken is None else sound & taken
            state = {name: tf.identity(v.value) for name, v in own.items()}
            for name, value in part.after_step(state, seen).items():
                own[name].assign(tf.where(sound, value, state[name]))

    def after_epoch(self) -> None:
        """Moves the state at the end of an epoch."""
        for part, own in zip(self.parts, self.variables, strict=True):
            values = {name: v.numpy() for name, v in own.items()}
            for name, value in (part.after_epoch(values) if own else {}).items():
                own[name].assign(value)

    def scalars(self) -> dict[str, float]:
        """Name -> value of the state that is one number, for logs."""
        named = [item for own in self.variables for item in own.items()]
        return {name: float(v.numpy()) for name, v in named if len(v.shape) == 0}


def _variable(add_weight, name, value) -> keras.Variable:
    return add_weight(
        name=name,
        shape=np.shape(value),
        initializer=lambda shape, dtype: tf.constant(value, dtype, shape),
        trainable=False,
        aggregation="only_first_replica",
    )
