"""Distillations of logits: KD from two teachers, BGAT and LBGAT from a boundary."""

from vfd_tf import losses
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.distillation.base import (
    Distillation,
    in_place_of_labels,
    label_weight,
)
from vfd_tf.types import Outputs, Tensor, Terms

TEACHERS = {"both": ("teacher", "robust_teacher"), "vanilla": ("teacher",)}
_BOTH, _VANILLA = {"teachers": ("both",)}, {"teachers": ("vanilla",)}


@component
class KD(Distillation):
    """Two teachers: hard * CE + vanilla * KD_vanilla(x') + robust * KD_robust(x').

    KD_t = T^2 * (-sum_c softmax(t/T)_c log softmax(z/T)_c), every network on x'. Chen et
    al. 2021, https://openreview.net/forum?id=qZzy5urZw9. Its abstract names PGD, TRADES
    and FGSM; its code (VITA-Group/Alleviate-Robust-Overfitting) has PGD-AT alone. Here,
    with any other method, the three parts stand in place of the method's hard-label
    cross-entropy and take its weight; MART keeps its margin term, HAT its helper, and a of
    AR-AT weighs its own cross-entropies alone.

    `teachers="vanilla"` is eq. 2 of https://arxiv.org/abs/2206.02158 in its place:
    (1 - rho) * CE + rho * KD_vanilla(x'); hard, vanilla and robust are then not used.
    """

    hard: float = hyper(0.3, "share of the hard-label cross-entropy", 0.0, when=_BOTH)
    vanilla: float = hyper(0.1, "share of the vanilla teacher's labels", 0.0, when=_BOTH)
    robust: float = hyper(0.6, "share of the robust teacher's labels", 0.0, when=_BOTH)
    temperature: float = hyper(2.0, "softmax temperature T", minimum=1e-3)
    teachers: str = hyper("both", "teachers", choices=tuple(TEACHERS))
    rho: float = hyper(
        0.5, "teachers=vanilla: share of its labels, eq. 2", 0.0, 1.0, when=_VANILLA
    )
    reads = ("adv",)

    @property
    def needs(self) -> tuple[str, ...]:
        return TEACHERS[self.teachers]

    @property
    def weights(self) -> dict[str, float]:
        if "robust_teacher" in self.needs:
            return {"kd_vanilla": self.vanilla, "kd_robust": self.robust}
        return {"kd_vanilla": self.rho}

    def reweigh(
        self, weights: dict[str, float], hard_label: tuple[str, ...]
    ) -> dict[str, float]:
        replaced = label_weight(weights, hard_label)
        hard = self.hard if "robust_teacher" in self.needs else 1 - self.rho
        own = {name: replaced * share for name, share in self.weights.items()}
        return {**weights, hard_label[0]: replaced * hard, **own}

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        logits = student["adv"]["logits"]
        given = {"kd_vanilla": teacher, "kd_robust": robust_teacher}
        return {
            name: losses.soft_cross_entropy(
                given[name]["adv"]["logits"], logits, self.temperature
            )
            for name in self.weights
        }


@component
class BGAT(Distillation):
    """Boundary guidance: mean_c (z(x') - z_T(x))^2 in place of the hard labels.

    T is the frozen vanilla teacher. Cui et al. 2021, https://arxiv.org/abs/2011.11164, for
    PGD-AT, ALP and TRADES. Here any other method has the same replacement; natural
    training has x' = x. The replaced cross-entropy gets weight 1 and the method's other
    terms keep their ratio to it, so that ALP's pairing has weight 1.
    """

    reads = ("adv",)
    needs = ("teacher",)

    @property
    def weights(self) -> dict[str, float]:
        return {"boundary": 1.0}

    def reweigh(
        self, weights: dict[str, float], hard_label: tuple[str, ...]
    ) -> dict[str, float]:
        return in_place_of_labels(weights, hard_label, self.weights)

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        guide = teacher["clean"]["logits"]
        return {"boundary": losses.squared_error(student["adv"]["logits"], guide)}


@component
class LBGAT(BGAT):
    """BGAT with a partner learnt jointly: mean_c (z(x') - z_P(x))^2 + CE(z_P(x), y).

    The partner starts from scratch, sees clean images only, and no gradient is stopped:
    the student pulls it too. Cui et al. 2021, https://arxiv.org/abs/2011.11164, for TRADES:
    beta is 0 in the networks published for CIFAR-10, 0 and 6 in those for CIFAR-100
    (dvlab-research/LBGAT). Other methods follow BGAT's rule.
    """

    needs = ("partner",)

    @property
    def weights(self) -> dict[str, float]:
        return {"boundary": 1.0, "partner": 1.0}

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        terms = super().terms(y, student, partner)
        terms["partner"] = losses.cross_entropy(y, partner["clean"]["logits"])
        return terms
