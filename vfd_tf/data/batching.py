"""Batches of images and labels out of whatever Keras's fit, evaluate and predict accept.

Arrays, tf.data sets, `PyDataset`s, generators, lists of batches and a `Split` come in,
NumPy batches go to an evaluation. What goes to a `fit` is `fit_data`'s.
"""

import collections.abc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.data.splits import Split
from vfd_tf.hyperparameters import InputError

_INFINITE = tf.data.INFINITE_CARDINALITY
_PAIRS = (
    "The data must be pairs (images, labels); of a tensorflow-datasets set, those that "
    "as_supervised=True gives."
)
ENDLESS = (
    "The data set repeats for ever: take .repeat() off, or bound it with .take(batches){}."
)


def batches(data: Any, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(x float in [0, 1], y) as NumPy arrays; images of weight 0 are left out.

    Labels stay as they are, see `contract.class_indices`.

    Args:
        data: (x, y) or (x, y, weight) arrays, a `Split`, a tf.data set of batches, a
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


def first_images(data: Any, count: int) -> Any:
    """The first so many images of any data: a part of a `Split`, or batches [(x, y), ...].

    Raises:
        InputError: Less than one image, or what `batches` refuses.
    """
    if count < 1:
        raise InputError(f"images must be a whole number from 1; got {count}.")
    if isinstance(data, Split):
        return data[:count]
    found = []
    for x, y in batches(data, count):
        found.append((x[:count], y[:count]))
        count -= len(found[-1][0])
        if not count:
            break
    return found


def _parts(data, batch_size):
    """(x, y, weight) of every batch."""
    if isinstance(data, Split):  # uint8 by design; others must be floats
        yield from ((x, y, None) for x, y in data.parts(batch_size))
        return
    if is_endless(data):
        raise InputError(ENDLESS.format(""))
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


def first_batch(data):
    """The first batch of a tf.data set as (x, y, weight) of NumPy arrays."""
    for batch in data.take(1).as_numpy_iterator():
        return keras.utils.unpack_x_y_sample_weight(batch)
    raise InputError("The data set is empty.")


def count_of(data) -> int | None:
    """How many images there are, or None where only reading them tells."""
    if isinstance(data, Split):
        return len(data)
    return len(_unpacked(data)[0]) if _is_arrays_of_a_set(data) else None


def check_readable_again(data) -> None:
    """Raises `InputError` for data without an end, or that can be read only once."""
    if isinstance(data, collections.abc.Iterator):
        raise InputError(
            "A generator can be read only once: pass arrays, a tf.data set or a PyDataset."
        )
    if is_endless(data):
        raise InputError(ENDLESS.format(""))


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
    if not arrays[1].ndim and arrays[0].ndim in (2, 3):
        raise InputError(
            f"The data is a single image of shape {arrays[0].shape}: pass a batch of one, "
            "(x[0:1], y[0:1])."
        )
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
    whole = not isinstance(data, Split) and _is_arrays_of_a_set(data)
    return checked_arrays(*_unpacked(data)[:2]) if whole else None


def is_arrays(x) -> bool:
    """Whether x is one array, and not something that yields batches."""
    return hasattr(x, "shape") and hasattr(x, "__getitem__") and not callable(x)


def _is_arrays_of_a_set(data) -> bool:
    """Whether the data is (x, y) or (x, y, weight) arrays, rather than batches."""
    if isinstance(data, collections.abc.Mapping):
        return True
    if not isinstance(data, (tuple, list)) or not data:
        return False
    return is_arrays(data[0]) or _is_lists_of_a_set(data)


def _is_lists_of_a_set(data) -> bool:
    """Whether the data is (x, y) or (x, y, weight) where x is a list, rather than batches.

    Images have an axis for each of n, h, w and perhaps c, labels one or two.
    """
    if len(data) not in (2, 3) or not isinstance(data[0], (tuple, list)):
        return False
    return _depth(data[0]) in (3, 4) and _depth(data[1]) in (1, 2)


def _depth(value) -> int:
    """How many axes a nested list has, by its first elements."""
    axes = 0
    while isinstance(value, (tuple, list)) and value:
        value, axes = value[0], axes + 1
    return axes + np.ndim(value)


def is_endless(data) -> bool:
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == _INFINITE
    return isinstance(data, keras.utils.PyDataset) and data.num_batches is None
