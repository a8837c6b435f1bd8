"""The methods that the paper builds on: natural, PGD-AT, ALP, TRADES, MART and HAT."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import objectives
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.methods.base import Method, NormalStart, start_noise_field
from vfd_tf.types import Outputs, Tensor, Terms


@component
class Natural(Method):
    """Standard training: CE(z(x), y).

    With VFD x' = x, so that both halves of eq. 5 of VFD's paper coincide: Cao et al. 2022,
    https://arxiv.org/abs/2206.02158
    """

    reads = ("clean",)
    adversarial = False

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0}

    def adversary(
        self,
        attack: Any,
        logits_fn: Callable,
        x: Tensor,
        y: Tensor,
        start: Tensor | None = None,
        seeds: Tensor | None = None,
        objective: Callable | None = None,
    ) -> Tensor:
        return x

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        return {"clean": losses.cross_entropy(y, student["clean"]["logits"])}


@component
class PGDAT(Method):
    """Adversarial training on CE(z(x'), y) alone, attack on CE from a random start.

    Madry et al. 2018, https://arxiv.org/abs/1706.06083
    """

    reads = ("adv",)
    hard_label = ("adv",)

    @property
    def weights(self) -> dict[str, float]:
        return {"adv": 1.0}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        return {"adv": losses.cross_entropy(y, student["adv"]["logits"])}


@component
class ALP(NormalStart):
    """Adversarial logit pairing: 0.5 CE(x) + 0.5 CE(x') + pairing * mean_c (z - z')^2.

    Attack on CE, by default from a random start. Kannan et al. 2018,
    https://arxiv.org/abs/1803.06373
    """

    pairing: float = hyper(0.5, "weight of the logit pairing term", minimum=0.0)
    start_noise: float = start_noise_field(0.0, "; 0: at random in the ball")
    hard_label = ("adv", "clean")
    beta_term = "pairing"

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 0.5, "adv": 0.5, "pairing": self.pairing}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        return {
            "clean": losses.cross_entropy(y, clean),
            "adv": losses.cross_entropy(y, adv),
            "pairing": losses.squared_error(clean, adv),
        }


# Name -> objective of clean logits, loss of clean and adversarial logits.
DISTANCES = {
    "kl": (objectives.kl, losses.kl_divergence),
    "squared": (objectives.squared, losses.squared_probabilities),
}
LABEL_LOSSES = {"ce": losses.cross_entropy, "squared": losses.squared_label_error}


@component
class TRADES(NormalStart):
    """CE(z(x), y) + beta * KL(p(x) || p(x')); the attack ascends the KL.

    Zhang et al. 2019, https://arxiv.org/abs/1901.08573. The original makes a second clean
    pass for the KL; here the clean logits are computed once, which changes BatchNorm's
    moving statistics slightly and no loss.

    `distance="squared"` has ||p(x) - p(x')||_2^2 in place of the KL, in the loss and in
    the attack: SCORE, Pang et al. 2022, https://arxiv.org/abs/2202.10103, beta 3 to 6. Its
    code (P2333/SCORE) also has ||p(x) - y||_2^2 in place of the cross-entropy,
    `label_loss="squared"`, and a uniform start, `start_noise=0`; not here: its clipped
    losses, and BatchNorm in training mode within the attack but for `attack_bn_mode`.
    """

    beta: float = hyper(6.0, "weight of the adversarial KL term", minimum=0.0)
    start_noise: float = start_noise_field()
    distance: str = hyper(
        "kl",
        "what beta weighs and the attack ascends: kl, or squared for SCORE",
        choices=tuple(DISTANCES),
    )
    label_loss: str = hyper(
        "ce", "loss of clean images: ce, or squared for SCORE", choices=tuple(LABEL_LOSSES)
    )
    beta_term = "adv"
    objective_forwards = 1

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0, "adv": self.beta}

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        # A constant of the inner problem: computed once, outside the attack's loop.
        return DISTANCES[self.distance][0](logits_fn(x))

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        return {
            "clean": LABEL_LOSSES[self.label_loss](y, clean),
            "adv": DISTANCES[self.distance][1](clean, adv),
        }


@component
class MART(NormalStart):
    """CE(x') - log(1.0001 - max_{k!=y} p_k(x')) + beta * KL(p(x) || p(x')) (1 - p_y(x)).

    The first two terms ("adv", "margin") are the boosted cross-entropy; there is no clean
    cross-entropy; the attack ascends CE. Wang et al. 2020,
    https://openreview.net/forum?id=rklOg6EFwS
    """

    beta: float = hyper(5.0, "weight of the misclassification-weighted KL", minimum=0.0)
    start_noise: float = start_noise_field()
    hard_label = ("adv", "margin")
    beta_term = "weighted_kl"

    @property
    def weights(self) -> dict[str, float]:
        return {"adv": 1.0, "margin": 1.0, "weighted_kl": self.beta}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        return {
            "adv": losses.cross_entropy(y, adv),
            "margin": losses.runner_up_penalty(y, adv),
            "weighted_kl": losses.misclassification_weighted_kl(y, clean, adv),
        }


@component
class HAT(TRADES):
    """TRADES + gamma * CE(z(x_h), y_h): helper examples beyond the ball.

    x_h = x + ratio * (x' - x), not clipped; y_h = argmax of the frozen vanilla teacher on
    x'. Rade & Moosavi-Dezfooli 2022, https://openreview.net/forum?id=Azh9QBQ4tR7
    """

    beta: float = hyper(2.5, "weight of the adversarial KL term", minimum=0.0)
    gamma: float = hyper(0.5, "weight of the helper term", minimum=0.0)
    ratio: float = hyper(2.0, "helper = x + ratio * (x' - x)", minimum=0.0)
    reads = ("clean", "adv", "helper")
    needs = ("teacher",)

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "helper": self.gamma}

    def views(self, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        return {**super().views(x, x_adv), "helper": x + self.ratio * (x_adv - x)}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        label = tf.argmax(teacher["adv"]["logits"], axis=-1)
        helper = losses.cross_entropy(label, student["helper"]["logits"])
        return {**super().terms(y, student, teacher), "helper": helper}
