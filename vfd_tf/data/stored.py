"""Images that are read as they are needed: sources of single images, and splits of them.

Labels are in memory, pixels in a `Source`. Memory for the pixels of a training: at most
`BATCHES` batches, of 5 bytes a value (uint8 and float32), and `CONSTANT` bytes for the
images that are being decoded and for statistics; no more for a larger set but its labels
and the names of its files.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf.data import squares
from vfd_tf.data.splits import Split, central
from vfd_tf.hyperparameters import InputError

SAMPLE = 5000  # images, evenly spaced, that the statistics of a stored split come from
PARALLEL, READY = 2, 2  # batches that are being made, and batches that are made
BATCHES = PARALLEL + READY + 2  # and one that waits between them, and one in use
CONSTANT = 2**26
RECORDS = 100  # of a source, held at once where all of them are read


class Source:
    """Images, training and then test images, that are read one by one.

    Attributes:
        name: As the user knows it.
        y: Labels int32 [n], or None where `everything` finds them.
        shape: Of every image as it is read, [h, w, c].
        refusal: Why single images can't be read, one sentence; None: they can.
        remarks: What was left out of images that were read -> of how many.
        seen: How many were read.
    """

    refusal: str | None = None

    def __init__(self, name: str, count: int, y: np.ndarray | None, shape, side=None):
        self.name, self.count, self.y, self.side = name, count, y, side
        self.shape = (side, side, shape[-1]) if side else tuple(shape)
        self.remarks, self.seen = collections.Counter(), 0

    def __len__(self):
        return self.count

    def records(self, index: Sequence[int]) -> Sequence[Any]:
        """What `decode` takes, for some of the images."""
        return index

    def decode(self, record: Any) -> tuple[np.ndarray, Sequence[str]]:
        """(pixels uint8 [h, w, c], what was left out of them) of one record."""
        raise NotImplementedError

    def title(self, record: Any) -> str:
        """What an image is called in a refusal."""
        return f"An image of {self.name}"

    def check(self) -> None:
        """Raises `InputError` for an image that is known not to fit before it is read."""

    def marks(self, index: np.ndarray) -> str:
        """What tells these images from others, for a digest, without reading them."""
        raise NotImplementedError

    def read(self, index: Sequence[int], x: np.ndarray | None = None) -> np.ndarray:
        """Some images, uint8 [m, h, w, c], decoded in parallel; into `x` if it is given."""
        x = np.empty((len(index), *self.shape), np.uint8) if x is None else x
        records = self.records(index)

        def fill(i):
            image, remarks = self.decode(records[i])
            image = squares.square(image, self.side) if self.side else image
            if image.shape != self.shape:
                raise InputError(self.misfit(records[i], image.shape))
            x[i] = image
            return remarks

        for remarks in pool().map(fill, range(len(records))):
            self.remarks.update(remarks)
        self.seen += len(records)
        return x

    def misfit(self, record: Any, shape: Sequence[int]) -> str:
        """The sentence for an image of another shape than the first."""
        found, wanted = ("x".join(map(str, s)) for s in (shape, self.shape))
        other = self.title(self.records([0])[0])
        fix = "resize them all with --image_size=224, or to one size beforehand"
        if shape[-1] != self.shape[-1]:
            fix = "convert all images to greyscale, or all to RGB, beforehand"
        title = self.title(record)
        return f"{title} is {found} pixels where {other} is {wanted}; {fix}."

    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of all images."""
        x = np.empty((len(self), *self.shape), np.uint8)
        for first in range(0, len(self), RECORDS):
            index = np.arange(first, min(first + RECORDS, len(self)))
            self.read(index, x[first : first + RECORDS])
        self.say_remarks()
        return x, self.y

    def say_remarks(self) -> None:
        """Warns, once, of what was left out of the images read so far."""
        for remark, count in self.remarks.items():
            text = f"{count} of {self.seen} images of {self.name} {remark}."
            warnings.warn(text, stacklevel=2)
        self.remarks.clear()


class Arrays(Source):
    """Arrays in memory whose images are made into squares when they are needed."""

    def __init__(self, name: str, parts: Sequence[tuple], side: int):
        self.x = [image for x, _ in parts for image in x]
        y = np.concatenate([y for _, y in parts])
        super().__init__(name, len(y), y, parts[0][0].shape[1:], side)

    def decode(self, record: Any) -> tuple[np.ndarray, Sequence[str]]:
        return self.x[record], ()

    def marks(self, index: np.ndarray) -> str:
        sha = hashlib.sha256()
        for i in index:
            sha.update(np.ascontiguousarray(self.x[i]))
        return f"{self.x[0].shape} {sha.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class StoredImages(Split):
    """Images of a source, read when they are needed, and integer labels [n] in memory.

    Batches are the same bits as those of `Images` with these pixels. Slices read nothing;
    `x` reads all, and is for slices of few images.
    """

    source: Source
    index: np.ndarray  # which images of the source, in order
    crop: int | None = None

    parallel, ready = PARALLEL, READY
    dtype = np.dtype(np.uint8)

    def __getitem__(self, index):
        return StoredImages(self.source, self.index[index], self.crop)

    @property
    def x(self) -> np.ndarray:
        return self.source.read(self.index)

    @functools.cached_property
    def y(self) -> np.ndarray:
        return self.source.y[self.index]

    @property
    def held(self) -> tuple[int, ...]:
        return self.source.shape

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of names and sizes of files, labels, and the size of the images."""
        shape = f"{self.held} crop {self.crop}\n"
        sha = hashlib.sha256((shape + self.source.marks(self.index)).encode())
        sha.update(np.asarray(self.y, np.int32).tobytes())
        return sha.hexdigest()

    def __len__(self):
        return len(self.index)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Split.statistics`, of at most `SAMPLE` images, evenly spaced."""
        count = min(len(self), SAMPLE)
        return Split.statistics(self[np.arange(count) * len(self) // max(count, 1)])

    def pixels(self, whole: bool, pad: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
        """See `Split.pixels`; a call reads these images."""

        def read(index):
            return self.source.read(self.index[index])

        def gather(index):
            x = tf.numpy_function(read, [index], tf.uint8)
            x.set_shape([index.shape[0], *self.held])
            x = x if whole else central(x, self.crop)
            return tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]) if pad else x

        return gather

    def parts(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `Split.parts`; the next part is read while one is used."""
        slices = [self[i : i + batch_size] for i in range(0, len(self), batch_size)]
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            coming = None
            for i, part in enumerate(slices):
                x = coming.result() if coming else part.floats()
                if i + 1 < len(slices):
                    coming = ahead.submit(slices[i + 1].floats)
                yield x, part.y


@functools.cache
def pool() -> concurrent.futures.ThreadPoolExecutor:
    """The threads that decode, one for every core that this process may use."""
    available = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return concurrent.futures.ThreadPoolExecutor(len(available(0)), "decode")
