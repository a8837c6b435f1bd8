"""Readers of images: tensorflow-datasets and folders of image files.

Each gives ((x, y) of train, (x, y) of test, class names): images [n, h, w, c], uint8 or
float32 in [0, 1], and labels int32 [n]. What doesn't fit is refused in one sentence.
"""

import collections
import contextlib
import difflib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vfd_tf.data import image_decoding
from vfd_tf.hyperparameters import InputError, reason

BLOCK = 1000  # images that are held beside the array they go into
RETRIES = 3  # of a download


def check_memory(name: str, count: int, shape) -> None:
    """Raises `InputError` if `count` uint8 images of `shape` can't be trained on in memory.

    They are needed twice, as read and as the copy that batches are gathered from.
    """
    import psutil

    needed, free = 2 * count * int(np.prod(shape)), psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{name} holds {count} images of {'x'.join(map(str, shape))}, which need "
            f"{needed / 2**30:.1f} GiB of memory where {free / 2**30:.1f} are free; take "
            "fewer or smaller images."
        )


def read_tfds(name: str, data_dir: str | None = None):
    """Any image classification set of tensorflow-datasets, prepared if need be.

    A `data_dir` has to be there. The set has the features `image`, uint8 of one fixed
    shape with 1 or 3 channels, and `label`, and the splits `train` and `test`, or else
    `validation`. The order is by `id` where there is one, because tensorflow-datasets
    shuffles; else that of its files.
    """
    local = data_dir and "://" not in str(data_dir)
    if local and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(
            f"There is no folder {data_dir} for --data_dir: correct it, or make it first "
            f"to have {name} downloaded into it."
        )
    builder = _builder(name, data_dir)
    shape = _image_shape(name, builder.info.features)
    try:
        with _few_retries():
            builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"The data set {name} is not in {builder.data_dir} and can't be downloaded "
            f"({reason(error)}); prepare it with tensorflow-datasets on a machine with a "
            "network and name that folder with --data_dir."
        ) from error
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = "train", "test" if "test" in sizes else "validation"
    if not all(sizes.get(split) for split in splits):
        raise InputError(
            f"{name} has the splits {', '.join(sizes)}; a data set needs train and test: "
            "save its images so with numpy.savez and name them as npz:FILE."
        )
    check_memory(name, sum(sizes[split] for split in splits), shape)
    train, test = (_in_order(builder, split, sizes[split], shape) for split in splits)
    class_names = builder.info.features["label"].names
    for split, (_, y) in zip(splits, (train, test), strict=True):
        if not 0 <= y.min() <= y.max() < len(class_names):
            raise InputError(
                f"The {split} split of {name} has images without a label; save those that "
                "have one as npz:FILE."
            )
    return train, test, class_names


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


def _image_shape(name, features):
    """Height, width and channels that all images of a data set have."""
    import tensorflow_datasets as tfds

    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    found = dict(features.items()) if hasattr(features, "items") else {}
    if not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise InputError(
            f"{name} is no image classification set: it needs the features image and "
            f"label and has {', '.join(found)}; choose another, or save it as npz:FILE."
        )
    image = features["image"]
    if None in image.shape:
        raise InputError(
            f"The images of {name} have several sizes; resize them to one beforehand and "
            "name them as npz:FILE or dir:FOLDER."
        )
    if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise InputError(
            f"The images of {name} are {np.dtype(image.np_dtype)} of {image.shape[-1]} "
            "channels; convert them to uint8 of 1 or 3 and name them as npz:FILE."
        )
    return image.shape


def _in_order(builder, split, count, shape):
    """(x, y) of one split by its ids, else in the order of the files."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = [key for key in ("image", "label", "id") if key in features]
    only = tfds.decode.PartialDecoding(dict.fromkeys(keys, True))
    data = builder.as_dataset(
        split=split,
        batch_size=BLOCK,
        decoders=only if len(features) > len(keys) else None,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        shuffle_files=False,
    )
    x, y, ids = np.empty((count, *shape), "uint8"), np.empty(count, "int32"), []
    for i, block in enumerate(data.as_numpy_iterator()):
        here = slice(i * BLOCK, (i + 1) * BLOCK)
        x[here], y[here] = block["image"], block["label"]
        ids.extend(block.get("id", ()))
    if not ids:
        return x, y
    order = np.argsort(np.array(ids), kind="stable")
    return x[order], y[order]


def read_folder(path: str):
    """The images of FOLDER/train/CLASS/* and of FOLDER/test/CLASS/*, of any format.

    Without either folder, of FOLDER/CLASS: a fixed fifth of every class is the test split.
    The order is that of the sorted paths, the classes are the sorted folder names, and
    names that begin with a dot are passed over. All images have one size, and are all
    greyscale or all RGB. What is read of a file says `image_decoding`; files that are not
    read are counted in a warning.
    """
    path = os.path.expanduser(path)
    roots = [os.path.join(path, split) for split in ("train", "test")]
    there = [os.path.isdir(root) for root in roots]
    if any(there) and not all(there):
        raise InputError(
            f"{path} has a {'train' if there[0] else 'test'} folder but no "
            f"{'test' if there[0] else 'train'} folder; add it, or put the class folders "
            f"directly under {path} to have a fifth held out."
        )
    if all(there):
        train, test = map(_files, roots)
        if train.keys() != test.keys():
            raise InputError(
                f"Only one of {roots[0]} and {roots[1]} has the class folders "
                f"{', '.join(sorted(train.keys() ^ test.keys())[:5])}; give both the same."
            )
    else:
        train, test = _held_out(_files(path), path)
    paths = [[p for files in part.values() for p in files] for part in (train, test)]
    _say_left_out(path, sum(paths, []))
    x, count = _decoded(sum(paths, []), path), len(paths[0])
    labels = [np.repeat(range(len(p)), [len(f) for f in p.values()]) for p in (train, test)]
    train_y, test_y = (y.astype("int32") for y in labels)
    return (x[:count], train_y), (x[count:], test_y), list(train)


def _files(root):
    """{class: paths of its images}, both sorted."""
    if not os.path.isdir(root):
        raise InputError(f"There is no folder {root}; name one with a folder per class.")
    classes = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class folders; put the images of each of two or "
            "more classes into a folder of its own."
        )
    files = {}
    for name in classes:
        folder = os.path.join(root, name)
        files[name] = [
            os.path.join(folder, file)
            for file in sorted(os.listdir(folder))
            if _suffix(file) in image_decoding.suffixes() and not file.startswith(".")
        ]
        if not files[name]:
            raise InputError(
                f"{folder} holds no image files (.png, .jpg, .webp, ...); put the images "
                "of the class directly into it, or remove it."
            )
    return files


def _suffix(file):
    return os.path.splitext(file)[1].lower()


def _say_left_out(root, taken):
    """Warns of the files under a folder that are not among those `taken`."""
    taken, seen, count = set(taken), set(), collections.Counter()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))  # links may lead round in a circle
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and os.path.realpath(os.path.join(folder, name)) not in seen
        ]
        for name in names:
            if os.path.join(folder, name) not in taken and not name.startswith("."):
                suffix = _suffix(name)
                image = suffix in image_decoding.suffixes()
                kind = f"{suffix} outside the class folders" if image else suffix
                count[kind or "without a suffix"] += 1
    if count:
        order = sorted(count.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{number} {kind}" for kind, number in order]
        kinds[5:] = ["and others"] if kinds[5:] else []
        warnings.warn(
            f"Images are read from {len(taken)} of the {len(taken) + count.total()} files "
            f"in {root}; left out: {', '.join(kinds)}.",
            stacklevel=2,
        )


def _held_out(files, path):
    """Splits every class: a fixed fifth of it, at least one image, is the test split."""
    train, test = {}, {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise InputError(
                f"{os.path.join(path, name)} holds one image; a class needs two or more, "
                "to be trained and tested on."
            )
        order = np.random.RandomState(0).permutation(len(paths))
        held = set(order[: max(1, len(paths) // 5)].tolist())
        train[name] = [p for i, p in enumerate(paths) if i not in held]
        test[name] = [p for i, p in enumerate(paths) if i in held]
    return train, test


def _decoded(paths, name):
    """Images [n, h, w, c] uint8 of files that must all have the size of the first."""
    x, remarks = None, collections.Counter()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(paths), BLOCK):
            block = paths[first : first + BLOCK]
            found = pool.map(image_decoding.decode, block)
            for i, (image, left_out) in enumerate(found, first):
                if x is None:
                    check_memory(name, len(paths), image.shape)
                    x = np.empty((len(paths), *image.shape), np.uint8)
                if image.shape != x.shape[1:]:
                    _refuse_another_size(paths[i], image, paths[0], x)
                x[i] = image
                remarks.update(left_out)
    for remark, count in remarks.items():
        warnings.warn(f"{count} of {len(paths)} images of {name} {remark}.", stacklevel=2)
    return x


def _refuse_another_size(path, image, first, x):
    sizes = ["x".join(map(str, shape)) for shape in (image.shape, x.shape[1:])]
    raise InputError(
        f"{path} is {sizes[0]} pixels where {first} is {sizes[1]}; resize or convert all "
        "images to one size and one number of channels beforehand."
    )
