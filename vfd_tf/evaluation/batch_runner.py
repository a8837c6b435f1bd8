"""Functions of images, compiled once and run batch by batch, in few batch sizes."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.data.batching import checked_batch_size
from vfd_tf.evaluation.windows import take


class BatchRunner:
    """Runs functions of arrays {name: [n, ...]} in batches.

    Args:
        batch_size: Images that go through the network at once: sets the memory.
        fixed_size: The only batch size that the model takes, or None.
        eager: Compiles nothing.
        devices: Names of devices that share the batches; without any TensorFlow chooses.
    """

    def __init__(self, batch_size=128, fixed_size=None, eager=False, devices=()):
        batch_size = 128 if batch_size is None else batch_size
        self.batch_size = fixed_size or checked_batch_size(batch_size)
        self.fixed_size, self.eager, self._compiled = fixed_size, eager, {}
        self.devices = tuple(devices) or (None,)

    def run(self, key, function, arrays, options=()) -> dict[str, np.ndarray]:
        """The results {name: [n, ...]} of a function, the images of all batches.

        The last batch is filled up to a size of few by images of its own, so that kernels
        are prepared for few shapes, and none is of 0 images.

        Args:
            key: What the function is: equal keys share one compilation.
            function: Called as `function(*options, **arrays)`.
            arrays: However nested.
            options: Tensors that all batches share.
        """
        flat = keras.tree.flatten(arrays)
        key = key, tuple(array.shape[1:] for array in flat)
        count, lanes = len(flat[0]), len(self.devices)
        starts = range(0, count, self.batch_size)
        found = [None] * len(starts)

        def lane(number):
            """Every `lanes`-th batch, on a device of its own."""
            compiled = self._on(self.devices[number], key, function)
            for i in range(number, len(starts), lanes):
                index = np.arange(starts[i], min(starts[i] + self.batch_size, count))
                found[i] = self._batch(compiled, arrays, index, options)

        busy = range(min(lanes, len(starts)))
        if len(busy) == 1:
            lane(0)
        else:
            with ThreadPoolExecutor(len(busy)) as pool:
                list(pool.map(lane, busy))
        return {k: np.concatenate([each[k] for each in found]) for k in found[0]}

    def _on(self, device, key, function):
        """The function on a device, compiled once."""
        if (device, key) not in self._compiled:

            def placed(*options, **tensors):
                with tf.device(device):
                    return function(*options, **tensors)

            own = function if device is None else placed
            self._compiled[device, key] = own if self.eager else _compiled(own)
        return self._compiled[device, key]

    def _batch(self, compiled, arrays, index, options):
        size = self.fixed_size or bucket(len(index), self.batch_size)
        filled = np.resize(index, size)
        tensors = keras.tree.map_structure(tf.convert_to_tensor, take(arrays, filled))
        results = compiled(*options, **tensors)
        return {k: np.asarray(v)[: len(index)] for k, v in results.items()}


def bucket(count: int, batch_size: int) -> int:
    """The size that a batch of so many images is filled up to.

    batch_size / 2^k, or three quarters of that; 8 at least, where batch_size allows it.
    """
    if batch_size > 2 * count and batch_size % 2:
        batch_size = max(count, 8)  # halves of an odd size are no sizes
    size = batch_size
    while size % 2 == 0 and size // 2 >= max(count, 8):
        size //= 2
    less = size * 3 // 4
    return less if size % 4 == 0 and less >= max(count, 8) else size


def _compiled(function):
    """The function compiled: one trace of full batches, and one of any other size."""
    compiled = tf.function(function, reduce_retracing=True, autograph=False)
    # Every attack traces its own; TensorFlow takes them for one that is traced too often.
    compiled._omit_frequent_tracing_warning = True
    return compiled
