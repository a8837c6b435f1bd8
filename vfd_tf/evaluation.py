"""Evaluation: accuracy on clean images and under named, frozen attack protocols.

A protocol such as `pgd20@linf:8/255` is an attack and a threat model; no flag of training
changes it. Every verdict is a float32 forward pass in inference mode.
"""

import dataclasses
import re

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import inputs, network, noise
from vfd_tf.attacks import ATTACKS, Attack, cross_entropy, dlr, margin
from vfd_tf.attacks.attack import radius
from vfd_tf.datasets import Images, as_float
from vfd_tf.part import InputError, choose

OBJECTIVES = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A frozen attack, threat model included, and the objective of labels it ascends."""

    attack: Attack
    objective: str = "ce"

    def __call__(self, logits_fn, x, y, seeds):
        """x_adv [n, h, w, c] of images and labels."""
        return self.attack(logits_fn, x, OBJECTIVES[self.objective](y), seeds=seeds)

    def describe(self) -> str:
        """One line with every hyper-parameter."""
        other = "" if self.objective == "ce" else f" on {self.objective}"
        return self.attack.describe() + other


def protocol(attack, epsilon=8 / 255, norm="linf") -> Protocol:
    """What a name stands for: "fgsm", "pgd<steps>", or "pgd<steps>-<objective>".

    PGD: uniform start, step epsilon / 4, one run, last iterate. Objectives: ce (where none
    is named), margin, dlr. An attack given as an object keeps its own threat model.
    """
    if isinstance(attack, Protocol):
        return attack
    if isinstance(attack, Attack):
        return Protocol(attack)
    kind, _, objective = attack.rpartition("-")
    if attack in ATTACKS or not kind:
        kind, objective = attack, "ce"
    choose(OBJECTIVES, objective, "objective")
    name, steps = re.fullmatch(r"(.*?)(\d*)", kind).groups()
    options = {"epsilon": epsilon, "norm": norm}
    if name == "pgd" and not steps:
        raise InputError("The protocol 'pgd' needs its number of steps, such as 'pgd20'.")
    if steps and name == "pgd":
        options["steps"] = int(steps)
    elif steps and name in ATTACKS:
        name = kind
    attack = choose(ATTACKS, name, "attack")(**options)
    if not attack.in_ball:
        raise InputError(
            f"The attack {name!r} leaves the epsilon ball: it is for training alone."
        )
    return Protocol(attack, objective)


class Target:
    """A classifier under evaluation: one compiled function an attack and batch shape."""

    def __init__(self, model: keras.Model):
        self.model, self.network = network.classifier(model), network.tap(model)
        self._compiled = {}

    def correct(self, data, attack=None, seed=0, batch_size=128, progress=None):
        """Which images are classified correctly under `attack` (None: clean): bool [n].

        `attack` is a protocol, or what `protocol` makes one of.

        The draws of an image depend on the seed and its position in the data alone.
        """
        attack = None if attack is None else protocol(attack)
        verdicts, position, size = [], 0, 0
        for x, y in batches(data, batch_size):
            count = len(x)
            if position == 0:
                inputs.check_batch(self.model, x, y)
            size = max(size, count)
            y = np.reshape(y, -1).astype("int32")
            seeds = noise.example_seeds(seed, 0, position + tf.range(size))
            fill = [[0, size - count]]
            # Zero images fill the last batch up: no shape but the first is ever traced.
            x = np.pad(x, fill + [[0, 0]] * (x.ndim - 1))
            verdict = self._function(attack)(x, np.pad(y, fill), seeds)
            verdicts.append(verdict.numpy()[:count])
            position += count
            if progress:
                progress(count, float(np.concatenate(verdicts).mean()))
        if not verdicts:
            raise InputError("The data set is empty.")
        return np.concatenate(verdicts)

    def _function(self, attack):
        if attack not in self._compiled:

            def logits_fn(x):
                return self.network(x, training=False)["logits"]

            @tf.function(reduce_retracing=True, autograph=False)
            def verdict(x, y, seeds):
                if attack is not None:
                    x = attack(logits_fn, x, y, seeds)
                return tf.argmax(logits_fn(x), -1, output_type=tf.int32) == y

            self._compiled[attack] = verdict
        return self._compiled[attack]


def batches(data, batch_size):
    """(x float in [0, 1], y) of a tf.data set, of `Images` or of arrays."""
    if isinstance(data, tf.data.Dataset):
        for batch in data.as_numpy_iterator():
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            real = slice(None) if weight is None else weight > 0
            if len(x[real]):
                yield x[real], y[real]
        return
    x, y = (data.x, data.y) if isinstance(data, Images) else data
    for i in range(0, len(x), batch_size):
        images = x[i : i + batch_size]
        # Only our own in-memory images are uint8 by design; others must be floats.
        yield (
            as_float(images).numpy() if isinstance(data, Images) else images,
            y[i : i + batch_size],
        )


@dataclasses.dataclass
class Evaluation:
    """Verdicts per image, clean and under each attack: bool [n] each."""

    clean: np.ndarray
    robust: dict[str, np.ndarray]
    attacks: dict[str, str]

    @property
    def worst(self) -> np.ndarray:
        """Correct on the clean image and under every attack: bool [n]."""
        return np.logical_and.reduce([self.clean, *self.robust.values()])

    def verdicts(self) -> dict[str, np.ndarray]:
        """Column -> bool [n]: clean, and under each attack."""
        return {"clean": self.clean, **self.robust}

    def accuracies(self) -> dict[str, float]:
        """Percent correct: clean, under each attack, and under the worst for each image."""
        return accuracies(self.verdicts())

    def table(self) -> str:
        """The accuracies as a Markdown table."""
        return table({"model": self.accuracies()})


def accuracies(verdicts: dict[str, np.ndarray]) -> dict[str, float]:
    """Percent of verdicts bool [n]; of several attacks also "worst", of each image."""
    if len(verdicts) > 2:
        verdicts = {**verdicts, "worst": np.logical_and.reduce([*verdicts.values()])}
    return {name: 100 * float(verdict.mean()) for name, verdict in verdicts.items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown table of percentages: {row: {column: value}}."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    widths = [max(7, len(column)) for column in columns]
    head = max(12, *(len(name) for name in rows))

    def line(first, cells):
        cells = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {first.ljust(head)} | {' | '.join(cells)} |"

    rule = line("-" * head, ["-" * (width - 1) + ":" for width in widths])
    body = [
        line(name, [f"{row[c]:.2f}" if c in row else "" for c in columns])
        for name, row in rows.items()
    ]
    return "\n".join([line("accuracy (%)", columns), rule, *body])


def evaluate(
    model,
    data,
    attacks=("fgsm", "pgd20"),
    epsilon=8 / 255,
    norm="linf",
    seed=0,
    batch_size=128,
    verbose=0,
) -> Evaluation:
    """Accuracy of any Keras classifier, clean and under attack.

    Args:
        model: Classifier with logits (or a dict with "logits"), images in [0, 1].
        data: (x, y) float32 images and integer labels, or a tf.data set of batches.
        attacks: Protocol names ("fgsm", "pgd20", "pgd20-margin", ...) or attacks.
        epsilon, norm: Threat model of the named attacks, images in [0, 1].
        seed: With an image's position, decides the start of every attack on it.
        batch_size: For arrays; sets the memory.
        verbose: 1 for progress bars.

    Raises:
        InputError: Probabilities instead of logits, images outside [0, 1], labels outside
            the classes, an unknown attack.
    """
    plan = {_name(a): protocol(a, epsilon, norm) for a in attacks}
    target = Target(model)
    robust = {}
    clean = target.correct(data, None, seed, batch_size, _progress("clean", verbose))
    for name, attack in plan.items():
        label = f"{name}@{attack.attack.norm}:{radius(attack.attack.epsilon)}"
        progress = _progress(label, verbose)
        robust[name] = target.correct(data, attack, seed, batch_size, progress)
    return Evaluation(clean, robust, {n: a.describe() for n, a in plan.items()})


def _name(attack) -> str:
    return attack if isinstance(attack, str) else attack.describe()


def _progress(label, verbose):
    if not verbose:
        return None
    print(label)
    bar = keras.utils.Progbar(None, stateful_metrics=["accuracy"], unit_name="image")
    return lambda count, accuracy: bar.add(count, [("accuracy", accuracy)])
