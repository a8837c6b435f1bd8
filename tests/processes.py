"""Processes of a test: workers on this machine, free ports, what they said."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
OWN = ("TF_CONFIG", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in OWN}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT)}


def free_ports(count):
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(*command, **environment):
    """A process whose output is kept."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def ended(processes, timeout=600):
    """(exit code, output) of each, all of them ended in the end."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, text) for p, text in zip(processes, said, strict=True)]
