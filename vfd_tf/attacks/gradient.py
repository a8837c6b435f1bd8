"""Gradient attacks with a fixed step: FGSM, its two training variants, and PGD."""

import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks.attack import Attack, box, input_gradient
from vfd_tf.attacks.norms import BALLS
from vfd_tf.part import hyper, part


def _epsilon():
    return hyper(8 / 255, "radius of the ball, images in [0, 1]", minimum=0.0)


def _norm():
    return hyper("linf", "norm of the ball", choices=tuple(BALLS))


@part
class PGD(Attack):
    """Projected gradient ascent: x_{t+1} = P(x_t + step_size * direction(grad)).

    P projects on the epsilon ball around x, then on [0, 1]; the direction is the sign
    (L-inf) or the normalised gradient (L2). Returns the last iterate; with restarts, per
    example the run that succeeds, else the one of highest objective.
    Madry et al. 2018, https://arxiv.org/abs/1706.06083
    """

    epsilon: float = _epsilon()
    step_size: float | None = hyper(
        None, "step, images in [0, 1]; none: epsilon / 4", minimum=0.0
    )
    steps: int = hyper(10, "gradient steps", minimum=1)
    norm: str = _norm()
    restarts: int = hyper(1, "runs from different starts", minimum=1)
    random_start: bool = hyper(True, "start uniformly in the ball instead of at x")

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        seeds = noise.or_positions(seeds, x)
        if start is None:
            start = self._start(x, seeds)
        best = self._climb(logits_fn, x, objective, start)
        for run in range(1, self.restarts):
            start = self._start(x, noise.fork(seeds, run))
            other = self._climb(logits_fn, x, objective, start)
            best = _better(logits_fn, objective, best, other)
        return tf.stop_gradient(best)

    def _start(self, x, seeds):
        if not self.random_start:
            return x
        ball = BALLS[self.norm]
        return box(x + ball.sample(seeds, x.shape[1:], self.epsilon, x.dtype))

    def _climb(self, logits_fn, x, objective, start):
        size = self.epsilon / 4 if self.step_size is None else self.step_size

        def step(i, x_adv):
            moved = _moved(self, logits_fn, x_adv, objective, size)
            return i + 1, box(BALLS[self.norm].project(x, moved, self.epsilon))

        # A loop in the graph, not in Python: the graph stays small for any `steps`.
        _, x_adv = tf.while_loop(
            lambda i, _: i < self.steps,
            step,
            (0, start),
            parallel_iterations=1,
            maximum_iterations=self.steps,
        )
        return x_adv


def _moved(attack, logits_fn, x_adv, objective, size):
    """x_adv one step of steepest ascent on; not projected."""
    gradient = input_gradient(logits_fn, x_adv, objective)
    return x_adv + size * BALLS[attack.norm].direction(gradient)


def _better(logits_fn, objective, one, other):
    """Per example, the image that succeeds, else the one of higher objective."""
    ranks = []
    for x_adv in (one, other):
        logits = logits_fn(x_adv)
        success = getattr(objective, "success", lambda z: tf.zeros(tf.shape(z)[0], bool))
        ranks.append((success(logits), objective(logits)))
    (won, score), (other_won, other_score) = ranks
    replace = (other_won & ~won) | ((other_won == won) & (other_score > score))
    return tf.where(tf.reshape(replace, [-1] + [1] * (one.shape.rank - 1)), other, one)


@part
class FGSM(Attack):
    """Fast gradient sign method: x' = x + epsilon * direction(grad), clipped to [0, 1].

    Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572
    """

    epsilon: float = _epsilon()
    norm: str = _norm()

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        start = x if start is None else start
        moved = _moved(self, logits_fn, start, objective, self.epsilon)
        return tf.stop_gradient(box(BALLS[self.norm].project(x, moved, self.epsilon)))


@part
class FGSMRS(Attack):
    """FGSM from a random start: one step of `overshoot` * epsilon, back into the ball.

    x' = P(x + u + overshoot * epsilon * direction(grad)), u uniform in the ball. Fast
    training; its start is the method, so a base method's own start is not used. Wong et
    al. 2020, https://arxiv.org/abs/2001.03994
    """

    epsilon: float = _epsilon()
    overshoot: float = hyper(1.25, "step in units of epsilon", minimum=0.0)
    norm: str = _norm()
    own_start = True

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        ball, seeds = BALLS[self.norm], noise.or_positions(seeds, x)
        start = box(x + ball.sample(seeds, x.shape[1:], self.epsilon, x.dtype))
        size = self.overshoot * self.epsilon
        moved = _moved(self, logits_fn, start, objective, size)
        return tf.stop_gradient(box(ball.project(x, moved, self.epsilon)))


@part
class NFGSM(Attack):
    """FGSM from stronger noise, not projected: x' = x + u + epsilon * direction(grad).

    u is uniform in the ball of radius `noise_ratio` * epsilon and only [0, 1] bounds x',
    which reaches (noise_ratio + 1) * epsilon: for fast training, never for evaluation. A
    base method's own start is not used. de Jorge et al. 2022,
    https://arxiv.org/abs/2202.01181
    """

    epsilon: float = _epsilon()
    noise_ratio: float = hyper(2.0, "radius of the noise in units of epsilon", minimum=0.0)
    norm: str = _norm()
    own_start = True
    in_ball = False

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        radius, seeds = self.noise_ratio * self.epsilon, noise.or_positions(seeds, x)
        u = BALLS[self.norm].sample(seeds, x.shape[1:], radius, x.dtype)
        moved = _moved(self, logits_fn, box(x + u), objective, self.epsilon)
        return tf.stop_gradient(box(moved))
