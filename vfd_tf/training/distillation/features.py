"""Distillation of features: VFD, eq. 5 of https://arxiv.org/abs/2206.02158."""

from collections.abc import Callable

from vfd_tf import losses
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.models.network import features
from vfd_tf.training.distillation.base import Distillation
from vfd_tf.types import Outputs, Tensor, Terms

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

    def report(self, student: Outputs, teacher: Outputs | None, **others: Outputs) -> Terms:
        """Both halves of eq. 5 for every layer, without weights."""
        values = {}
        for k, clean, adv in self._halves(student, teacher):
            values |= {f"clean_distance_{k}": clean, f"adv_distance_{k}": adv}
        return values

    def _halves(self, student, teacher):
        """(layer, clean half, adversarial half) of every layer."""
        for k in self.layers:
            yield k, *equation_5(student, teacher, k, DISTANCES[self.distance])
