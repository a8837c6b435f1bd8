"""Adversarial training with Vanilla Feature Distillation for Keras on TensorFlow."""

import os
import sys
import warnings

from vfd_tf import startup

# oneDNN more than doubles convolutions on CPUs where TensorFlow leaves it off; it has to
# be set before TensorFlow is imported.
if "tensorflow" in sys.modules and "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
    from vfd_tf.cpu import has_avx512

    if not has_avx512():
        warnings.warn(
            "TensorFlow was imported before vfd_tf and runs without oneDNN on this CPU, at "
            "about half the speed; import vfd_tf first or set TF_ENABLE_ONEDNN_OPTS=1.",
            stacklevel=2,
        )
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
startup.check_backend()
startup.import_tensorflow()

from vfd_tf import (
    architectures,
    attacks,
    datasets,
    distillation,
    evaluation,
    losses,
    methods,
)
from vfd_tf.callbacks import RobustAccuracy, VFDCallback
from vfd_tf.options import Options
from vfd_tf.panel import ImagePanel
from vfd_tf.part import InputError
from vfd_tf.trainer import AdversarialTrainer

__version__ = "0.1.0"

__all__ = [
    "AdversarialTrainer",
    "ImagePanel",
    "InputError",
    "Options",
    "RobustAccuracy",
    "VFDCallback",
    "architectures",
    "attacks",
    "datasets",
    "distillation",
    "evaluation",
    "losses",
    "methods",
]
