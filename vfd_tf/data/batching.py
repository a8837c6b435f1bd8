"""Batches of images and labels out of whatever Keras's fit, evaluate and predict accept.

Arrays, tf.data sets, `PyDataset`s, generators, lists of batches and `Images` come in; a
tf.data set goes to the trainer, NumPy batches go to an evaluation.
"""

import collections.abc
import math
import warnings

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.data.datasets import Images, as_float, untuned
from vfd_tf.hyperparameters import InputError

FILLER = float("nan")  # weight of an image that only fills a batch up
_INFINITE = tf.data.INFINITE_CARDINALITY
_PAIRS = (
    "The data must be pairs (images, labels); of a tensorflow-datasets set, those that "
    "as_supervised=True gives."
)
_ENDLESS = (
    "The data set repeats for ever: take .repeat() off, or bound it with .take(batches){}."
)


# --- training ---------------------------------------------------------------------------


def for_training(
    data, batch_size, steps, shuffle, seed, first_step, fixed_size=None, say=None
):
    """(what Keras's `fit` takes as x, steps_per_epoch) of the arguments of a `fit`.

    Arrays are batched here: the order of an epoch depends on `seed` and on the step at
    which it begins, so that a loop of fits sees what one fit of as many epochs sees. The
    rest of an epoch that fills no batch is left out, other images each time.

    Args:
        data: (x, y, sample_weight) as in `keras.Model.fit`.
        batch_size: Images a batch; default 32, or what `steps` make of it.
        steps: `steps_per_epoch` of Keras, or None.
        shuffle: Whether arrays are shuffled.
        seed: Seed of the order.
        first_step: Called where an iterator begins, which callbacks that resume a fit come
            before: steps that the trainer has done.
        fixed_size: The only batch size that the model takes, or None.
        say: Called with the sentence on what shuffled epochs leave out, or None.

    Raises:
        InputError: A data set without an end, or arrays that don't belong together.
    """
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
    seed = seed if shuffle else None
    return _endless_batches(arrays, batch_size, seed, first_step), (
        steps or count // batch_size
    )


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
    if steps is None and _endless(x):
        raise InputError(_ENDLESS.format(", or pass steps_per_epoch"))
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


def _endless_batches(arrays, batch_size, seed, first_step):
    """Batches of arrays, epoch after epoch, in order or (with a seed) shuffled."""
    count = len(arrays[0])
    steps = count // batch_size
    with tf.device("CPU"):
        tensors = [tf.constant(array) for array in arrays]

    def batch(before, step):
        epoch, first = step // steps, (step % steps) * batch_size
        index = tf.cast(first, tf.int32) + tf.range(batch_size)
        if seed is not None:
            # The step at which an epoch begins names its order.
            key = tf.cast(tf.stack([seed, before + epoch * steps]), tf.int32)
            index = tf.random.experimental.index_shuffle(index, key, count - 1)
        return tuple(tf.gather(tensor, index) for tensor in tensors)

    start = tf.data.Dataset.from_generator(
        lambda: iter([first_step()]), output_signature=tf.TensorSpec((), tf.int64)
    )
    every = tf.data.Dataset.range(np.iinfo(np.int64).max)
    data = start.flat_map(lambda first: every.map(lambda step: (first, step)))
    return untuned(data.map(batch).prefetch(2))


# --- validation -------------------------------------------------------------------------


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
    if steps is None and _endless(data):
        raise InputError(_ENDLESS.format(", or pass the number of steps"))
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


# --- evaluation -------------------------------------------------------------------------


def batches(data, batch_size):
    """(x float in [0, 1], y) as NumPy arrays; images of weight 0 are left out.

    Labels stay as they are, see `inputs.class_indices`.

    Args:
        data: (x, y) or (x, y, weight) arrays, `Images`, a tf.data set of batches, a
            `PyDataset`, or anything else that yields batches.
        batch_size: Images a batch of arrays.

    Raises:
        InputError: No pairs of images and labels, single images, other numbers of images
            than labels, or a data set without an end.
    """
    for x, y, weight in _parts(data, batch_size):
        x, y = _array(x), _array(y)
        check_pair(x, y)
        if weight is not None:
            weight = np.reshape(_array(weight), -1)
            if len(weight) != len(x):
                raise InputError(
                    f"There are {len(weight)} weights for {len(x)} images: pass one each."
                )
            x, y = x[weight > 0], y[weight > 0]
        if len(x):
            yield x, y


def _parts(data, batch_size):
    """(x, y, weight) of every batch."""
    if isinstance(data, Images):
        # Only our own in-memory images are uint8 by design; others must be floats.
        for i in range(0, len(data), batch_size):
            part = data[i : i + batch_size]
            yield as_float(part.x).numpy(), part.y, None
        return
    if _endless(data):
        raise InputError(_ENDLESS.format(""))
    if _is_arrays_of_a_set(data):
        arrays = checked_arrays(*_unpacked(data))
        for i in range(0, len(arrays[0]), batch_size):
            yield keras.utils.unpack_x_y_sample_weight(
                tuple(array[i : i + batch_size] for array in arrays)
            )
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(data.num_batches))
    if not isinstance(data, collections.abc.Iterable):
        raise InputError(
            f"The data is a {type(data).__name__}: pass (images, labels), a tf.data set or "
            "a PyDataset."
        )
    for batch in data:
        yield _unpacked(batch)


def _unpacked(batch):
    """(x, y, weight) of a batch, or of arrays: tuples, or {"image": ..., "label": ...}."""
    if isinstance(batch, collections.abc.Mapping):
        batch = pair_of(batch)
    try:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
    except ValueError:
        raise InputError(_PAIRS) from None
    if y is None or isinstance(x, collections.abc.Mapping):
        raise InputError(_PAIRS)
    return x, y, weight


def check_pair(x, y) -> None:
    """Raises `InputError` unless x are images and y has a label for each."""
    if np.ndim(y) == 0 or (np.ndim(x) in (2, 3) and len(x) != len(y)):
        raise InputError(
            f"An element of the data is a single image of shape {np.shape(x)}: add "
            ".batch(100) to the data set."
        )
    if np.ndim(x) not in (3, 4):
        raise InputError(
            f"The images have shape {np.shape(x)}; pass [n, h, w, c], or [n, h, w]."
        )
    if len(x) != len(y):
        raise InputError(f"There are {len(x)} images and {len(y)} labels: pass one each.")


def checked_batch_size(batch_size) -> int:
    """Images a batch, a whole number from 1, or an `InputError`."""
    whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise InputError(f"batch_size must be a whole number from 1; got {batch_size!r}.")
    return int(batch_size)


# --- what a data set is -----------------------------------------------------------------


def first_batch(data):
    """The first batch of a tf.data set as (x, y, weight) of NumPy arrays."""
    for batch in data.take(1).as_numpy_iterator():
        return keras.utils.unpack_x_y_sample_weight(batch)
    raise InputError("The data set is empty.")


def count_of(data) -> int | None:
    """How many images there are, or None where only reading them tells."""
    if isinstance(data, Images):
        return len(data)
    return len(_unpacked(data)[0]) if _is_arrays_of_a_set(data) else None


def check_readable_again(data) -> None:
    """Raises `InputError` for data without an end, or that can be read only once."""
    if isinstance(data, collections.abc.Iterator):
        raise InputError(
            "A generator can be read only once: pass arrays, a tf.data set or a PyDataset."
        )
    if _endless(data):
        raise InputError(_ENDLESS.format(""))


def as_pairs(data: tf.data.Dataset) -> tf.data.Dataset:
    """A tf.data set of (x, y) of one of dictionaries {"image": ..., "label": ...}."""
    spec = data.element_spec
    if isinstance(spec, collections.abc.Mapping):
        pair_of(spec)
        return data.map(pair_of)
    if not isinstance(spec, tuple):
        raise InputError(_PAIRS)
    return data


def pair_of(element):
    """(image, label) of an element of tensorflow-datasets."""
    if not {"image", "label"} <= set(element):
        raise InputError(
            f"An element of the data has {', '.join(sorted(map(str, element)))}: pass "
            "pairs (images, labels), or dictionaries with image and label."
        )
    return element["image"], element["label"]


def checked_arrays(x, y, weight=None) -> tuple:
    """(x, y[, weight]) as arrays with one entry an image, or an `InputError`."""
    if y is None:
        raise InputError("There are no labels: pass y, one label an image.")
    arrays = [_array(x), _array(y)]
    if weight is not None:
        arrays.append(_array(weight))
    counts = [len(array) if array.ndim else 0 for array in arrays]
    if counts[0] != counts[1]:
        raise InputError(
            f"There are {counts[0]} images and {counts[1]} labels: pass one each."
        )
    if len(set(counts)) > 1:
        raise InputError(
            f"There are {counts[0]} images and {counts[2]} weights: pass one each."
        )
    if not counts[0]:
        raise InputError("The data set is empty.")
    return tuple(arrays)


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


def _array(value):
    """A NumPy array of an array, a tensor, a list of numbers, or a column of a table."""
    if hasattr(value, "detach"):  # PyTorch's
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"A {type(value).__name__} can't be read as an array of numbers: pass NumPy "
            "arrays or tensors."
        ) from error


def arrays_of(data) -> tuple | None:
    """(x, y) of data that is arrays, all in memory, and None of any other."""
    whole = not isinstance(data, Images) and _is_arrays_of_a_set(data)
    return checked_arrays(*_unpacked(data)[:2]) if whole else None


def is_arrays(x) -> bool:
    """Whether x is one array, and not something that yields batches."""
    return hasattr(x, "shape") and hasattr(x, "__getitem__") and not callable(x)


def _is_arrays_of_a_set(data) -> bool:
    """Whether the data is (x, y) or (x, y, weight) arrays, rather than batches."""
    if isinstance(data, collections.abc.Mapping):
        return True
    return isinstance(data, (tuple, list)) and bool(data) and is_arrays(data[0])


def _endless(data) -> bool:
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == _INFINITE
    return isinstance(data, keras.utils.PyDataset) and data.num_batches is None
