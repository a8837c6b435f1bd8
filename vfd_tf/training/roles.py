"""The networks of one training: student, teachers, partner; layer k tapped, checked."""

import itertools
import warnings

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, feature_layer, network, projection
from vfd_tf.training import checks

TRAINED = ("student", "partner")
WANTED = {
    "teacher": "a vanilla teacher (teacher=..., trained on clean images)",
    "robust_teacher": "a robust teacher (robust_teacher=..., trained with pgd-at)",
    "partner": "a partner network (partner=..., trained jointly from scratch)",
}


def assemble(student, given, method, distillation):
    """{role: network} of the student and of every helper that the pair needs.

    Args:
        student: The model to train.
        given: Role -> model or None.
        method, distillation: The pair.

    Raises:
        InputError: A network that is missing, doesn't fit, or is the student itself.
    """
    pair = f"{type(method).__name__} with {type(distillation).__name__}"
    _refuse_needs(method)
    # A trainer stands for what it trains.
    given = {role: getattr(model, "student", model) for role, model in given.items()}
    layers = distillation.layers
    network.refuse_augmentation(student)
    taps = dict.fromkeys((*layers, *method.taps(student)))
    networks = {"student": network.tap(student, taps)}
    contract.refuse_probabilities(student)
    contract.warn_of_onednn(student)
    checks.warn_of_rescaling(student)
    if not student.built:
        raise InputError(
            f"The model {student.name!r} has no weights yet: call it once on a batch."
        )
    needs = dict.fromkeys((*method.needs, *distillation.needs))
    frozen = [role for role in distillation.needs if role not in TRAINED]
    for role, model in given.items():
        if model is not None and role not in needs:
            warnings.warn(f"{role}=... is not used by {pair}.", stacklevel=3)
    for role in needs:
        if given[role] is None:
            raise InputError(f"{pair} needs {WANTED[role]}.")
        contract.refuse_probabilities(given[role])
        network.refuse_augmentation(given[role])
        networks[role] = network.tap(given[role], layers)
        if distillation.projects and role in frozen[:1]:
            networks["student"] = _projected(networks["student"], networks[role], layers)
        contract.check_fit(networks["student"], networks[role], role, ("logits", *layers))
    if hasattr(networks["student"], "output"):
        feature_layer.check_moves(networks["student"], taps)
    _refuse_sharing(networks)
    return networks


def _refuse_needs(method):
    """Refuses a method that asks for a network which its terms don't see."""
    if set(method.needs) - {"teacher"}:
        raise InputError(
            f"{type(method).__name__}.needs is {method.needs!r}: the terms of a method see "
            "the vanilla teacher alone; write a distillation, which sees all networks."
        )


def _refuse_sharing(networks):
    """Refuses two networks that share variables of which training one moves the other's."""
    for one, other in itertools.permutations(networks, 2):
        if one in TRAINED and network.shares_weights(networks[one], networks[other]):
            raise InputError(
                f"The {other} and the {one} share weights: give the {one} weights of its "
                "own, since training it would move the other (a student can't be its own "
                "teacher)."
            )


def _projected(student, teacher, layers):
    """The student's network with these layers in the teacher's shapes."""
    taps = [k for k in layers if k != "logits"]
    pairs = {k: (student.output[k].shape, teacher.output[k].shape) for k in taps}
    shapes = {k: theirs[1:] for k, (ours, theirs) in pairs.items() if ours != theirs}
    return projection.project(student, shapes) if shapes else student
