"""What a `.weights.h5` file of a trainer holds beside the student's weights."""

import os

import h5py
import numpy as np

from vfd_tf import archives, files
from vfd_tf.hyperparameters import InputError

_GROUP = "vfd_tf_training"


def add_state(path, variables) -> None:
    """Adds the values of these variables, in order, to a file of the student's weights."""
    if not _is_h5(path):
        return
    with h5py.File(path, "a") as file:
        group = file.create_group(_GROUP)
        for i, variable in enumerate(variables):
            group[str(i)] = np.asarray(variable)


def restore_state(path, variables) -> None:
    """Assigns what `add_state` wrote; a file of weights alone changes nothing.

    Raises:
        InputError: The file was written by another kind of trainer.
    """
    if not _is_h5(path):
        return
    remedy = "copy it again, or save it anew with save_weights"
    with files.read_or_refused(path, remedy), h5py.File(path, "r") as file:
        archives.check_h5(file)
        if _GROUP not in file:
            return
        values = [file[_GROUP][str(i)][()] for i in range(len(file[_GROUP]))]
    if [np.shape(value) for value in values] != [tuple(v.shape) for v in variables]:
        raise InputError(
            f"{path} holds the training state of another method, optimizer or options; "
            "load it into trainer.student for the weights alone."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _is_h5(path) -> bool:
    return os.path.isfile(path) and h5py.is_hdf5(path)
