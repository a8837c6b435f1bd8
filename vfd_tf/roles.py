"""The networks of one training: student and helpers, with layer k tapped, checked."""

import warnings

from vfd_tf import inputs, network
from vfd_tf.part import InputError

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
    layers = distillation.layers
    network.refuse_augmentation(student)
    networks = {"student": network.tap(student, layers)}
    inputs.refuse_probabilities(student)
    inputs.warn_of_onednn(student)
    if not student.built:
        raise InputError(
            f"The model {student.name!r} has no weights yet: call it once on a batch."
        )
    needs = dict.fromkeys((*method.needs, *distillation.needs))
    for role, model in given.items():
        if model is not None and role not in needs:
            warnings.warn(f"{role}=... is not used by {pair}.", stacklevel=3)
    for role in needs:
        if given[role] is None:
            raise InputError(f"{pair} needs {WANTED[role]}.")
        inputs.refuse_probabilities(given[role])
        network.refuse_augmentation(given[role])
        networks[role] = network.tap(given[role], layers)
        if role == "teacher" and distillation.projects:
            networks["student"] = _projected(networks["student"], networks[role], layers)
        inputs.check_fit(networks["student"], networks[role], role, ("logits", *layers))
    return networks


def _projected(student, teacher, layers):
    """The student's network with these layers in the teacher's shapes."""
    taps = [k for k in layers if k != "logits"]
    pairs = {k: (student.output[k].shape, teacher.output[k].shape) for k in taps}
    shapes = {k: theirs[1:] for k, (ours, theirs) in pairs.items() if ours != theirs}
    return network.project(student, shapes) if shapes else student
