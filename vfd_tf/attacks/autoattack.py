"""AutoAttack: the ensemble whose verdict the field compares."""

from vfd_tf.attacks.apgd import APGDCE, APGDDLR, APGDT
from vfd_tf.attacks.attack import AttackRun, Composite
from vfd_tf.attacks.fab import FAB, FABT
from vfd_tf.attacks.square import Square
from vfd_tf.attacks.threat import epsilon_field, norm_field
from vfd_tf.hyperparameters import InputError, component, hyper


def _standard(threat):
    return {
        "apgd-ce": APGDCE(**threat),
        "apgd-t": APGDT(**threat),
        "fab-t": FABT(**threat),
        "square": Square(**threat),
    }


def _plus(threat):
    return {
        "apgd-ce": APGDCE(**threat, restarts=5),
        "apgd-dlr": APGDDLR(**threat, restarts=5),
        "fab": FAB(**threat, restarts=5),
        "square": Square(**threat),
        "apgd-t": APGDT(**threat),
        "fab-t": FABT(**threat),
    }


def _rand(threat):
    return {
        "apgd-ce": APGDCE(**threat, eot=20),
        "apgd-dlr": APGDDLR(**threat, eot=20),
    }


def _quick(threat):
    return {"apgd-ce": APGDCE(**threat), "apgd-t": APGDT(**threat, targets=3)}


VERSIONS = {"standard": _standard, "plus": _plus, "rand": _rand, "quick": _quick}


@component
class AutoAttack(Composite):
    """AutoAttack: parameter-free attacks, each on the images that are still robust.

    standard: APGD-CE, APGD-T and FAB-T at 9 classes, Square with 5,000 queries; plus:
    APGD-CE, APGD-DLR, FAB (5 runs each), Square, APGD-T, FAB-T; rand, for randomised
    models: APGD-CE and APGD-DLR with 20 passes a gradient; quick, which is not of the
    original: APGD-CE and APGD-T at 3 classes, for epochs of training. An image is robust
    if it is classified correctly and none of them breaks it. Croce & Hein 2020,
    https://arxiv.org/abs/2003.01690

    Of several passes a gradient, the best point and the halving of steps follow the mean
    score, where the original follows that of the last pass.

    With `passes` > 1 (rand alone) both mean: in more than half of so many passes of the
    model, on the image and on each example, which no single misclassified pass ends.
    That is the threshold 1/2 on the share of passes, least over the attacks, that
    https://github.com/fra31/auto-attack/pull/105 averages over images.
    """

    epsilon: float = epsilon_field()
    norm: str = norm_field()
    version: str = hyper("standard", "which ensemble", choices=tuple(VERSIONS))
    passes: int = hyper(
        1,
        "passes of a randomised model a verdict is the majority of",
        minimum=1,
        when={"version": ("rand",)},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.passes > 1 and self.version != "rand":
            raise InputError(
                f"AutoAttack.passes={self.passes} is for models with random outputs: take "
                f"autoattack-rand:passes={self.passes}."
            )

    @property
    def members(self) -> dict:
        """Its attacks by name, in order."""
        return VERSIONS[self.version]({"epsilon": self.epsilon, "norm": self.norm})

    def attack_runs(self, classes: int, objective: str = "ce") -> tuple[AttackRun, ...]:
        return tuple(
            run for part in self.members.values() for run in part.attack_runs(classes)
        )
