"""B-MTARD: two teachers whose temperatures and weights follow the training."""

import numpy as np
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.training.distillation.robust import MTARD
from vfd_tf.training.learned import State
from vfd_tf.types import Outputs, Tensor, Terms


@component
class BMTARD(MTARD):
    """MTARD whose temperatures and shares move at every step, to balance both teachers.

    The temperature of the teacher of higher mean entropy falls by `temperature_rate`, the
    other's rises by it, both within 1 and `hottest`. The share of clean images moves by
    `weight_rate` towards r_n / (r_a + r_n), r the mean KL of a step over that of the
    first; that of adversarial ones is the rest. `adv`, `clean` and the temperatures are
    those of the first step. Zhao et al. 2024, https://ieeexplore.ieee.org/document/10561594

    The code (zhaoshiji123/MTARD-extension) updates the shares before the loss of the same
    step; here they apply from the next step. It divides both rates by 10 with the learning
    rate; here they stay.
    """

    adv_temperature: float = hyper(1.0, "T_a in the first step", minimum=1.0)
    clean_temperature: float = hyper(1.0, "T_n in the first step", minimum=1.0)
    weight_rate: float = hyper(0.025, "speed of the shares of both images", 0.0, 1.0)
    temperature_rate: float = hyper(0.001, "step of the temperatures", minimum=0.0)
    hottest: float = hyper(10.0, "highest temperature", minimum=1.0)
    watches = ("robust_kl", "vanilla_kl", "robust_entropy", "vanilla_entropy")

    def __post_init__(self):
        super().__post_init__()
        for name in ("adv_temperature", "clean_temperature"):
            if self[name] > self.hottest:
                raise InputError(
                    f"BMTARD.{name} must be at most hottest={self.hottest:g}; got "
                    f"{self[name]!r}."
                )

    @property
    def weights(self) -> dict[str, float]:
        return {"robust": self.scale, "vanilla": self.scale}

    def state(self, classes: int | None) -> dict[str, np.ndarray]:
        share = self.clean / max(self.adv + self.clean, 1e-12)
        return {
            "clean_part": np.float32(share),
            "adv_temperature": np.float32(self.adv_temperature),
            "clean_temperature": np.float32(self.clean_temperature),
            "first_losses": np.zeros(2, "float32"),
        }

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        state = self.learned or self.state(None)
        adv, clean = student["adv"]["logits"], student["clean"]["logits"]
        share, hot_robust, hot_vanilla = (
            tf.cast(state[name], adv.dtype)
            for name in ("clean_part", "adv_temperature", "clean_temperature")
        )
        robust = robust_teacher["adv"]["logits"] / hot_robust
        vanilla = teacher["clean"]["logits"] / hot_vanilla
        robust_kl = losses.kl_divergence(robust, adv)
        vanilla_kl = losses.kl_divergence(vanilla, clean)
        return {
            "robust": (1 - share) * robust_kl,
            "vanilla": share * vanilla_kl,
            "robust_kl": robust_kl,
            "vanilla_kl": vanilla_kl,
            "robust_entropy": losses.entropy(robust),
            "vanilla_entropy": losses.entropy(vanilla),
        }

    def seen(self, y: Tensor, logits: Tensor, terms: Terms) -> State:
        sums = {name: tf.reduce_sum(terms[name]) for name in self.watches}
        return {**sums, "images": tf.cast(tf.shape(logits)[0], logits.dtype)}

    def after_step(self, state: State, seen: State) -> State:
        means = [seen[name] / seen["images"] for name in self.watches]
        now, (robust_entropy, vanilla_entropy) = tf.stack(means[:2]), means[2:]
        first = tf.where(state["first_losses"] > 0, state["first_losses"], now)
        speed = tf.math.divide_no_nan(now, first)
        wanted = tf.math.divide_no_nan(speed[1], speed[0] + speed[1])
        share, towards = state["clean_part"], tf.sign(robust_entropy - vanilla_entropy)
        step = self.temperature_rate * towards
        return {
            "clean_part": share - self.weight_rate * (share - wanted),
            "adv_temperature": self._bounded(state["adv_temperature"] - step),
            "clean_temperature": self._bounded(state["clean_temperature"] + step),
            "first_losses": first,
        }

    def _bounded(self, temperature):
        return tf.clip_by_value(temperature, 1.0, self.hottest)
