"""Images with labels, in memory or read as they are needed, and batches of them.

Batches are pure functions of (seed, step, position in the batch), of both kinds alike:
`Images` are held in memory, `stored.StoredImages` read from storage.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.data.augmentation import Augmentation, augment, padded, partners
from vfd_tf.hyperparameters import InputError

PLAIN = Augmentation()
BLOCK = 1000  # images handled at once where all of them would need too much memory
BLOCK_BYTES = 2**22  # and no more than so many bytes of them, or one image


class Split:
    """Images of one shape and their integer labels: what both kinds share.

    Attributes:
        x: Pixels [n, h, w, c] as they are held: uint8, or float32 in [0, 1].
        y: Labels [n].
        crop: Side of the central square that is evaluated, of larger squares that are
            held; None: the images are taken whole.
        held: Shape [h, w, c] of an image as it is held.
        dtype: Of the pixels.
    """

    parallel, ready = tf.data.AUTOTUNE, 4  # batches being made, and batches made

    def __len__(self):
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [h, w, c] of an image as networks see it."""
        return (self.crop, self.crop, self.held[-1]) if self.crop else tuple(self.held)

    def pixels(self, whole: bool, pad: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function of indices [m], for graphs: images [m, h + 2 pad, w + 2 pad, c].

        Args:
            whole: Images as they are held; else their central `crop`.
            pad: Zeros around them.
        """
        raise NotImplementedError

    def floats(self) -> np.ndarray:
        """All images, as networks see them: float32 in [0, 1]."""
        return as_float(central(self.x, self.crop)).numpy()

    def parts(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x float32 in [0, 1], y) as NumPy arrays, in order."""
        for first in range(0, len(self), batch_size):
            part = self[first : first + batch_size]
            yield part.floats(), part.y

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of every channel, of levels in [0, 1]: float64 [c] each."""
        image = int(np.prod(self.held))
        block = max(1, min(BLOCK, BLOCK_BYTES // image))
        whole = self.dtype == np.uint8  # sums of integers are exact
        square, kind, white = ("uint16", "int64", 255) if whole else ("float64",) * 2 + (1,)
        total = squares = 0
        for first in range(0, len(self), block):
            levels = self[first : first + block].x.reshape(-1, self.held[-1])
            total = total + levels.sum(0, dtype=kind)
            squares = squares + np.square(levels, dtype=square).sum(0, dtype=kind)
        count = len(self) * image // self.held[-1]
        mean = total / (count * white)
        return mean, squares / (count * white**2) - np.square(mean)

    def train_batches(
        self,
        batch_size: int,
        seed: int = 0,
        augmentation: Augmentation = PLAIN,
        first_step: int = 0,
        num_classes: int | None = None,
        share: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """Endless shuffled batches (x float32 in [0, 1], y int32), the ragged rest dropped.

        Args:
            batch_size: Global batch size.
            seed: With the step, decides order and augmentation.
            augmentation: What is done to every image anew each time.
            first_step: Where to begin: step s of epoch e is e * (n // batch_size) + s.
            num_classes: Classes of the data set; needed by CutMix only.
            share: (first, count): only the positions first, ..., first + count - 1 of
                every batch, as they are in the whole batch; nothing else is read but
                their partners in CutMix.

        Returns:
            A data set to be trained on with `steps_per_epoch=n // batch_size`; with CutMix
            y is float32 [batch_size, num_classes], rows that sum to 1.
        """
        first, count = share or (0, batch_size)
        self._check(batch_size, augmentation, num_classes, first, count)
        fill = self._grey() if augmentation.cutout else None
        pixels = self.pixels(bool(augmentation.crop), augmentation.pad)
        with tf.device("CPU"):
            labels = tf.constant(self.y)

        def batch(step):
            position, partner = first + tf.range(count), None
            if augmentation.cutmix:
                other = partners(_seeds(seed, step, position), position, batch_size)
                position, place = tf.unique(tf.concat([position, other], 0))
                partner = place[count:]
            index = self.order(seed, step, position, batch_size)
            seeds = _seeds(seed, step, position)
            x, y = pixels(index), tf.gather(labels, index)
            x, y = augment(x, y, seeds, augmentation, fill, num_classes, partner)
            return as_float(x), y

        data = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        data = data.map(batch, num_parallel_calls=self.parallel)
        return untuned(data.prefetch(self.ready))

    def _check(self, batch_size, augmentation, num_classes, first, count):
        if len(self) < batch_size:
            raise InputError(
                f"A batch of {batch_size} is larger than the {len(self)} training images; "
                "choose a smaller batch_size."
            )
        if not 0 <= first < first + count <= batch_size:
            raise InputError(
                f"A share of {count} images from position {first} is no part of a batch of "
                f"{batch_size}; choose positions from 0 to {batch_size - 1}."
            )
        shape = self.held if augmentation.crop else self.shape
        augmentation.check(shape, batch_size, num_classes)

    def order(
        self, seed: int, step: tf.Tensor, position: tf.Tensor, batch_size: int
    ) -> tf.Tensor:
        """Which images stand at these positions of the global batch of a step."""
        steps = len(self) // batch_size
        epoch, first = step // steps, (step % steps) * batch_size
        return tf.random.experimental.index_shuffle(
            tf.cast(first, tf.int32) + position,
            tf.cast(tf.stack([seed, epoch]), tf.int32),
            len(self) - 1,
        )

    def _grey(self):
        """The mean of every channel, as a pixel of these images."""
        mean, _ = self.statistics()
        mean = np.round(255 * mean) if self.dtype == np.uint8 else mean
        return mean.astype(self.dtype)

    def batches(self, batch_size: int, num_classes: int | None = None) -> tf.data.Dataset:
        """(x float32 in [0, 1], y) in order; the last batch may be smaller.

        With `num_classes` the labels are one-hot [n, num_classes], as those of CutMix.
        """
        index = tf.data.Dataset.range(len(self)).batch(batch_size)
        pixels = self.pixels(whole=False)
        with tf.device("CPU"):
            y = tf.constant(self.y)

        def batch(index):
            labels = tf.gather(y, index)
            if num_classes is not None:
                labels = tf.one_hot(labels, num_classes)
            return as_float(pixels(index)), labels

        return untuned(index.map(batch).prefetch(2))


@dataclasses.dataclass(frozen=True)
class Images(Split):
    """Images in memory [n, h, w, c], uint8 or float32 in [0, 1], and integer labels [n]."""

    x: np.ndarray
    y: np.ndarray
    crop: int | None = None

    def __getitem__(self, index):
        return Images(self.x[index], self.y[index], self.crop)

    @property
    def held(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @property
    def digest(self) -> str:
        """SHA-256 of pixels and labels, and of the crop if there is one."""
        sha = hashlib.sha256(np.ascontiguousarray(self.x).reshape(-1))
        sha.update(np.asarray(self.y, np.int32).tobytes())
        sha.update(f"crop {self.crop}".encode() if self.crop else b"")
        return sha.hexdigest()

    def pixels(self, whole: bool, pad: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
        """See `Split.pixels`; one copy of them all, as a tensor."""
        x = self.x if whole else central(self.x, self.crop)
        with tf.device("CPU"):
            x = tf.constant(padded(x, pad))
        return lambda index: tf.gather(x, index)


def _seeds(seed, step, position):
    """Seeds of the augmentation, a stream of its own beside the attack's noise."""
    return noise.fork(noise.example_seeds(seed, step, position), 0xA06)


def central(x: Any, crop: int | None) -> Any:
    """The central squares of images [n, h, w, c], whose offset is rounded down."""
    if not crop:
        return x
    row, column = ((side - crop) // 2 for side in x.shape[1:3])
    return x[:, row : row + crop, column : column + crop]


def as_float(x: Any) -> tf.Tensor:
    """uint8 grey levels -> float32 in [0, 1]; floats stay as they are."""
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """The data set without tf.data's tuning at run time.

    What is built from arrays needs none, and the tuning thread may hold up the end of an
    iteration until its period is over: periods double from 10 ms, to 10 s and more.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
