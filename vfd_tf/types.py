"""Types that signatures share."""

from collections.abc import Mapping

import tensorflow as tf

Tensor = tf.Tensor
State = dict[str, tf.Tensor]  # of an attack: name -> [n, ...]
Terms = dict[str, tf.Tensor]  # of a loss: name -> [n]
Outputs = Mapping[str, Mapping[str, tf.Tensor]]  # view -> {"logits": [n, c], layer: ...}
