"""Data sets: images in memory as uint8, batches as pure functions of (seed, step).

`load(name)` gives train, validation and test images. The order of an epoch and all
augmentation are functions of (seed, step, position in the batch) alone, so training
resumes at any step with the data it would have seen.

A data set must fit into memory: n * h * w * c bytes (floats: four times that), once more
for every split that batches are taken from, enlarged by the padding of the crop, and for
a moment, while that copy is made, twice more. CIFAR-10's 0.17 GiB raise a process from 0.6
to at most 1.6 GiB. What is known to be too large before it is read is refused.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.data import image_archives, readers
from vfd_tf.data.augmentation import Augmentation, augment, padded
from vfd_tf.hyperparameters import InputError, choose

PLAIN = Augmentation()
BLOCK = 1000  # images handled at once where all of them would need too much memory


@dataclasses.dataclass(frozen=True)
class Images:
    """Images [n, h, w, c] (uint8, or float32 in [0, 1]) and integer labels [n]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return Images(self.x[index], self.y[index])

    @property
    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        sha = hashlib.sha256(np.ascontiguousarray(self.x).reshape(-1))
        sha.update(np.asarray(self.y, np.int32).tobytes())
        return sha.hexdigest()

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1]."""
        return as_float(self.x).numpy()

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of every channel, of levels in [0, 1]: float64 [c] each."""
        total, squares = 0.0, 0.0
        for first in range(0, len(self), BLOCK):
            levels = self.x[first : first + BLOCK].reshape(-1, self.x.shape[-1])
            levels = levels / (255.0 if self.x.dtype == np.uint8 else 1.0)
            total = total + levels.sum(0, dtype="float64")
            squares = squares + np.square(levels, dtype="float64").sum(0)
        count = self.x.size // self.x.shape[-1]
        return total / count, squares / count - np.square(total / count)

    def train_batches(
        self,
        batch_size: int,
        seed: int = 0,
        augmentation: Augmentation = PLAIN,
        first_step: int = 0,
        num_classes: int | None = None,
    ) -> tf.data.Dataset:
        """Endless shuffled batches (x float32 in [0, 1], y int32), the ragged rest dropped.

        Args:
            batch_size: Global batch size.
            seed: With the step, decides order and augmentation.
            augmentation: What is done to every image anew each time.
            first_step: Where to begin: step s of epoch e is e * (n // batch_size) + s.
            num_classes: Classes of the data set; needed by CutMix only.

        Returns:
            A data set to be trained on with `steps_per_epoch=n // batch_size`; with CutMix
            y is float32 [batch_size, num_classes], rows that sum to 1.
        """
        if len(self) < batch_size:
            raise InputError(
                f"A batch of {batch_size} is larger than the {len(self)} training images; "
                "choose a smaller batch_size."
            )
        augmentation.check(self.x.shape[1:], batch_size, num_classes)
        steps = len(self) // batch_size
        fill = self._grey() if augmentation.cutout else None
        with tf.device("CPU"):
            x, y = tf.constant(padded(self.x, augmentation)), tf.constant(self.y)

        def batch(step):
            epoch, first = step // steps, (step % steps) * batch_size
            position = tf.range(batch_size)
            index = tf.random.experimental.index_shuffle(
                tf.cast(first, tf.int32) + position,
                tf.cast(tf.stack([seed, epoch]), tf.int32),
                len(self) - 1,
            )
            # Augmentation has a stream of its own beside the attack's noise.
            seeds = noise.fork(noise.example_seeds(seed, step, position), 0xA06)
            images, labels = tf.gather(x, index), tf.gather(y, index)
            images, labels = augment(images, labels, seeds, augmentation, fill, num_classes)
            return as_float(images), labels

        data = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        return untuned(data.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4))

    def _grey(self):
        """The mean of every channel, as a pixel of these images."""
        mean, _ = self.statistics()
        mean = np.round(255 * mean) if self.x.dtype == np.uint8 else mean
        return mean.astype(self.x.dtype)

    def batches(self, batch_size: int, num_classes: int | None = None) -> tf.data.Dataset:
        """(x float32 in [0, 1], y) in order; the last batch may be smaller.

        With `num_classes` the labels are one-hot [n, num_classes], as those of CutMix.
        """
        index = tf.data.Dataset.range(len(self)).batch(batch_size)
        with tf.device("CPU"):
            x, y = tf.constant(self.x), tf.constant(self.y)

        def batch(index):
            labels = tf.gather(y, index)
            if num_classes is not None:
                labels = tf.one_hot(labels, num_classes)
            return as_float(tf.gather(x, index)), labels

        return untuned(index.map(batch).prefetch(2))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set, split; what training and evaluation need to know of it."""

    name: str
    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    augmentation: Augmentation

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train.x.shape[1:]

    @property
    def digest(self) -> str:
        """Short hash of the training images: part of a run's identity."""
        return self.train.digest[:16]


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


def _reader(name):
    """The function of data_dir that reads a data set, of `DATASETS` or of `SOURCES`."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in SOURCES and not rest:
        raise InputError(
            f"{name!r} lacks what follows the colon: tfds:NAME, npz:FILE or dir:FOLDER."
        )
    sources = {
        f"{source}:{rest or '...'}": functools.partial(read, rest)
        for source, read in SOURCES.items()
    }
    return choose({**DATASETS, **sources}, name, "data set")


def load(
    name: str,
    data_dir: str | None = None,
    validation: int | None = None,
    training: bool = True,
) -> Dataset:
    """The data set called `name`.

        data = vfd_tf.load_data("cifar10")
        x, y = data.test.floats(), data.test.y

    The data sets of `DATASETS` keep their official order. Others may be sorted by class,
    so each split is shuffled once, always the same way.

    Args:
        name: A key of `DATASETS`, or "tfds:NAME", "npz:FILE", "dir:FOLDER".
        data_dir: Where tensorflow-datasets finds or prepares it; default: its own folder.
        validation: How many images at the end of the training split are held out;
            default: 1,000, at most a tenth.
        training: Refuse data sets without enough images to train and validate on.
    """
    train, test, class_names, augmentation = _reader(name)(data_dir)
    if name not in DATASETS:
        train, test = _shuffled(train), _shuffled(test)
    if validation is None:
        validation = min(1000, len(train) // 10)
    if training and not len(train):
        raise InputError(
            f"{name} has test images alone; save x_train and y_train in it, to train on."
        )
    if training and not 0 < validation < len(train):
        raise InputError(
            f"A validation split of {validation} images doesn't fit the {len(train)} "
            f"training images of {name}; choose between 1 and {len(train) - 1}."
        )
    kept = train[: len(train) - validation]
    some = kept if len(kept) else test
    mean, variance = (np.round(values, 4).tolist() for values in some.statistics())
    return Dataset(
        name=name,
        train=kept,
        validation=train[len(train) - validation :],
        test=test,
        class_names=tuple(class_names),
        mean=tuple(mean),
        variance=tuple(variance),
        augmentation=augmentation,
    )


def _shuffled(images):
    return images[np.random.RandomState(0).permutation(len(images))]


def digits(data_dir: str | None = None) -> tuple:
    """scikit-learn's 1,797 digits, 8x8x1, built in; a fixed fifth is the test split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.round(data.images[..., None] * 255 / 16).astype("uint8")
    order = np.random.RandomState(0).permutation(len(x))
    images = Images(x, data.target.astype("int32"))[order]
    names = [str(n) for n in data.target_names]
    return images[:-360], images[-360:], names, PLAIN


def cifar10(data_dir: str | None = None) -> tuple:
    """CIFAR-10: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return tfds_images("cifar10", data_dir, Augmentation(pad=4, flip=True))


def cifar100(data_dir: str | None = None) -> tuple:
    """CIFAR-100: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return tfds_images("cifar100", data_dir, Augmentation(pad=4, flip=True))


def svhn_cropped(data_dir: str | None = None) -> tuple:
    """SVHN: 73,257 + 26,032 house numbers 32x32x3, through tensorflow-datasets."""
    return tfds_images("svhn_cropped", data_dir, Augmentation(pad=4))


def tfds_images(
    name: str, data_dir: str | None = None, augmentation: Augmentation | None = None
) -> tuple:
    """A data set of tensorflow-datasets, see `readers.read_tfds`; else as `npz_file`.

    NAME may have a configuration: "cmaterdb/bangla".
    """
    return _images(readers.read_tfds(name, data_dir), augmentation)


def npz_file(path: str, data_dir: str | None = None) -> tuple:
    """An archive of arrays, see `image_archives.read_npz`.

    Images of 32 pixels and more are cropped out of a padding of 4. None are flipped: files
    don't tell whether a mirror image, of a digit or a road sign, keeps its class.
    """
    return _images(image_archives.read_npz(path))


def image_folder(path: str, data_dir: str | None = None) -> tuple:
    """Folders of image files, see `readers.read_folder`; else as `npz_file`."""
    return _images(readers.read_folder(path))


def _images(read, augmentation=None):
    train, test, class_names = Images(*read[0]), Images(*read[1]), read[2]
    cautious = Augmentation(pad=4 if min(train.x.shape[1:3]) >= 32 else 0)
    return train, test, class_names, augmentation or cautious


DATASETS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "svhn_cropped": svhn_cropped,
}
SOURCES = {"tfds": tfds_images, "npz": npz_file, "dir": image_folder}
