"""What the replicas of a strategy tell each other in a step."""

import contextlib

import keras
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.models.keras_graph import layers_of


def batch_norms(models: list[keras.Model]) -> list[keras.layers.BatchNormalization]:
    """The BatchNorm layers of models."""
    layers = [layer for model in models for layer in layers_of(model)]
    return [la for la in layers if isinstance(la, keras.layers.BatchNormalization)]


@contextlib.contextmanager
def synchronized(norms: list[keras.layers.BatchNormalization]):
    """Inside, BatchNorm layers see the batches of all replicas; files don't say so."""
    changed = [norm for norm in norms if not norm.synchronized]
    for norm in changed:
        norm.synchronized = True
    try:
        yield
    finally:
        for norm in changed:
            norm.synchronized = False


def summed(gradients):
    """Gradients, None included, summed over replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    known = iter(context.all_reduce("SUM", [g for g in gradients if g is not None]))
    return [None if g is None else next(known) for g in gradients]


def average_statistics(models) -> None:
    """Keeps BatchNorm's moving statistics equal on all replicas: their mean."""
    context = tf.distribute.get_replica_context()
    variables = [v.value for model in models for v in model.non_trainable_variables]
    moving = [v for v in variables if v.dtype.is_floating]
    if context.num_replicas_in_sync == 1 or not moving:
        return
    means = context.all_reduce("MEAN", [tf.identity(v) for v in moving])
    for variable, mean in zip(moving, means, strict=True):
        variable.assign(mean)


def example_seeds(seed: int, iteration, count):
    """Seeds [count, 2] of this replica's examples, by their place in the global batch."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    position = tf.range(count) + tf.cast(replica, tf.int32) * count
    return noise.example_seeds(seed, iteration, position)
