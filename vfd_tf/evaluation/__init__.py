"""Evaluation: accuracy on clean images and under named, frozen attack protocols.

A protocol such as `pgd20@linf:8/255` is an attack and a threat model; no flag of training
changes it. Every verdict is a float32 forward pass in inference mode.
"""

from vfd_tf.data.batching import batches
from vfd_tf.evaluation.compilations import Compilations
from vfd_tf.evaluation.engine import Engine
from vfd_tf.evaluation.evaluate import evaluate
from vfd_tf.evaluation.journal import Journal
from vfd_tf.evaluation.perturb import perturb
from vfd_tf.evaluation.protocols import PRESETS, TRANSFER, Protocol, is_transfer, protocol
from vfd_tf.evaluation.report import Report
from vfd_tf.evaluation.result import EvaluationResult, accuracies, table, wilson, worst

__all__ = [
    "PRESETS",
    "TRANSFER",
    "Compilations",
    "Engine",
    "EvaluationResult",
    "Journal",
    "Protocol",
    "Report",
    "accuracies",
    "batches",
    "evaluate",
    "is_transfer",
    "perturb",
    "protocol",
    "table",
    "wilson",
    "worst",
]
