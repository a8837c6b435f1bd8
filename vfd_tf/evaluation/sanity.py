"""What makes a robust accuracy doubtful: checks that an evaluation prints and stores.

After Athalye et al. 2018, https://arxiv.org/abs/1802.00420, Carlini et al. 2019,
https://arxiv.org/abs/1902.06705, and the checks of AutoAttack.
"""

import numpy as np
import tensorflow as tf

from vfd_tf.attacks import PGD, CarliniWagner, Square, cross_entropy
from vfd_tf.attacks.attack import input_gradient
from vfd_tf.evaluation.protocols import Protocol
from vfd_tf.part import InputError

_SOME = 128  # images that a check looks at


def complaint(check, *values) -> list[str]:
    """The sentence with which a check of `vfd_tf.inputs` refuses these values, if any."""
    try:
        check(*values)
    except InputError as error:
        return [str(error)]
    return []


def of_model(target, window) -> list[str]:
    """Warnings of random outputs, and of gradients that vanish or are not finite."""
    x, y = window.x[:_SOME], window.y[:_SOME]
    found, again = [], target.logits(x)
    first = window.clean[:_SOME]
    change = np.linalg.norm(again - first, axis=-1)
    change = change / np.maximum(np.linalg.norm(first, axis=-1), 1e-10)
    if change.max() > 1e-4:
        found.append(
            "The model's outputs change from call to call: gradients of one pass say "
            "little about it; use autoattack-rand, or eot=20 in the attacks."
        )
    dead = _dead_gradients(target, x, y)
    if dead > 0.01:
        found.append(
            f"The input gradient of the cross-entropy is zero or not finite for {dead:.0%} "
            "of the images: gradient attacks are blind there; trust margin objectives, "
            "DLR and square instead."
        )
    return found


def _dead_gradients(target, x, y) -> float:
    """Share of images whose cross-entropy has no gradient."""

    def gradient(x, y):
        logits_fn = target.logits_fn(target.network)
        gradient = input_gradient(logits_fn, x, cross_entropy(y))
        size = tf.reduce_sum(tf.abs(gradient), list(range(1, x.shape.rank)))
        return {"dead": (size == 0) | ~tf.math.is_finite(size)}

    found = target.in_batches("gradient", gradient, {"x": x, "y": y})
    return float(found["dead"].mean())


def of_verdicts(evaluation, protocols) -> list[str]:
    """Warnings of attacks that are better than they should be."""
    count = len(evaluation.clean)
    limit, found = max(0.002 * count, 3), []
    blind = {n for n, p in protocols.items() if p.transfer or isinstance(p.attack, Square)}
    bounded = {n: v for n, v in evaluation.robust.items() if _bounded(protocols[n])}
    seeing = [v for n, v in bounded.items() if n not in blind]
    left = np.logical_and.reduce(seeing) if seeing else None
    for name in [n for n in bounded if n in blind] if seeing else []:
        more = int((left & ~bounded[name]).sum())
        if more > limit:
            found.append(_masked(name, more, count))
    for name, stages in evaluation.stages.items():
        before = None
        for stage, verdict in stages.items():
            if stage == "square" and before is not None:
                more = int((before & ~verdict).sum())
                if more > limit:
                    found.append(_masked(f"square of {name}", more, count))
            before = verdict
    steps = {n: _steps(p.attack) for n, p in protocols.items() if n in bounded}
    for one in (n for n, s in steps.items() if s == 1 and n not in blind):
        for many in (n for n, s in steps.items() if s > 1 and n not in blind):
            if bounded[many].sum() - bounded[one].sum() > limit:
                found.append(
                    f"{one}, a single step, breaks more images than {many}: the loss "
                    "surface misleads gradient attacks (masked gradients)."
                )
    return found


def _masked(name, more, count):
    return (
        f"{name} breaks {more} of {count} images that the gradient attacks leave "
        "robust: a sign of masked gradients; don't trust the gradient attacks here."
    )


def _bounded(protocol):
    return not isinstance(protocol.attack, CarliniWagner)


def _steps(attack):
    return attack.steps if hasattr(attack, "steps") else 0


def of_radius(target, window, robust, epsilon, norm) -> list[str]:
    """A warning if no robust image of the window falls to twice the radius."""
    index = np.flatnonzero(robust)[:_SOME]
    if len(index) < 10 or not epsilon:
        return []
    doubled = 2 * epsilon if norm != "linf" else min(2 * epsilon, 1.0)
    some = window.part(index)
    if target.attacked(Protocol(PGD(doubled, norm=norm)), some).robust.all():
        return [
            f"None of {len(index)} robust images falls to PGD-10 at twice the radius: "
            "robust accuracy should fall as epsilon grows; the gradients may be masked."
        ]
    return []
