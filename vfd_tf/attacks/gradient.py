"""Gradient attacks with a fixed step: PGD, MIM, FGSM and its two training variants."""

from collections.abc import Callable

import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks.attack import Iterated, ascent, box, choose_images, input_gradient
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.threat import eot_field, epsilon_field, norm_field
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.types import State, Tensor


def _step_size():
    return hyper(None, "step, images in [0, 1]; none: epsilon / 4", minimum=0.0)


def _early_stop():
    return hyper(False, "stay at the first misclassified iterate")


class FixedStep(Iterated):
    """Steps of one size from a random start, each projected; the last iterate is x_adv.

    With `early_stop` an image stays at its first misclassified iterate, so that it counts
    as misclassified if any iterate was.
    """

    trains = True

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        state = {"x_adv": self._start(x, seeds) if start is None else start}
        if self.early_stop:
            state["misclassified"] = tf.zeros(tf.shape(x)[0], bool)
        return state

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        logits, _, gradient = ascent(logits_fn, state["x_adv"], objective, self.eot)
        state, direction = self._direction(gradient, state)
        size = self.epsilon / 4 if self.step_size is None else self.step_size
        moved = state["x_adv"] + size * direction
        moved = box(BALLS[self.norm].project(x, moved, self.epsilon))
        if not self.early_stop:
            return {**state, "x_adv": moved}
        misclassified = state["misclassified"] | objective.success(logits)
        x_adv = choose_images(misclassified, state["x_adv"], moved)
        return {**state, "x_adv": x_adv, "misclassified": misclassified}

    def for_evaluation(self) -> "FixedStep":
        return self.replace(early_stop=True)

    def done(self, state: State) -> Tensor:
        return state["misclassified"] if self.early_stop else super().done(state)

    def _start(self, x, seeds):
        if not self.random_start:
            return x
        ball = BALLS[self.norm]
        return box(x + ball.sample(seeds, x.shape[1:], self.epsilon, x.dtype))

    def _direction(self, gradient, state):
        """(state, unit step) of the input gradient."""
        return state, BALLS[self.norm].direction(gradient)


@component
class PGD(FixedStep):
    """Projected gradient ascent: x_{t+1} = P(x_t + step_size * direction(grad)).

    P projects on the epsilon ball around x, then on [0, 1]; the direction is the sign
    (L-inf) or the normalised gradient (L2). The start is uniform in the ball of L-inf; in
    L2 its direction and its distance from x are. Returns the last iterate; with restarts,
    per example the run that succeeds, else the one of highest objective.
    Madry et al. 2018, https://arxiv.org/abs/1706.06083
    """

    epsilon: float = epsilon_field()
    step_size: float | None = _step_size()
    steps: int = hyper(10, "gradient steps", minimum=1)
    norm: str = norm_field()
    restarts: int = hyper(1, "runs from different starts", minimum=1)
    random_start: bool = hyper(True, "start at random in the ball instead of at x")
    eot: int = eot_field()
    early_stop: bool = _early_stop()

    def __post_init__(self):
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                f"PGD with restarts={self.restarts} and random_start=False repeats one run "
                "from x: leave out one of the two."
            )

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        seeds = noise.or_positions(seeds, x)
        best = super().__call__(logits_fn, x, objective, start, seeds)
        for run in range(1, self.restarts):
            own = noise.fork(seeds, run)
            other = super().__call__(logits_fn, x, objective, None, own)
            best = _better(logits_fn, objective, best, other)
        return tf.stop_gradient(best)


@component
class MIM(FixedStep):
    """Momentum iterative method: g <- decay * g + grad / mean |grad|, then a step along g.

    The mean is over the pixels of an image; no random start. The step is `step_size` times
    the sign of g (L-inf) or g / ||g|| (L2). Dong et al. 2018,
    https://arxiv.org/abs/1710.06081
    """

    epsilon: float = epsilon_field()
    step_size: float | None = _step_size()
    steps: int = hyper(20, "gradient steps", minimum=1)
    norm: str = norm_field()
    decay: float = hyper(1.0, "factor on the momentum g of the step before", minimum=0.0)
    random_start: bool = hyper(False, "start at random in the ball instead of at x")
    eot: int = eot_field()
    early_stop: bool = _early_stop()

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        return {**super().begin(x, start, seeds), "momentum": tf.zeros_like(x)}

    def _direction(self, gradient, state):
        axes = list(range(1, gradient.shape.rank))
        mean = tf.reduce_mean(tf.abs(gradient), axes, keepdims=True)
        # Where the gradient vanishes there is nothing to add, and no division by zero.
        own = tf.math.divide_no_nan(gradient, mean)
        momentum = self.decay * state["momentum"] + own
        direction = BALLS[self.norm].direction(momentum)
        return {**state, "momentum": momentum}, direction


def _better(logits_fn, objective, one, other):
    """Per example, the image that succeeds, else the one of higher objective."""
    ranks = []
    for x_adv in (one, other):
        logits = logits_fn(x_adv)
        success = getattr(objective, "success", lambda z: tf.zeros(tf.shape(z)[0], bool))
        ranks.append((success(logits), objective(logits)))
    (won, score), (other_won, other_score) = ranks
    replace = (other_won & ~won) | ((other_won == won) & (other_score > score))
    return choose_images(replace, other, one)


class SingleStep(Iterated):
    """One gradient step: `begin` is where the gradient is taken."""

    steps = 1
    trains = True

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        return {"x_adv": x if start is None else start}

    def _moved(self, logits_fn, state, objective, size):
        """x_adv a step of steepest ascent on; not projected."""
        gradient = input_gradient(logits_fn, state["x_adv"], objective)
        return state["x_adv"] + size * BALLS[self.norm].direction(gradient)


@component
class FGSM(SingleStep):
    """Fast gradient sign method: x' = x + epsilon * direction(grad), clipped to [0, 1].

    Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572
    """

    epsilon: float = epsilon_field()
    norm: str = norm_field()

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        moved = self._moved(logits_fn, state, objective, self.epsilon)
        return {"x_adv": box(BALLS[self.norm].project(x, moved, self.epsilon))}


@component
class FGSMRS(SingleStep):
    """FGSM from a random start: one step of `overshoot` * epsilon, back into the ball.

    x' = P(x + u + overshoot * epsilon * direction(grad)), u as PGD's random start. Fast
    training; its start is the method, so a base method's own start is not used. Wong et
    al. 2020, https://arxiv.org/abs/2001.03994
    """

    epsilon: float = epsilon_field()
    overshoot: float = hyper(1.25, "step in units of epsilon", minimum=0.0)
    norm: str = norm_field()
    own_start = True

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        u = BALLS[self.norm].sample(seeds, x.shape[1:], self.epsilon, x.dtype)
        return {"x_adv": box(x + u)}

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        moved = self._moved(logits_fn, state, objective, self.overshoot * self.epsilon)
        return {"x_adv": box(BALLS[self.norm].project(x, moved, self.epsilon))}


@component
class NFGSM(SingleStep):
    """FGSM from stronger noise, not projected: x' = x + u + epsilon * direction(grad).

    u is PGD's random start at radius `noise_ratio` * epsilon and only [0, 1] bounds x',
    which reaches (noise_ratio + 1) * epsilon: for fast training, never for evaluation. A
    base method's own start is not used. de Jorge et al. 2022,
    https://arxiv.org/abs/2202.01181
    """

    epsilon: float = epsilon_field()
    noise_ratio: float = hyper(2.0, "radius of the noise in units of epsilon", minimum=0.0)
    norm: str = norm_field()
    own_start = True
    in_ball = False

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        radius = self.noise_ratio * self.epsilon
        u = BALLS[self.norm].sample(seeds, x.shape[1:], radius, x.dtype)
        return {"x_adv": box(x + u)}

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        return {"x_adv": box(self._moved(logits_fn, state, objective, self.epsilon))}
