"""What stands on an axis: a component, or what a class or a name of its table makes."""

import inspect

from vfd_tf.attacks import ATTACKS, Attack
from vfd_tf.evaluation.protocols import protocol
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.models import precision
from vfd_tf.training import checks


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


def weights(method, distillation, options) -> dict[str, float]:
    """Term -> its weight in eq. 6 of a pair.

    Raises:
        InputError: Terms of one name, or none of a weight above 0.
    """
    checks.check_terms(method, distillation)
    found = distillation.reweigh(method.weights, method.hard_label)
    if options.add_clean_ce:
        found = {"clean": 1.0, **found}
    checks.check_weights(found, method, distillation)
    return found


def schedules(method, distillation, epochs: int, known) -> dict:
    """Running value -> schedule that method or distillation have for it.

    Those of terms that the other one has replaced are left out.

    Args:
        epochs: Of the whole training.
        known: The names of running values.

    Raises:
        InputError: A schedule of something else than a term or a running value.
    """
    found = {}
    for part in (method, distillation):
        for name, schedule in part.schedules(epochs).items():
            running = name if name in known else f"{name}_weight"
            if running in known:
                found[running] = schedule
            elif name not in part.weights:
                kind = type(part).__name__
                raise InputError(
                    f"{kind}.schedules names {name!r}: name one of its terms, "
                    f"{', '.join(part.weights)}, or a running value, {', '.join(known)}."
                )
    return found


def trains_in_float16(trained, options) -> bool:
    """Whether student or partner compute in float16, by the option or by their policies.

    Raises:
        InputError: They do, and nothing of float16 can be rolled back.
    """
    float16 = options.precision == "mixed_float16"
    for model in trained:
        float16 = float16 or precision.computes_in(model, "float16", models=False)
    if float16 and options.on_nan == "rollback":
        raise InputError(
            "The student, or its partner, computes in float16, where steps that are not "
            "finite are skipped: leave out on_nan='rollback', or build it in float32 or "
            "mixed_bfloat16."
        )
    return float16
