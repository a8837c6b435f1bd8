"""Batches that a training can take up at any step."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf.data.augmentation import Augmentation
from vfd_tf.data.splits import PLAIN, Split


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """The batches of a split as `AdversarialTrainer.fit` takes them, from any step on.

        trainer.fit(TrainingBatches(data.train, 128), epochs=100)

    The batch of a step is a function of seed and step, so that `callbacks.Checkpoint` may
    save a training in the middle of an epoch. Each replica and each worker makes its share.

    Args:
        split: Images and labels.
        batch_size: Over all replicas.
        seed: With the step, decides order and augmentation.
        augmentation: What is done to every image anew each time.
        num_classes: Classes of the data set; needed by CutMix only.
    """

    split: Split
    batch_size: int
    seed: int = 0
    augmentation: Augmentation = PLAIN
    num_classes: int | None = None

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.split) // self.batch_size

    def begin(
        self, since: Callable[[], int], done: int, share: tuple[int, int] | None = None
    ) -> tf.data.Dataset:
        """Batches without an end.

        Args:
            since: () -> the step of the whole training at which its fit began.
            done: Steps since then.
            share: See `Split.train_batches`.
        """
        return self.split.train_batches(
            self.batch_size,
            self.seed,
            self.augmentation,
            since() + done,
            self.num_classes,
            share,
        )

    def index(self, since: int, done: int) -> np.ndarray:
        """Which images the batch is made of: their places in the split."""
        position = tf.range(self.batch_size)
        step = tf.constant(since + done, tf.int64)
        return self.split.order(self.seed, step, position, self.batch_size).numpy()
