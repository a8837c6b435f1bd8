"""Adversarial-training methods: which adversary, which terms, which weights."""

from vfd_tf.training.methods.asymmetric import ARAT
from vfd_tf.training.methods.base import Method, NormalStart
from vfd_tf.training.methods.classic import ALP, HAT, MART, PGDAT, TRADES, Natural
from vfd_tf.training.methods.decoupled import DKL, IKL
from vfd_tf.training.methods.guided import GAT

METHODS = {
    "natural": Natural,
    "pgd-at": PGDAT,
    "alp": ALP,
    "trades": TRADES,
    "mart": MART,
    "hat": HAT,
    "gat": GAT,
    "dkl": DKL,
    "ikl": IKL,
    "ar-at": ARAT,
}

__all__ = [
    "ALP",
    "ARAT",
    "DKL",
    "GAT",
    "HAT",
    "IKL",
    "MART",
    "METHODS",
    "Method",
    "Natural",
    "NormalStart",
    "PGDAT",
    "TRADES",
]
