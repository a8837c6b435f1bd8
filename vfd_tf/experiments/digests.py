"""Hashes of training images, which name runs: of the data, or as earlier runs know them."""

import glob
import os
from collections.abc import Callable

from vfd_tf.data import datasets
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError


def of_data(data_dir: str | None) -> Callable:
    """A function from an experiment to the hash of its training images, which it reads."""
    known = {}

    def digest(experiment):
        # On disk a set has another digest than in memory.
        names = "dataset", "validation", "image_size", "hold"
        key = tuple(experiment[name] for name in names)
        if key not in known:
            name, validation, size, hold = key
            data = datasets.load(name, data_dir, validation, image_size=size, hold=hold)
            known[key] = data.digest
        return known[key]

    return digest


def of_runs(root: str) -> Callable:
    """The same, from the newest run on the data set; "" without one. Nothing is read."""
    known = {}
    paths = glob.glob(os.path.join(glob.escape(root), "*", "run.json"))
    for path in sorted(paths, key=os.path.getmtime):
        try:
            identity = RunDirectory(os.path.dirname(path)).owner["identity"]
        except (InputError, OSError, KeyError):
            continue
        known[identity.get("dataset"), identity.get("image_size")] = identity.get(
            "data", ""
        )
    return lambda experiment: known.get((experiment.dataset, experiment.image_size), "")
