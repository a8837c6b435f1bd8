"""What runs the commands of a suite: an axis with a table at its foot.

An engine has `submit(command, after)`, which gives a future of the seconds that the
command takes; `stop()` and `close()`, and is a context; `of(flags, started)` makes one.
Futures raise `CommandFailed`, `ParentFailed` or `CommandStopped`.
"""

from vfd_tf.suites.command import (
    Command,
    CommandFailed,
    CommandStopped,
    ParentFailed,
)
from vfd_tf.suites.local_engine import LocalEngine, visible_gpus
from vfd_tf.suites.parsl_engine import ParslEngine

__all__ = [
    "ENGINES",
    "Command",
    "CommandFailed",
    "CommandStopped",
    "LocalEngine",
    "ParentFailed",
    "ParslEngine",
    "visible_gpus",
]

ENGINES = {"local": LocalEngine, "parsl": ParslEngine}
