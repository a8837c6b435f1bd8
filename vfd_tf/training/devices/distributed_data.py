"""Data on replicas and workers: each gets its share of every global batch."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vfd_tf.data.splits import untuned
from vfd_tf.hyperparameters import InputError
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.training.weights.accumulation import check_divides

# Batches are fetched by the host: iterators that fetch to devices are tuned by tf.data, and
# the end of one, at any time, waits up to a minute for the tuning thread.
ON_HOST = tf.distribute.InputOptions(experimental_fetch_to_device=False)


def distributed(strategy: tf.distribute.Strategy, data: Any) -> Any:
    """What Keras's `fit` takes on replicas, of a data set of global batches.

    Raises:
        InputError: With several workers, a data set that they can't share.
    """
    if strategy.num_replicas_in_sync == 1 or data is None:
        return data
    if isinstance(data, tf.distribute.DistributedDataset):
        return data
    if Cluster(strategy).count > 1:
        return _shared(strategy, data)
    if not isinstance(data, tf.data.Dataset):
        return data
    return strategy.experimental_distribute_dataset(data, ON_HOST)


def _shared(strategy, data):
    """Global batches that every worker reads, and takes its share of."""
    if not isinstance(data, tf.data.Dataset):
        raise InputError(
            "Several workers need a tf.data set or arrays: they take their shares of it."
        )
    policies = tf.data.experimental.AutoShardPolicy
    policy = data.options().experimental_distribute.auto_shard_policy
    if policy not in (policies.AUTO, policies.DATA):  # the user's own way
        return strategy.experimental_distribute_dataset(data, ON_HOST)
    (size,) = tf.nest.flatten(data.element_spec)[0].shape[:1]
    if size is None:
        raise InputError(
            "Several workers need batches of one size: call "
            ".batch(n, drop_remainder=True) on the data."
        )
    check_divides(size, strategy.num_replicas_in_sync, 1)

    def share_of(share):
        first, count = share

        def cut(*batch):
            return tf.nest.map_structure(lambda part: part[first : first + count], batch)

        return data.map(cut)

    # TensorFlow's own sharding forgets that a data set isn't tuned, see `ON_HOST`.
    return by_worker(strategy, size, share_of)


def by_worker(
    strategy: tf.distribute.Strategy, size: int, share_of: Callable
) -> tf.distribute.DistributedDataset:
    """Global batches of which every worker makes its share, and each replica has its own.

    Args:
        size: Images of a global batch, a multiple of the replicas.
        share_of: (first, count) -> a tf.data set of these places of every global batch.
    """

    def of_worker(context):
        count = size // context.num_input_pipelines
        batches = share_of((context.input_pipeline_id * count, count))
        return untuned(batches.rebatch(size // strategy.num_replicas_in_sync))

    return strategy.distribute_datasets_from_function(of_worker, ON_HOST)
