"""The mode `suite`: a table or figure of the paper, from a graph of runs to its report."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shlex

import tensorflow as tf

from vfd_tf import files, signals, text
from vfd_tf.cli import flags, report, suite_checks, suite_file, suite_plan
from vfd_tf.cli.commands import log_of, shell, words_of
from vfd_tf.cli.suite_plan import PlannedSuite
from vfd_tf.experiments import digests
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.progress import duration, wrapped
from vfd_tf.suites import costs
from vfd_tf.suites.engines import ENGINES, Command, CommandStopped
from vfd_tf.suites.graph import Graph
from vfd_tf.suites.overview import Overview
from vfd_tf.suites.suite import ALL, Suite, names, read

_DEAR = 0.1  # share of all hours from which C&W is worth a word


def run(values, words: list[str]) -> None:
    """Tables and figures of the paper, or a file of yours: suite table1 --scale=cpu."""
    if not words:
        known = ", ".join((*names(), ALL))
        raise InputError(
            f"Name a suite: python run.py suite NAME, of {known}, or a file.toml."
        )
    planned, graph = _planned(values, words)
    if values.list:
        for node in graph.ordered():
            print(f"{graph.level(node.path)}\t{shell(node, graph)}")
        return
    _leave_memory()
    expected = costs.costs(graph, values.data_dir)
    if values.dry_run:
        print(forecast(graph, expected))
        return
    suite_checks.check_networks(graph, values.data_dir)
    folders = _claim(values, planned)
    _announce(expected, values)
    failed = _run(values, graph, expected, folders)
    if values.shard:
        told = shlex.join(["python", "run.py", "report", *folders])
        print(f"The report of all shards: {told}")
    else:
        report.write(values, folders)
    if failed:
        raise InputError(
            f"{failed} of {len(graph.nodes)} commands failed: the report names each with "
            "its reason and its log; the same command runs them again."
        )


def _planned(values, words):
    """The suites of these names, with their runs; the graph of those that are asked for."""
    found = [suite for word in words for suite in read(word, values.scale)]
    suites = suite_checks.check_names(found)
    only_look = values.dry_run and not values.list
    look = digests.of_runs(values.runs) if only_look else digests.of_data(values.data_dir)
    more, places = suite_plan.passed_on(values)
    graph = Graph(values.runs, look, flags.words)
    seeds = tuple(range(values.seed, values.seed + values.seeds))
    planned = [
        PlannedSuite(suite, folder_of(suite, values, more), graph, more, seeds, places)
        for suite in suites
    ]
    if values.rows or values.shard:
        graph = graph.only(_chosen(values, planned))
    return planned, graph


def _leave_memory():
    """Keeps this process, which measures for a moment, from taking all memory of a GPU."""
    with contextlib.suppress(RuntimeError):  # of one that has begun to use it
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def _chosen(values, planned: list[PlannedSuite]) -> list[str]:
    """The paths of the runs of --rows, or of all; of these, those of --shard."""
    known = {row: row for each in planned for row in each.suite.rows}
    rows = {choose(known, row, "row of --rows") for row in values.rows}
    paths = list(dict.fromkeys(path for each in planned for path in each.paths(rows)))
    if not values.shard:
        return paths
    i, slash, n = values.shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise InputError(f"--shard={values.shard} must be i/n, from 1/4 to 4/4 for one.")
    return paths[int(i) - 1 :: int(n)]


def forecast(graph: Graph, expected: costs.Costs) -> str:
    """A line a run with its hours, and the total."""
    rows = [("level", "run", "training (h)", "evaluation (h)")]
    for cost in expected.runs:
        hours = [f"{seconds / 3600:.2f}" for seconds in (cost.training, cost.evaluation)]
        shown = hours if cost.seconds else ("done", "done")
        rows.append((str(graph.level(cost.node.path)), cost.node.name, *shown))
    count = sum(1 for cost in expected.runs if cost.seconds)
    return "\n".join([text.columns(rows, left=2), "", _total(expected, count)])


def _total(expected, count):
    """All hours in a sentence; those of C&W, which has a budget of its own."""
    training = sum(cost.training for cost in expected.runs)
    carlini = sum(expected.attack(name) for name in ("cw", "transfer-cw"))
    sentence = (
        f"{count} runs of {len(expected.runs)} are left: about "
        f"{duration(expected.seconds)} on one device, training {duration(training)}, "
        f"evaluation at most {duration(expected.seconds - training)}"
    )
    if carlini > _DEAR * expected.seconds:
        sentence += (
            f", {duration(carlini)} of it C&W of 1,000 steps, which fewer images make "
            "shorter (--attack_images=cw:1000)"
        )
    return wrapped(f"{sentence}; {expected.source}, roughly.")


def _announce(expected, values):
    count = sum(1 for cost in expected.runs if cost.seconds)
    print(f"{_total(expected, count)}\n\nLogs: {values.runs}/logs\n", flush=True)


def folder_of(suite: Suite, values, more: tuple[str, ...]) -> str:
    """The folder of a suite: named after it, its scale, and the flags of all its runs."""
    if values.workdir:
        return values.workdir
    name, mark = f"suite-{suite.name}-{suite.scale}", " ".join(more)
    if mark:
        name += f"-{hashlib.sha256(mark.encode()).hexdigest()[:6]}"
    return os.path.join(values.runs, name)


def _claim(values, planned: list[PlannedSuite]) -> list[str]:
    """Writes down what each suite is, in its folder; these folders.

    Raises:
        InputError: Another suite has a folder, or nothing can be written there.
    """
    if values.workdir and len(planned) > 1:
        raise InputError(
            f"--workdir names one folder, and there are {len(planned)} suites; use --runs "
            "for the folder of all."
        )
    folders = [each.folder for each in planned]
    for folder in (values.runs, *folders):
        files.check_writable(folder)
    described = [suite_file.describe(each, values.data_dir) for each in planned]
    for folder, whole in zip(folders, described, strict=True):
        suite_checks.check_folder(folder, whole)
    for folder, whole in zip(folders, described, strict=True):
        suite_checks.say_seeds_that_leave(folder, whole)
        places = (folder, folders[0], _status_folder(values, folders))
        status = dict.fromkeys(os.path.relpath(path, folder) for path in places)
        whole["status"] = [*status]
        os.makedirs(folder, exist_ok=True)
        with (
            files.replaced(os.path.join(folder, suite_checks.FILE)) as part,
            open(part, "w") as file,
        ):
            json.dump(whole, file, indent=1)
    return folders


def _status_folder(values, folders):
    """The folder of status.json; a shard has one of its own."""
    if values.shard:
        return os.path.join(folders[0], f"shard-{values.shard.replace('/', '-of-')}")
    return folders[0]


def _run(values, graph: Graph, expected, folders) -> int:
    """Runs all commands of a graph; how many of them failed."""
    nodes = graph.ordered()
    commands = {
        node.path: Command(node.name, words_of(node, graph), log_of(node, graph.root))
        for node in nodes
    }
    predicted = {cost.node.name: cost.seconds for cost in expected.runs}
    futures: dict[str, concurrent.futures.Future] = {}
    status = _status_folder(values, folders)
    overview = Overview(commands.values(), predicted, status)
    engine = ENGINES[values.engine].of(values, overview.started)
    overview.slots = engine.slots or 1
    with overview, engine:
        for node in nodes:
            before = [futures[path] for path in node.after]
            if node.tolerant:
                concurrent.futures.wait(before)
                before = []
            futures[node.path] = engine.submit(commands[node.path], before)
            overview.follow(node.name, futures[node.path])
        concurrent.futures.wait(futures.values())
    errors = [future.exception() for future in futures.values()]
    if any(isinstance(error, CommandStopped) for error in errors):
        raise signals.Stopped("a signal to one of its commands")
    return sum(error is not None for error in errors)
