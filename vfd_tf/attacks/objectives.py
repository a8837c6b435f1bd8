"""Objectives: the per-example scores that attacks ascend.

`objective(logits) -> [n]`, larger is better for the adversary, and
`objective.success(logits) -> bool [n]` says where it has reached its end.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from vfd_tf import losses
from vfd_tf.part import InputError, choose


@dataclasses.dataclass(frozen=True)
class Objective:
    """A score to ascend and the event that counts as success, both [n, c] -> [n].

    `labels` [n] are the classes that count as right; `target` [n] the classes that the
    score aims at, or None.
    """

    score: Callable[[tf.Tensor], tf.Tensor]
    success: Callable[[tf.Tensor], tf.Tensor]
    labels: tf.Tensor | None = None
    target: tf.Tensor | None = None

    def __call__(self, logits: tf.Tensor) -> tf.Tensor:
        return self.score(logits)


def _of_labels(score, y, target=None) -> Objective:
    """The objective whose success is any class but the label."""
    y = losses.hard(y)

    def success(logits):
        return tf.argmax(logits, axis=-1) != tf.cast(y, tf.int64)

    return Objective(score, success, y, target)


def cross_entropy(y) -> Objective:
    """CE(z, y) for labels [n]: untargeted, the objective of PGD."""
    return _of_labels(lambda logits: losses.cross_entropy(y, logits), y)


def margin(y) -> Objective:
    """max_{j != y} z_j - z_y for labels [n]: Carlini & Wagner's loss."""
    return _of_labels(lambda logits: losses.margin(y, logits), y)


def targeted_margin(y, target) -> Objective:
    """z_t - z_y for labels and targets [n]; success is any misclassification."""

    def score(logits):
        return losses.true_logit(target, logits) - losses.true_logit(y, logits)

    return _of_labels(score, y, target)


def dlr(y) -> Objective:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12).

    z_(i) is the i-th largest logit; at least 3 classes. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        _need_classes(logits, 3, "dlr", "margin")
        top = tf.math.top_k(logits, k=3).values
        return losses.margin(y, logits) / (top[:, 0] - top[:, 2] + 1e-12)

    return _of_labels(score, y)


def targeted_dlr(y, target) -> Objective:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12) for labels and targets [n].

    At least 4 classes; success is any misclassification. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        _need_classes(logits, 4, "targeted_dlr", "targeted_margin")
        top = tf.math.top_k(logits, k=4).values
        rise = losses.true_logit(target, logits) - losses.true_logit(y, logits)
        return rise / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)

    return _of_labels(score, y, target)


def _need_classes(logits, least, name, instead):
    if logits.shape[-1] is not None and logits.shape[-1] < least:
        raise InputError(
            f"The objective {name} needs at least {least} classes, the model has "
            f"{logits.shape[-1]}; use {instead}."
        )


def kl(clean_logits, y=None) -> Objective:
    """KL(p(x) || p(x')) against fixed clean logits [n, c]: the objective of TRADES.

    Without labels `y` [n], success is another class than that of the clean logits.
    """
    clean_logits = tf.stop_gradient(clean_logits)
    y = tf.argmax(clean_logits, -1, output_type=tf.int32) if y is None else y
    return _of_labels(lambda logits: losses.kl_divergence(clean_logits, logits), y)


# Name -> objective of labels [n], clean logits [n, c] and target classes [n].
OBJECTIVES = {
    "ce": lambda y, clean, target: cross_entropy(y),
    "margin": lambda y, clean, target: margin(y),
    "dlr": lambda y, clean, target: dlr(y),
    "kl": lambda y, clean, target: kl(clean, y),
    "targeted-margin": lambda y, clean, target: targeted_margin(y, target),
    "targeted-dlr": lambda y, clean, target: targeted_dlr(y, target),
}
# What needs more classes than a model may have -> classes, what stands in for it.
FEW_CLASSES = {"dlr": (3, "margin"), "targeted-dlr": (4, "targeted-margin")}


def named(name: str, y, clean_logits=None, target=None) -> Objective:
    """The objective of that name."""
    return choose(OBJECTIVES, name, "objective")(y, clean_logits, target)


def possible(name: str, classes: int) -> str:
    """The name of an objective, or of its stand-in where there are too few classes."""
    least, instead = FEW_CLASSES.get(name, (0, name))
    return name if classes >= least else instead
