"""Images and labels out of whatever holds them."""

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.datasets import Images, as_float
from vfd_tf.part import InputError


def batches(data, batch_size):
    """(x float in [0, 1], y) of a tf.data set, of `Images` or of arrays."""
    if isinstance(data, tf.data.Dataset):
        for batch in data.as_numpy_iterator():
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            _check(x, y)
            real = slice(None) if weight is None else weight > 0
            if len(x[real]):
                yield x[real], y[real]
        return
    x, y = (data.x, data.y) if isinstance(data, Images) else data
    x, y = np.asarray(x), np.asarray(y)
    _check(x, y)
    for i in range(0, len(x), batch_size):
        images = x[i : i + batch_size]
        # Only our own in-memory images are uint8 by design; others must be floats.
        floats = as_float(images).numpy() if isinstance(data, Images) else images
        yield floats, y[i : i + batch_size]


def _check(x, y):
    if isinstance(x, dict) or y is None:
        raise InputError(
            "The data must be pairs (images, labels); of a tensorflow-datasets set, those "
            "that as_supervised=True gives."
        )
    if np.ndim(y) == 0:
        raise InputError("The data set has single images: add .batch(100) to it.")
    if len(x) != len(y):
        raise InputError(f"There are {len(x)} images and {len(y)} labels: pass one each.")
    if np.ndim(x) not in (3, 4):
        raise InputError(
            f"The images have shape {np.shape(x)}; pass [n, h, w, c], or [n, h, w]."
        )
