"""Windows of a data set: images that are checked, with labels, clean logits and seeds."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import losses, noise
from vfd_tf.data.batching import arrays_of, batches
from vfd_tf.data.splits import Split
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network

_UNBOUNDED = (
    " As they are, robust accuracies mean nothing: attacks clip their images to [0, 1], "
    "and so leave the ball around x."
)
SAME = 1e-4  # largest of the `changes` that rounding makes
_WINDOW_BYTES = 2**23  # of images; an attack's state is several times that


@dataclasses.dataclass
class Window:
    """Images of a data set, their labels, clean logits and seeds."""

    x: np.ndarray
    y: np.ndarray
    clean_logits: np.ndarray
    seeds: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Which images are classified correctly: bool [n]."""
        return is_correct(self.y, self.clean_logits)

    def __len__(self):
        return len(self.x)

    def take(self, index) -> dict[str, np.ndarray]:
        """Some of the images, as `Engine.examples` takes them."""
        return take(vars(self), index)

    def part(self, index) -> "Window":
        """Some of the images as a window of their own."""
        return Window(**self.take(index))


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of several workers evaluates of a data set: every `count`-th image.

    Verdicts are those of the whole: an image keeps its place, which decides its draws.

    Attributes:
        data: The whole.
        index: The worker, from 0.
        count: How many workers share it.
    """

    data: Any
    index: int
    count: int


class Windows:
    """Reads data sets for an attacked model, in windows.

    Args:
        model: An `AttackedModel`; its layout is settled by the images that are read.
        logits: Images [n, h, w, c] in [0, 1] -> its logits [n, c].
        batch_size: Images a batch; windows are multiples of it.
        strict: Refuse probabilities and images outside the bounds; else `objections`
            holds what is wrong with them.
        devices: How many share a window's batches.
    """

    def __init__(self, model, logits, batch_size, strict=True, devices=1):
        self.model, self.logits, self.batch_size = model, logits, batch_size
        self.strict, self.objections, self.devices = strict, [], devices

    def check(self, data) -> None:
        """Raises `InputError` for what `read` would refuse in the first batch."""
        first = next(batches(data, self.batch_size), None)
        if first is None:
            raise InputError("The data set is empty.")
        window = next(self.read(first))
        self._check_whole(data, window.clean_logits.shape[-1])

    def read(self, data, seed=0):
        """The `Window`s of a data set, in order; refuses bad input before it is attacked.

        Of what isn't in memory as a whole, that in a later window when it comes.
        """
        position, shape, model = 0, None, self.model
        first, narrow = True, model.bounds[0] < 0 or model.bounds[1] > 1
        share = data if isinstance(data, Share) else Share(data, 0, 1)
        data, every = share.data, share.count
        if every > 1 and isinstance(data, Split):  # of which others needn't be read
            data, every = data[share.index :: share.count], 1

        def size(x):
            return every * self.devices * self._per_window(x)

        for x, y in regrouped(batches(data, self.batch_size), size):
            places = np.arange(position, position + len(x))
            position += len(x)
            if every == 1:
                places = share.index + share.count * places
            else:
                own = places % every == share.index
                x, y, places = x[own], y[own], places[own]
            if not len(x):
                continue
            narrow = narrow and x.min() >= 0 and x.max() <= 1
            x = model.channels_last(model.inside(x))
            if self._holds(contract.check_images, x, model.bounds, but=_UNBOUNDED):
                x = np.clip(x, 0, 1)  # rounding errors of a normalisation
            x = x.astype(model.dtype)
            if x.shape[1:] != shape:
                contract.check_shape(model.classifier, model.outside(x[:1]))
                shape = x.shape[1:]
            logits = self.logits(x)
            if first:
                self._check_logits(x, logits)
                self._check_whole(data, logits.shape[-1])
            y = contract.class_indices(y, logits.shape[-1])
            seeds = noise.example_seeds(seed, 0, tf.constant(places, tf.int32)).numpy()
            first = False
            yield Window(x, y, logits, seeds)
        if first and share.count == 1:
            raise InputError("The data set is empty.")
        if narrow and not first:
            self._object(_narrow(*model.bounds))

    def check_source(self, window, logits) -> None:
        """Refuses a surrogate of other images or classes, or one with probabilities.

        Args:
            logits: Images -> its logits.
        """
        surrogate = network.classifier(self.model.source)
        few = self.model.outside(tf.constant(window.x[:1]))
        contract.check_shape(surrogate, few)
        found = logits(window.x[: self.batch_size])
        if found.shape[-1] != window.clean_logits.shape[-1]:
            raise InputError(
                f"The surrogate {surrogate.name!r} has {found.shape[-1]} classes, the "
                f"model {window.clean_logits.shape[-1]}: use one trained on the same data."
            )
        self._holds(contract.check_logits, surrogate, found, few)

    def _check_logits(self, x, logits):
        few = self.model.outside(tf.constant(x[:1]))
        known = logits[contract.predicts(logits)]  # a few may be NaN, but not all
        known = known if len(known) else logits
        self._holds(contract.check_logits, self.model.classifier, known, few)
        self._holds(contract.check_range, self.model.classifier, logits)

    def _check_whole(self, data, classes):
        """Holds all images and labels to the contract where they are in memory."""
        arrays = arrays_of(data)
        if arrays is not None:
            x = self.model.inside(arrays[0])
            self._holds(contract.check_images, x, self.model.bounds, but=_UNBOUNDED)
            contract.class_indices(arrays[1], classes)

    def _per_window(self, x):
        count = _WINDOW_BYTES // max(x[:1].nbytes, 1) // self.batch_size
        return max(count, 1) * self.batch_size

    def _holds(self, check, *values, but="") -> bool:
        """Whether a check of the input contract passes; raises if it is strict.

        Args:
            but: What to say beside where it does not pass and is not strict.
        """
        try:
            check(*values)
        except InputError as error:
            if self.strict:
                raise
            self._object(str(error) + but)
            return False
        return True

    def _object(self, text):
        self.objections = [*self.objections, text]


def _narrow(low, high):
    return (
        f"All images lie in [0, 1] and bounds are ({low:g}, {high:g}), where a radius is "
        f"{high - low:g} times epsilon: leave bounds out, or pass images of that range, "
        "unless these are just dark."
    )


def regrouped(parts, size_of):
    """(x, y) of at least one part each, joined to `size_of(x)` images and more.

    Parts with images or labels of another shape than those before begin anew.
    """
    held, count = [], 0
    for x, y in parts:
        before = held[0] if held else (x, y)
        if x.shape[1:] != before[0].shape[1:] or y.shape[1:] != before[1].shape[1:]:
            yield _joined(held)
            held, count = [], 0
        held.append((x, y))
        count += len(x)
        if count >= size_of(x):
            yield _joined(held)
            held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts):
    xs, ys = zip(*parts, strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def is_correct(y, logits) -> np.ndarray:
    """Which images are classified correctly, see `losses.correct`: bool [n]."""
    return losses.correct(y, logits).numpy()


def margins_of(y, logits) -> np.ndarray:
    """The logit of the label minus the largest other one, NaN where neither is: [n]."""
    own, others = np.arange(len(y)), np.array(logits)
    others[own, y] = -np.inf
    return logits[own, y] - others.max(-1)


def changes(first, again) -> np.ndarray:
    """||z' - z|| / ||z|| of the logits of each image in two passes: [n]."""
    again, first = (np.where(np.isfinite(z), z, 0.0) for z in (again, first))  # or masked
    change = np.linalg.norm(again - first, axis=-1)
    return change / np.maximum(np.linalg.norm(first, axis=-1), 1e-10)


def take(arrays, index):
    """Some images of arrays [n, ...], however nested."""
    return keras.tree.map_structure(lambda array: array[index], arrays)
