"""On what a number was measured: the lines above every table.

Imports no framework, so that a process of any framework can use it.
"""

import os
import pathlib
import platform
import shlex
from importlib import metadata


def command(module: str, arguments) -> str:
    """The command line of a benchmark, as it is typed."""
    return f"python -m benchmarks.{module} {shlex.join(arguments)}".rstrip()


def header(line: str, facts: dict[str, str]) -> str:
    """A Markdown list of machine, load, frameworks and command.

    Args:
        line: The command line (`command`).
        facts: What the frameworks say of themselves, such as `tensorflow_facts()`.
    """
    entries = {"machine": _processor(), "load": _load(), **facts, "command": f"`{line}`"}
    return "\n".join(f"- {name}: {value}" for name, value in entries.items()) + "\n"


def tensorflow_facts() -> dict[str, str]:
    """GPUs, versions and oneDNN as the TensorFlow of this process has them."""
    import vfd_tf

    # isort: split
    import keras
    import tensorflow as tf
    from tensorflow.python.util import _pywrap_util_port as port

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    versions = (
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"vfd_tf {vfd_tf.__version__}, NumPy {metadata.version('numpy')}, "
        f"Python {platform.python_version()}"
    )
    return {
        "GPU": ", ".join(d.get("device_name", "unnamed") for d in details) or "none",
        "versions": versions,
        "oneDNN": "on" if port.IsMklEnabled() else "off",
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo").read_text()
    entries = dict(
        (part.strip() for part in line.split(":", 1))
        for line in reversed(info.splitlines())
        if ":" in line
    )
    flags = entries.get("flags", "").split()
    vector = sorted(flag for flag in flags if flag.startswith(("avx", "amx")))
    name = entries.get("model name", platform.machine())
    return f"{name}, {cores()} cores, {' '.join(vector) or 'no AVX'}"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} in the minute before"
