"""Versions and commit of what runs."""

import os
import pathlib
import platform
import subprocess

from vfd_tf import versions as own


def provenance() -> dict[str, str | None]:
    """Versions and commit of what runs."""
    import tensorflow as tf

    return {
        **own.versions(),
        "python": platform.python_version(),
        "git_commit": _commit(str(pathlib.Path(own.__file__).parents[1])),
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
