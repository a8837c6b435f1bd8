"""Distillations: more terms beside a method's, from frozen or jointly trained networks."""

from vfd_tf.training.distillation.balanced import BMTARD
from vfd_tf.training.distillation.base import Distillation, NoDistillation
from vfd_tf.training.distillation.features import VFD, equation_5
from vfd_tf.training.distillation.labels import BGAT, KD, LBGAT
from vfd_tf.training.distillation.robust import IGDM, MTARD, RSLAD

DISTILLATIONS = {
    "none": NoDistillation,
    "kd": KD,
    "bgat": BGAT,
    "lbgat": LBGAT,
    "vfd": VFD,
    "rslad": RSLAD,
    "igdm": IGDM,
    "mtard": MTARD,
    "b-mtard": BMTARD,
}

__all__ = [
    "BGAT",
    "BMTARD",
    "DISTILLATIONS",
    "Distillation",
    "IGDM",
    "KD",
    "LBGAT",
    "MTARD",
    "NoDistillation",
    "RSLAD",
    "VFD",
    "equation_5",
]
