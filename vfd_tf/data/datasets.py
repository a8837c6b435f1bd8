"""Data sets: images as uint8, batches as pure functions of (seed, step).

`load(name)` gives train, validation and test images. The order of an epoch and all
augmentation are functions of (seed, step, position in the batch) alone, so training
resumes at any step with the data it would have seen.

What has up to `holding.LIMIT` bytes of decoded pixels is held in memory: n * h * w * c
bytes (floats: four times that), once more for every split that batches are taken from,
enlarged by the padding of the crop, and for a moment, while that copy is made, twice more.
CIFAR-10's 0.17 GiB raise a process from 0.6 to at most 1.6 GiB. What has more is read from
disk as it is needed, see `stored`.
"""

import dataclasses
import functools

import numpy as np

from vfd_tf.data import image_archives, image_folders, tfds_sets
from vfd_tf.data.augmentation import Augmentation
from vfd_tf.data.holding import Holding
from vfd_tf.data.splits import PLAIN, Images, Split, as_float, untuned
from vfd_tf.data.stored import Arrays, Source, StoredImages
from vfd_tf.data.training_batches import TrainingBatches
from vfd_tf.hyperparameters import InputError, choose

__all__ = [
    "DATASETS",
    "SOURCES",
    "Augmentation",
    "Dataset",
    "Images",
    "Split",
    "StoredImages",
    "TrainingBatches",
    "as_float",
    "cifar10",
    "cifar100",
    "digits",
    "image_folder",
    "load",
    "npz_file",
    "svhn_cropped",
    "tfds_images",
    "untuned",
]
AS_IT_IS = Holding()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set, split; what training and evaluation need to know of it."""

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    augmentation: Augmentation

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train.shape

    @property
    def digest(self) -> str:
        """Short hash of the training images: part of a run's identity."""
        return self.train.digest[:16]


def _reader(name):
    """The function of (data_dir, holding) that reads a set, of `DATASETS` or `SOURCES`."""
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
    image_size: int | None = None,
    hold: str = "auto",
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
        image_size: Images are resized and cropped to squares of this side, see `squares`;
            default: as they are, of one size.
        hold: Where pixels are held: "memory", "disk", or "auto", by the size of the set. On
            disk a set has another digest than in memory, and its statistics come from
            `stored.SAMPLE` images; its batches are the same.
    """
    holding = Holding(hold, image_size)
    train, test, class_names, augmentation = _reader(name)(data_dir, holding)
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
    mean, variance = some.statistics()
    if isinstance(some, StoredImages):
        some.source.say_remarks()
    return Dataset(
        name=name,
        train=kept,
        validation=train[len(train) - validation :],
        test=test,
        class_names=tuple(class_names),
        mean=tuple(np.round(mean, 4).tolist()),
        variance=_divisible(variance, name if training else None),
        augmentation=augmentation,
    )


def _divisible(variance, told):
    """Variances in four digits, none of them 0: networks divide by their roots.

    Args:
        told: The name of the data set in a note on such channels; None: no note.
    """
    rounded = np.round(variance, 4)
    low = np.flatnonzero(rounded == 0)
    if told and len(low):
        channels = f"channel{'s' * (len(low) > 1)} {' and '.join(map(str, low))}"
        print(
            f"Note: {channels} of {told} hardly var{'y' if len(low) > 1 else 'ies'}: see "
            "that pixels use the range from 0 to 255, or to 1 as floats."
        )
    exact = np.where(variance > 1e-6, variance, 1.0)
    return tuple(np.where(rounded == 0, exact, rounded).tolist())


def _shuffled(images):
    return images[np.random.RandomState(0).permutation(len(images))]


def digits(data_dir: str | None = None, holding: Holding = AS_IT_IS) -> tuple:
    """scikit-learn's 1,797 digits, 8x8x1, built in; a fixed fifth is the test split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.round(data.images[..., None] * 255 / 16).astype("uint8")
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order], data.target.astype("int32")[order]
    names = [str(n) for n in data.target_names]
    parts = (x[:-360], y[:-360]), (x[-360:], y[-360:])
    return (*_arrays("digits", parts, holding), names, _augmentation(PLAIN, holding))


def cifar10(data_dir: str | None = None, holding: Holding = AS_IT_IS) -> tuple:
    """CIFAR-10: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return tfds_images("cifar10", data_dir, holding, Augmentation(pad=4, flip=True))


def cifar100(data_dir: str | None = None, holding: Holding = AS_IT_IS) -> tuple:
    """CIFAR-100: 50,000 + 10,000 images 32x32x3, through tensorflow-datasets."""
    return tfds_images("cifar100", data_dir, holding, Augmentation(pad=4, flip=True))


def svhn_cropped(data_dir: str | None = None, holding: Holding = AS_IT_IS) -> tuple:
    """SVHN: 73,257 + 26,032 house numbers 32x32x3, through tensorflow-datasets."""
    return tfds_images("svhn_cropped", data_dir, holding, Augmentation(pad=4))


def tfds_images(
    name: str,
    data_dir: str | None = None,
    holding: Holding = AS_IT_IS,
    augmentation: Augmentation | None = None,
) -> tuple:
    """A data set of tensorflow-datasets, see `tfds_sets.read_tfds`; else as `npz_file`.

    NAME may have a configuration: "cmaterdb/bangla".
    """
    source, count, names = tfds_sets.read_tfds(name, data_dir, holding)
    train, test = _held(source, count, holding)
    augmentation = augmentation or _cautious(train.held)
    return train, test, names, _augmentation(augmentation, holding)


def npz_file(path: str, data_dir: str | None = None, holding: Holding = AS_IT_IS) -> tuple:
    """An archive of arrays, see `image_archives.read_npz`.

    Images of 32 pixels and more are cropped out of a padding of 4. None are flipped: files
    don't tell whether a mirror image, of a digit or a road sign, keeps its class.
    """
    *parts, names = image_archives.read_npz(path)
    train, test = _arrays(path, parts, holding)
    return train, test, names, _augmentation(_cautious(train.held), holding)


def image_folder(
    path: str, data_dir: str | None = None, holding: Holding = AS_IT_IS
) -> tuple:
    """Folders of image files, see `image_folders.read_folder`; else as `npz_file`."""
    source, count, names = image_folders.read_folder(path, holding.side)
    train, test = _held(source, count, holding)
    return train, test, names, _augmentation(_cautious(train.held), holding)


def _cautious(shape):
    return Augmentation(pad=4 if min(shape[:2]) >= 32 else 0)


def _augmentation(augmentation, holding):
    """Of squares, a crop of the square takes the place of one out of a padding."""
    if not holding.image_size:
        return augmentation
    return augmentation.replace(pad=0, crop=holding.image_size)


def _arrays(name, parts, holding):
    """(train, test) of arrays in memory ((x, y), (x, y)), as squares if they are wanted."""
    if holding.side:
        if parts[0][0].dtype != np.uint8:
            raise InputError(
                f"The images of {name} are floats; save uint8 to have them resized with "
                "--image_size."
            )
        return _held(Arrays(name, parts, holding.side), len(parts[0][1]), holding)
    if holding.hold == "disk":
        raise InputError(
            f"The images of {name} are read as a whole; leave --hold=disk out, or save "
            "them as files and name them as dir:FOLDER."
        )
    return tuple(Images(*part) for part in parts)


def _held(source: Source, count: int, holding: Holding) -> tuple[Split, Split]:
    """(train, test) of a source, in memory or on disk; the first `count` are the former."""
    crop = holding.image_size
    if source.refusal and holding.too_large(len(source), source.shape):
        raise InputError(source.refusal)
    if holding.in_memory(source.name, len(source), source.shape):
        x, y = source.everything()
        return Images(x[:count], y[:count], crop), Images(x[count:], y[count:], crop)
    source.check()
    index = np.arange(len(source))
    return StoredImages(source, index[:count], crop), StoredImages(
        source, index[count:], crop
    )


DATASETS = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "svhn_cropped": svhn_cropped,
}
SOURCES = {"tfds": tfds_images, "npz": npz_file, "dir": image_folder}
