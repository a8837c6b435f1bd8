"""Callbacks for training: VFD, robust accuracy after every epoch, schedules, alarms.

What writes into the epoch's logs stands before TensorBoard and ModelCheckpoint.
"""

from vfd_tf.training.callbacks.epoch import (
    Anneal,
    CatastrophicOverfitting,
    RobustAccuracy,
    RobustOverfitting,
    StochasticWeightAverage,
    TermShares,
    Throughput,
)
from vfd_tf.training.callbacks.vfd_callback import VFDCallback
from vfd_tf.training.saving.checkpoint import Checkpoint
from vfd_tf.training.saving.divergence import StopOnDivergence
from vfd_tf.training.schedules import Delay, LambdaSchedule

__all__ = [
    "Anneal",
    "CatastrophicOverfitting",
    "Checkpoint",
    "Delay",
    "LambdaSchedule",
    "RobustAccuracy",
    "RobustOverfitting",
    "StochasticWeightAverage",
    "StopOnDivergence",
    "TermShares",
    "Throughput",
    "VFDCallback",
]
