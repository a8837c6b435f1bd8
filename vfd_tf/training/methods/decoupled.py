"""KL taken apart: a soft cross-entropy and a weighted variance of logits."""

from collections.abc import Callable

import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import objectives
from vfd_tf.hyperparameters import component, hyper
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

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0, "soft": self.alpha, "variance": self.beta}

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        clean = tf.stop_gradient(logits_fn(x))
        ascended = objectives.kl(clean)  # SCE with a constant more
        if not self.attack_beta:
            return ascended
        weights = tf.nn.softmax(clean)
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
            "variance": losses.half_variance(tf.nn.softmax(fixed), clean, other),
        }
