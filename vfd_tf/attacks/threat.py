"""The fields that attacks share: threat model and passes of a randomised model."""

from vfd_tf.attacks.norms import BALLS
from vfd_tf.hyperparameters import hyper


def epsilon_field():
    """The radius of the ball, 8/255 by default."""
    return hyper(8 / 255, "radius of the ball, images in [0, 1]", minimum=0.0)


def norm_field():
    """The norm of the ball, L-inf by default."""
    return hyper("linf", "norm of the ball", choices=tuple(BALLS))


def eot_field():
    """How many passes of a randomised model make a gradient."""
    return hyper(1, "passes of a randomised model a gradient is the mean of", minimum=1)
