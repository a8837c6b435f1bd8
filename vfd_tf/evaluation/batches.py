"""Images and labels out of whatever holds them."""

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.datasets import Images, as_float


def batches(data, batch_size):
    """(x float in [0, 1], y) of a tf.data set, of `Images` or of arrays."""
    if isinstance(data, tf.data.Dataset):
        for batch in data.as_numpy_iterator():
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            real = slice(None) if weight is None else weight > 0
            if len(x[real]):
                yield x[real], y[real]
        return
    x, y = (data.x, data.y) if isinstance(data, Images) else data
    x, y = np.asarray(x), np.asarray(y)
    for i in range(0, len(x), batch_size):
        images = x[i : i + batch_size]
        # Only our own in-memory images are uint8 by design; others must be floats.
        floats = as_float(images).numpy() if isinstance(data, Images) else images
        yield floats, y[i : i + batch_size]
