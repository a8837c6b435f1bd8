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

    The crop is cut out of the image padded with zeros; its offset is uniform. It is as
    large as the image, or a square of `crop` pixels.

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
    crop: int = hyper(0, "crop: its side, pixels; 0: as large as the image", minimum=0)

    def check(
        self, shape: tuple[int, ...], batch_size: int, num_classes: int | None
    ) -> None:
        """Raises `InputError` unless batches of images of `shape` can be augmented so."""
        height, width = (self.crop or side for side in shape[:2])
        if self.crop > min(shape[:2]) + 2 * self.pad:
            raise InputError(
                f"A crop of {self.crop} pixels doesn't fit into {shape[0]}x{shape[1]} "
                "images; choose a smaller one."
            )
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


def padded(x: np.ndarray, pad: int) -> np.ndarray:
    """Images with the zeros around them that the crop needs: what `augment` expects."""
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def augment(x, y, seeds, augmentation, fill=None, num_classes=None, partner=None):
    """One batch, augmented.

    Args:
        x: Padded images [n, h + 2 pad, w + 2 pad, c].
        y: Integer labels [n].
        seeds: [n, 2], one for each image.
        augmentation: What is done.
        fill: Grey levels [c] of Cutout, of the dtype of `x`.
        num_classes: Classes, for CutMix.
        partner: For CutMix, which of the n images is mixed into each of the first m: [m].
            Default: the `partners` of a whole batch.

    Returns:
        Images [n, h, w, c] and labels: `y`, or with CutMix those of the first m images,
        float32 [m, num_classes].
    """
    x = _crop_and_flip(x, seeds, augmentation)
    if augmentation.cutout:
        hidden = boxes(noise.fork(seeds, 2), augmentation.cutout, augmentation.cutout, x)
        x = tf.where(hidden, fill, x)
    if augmentation.cutmix:
        if partner is None:
            partner = partners(seeds, tf.range(x.shape[0]), x.shape[0])
        x, y = _mix(x, y, seeds, augmentation.cutmix, num_classes, partner)
    return x, y


def partners(seeds, position, batch_size: int) -> tf.Tensor:
    """Where in the batch the images stand that CutMix pastes: [n] -> [n], never itself."""
    seeds = noise.fork(noise.fork(seeds, 3), 2)
    return (position + 1 + noise.integers(seeds, [1], batch_size - 1)[:, 0]) % batch_size


def _crop_and_flip(x, seeds, augmentation):
    """Crop each padded image at its own offset and flip half of them."""
    pad, crop = augmentation.pad, augmentation.crop
    if not (pad or crop or augmentation.flip):
        return x
    height, width = (crop or side - 2 * pad for side in x.shape[1:3])
    free = [x.shape[1] - height + 1, x.shape[2] - width + 1]
    offset = noise.integers(seeds, [2], free)
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


def _mix(x, y, seeds, alpha, num_classes, partner):
    """CutMix of the first m images with their partners [m] among all n."""
    count, (height, width) = partner.shape[0], x.shape[1:3]
    seeds = noise.fork(seeds[:count], 3)
    # 1 - lambda is distributed as lambda. The sides are integers before TensorFlow sees
    # them, so that no rounding of its depends on the machine.
    sides = np.sqrt(beta_quantiles(alpha))
    drawn = noise.integers(seeds, [1], QUANTILES)
    rows, columns = (
        tf.gather((side * sides).astype("int32"), drawn) for side in (height, width)
    )
    box = boxes(noise.fork(seeds, 1), rows, columns, x)
    share = tf.reduce_mean(tf.cast(box, tf.float32), [1, 2])
    y = tf.one_hot(y, num_classes)
    y = (1 - share) * y[:count] + share * tf.gather(y, partner)
    x = tf.where(box, tf.gather(x, partner), x[:count])
    return tf.ensure_shape(x, [count, *x.shape[1:]]), y
