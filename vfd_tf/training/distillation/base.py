"""What every distillation is: more terms beside a method's, from other networks.

Any distillation joins any method. Pairs that no paper defines follow one rule: a
distillation that replaces labels replaces the method's `hard_label` terms, and the rest
of the method stays. Each class says what it does; `reweigh` does it.
"""

from collections.abc import Callable

from vfd_tf.attacks import Objective
from vfd_tf.hyperparameters import Component, InputError, component
from vfd_tf.training.learned import Learner
from vfd_tf.types import Outputs, Tensor, Terms


class Distillation(Component, Learner):
    """Base of all distillations.

    Class facts that the trainer reads:
        reads: the views whose student outputs `terms` uses.
        needs: networks it asks for: "teacher" (vanilla, frozen), "robust_teacher"
            (frozen), "partner" (trained jointly with the student, from scratch).
        projects: whether the student's tapped layers may differ in shape from those of
            the first teacher of `needs` and go through a learned 1x1 projection first.
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

    def objective(
        self,
        y: Tensor,
        teacher: Outputs | None = None,
        robust_teacher: Outputs | None = None,
    ) -> Objective | None:
        """The score the adversary ascends in place of the method's; None leaves it that.

        The start of the attack stays the method's.

        Args:
            y: Labels, integers [n] or distributions [n, c].
            teacher, robust_teacher: Mapping "clean" -> outputs of frozen networks on x.
        """
        return None

    def views(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """The named inputs of networks: the method's, and more where it needs them."""
        return views

    def schedules(self, epochs: int) -> dict[str, Callable]:
        """Term -> factor on its weight by the epoch, from 0, of a training of `epochs`.

        Beside terms, "attack_scale" and "awp_gamma": epsilon with step size, and AWP's.
        """
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

    def report(
        self,
        student: Outputs,
        teacher: Outputs | None,
        robust_teacher: Outputs | None = None,
        partner: Outputs | None = None,
    ) -> Terms:
        """Per-example values {name: [n]} to watch in training that enter no loss."""
        return {}


def in_place_of_labels(
    weights: dict[str, float], hard_label: tuple[str, ...], own: dict[str, float]
) -> dict[str, float]:
    """Weights of a pair in which terms of a distillation replace all hard labels.

    They count as the cross-entropy of weight 1 that they replace: the method's other terms
    keep their ratio to it.

    Args:
        weights: The method's term -> weight.
        hard_label: Its terms that learn from labels, cross-entropy first.
        own: The distillation's term -> weight.
    """
    replaced = label_weight(weights, hard_label)
    kept = {k: w / replaced for k, w in weights.items() if k not in hard_label}
    return {**kept, **own}


def label_weight(weights: dict[str, float], hard_label: tuple[str, ...]) -> float:
    """The weight of a method's first term that learns from labels.

    Raises:
        InputError: The method has no such term, or names another one.
    """
    if not hard_label or hard_label[0] not in weights:
        raise InputError(
            f"The method has terms {', '.join(weights)} and hard_label={hard_label!r}: "
            "name there its terms that learn from labels, for distillations that replace "
            "them."
        )
    return weights[hard_label[0]]


@component
class NoDistillation(Distillation):
    """The method alone."""
