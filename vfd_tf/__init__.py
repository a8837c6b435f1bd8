"""Adversarial training with Vanilla Feature Distillation for Keras on TensorFlow."""

import os
import sys
import warnings

from vfd_tf import startup

# oneDNN more than doubles convolutions on CPUs where TensorFlow leaves it off; it has to
# be set before TensorFlow is imported.
late = "tensorflow" in sys.modules and "TF_ENABLE_ONEDNN_OPTS" not in os.environ
if late and not startup.has_avx512():
    warnings.warn(
        "TensorFlow was imported before vfd_tf and runs without oneDNN on this CPU, at "
        "about half the speed; import vfd_tf first or set TF_ENABLE_ONEDNN_OPTS=1.",
        stacklevel=2,
    )
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
startup.check_backend()
startup.import_tensorflow()

from vfd_tf import attacks, evaluation, losses
from vfd_tf.data import datasets
from vfd_tf.data.datasets import load as load_data
from vfd_tf.evaluation import evaluate, perturb
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import architectures, mixture
from vfd_tf.training import callbacks, distillation, methods, optimizers
from vfd_tf.training.callbacks import RobustAccuracy, VFDCallback
from vfd_tf.training.callbacks.image_panel import ImagePanel
from vfd_tf.training.options import TrainingOptions
from vfd_tf.training.trainer import AdversarialTrainer
from vfd_tf.versions import __version__ as __version__

__all__ = [
    "AdversarialTrainer",
    "ImagePanel",
    "InputError",
    "TrainingOptions",
    "RobustAccuracy",
    "VFDCallback",
    "architectures",
    "attacks",
    "callbacks",
    "datasets",
    "distillation",
    "evaluate",
    "evaluation",
    "load_data",
    "losses",
    "methods",
    "mixture",
    "optimizers",
    "perturb",
]

# `from vfd_tf.methods import TRADES` reads the module that `vfd_tf.methods` is.
_MODULES = architectures, callbacks, datasets, distillation, methods, mixture, optimizers
for _module in _MODULES:
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module
