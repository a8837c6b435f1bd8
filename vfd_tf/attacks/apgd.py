"""APGD: projected gradient ascent that chooses its own step sizes."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf.attacks import objectives
from vfd_tf.attacks.attack import AttackRun, Composite, Iterated, ascent, box, choose_images
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.targets import MALT
from vfd_tf.attacks.threat import eot_field, epsilon_field, norm_field
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.types import State, Tensor

TARGET_ORDERS = "logits", "malt"


def checkpoints(steps: int) -> dict[int, int]:
    """Iteration (from 1) at which the step may be halved -> length of the period before.

    The first period is 22 % of the steps, each one 3 % shorter, none below 6 %.
    """
    period, shortest = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1)
    shrink, last, found = max(int(0.03 * steps), 1), 0, {}
    while last + period <= steps:
        last += period
        found[last] = period
        period = max(period - shrink, shortest)
    return found


@component
class APGD(Iterated):
    """Auto-PGD: momentum, and a step halved for each image where it stops paying.

    u = P(x_k + step * direction(grad)); x_{k+1} = P(x_k + a (u - x_k) + (1 - a) (x_k -
    x_{k-1})), a = 0.75 (1 at first); step begins at 2 epsilon. At a checkpoint it is
    halved, and the image goes back to its best point, if the objective rose in at most
    `rho` of the steps of the period, or if the step was kept at the last checkpoint and
    the best objective has not risen since. Returns the latest misclassified iterate, else
    the one of highest objective, with `eot` of the highest mean. Croce & Hein 2020,
    https://arxiv.org/abs/2003.01690
    """

    epsilon: float = epsilon_field()
    steps: int = hyper(100, "iterations", minimum=1)
    norm: str = norm_field()
    restarts: int = hyper(1, "runs from different starts", minimum=1)
    rho: float = hyper(0.75, "share of rises below which the step is halved", 0.0, 1.0)
    eot: int = eot_field()
    look = 10
    trains = True

    @property
    def iterations(self) -> int:
        return self.steps + 1  # the start is evaluated, too

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        ball, count = BALLS[self.norm], tf.shape(x)[0]
        if start is None:
            start = x + ball.edge(seeds, x.shape[1:], self.epsilon, x.dtype)
        start, zeros = box(start), tf.zeros(count, x.dtype)
        return {
            "x_adv": start,  # where the next step evaluates the network
            "x_last": start,
            "x_best": start,
            "gradient_best": tf.zeros_like(x),
            "x_success": start,
            "misclassified": tf.zeros(count, bool),
            "step": zeros + 2 * self.epsilon,
            "score": zeros,
            "best": zeros,
            "best_before": zeros,  # at the last checkpoint
            "rises": zeros,
            "kept": tf.zeros(count, bool),  # the step, at the last checkpoint
        }

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        logits, score, gradient = ascent(logits_fn, state["x_adv"], objective, self.eot)
        state = _remember(state, i, objective.success(logits), score, gradient)
        state, x_from, gradient = self._check(state, i, gradient)
        x_next = self._move(x, x_from, gradient, state, i)
        return {**state, "x_adv": x_next, "x_last": x_from}

    def _check(self, state, i, gradient):
        """Halves steps at a checkpoint: state, point to go on from, gradient there."""
        periods = np.zeros(self.steps + 1)
        for at, period in checkpoints(self.steps).items():
            periods[at] = period
        period = tf.cast(tf.constant(periods)[i], gradient.dtype)
        now = period > 0
        stalled = state["kept"] & (state["best_before"] >= state["best"])
        halve = now & ((state["rises"] <= self.rho * period) | stalled)
        new = {
            **state,
            "step": tf.where(halve, state["step"] / 2, state["step"]),
            "best_before": tf.where(now, state["best"], state["best_before"]),
            "kept": tf.where(now, ~halve, state["kept"]),
            "rises": tf.where(now, tf.zeros_like(state["rises"]), state["rises"]),
        }
        x_from = choose_images(halve, state["x_best"], state["x_adv"])
        return new, x_from, choose_images(halve, state["gradient_best"], gradient)

    def _move(self, x, x_from, gradient, state, i):
        ball = BALLS[self.norm]

        def nearest(point):
            return box(ball.project(x, point, self.epsilon))

        size = tf.reshape(state["step"], [-1] + [1] * (x.shape.rank - 1))
        share = tf.where(tf.equal(i, 0), 1.0, 0.75)
        share = tf.cast(share, x.dtype)
        ahead = nearest(x_from + size * ball.direction(gradient))
        momentum = x_from - state["x_last"]
        return nearest(x_from + (ahead - x_from) * share + momentum * (1 - share))

    def done(self, state: State) -> Tensor:
        return state["misclassified"]

    def result(self, x: Tensor, state: State) -> Tensor:
        return choose_images(state["misclassified"], state["x_success"], state["x_best"])


def _remember(state, i, success, score, gradient):
    """The state after the network was evaluated at state["x_adv"]."""
    x_adv, first = state["x_adv"], tf.equal(i, 0)
    better = first | (score > state["best"])
    # As the original does, the first rise is counted against a score of 0.
    rise = tf.cast(score > state["score"], score.dtype)
    return {
        **state,
        "x_success": choose_images(success, x_adv, state["x_success"]),
        "misclassified": state["misclassified"] | success,
        "x_best": choose_images(better, x_adv, state["x_best"]),
        "gradient_best": choose_images(better, gradient, state["gradient_best"]),
        "best": tf.where(better, score, state["best"]),
        "best_before": tf.where(first, score, state["best_before"]),
        "score": tf.where(first, tf.zeros_like(score), score),
        "rises": tf.where(first, tf.zeros_like(score), state["rises"] + rise),
    }


class OwnObjective(APGD):
    """APGD whose objective is part of its name; that of the call gives the labels."""

    trains = False

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        own = objectives.named(self.own_objective, objective.labels)
        return super().__call__(logits_fn, x, own, start, seeds)


@component
class APGDCE(OwnObjective):
    """APGD on cross-entropy. Croce & Hein 2020, https://arxiv.org/abs/2003.01690"""

    own_objective = "ce"


@component
class APGDDLR(OwnObjective):
    """APGD on the DLR loss (3 classes at least; the margin where there are fewer).

    Croce & Hein 2020, https://arxiv.org/abs/2003.01690
    """

    own_objective = "dlr"


@component
class APGDPM(OwnObjective):
    """APGD on the probability margin of PMA. Xie et al. 2025, https://arxiv.org/abs/2411.15210

    Not PMA itself, whose steps follow a cosine and ascend p_m or -p_y in their first half.
    """

    own_objective = "pm"


@component
class APGDT(Composite):
    """Targeted APGD: one run at each of the likeliest wrong classes of the clean image.

    On the targeted DLR loss (4 classes at least; the targeted margin where there are
    fewer). Croce & Hein 2020, https://arxiv.org/abs/2003.01690. With target_order "malt",
    at the nearest of the `candidates` likeliest, see `targets.MALT`.
    """

    epsilon: float = epsilon_field()
    steps: int = hyper(100, "iterations of a run", minimum=1)
    norm: str = norm_field()
    targets: int = hyper(9, "classes aimed at, at most all wrong ones", minimum=1)
    restarts: int = hyper(1, "runs at each class", minimum=1)
    rho: float = hyper(0.75, "share of rises below which the step is halved", 0.0, 1.0)
    eot: int = eot_field()
    target_order: str = hyper("logits", "what ranks the classes", choices=TARGET_ORDERS)
    candidates: int = hyper(
        100,
        "malt: the likeliest wrong classes that it ranks",
        minimum=1,
        when={"target_order": ("malt",)},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.target_order == "malt" and self.targets > self.candidates:
            raise InputError(
                f"apgd-t aims at {self.targets} classes of {self.candidates} candidates: "
                "raise candidates."
            )

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        attack = APGD(self.epsilon, self.steps, self.norm, 1, self.rho, self.eot)
        name, order = objectives.possible("targeted-dlr", classes), None
        if self.target_order == "malt":
            order = MALT(self.norm, self.candidates, self.targets, self.eot)
        return tuple(
            AttackRun(attack, name, rank * self.restarts + restart, rank, order)
            for rank in range(2, min(self.targets + 1, classes) + 1)
            for restart in range(self.restarts)
        )
