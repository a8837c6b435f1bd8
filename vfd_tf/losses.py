"""Per-example losses: logits or features in, `[n]` out; the trainer reduces once.

Everything is computed in log space and in the dtype of its inputs. `y` are integer labels
`[n]`, or distributions `[n, c]` (smoothed or mixed labels); logits are `[n, c]`. What needs
one class of an image, such as a margin, takes the likeliest.
"""

from typing import Any

import tensorflow as tf

from vfd_tf.types import Tensor


def hard(y: Tensor) -> Tensor:
    """The class of each label: integers [n] as they are, distributions [n, c] -> [n]."""
    y = tf.convert_to_tensor(y)
    return tf.argmax(y, -1, output_type=tf.int32) if y.shape.rank == 2 else y


def soft(y: Tensor, classes: int, dtype: Any = tf.float32) -> Tensor:
    """Labels as distributions [n, c]."""
    y = tf.convert_to_tensor(y)
    if y.shape.rank == 2:
        return tf.cast(y, dtype)
    return tf.one_hot(y, classes, dtype=dtype)


def smooth(y: Tensor, classes: int, smoothing: float, dtype: Any = tf.float32) -> Tensor:
    """(1 - s) * label + s / c: labels [n] or [n, c] -> distributions [n, c].

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567
    """
    return (1 - smoothing) * soft(y, classes, dtype) + smoothing / classes


def cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of labels (eq. 3's J): [n] or [n, c], [n, c] -> [n], nats."""
    y = tf.convert_to_tensor(y)
    if y.shape.rank == 2:
        y = tf.cast(y, logits.dtype)
        # A class that is masked with -inf has no loss where it has no share of the label.
        logits = tf.maximum(logits, logits.dtype.min)
        return tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) of two batches of logits: [n, c], [n, c] -> [n], nats.

    Gradients flow through both arguments, as in TRADES, https://arxiv.org/abs/1901.08573.
    """
    log_p, log_q = tf.nn.log_softmax(p_logits), tf.nn.log_softmax(q_logits)
    p = tf.exp(log_p)
    # 0 log 0 = 0, for classes that are masked with -inf.
    ratio = tf.where(p > 0, log_p - log_q, tf.zeros_like(p))
    return tf.reduce_sum(p * ratio, axis=-1)


def entropy(logits: Tensor) -> Tensor:
    """-sum_c p_c log p_c of the probabilities of logits: [n, c] -> [n], nats."""
    log_p = tf.nn.log_softmax(logits)
    p = tf.exp(log_p)
    return -tf.reduce_sum(tf.where(p > 0, p * log_p, tf.zeros_like(p)), axis=-1)


def soft_cross_entropy(
    teacher_logits: Tensor, logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """T^2 * (-sum_c softmax(t/T)_c log softmax(s/T)_c): [n, c], [n, c] -> [n].

    Distillation in cross-entropy form (gradient of the KL form, another value):
    Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    """
    target = tf.nn.softmax(teacher_logits / temperature)
    log_q = tf.nn.log_softmax(logits / temperature)
    products = tf.math.multiply_no_nan(log_q, target)  # 0 for classes masked with -inf
    return -(temperature**2) * tf.reduce_sum(products, axis=-1)


def true_logit(y: Tensor, logits: Tensor) -> Tensor:
    """The logit of the label: [n], [n, c] -> [n]."""
    return tf.gather(logits, hard(y), axis=-1, batch_dims=1)


def correct(y: Tensor, logits: Tensor) -> Tensor:
    """Whether the label is the first of the largest logits, as argmax has it: bool [n].

    -inf is the logit of a class that can't be. NaN or +inf anywhere in a row predicts
    nothing, and is never correct.
    """
    logits, y = tf.convert_to_tensor(logits), hard(y)
    own = true_logit(y, logits)[:, None]
    before = tf.range(tf.shape(logits)[-1])[None] < tf.cast(y, tf.int32)[:, None]
    beaten = tf.where(before, logits < own, logits <= own)
    return tf.reduce_all(beaten & tf.math.is_finite(own), -1)


def best_other(y: Tensor, logits: Tensor) -> Tensor:
    """The largest logit of any class but the label: [n], [n, c] -> [n]."""
    logits = tf.convert_to_tensor(logits)
    is_label = tf.one_hot(hard(y), tf.shape(logits)[-1], on_value=True, off_value=False)
    lowest = tf.constant(logits.dtype.min, logits.dtype)
    return tf.reduce_max(tf.where(is_label, lowest, logits), axis=-1)


def margin(y: Tensor, logits: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y, positive where misclassified: [n], [n, c] -> [n]."""
    return best_other(y, logits) - true_logit(y, logits)


def runner_up_penalty(y: Tensor, logits: Tensor) -> Tensor:
    """-log(1.0001 - max_{j != y} p_j + 1e-12), MART's margin term: [n], [n, c] -> [n].

    The second half of the boosted cross-entropy, https://openreview.net/forum?id=rklOg6EFwS.
    """
    runner_up = tf.exp(best_other(y, tf.nn.log_softmax(logits)))
    return -tf.math.log(1.0001 - runner_up + 1e-12)


def misclassification_weighted_kl(
    y: Tensor, clean_logits: Tensor, adv_logits: Tensor
) -> Tensor:
    """KL(p(x) || p(x')) * (1.0000001 - p_y(x)), MART's second term: -> [n].

    Gradients flow through every factor. https://openreview.net/forum?id=rklOg6EFwS
    """
    log_p, log_q = tf.nn.log_softmax(clean_logits), tf.nn.log_softmax(adv_logits)
    p = tf.exp(log_p)
    # The original adds 1e-12 to the probabilities of x' before the logarithm.
    log_q = tf.math.log(tf.exp(log_q) + 1e-12)
    ratio = tf.where(p > 0, log_p - log_q, tf.zeros_like(p))
    kl = tf.reduce_sum(p * ratio, axis=-1)
    return kl * (1.0000001 - true_logit(y, p))


def squared_probabilities(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """||p - q||_2^2 of the probabilities of logits: [n, c], [n, c] -> [n].

    In place of KL in SCORE, https://arxiv.org/abs/2202.10103, and the term of GAT,
    https://arxiv.org/abs/2011.14969. Gradients flow through both arguments.
    """
    difference = tf.nn.softmax(p_logits) - tf.nn.softmax(q_logits)
    return tf.reduce_sum(tf.square(difference), axis=-1)


def squared_label_error(y: Tensor, logits: Tensor) -> Tensor:
    """||p - y||_2^2 for labels [n] or [n, c], the Brier score: -> [n].

    What SCORE's code has in place of the cross-entropy (P2333/SCORE).
    """
    difference = tf.nn.softmax(logits) - soft(y, logits.shape[-1], logits.dtype)
    return tf.reduce_sum(tf.square(difference), axis=-1)


def half_variance(weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1/2 Var_w(a - b) over classes, weights that sum to 1: three [n, c] -> [n].

    Equal to 1/4 sum_jk w_j w_k ((a_j - a_k) - (b_j - b_k))^2, DKL's weighted squared
    error, without its [c, c] differences. https://arxiv.org/abs/2305.13948
    """
    difference = logit_difference(a, b)
    mean = tf.reduce_sum(weights * difference, axis=-1, keepdims=True)
    return 0.5 * tf.reduce_sum(weights * tf.square(difference - mean), axis=-1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of the angle of vectors, 1 where one is 0: [n, d], [n, d] -> [n].

    Of AR-AT, https://arxiv.org/abs/2402.14648
    """
    a, b = (tf.math.l2_normalize(v, axis=-1, epsilon=1e-12) for v in (a, b))
    return 1 - tf.reduce_sum(a * b, axis=-1)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean over classes of the squared difference: [n, c], [n, c] -> [n]."""
    return tf.reduce_mean(tf.square(logit_difference(a, b)), axis=-1)


def logit_difference(a: Tensor, b: Tensor, masked: float = 0.0) -> Tensor:
    """a - b of logits; `masked` for classes that are -inf in both: [n, c], [n, c]."""
    both = tf.math.is_inf(a) & (a == b)
    a, b = (tf.where(both, tf.zeros_like(v), v) for v in (a, b))
    return tf.where(both, tf.cast(masked, a.dtype), a - b)


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||_2^2 of each pair of feature maps: [n, ...], [n, ...] -> [n]."""
    return tf.reduce_sum(tf.square(a - b), axis=list(range(1, a.shape.rank)))


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Gamma of eq. 5, ||a - b||_2 of flattened feature maps: [n, ...], [n, ...] -> [n].

    Not squared, as in Algorithm 1; 1e-12 under the root keeps the gradient finite at 0.
    https://arxiv.org/abs/2206.02158
    """
    return tf.sqrt(squared_euclidean(a, b) + 1e-12)
