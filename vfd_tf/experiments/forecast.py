"""How long a run will take: from the steps it has made and the work that is left.

Work is counted in multiply-adds. The gradient of an image costs two forwards, that of the
weights three. Validation and evaluation are counted as if no image were misclassified, so
that they are at most this long. All of it is a rough estimate.
"""

import collections
import math
import time

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import evaluation
from vfd_tf.evaluation import is_transfer
from vfd_tf.models.keras_graph import layers_of
from vfd_tf.progress import duration, wrapped
from vfd_tf.training import roles, view_norms
from vfd_tf.training.distillation import Distillation

IMAGE_GRADIENT, WEIGHT_GRADIENT = 2, 3  # in forwards
TOO_LONG = 24 * 3600  # seconds from which a run without a GPU is worth a word
_SKIPPED, _STEPS, _SECONDS = 2, 10, 3.0  # compiled in the first; then as many, as long


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of a forward of one image: kernel weights times output positions."""
    total = 0
    for layer in layers_of(model):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = tuple(layer.output.shape[1:-1])
            total += math.prod(kernel.shape) * math.prod(positions)
    return total


def step_forwards(experiment) -> tuple[int, dict[str, int]]:
    """Forwards of the student that an image costs in a step; role -> those of others."""
    method, distillation = experiment.method, experiment.distillation
    recipe = experiment.recipe
    terms = ("clean",) if recipe.add_clean_ce else ()
    gradient = WEIGHT_GRADIENT * len(view_norms.reads(method, distillation, terms))
    attack, in_attack = 0, {}
    if method.adversarial:
        attack = _attack_forwards(experiment.attack)
        if recipe.attack_objective == "method":
            in_attack = _reads_of_objective(distillation)
            if type(distillation).objective is Distillation.objective:
                attack += method.objective_forwards
    passes = 2 if recipe.awp_gamma else 1
    beside = collections.Counter(in_attack)
    for role, count in _reads_of_terms(method, distillation).items():
        beside[role] += passes * count
    return attack + passes * gradient, dict(+beside)


class _Reads(dict):
    """View -> outputs of a network; its keys are the views that were asked for."""

    def __missing__(self, view):
        self[view] = collections.defaultdict(lambda: tf.eye(3), last=tf.eye(3))
        return self[view]


def _reads_of_objective(distillation) -> dict[str, int]:
    """Role -> forwards of the network that the score of the attack asks for."""
    frozen = {role: _Reads() for role in roles.WANTED if role not in roles.TRAINED}
    distillation.objective(tf.range(3), **frozen)
    return {role: len(reads) for role, reads in frozen.items()}


def _reads_of_terms(method, distillation) -> dict[str, int]:
    """Role -> forwards of the network that the terms ask for, its gradient included."""
    networks, y = {role: _Reads() for role in roles.WANTED}, tf.range(3)
    if method.needs:
        method.terms(y, _Reads(), networks["teacher"])
    distillation.terms(y, _Reads(), **networks)
    each = dict.fromkeys(networks, 1) | {"partner": WEIGHT_GRADIENT}
    return {role: each[role] * len(reads) for role, reads in networks.items()}


def _attack_forwards(attack):
    runs = getattr(attack, "restarts", 1) * getattr(attack, "eot", 1)
    return IMAGE_GRADIENT * getattr(attack, "steps", 1) * runs


def evaluation_forwards(attacks, plan, classes: int) -> int:
    """Forwards an image of an evaluation, where no attack succeeds."""
    protocols = [evaluation.protocol(a, plan.epsilon, plan.norm) for a in attacks]
    runs = [run for p in protocols for stage in p.stages(classes).values() for run in stage]
    return 1 + sum(_attack_forwards(run.attack) for run in runs)


class Work:
    """The multiply-adds of one run.

    Args:
        data: The data set, or what has as many images and classes.
        student: Multiply-adds of a forward of the student.
        teachers: Role -> those of another network that a step reads.
        surrogate: Those of the network that black-box attacks are made on.
    """

    def __init__(self, experiment, data, plan, student, teachers=None, surrogate=0):
        own, others = step_forwards(experiment)
        recipe = experiment.recipe
        self.steps = len(data.train) // recipe.batch_size
        each = teachers or {}
        read = sum(count * each.get(role, 0) for role, count in others.items())
        self.step = recipe.batch_size * (own * student + read)
        validation = len(data.validation)
        if experiment.method.adversarial:
            own, count = (recipe.val_attack,), recipe.val_attack_images or validation
            forwards = evaluation_forwards(own, plan, data.num_classes) - 1
            validation += min(count, validation) * forwards
        self.epoch = self.steps * self.step + validation * student
        self.training = recipe.epochs * self.epoch
        self.attacks = _evaluation(experiment, plan, data, student, surrogate)
        self.evaluation = sum(self.attacks.values())

    @property
    def total(self) -> float:
        return self.training + self.evaluation


def _evaluation(experiment, plan, data, student, surrogate):
    """Attack -> multiply-adds, if none succeeds; "clean" among them."""
    found = dict.fromkeys(("clean", *plan.attacks), 0)
    forwards = {
        name: evaluation_forwards((name,), plan, data.num_classes) - 1
        for name in plan.attacks
    }
    wanted = plan.wanted(experiment.students, mixed=experiment.method.adversarial)
    for _, _, mix, images, attacks in wanted:
        count = len(data.test[:images]) * (mix.networks if mix else 1)
        found["clean"] += count * student
        for name in attacks:
            network = surrogate if is_transfer(name) else student
            found[name] += count * forwards[name] * network
    return found


class Forecast(keras.callbacks.Callback):
    """Prints, once, how long the run and what comes after it will take.

    Args:
        work: The work of this run.
        epochs: Its epochs that are left.
        later: The work of other runs that this command will train after it.
    """

    def __init__(self, work, epochs, later=()):
        super().__init__()
        self.work, self.epochs, self.later = work, epochs, list(later)
        self.steps, self.since, self.told = 0, None, False

    def on_train_batch_end(self, batch, logs=None):
        if self.told or self.model.train_function.passing:
            return
        self.steps += 1
        now = time.perf_counter()
        if self.steps == _SKIPPED:
            self.since = now
        elif self.since is not None:
            count, seconds = self.steps - _SKIPPED, now - self.since
            if count >= _STEPS or seconds >= _SECONDS or self.steps == self.work.steps:
                self._tell(seconds / count, count)

    def _tell(self, seconds, count):
        self.told = True
        rate = seconds / self.work.step
        training = rate * (self.epochs * self.work.epoch - self.steps * self.work.step)
        judging = rate * self.work.evaluation
        text = (
            f"Expected: about {duration(training + judging)} for this run (training "
            f"{duration(training)}, evaluation at most {duration(judging)})"
        )
        if self.later:
            runs = "run" if len(self.later) == 1 else f"{len(self.later)} runs"
            rest = rate * sum(work.total for work in self.later)
            text += (
                f", about {duration(rest)} for the {runs} after it, about "
                f"{duration(training + judging + rest)} in all"
            )
        text += f"; roughly, from {count} steps of {seconds:.3g} s, without compiling."
        print(f"\n{wrapped(text)}", flush=True)


def without_gpu(student, works, images) -> str | None:
    """A sentence for runs that a CPU takes days for, or None; times one forward.

    Args:
        student: A network that takes the images.
        works: What the command is going to train.
        images: Images of one batch, in [0, 1].
    """
    if tf.config.list_physical_devices("GPU") or not works:
        return None
    images, seconds = tf.convert_to_tensor(images, "float32"), []
    for _ in range(2):  # the first one also sets up
        since = time.perf_counter()
        np.asarray(student(images, training=False))
        seconds.append(time.perf_counter() - since)
    rate = seconds[-1] / (len(images) * multiply_adds(student))
    total = rate * sum(work.total for work in works)
    if total < TOO_LONG:
        return None
    return (
        f"there is no GPU, and this will take about {duration(total)} (roughly, from a "
        f"forward of {len(images)} images in {seconds[-1]:.2g} s): a recipe for a CPU is "
        "--recipe=cpu, and `make demo` takes minutes."
    )
