"""Attacks: (logits_fn, x, objective) -> x_adv, and the objectives they ascend.

An attack knows nothing about labels, methods or models: it ascends a per-example
`objective` within a ball of radius `epsilon` around `x` and within [0, 1].
"""

from vfd_tf.attacks.attack import Attack, generator
from vfd_tf.attacks.gradient import FGSM, FGSMRS, NFGSM, PGD
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.objectives import (
    Objective,
    cross_entropy,
    dlr,
    kl,
    margin,
    targeted_dlr,
)

ATTACKS = {
    "fgsm": FGSM,
    "fgsm-rs": FGSMRS,
    "n-fgsm": NFGSM,
    "pgd": PGD,
}

__all__ = [
    "ATTACKS",
    "BALLS",
    "FGSM",
    "FGSMRS",
    "NFGSM",
    "PGD",
    "Attack",
    "Objective",
    "cross_entropy",
    "dlr",
    "generator",
    "kl",
    "margin",
    "targeted_dlr",
]
