"""What stands on an axis: a component, or what a class or a name of its table makes."""

import inspect

from vfd_tf.attacks import ATTACKS, Attack
from vfd_tf.evaluation.protocols import protocol
from vfd_tf.hyperparameters import InputError, choose


def chosen(table, value, kind, axis):
    """A part of an axis: itself, or what a class or a name of its table stands for."""
    if isinstance(value, str):
        value = choose(table, value, axis)
    if inspect.isclass(value) and issubclass(value, kind):
        value = value()
    if not isinstance(value, kind):
        raise InputError(
            f"The {axis} is a {type(value).__name__}: pass one of {', '.join(table)}."
        )
    return value


def training_attack(value):
    """The attack that a name ("pgd7", "n-fgsm"), a class or an object stands for."""
    trains = {name: cls for name, cls in ATTACKS.items() if cls.trains}
    if isinstance(value, str) and value not in trains:
        value = protocol(value).attack
        if not value.trains:
            raise InputError(
                f"The attack {type(value).__name__} is not made for training: choose "
                f"{', '.join(trains)}, or PGD with its steps, such as pgd10."
            )
    if isinstance(value, str) or inspect.isclass(value):
        value = chosen(trains, value, Attack, "attack")
    if not callable(value):
        raise InputError(
            f"The attack is a {type(value).__name__}: pass an attack, or a name such as "
            "'pgd10'."
        )
    return value


def refuse_no_attack(attack) -> None:
    """Raises `InputError` for an attack of radius 0, clean images, or of step size 0."""
    if getattr(attack, "epsilon", None) == 0:
        raise InputError(
            "An attack with epsilon=0 trains on clean images: use method='natural', or a "
            "radius such as 8 / 255."
        )
    if getattr(attack, "step_size", None) == 0:
        raise InputError(
            "An attack with step_size=0 takes no step: leave it out for the attack's own, "
            "or name one such as 2 / 255."
        )
