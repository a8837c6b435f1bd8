"""What the runs of a suite will cost: their work, and how fast this machine does it."""

import dataclasses
import functools
import statistics
import time

import numpy as np
import tensorflow as tf

from vfd_tf.data.facts import Facts, facts
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.forecast import WEIGHT_GRADIENT, Work, multiply_adds
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import architectures
from vfd_tf.suites.graph import Graph, Node, is_done

_SECONDS, _IMAGES = 1.0, 32  # of the measurement of a machine without runs


@dataclasses.dataclass
class Cost:
    """What is left of one run.

    Attributes:
        training, evaluation: Seconds; 0 for what is done. An evaluation is counted as if
            no attack succeeded.
        attacks: Attack -> seconds of the evaluation.
    """

    node: Node
    training: float
    evaluation: float
    attacks: dict[str, float]

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation


@dataclasses.dataclass
class Costs:
    """The costs of all runs of a graph, on one device.

    Attributes:
        source: What the seconds were derived from, as a sentence.
    """

    runs: list[Cost]
    source: str

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    def attack(self, name: str) -> float:
        """Seconds of one attack in all evaluations."""
        return sum(run.attacks.get(name, 0) for run in self.runs)


def costs(graph: Graph, data_dir: str | None = None) -> Costs:
    """The costs of what is left of a graph's runs.

    From the runs of it that are complete, if there are any, otherwise from a measurement
    of a second on this machine.
    """
    runs = [node for node in graph.ordered() if node.experiment is not None]
    data = {node.path: data_of(node.experiment, data_dir) for node in runs}
    works = {node.path: _work(node, data[node.path], graph) for node in runs}
    if not runs:
        return Costs([], "there is nothing to run")
    rate, source = _rate(works) or _measured(runs, data)
    found = []
    for node in runs:
        work = works[node.path]
        complete, done = _state(node, data[node.path])
        attacks = {name: 0 if done else rate * w for name, w in work.attacks.items()}
        training = 0 if complete else rate * work.training
        found.append(Cost(node, training, sum(attacks.values()), attacks))
    return Costs(found, source)


def _state(node, data) -> tuple[bool, bool]:
    """Whether a run is complete, and whether it is done."""
    try:
        complete = RunDirectory(node.path).complete
        return complete, complete and is_done(node, data)
    except InputError:  # is refused when the run is reached, and the others stand
        return False, False


def data_of(experiment: Experiment, data_dir: str | None = None) -> Facts:
    """The facts of the data set of an experiment."""
    size, hold = experiment.image_size, experiment.hold
    return _facts(experiment.dataset, data_dir, experiment.validation, size, hold)


_facts = functools.cache(facts)


def _work(node, data, graph) -> Work:
    experiment = node.experiment
    student = _multiply_adds(experiment, data)
    teachers = dict.fromkeys(experiment.needs, student)  # a partner, or a file
    teachers |= {
        role: _multiply_adds(experiment.prerequisite(role), data)
        for role in experiment.prerequisites
        if experiment[role] == "auto" and role in experiment.needs
    }
    before = graph.nodes.get(node.plan.surrogate)
    surrogate = _multiply_adds(before.experiment, data) if before else student
    return Work(experiment, data, node.plan, student, teachers, surrogate)


def _multiply_adds(experiment, data) -> int:
    return multiply_adds(_network(experiment, data))


def _network(experiment, data):
    """A network as large as that of an experiment."""
    return _built(experiment.arch, experiment.width, data.input_shape, data.num_classes)


@functools.cache
def _built(arch, width, shape, classes):
    return architectures.architecture(arch)(shape, classes, width, 0.0, 1.0)


def _rate(works) -> tuple[float, str] | None:
    """Seconds a multiply-add of complete runs, and where they are from; None without."""
    rates = []
    for path, work in works.items():
        try:
            seconds = RunDirectory(path).results.get("wall_time_s")
        except InputError:
            continue  # what it says is refused when the run is reached
        if seconds:
            rates.append(seconds / work.training)
    if not rates:
        return None
    count = f"{len(rates)} complete run{'s' if len(rates) > 1 else ''}"
    return statistics.median(rates), f"from {count} of it"


def _measured(runs, data) -> tuple[float, str]:
    """Seconds a multiply-add of this machine: gradients of a small batch."""
    first = min(runs, key=lambda node: _multiply_adds(node.experiment, data[node.path]))
    experiment, known = first.experiment, data[first.path]
    network = _network(experiment, known)
    images = tf.zeros((_IMAGES, *network.input_shape[1:]))

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            outputs = network(x, training=False)
            loss = tf.reduce_sum(outputs["logits"])
        return tape.gradient(loss, network.trainable_variables)

    gradient(images)
    since, times = time.perf_counter(), []
    while not times or time.perf_counter() - since < _SECONDS:
        begun = time.perf_counter()
        np.asarray(gradient(images)[0])
        times.append(time.perf_counter() - begun)
    work = WEIGHT_GRADIENT * _IMAGES * multiply_adds(network)
    seconds = statistics.median(times)
    return seconds / work, (
        f"from a gradient of {_IMAGES} images through {experiment.arch} in {seconds:.2g} s "
        "on this machine"
    )
