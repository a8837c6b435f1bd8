"""Carlini & Wagner's L2 attack, with every knob of its versions explicit."""

from collections.abc import Callable

import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks.attack import Iterated, choose_images, slope
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.types import State, Tensor

_SHRINK = 0.999999  # keeps pixels of exactly 0 and 1 where tanh can move them
_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8  # Adam's


@component
class CarliniWagner(Iterated):
    """Minimises ||x' - x||_2^2 + c * max(z_y - max_{j != y} z_j, -kappa).

    x' = (tanh w + 1) / 2, Adam on w. Returns the misclassified iterate nearest to x, or
    x where there is none: not bounded by an epsilon, so that only its success *and* its
    distances say something. A fixed c measures the scale of the logits as much as
    robustness; `search_steps` > 1 searches c for every image, tenfold until it succeeds and
    by bisection from then on. With `early_stop` an image is left when its cost has risen
    over a tenth of the steps, which leaves some at larger distances than they need.
    Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644
    """

    c: float = hyper(1.0, "weight of the margin; of a search, where it begins", minimum=0.0)
    kappa: float = hyper(0.0, "confidence: margin at which the attack rests", minimum=0.0)
    steps: int = hyper(1000, "steps of Adam, at each c", minimum=1)
    lr: float = hyper(0.01, "learning rate of Adam", minimum=0.0)
    search_steps: int = hyper(1, "values of c; 1: c is fixed", minimum=1)
    early_stop: bool = hyper(False, "leave an image whose cost no longer falls")
    in_ball = False
    norm, epsilon = "l2", None
    look = 50

    @property
    def iterations(self) -> int:
        return self.steps * self.search_steps

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        zeros = tf.zeros(tf.shape(x)[0], x.dtype)
        point = x if start is None else start
        return {
            "x_adv": x,
            "size": zeros + float("inf"),
            "w": tf.atanh((2 * point - 1) * tf.cast(_SHRINK, x.dtype)),
            "mean": tf.zeros_like(x),
            "square": tf.zeros_like(x),
            "cost": zeros + float("inf"),
            "stopped": tf.zeros(tf.shape(x)[0], bool),
            "won": tf.zeros(tf.shape(x)[0], bool),  # at this c
            "c": zeros + self.c,
            "lower": zeros,
            "upper": zeros + float("inf"),
        }

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        if self.search_steps > 1:
            state = self._next_c(x, state, i)
        step = tf.cast(i % self.steps, x.dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state["w"])
            x_adv = (tf.tanh(state["w"]) + 1) / 2
            logits = logits_fn(x_adv)
            distance = losses.squared_euclidean(x_adv, x)
            margin = -losses.margin(objective.labels, logits)
            cost = distance + state["c"] * tf.maximum(margin, -self.kappa)
        gradient = slope(tape, cost, state["w"])
        # NaN is misclassified, at any confidence.
        sure = (margin <= -self.kappa) | tf.math.is_nan(margin)
        success = objective.success(logits) & sure & ~state["stopped"]
        better = success & (distance < state["size"])
        new = {
            **state,
            "x_adv": choose_images(better, x_adv, state["x_adv"]),
            "size": tf.where(better, distance, state["size"]),
            "won": state["won"] | success,
            **self._adam(state, gradient, step),
        }
        return self._stop(new, cost, i % self.steps)

    def _adam(self, state, gradient, step):
        mean = _BETA1 * state["mean"] + (1 - _BETA1) * gradient
        square = _BETA2 * state["square"] + (1 - _BETA2) * tf.square(gradient)
        beta1, beta2 = (tf.cast(b, gradient.dtype) for b in (_BETA1, _BETA2))
        unbiased = mean / (1 - beta1 ** (step + 1))
        length = tf.sqrt(square / (1 - beta2 ** (step + 1))) + _TINY
        return {
            "w": state["w"] - self.lr * unbiased / length,
            "mean": mean,
            "square": square,
        }

    def _stop(self, state, cost, step):
        """Marks, at every tenth of the steps, who has not come on since the last."""
        if not self.early_stop:
            return state
        now = tf.equal(step % max(self.steps // 10, 1), 0)
        stopped = state["stopped"] | (now & (cost > state["cost"]))
        return {
            **state,
            "stopped": stopped,
            "cost": tf.where(now, cost, state["cost"]),
        }

    def _next_c(self, x, state, i):
        """At the end of a search step: another c for every image, Adam begun again."""
        again = self.begin(x, None, None)
        won, c = state["won"], state["c"]
        upper = tf.where(won, tf.minimum(state["upper"], c), state["upper"])
        lower = tf.where(won, state["lower"], tf.maximum(state["lower"], c))
        bisected = (lower + upper) / 2
        c = tf.where(tf.math.is_inf(upper), 10 * c, bisected)
        kept = {k: state[k] for k in ("x_adv", "size")}
        fresh = {**again, **kept, "c": c, "lower": lower, "upper": upper}
        turn = tf.equal(i % self.steps, 0) & (i > 0)
        return {k: tf.where(turn, fresh[k], state[k]) for k in state}

    def done(self, state: State) -> Tensor:
        if self.search_steps > 1:
            return super().done(state)
        return state["stopped"]
