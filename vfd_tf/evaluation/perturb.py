"""`perturb`: adversarial images of any Keras classifier, in one line."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from vfd_tf.evaluation.engine import Engine
from vfd_tf.evaluation.evaluate import check_radius, checked_norm, default_radius
from vfd_tf.evaluation.protocols import protocol
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import classifiers, precision


def perturb(
    model: Any,
    x: Any,
    y: Any,
    attack: Any = "pgd20",
    *,
    epsilon: float | None = None,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int = 128,
    bounds: tuple[float, float] = (0.0, 1.0),
    strict: bool = True,
) -> np.ndarray:
    """Adversarial images x_adv, each attacked for all iterations.

        x_adv = vfd_tf.perturb(model, x, y, "pgd20", epsilon=8 / 255)

    Of several restarts or members of an ensemble, the first that makes an image
    misclassified gives its x_adv, or else the one that leaves it the smallest margin.
    `evaluate` says how many stay classified correctly, at any iterate. A model that
    computes in 16 bits is attacked in float32, as there.

    Args:
        model: Any classifier that `evaluate` takes.
        x: Images, float [n, h, w, c], or in the layout of the model, in `bounds`.
        y: Labels: class indices [n], or one-hot [n, classes].
        attack: Name of a protocol ("fgsm", "pgd20", "cw", "autoattack", ...), or an attack.
        epsilon, norm: Threat model of a named attack, images in [0, 1]; default L-inf
            8/255. Another norm needs an epsilon of its own. An attack given as an object
            keeps its own.
        seed: With an image's position, decides its random draws.
        batch_size: Images that go through the model at once; sets the memory.
        bounds: Range of the images that the model takes.
        strict: Refuse probabilities and images outside the bounds, instead of a warning;
            x_adv of such images leaves the ball.

    Returns:
        Images like x: the same shape and range; float32, or float64 for a float64 model.

    Raises:
        InputError: What `evaluate` refuses.
    """
    norm = checked_norm(norm)
    size = default_radius(epsilon, norm)
    check_radius([attack], epsilon, norm)
    chosen = protocol(attack, size, norm)
    if chosen.transfer:
        raise InputError(
            f"{attack!r} needs a surrogate, which perturb has none of: call it with the "
            "surrogate as the model and the attack's name without 'transfer-'."
        )
    whole = dataclasses.replace(chosen, transfer=True)  # to the end, as a transfer attack
    model = precision.in_float32(classifiers.as_model(model), bounds)
    engine = Engine(model, batch_size, False, bounds, strict=strict)
    with precision.exact_float32():
        found = [
            np.asarray(engine.model.outside(engine.attacked(whole, window).x_adv))
            for window in engine.windows.read((x, y), seed)
        ]
    for text in engine.windows.objections:
        warnings.warn(text, stacklevel=2)
    return np.concatenate(found).reshape(np.shape(x))
