"""KL taken apart: a soft cross-entropy and a weighted variance of logits."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import objectives
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.training.methods.base import NormalStart, start_noise_field
from vfd_tf.types import Outputs, Tensor, Terms


@component
class DKL(NormalStart):
    """CE(z(x), y) + alpha * SCE(p(x), p(x')) + beta * 1/2 Var_p(x)(z(x) - z(x')).

    SCE is the cross-entropy of soft labels p(x), which take no gradient; nor do the
    weights p(x) of the variance over classes, which is the paper's sum over pairs
    1/4 sum_jk p_j p_k ((z_j - z_k) - (z'_j - z'_k))^2. Cui et al. 2024,
    https://arxiv.org/abs/2305.13948

    With `symmetric=False` the variance moves the clean logits alone: DKL itself, whose
    gradient at alpha = beta is that of alpha * KL(p(x) || p(x')). The default is the
    paper's first improvement of it. alpha, beta are those of its code with class means as
    weights (jiequancui/DKL). The attack ascends the KL, as that code does on CIFAR-10; on
    CIFAR-100 SCE plus the variance, `attack_beta=1`.
    """

    alpha: float = hyper(4.0, "weight of the soft cross-entropy", minimum=0.0)
    beta: float = hyper(20.0, "weight of the variance of logits", minimum=0.0)
    start_noise: float = start_noise_field()
    symmetric: bool = hyper(True, "the variance moves the adversarial logits as well")
    attack_beta: float = hyper(0.0, "weight of the variance in the attack's score", 0.0)
    beta_term = "variance"
    objective_forwards = 1

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0, "soft": self.alpha, "variance": self.beta}

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        clean = tf.stop_gradient(logits_fn(x))
        ascended = objectives.kl(clean)  # SCE with a constant more
        if not self.attack_beta:
            return ascended
        weights = self.class_weights(y, clean)
        return ascended.plus(
            lambda z: self.attack_beta * losses.half_variance(weights, clean, z)
        )

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        fixed = tf.stop_gradient(clean)
        other = adv if self.symmetric else tf.stop_gradient(adv)
        return {
            "clean": losses.cross_entropy(y, clean),
            "soft": losses.soft_cross_entropy(fixed, adv),
            "variance": losses.half_variance(self.class_weights(y, fixed), clean, other),
        }

    def class_weights(self, y: Tensor, logits: Tensor) -> Tensor:
        """The weights of the variance [n, c], from labels and fixed clean logits [n, c]."""
        return tf.nn.softmax(logits)


@component
class IKL(DKL):
    """DKL whose variance has the mean prediction of the label's class as weights.

    w is the mean of softmax(z(x) / temperature) over the images of the class in the epoch
    before, 1 / c each in the first; [c, c] numbers that checkpoints keep. Cui et al. 2024,
    https://arxiv.org/abs/2305.13948, code jiequancui/DKL: alpha 3 to 5, beta 10 to 20, T 4
    (2 on CIFAR-100 for more robustness), epsilon rising with the epoch, AWP 0.005.

    `power` is gamma of GKL, https://arxiv.org/abs/2503.08038: w^power / sum w^power, with
    0.2 to 0.4 at temperature 1 (its code divides by the sum over the batch instead, and
    has power 1 in the attack's score). With label smoothing the loss has the weights of the
    smoothed label, the attack those of the class.
    """

    temperature: float = hyper(4.0, "softmax temperature of the class means", minimum=1e-3)
    power: float = hyper(1.0, "exponent of the class means", minimum=0.0)

    def state(self, classes: int | None) -> dict[str, np.ndarray]:
        if classes is None:
            raise InputError(
                "IKL has to know how many classes there are: make the student a functional "
                "or Sequential model."
            )
        means = np.full((classes, classes), 1 / classes, "float32")
        return {"class_means": means, "class_sums": np.zeros_like(means)}

    def class_weights(self, y: Tensor, logits: Tensor) -> Tensor:
        classes = logits.shape[-1]
        if self.learned is None:
            means = tf.fill([classes, classes], tf.cast(1 / classes, logits.dtype))
        else:
            means = tf.cast(self.learned["class_means"], logits.dtype)
        own = losses.soft(y, classes, logits.dtype) @ means
        # The largest is 1, so that no power makes all of them 0.
        own = tf.pow(own / tf.reduce_max(own, -1, keepdims=True), self.power)
        return own / tf.reduce_sum(own, -1, keepdims=True)

    def seen(self, y: Tensor, logits: Tensor, terms: Terms) -> dict[str, Tensor]:
        p = tf.nn.softmax(logits / self.temperature)
        labels = losses.soft(y, logits.shape[-1], p.dtype)
        return {"class_sums": tf.matmul(labels, p, transpose_a=True)}

    def after_step(
        self, state: dict[str, Tensor], seen: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return {"class_sums": state["class_sums"] + seen["class_sums"]}

    def after_epoch(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sums, means = state["class_sums"], state["class_means"]
        images = sums.sum(1, keepdims=True)
        means = np.where(images > 0, sums / np.maximum(images, 1e-12), means)
        return {"class_means": means, "class_sums": np.zeros_like(sums)}
