"""Attacks: (logits_fn, x, objective) -> x_adv, and the objectives they ascend.

An attack knows nothing about methods or models: it ascends a per-example `objective`
within a ball of radius `epsilon` around `x` and within [0, 1].
"""

from vfd_tf.attacks.apgd import APGD, APGDCE, APGDDLR, APGDPM, APGDT
from vfd_tf.attacks.attack import Attack, AttackRun, Composite, Iterated, generator
from vfd_tf.attacks.autoattack import AutoAttack
from vfd_tf.attacks.carlini_wagner import CarliniWagner
from vfd_tf.attacks.fab import FAB, FABT
from vfd_tf.attacks.gradient import FGSM, FGSMRS, MIM, NFGSM, PGD
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.objectives import (
    OBJECTIVES,
    Objective,
    cross_entropy,
    dlr,
    kl,
    margin,
    pm,
    squared,
    targeted_dlr,
    targeted_margin,
)
from vfd_tf.attacks.square import Square

ATTACKS = {
    "fgsm": FGSM,
    "fgsm-rs": FGSMRS,
    "n-fgsm": NFGSM,
    "pgd": PGD,
    "mim": MIM,
    "cw": CarliniWagner,
    "apgd": APGD,
    "apgd-ce": APGDCE,
    "apgd-dlr": APGDDLR,
    "apgd-pm": APGDPM,
    "apgd-t": APGDT,
    "fab": FAB,
    "fab-t": FABT,
    "square": Square,
    "autoattack": AutoAttack,
}

__all__ = [
    "APGD",
    "APGDCE",
    "APGDDLR",
    "APGDPM",
    "APGDT",
    "ATTACKS",
    "BALLS",
    "FAB",
    "FABT",
    "FGSM",
    "FGSMRS",
    "MIM",
    "NFGSM",
    "OBJECTIVES",
    "PGD",
    "Attack",
    "AutoAttack",
    "CarliniWagner",
    "Composite",
    "Iterated",
    "Objective",
    "AttackRun",
    "Square",
    "cross_entropy",
    "dlr",
    "generator",
    "kl",
    "margin",
    "pm",
    "squared",
    "targeted_dlr",
    "targeted_margin",
]
