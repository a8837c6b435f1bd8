"""Objectives: the per-example scores that attacks ascend.

`objective(logits) -> [n]`, larger is better for the adversary, and
`objective.success(logits) -> bool [n]` says where it has reached its end.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from vfd_tf import losses


@dataclasses.dataclass(frozen=True)
class Objective:
    """A score to ascend and the event that counts as success, both [n, c] -> [n]."""

    score: Callable[[tf.Tensor], tf.Tensor]
    success: Callable[[tf.Tensor], tf.Tensor]

    def __call__(self, logits: tf.Tensor) -> tf.Tensor:
        return self.score(logits)


def _misclassified(y):
    y = tf.cast(losses.hard(y), tf.int64)
    return lambda logits: tf.argmax(logits, axis=-1) != y


def cross_entropy(y) -> Objective:
    """CE(z, y) for labels [n]: untargeted, the objective of PGD."""
    return Objective(lambda logits: losses.cross_entropy(y, logits), _misclassified(y))


def margin(y) -> Objective:
    """max_{j != y} z_j - z_y for labels [n]: Carlini & Wagner's loss."""
    return Objective(lambda logits: losses.margin(y, logits), _misclassified(y))


def dlr(y) -> Objective:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12).

    z_(i) is the i-th largest logit; at least 3 classes. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        top = tf.math.top_k(logits, k=3).values
        return losses.margin(y, logits) / (top[:, 0] - top[:, 2] + 1e-12)

    return Objective(score, _misclassified(y))


def targeted_dlr(y, target) -> Objective:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12) for labels and targets [n].

    At least 4 classes; success is any misclassification. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        top = tf.math.top_k(logits, k=4).values
        rise = losses.true_logit(target, logits) - losses.true_logit(y, logits)
        return rise / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)

    return Objective(score, _misclassified(y))


def kl(clean_logits) -> Objective:
    """KL(p(x) || p(x')) against fixed clean logits [n, c]: the objective of TRADES."""
    clean_logits = tf.stop_gradient(clean_logits)
    return Objective(
        lambda logits: losses.kl_divergence(clean_logits, logits),
        _misclassified(tf.argmax(clean_logits, axis=-1)),
    )
