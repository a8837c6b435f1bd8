"""A local engine in a folder, a suite in a process of its own, and what to wait for."""

import contextlib
import json
import os
import subprocess
import sys
import time

import processes
import pytest

from vfd_tf.suites.engines import Command, LocalEngine

RUN = "commands:main"  # of tests/commands.py


class Suite:
    """An engine, and what to tell it in a folder."""

    def __init__(self, engine, folder, started):
        self.engine, self.folder, self.started = engine, folder, started

    def path(self, name):
        return str(self.folder / name)

    def log(self, name):
        return (self.folder / "logs" / f"{name}.txt").read_text()

    def submit(self, name, *argv, after=()):
        command = Command(name, argv, str(self.folder / "logs" / f"{name}.txt"))
        return self.engine.submit(command, after)

    def notes(self, name="notes"):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def start(tmp_path):
    """A function that starts a local engine; all of them end with the test."""
    with contextlib.ExitStack() as ends:

        def started(devices=(), **options):
            names = []
            engine = LocalEngine(list(devices), run=RUN, started=names.append, **options)
            ends.callback(engine.close)
            return Suite(engine, tmp_path, names)

        yield started


def appears(path, timeout=30):
    """Waits for a file."""
    ends = time.monotonic() + timeout
    while not os.path.exists(path):
        assert time.monotonic() < ends, f"{path} does not appear"
        time.sleep(0.01)


def says(path, word, timeout=30):
    """Waits for a word in a file."""
    appears(path, timeout)
    ends = time.monotonic() + timeout
    while word not in path.read_text():
        assert time.monotonic() < ends, f"{path} does not say {word}"
        time.sleep(0.01)


def start_suite(kind, folder):
    """A suite of tests/commands.py in a process of its own.

    There the package is without its front, which would import TensorFlow.
    """
    front = folder / "light" / "vfd_tf" / "__init__.py"
    front.parent.mkdir(parents=True)
    front.write_text(f"__path__ = [{str(processes.ROOT / 'vfd_tf')!r}]")
    paths = map(str, (folder / "light", processes.ROOT / "tests"))
    return subprocess.Popen(
        [sys.executable, processes.ROOT / "tests" / "commands.py", kind, folder],
        env=processes.ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
