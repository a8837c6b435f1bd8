"""A second opinion: FGSM, PGD and MIM by cleverhans, without random starts."""

import importlib.util

import numpy as np
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.attacks import FGSM, MIM, PGD
from vfd_tf.data.batching import batches
from vfd_tf.evaluation.protocols import Protocol
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract

_ORDERS = {"linf": np.inf, "l2": 2}


def _fgsm(attack, logits_fn, x, y, shared):
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

    return fast_gradient_method(logits_fn, x, attack.epsilon, y=y, **shared)


def _pgd(attack, logits_fn, x, y, shared):
    from cleverhans.tf2.attacks.projected_gradient_descent import (
        projected_gradient_descent,
    )

    return projected_gradient_descent(
        logits_fn, x, attack.epsilon, _step(attack), attack.steps, y=y, **shared
    )


def _mim(attack, logits_fn, x, y, shared):
    from cleverhans.tf2.attacks.momentum_iterative_method import (
        momentum_iterative_method,
    )

    return momentum_iterative_method(
        logits_fn,
        x,
        attack.epsilon,
        _step(attack),
        attack.steps,
        y=y,
        decay_factor=attack.decay,
        sanity_checks=False,
        **shared,
    )


def _step(attack):
    return attack.epsilon / 4 if attack.step_size is None else attack.step_size


REFEREES = {FGSM: _fgsm, PGD: _pgd, MIM: _mim}


def check() -> None:
    """Raises `InputError` where cleverhans isn't installed."""
    if importlib.util.find_spec("cleverhans") is None:
        raise InputError("The referee needs cleverhans: pip install cleverhans.")


def compare(engine, data, plan, images: int = 1000) -> dict[str, dict]:
    """Column -> accuracy of both, and on how many images their verdicts differ.

    Both start at x, attack cross-entropy and their last iterate counts, on the
    first `images` images.
    """
    logits_fn = engine.model.logits_fn()
    found = {}
    for name, protocol in plan.items():
        attack = protocol.attack
        if type(attack) not in REFEREES or protocol.objective != "ce" or protocol.transfer:
            continue
        if hasattr(attack, "random_start"):
            one = {"restarts": 1} if hasattr(attack, "restarts") else {}
            attack = attack.replace(random_start=False, **one)
        found[name] = _compared(engine, data, attack, logits_fn, images)
    return found


def _compared(engine, data, attack, logits_fn, images):
    shared = {"norm": _ORDERS[attack.norm], "clip_min": 0.0, "clip_max": 1.0}

    @tf.function(autograph=False)
    def both(x, y):
        ours = Protocol(attack)(logits_fn, x, y, None)
        theirs = REFEREES[type(attack)](attack, logits_fn, x, y, shared)
        return {"ours": ours, "theirs": theirs}

    right = {"ours": [], "theirs": []}
    for x, y in batches(data, engine.runner.batch_size):
        rest = images - sum(map(len, right["ours"]))
        if rest <= 0:
            break
        x = engine.model.images(x[:rest])
        y = contract.class_indices(y[:rest], engine.logits(x[:1]).shape[-1])
        for side, x_adv in both(tf.constant(x), tf.constant(y)).items():
            logits = engine.logits(x_adv.numpy())
            right[side].append(losses.correct(y, logits).numpy())
    ours, theirs = (np.concatenate(right[side]) for side in ("ours", "theirs"))
    return {
        "images": len(ours),
        "ours": 100 * float(ours.mean()),
        "cleverhans": 100 * float(theirs.mean()),
        "verdicts_that_differ": int((ours != theirs).sum()),
    }
