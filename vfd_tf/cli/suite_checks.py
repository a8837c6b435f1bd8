"""What a suite is refused for before anything of it is trained."""

import os

from vfd_tf import files
from vfd_tf.data import datasets
from vfd_tf.experiments import checks
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers, network
from vfd_tf.suites.graph import Graph
from vfd_tf.suites.suite import Suite

FILE = "suite.json"
_REMEDY = "remove it, or choose another --workdir"


def check_names(suites: list[Suite]) -> list[Suite]:
    """The suites, each once.

    Raises:
        InputError: Two of one name, which would have one folder.
    """
    found = {}
    for suite in suites:
        if found.setdefault(suite.name, suite) != suite:
            raise InputError(
                f"Two suites are called {suite.name}: rename one of their files."
            )
    return [*found.values()]


def check_folder(folder: str, whole: dict) -> None:
    """Raises `InputError` if a folder is another suite's, or a run's."""
    if os.path.exists(os.path.join(folder, "run.json")):
        raise InputError(f"{folder} is a run directory: choose another --workdir.")
    path = os.path.join(folder, FILE)
    known = files.read_json(path, _REMEDY)
    for key in ("name", "scale", "flags"):
        if known and known.get(key) != whole[key]:
            old, new = (_text(each.get(key)) for each in (known, whole))
            raise InputError(
                f"{folder} holds the suite {known.get('name')} with {key} {old} (now "
                f"{new}): choose another --workdir, or remove {path}; the runs stay."
            )


def say_seeds_that_leave(folder: str, whole: dict) -> None:
    """Notes the seeds that a suite's folder had and its report will not have any more."""
    known = files.read_json(os.path.join(folder, FILE), _REMEDY).get("entries") or []
    seeds = {entry.get("seed") for entry in known if isinstance(entry, dict)}
    now = {entry["seed"] for entry in whole["entries"]}
    gone = sorted(seed for seed in seeds - now if type(seed) is int)
    if gone:
        named = f"seed{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}"
        first, count = min(*gone, *now), len({*gone, *now})
        back = f"--seed={first} --seeds={count} has all"
        if max(*gone, *now) - first + 1 != count:
            back = "the command of before has them back"
        print(
            f"Note: {folder} had {named} in its report, which now leaves them out: {back}, "
            "as the runs are kept."
        )


def _text(value):
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_networks(graph: Graph, data_dir: str | None) -> None:
    """Raises `InputError` for files of teachers and surrogates that don't fit the data.

    Every command checks its own, but those that need none would be trained before.
    """
    wanted = {}
    for node in graph.ordered():
        for role, path in _given(node, graph):
            own = node.experiment
            key = role, path, own.dataset, own.validation, own.image_size
            wanted.setdefault(key, own)
    for (role, path, name, validation, size), own in wanted.items():
        data = datasets.load(name, data_dir, validation, image_size=size, hold=own.hold)
        file = classifiers.student_of_run(path) or path
        checks.check_prerequisite(network.load(file), role, file, data)


def _given(node, graph):
    """(role, file) of the networks that a run is given; those that are trained are none."""
    if node.experiment is None:
        return
    for role in node.experiment.prerequisites:
        if node.experiment[role] != "auto":
            yield role, node.experiment[role]
    surrogate = node.plan.surrogate
    if surrogate and surrogate not in graph.nodes:
        yield "surrogate", surrogate
