"""A suite as a graph of commands: runs, and what is trained before them."""

import dataclasses
from collections.abc import Callable, Iterable

from vfd_tf.evaluation import is_transfer
from vfd_tf.experiments import places
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.mixtures import are_of_another
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError


@dataclasses.dataclass(frozen=True)
class Node:
    """One command.

    Attributes:
        name: What people call it; unique in a graph.
        path: The run directory, or the file, that it makes.
        words: What follows `python run.py`.
        after: Paths of the nodes that must have succeeded.
        experiment, plan: Of a run; None of another command.
        tolerant: Whether it begins as soon as those before it have ended, however.
        vanilla: The run directory of the network that its students are mixed with.
    """

    name: str
    path: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    experiment: Experiment | None = None
    plan: EvaluationPlan | None = None
    tolerant: bool = False
    vanilla: str | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is wanted.

    Attributes:
        name: What people call it.
        words: Flags that decide its result.
        experiment: What they amount to.
        plan: Its evaluation; `surrogate` is filled in by the graph.
        surrogate: The network that black-box attacks are made on, or None.
        how: Those of the words that what it needs is trained with as well, as they decide
            no result.
    """

    name: str
    words: tuple[str, ...]
    experiment: Experiment
    plan: EvaluationPlan
    surrogate: Experiment | None = None
    how: tuple[str, ...] = ()


class Graph:
    """Nodes by path, each after those that it needs.

    What several runs need, and runs that several suites ask for, are there once.

    Args:
        root: Folder of the run directories.
        digest: Data set of an experiment -> hash of its training images.
        describe: Experiment -> the flags that give it.
    """

    def __init__(self, root: str, digest: Callable, describe: Callable):
        self.root, self.nodes = root, {}
        self._digest, self._describe = digest, describe

    def add(self, run: Run) -> str:
        """Adds a run after what it needs; the path of its directory."""
        experiment, after, vanilla = run.experiment, [], None
        needed = list(experiment.prerequisites)
        if run.plan.mixtures and "teacher" not in needed:
            needed.append("teacher")
        for role in needed:
            if experiment[role] == "auto":
                after.append(self._add_before(experiment.prerequisite(role), role, run.how))
                if role == "teacher" and run.plan.mixtures:
                    vanilla = after[-1]
        plan = run.plan
        if run.surrogate is not None:
            path = self._add_before(run.surrogate, "surrogate", run.how)
            if path == self.path(experiment):
                raise InputError(
                    f"{run.name} would be its own surrogate: choose another --seed."
                )
            after.append(path)
            plan = dataclasses.replace(plan, surrogate=path)
        path = self.path(experiment)
        node = Node(
            run.name, path, run.words, tuple(after), experiment, plan, vanilla=vanilla
        )
        self._put(node)
        return path

    def add_other(self, node: Node) -> None:
        """Adds a command that is no run."""
        self.nodes[node.path] = node

    def path(self, experiment: Experiment) -> str:
        """The directory of a run."""
        identity = places.identity(experiment, self._digest(experiment))
        return places.path(experiment, identity, self.root)

    def _add_before(self, experiment, role, how):
        """Adds a network that a run needs, which is trained and not evaluated."""
        name = f"{_ROLES[role]} {experiment.arch} on {experiment.dataset}"
        name += f", {experiment.recipe.epochs} epochs, seed {experiment.seed}"
        plan = EvaluationPlan(attacks=(), students=())
        words = (*self._describe(experiment), *how)
        return self.add(Run(name, words, experiment, plan, how=how))

    def _put(self, node):
        known = self.nodes.pop(node.path, None)
        if known is not None:
            after = tuple(dict.fromkeys((*known.after, *node.after)))
            plan = known.plan.joined(node.plan)
            # The words of the one that is evaluated have the threat model.
            first = known if known.plan.students else node
            vanilla = known.vanilla or node.vanilla
            node = dataclasses.replace(first, after=after, plan=plan, vanilla=vanilla)
        names, name, number = {each.name for each in self.nodes.values()}, node.name, 2
        while node.name in names:
            node = dataclasses.replace(node, name=f"{name} ({number})")
            number += 1
        self.nodes[node.path] = node

    def ordered(self) -> list[Node]:
        """The nodes, each after all that it needs; of one level as they were added."""
        return sorted(self.nodes.values(), key=lambda node: self.level(node.path))

    def level(self, path: str) -> int:
        """0 for what needs nothing, else one more than the highest that it needs."""
        after = self.nodes[path].after
        return 1 + max(map(self.level, after)) if after else 0

    def only(self, paths: Iterable[str]) -> "Graph":
        """The graph of some nodes and all that they need."""
        part = Graph(self.root, self._digest, self._describe)
        waiting = list(paths)
        wanted = set()
        while waiting:
            path = waiting.pop()
            if path not in wanted:
                wanted.add(path)
                waiting += self.nodes[path].after
        part.nodes = {path: node for path, node in self.nodes.items() if path in wanted}
        return part


_ROLES = {
    "teacher": "vanilla teacher",
    "robust_teacher": "robust teacher",
    "surrogate": "surrogate",
}


def is_done(node: Node, data) -> bool:
    """Whether a run is complete and has all verdicts of its plan.

    Args:
        data: The data set, or what has as many test images.
    """
    directory = RunDirectory(node.path)
    if not directory.complete:
        return False
    threat, mixed, black_box = node.plan.threat, False, False
    for name, _, mix, images, attacks in node.plan.wanted(node.experiment.students):
        if mix and "reason" in directory.fit(name, threat):
            continue  # nothing could be fitted, and it is left out
        mixed = mixed or mix is not None
        black_box = black_box or any(map(is_transfer, attacks))
        count = f"n={len(data.test[:images])}"
        if not {*attacks, "clean"} <= set(directory.accuracies(name, threat, count)):
            return False
    networks = [("vanilla", node.vanilla)] if mixed else []
    networks += [("surrogate", node.plan.surrogate)] if black_box else []
    return not any(are_of_another(directory, path, role) for role, path in networks)
