"""Augmentation of training images: pure functions of the seeds of their examples.

Pixels are uint8 or float32 and stay what they are; nothing but gathers and selections is
done to them, so the results are the same bits on every machine.
"""

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.hyperparameters import Component, InputError, component, hyper

QUANTILES = 4096  # lambda of CutMix is drawn among this many equally probable values


@component
class Augmentation(Component):
    """Crop, flip, Cutout and CutMix of training images, in this order; by default none.

    The crop is cut out of the image padded with zeros; its offset is uniform.

    Cutout fills a square around a uniform centre, clipped at the border, with the mean of
    the training images, channel by channel: the authors' zeros after normalisation.
    DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552

    CutMix pastes a box of another image of the batch over each image and mixes their
    labels by the share of pixels. The partner is any other image with equal probability;
    the box has sqrt(1 - lambda) of the image's sides, lambda ~ Beta(alpha, alpha), and a
    uniform centre, and is clipped at the border. All of it is drawn for each image, where
    the authors draw once a batch. Yun et al. 2019, https://arxiv.org/abs/1905.04899
    """

    pad: int = hyper(0, "crop: zeros added on every side, pixels", minimum=0)
    flip: bool = hyper(False, "mirror half of the images")
    cutout: int = hyper(0, "Cutout: side of the square, pixels; 0: none", minimum=0)
    cutmix: float = hyper(0.0, "CutMix: alpha of Beta(alpha, alpha); 0: none", 0.0, 1e3)

    def check(self, shape, batch_size: int, num_classes: int | None) -> None:
        """Raises `InputError` unless batches of images of `shape` can be augmented so."""
        height, width = shape[:2]
        if self.cutout >= min(height, width):
            raise InputError(
                f"A cutout of {self.cutout} pixels can hide the whole of {height}x{width} "
                f"images; choose a side below {min(height, width)}."
            )
        if self.cutmix and batch_size < 2:
            raise InputError(
                "CutMix needs another image in the batch; choose a batch_size of 2 or more."
            )
        if self.cutmix and num_classes is None:
            raise InputError("CutMix mixes labels: pass train_batches(num_classes=...).")


def padded(x, augmentation) -> np.ndarray:
    """Images with the zeros around them that the crop needs: what `augment` expects."""
    pad = augmentation.pad
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def augment(x, y, seeds, augmentation, fill=None, num_classes=None):
    """One batch, augmented.

    Args:
        x: Padded images [n, h + 2 pad, w + 2 pad, c].
        y: Integer labels [n].
        seeds: [n, 2], one for each image.
        augmentation: What is done.
        fill: Grey levels [c] of Cutout, of the dtype of `x`.
        num_classes: Classes, for CutMix.

    Returns:
        Images [n, h, w, c] and labels: `y`, or with CutMix float32 [n, num_classes].
    """
    x = _crop_and_flip(x, seeds, augmentation)
    if augmentation.cutout:
        hidden = boxes(noise.fork(seeds, 2), augmentation.cutout, augmentation.cutout, x)
        x = tf.where(hidden, fill, x)
    if augmentation.cutmix:
        x, y = _mix(x, y, noise.fork(seeds, 3), augmentation.cutmix, num_classes)
    return x, y


def _crop_and_flip(x, seeds, augmentation):
    """Crop each padded image at its own offset and flip half of them."""
    pad = augmentation.pad
    if not pad and not augmentation.flip:
        return x
    height, width = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    offset = noise.integers(seeds, [2], 2 * pad + 1)
    flipped = noise.integers(noise.fork(seeds, 1), [1], 2) * int(augmentation.flip)
    rows = offset[:, :1] + tf.range(height)
    columns = tf.range(width)
    columns = offset[:, 1:] + tf.where(flipped == 1, width - 1 - columns, columns)
    x = tf.gather(x, rows, axis=1, batch_dims=1)
    x = tf.gather(x, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(x, [None, height, width, x.shape[-1]])


def boxes(seeds, rows, columns, x) -> tf.Tensor:
    """Where each image's box is: uniform centre, clipped at the border.

    Args:
        seeds: [n, 2], one for each image.
        rows, columns: Sides of the boxes in pixels: an integer, or integers [n, 1].
        x: The images [n, h, w, c].

    Returns:
        [n, h, w, 1], True inside. Before clipping, a side s around the centre m covers
        m - s // 2 to m - s // 2 + s - 1.
    """
    height, width = x.shape[1:3]
    centre = tf.cast(noise.uniform(seeds, [2]) * [height, width], tf.int32)
    first_row, first_column = centre[:, :1] - rows // 2, centre[:, 1:] - columns // 2
    row, column = tf.range(height), tf.range(width)
    row = (row >= first_row) & (row < first_row + rows)
    column = (column >= first_column) & (column < first_column + columns)
    return (row[:, :, None] & column[:, None, :])[..., None]


def beta_quantiles(alpha: float, count: int = QUANTILES) -> np.ndarray:
    """The (i + 1/2) / count quantiles of Beta(alpha, alpha), float64 [count]."""
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, (np.arange(count) + 0.5) / count)


def _mix(x, y, seeds, alpha, num_classes):
    count, height, width = x.shape[:3]
    # 1 - lambda is distributed as lambda. The sides are integers before TensorFlow sees
    # them, so that no rounding of its depends on the machine.
    sides = np.sqrt(beta_quantiles(alpha))
    drawn = noise.integers(seeds, [1], QUANTILES)
    rows, columns = (
        tf.gather((side * sides).astype("int32"), drawn) for side in (height, width)
    )
    box = boxes(noise.fork(seeds, 1), rows, columns, x)
    step = 1 + noise.integers(noise.fork(seeds, 2), [1], count - 1)[:, 0]
    partner = (tf.range(count) + step) % count
    share = tf.reduce_mean(tf.cast(box, tf.float32), [1, 2])
    y = tf.one_hot(y, num_classes)
    y = (1 - share) * y + share * tf.gather(y, partner)
    return tf.where(box, tf.gather(x, partner), x), y
