"""What all attacks share: the threat model, the input gradient, the compiled generator."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks import objectives
from vfd_tf.attacks.norms import BALLS
from vfd_tf.hyperparameters import Component, InputError, choose
from vfd_tf.types import State, Tensor


class Attack(Component):
    """`attack(logits_fn, x, objective, start=None, seeds=None) -> x_adv`.

    Args:
        logits_fn: Callable, images [n, h, w, c] -> logits [n, classes].
        x: Images in [0, 1], float32 or float64; the attack computes in this dtype.
        objective: Callable, logits -> [n], the score to ascend (`vfd_tf.attacks.kl`, ...).
        start: Images to start from instead of the attack's own start.
        seeds: [n, 2] seeds of the examples (`vfd_tf.noise`); default: their positions.

    Class facts:
        own_start: its start is part of what it is, and replaces a method's own.
        in_ball: whether x_adv stays in the epsilon ball.
        trains: whether it is offered for training.
        passes: forward passes that a verdict of an evaluation is the majority of.
    """

    own_start = False
    in_ball = True
    trains = False
    passes = 1

    def __post_init__(self):
        super().__post_init__()
        choose(BALLS, self.norm, "norm")
        for name in ("epsilon", "step_size"):
            value = getattr(self, name, None) or 0.0
            if self.norm == "linf" and value > 1:
                raise InputError(
                    f"An L-inf {name} of {value:g} exceeds the range of images in [0, 1]; "
                    f"write {value:g}/255 if you mean grey levels."
                )

    def for_evaluation(self) -> "Attack":
        """The evaluation variant: misclassified at any iterate counts."""
        return self

    def scaled(self, factor: Any) -> "Attack":
        """This attack with epsilon and step size times a number, or a tensor.

        A scalar, or one of shape [n, 1, 1, 1], a factor an image.
        """
        attack = copy.copy(self)
        for name in ("epsilon", "step_size"):
            value = getattr(self, name, None)
            if value is not None:  # past the range check: a tensor has no value yet
                object.__setattr__(attack, name, value * factor)
        return attack

    def describe(self) -> str:
        """One line for tables: name and every hyper-parameter."""
        fields = (f"{f.name}={self[f.name]!r}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(fields)})"


def radius(epsilon: float) -> str:
    """A radius as users write it: 0.2, 0.5001, or 8/255 rather than 0.0313725."""
    text = f"{epsilon:.6g}"
    levels = epsilon * 255
    if float(text) == epsilon or abs(levels - round(levels)) > 1e-6:
        return text
    return f"{round(levels)}/255"


def box(x):
    """Nearest image in [0, 1]."""
    return tf.clip_by_value(x, 0.0, 1.0)


def input_gradient(logits_fn, x, objective):
    """d objective_i / d x_i of every example: [n, ...] -> [n, ...]; weights untouched."""
    return ascent(logits_fn, x, objective)[2]


def ascent(logits_fn, x, objective, eot: int = 1):
    """Logits [n, c], score [n] and d score_i / d x_i [n, ...] at x.

    With `eot` > 1 the score and the gradient are means over that many passes of a
    randomised model: https://arxiv.org/abs/1802.00420. The logits are those of the last.
    """
    if eot == 1:
        # Watching the images alone leaves out the weights' gradients: a third of the cost.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = logits_fn(x)
            score = objective(logits)
        return logits, score, slope(tape, score, x)

    def one_more(i, logits, score, gradient):
        logits, own, step = ascent(logits_fn, x, objective)
        return i + 1, logits, score + own, gradient + step

    first = ascent(logits_fn, x, objective)
    loop = tf.while_loop(
        lambda i, *_: i < eot, one_more, (1, *first), maximum_iterations=eot
    )
    _, logits, score, gradient = loop
    return logits, score / eot, gradient / eot


def slope(tape, score, x):
    """d score / d x, and 0 where there is none, or none that is finite."""
    gradient = tape.gradient(score, x, unconnected_gradients="zero")
    # A third of the time of tf.where: a factor of 0 makes 0 of infinity and NaN too.
    finite = tf.cast(tf.math.is_finite(gradient), gradient.dtype)
    return tf.math.multiply_no_nan(gradient, finite)


def choose_images(mask, one, other):
    """Per example `one` where the mask [n] is true, else `other`: [n, ...]."""
    # The older of TensorFlow's two selections, which copies whole rows: 3 times as fast.
    return tf.raw_ops.Select(condition=mask, x=one, y=other)


@dataclasses.dataclass(frozen=True)
class AttackRun:
    """One of the runs that an attack consists of, for images that are still robust.

    Attributes:
        attack: What runs: an `Iterated` attack.
        objective: Name of what it ascends (`objectives.OBJECTIVES`).
        stream: None, or the number of the stream its draws come from.
        rank: None, or the rank among the clean logits, from 2, of the class it aims at.
        order: None, or what ranks the classes instead: images and labels -> the wrong
            classes [n, k] in their order (`targets.MALT`).
        passes: Forward passes that a verdict is the majority of. With several, a single
            misclassified iterate ends nothing.
    """

    attack: "Iterated"
    objective: str = "ce"
    stream: int | None = None
    rank: int | None = None
    order: Callable | None = None
    passes: int = 1

    def seeds(self, seeds: Tensor) -> Tensor:
        """The seeds [n, 2] of this run."""
        return seeds if self.stream is None else noise.fork(seeds, self.stream)

    def target(self, clean_logits: Tensor, ordered: Tensor | None = None) -> Tensor | None:
        """The class it aims at [n], or None; the second for ranks of masked classes.

        Args:
            ordered: What `order` gives, [n, k], where there is one.
        """
        if self.rank is None:
            return None
        if self.order is not None:
            return ordered[:, self.rank - 2]
        top = tf.math.top_k(clean_logits, self.rank)
        possible = top.values[:, -1] > -np.inf
        return tf.where(possible, top.indices[:, -1], top.indices[:, min(1, self.rank - 1)])

    def goal(self, y: Tensor, clean_logits: Tensor, target: Tensor) -> objectives.Objective:
        """What it ascends, for labels [n], clean logits [n, c] and target classes [n]."""
        goal = objectives.named(self.objective, y, clean_logits, target)
        if self.passes == 1:
            return goal
        return dataclasses.replace(goal, success=lambda z: tf.zeros(tf.shape(z)[0], bool))


class Iterated(Attack):
    """Runs in chunks of steps, so that it can stop early, report progress and resume.

    `begin` makes the state of a batch, tensors [n, ...] by name; `step` takes it one
    iteration on; `done` says which images need no further step; `result` is x_adv.
    Class facts:
        look: iterations after which an evaluation drops the images that are done.
        own_objective: name of the objective that is part of what it is, or None.
    """

    look = 5
    own_objective = None

    @property
    def iterations(self) -> int:
        """How many steps it takes."""
        return self.steps

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        """What an evaluation runs, each on the images that the ones before left robust."""
        name = self.own_objective or objective
        count = getattr(self, "restarts", 1)
        return tuple(
            AttackRun(self, objectives.possible(name, classes), stream or None)
            for stream in range(count)
        )

    def begin(
        self, x: Tensor, start: Tensor | None, seeds: Tensor | None
    ) -> dict[str, tf.Tensor]:
        """The state before the first step: no call of the network."""
        raise NotImplementedError

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> dict[str, tf.Tensor]:
        """The state one iteration on; `i` counts them from 0."""
        raise NotImplementedError

    def done(self, state: State) -> Tensor:
        """Whose x_adv will not change, or need not: bool [n]."""
        return tf.zeros(tf.shape(state["x_adv"])[0], bool)

    def result(self, x: Tensor, state: State) -> Tensor:
        """x_adv [n, h, w, c]."""
        return state["x_adv"]

    def advance(
        self,
        logits_fn: Callable,
        x: Tensor,
        objective: Callable,
        state: State,
        first: Tensor,
        last: Tensor,
    ) -> State:
        """The state after the steps first, ..., last - 1."""

        def body(i, state):
            new = self.step(logits_fn, x, objective, state, i)
            return i + 1, {k: tf.ensure_shape(v, state[k].shape) for k, v in new.items()}

        # A loop in the graph, not in Python: the graph stays small for any `steps`.
        _, state = tf.while_loop(
            lambda i, _: i < last, body, (first, state), parallel_iterations=1
        )
        return state

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        _refuse_integers(x)
        state = self.begin(x, start, noise.or_positions(seeds, x))
        state = self.advance(logits_fn, x, objective, state, 0, self.iterations)
        return tf.stop_gradient(self.result(x, state))


class Composite(Attack):
    """An attack that is a sequence of runs: the first that succeeds has the image.

    Called on a batch, all runs see all of its images; `evaluation.evaluate` gives each
    only those that are still robust. Images that none breaks are returned as they came.
    """

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        """What it consists of, in order."""
        raise NotImplementedError

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        _refuse_integers(x)
        seeds, clean = noise.or_positions(seeds, x), logits_fn(x)
        x_adv, misclassified = x, objective.success(clean)
        ordered = {None: None}
        for run in self.attack_runs(clean.shape[-1]):
            if run.order not in ordered:
                ordered[run.order] = run.order(logits_fn, x, objective.labels)
            target = run.target(clean, ordered[run.order])
            goal = run.goal(objective.labels, clean, target)
            own = run.seeds(seeds)
            other = run.attack(logits_fn, x, goal, start=start, seeds=own)
            hit = ~misclassified & objective.success(logits_fn(other))
            x_adv, misclassified = choose_images(hit, other, x_adv), misclassified | hit
        return tf.stop_gradient(x_adv)


def _refuse_integers(x):
    dtype = tf.as_dtype(x.dtype)
    if not dtype.is_floating:
        raise InputError(f"The images are {dtype.name}: pass floats in [0, 1], x / 255.")


def generator(attack: Attack, logits_fn: Callable, objective: Callable) -> Callable:
    """The attack as one compiled function (x, y, seeds) -> x_adv, traced once a shape.

    `objective` is a function of labels, such as `vfd_tf.attacks.cross_entropy`.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def generate(x, y, seeds):
        return attack(logits_fn, x, objective(y), seeds=seeds)

    return generate
