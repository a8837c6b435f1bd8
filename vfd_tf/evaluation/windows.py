"""Windows of images that attacks work through, and how far each attack has come."""

import dataclasses

import keras
import numpy as np

from vfd_tf import losses


@dataclasses.dataclass
class Progress:
    """How far an attack on a window has come.

    Attributes:
        open: Which images no run has broken: bool [n].
        x_adv: The examples that broke an image, else those of the first run on it.
        tried: Which images any run was on.
        runs: How many runs are done.
        after: Stage -> which images were robust after it.
    """

    open: np.ndarray
    x_adv: np.ndarray
    tried: np.ndarray
    runs: int = 0
    after: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, window, early_stop):
        """Nothing done; images that are misclassified to begin with count as broken."""
        open_ = window.right.copy() if early_stop else np.ones(len(window), bool)
        return cls(open_, window.x.copy(), np.zeros(len(window), bool))

    @property
    def robust(self) -> np.ndarray:
        """Which images are classified correctly and stay so under all runs."""
        return list(self.after.values())[-1]


@dataclasses.dataclass
class Window:
    """Images of a data set, their labels, clean logits and seeds."""

    x: np.ndarray
    y: np.ndarray
    clean: np.ndarray
    seeds: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which images are classified correctly: bool [n]."""
        return is_correct(self.y, self.clean)

    def __len__(self):
        return len(self.x)

    def take(self, index) -> dict[str, np.ndarray]:
        """Some of the images, as `Target.examples` takes them."""
        return take(vars(self), index)

    def part(self, index) -> "Window":
        """Some of the images as a window of their own."""
        return Window(**self.take(index))


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


def take(arrays, index):
    """Some images of arrays [n, ...], however nested."""
    return keras.tree.map_structure(lambda array: array[index], arrays)
