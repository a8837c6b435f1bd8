"""Reader of tensorflow-datasets, as `image_folders` reads folders of files."""

import contextlib
import difflib
import os
from collections.abc import Sequence

import numpy as np

from vfd_tf.data import image_decoding, squares
from vfd_tf.data.holding import Holding
from vfd_tf.data.stored import RECORDS, Source
from vfd_tf.hyperparameters import InputError, reason

ARRAY_RECORD = "array_record"  # the format whose records are read one by one
MEMORY = Holding("memory")
RETRIES = 3  # of a download


def read_tfds(
    name: str, data_dir: str | None = None, holding: Holding = MEMORY
) -> tuple[Source, int, list[str]]:
    """Any image classification set of tensorflow-datasets, prepared if need be.

    A `data_dir` has to be there. The set has the features `image`, uint8 of 1 or 3
    channels and, unless they become squares, of one fixed shape, and `label`, and the
    splits `train` and `test`, or else `validation`, which also stands in for a `test`
    without labels, as ImageNet's. The order is by `id` where there is one, because
    tensorflow-datasets shuffles; else that of its files.

    Returns:
        The images, how many of them are for training, and the names of the classes.
    """
    local = data_dir and "://" not in str(data_dir)
    if local and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(
            f"There is no folder {data_dir} for --data_dir: correct it, or make it first "
            f"to have {name} downloaded into it."
        )
    builder = _builder(name, data_dir)
    shape = _image_shape(name, builder.info.features, holding.side)
    _prepare(builder, name, shape, holding)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = "train", "test" if "test" in sizes else "validation"
    if not all(sizes.get(split) for split in splits):
        raise InputError(
            f"{name} has the splits {', '.join(sizes)}; a data set needs train and test: "
            "save its images so with numpy.savez and name them as npz:FILE."
        )
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    kind = ArrayRecords if ARRAY_RECORD in formats else Records
    if sizes.get("validation") and kind.first_label(builder, splits[1]) < 0:
        splits = "train", "validation"
    counts = {split: sizes[split] for split in splits}
    source = kind(name, builder, counts, shape, holding.side)
    return source, counts["train"], builder.info.features["label"].names


class Records(Source):
    """A prepared set whose files are read from the beginning to the end."""

    def __init__(self, name, builder, counts, shape, side=None):
        super().__init__(name, sum(counts.values()), None, shape, side)
        self.builder, self.counts = builder, counts
        self.refusal = (
            f"The images of {name} in {builder.data_dir} can't be read one by one; prepare "
            f"them in another folder, tfds.builder({name!r}, data_dir=FOLDER)"
            f".download_and_prepare(file_format={ARRAY_RECORD!r}), and name that with "
            "--data_dir, or have them in memory with --hold=memory."
        )

    @staticmethod
    def first_label(builder, split: str) -> int:
        """The label of the first image of a split."""
        import tensorflow_datasets as tfds

        only = tfds.decode.PartialDecoding({"label": True})
        data = builder.as_dataset(split=f"{split}[:1]", decoders=only)
        return next(data.as_numpy_iterator())["label"]

    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        x, parts, first = np.empty((len(self), *self.shape), np.uint8), [], 0
        for split, count in self.counts.items():
            labels, ids, i = [], [], first
            for block in self._blocks(split):
                for image in block["image"]:
                    x[i] = squares.square(image, self.side) if self.side else image
                    i += 1
                labels.extend(block["label"])
                ids.extend(block.get("id", ()))
            order, here = _by_id(ids, count), slice(first, first + count)
            x[here] = x[here][order]
            parts.append(_labels(self, split, labels)[order])
            first += count
        return x, np.concatenate(parts)

    def _blocks(self, split):
        """Images, labels and ids of a split, block by block, in the order of the files."""
        import tensorflow_datasets as tfds

        features = self.builder.info.features
        keys = [key for key in ("image", "label", "id") if key in features]
        only = tfds.decode.PartialDecoding(dict.fromkeys(keys, True))
        one_size = None not in features["image"].shape
        data = self.builder.as_dataset(
            split=split,
            batch_size=RECORDS if one_size else None,
            decoders=only if len(features) > len(keys) else None,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
        )
        for block in data.as_numpy_iterator():
            yield block if one_size else {key: [value] for key, value in block.items()}


class ArrayRecords(Source):
    """A prepared set in array-record files, whose records are read one by one.

    Labels and ids stand in the records: all of these are read once, and not decoded.
    """

    def __init__(self, name, builder, counts, shape, side=None):
        super().__init__(name, sum(counts.values()), None, shape, side)
        self.builder, self.splits = builder, []
        orders, labels, first = [], [], 0
        for split, count in counts.items():
            self.splits.append(_raw(builder, split))
            y, ids = self._scanned(self.splits[-1], count)
            order = _by_id(ids, count)
            orders.append(first + order)
            labels.append(_labels(self, split, y)[order])
            first += count
        self.order, self.train = np.concatenate(orders), counts["train"]
        self.y = np.concatenate(labels)
        self.parse = _parser(builder.info.features, "image")

    @staticmethod
    def first_label(builder, split: str) -> int:
        """The label of the first image of a split."""
        record = _raw(builder, split).__getitems__([0])[0]
        return _parser(builder.info.features, "label")(record)["label"]

    def _scanned(self, records, count):
        """Labels and ids of all records of a split, in their order."""
        parse = _parser(self.builder.info.features, "label", "id")
        labels, ids = [], []
        for first in range(0, count, RECORDS):
            index = range(first, min(first + RECORDS, count))
            for found in map(parse, records.__getitems__(index)):
                labels.append(found["label"])
                ids.extend([found["id"]] if "id" in found else [])
        return labels, ids

    def records(self, index: Sequence[int]) -> list[bytes]:
        place = self.order[np.asarray(index)]
        train, found = place < self.train, [b""] * len(place)
        for records, here, first in zip(
            self.splits, (train, ~train), (0, self.train), strict=True
        ):
            where = np.flatnonzero(here)
            if len(where):
                got = records.__getitems__((place[where] - first).tolist())
                for i, record in zip(where, got, strict=True):
                    found[i] = record
        return found

    def decode(self, record: bytes) -> tuple[np.ndarray, Sequence[str]]:
        data = self.parse(record)["image"]
        return image_decoding.of_tensorflow(data, self.shape[-1]), ()

    def marks(self, index: np.ndarray) -> str:
        """Name and version, files with their sizes, and the numbers of the records."""
        lines = [self.builder.info.full_name]
        for split in ("train", "test", "validation"):
            for path in self._files(split):
                lines.append(f"{os.path.basename(path)} {os.path.getsize(path)}")
        return "\n".join(lines) + f"\n{self.order[index].tolist()}"

    def _files(self, split):
        splits = self.builder.info.splits
        return (
            [os.fspath(path) for path in splits[split].filepaths] if split in splits else []
        )


def _raw(builder, split):
    """The records of a split, by their number."""
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw, file_format=ARRAY_RECORD)
    return source.data_source


def _parser(features, *wanted):
    """A function: record -> some of its features; the image stays encoded."""
    import tensorflow_datasets as tfds

    keys = [key for key in wanted if key in features]
    some = tfds.features.FeaturesDict({key: features[key] for key in keys})
    plain = {"image": tfds.decode.SkipDecoding()} if "image" in keys else None
    return lambda record: some.deserialize_example_np(record, decoders=plain)


def _by_id(ids, count):
    """The order of a split's images: by their ids, or if they have none as they come."""
    return np.argsort(np.array(ids), kind="stable") if ids else np.arange(count)


def _labels(source, split, labels):
    """Labels int32 [n] of a split, all of known classes, or an `InputError`."""
    y = np.array(labels, "int32")
    if not 0 <= y.min() <= y.max() < source.builder.info.features["label"].num_classes:
        raise InputError(
            f"The {split} split of {source.name} has images without a label; save those "
            "that have one as npz:FILE."
        )
    return y


def _prepare(builder, name, shape, holding):
    """Downloads and prepares a set, as array records where it may stay on disk."""
    sizes = [info.num_examples for info in builder.info.splits.values()]
    shape = (holding.side, holding.side, shape[-1]) if holding.side else shape
    may_stay = not sizes or holding.too_large(sum(sizes), shape)
    wanted = ARRAY_RECORD if may_stay and not builder.is_prepared() else None
    try:
        with _few_retries():
            builder.download_and_prepare(file_format=wanted)
    except Exception as error:
        raise InputError(
            f"The data set {name} is not in {builder.data_dir} and can't be downloaded "
            f"({reason(error)}); prepare it with tensorflow-datasets on a machine with a "
            "network and name that folder with --data_dir."
        ) from error


@contextlib.contextmanager
def _few_retries():
    """Inside, tensorflow-datasets gives up on a host within seconds.

    Its ten retries, each after twice the wait of the one before, take 200 s without a
    network.
    """
    from tensorflow_datasets.core.download import downloader

    before = getattr(downloader, "MAX_RETRIES", None)
    downloader.MAX_RETRIES = RETRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:
        known = tfds.list_builders(with_community_datasets=False)
        base = name.split("/")[0].split(":")[0]
        if base in known:
            known = [f"{base}/{each}" for each in tfds.builder_cls(base).builder_configs]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see tfds.list_builders()."
        raise InputError(
            f"tensorflow-datasets has no {name} ({reason(error)}); {hint}"
        ) from error


def _image_shape(name, features, side):
    """Height, width and channels of images; a size may be None where squares are made."""
    import tensorflow_datasets as tfds

    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    found = dict(features.items()) if hasattr(features, "items") else {}
    if not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise InputError(
            f"{name} is no image classification set: it needs the features image and "
            f"label and has {', '.join(found)}; choose another, or save it as npz:FILE."
        )
    image = features["image"]
    if None in image.shape[:2] and not side:
        raise InputError(
            f"The images of {name} have several sizes; resize them to one with "
            "--image_size=224."
        )
    if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise InputError(
            f"The images of {name} are {np.dtype(image.np_dtype)} of {image.shape[-1]} "
            "channels; convert them to uint8 of 1 or 3 and name them as npz:FILE."
        )
    return image.shape
