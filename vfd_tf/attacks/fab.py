"""FAB: the smallest perturbation that crosses a decision boundary, found on the way back.

Croce & Hein 2020, https://arxiv.org/abs/1907.02044
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf.attacks.attack import AttackRun, Composite, Iterated, box, choose_images, slope
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.threat import epsilon_field, norm_field
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.types import State, Tensor

_FAR = 1e10  # the size of a perturbation that was not found


def nearest_on_plane(x, w, c, rate):
    """The smallest d with <w, x + d> = <w, x> - c and x + d in [0, 1]: [n, d].

    Entries move against the sign of their slope, together, at `rate` per unit of lambda
    until the box stops them: d_i = -+ min(lambda rate_i, room_i), with the lambda that
    solves sum |w_i| min(lambda rate_i, room_i) = c. The left side is concave and piecewise
    linear in lambda, so that Newton's method from 0 never overshoots and ends exactly.
    Where the box leaves too little room, all of it is used.

    Args:
        x, w: Images and slopes [n, d].
        c: What is to be lost [n], positive or negative.
        rate: `Ball.rate` of the norm that is to be small.
    """
    side = tf.where(c >= 0, tf.ones_like(c), -tf.ones_like(c))
    w, c = w * side[:, None], tf.abs(c)
    steep, rate = tf.abs(w), rate(w)
    room = tf.abs(tf.cast(w <= 0, x.dtype) - x)  # x, or 1 - x
    most, fastest = steep * room, steep * rate

    def newton(i, level, previous):
        full = tf.cast(level[:, None] * rate >= room, x.dtype)
        used = tf.reduce_sum(most * full, -1)
        growth = tf.reduce_sum(tf.math.multiply_no_nan(fastest, 1 - full), -1)
        ahead = tf.math.divide_no_nan(c - used, growth)
        return i + 1, tf.maximum(level, ahead), level

    zero = tf.zeros_like(c)
    _, level, _ = tf.while_loop(
        lambda i, level, previous: tf.equal(i, 0) | tf.reduce_any(level > previous),
        newton,
        (0, zero, zero),
        maximum_iterations=100,
        parallel_iterations=1,
    )
    return -tf.sign(w) * tf.minimum(level[:, None] * rate, room)


@component
class FAB(Iterated):
    """Fast adaptive boundary attack: minimises the norm of an adversarial perturbation.

    Each step linearises the difference of two logits at x_k, projects x_k and x on that
    plane within the box (d1 and d2), and goes to (1 - a) (x_k + eta d1) + a (x + eta d2),
    a = min(|d1| / (|d1| + |d2|), alpha_max). A misclassified iterate is kept if it is the
    nearest so far, and steps back to x + beta (x_k - x). Aims at the class of the
    objective's target, else at the nearest linearised boundary of all classes. A result
    counts within epsilon; otherwise x is returned. https://arxiv.org/abs/1907.02044
    """

    epsilon: float = epsilon_field()
    steps: int = hyper(100, "iterations", minimum=1)
    norm: str = norm_field()
    restarts: int = hyper(1, "runs; all but the first start at random", minimum=1)
    alpha_max: float = hyper(0.1, "largest share of the way back to x", 0.0, 1.0)
    eta: float = hyper(1.05, "overshoot of a projection", minimum=1.0)
    beta: float = hyper(0.9, "share of the perturbation kept after a success", 0.0, 1.0)
    random_start: bool = hyper(False, "start at half the radius instead of at x")
    look = 10

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        first = self.replace(restarts=1)
        again = first.replace(random_start=True)
        rest = (AttackRun(again, stream=stream) for stream in range(1, self.restarts))
        return (AttackRun(first), *rest)

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        if start is None:
            start, ball = x, BALLS[self.norm]
            if self.random_start:
                edge = ball.edge(seeds, x.shape[1:], self.epsilon, x.dtype)
                start = box(x + edge / 2)
        far = tf.zeros(tf.shape(x)[0], x.dtype) + _FAR
        return {"x_adv": start, "x_best": x, "size": far}

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        ball, x_adv = BALLS[self.norm], state["x_adv"]
        flat = [-1, x_adv.shape[1:].num_elements()]
        rise, w = _plane(*_boundary(logits_fn, x_adv, objective, ball), flat)
        # The plane rise + <w, x' - x_adv> = 0, seen from x_adv and from x.
        here = rise
        there = rise + tf.reduce_sum(w * tf.reshape(x - x_adv, flat), -1)
        both = tf.concat([tf.reshape(x_adv, flat), tf.reshape(x, flat)], 0)
        d = nearest_on_plane(
            both, tf.concat([w, w], 0), tf.concat([here, there], 0), ball.rate
        )
        d1, d2 = (tf.reshape(part, tf.shape(x)) for part in tf.split(d, 2))
        d1, d2 = (tf.ensure_shape(part, x.shape) for part in (d1, d2))
        size1, size2 = (tf.maximum(ball.size(part), 1e-8) for part in (d1, d2))
        alpha = tf.minimum(size1 / (size1 + size2), self.alpha_max)
        moved = (x_adv + self.eta * d1) * (1 - alpha) + (x + self.eta * d2) * alpha
        moved = box(moved)
        return self._keep(x, moved, state, objective.success(logits_fn(moved)))

    def _keep(self, x, moved, state, success):
        size = tf.reshape(BALLS[self.norm].size(moved - x), [-1])
        better = success & (size < state["size"])
        back = x + (moved - x) * self.beta
        return {
            "x_adv": choose_images(success, back, moved),
            "x_best": choose_images(better, moved, state["x_best"]),
            "size": tf.where(better, size, state["size"]),
        }

    def done(self, state: State) -> Tensor:
        return state["size"] <= self.epsilon

    def result(self, x: Tensor, state: State) -> Tensor:
        return choose_images(self.done(state), state["x_best"], x)


def _boundary(logits_fn, x, objective, ball):
    """Lead of the other class at the nearest linearised boundary [n], and its gradient."""
    if objective.target is not None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            rise = _lead(objective)(logits_fn(x))
        return rise, slope(tape, rise, x)
    eager = tf.executing_eagerly()  # where the Jacobian asks the tape once a class
    with tf.GradientTape(eager, watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_fn(x)
    slopes = tape.batch_jacobian(
        logits, x, unconnected_gradients="zero", experimental_use_pfor=False
    )
    slopes = tf.where(tf.math.is_finite(slopes), slopes, tf.zeros_like(slopes))
    y = objective.labels
    classes = logits.shape[-1]
    own = tf.gather(slopes, y, axis=1, batch_dims=1)[:, None]
    slopes, rise = (
        slopes - own,
        logits - tf.gather(logits, y, axis=1, batch_dims=1)[:, None],
    )
    flat = tf.reshape(slopes, [-1, *x.shape[1:]])
    length = tf.reshape(ball.dual(flat), [-1, classes])
    distance = tf.math.divide_no_nan(tf.abs(rise), length)
    # Neither the label, nor classes that are masked or that no pixel moves.
    is_label = tf.one_hot(y, classes, on_value=True, off_value=False)
    possible = tf.math.is_finite(rise) & (length > 0) & ~is_label
    distance = tf.where(possible, distance, tf.cast(np.inf, x.dtype))
    nearest = tf.argmin(distance, -1)
    return (
        tf.gather(rise, nearest, axis=1, batch_dims=1),
        tf.gather(slopes, nearest, axis=1, batch_dims=1),
    )


def _plane(rise, gradient, flat):
    """The plane rise + <gradient, d> = 0 [n], [n, d], its steepest slope scaled to 1."""
    w = tf.reshape(gradient, flat)
    steepest = tf.reduce_max(tf.abs(w), -1)
    rise = tf.where(tf.math.is_finite(rise), rise, tf.zeros_like(rise))
    rise = tf.clip_by_value(tf.math.divide_no_nan(rise, steepest), -_FAR, _FAR)
    return rise, tf.math.divide_no_nan(w, steepest[:, None])


def _lead(objective):
    """logits -> z_t - z_y."""

    def lead(logits):
        target = tf.gather(logits, objective.target, axis=-1, batch_dims=1)
        return target - tf.gather(logits, objective.labels, axis=-1, batch_dims=1)

    return lead


@component
class FABT(Composite):
    """Targeted FAB: one run at each of the likeliest wrong classes of the clean image.

    Croce & Hein 2020, https://arxiv.org/abs/1907.02044 and 2003.01690
    """

    epsilon: float = epsilon_field()
    steps: int = hyper(100, "iterations of a run", minimum=1)
    norm: str = norm_field()
    targets: int = hyper(9, "classes aimed at, at most all wrong ones", minimum=1)
    alpha_max: float = hyper(0.1, "largest share of the way back to x", 0.0, 1.0)
    eta: float = hyper(1.05, "overshoot of a projection", minimum=1.0)
    beta: float = hyper(0.9, "share of the perturbation kept after a success", 0.0, 1.0)

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        attack = FAB(
            self.epsilon,
            self.steps,
            self.norm,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
        )
        last = min(self.targets + 1, classes)
        return tuple(
            AttackRun(attack, "targeted-margin", rank=rank) for rank in range(2, last + 1)
        )
