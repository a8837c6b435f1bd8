"""Distillation of soft labels in adversarial training: RSLAD, IGDM, MTARD."""

from collections.abc import Callable

from vfd_tf import losses
from vfd_tf.attacks import Objective, kl
from vfd_tf.hyperparameters import component, hyper
from vfd_tf.training.distillation.base import Distillation, in_place_of_labels
from vfd_tf.training.schedules import LambdaSchedule
from vfd_tf.types import Outputs, Tensor, Terms


@component
class RSLAD(Distillation):
    """adv * KL(p_R(x) || p(x')) + clean * KL(p_R(x) || p(x)) in place of the hard labels.

    R is the frozen robust teacher, always on clean x; the attack ascends the first KL from
    the method's start. Zi et al. 2021, https://arxiv.org/abs/2108.07969. The paper's
    method is `pgd-at` with this loss, the attack starting at x + 0.001 N(0, 1).

    The other methods, with which no paper defines it, follow BGAT's rule: it takes the
    place of natural's and PGD-AT's only term, of the clean cross-entropy of TRADES, HAT,
    GAT, DKL and IKL, of both of ALP and of AR-AT and of MART's boosted one. It has weight
    1, and their other terms keep their ratio to it, so that ALP's pairing has weight 1 and
    HAT's helper stays. With natural training x' = x: KL(p_R(x) || p(x)).

    The paper sums the KL over classes; the original code takes their mean on CIFAR-10 and
    10 times that on CIFAR-100, so that both are `scale=0.1` (zibojia/RSLAD).
    """

    adv: float = hyper(5 / 6, "share of the adversarial images", minimum=0.0)
    clean: float = hyper(1 / 6, "share of the clean images", minimum=0.0)
    scale: float = hyper(1.0, "factor on both; 0.1 in the original code", minimum=0.0)
    reads = ("clean", "adv")
    needs = ("robust_teacher",)

    @property
    def weights(self) -> dict[str, float]:
        return {"soft_adv": self.scale * self.adv, "soft_clean": self.scale * self.clean}

    def objective(
        self,
        y: Tensor,
        teacher: Outputs | None = None,
        robust_teacher: Outputs | None = None,
    ) -> Objective | None:
        return kl(robust_teacher["clean"]["logits"], losses.hard(y))

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
        guide = robust_teacher["clean"]["logits"]
        return {
            f"soft_{view}": losses.kl_divergence(guide, student[view]["logits"])
            for view in ("adv", "clean")
        }


@component
class IGDM(RSLAD):
    """RSLAD + alpha * KL(softmax(z_R(x + d) - z_R(x - d)) || the student's), d = x' - x.

    Differences of logits across x stand for the input gradients of networks that are
    locally linear. x - d is one more view, not clipped. alpha rises to its value over all
    epochs, alpha * epoch / epochs, by itself in `AdversarialTrainer.fit`. Lee et al. 2025,
    https://arxiv.org/abs/2312.03286, who add it to any distillation: here to RSLAD, and
    with the other methods by RSLAD's rule. With natural training d = 0 and so is the term.

    alpha is 1 in the authors' script (HongsinLee/saad), on top of AdaAD; the script swaps
    epsilon and step size of the attack. A copy of their code for CIFAR-100 has alpha 20,
    beside RSLAD with `scale=0.1` (Xavaitron/VLM_Distillation).
    """

    alpha: float = hyper(1.0, "weight of the differences of logits", minimum=0.0)
    reads = ("clean", "adv", "opposite")

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "differences": self.alpha}

    def views(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        x, x_adv = views["clean"], views["adv"]
        return {**views, "opposite": x if x_adv is x else 2 * x - x_adv}

    def schedules(self, epochs: int) -> dict[str, Callable]:
        return {"differences": LambdaSchedule("linear", epochs)}

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        both = "adv", "opposite"
        masked = float("-inf")  # a class that is masked has no share in the softmax
        theirs, ours = (
            losses.logit_difference(*(n[view]["logits"] for view in both), masked)
            for n in (robust_teacher, student)
        )
        terms = super().terms(y, student, teacher, robust_teacher)
        return {**terms, "differences": losses.kl_divergence(theirs, ours)}


@component
class MTARD(Distillation):
    """adv * KL(p_R(x'; T_a) || p(x')) + clean * KL(p_V(x; T_n) || p(x)), no hard labels.

    The robust teacher R on x', the vanilla one V on x; temperatures divide the logits of
    the teachers alone, as in zhaoshiji123/MTARD-extension. Zhao et al. 2022,
    https://www.ecva.net/papers/eccv_2022/papers_ECCV/papers/136640577.pdf. The paper's
    method is `pgd-at` with this loss, the attack starting at x + 0.001 N(0, 1). The other
    methods follow RSLAD's rule; the attack is the method's own.

    In the code (zhaoshiji123/MTARD) the weights follow how fast both losses fall; here they
    stay as they are. As for RSLAD, that code has `scale=0.1`.
    """

    adv: float = hyper(0.5, "share of the robust teacher on adversarial images", 0.0)
    clean: float = hyper(0.5, "share of the vanilla teacher on clean images", 0.0)
    scale: float = hyper(1.0, "factor on both; 0.1 in the original code", minimum=0.0)
    adv_temperature: float = hyper(1.0, "T_a, of the robust teacher", minimum=1e-3)
    clean_temperature: float = hyper(1.0, "T_n, of the vanilla teacher", minimum=1e-3)
    reads = ("clean", "adv")
    needs = ("teacher", "robust_teacher")

    @property
    def weights(self) -> dict[str, float]:
        return {"robust": self.scale * self.adv, "vanilla": self.scale * self.clean}

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
        robust = robust_teacher["adv"]["logits"] / self.adv_temperature
        vanilla = teacher["clean"]["logits"] / self.clean_temperature
        return {
            "robust": losses.kl_divergence(robust, student["adv"]["logits"]),
            "vanilla": losses.kl_divergence(vanilla, student["clean"]["logits"]),
        }
