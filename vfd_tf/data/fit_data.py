"""What Keras's `fit` and `evaluate` take, of whatever users pass to ours."""

import collections.abc
import dataclasses
import math
import warnings

import numpy as np
import tensorflow as tf

from vfd_tf.data.batching import (
    ENDLESS,
    as_pairs,
    checked_arrays,
    checked_batch_size,
    first_batch,
    is_arrays,
    is_endless,
)
from vfd_tf.data.splits import untuned
from vfd_tf.data.training_batches import TrainingBatches
from vfd_tf.hyperparameters import InputError

FILLER = float("nan")  # weight of an image that only fills a batch up


def for_training(data, batch_size, steps, shuffle, seed, fixed_size=None, say=None):
    """(what the batches of a `fit` are made of, steps_per_epoch) of its arguments.

    Arrays become `ArrayBatches`, which like `TrainingBatches` can begin at any step; other
    data sets stay as Keras takes them.

    Args:
        data: (x, y, sample_weight) as in `keras.Model.fit`.
        batch_size: Images a batch; default 32, or what `steps` make of it.
        steps: `steps_per_epoch` of Keras, or None.
        shuffle: Whether arrays are shuffled.
        seed: Seed of the order.
        fixed_size: The only batch size that the model takes, or None.
        say: Called with the sentence on what shuffled epochs leave out, or None.

    Raises:
        InputError: A data set without an end, or arrays that don't belong together.
    """
    if isinstance(data[0], TrainingBatches):
        return data[0], steps or data[0].steps
    if not is_arrays(data[0]):
        return _as_fit_takes_it(*data, steps), steps
    arrays = checked_arrays(*data)
    if shuffle == "batch":
        raise InputError(
            "shuffle='batch' is not supported: pass shuffle=True, or a tf.data set in an "
            "order of your own."
        )
    count = len(arrays[0])
    batch_size = checked_batch_size(
        batch_size or fixed_size or (math.ceil(count / steps) if steps else 32)
    )
    if fixed_size not in (None, batch_size):
        raise InputError(
            f"The model takes batches of {fixed_size} images alone: pass "
            f"batch_size={fixed_size}."
        )
    batch_size = min(batch_size, count)
    _say_left_out(count, batch_size, shuffle, say)
    batches = ArrayBatches(arrays, batch_size, seed if shuffle else None)
    return batches, steps or batches.steps


def _as_fit_takes_it(x, y, weight, steps):
    """A data set as Keras's own `fit` takes it, or an `InputError`."""
    if isinstance(x, (list, tuple, collections.abc.Mapping)):
        raise InputError(
            f"The images are a {type(x).__name__}: pass one array of them, as fit(x, y), "
            "or a tf.data set or a PyDataset of batches."
        )
    if y is not None or weight is not None:
        raise InputError(
            "With a data set, labels and sample_weight belong into it: (x, y, weight)."
        )
    if steps is None and is_endless(x):
        raise InputError(ENDLESS.format(", or pass steps_per_epoch"))
    return as_pairs(x) if isinstance(x, tf.data.Dataset) else x


def _say_left_out(count, batch_size, shuffle, say):
    rest = count % batch_size
    if rest and not shuffle:
        warnings.warn(
            f"The last {rest} of {count} images fill no batch of {batch_size} and are "
            "never used: pass shuffle=True, or another batch_size.",
            stacklevel=4,
        )
    elif rest and say:
        say(f"Every epoch leaves out {rest} of {count} images, others each time.")


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches of arrays, epoch after epoch, in order or (with a seed) shuffled.

    The order of an epoch depends on the seed and on the step at which it begins, so that a
    loop of fits sees what one fit of as many epochs sees. The rest of an epoch that fills
    no batch is left out, other images each time. See `TrainingBatches`.
    """

    arrays: tuple
    batch_size: int
    seed: int | None

    @property
    def steps(self) -> int:
        return len(self.arrays[0]) // self.batch_size

    def begin(self, since, done, share=None):
        """See `TrainingBatches.begin`; `since` is called where an iterator begins, which
        callbacks that resume a fit come before."""
        first, count = share or (0, self.batch_size)
        with tf.device("CPU"):
            tensors = [tf.constant(array) for array in self.arrays]

        def batch(since, step):
            index = self._order(since, step, first + tf.range(count))
            return tuple(tf.gather(tensor, index) for tensor in tensors)

        start = tf.data.Dataset.from_generator(
            lambda: iter([since()]), output_signature=tf.TensorSpec((), tf.int64)
        )
        every = tf.data.Dataset.range(done, np.iinfo(np.int64).max)
        data = start.flat_map(lambda since: every.map(lambda step: (since, step)))
        return untuned(data.map(batch).prefetch(2))

    def index(self, since, done):
        """See `TrainingBatches.index`."""
        places = tf.constant(since, tf.int64), tf.constant(done, tf.int64)
        return self._order(*places, tf.range(self.batch_size)).numpy()

    def _order(self, since, step, position):
        epoch, first = step // self.steps, (step % self.steps) * self.batch_size
        index = tf.cast(first, tf.int32) + position
        if self.seed is None:
            return index
        # The step at which an epoch begins names its order.
        key = tf.cast(tf.stack([self.seed, since + epoch * self.steps]), tf.int32)
        count = len(self.arrays[0])
        return tf.random.experimental.index_shuffle(index, key, count - 1)


def for_validation(x, y, weight, batch_size, steps, replicas=1, fixed_size=None):
    """What Keras's `evaluate` takes as x: every image once, in order.

    One device takes batches as they come. Several replicas, and models of a fixed batch
    size, take whole ones: batches of one size, the last filled up with `FILLER`.

    Args:
        x, y, weight: As in `keras.Model.evaluate`.
        batch_size: Images a batch of arrays; default 32.
        steps: How many batches are wanted, or None.
        replicas: How many share a batch.
        fixed_size: The only batch size that the model takes, or None.
    """
    if is_arrays(x):
        arrays = checked_arrays(x, y, weight)
        data = tf.data.Dataset.from_tensor_slices(arrays)
        batch_size = checked_batch_size(batch_size or fixed_size or 32)
        data = untuned(data.batch(batch_size).prefetch(2))
    else:
        data = as_pairs(x) if isinstance(x, tf.data.Dataset) else x
    if steps is None and is_endless(data):
        raise InputError(ENDLESS.format(", or pass the number of steps"))
    if replicas == 1 and fixed_size is None:
        return data
    return whole_batches(_as_dataset(data), replicas, fixed_size)


def as_batches(data) -> tf.data.Dataset:
    """A tf.data set of batches of arrays (x, y), of a tf.data set or a PyDataset."""
    parts = data if isinstance(data, (tuple, list)) else (data,)
    x, y, weight = (*parts, None, None)[:3]
    return _as_dataset(for_validation(x, y, weight, None, steps=1))


def whole_batches(data, replicas=1, fixed_size=None):
    """(x, y, weight) in batches of one size, a multiple of the replicas.

    Images of weight NaN, `FILLER`, only fill the last batch up.
    """
    size = tf.nest.flatten(data.element_spec)[0].shape[0]
    if fixed_size is None and size is not None and size % replicas == 0:
        return data
    size = fixed_size or replicas * math.ceil(len(first_batch(data)[0]) / replicas)

    def weighted(x, y, weight=None):
        if weight is None:
            weight = tf.ones(tf.shape(x)[:1])
        return x, y, tf.reshape(tf.cast(weight, tf.float32), [-1])

    def fill(part, value=0):
        missing = size - tf.shape(part)[0]
        shape = tf.concat([[missing], tf.shape(part)[1:]], 0)
        rest = tf.fill(shape, tf.cast(value, part.dtype))
        shape = [size, *part.shape[1:]] if part.shape.rank else None
        return tf.ensure_shape(tf.concat([part, rest], 0), shape)

    data = data.map(weighted).rebatch(size)
    return untuned(data.map(lambda x, y, weight: (fill(x), fill(y), fill(weight, FILLER))))


def _as_dataset(data):
    """A tf.data set of a PyDataset, a generator, ..., as Keras itself makes one."""
    if isinstance(data, tf.data.Dataset):
        return data
    from keras.src.trainers.data_adapters import get_data_adapter

    return get_data_adapter(data).get_tf_dataset()


def split(x, y, weight, share):
    """((x, y, weight) for training, (x, y[, weight]) for validation) of arrays."""
    if not is_arrays(x):
        raise InputError("validation_split needs arrays; pass validation_data=... instead.")
    if not 0 < share < 1:
        raise InputError(f"validation_split must be between 0 and 1; got {share}.")
    arrays = checked_arrays(x, y, weight)
    keep = math.floor(len(arrays[0]) * (1 - share))
    if not 0 < keep < len(arrays[0]):
        raise InputError(
            f"validation_split={share} of {len(arrays[0])} images leaves one side empty; "
            "choose another share."
        )
    train = [array[:keep] for array in arrays]
    rest = tuple(array[keep:] for array in arrays)
    return (*train, *[None] * (3 - len(train))), rest
