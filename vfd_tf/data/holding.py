"""Where the pixels of a data set are held: in memory, or on disk and read as needed."""

import dataclasses

import numpy as np

from vfd_tf.data import squares
from vfd_tf.hyperparameters import InputError

LIMIT = 4 * 2**30  # bytes of decoded pixels, all splits, up to which auto holds in memory
HOLDS = ("auto", "memory", "disk")


@dataclasses.dataclass(frozen=True)
class Holding:
    """How a data set is wanted: what every reader is told.

    Attributes:
        hold: "memory", "disk", or "auto": by the size of the set alone, so that it is the
            same on every machine.
        image_size: Side of the squares that images become, see `squares`; None: as they
            are.
    """

    hold: str = "auto"
    image_size: int | None = None

    def __post_init__(self):
        if self.hold not in HOLDS:
            allowed = ", ".join(HOLDS)
            raise InputError(f"hold must be one of {allowed}; got {self.hold!r}.")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"image_size must be at least 1; got {self.image_size}.")

    @property
    def side(self) -> int | None:
        """Side of the squares that are held."""
        return squares.side_of(self.image_size) if self.image_size else None

    def too_large(self, count: int, shape) -> bool:
        """Whether so many images of this shape are to stay on disk."""
        size = count * int(np.prod(shape))
        return self.hold == "disk" or (self.hold == "auto" and size > LIMIT)

    def in_memory(self, name: str, count: int, shape) -> bool:
        """Whether so many images are to be held in memory; says so where auto doesn't.

        Raises:
            InputError: They are to be, and don't fit.
        """
        if not self.too_large(count, shape):
            check_memory(name, count, shape)
            return True
        if self.hold == "auto":
            print(
                f"Note: {name} holds {count:,} images of {'x'.join(map(str, shape))}, "
                f"{count * int(np.prod(shape)) / 2**30:.1f} GiB, more than "
                f"{LIMIT / 2**30:g}: they are read from disk as they are needed "
                "(--hold=memory holds them in memory)."
            )
        return False


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
            "fewer or smaller images, or have them read as they are needed with "
            "--hold=disk."
        )
