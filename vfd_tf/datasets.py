"""Data sets: images in memory as uint8, batches as pure functions of (seed, step).

`load(name)` gives train, validation and test images. The order of an epoch, the crops
and the flips are functions of (seed, step, position in the batch) alone, so training
resumes at any step with the data it would have seen.
"""

import dataclasses
import hashlib

import numpy as np
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.part import InputError, choose


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop out of a zero-padded image and horizontal flip."""

    pad: int = 0
    flip: bool = False


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
        sha = hashlib.sha256(np.ascontiguousarray(self.x).tobytes())
        sha.update(np.asarray(self.y, np.int32).tobytes())
        return sha.hexdigest()

    def floats(self) -> np.ndarray:
        """All images as float32 in [0, 1]."""
        return as_float(self.x).numpy()

    def train_batches(
        self, batch_size, seed=0, augmentation=Augmentation(), first_step=0
    ) -> tf.data.Dataset:
        """Endless shuffled batches (x float32 in [0, 1], y int32), the ragged rest dropped.

        Args:
            batch_size: Global batch size.
            seed: With the step, decides order, crops and flips.
            augmentation: What is done to every image anew each time.
            first_step: Where to begin: step s of epoch e is e * (n // batch_size) + s.

        Returns:
            A data set to be trained on with `steps_per_epoch=n // batch_size`.
        """
        if len(self) < batch_size:
            raise InputError(
                f"A batch of {batch_size} is larger than the {len(self)} training images; "
                "choose a smaller batch_size."
            )
        steps = len(self) // batch_size
        with tf.device("CPU"):
            x, y = tf.constant(_padded(self.x, augmentation.pad)), tf.constant(self.y)

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
            images = _augment(tf.gather(x, index), seeds, augmentation)
            return as_float(images), tf.gather(y, index)

        data = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        return data.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)

    def batches(self, batch_size) -> tf.data.Dataset:
        """(x, y, weight) in order; the last batch is filled up with images of weight 0."""
        fill = -len(self) % batch_size
        index = np.concatenate([np.arange(len(self)), np.zeros(fill, int)])
        weight = np.concatenate([np.ones(len(self)), np.zeros(fill)]).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((index.astype("int32"), weight))
        data = data.batch(batch_size, drop_remainder=True)
        with tf.device("CPU"):
            x, y = tf.constant(self.x), tf.constant(self.y)

        def batch(index, weight):
            return as_float(tf.gather(x, index)), tf.gather(y, index), weight

        return data.map(batch).prefetch(2)


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


def as_float(x) -> tf.Tensor:
    """uint8 grey levels -> float32 in [0, 1]; floats stay as they are."""
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


def load(name: str, data_dir: str | None = None, validation: int | None = None):
    """The data set called `name`, in its official order.

    Args:
        name: A key of `DATASETS`.
        data_dir: Where tensorflow-datasets finds or prepares it; default: its own folder.
        validation: How many images at the end of the training split are held out;
            default: 1,000, at most a tenth.
    """
    train, test, class_names, augmentation = choose(DATASETS, name, "data set")(data_dir)
    if validation is None:
        validation = min(1000, len(train) // 10)
    if not 0 < validation < len(train):
        raise InputError(
            f"A validation split of {validation} images doesn't fit the {len(train)} "
            f"training images of {name}; choose between 1 and {len(train) - 1}."
        )
    kept = train[: len(train) - validation]
    levels = kept.x.reshape(-1, kept.x.shape[-1]) / np.float32(255)
    return Dataset(
        name=name,
        train=kept,
        validation=train[len(train) - validation :],
        test=test,
        class_names=tuple(class_names),
        mean=tuple(np.round(levels.mean(0, dtype="float64"), 4).tolist()),
        variance=tuple(np.round(levels.var(0, dtype="float64"), 4).tolist()),
        augmentation=augmentation,
    )


def digits(data_dir=None):
    """scikit-learn's 1,797 digits, 8x8x1, built in; a fixed fifth is the test split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.round(data.images[..., None] * 255 / 16).astype("uint8")
    order = np.random.RandomState(0).permutation(len(x))
    images = Images(x, data.target.astype("int32"))[order]
    names = [str(n) for n in data.target_names]
    return images[:-360], images[-360:], names, Augmentation()


def cifar10(data_dir=None):
    """CIFAR-10: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return _from_tfds("cifar10", data_dir, Augmentation(pad=4, flip=True))


def cifar100(data_dir=None):
    """CIFAR-100: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return _from_tfds("cifar100", data_dir, Augmentation(pad=4, flip=True))


def _from_tfds(name, data_dir, augmentation):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:160]
        raise InputError(
            f"The data set {name} is not in {builder.data_dir} and can't be downloaded "
            f"({reason}); prepare it with tensorflow-datasets on a machine with a network "
            "and name that folder with --data_dir."
        ) from error
    train, test = (_in_order(builder, split) for split in ("train", "test"))
    return train, test, builder.info.features["label"].names, augmentation


def _in_order(builder, split) -> Images:
    """One split in its official order: tensorflow-datasets shuffles, its ids don't."""
    records = builder.as_dataset(split=split, batch_size=-1)
    order = np.argsort(records["id"].numpy().astype(str), kind="stable")
    return Images(
        records["image"].numpy()[order], records["label"].numpy()[order].astype("int32")
    )


def _padded(x, pad):
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def _augment(x, seeds, augmentation):
    """Crop each padded image at its own offset and flip half of them: [n, ...] uint8."""
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


DATASETS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
}
