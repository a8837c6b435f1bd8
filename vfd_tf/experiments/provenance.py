"""Versions and commit of what runs."""

import os
import platform
import subprocess

import keras
import numpy as np


def provenance() -> dict[str, str | None]:
    """Versions and commit of what runs."""
    import tensorflow as tf

    import vfd_tf

    return {
        "vfd_tf": vfd_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "git_commit": _commit(os.path.dirname(os.path.dirname(vfd_tf.__file__))),
        "devices": ", ".join(d.name for d in tf.config.list_logical_devices()),
    }


def _commit(root: str) -> str | None:
    """The commit of the checkout at `root`, "-dirty" if changed; None without one."""

    def git(*words):
        command = ["git", "-C", root, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel").strip(), root):
            return None  # installed inside a checkout of something else
        return git("describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
