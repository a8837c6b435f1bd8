"""What all attacks share: the threat model, the input gradient, the compiled generator."""

import copy
import dataclasses

import tensorflow as tf

from vfd_tf.attacks.norms import BALLS
from vfd_tf.part import InputError, Part, choose


class Attack(Part):
    """`attack(logits_fn, x, objective, start=None, seeds=None) -> x_adv`.

    Args:
        logits_fn: Callable, images [n, h, w, c] -> logits [n, classes].
        x: Images in [0, 1], float32 or float64; the attack computes in this dtype.
        objective: Callable, logits -> [n], the score to ascend (`vfd_tf.attacks.kl`, ...).
        start: Images to start from instead of the attack's own start.
        seeds: [n, 2] seeds of the examples (`vfd_tf.noise`); default: their positions.

    Class facts:
        own_start: its start is part of what it is, and replaces a method's own.
        in_ball: whether x_adv stays in the epsilon ball; if not, for training alone.
    """

    own_start = False
    in_ball = True

    def __post_init__(self):
        super().__post_init__()
        choose(BALLS, self.norm, "norm")
        for name in ("epsilon", "step_size"):
            value = getattr(self, name, None) or 0.0
            if self.norm == "linf" and value > 1:
                raise InputError(
                    f"An L-inf {name} of {value:g} exceeds the range of images in [0, 1]; "
                    f"write {value:g}/255 if you mean grey levels."
                )

    def within(self, norm: str, epsilon: float) -> "Attack":
        """This attack under another threat model; relative step sizes follow epsilon."""
        return self.replace(norm=norm, epsilon=epsilon)

    def scaled(self, factor) -> "Attack":
        """This attack with epsilon and step size times a number, or a scalar tensor."""
        attack = copy.copy(self)
        for name in ("epsilon", "step_size"):
            value = getattr(self, name, None)
            if value is not None:  # past the range check: a tensor has no value yet
                object.__setattr__(attack, name, value * factor)
        return attack

    def describe(self) -> str:
        """One line for tables: name and every hyper-parameter."""
        fields = (f"{f.name}={self[f.name]!r}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(fields)})"


def radius(epsilon: float) -> str:
    """A radius as users write it: 0.2, or 8/255 rather than 0.03137."""
    text = f"{epsilon:.3g}"
    levels = epsilon * 255
    if float(text) == epsilon or abs(levels - round(levels)) > 1e-6:
        return text
    return f"{round(levels)}/255"


def box(x):
    """Nearest image in [0, 1]."""
    return tf.clip_by_value(x, 0.0, 1.0)


def input_gradient(logits_fn, x, objective):
    """d objective_i / d x_i of every example: [n, ...] -> [n, ...]; weights untouched."""
    # Watching the images alone leaves out the weights' gradients: a third of the cost.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        score = objective(logits_fn(x))
    return tape.gradient(score, x)


def generator(attack: Attack, logits_fn, objective):
    """The attack as one compiled function (x, y, seeds) -> x_adv, traced once a shape.

    `objective` is a function of labels, such as `vfd_tf.attacks.cross_entropy`.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def generate(x, y, seeds):
        return attack(logits_fn, x, objective(y), seeds=seeds)

    return generate
