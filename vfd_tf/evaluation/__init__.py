"""Evaluation: accuracy on clean images and under named, frozen attack protocols.

A protocol such as `pgd20@linf:8/255` is an attack and a threat model; no flag of training
changes it. Every verdict is a float32 forward pass in inference mode.
"""

from vfd_tf.data.batching import batches
from vfd_tf.evaluation.evaluate import evaluate
from vfd_tf.evaluation.journal import Journal
from vfd_tf.evaluation.protocols import PRESETS, Protocol, protocol
from vfd_tf.evaluation.report import Report
from vfd_tf.evaluation.result import EvaluationResult, accuracies, table, wilson
from vfd_tf.evaluation.target import Target

__all__ = [
    "PRESETS",
    "EvaluationResult",
    "Journal",
    "Protocol",
    "Report",
    "Target",
    "accuracies",
    "batches",
    "evaluate",
    "protocol",
    "table",
    "wilson",
]
