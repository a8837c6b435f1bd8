"""What makes a robust accuracy doubtful: checks that an evaluation prints and stores.

After Athalye et al. 2018, https://arxiv.org/abs/1802.00420, Carlini et al. 2019,
https://arxiv.org/abs/1902.06705, and the checks of AutoAttack.
"""

import numpy as np
import tensorflow as tf

from vfd_tf.attacks import PGD, Composite, Square, cross_entropy, objectives
from vfd_tf.evaluation.protocols import Protocol
from vfd_tf.evaluation.windows import SAME, changes
from vfd_tf.models import contract

_SOME = 128  # images of a window that a check looks at


def of_model(engine, window) -> list[str]:
    """A warning of random outputs."""
    index = _some(window)
    again = engine.logits(window.x[index])
    if changes(window.clean_logits[index], again).max() > SAME:
        return [
            "The model's outputs change from call to call: gradients and verdicts of one "
            "pass say little about it; use autoattack-rand:passes=20, or eot=20 in the "
            "attacks."
        ]
    return []


def of_ensembles(plan) -> list[str]:
    """A warning where attacks have no black-box column beside a surrogate, and none is
    named.
    """
    if any(own.transfer for own in plan.values()):
        return []
    lacking = [n for n, own in plan.items() if isinstance(own.attack, Composite)]
    if not lacking:
        return []
    fix = ": add pgd20, for one" if len(lacking) == len(plan) else ""
    return [
        f"The surrogate adds no black-box column for {', '.join(lacking)}, since ensembles "
        f"of attacks go by the model's own answers{fix}."
    ]


def of_chance(correct, classes: int) -> list[str]:
    """A warning where so few images are classified correctly, bool [n], as by chance."""
    count = len(correct)
    if not contract.is_near_chance(correct.mean(), count, classes):
        return []
    return [
        f"The model classifies {correct.mean():.0%} of {count} clean images correctly, "
        "near chance: it takes other pixel values, such as bounds=(0, 255) or (-1, 1) "
        "(--bounds=0,255), or was trained on other data or labels."
    ]


def of_whole_box(window, protocols) -> list[str]:
    """A warning for every attack whose L2 ball holds all images of this size."""
    diagonal = float(np.sqrt(window.x[0].size))
    radii = {n: p.attack.epsilon for n, p in protocols.items() if p.attack.norm == "l2"}
    return [
        f"{name}: an L2 ball of radius {radius:g} holds every image of this size in "
        f"[0, 1], {diagonal:.3g} across; divide a radius in grey levels by 255."
        for name, radius in radii.items()
        if radius is not None and radius >= diagonal
    ]


def of_undefined(count: int) -> list[str]:
    """A warning where logits of NaN or infinity predict no class."""
    if not count:
        return []
    return [
        f"The model returned NaN or infinite logits {count} times, for clean or "
        "adversarial images: these count as misclassified; look for a division, a root or "
        "a logarithm."
    ]


def of_gradients(dead) -> list[str]:
    """A warning where more than 1 % of `dead` (bool [n]) are true."""
    if dead.mean() <= 0.01:
        return []
    return [
        "The input gradient of the cross-entropy, which no confidence rounds to 0 here, is "
        f"zero or not finite for {dead.mean():.0%} of {len(dead)} images: no gradient "
        "reaches them, and no gradient attack counts there, whatever its objective; trust "
        "square and transfer attacks, or give the step that can't be differentiated a "
        "gradient of its own."
    ]


def _some(window):
    """Up to `_SOME` positions, spread over a window."""
    return np.unique(np.linspace(0, len(window) - 1, _SOME).astype(int))


def dead_gradients(engine, window) -> np.ndarray:
    """For which of some images of a window cross-entropy has no gradient: bool.

    Its slope at the logits is lifted into the range of floats, so that what is 0 at an
    image was stopped inside the model.
    """
    index = _some(window)

    def gradient(x, y):
        logits_fn = engine.model.logits_fn()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            score = cross_entropy(y)(logits_fn(x))
        gradient = tape.gradient(score, x, unconnected_gradients="zero")
        size = tf.reduce_sum(tf.abs(gradient), list(range(1, x.shape.rank)))
        return {"dead": (size == 0) | ~tf.math.is_finite(size)}

    some = {"x": window.x[index], "y": window.y[index]}
    return engine.runner.run("gradient", gradient, some)["dead"]


def of_few_classes(protocols, classes: int) -> list[str]:
    """A warning for every attack whose DLR needs more classes than the model has."""
    found = []
    for name, protocol in protocols.items():
        wanted, own = (_objectives(protocol, count) for count in (10, classes))
        for missing in sorted(wanted - own):
            found.append(
                f"{name}: {missing} is not defined on {classes} classes; "
                f"{objectives.possible(missing, classes)} stands in for it."
            )
    return found


def of_many_logits(labels, images: int, classes: int) -> list[str]:
    """A warning of at least twice as many logits as classes, as of defences that add some.

    Not where the labels [k] that were found aren't 0, ..., k - 1 of at least two classes,
    or so few images would leave half of the classes out by chance.
    """
    count = len(labels)
    whole = count > 1 and max(labels) == count - 1
    if not whole or 2 * count > classes or (count / classes) ** images > 1e-3:
        return []
    return [
        f"The model has {classes} logits, and the labels of {images} images are 0 to "
        f"{count - 1}: the others count as misclassified and attacks aim at them; drop "
        "those that are no class of the data, or add each to the class it stands for."
    ]


def _objectives(protocol, classes):
    return {run.objective for runs in protocol.stages(classes).values() for run in runs}


def of_verdicts(evaluation, protocols) -> list[str]:
    """Warnings of attacks that are better than they should be."""
    count = len(evaluation.clean)
    limit, found = max(0.002 * count, 3), []
    threats = {p.threat for p in protocols.values() if not p.unbounded}
    for threat in sorted(threats):
        alike = {n: p for n, p in protocols.items() if p.threat == threat}
        blind = [n for n, p in alike.items() if _is_blind(p)]
        seeing = [n for n in alike if n not in blind]
        verdicts = evaluation.robust
        if seeing:
            left = np.logical_and.reduce([verdicts[n] for n in seeing])
            for name in blind:
                more = int((left & ~verdicts[name]).sum())
                if more > limit:
                    found.append(_masked(name, more, count))
        steps = {n: getattr(alike[n].attack, "steps", 0) for n in seeing}
        found += [
            f"{one}, a single step, breaks more images than {many}: the loss surface "
            "misleads gradient attacks (masked gradients)."
            for one in steps
            for many in steps
            if steps[one] == 1 < steps[many]
            and _crosses(alike[many].attack)
            and verdicts[many].sum() - verdicts[one].sum() > limit
        ]
    for name, stages in evaluation.stages.items():
        before = None
        for stage, verdict in stages.items():
            more = 0 if before is None else int((before & ~verdict).sum())
            if stage == "square" and more > limit:
                found.append(_masked(f"square of {name}", more, count))
            before = verdict
    return found


def _crosses(attack) -> bool:
    """Whether the steps of an attack lead from one side of its ball to the other."""
    step = getattr(attack, "step_size", 2 * attack.epsilon) or attack.epsilon / 4
    return attack.steps * step >= 2 * attack.epsilon


def _is_blind(protocol) -> bool:
    """Whether an attack sees no gradient of the model it is scored on."""
    return protocol.transfer or isinstance(protocol.attack, Square)


def _masked(name, more, count):
    return (
        f"{name} breaks {more} of {count} images that the gradient attacks leave "
        "robust: a sign of masked gradients; don't trust the gradient attacks here."
    )


def of_radius(engine, window, found, protocols) -> list[str]:
    """A warning if no robust image of a window falls, neither to twice the radius nor half
    of the range of images, where a small radius says nothing.

    Args:
        found: Attack -> which images of the window are robust under it.
        protocols: Attack -> protocol. The first that is bounded gives the threat model.
    """
    bounded = [p for p in protocols.values() if not (p.unbounded or p.transfer)]
    if not bounded:
        return []
    norm, epsilon = bounded[0].attack.norm, bounded[0].attack.epsilon
    alike = [v for n, v in found.items() if protocols[n].threat == bounded[0].threat]
    index = np.flatnonzero(np.logical_and.reduce(alike))[:_SOME]
    if len(index) < 10 or not epsilon:
        return []
    doubled = min(2 * epsilon, 1.0) if norm == "linf" else 2 * epsilon
    half = 0.5 if norm == "linf" else 0.5 * float(np.sqrt(window.x[0].size))
    for size in (doubled, max(doubled, half)):
        attack = Protocol(PGD(size, norm=norm))
        if not engine.attacked(attack, window.part(index)).robust.all():
            return []
    return [
        f"None of {len(index)} robust images falls to PGD-10 at twice the radius, nor at "
        f"{size:.2g}: robust accuracy should fall as epsilon grows; the gradients may be "
        "masked."
    ]
