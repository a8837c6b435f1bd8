"""What a suite costs beside its runs: forecast, commands, report, t-SNE.

    python -m benchmarks.suite --runs=100 --commands=200 --points=5000

A forecast of all suites, and the report of a suite of so many runs with verdicts on 10,000
images, are commands of their own, imports included. A command of an engine does nothing
here: what is left is what the runner adds to every run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import vfd_tf  # noqa: F401  before TensorFlow

# isort: split
import numpy as np

from benchmarks import machine
from vfd_tf import text
from vfd_tf.cli import flags, suite_file, suite_plan
from vfd_tf.experiments import embedding, places
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.suites.engines import Command, LocalEngine
from vfd_tf.suites.graph import Graph
from vfd_tf.suites.overview import Overview
from vfd_tf.suites.suite import read

ROWS, NOTHING = 36, "benchmarks.suite:nothing"


def nothing(argv) -> int:
    """A command that does nothing."""
    return 0


def seconds(*words) -> float:
    """Seconds of `python run.py` with these words."""
    begun = time.perf_counter()
    command = [sys.executable, "run.py", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def made_up(folder: str, runs: int) -> str:
    """The folder of a suite of at least so many runs, whose verdicts are made up."""
    seeds = tuple(range(-(-runs // ROWS)))
    graph = Graph(f"{folder}/runs", lambda experiment: "0" * 16, flags.words)
    (found,) = read("table1", "paper")
    planned = suite_plan.PlannedSuite(found, f"{folder}/suite", graph, (), seeds)
    random = np.random.default_rng(0)
    for node in graph.nodes.values():
        directory = RunDirectory(node.path)
        identity = places.identity(node.experiment, "0" * 16)
        directory.claim(identity, node.experiment.fields(), "")
        directory.write_history([{"epoch": e, "val_accuracy": 0.5} for e in range(1, 111)])
        names = ("clean", *node.plan.attacks)
        verdicts = {name: random.random(10_000) < 0.6 for name in names}
        for which in ("last", *(mix.name("last") for mix in node.plan.mixtures)):
            directory.add_verdicts(which, node.plan.threat, "n=10000", verdicts)
        directory._merge(wall_time_s=1.0, seed=0)
    os.makedirs(planned.folder)
    with open(f"{planned.folder}/suite.json", "w") as file:
        json.dump(suite_file.describe(planned), file)
    return planned.folder


def of_a_command(count: int, folder: str) -> float:
    """Seconds that an engine with an overview adds to a command."""
    first, *commands = [
        Command(f"command {i}", (), f"{folder}/{i}.log") for i in range(count + 1)
    ]
    with open(os.devnull, "w") as stream:
        overview = Overview([first, *commands], {}, folder, stream=stream)
        with LocalEngine(started=overview.started, run=NOTHING, devices=[]) as engine:
            engine.submit(first).result()  # its process begins
            begun = time.perf_counter()
            futures = [engine.submit(command) for command in commands]
            for command, future in zip(commands, futures, strict=True):
                overview.follow(command.name, future)
            for future in futures:
                future.result()
            return (time.perf_counter() - begun) / count


def plane(points: int) -> float:
    """Seconds of the t-SNE of so many points of five classes."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(5, 50))
    x = centres[np.arange(points) % 5] + random.normal(size=(points, 50))
    begun = time.perf_counter()
    embedding.plane(x.astype("float32"), seed=0, perplexity=30.0)
    return time.perf_counter() - begun


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="runs of the report")
    parser.add_argument("--commands", type=int, default=200, help="of the engine")
    parser.add_argument("--points", type=int, default=5000, help="of t-SNE")
    return parser.parse_args(arguments)


def main(arguments=None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options, line = parse(arguments), machine.command("suite", arguments)
    print(machine.header(line, machine.tensorflow_facts()))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        forecast = seconds("suite", "all", "--dry_run", f"--runs={folder}/none")
        rows.append(("forecast of all suites", f"{forecast:.1f} s"))
        own = of_a_command(options.commands, f"{folder}/engine")
        rows.append((f"a command of {options.commands}", f"{1000 * own:.0f} ms"))
        suite = made_up(folder, options.runs)
        count = len(os.listdir(f"{folder}/runs"))
        rows.append((f"report of {count} runs", f"{seconds('report', suite):.1f} s"))
    rows.append((f"t-SNE of {options.points:,} points", f"{plane(options.points):.1f} s"))
    print(text.markdown(("what", "time"), rows))


if __name__ == "__main__":
    main()
