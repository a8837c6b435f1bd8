"""Objectives: the per-example scores that attacks ascend.

`objective(logits) -> [n]`, larger is better for the adversary, and
`objective.success(logits) -> bool [n]` says where it has reached its end.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.types import Tensor


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

    def plus(self, more: Callable[[tf.Tensor], tf.Tensor]) -> "Objective":
        """The objective whose score is the sum of this one's and another."""
        return dataclasses.replace(self, score=lambda z: self.score(z) + more(z))


def _with_softmax_slope(loss, log_target):
    """A score of logits with the gradient softmax(z) - target, as floats can hold it.

    The largest class has what the others lack together, as p - 1 is rounded to 0 long
    before the other p are; what leaves the range of floats is lifted back into it.
    """

    @tf.custom_gradient
    def score(logits):
        def gradient(upstream):
            return upstream[:, None] * _softmax_slope(logits, log_target(logits))

        return loss(logits), gradient

    return score


def _softmax_slope(logits, log_t):
    log_p = tf.nn.log_softmax(logits)
    first = tf.one_hot(tf.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    rest = tf.where(first > 0, logits.dtype.min, tf.maximum(log_p, log_t))
    lift = tf.nn.relu(_least(logits) - tf.reduce_max(rest, -1, keepdims=True))
    rise = tf.exp(log_p + lift) - tf.exp(log_t + lift)  # infinite for the largest class
    rise = tf.where(first > 0, tf.zeros_like(rise), rise)
    return rise - first * tf.reduce_sum(rise, -1, keepdims=True)


def _of_labels(score, y, target=None) -> Objective:
    """The objective whose success is any prediction but the label, or none at all."""
    y = losses.hard(y)
    return Objective(score, lambda z: ~losses.correct(y, z), y, target)


def cross_entropy(y: Tensor) -> Objective:
    """CE(z, y) for labels [n]: untargeted, the objective of PGD."""

    def log_target(logits):
        return tf.math.log(losses.soft(y, logits.shape[-1], logits.dtype))

    return _of_labels(_with_softmax_slope(lambda z: _ordered_ce(y, z), log_target), y)


def _ordered_ce(y, logits):
    """CE(z, y) of labels, told apart where it is rounded to 0.

    CE = softplus(m) with m = log sum_{j != y} exp z_j - z_y; from sqrt(tiny) on down a
    function that rises with m as well, but stays in the range of floats.
    """
    if tf.convert_to_tensor(y).shape.rank == 2:
        return losses.cross_entropy(y, logits)
    least = _least(logits)
    is_label = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    others = tf.where(is_label, tf.cast(-np.inf, logits.dtype), logits)
    m = tf.reduce_logsumexp(others, -1) - losses.true_logit(y, logits)
    return _ordered(m, tf.nn.softplus(m), least)


def _ordered(log_score, score, least):
    """A score, or where its logarithm is below `least` what rises with that instead."""
    below = np.exp(least) / (1 + tf.nn.relu(least - log_score))
    return tf.where(log_score < least, below, score)


def _least(logits):
    """Where cross-entropy and its gradient, of size exp of that, leave the safe range."""
    return 0.5 * np.log(np.finfo(logits.dtype.as_numpy_dtype).tiny)


def margin(y: Tensor) -> Objective:
    """max_{j != y} z_j - z_y for labels [n]: Carlini & Wagner's loss."""
    return _of_labels(lambda logits: losses.margin(y, logits), y)


def targeted_margin(y: Tensor, target: Tensor) -> Objective:
    """z_t - z_y for labels and targets [n]; success is any misclassification."""
    return _of_labels(lambda logits: _rise(y, target, logits), y, target)


def _rise(y, target, logits):
    """z_t - z_y [n]."""
    return losses.true_logit(target, logits) - losses.true_logit(y, logits)


def dlr(y: Tensor) -> Objective:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3) + 1e-12).

    z_(i) is the i-th largest logit; at least 3 classes. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        _need_classes(logits, 3, "dlr", "margin")
        top = tf.math.top_k(logits, k=3).values
        return losses.margin(y, logits) / _spread(top[:, 0], top[:, 2])

    return _of_labels(score, y)


def targeted_dlr(y: Tensor, target: Tensor) -> Objective:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12) for labels and targets [n].

    At least 4 classes; success is any misclassification. https://arxiv.org/abs/2003.01690
    """

    def score(logits):
        _need_classes(logits, 4, "targeted_dlr", "targeted_margin")
        top = tf.math.top_k(logits, k=4).values
        below = 0.5 * (top[:, 2] + top[:, 3])
        return _rise(y, target, logits) / _spread(top[:, 0], below)

    return _of_labels(score, y, target)


def pm(y: Tensor) -> Objective:
    """1 + max_{j != y} p_j - p_y for labels [n], from 0 to 2: PMA's probability margin.

    The paper's is without the 1, and near -1 wherever the network is confident, where
    floats of 32 bits tell nothing apart below 6e-8. The same gradient, computed as that of
    (1 - p_y) + max p_j with 1 - p_y the sum of the others, and lifted like that of the
    cross-entropy. Xie et al. 2025, https://arxiv.org/abs/2411.15210
    """
    y = losses.hard(y)

    @tf.custom_gradient
    def score(logits):
        log_p = tf.nn.log_softmax(logits)
        log_rise, slope = _probability_margin(y, log_p)
        value = _ordered(log_rise, tf.exp(log_rise), _least(logits))
        return value, lambda upstream: upstream[:, None] * slope

    return _of_labels(score, y)


def _probability_margin(y, log_p):
    """log(1 + p_m - p_y) [n], m the likeliest other class, and the slope by logits [n, c].

    The slope is p_m (1 - p_m + p_y) at m, -p_y (1 + p_m - p_y) at y, p_k (p_y - p_m) else.
    """
    lowest, classes = tf.cast(-np.inf, log_p.dtype), log_p.shape[-1]
    label = tf.one_hot(y, classes, on_value=True, off_value=False)
    others = tf.where(label, lowest, log_p)
    first = tf.one_hot(tf.argmax(others, -1), classes, on_value=True, off_value=False)
    own = losses.true_logit(y, log_p)[:, None]
    best = tf.reduce_max(others, -1, keepdims=True)
    but_first = tf.where(first, lowest, log_p)
    log_rise = tf.reduce_logsumexp(tf.concat([others, best], -1), -1, keepdims=True)
    log_fall = tf.reduce_logsumexp(tf.concat([but_first, own], -1), -1, keepdims=True)
    lift = tf.nn.relu(_least(log_p) - tf.maximum(own + log_rise, best + log_fall))
    lift = tf.where(tf.math.is_inf(lift), tf.zeros_like(lift), lift)  # no other class
    size = log_p + tf.where(label, log_rise, tf.where(first, log_fall, tf.zeros_like(own)))
    sign = tf.where(first, tf.ones_like(own), tf.exp(own) - tf.exp(best))
    sign = tf.where(label, -tf.ones_like(own), sign)
    return log_rise[:, 0], sign * tf.exp(size + lift)


def _spread(top, below):
    """What DLR divides by; 1 where masked classes leave it too few."""
    spread = top - below + 1e-12
    return tf.where(tf.math.is_inf(spread), tf.ones_like(spread), spread)


def _need_classes(logits, least, name, instead):
    if logits.shape[-1] is not None and logits.shape[-1] < least:
        raise InputError(
            f"The objective {name} needs at least {least} classes, the model has "
            f"{logits.shape[-1]}; use {instead}."
        )


def kl(clean_logits: Tensor, y: Tensor | None = None) -> Objective:
    """KL(p(x) || p(x')) against fixed clean logits [n, c]: the objective of TRADES.

    Without labels `y` [n], success is another class than that of the clean logits.
    """
    clean_logits = tf.stop_gradient(clean_logits)
    y = tf.argmax(clean_logits, -1, output_type=tf.int32) if y is None else y
    log_p = tf.nn.log_softmax(clean_logits)
    score = _with_softmax_slope(
        lambda logits: losses.kl_divergence(clean_logits, logits),
        lambda logits: tf.cast(log_p, logits.dtype),
    )
    return _of_labels(score, y)


def squared(clean_logits: Tensor, y: Tensor | None = None) -> Objective:
    """||p(x) - p(x')||_2^2 against fixed clean logits [n, c]: SCORE's inner loss.

    Success as in `kl`. https://arxiv.org/abs/2202.10103
    """
    clean_logits = tf.stop_gradient(clean_logits)
    score = functools.partial(losses.squared_probabilities, clean_logits)
    return dataclasses.replace(kl(clean_logits, y), score=score)


# Name -> objective of labels [n], clean logits [n, c] and target classes [n].
OBJECTIVES = {
    "ce": lambda y, clean, target: cross_entropy(y),
    "margin": lambda y, clean, target: margin(y),
    "dlr": lambda y, clean, target: dlr(y),
    "pm": lambda y, clean, target: pm(y),
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
