"""Gradient attacks with a fixed step: FGSM and PGD."""

import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks.attack import Attack, box, input_gradient
from vfd_tf.attacks.norms import BALLS
from vfd_tf.part import hyper, part


@part
class PGD(Attack):
    """Projected gradient ascent: x_{t+1} = P(x_t + step_size * direction(grad)).

    P projects on the epsilon ball around x, then on [0, 1]; the direction is the sign
    (L-inf) or the normalised gradient (L2). Returns the last iterate; with restarts, per
    example the run that succeeds, else the one of highest objective.
    Madry et al. 2018, https://arxiv.org/abs/1706.06083
    """

    epsilon: float = hyper(8 / 255, "radius of the ball, images in [0, 1]", minimum=0.0)
    step_size: float | None = hyper(
        None, "step, images in [0, 1]; none: epsilon / 4", minimum=0.0
    )
    steps: int = hyper(10, "gradient steps", minimum=1)
    norm: str = hyper("linf", "norm of the ball", choices=("linf", "l2"))
    restarts: int = hyper(1, "runs from different starts", minimum=1)
    random_start: bool = hyper(True, "start uniformly in the ball instead of at x")

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        if seeds is None:
            seeds = noise.example_seeds(0, 0, tf.range(tf.shape(x)[0]))
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
        ball = BALLS[self.norm]
        size = self.epsilon / 4 if self.step_size is None else self.step_size

        def step(i, x_adv):
            gradient = input_gradient(logits_fn, x_adv, objective)
            moved = x_adv + size * ball.direction(gradient)
            return i + 1, box(ball.project(x, moved, self.epsilon))

        # A loop in the graph, not in Python: the graph stays small for any `steps`.
        _, x_adv = tf.while_loop(
            lambda i, _: i < self.steps,
            step,
            (0, start),
            parallel_iterations=1,
            maximum_iterations=self.steps,
        )
        return x_adv


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

    epsilon: float = hyper(8 / 255, "radius of the ball, images in [0, 1]", minimum=0.0)
    norm: str = hyper("linf", "norm of the ball", choices=("linf", "l2"))

    def __call__(self, logits_fn, x, objective, start=None, seeds=None):
        step = PGD(self.epsilon, self.epsilon, steps=1, norm=self.norm, random_start=False)
        return step(logits_fn, x, objective, start=start, seeds=seeds)
