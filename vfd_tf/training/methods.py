"""Adversarial-training methods: which adversary, which terms, which weights.

A method turns the student's outputs on named views of a batch into named per-example
terms. Its total is sum_k weights[k] * mean(terms[k]), eq. 6 of
https://arxiv.org/abs/2206.02158 without the distillation.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vfd_tf import losses, noise
from vfd_tf.attacks import objectives
from vfd_tf.hyperparameters import Component, component, hyper
from vfd_tf.types import Outputs, Tensor, Terms


class Method(Component):
    """Base of all methods.

    Class facts that the trainer reads:
        reads: the views whose student outputs `terms` uses, in the order of the
            training-mode passes (clean before adversarial).
        needs: frozen networks it asks for (`"teacher"`).
        hard_label: the terms that learn from the label, the plain cross-entropy first;
            a distillation that replaces labels replaces these.
        beta_term: the term that its trade-off weight (beta, or ALP's pairing) weighs.
        adversarial: whether it trains on adversarial examples at all.
    """

    reads = ("clean", "adv")
    needs = ()
    hard_label = ("clean",)
    beta_term = None
    adversarial = True

    @property
    def weights(self) -> dict[str, float]:
        """Term -> weight in the total."""
        raise NotImplementedError

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        """Where the inner maximisation starts; None leaves it to the attack."""
        return None

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        """The score the adversary ascends; cross-entropy unless a method says otherwise."""
        return objectives.cross_entropy(y)

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
        """x_adv [n, h, w, c] against the student's `logits_fn`.

        The objective and the start are the method's own unless they are given, or the
        attack has a start of its own.
        """
        seeds = noise.or_positions(seeds, x)
        if start is None and not getattr(attack, "own_start", False):
            start = self.start(x, seeds)
        objective = objective or self.objective(logits_fn, x, y)
        return attack(logits_fn, x, objective, start=start, seeds=seeds)

    def views(self, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        """The named inputs on which networks are asked for outputs."""
        return {"clean": x, "adv": x_adv}

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        """Per-example terms {name: [n]}.

        Args:
            y: Labels, integers [n] or distributions [n, c].
            student: Mapping view -> {"logits": [n, c], layer: features}, training mode.
            teacher: The same of the frozen vanilla teacher, or None where not needed.
        """
        raise NotImplementedError


def _start_noise(default=0.001, zero=""):
    meaning = "standard deviation of the attack's start, images in [0, 1]"
    return hyper(default, meaning + zero, minimum=0.0)


class NormalStart(Method):
    """A method whose attack starts at x + start_noise * N(0, 1), not clipped."""

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        if not self.start_noise:
            return None
        return x + self.start_noise * noise.normal(seeds, x.shape[1:], x.dtype)


@component
class Natural(Method):
    """Standard training: CE(z(x), y). With VFD both halves of eq. 5 coincide."""

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
    """Adversarial training on CE(z(x'), y) alone, attack on CE from a uniform start.

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

    Attack on CE, by default from a uniform start. Kannan et al. 2018, https://arxiv.org/abs/1803.06373
    """

    pairing: float = hyper(0.5, "weight of the logit pairing term", minimum=0.0)
    start_noise: float = _start_noise(0.0, "; 0: uniform in the ball")
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


@component
class TRADES(NormalStart):
    """CE(z(x), y) + beta * KL(p(x) || p(x')); the attack ascends the KL.

    Zhang et al. 2019, https://arxiv.org/abs/1901.08573. The original makes a second clean
    pass for the KL; here the clean logits are computed once, which changes BatchNorm's
    moving statistics slightly and no loss.
    """

    beta: float = hyper(6.0, "weight of the adversarial KL term", minimum=0.0)
    start_noise: float = _start_noise()
    beta_term = "adv"

    @property
    def weights(self) -> dict[str, float]:
        return {"clean": 1.0, "adv": self.beta}

    def objective(self, logits_fn: Callable, x: Tensor, y: Tensor) -> objectives.Objective:
        # A constant of the inner problem: computed once, outside the attack's loop.
        return objectives.kl(logits_fn(x))

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"]["logits"], student["adv"]["logits"]
        return {
            "clean": losses.cross_entropy(y, clean),
            "adv": losses.kl_divergence(clean, adv),
        }


@component
class MART(NormalStart):
    """CE(x') - log(1.0001 - max_{k!=y} p_k(x')) + beta * KL(p(x) || p(x')) (1 - p_y(x)).

    The first two terms ("adv", "margin") are the boosted cross-entropy; there is no clean
    cross-entropy; the attack ascends CE. Wang et al. 2020,
    https://openreview.net/forum?id=rklOg6EFwS
    """

    beta: float = hyper(5.0, "weight of the misclassification-weighted KL", minimum=0.0)
    start_noise: float = _start_noise()
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
    x'. Rade & Moosavi-Dezfooli 2021, https://openreview.net/forum?id=BuD2LmNaU3a
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


METHODS = {
    "natural": Natural,
    "pgd-at": PGDAT,
    "alp": ALP,
    "trades": TRADES,
    "mart": MART,
    "hat": HAT,
}
