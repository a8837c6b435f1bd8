"""GAT: one attack step that the clean prediction guides."""

from collections.abc import Callable

import tensorflow as tf

from vfd_tf import losses, noise
from vfd_tf.attacks import objectives
from vfd_tf.attacks.attack import box
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.methods.base import Method
from vfd_tf.training.schedules import Late
from vfd_tf.types import Outputs, Tensor, Terms


@component
class GAT(Method):
    """CE(z(x), y) + beta * ||p(x) - p(x')||_2^2; the attack ascends CE(x') + the same.

    For one attack step of size epsilon (`--pgd_steps=1 --pgd_step_size=8/255`) from
    x +- start_noise, the sign of each pixel drawn, clipped to [0, 1]. Sriramanan et al.
    2020, https://arxiv.org/abs/2011.14969, code val-iisc/GAMA-GAT: beta 10, times 4 in the
    last 14 of 100 epochs, in the loss and in the attack. In that code every other step
    attacks with the cross-entropy alone; `alternate` does so with every other image of a
    batch. In that code p(x) within the attack is that of BatchNorm's batch statistics,
    here of the moving ones.
    """

    beta: float = hyper(10.0, "weight of the squared distance", minimum=0.0)
    start_noise: float = hyper(
        4 / 255, "how far the attack's start moves every pixel, images in [0, 1]", 0.0
    )
    late_factor: float = hyper(4.0, "factor on beta in the last epochs", minimum=0.0)
    late_share: float = hyper(0.14, "share of the epochs that are the last", 0.0, 1.0)
    alternate: bool = hyper(False, "attack every other image with cross-entropy alone")
    beta_term = "guided"
    objective_forwards = 1

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0, "guided": self.beta}

    def schedules(self, epochs: int) -> dict[str, Callable]:
        first = round((1 - self.late_share) * epochs)
        return {"guided": Late(first, self.late_factor)}

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        side = tf.sign(0.5 - noise.uniform(seeds, x.shape[1:], dtype=x.dtype))
        return box(x + self.start_noise * side)

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        clean = tf.stop_gradient(logits_fn(x))
        weight = tf.cast(self.weights_now.get("guided", self.beta), x.dtype)
        if self.alternate:
            weight *= tf.cast(tf.range(tf.shape(x)[0]) % 2, x.dtype)
        return objectives.cross_entropy(y).plus(
            lambda z: weight * losses.squared_probabilities(clean, z)
        )

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        return {
            "clean": losses.cross_entropy(y, clean),
            "guided": losses.squared_probabilities(clean, adv),
        }
