"""Windows of images that attacks work through, and how far each attack has come."""

import dataclasses

import keras
import numpy as np

from vfd_tf import losses


@dataclasses.dataclass
class Progress:
    """How far an attack on a window has come.

    Attributes:
        robust_so_far: Which images no run has made misclassified: bool [n].
        x_adv: The examples that are misclassified, else those of the first run on it.
        attempted: Which images any run was on.
        runs_done: How many runs are done.
        after: Stage -> which images were robust after it.
    """

    robust_so_far: np.ndarray
    x_adv: np.ndarray
    attempted: np.ndarray
    runs_done: int = 0
    after: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def begin(cls, window, early_stop):
        """Nothing done; what is misclassified without an attack is left out of all runs."""
        robust = window.correct.copy() if early_stop else np.ones(len(window), bool)
        return cls(robust, window.x.copy(), np.zeros(len(window), bool))

    @property
    def robust(self) -> np.ndarray:
        """Which images are classified correctly and stay so under all runs."""
        return list(self.after.values())[-1]


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
