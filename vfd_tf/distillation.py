"""Distillations: more terms beside a method's, from frozen or jointly trained networks.

Any distillation joins any method. Pairs that no paper defines follow one rule: a
distillation that replaces labels replaces the method's `hard_label` terms, and the rest
of the method stays. Each class says what it does; `reweigh` does it.
"""

from vfd_tf import losses
from vfd_tf.network import features
from vfd_tf.part import Part, hyper, part


class Distillation(Part):
    """Base of all distillations.

    Class facts that the trainer reads:
        reads: the views whose student outputs `losses` uses.
        needs: networks it asks for: "teacher" (vanilla, frozen), "robust_teacher"
            (frozen), "partner" (trained jointly with the student, from scratch).
    """

    reads = ()
    needs = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers whose outputs `losses` reads besides the logits."""
        return ()

    @property
    def weights(self) -> dict[str, float]:
        """Weights of this distillation's own terms, before a method scales them."""
        return {}

    def reweigh(self, weights, hard_label):
        """Weights of all terms once this distillation has joined a method.

        Args:
            weights: The method's term -> weight.
            hard_label: The method's terms that learn from labels, cross-entropy first.
        """
        return {**weights, **self.weights}

    def losses(self, y, student, teacher, robust_teacher=None, partner=None):
        """Per-example terms {name: [n]}; networks are mappings view -> outputs."""
        return {}


@part
class NoDistillation(Distillation):
    """The method alone."""


@part
class KD(Distillation):
    """Two teachers: hard * CE + vanilla * KD_vanilla(x') + robust * KD_robust(x').

    KD_t = T^2 * (-sum_c softmax(t/T)_c log softmax(z/T)_c), every network on x'. Chen et
    al. 2021, https://openreview.net/forum?id=qZzy5urZw9, for PGD-AT. With other methods
    (defined by no paper) the three parts stand in place of the method's hard-label
    cross-entropy and take its weight; MART keeps its margin term, HAT its helper.
    """

    hard: float = hyper(0.3, "share of the hard-label cross-entropy", minimum=0.0)
    vanilla: float = hyper(0.1, "share of the vanilla teacher's labels", minimum=0.0)
    robust: float = hyper(0.6, "share of the robust teacher's labels", minimum=0.0)
    temperature: float = hyper(2.0, "softmax temperature T", minimum=1e-3)
    reads = ("adv",)
    needs = ("teacher", "robust_teacher")

    @property
    def weights(self):
        return {"kd_vanilla": self.vanilla, "kd_robust": self.robust}

    def reweigh(self, weights, hard_label):
        replaced = weights[hard_label[0]]
        own = {name: replaced * share for name, share in self.weights.items()}
        return {**weights, hard_label[0]: replaced * self.hard, **own}

    def losses(self, y, student, teacher, robust_teacher=None, partner=None):
        logits = student["adv"]["logits"]
        return {
            name: losses.soft_cross_entropy(t["adv"]["logits"], logits, self.temperature)
            for name, t in (("kd_vanilla", teacher), ("kd_robust", robust_teacher))
        }


@part
class BGAT(Distillation):
    """Boundary guidance: mean_c (z(x') - z_T(x))^2 in place of the hard labels.

    T is the frozen vanilla teacher. Cui et al. 2021, https://arxiv.org/abs/2011.11164, for
    PGD-AT, ALP and TRADES; with natural (x' = x), MART and HAT, defined by no paper, the
    same replacement. The replaced cross-entropy gets weight 1 and the method's other terms
    keep their ratio to it, so that ALP's pairing has weight 1.
    """

    reads = ("adv",)
    needs = ("teacher",)

    @property
    def weights(self):
        return {"boundary": 1.0}

    def reweigh(self, weights, hard_label):
        replaced = weights[hard_label[0]]
        kept = {k: w / replaced for k, w in weights.items() if k not in hard_label}
        return {**kept, **self.weights}

    def losses(self, y, student, teacher, robust_teacher=None, partner=None):
        guide = teacher["clean"]["logits"]
        return {"boundary": losses.squared_error(student["adv"]["logits"], guide)}


@part
class LBGAT(BGAT):
    """BGAT with a partner learnt jointly: mean_c (z(x') - z_P(x))^2 + CE(z_P(x), y).

    The partner starts from scratch, sees clean images only, and no gradient is stopped:
    the student pulls it too. Cui et al. 2021, https://arxiv.org/abs/2011.11164, for TRADES;
    other methods follow BGAT's rule.
    """

    needs = ("partner",)

    @property
    def weights(self):
        return {"boundary": 1.0, "partner": 1.0}

    def losses(self, y, student, teacher, robust_teacher=None, partner=None):
        terms = super().losses(y, student, partner)
        terms["partner"] = losses.cross_entropy(y, partner["clean"]["logits"])
        return terms


DISTANCES = {"l2": losses.euclidean, "squared": losses.squared_euclidean}


@part
class VFD(Distillation):
    """Eq. 5: Gamma(F^k(x'), F_T^k(x)) + Gamma(F^k(x), F_T^k(x)), weight lambda in eq. 6.

    F^k are the student's layer-k features, F_T^k those of the frozen vanilla teacher,
    always on clean x. A plug-in: the method's own terms keep their weights. With natural
    training x' = x, so both halves coincide. Cao et al. 2022,
    https://arxiv.org/abs/2206.02158
    """

    lambda_: float = hyper(0.01, "lambda of eq. 6", minimum=0.0)
    layer: str = hyper("last", "layer k: last, layer1, ..., logits, or a layer's name")
    distance: str = hyper(
        "l2", "Gamma: l2 (eq. 5, not squared) or squared", choices=tuple(DISTANCES)
    )
    clean_weight: float = hyper(1.0, "weight of the clean half of eq. 5", minimum=0.0)
    adv_weight: float = hyper(1.0, "weight of the adversarial half of eq. 5", minimum=0.0)
    reads = ("clean", "adv")
    needs = ("teacher",)

    @property
    def layers(self):
        return (self.layer,)

    @property
    def weights(self):
        return {"vfd": self.lambda_}

    def losses(self, y, student, teacher, robust_teacher=None, partner=None):
        gamma, k = DISTANCES[self.distance], self.layer
        vanilla = features(teacher["clean"], k)
        clean = gamma(features(student["clean"], k), vanilla)
        adv = gamma(features(student["adv"], k), vanilla)
        return {"vfd": self.clean_weight * clean + self.adv_weight * adv}


DISTILLATIONS = {
    "none": NoDistillation,
    "kd": KD,
    "bgat": BGAT,
    "lbgat": LBGAT,
    "vfd": VFD,
}
