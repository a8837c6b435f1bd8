"""Where a run lives: its identity, and the name of its directory."""

import os
import re

from vfd_tf import files
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import key
from vfd_tf.hyperparameters import name_of
from vfd_tf.models import architectures
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS


def helpers(experiment: Experiment, digest: str) -> dict[str, str]:
    """Role -> key of the run, or hash of the file, that gives its network.

    Args:
        digest: Hash of the training images.
    """
    keys = {}
    for role in experiment.prerequisites:
        if experiment[role] == "auto":
            keys[role] = key(identity(experiment.prerequisite(role), digest))
        else:
            keys[role] = files.sha256(experiment[role])
    return keys


def identity(experiment: Experiment, digest: str) -> dict:
    """What the result of an experiment on these training images depends on."""
    return experiment.identity(digest, helpers(experiment, digest))


def labels(experiment: Experiment) -> tuple[str, str, str, str]:
    """Data set, architecture, method and distillation, for the name of a directory."""
    return (
        re.sub(r"[^\w.]+", "-", experiment.dataset).strip("-"),
        architectures.label(experiment.arch),
        name_of(METHODS, experiment.method),
        name_of(DISTILLATIONS, experiment.distillation),
    )


def path(experiment: Experiment, identity_: dict, root: str) -> str:
    """The run directory, in the folder of all."""
    return os.path.join(root, "-".join((*labels(experiment), key(identity_))))
