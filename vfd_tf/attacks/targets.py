"""Which classes a targeted attack aims at first, where it isn't the likeliest ones."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf.attacks.attack import ascent
from vfd_tf.attacks.norms import BALLS
from vfd_tf.attacks.objectives import targeted_margin
from vfd_tf.types import Tensor


@dataclasses.dataclass(frozen=True)
class MALT:
    """Classes by how far away they would be if the network were linear, nearest first.

    (z_y - z_j) / ||grad_x (z_y - z_j)||, in the dual of the attack's norm (L1 for L-inf,
    L2 for L2) and at the clean image, for the likeliest wrong classes j: a backward pass
    each. Equal distances keep the order of the logits. A class whose gradient vanishes
    comes last; the original puts it first. Melamed et al. 2024,
    https://arxiv.org/abs/2407.02240

    Attributes:
        norm: Norm of the attack.
        candidates: How many of the likeliest wrong classes are ordered.
        count: How many of these are aimed at.
        eot: Passes of a randomised model that a gradient is the mean of.
    """

    norm: str = "linf"
    candidates: int = 100
    count: int = 9
    eot: int = 1

    def __call__(self, logits_fn: Callable, x: Tensor, y: Tensor) -> Tensor:
        """The classes [n, k] of images with labels [n], k at most all wrong ones."""
        logits = logits_fn(x)
        classes = logits.shape[-1]
        label = tf.one_hot(y, classes, on_value=True, off_value=False)
        others = tf.where(label, tf.cast(-np.inf, logits.dtype), logits)
        likely = tf.math.top_k(others, min(self.candidates, classes - 1))
        distances = self._distances(logits_fn, x, y, likely.indices)
        order = tf.argsort(distances, stable=True)[:, : self.count]
        found = tf.gather(likely.indices, order, batch_dims=1)
        possible = tf.gather(likely.values, order, batch_dims=1) > -np.inf
        return tf.where(possible, found, found[:, :1])  # masked classes can't be reached

    def _distances(self, logits_fn, x, y, targets):
        """Distance [n, k] of each target [n, k] from its image."""
        count = targets.shape[1]

        def one_more(i, found):
            goal = targeted_margin(y, targets[:, i])
            _, rise, gradient = ascent(logits_fn, x, goal, self.eot)
            size = tf.reshape(BALLS[self.norm].dual(gradient), [-1])
            distance = tf.where(size > 0, -rise / size, tf.cast(np.inf, x.dtype))
            return i + 1, found.write(i, distance)

        found = tf.TensorArray(x.dtype, count)
        _, found = tf.while_loop(
            lambda i, _: i < count, one_more, (0, found), parallel_iterations=1
        )
        return tf.transpose(found.stack())
