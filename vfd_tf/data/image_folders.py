"""Reader of folders of image files, as `tfds_sets` and `image_archives` read the others."""

import collections
import os
import warnings
from collections.abc import Sequence

import numpy as np

from vfd_tf.data import image_decoding
from vfd_tf.data.stored import Source, pool
from vfd_tf.hyperparameters import InputError


class Files(Source):
    """Image files of a folder."""

    def __init__(self, folder: str, paths: list[str], y: np.ndarray, side=None):
        self.folder, self.paths = folder, paths
        shape = image_decoding.decode(paths[0])[0].shape
        super().__init__(folder, len(paths), y, shape, side)

    def records(self, index: Sequence[int]) -> list[str]:
        return [self.paths[i] for i in index]

    def decode(self, record: str) -> tuple[np.ndarray, Sequence[str]]:
        return image_decoding.decode(record)

    def title(self, record: str) -> str:
        return record

    def marks(self, index: np.ndarray) -> str:
        """Paths in the folder and sizes in bytes."""
        lines = []
        for path in self.records(index):
            name = os.path.relpath(path, self.folder).replace(os.sep, "/")
            lines.append(f"{name} {os.path.getsize(path)}")
        return "\n".join(lines)

    def check(self) -> None:
        """Raises `InputError` for the first file whose header has another shape."""
        outlines = pool().map(image_decoding.outline, self.paths)
        for path, (height, width, channels) in zip(self.paths, outlines, strict=True):
            size = (self.side, self.side) if self.side else (height, width)
            if (*size, channels) != self.shape:
                raise InputError(self.misfit(path, (*size, channels)))


def read_folder(path: str, side: int | None = None) -> tuple[Source, int, list[str]]:
    """The images of FOLDER/train/CLASS/* and of FOLDER/test/CLASS/*, of any format.

    Without either folder, of FOLDER/CLASS: a fixed fifth of every class is the test split.
    The order is that of the sorted paths, the classes are the sorted folder names, and
    names that begin with a dot are passed over. All images have one size, unless they are
    made into squares of a `side`, and are all greyscale or all RGB. What is read of a file
    says `image_decoding`; files that are not read are counted in a warning.

    Returns:
        The images, how many of them are for training, and the names of the classes.
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
    labels = [np.repeat(range(len(p)), [len(f) for f in p.values()]) for p in (train, test)]
    y = np.concatenate(labels).astype("int32")
    return Files(path, sum(paths, []), y, side), len(paths[0]), list(train)


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
