"""Curves of a folder, as TensorBoard reads them."""

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def curves(folder):
    """tag -> [(step, value)] of the scalars in a folder."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
        if tag not in ("_hparams_/session_start_info", "keras")  # no scalars
    }
