"""Forward passes that leave no trace in a network."""

import keras
import tensorflow as tf


class Apart(keras.StatelessScope):
    """Inside, what layers assign to variables stays apart; gradients end there, as ever."""

    def __init__(self, mapping=()):
        super().__init__(list(mapping), collect_losses=True)

    def add_update(self, update):
        variable, value = update
        super().add_update((variable, tf.stop_gradient(tf.cast(value, variable.dtype))))
