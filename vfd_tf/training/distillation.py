"""Distillations: more terms beside a method's, from frozen or jointly trained networks.

Any distillation joins any method. Pairs that no paper defines follow one rule: a
distillation that replaces labels replaces the method's `hard_label` terms, and the rest
of the method stays. Each class says what it does; `reweigh` does it.
"""

from collections.abc import Callable

from vfd_tf import losses
from vfd_tf.hyperparameters import Component, InputError, component, hyper
from vfd_tf.models.network import features
from vfd_tf.types import Outputs, Tensor, Terms


class Distillation(Component):
    """Base of all distillations.

    Class facts that the trainer reads:
        reads: the views whose student outputs `terms` uses.
        needs: networks it asks for: "teacher" (vanilla, frozen), "robust_teacher"
            (frozen), "partner" (trained jointly with the student, from scratch).
        projects: whether the student's tapped layers may differ in shape from the
            teacher's and go through a learned 1x1 projection first.
    """

    reads = ()
    needs = ()
    projects = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers whose outputs `terms` reads besides the logits."""
        return ()

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of what `report` returns."""
        return ()

    @property
    def weights(self) -> dict[str, float]:
        """Weights of this distillation's own terms, before a method scales them."""
        return {}

    def reweigh(
        self, weights: dict[str, float], hard_label: tuple[str, ...]
    ) -> dict[str, float]:
        """Weights of all terms once this distillation has joined a method.

        Args:
            weights: The method's term -> weight.
            hard_label: The method's terms that learn from labels, cross-entropy first.
        """
        return {**weights, **self.weights}

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        """Per-example terms {name: [n]}; networks are mappings view -> outputs."""
        return {}

    def report(self, student: Outputs, teacher: Outputs) -> Terms:
        """Per-example values {name: [n]} to watch in training that enter no loss."""
        return {}


@component
class NoDistillation(Distillation):
    """The method alone."""


TEACHERS = {"both": ("teacher", "robust_teacher"), "vanilla": ("teacher",)}
_BOTH, _VANILLA = {"teachers": ("both",)}, {"teachers": ("vanilla",)}


@component
class KD(Distillation):
    """Two teachers: hard * CE + vanilla * KD_vanilla(x') + robust * KD_robust(x').

    KD_t = T^2 * (-sum_c softmax(t/T)_c log softmax(z/T)_c), every network on x'. Chen et
    al. 2021, https://openreview.net/forum?id=qZzy5urZw9, for PGD-AT. With other methods
    (defined by no paper) the three parts stand in place of the method's hard-label
    cross-entropy and take its weight; MART keeps its margin term, HAT its helper.

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
        replaced = weights[hard_label[0]]
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
    PGD-AT, ALP and TRADES; with natural (x' = x), MART and HAT, defined by no paper, the
    same replacement. The replaced cross-entropy gets weight 1 and the method's other terms
    keep their ratio to it, so that ALP's pairing has weight 1.
    """

    reads = ("adv",)
    needs = ("teacher",)

    @property
    def weights(self) -> dict[str, float]:
        return {"boundary": 1.0}

    def reweigh(
        self, weights: dict[str, float], hard_label: tuple[str, ...]
    ) -> dict[str, float]:
        replaced = weights[hard_label[0]]
        kept = {k: w / replaced for k, w in weights.items() if k not in hard_label}
        return {**kept, **self.weights}

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
    the student pulls it too. Cui et al. 2021, https://arxiv.org/abs/2011.11164, for TRADES;
    other methods follow BGAT's rule.
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


DISTANCES = {"l2": losses.euclidean, "squared": losses.squared_euclidean}


def equation_5(
    student: Outputs, teacher: Outputs, layer: str, gamma: Callable = losses.euclidean
) -> tuple[Tensor, Tensor]:
    """Both halves of eq. 5: Gamma(F^k(x), F_T^k(x)) and Gamma(F^k(x'), F_T^k(x)).

    Args:
        student: Mapping "clean", "adv" -> outputs of the student on x and x'.
        teacher: Mapping "clean" -> outputs of the frozen vanilla teacher on x.
        layer: Layer k.
        gamma: Distance of features [n, ...] and [n, ...]: [n].

    Returns:
        The clean half [n] and the adversarial half [n].
    """
    vanilla = features(teacher["clean"], layer)
    clean, adv = (features(student[view], layer) for view in ("clean", "adv"))
    return gamma(clean, vanilla), gamma(adv, vanilla)


@component
class VFD(Distillation):
    """Eq. 5: Gamma(F^k(x'), F_T^k(x)) + Gamma(F^k(x), F_T^k(x)), weight lambda in eq. 6.

    F^k are the student's layer-k features, F_T^k those of the frozen vanilla teacher,
    always on clean x. A plug-in: the method's own terms keep their weights. With natural
    training x' = x, so both halves coincide. Cao et al. 2022,
    https://arxiv.org/abs/2206.02158

    Beyond the paper: several layers, `layer="layer3,layer4"` or a tuple, whose distances
    are summed with `layer_weights`; and `project=True`, a teacher of another architecture,
    to whose shape a learned 1x1 convolution maps the student's features.
    """

    lambda_: float = hyper(0.01, "lambda of eq. 6", minimum=0.0)
    layer: str = hyper(
        "last",
        "layer k: last, layer1, layer1_preact, ..., logits, a layer's name, or several "
        "with commas",
    )
    distance: str = hyper(
        "l2", "Gamma: l2 (eq. 5, not squared) or squared", choices=tuple(DISTANCES)
    )
    clean_weight: float = hyper(1.0, "weight of the clean half of eq. 5", minimum=0.0)
    adv_weight: float = hyper(1.0, "weight of the adversarial half of eq. 5", minimum=0.0)
    layer_weights: tuple[float, ...] = hyper(
        (), "weights of several layers, in their order; empty: 1 each"
    )
    project: bool = hyper(
        False, "learn a 1x1 projection where the teacher's features differ in shape"
    )
    reads = ("clean", "adv")
    needs = ("teacher",)

    def __post_init__(self):
        if not isinstance(self.layer, str):
            object.__setattr__(self, "layer", ",".join(self.layer))
        object.__setattr__(self, "layer_weights", tuple(self.layer_weights))
        super().__post_init__()
        if self.layer_weights and len(self.layer_weights) != len(self.layers):
            raise InputError(
                f"VFD.layer_weights {self.layer_weights} needs one weight for each of the "
                f"layers {', '.join(self.layers)}."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.layer.split(","))

    @property
    def projects(self) -> bool:
        return self.project

    @property
    def reports(self) -> tuple[str, ...]:
        return tuple(
            f"{half}_distance_{k}" for k in self.layers for half in ("clean", "adv")
        )

    @property
    def weights(self) -> dict[str, float]:
        return {"vfd": self.lambda_}

    def terms(
        self,
        y: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        weights = self.layer_weights or (1.0,) * len(self.layers)
        halves = self._halves(student, teacher)
        total = 0.0
        for weight, (_, clean, adv) in zip(weights, halves, strict=True):
            total += weight * (self.clean_weight * clean + self.adv_weight * adv)
        return {"vfd": total}

    def report(self, student: Outputs, teacher: Outputs) -> Terms:
        """Both halves of eq. 5 for every layer, without weights."""
        values = {}
        for k, clean, adv in self._halves(student, teacher):
            values |= {f"clean_distance_{k}": clean, f"adv_distance_{k}": adv}
        return values

    def _halves(self, student, teacher):
        """(layer, clean half, adversarial half) of every layer."""
        for k in self.layers:
            yield k, *equation_5(student, teacher, k, DISTANCES[self.distance])


DISTILLATIONS = {
    "none": NoDistillation,
    "kd": KD,
    "bgat": BGAT,
    "lbgat": LBGAT,
    "vfd": VFD,
}
