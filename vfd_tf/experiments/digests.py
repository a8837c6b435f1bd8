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
    """The same, from the newest run on the same images; "" without one. Nothing is read."""
    known = {}
    paths = glob.glob(os.path.join(glob.escape(root), "*", "run.json"))
    for path in sorted(paths, key=os.path.getmtime):
        directory = RunDirectory(os.path.dirname(path))
        try:
            identity = directory.owner["identity"]
            held_out, hold = _of_flags(directory.file("flags.txt"))
        except (InputError, OSError, KeyError, ValueError):
            continue
        key = identity.get("dataset"), identity.get("image_size"), held_out, hold
        known[key] = identity.get("data", "")

    def digest(experiment):
        names = "dataset", "image_size", "validation"
        key = *(experiment[name] for name in names), _place(experiment.hold)
        return known.get(key, "")

    return digest


def _of_flags(path):
    """--validation and --hold of a flags.txt: both count, and run.json has neither."""
    given = {}
    if os.path.exists(path):
        with open(path) as file:
            lines = (line.strip().removeprefix("--").partition("=") for line in file)
            given = {name: value for name, _, value in lines}
    held_out = given.get("validation", "none")
    held_out = None if held_out == "none" else int(held_out)
    return held_out, _place(given.get("hold", "auto"))


def _place(hold):
    """Where images are: those of nearly every set fit into memory, if that is allowed."""
    return "disk" if hold == "disk" else "memory"
