"""A framework in a process of its own, which times one step whenever it is asked to.

The worker prints one line of JSON when it is ready, its facts; then for every line "run"
it reads it runs one step and prints the seconds. It ends with its standard input. This
module imports no framework: both ends use it.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Worker:
    """The asking end: starts the process; a call is a step, once it is ready.

    Args:
        python: Interpreter that has the framework.
        module: Name of a module in `benchmarks` whose main calls `serve`.
        arguments: Its command line.
        environment: What its environment has beside that of this process.
    """

    def __init__(self, python, module, arguments, environment=()):
        self.module = module
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **dict(environment)},
        )

    @functools.cached_property
    def facts(self) -> dict:
        """What it says once it is ready; waits for that, past what its libraries say."""
        while not (line := self._line()).startswith("{"):
            pass
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __call__(self) -> float:
        """Seconds of one step."""
        self.ask()
        return self.answer()

    def ask(self) -> None:
        """Begins one step, once it is ready."""
        self.facts  # noqa: B018
        self.process.stdin.write("run\n")
        self.process.stdin.flush()

    def answer(self) -> float:
        """Seconds of the step that was asked for."""
        return float(self._line())

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks.{self.module} ended; the reason stands above.")
        return line


def serve(facts: dict, step) -> None:
    """The answering end: warms `step` (() -> loss) up and times it on request."""
    for _ in range(2):
        step()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            raise SystemExit("The loss is no longer finite: its times mean nothing.")
        print(seconds, flush=True)


def shared_flags() -> argparse.ArgumentParser:
    """What both frameworks are told, as a parent of their parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--threads", type=int, required=True)
    return parser


def batch(size: int) -> tuple[bytearray, list[int]]:
    """The grey levels of `size` images of 32x32x3 (height, width, channel) and labels."""
    chance = random.Random(0)
    levels = bytearray(chance.randbytes(size * 32 * 32 * 3))
    return levels, [chance.randrange(10) for _ in range(size)]
