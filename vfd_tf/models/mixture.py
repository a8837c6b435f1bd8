"""Two networks as one classifier: their probabilities mixed, or their weights.

What all of them give is a plain functional model of Keras's own layers and operations,
which `keras.saving.load_model` reads without this package.
"""

import keras
import numpy as np
from keras import ops

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import pairs
from vfd_tf.models.anatomy import anatomy
from vfd_tf.models.keras_graph import finalize
from vfd_tf.models.mixed_nuts import Nuts, fit_nuts, mixed_nuts

__all__ = ["Nuts", "fit_nuts", "interpolation", "mixed_nuts", "mixture"]


class OtherArchitecture(InputError):
    """Two networks whose weights have no mean; `why` says so, without what to do."""

    def __init__(self, why: str, fix: str):
        super().__init__(f"{why}: {fix}.")
        self.why = why


def mixture(
    vanilla: keras.Model, robust: keras.Model, weight: float, name: str = "mixture"
) -> keras.Model:
    """The mixture of two classifiers' probabilities, as a classifier.

        both = mixture(vanilla, robust, 0.8)
        vfd_tf.evaluate(both, data, ["pgd20"])

    Its logits are log((1 - weight) softmax(z_vanilla(x)) + weight softmax(z_robust(x))),
    computed as a logsumexp of log-probabilities, so that no probability underflows and
    attacks get the gradient of both. It has copies of the weights, as float32. Layers of
    both may have one name: `model.get_layer("robust")` is a network of its own to tap.

    Args:
        vanilla, robust: Classifiers with logits, functional or Sequential.
        weight: Share of the robust one, 0 to 1; at 0 and at 1 it is the log-softmax of one
            network alone, and the other one is not in it.
        name: Of the model; inside, the networks are called "vanilla" and "robust".

    Raises:
        InputError: Other images or classes than the other network's, probabilities instead
            of logits, a weight outside [0, 1].
    """
    vanilla, robust = pairs.pair(vanilla, robust, weight)
    image = pairs.image_of(vanilla)
    shares = {"vanilla": (vanilla, 1 - weight), "robust": (robust, weight)}
    logs = []
    for role, (model, share) in shares.items():
        if share:
            logits = pairs.logits_of(pairs.copied(model, role), image)
            logs.append(pairs.share_of(ops.log_softmax(logits), share))
    return keras.Model(image, pairs.joined(logs), name=name)


def interpolation(
    vanilla: keras.Model, robust: keras.Model, weight: float, name: str = "interpolation"
) -> keras.Model:
    """The network whose weights are (1 - weight) of one network's plus weight of another's.

    BatchNorm's means and variances are interpolated too, and not measured anew. Usually no
    good network lies between networks trained apart.

    Args:
        vanilla, robust: Classifiers with logits, of one architecture.
        weight: Share of the robust one, 0 to 1.
        name: Of the model.

    Raises:
        InputError: What `mixture` refuses, and other architectures, `OtherArchitecture`.
    """
    vanilla, robust = pairs.pair(vanilla, robust, weight)
    if anatomy(vanilla) != anatomy(robust):
        raise OtherArchitecture(
            f"The models {vanilla.name!r} and {robust.name!r} differ in their layers, in "
            "settings of these or in how they normalise images, so that their weights have "
            "no mean",
            "mix their probabilities with mixture(vanilla, robust, weight)",
        )
    model = pairs.copied(vanilla, name)
    both = zip(vanilla.get_weights(), robust.get_weights(), strict=True)
    model.set_weights([_between(one, other, weight) for one, other in both])
    finalize(model)
    return model


def _between(one, other, weight):
    """(1 - weight) one + weight other; whole numbers, such as counts, are those of one."""
    if not np.issubdtype(one.dtype, np.inexact):
        return one
    exact = (1 - weight) * one.astype("float64") + weight * other.astype("float64")
    return exact.astype(one.dtype)
