"""What suite.json says of a suite: rows, curves, commands, where each has its run."""

import os

from vfd_tf import evaluation
from vfd_tf.cli import flags
from vfd_tf.cli.commands import log_of, shell
from vfd_tf.cli.suite_plan import PlannedSuite
from vfd_tf.suites.costs import data_of


def describe(planned: PlannedSuite, data_dir: str | None = None) -> dict:
    """What suite.json holds; paths are relative to the folder it is in.

    Args:
        data_dir: Where tensorflow-datasets finds or prepares the data set.
    """
    suite = planned.suite
    first = planned.graph.nodes[planned.points[0][2]]
    test = data_of(first.experiment, data_dir).test
    images = {
        name: len(test[:count])
        for count, attacks in first.plan.rounds().items()
        for name in attacks
    } or {"clean": len(test[: first.plan.max_images])}
    recipe = first.experiment.recipe
    precision = recipe.precision.removeprefix("mixed_")
    notes = [f"{recipe.epochs} epochs, trained in {precision}, evaluated in float32"]
    return {
        "version": 1,
        "name": suite.name,
        "title": suite.title,
        "scale": suite.scale,
        "kind": suite.kind,
        "against": suite.against,
        "published": suite.published,
        "dataset": first.experiment.dataset,
        "arch": first.experiment.arch,
        "threat": first.plan.threat,
        "notes": notes,
        "flags": [*suite.flags, *planned.more],
        "images": images,
        "columns": _columns(planned),
        "sweep": suite.sweep[0] if suite.sweep else None,
        "entries": list(_entries(planned)),
        "curves": list(_curves(planned)),
        "nodes": _nodes(planned),
    }


def _columns(planned):
    """Those of the suite that are evaluated, then what was asked for beside them."""
    wanted = ("clean", *planned.attacks)
    kept = [name for name in planned.suite.columns if name in wanted]
    return [*kept, *(name for name in wanted if name not in kept)]


def _entries(planned):
    for point, seed, path in planned.points:
        if point.curve:
            continue
        node = planned.graph.nodes[path]
        base = planned.suite.base(point.row)
        for student in planned.plans[point, seed].students:
            yield {
                "row": point.row,
                "group": planned.suite.group(point.row),
                "base": base,
                "seed": seed,
                "value": point.value,
                "student": student,
                "distillation": flags.names(node.experiment)["distill"],
                "directory": _seen(planned, path),
                "node": node.name,
                **_surrogate(planned, point, seed, node),
            }


def _curves(planned):
    """The points of the trade-off curves of all rows that have one."""
    suite = planned.suite
    swept = suite.sweep is not None
    for point, seed, path in planned.points:
        node = planned.graph.nodes[path]
        own = {"group": suite.group(point.row), "row": point.row, "seed": seed}
        own |= {"node": node.name, "directory": _seen(planned, path)}
        plan = planned.plans[point, seed]
        for student in plan.students:
            if point.curve or swept and point.row in suite.bases:
                label = {"kind": "sweep", "label": str(point.value), "which": student}
                yield {**own, "student": student, **label}
            for mix in plan.mixtures:
                at = f" at {point.value}" if swept else ""
                label = {"kind": mix.kind, "label": f"{mix.share:g}{at}"}
                label |= {"value": point.value, "which": mix.name(student)}
                label["vanilla"] = node.vanilla and _seen(planned, node.vanilla)
                yield {**own, "student": student, **label}


def _surrogate(planned, point, seed, node):
    """What a run's black-box columns are made on, where it has some."""
    path = node.plan.surrogate
    black_box = any(map(evaluation.is_transfer, planned.plans[point, seed].attacks))
    return {"surrogate": _seen(planned, path)} if black_box else {}


def _seen(planned, path):
    """A path as the folder sees it: both may be moved together."""
    return os.path.relpath(path, planned.folder)


def _nodes(planned):
    """Name -> command, log, level and what it needs, of the nodes of this suite."""
    graph = planned.graph.only(planned.paths())
    return {
        node.name: {
            "command": shell(node, graph),
            "log": _seen(planned, log_of(node, planned.graph.root)),
            "level": graph.level(node.path),
            "after": [graph.nodes[path].name for path in node.after],
        }
        for node in graph.ordered()
    }
