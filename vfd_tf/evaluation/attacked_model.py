"""A classifier as attacks see it: images [n, h, w, c] in [0, 1] -> logits."""

import numpy as np
import tensorflow as tf

from vfd_tf.models import contract, folding, network, precision


class AttackedModel:
    """A classifier behind the range and the layout of its images.

    Args:
        model: Classifier with logits; a dict with "logits", a subclassed model, ...
        bounds: The range of images that the model takes; attacks work in [0, 1].
        source: Another network that examples are made on. Default: the model itself.
        craft: Precision that examples are made in, one of `precision.POLICIES`.

    Attributes:
        dtype: "float32", or "float64" for a model whose logits are.
        fixed_size: The only batch size that the model takes, or None.
        layout: How the model takes images: "", [n, h, w, c]; "hw", [n, h, w]; "chw".
    """

    def __init__(self, model, bounds=(0.0, 1.0), source=None, craft="float32"):
        self.network = network.tap(model)
        self.classifier = network.classifier(model)
        self.source = self.network if source is None else network.tap(source)
        self.craft = craft
        self.bounds = contract.checked_bounds(bounds)
        self.dtype = precision.dtype_of(self.classifier)
        self.fixed_size = network.batch_size_of(self.classifier)
        self.layout = ""

    def images(self, x):
        """Images of a data set as attacks take them: [n, h, w, c] in [0, 1]."""
        return np.clip(self.channels_last(self.inside(x)), 0, 1).astype(self.dtype)

    def inside(self, x):
        """Images of the model's range in [0, 1]."""
        low, high = self.bounds
        return x if self.bounds == (0.0, 1.0) else (x - low) / (high - low)

    def outside(self, x):
        """Images [n, h, w, c] in [0, 1] as the model takes them."""
        low, high = self.bounds
        if self.layout == "hw":
            x = x[..., 0]
        elif self.layout == "chw":
            x = tf.transpose(x, [0, 3, 1, 2])
        return x if self.bounds == (0.0, 1.0) else low + x * (high - low)

    def channels_last(self, x):
        """Images [n, h, w] or [n, c, h, w] as [n, h, w, c]; settles the layout."""
        if x.ndim == 3:
            self.layout = "hw" if network.graph_of(self.classifier) is None else ""
            return x[..., None]
        first = network.channels_first(self.classifier, x.shape[1:])
        self.layout = "chw" if first else ""
        return np.moveaxis(x, 1, -1) if first else x

    def logits_fn(self, source=False):
        """Images [n, h, w, c] in [0, 1] -> logits [n, c], in their dtype.

        Those of the network itself, or with `source` of the one that examples are made on,
        folded for speed and in the precision `craft`.
        """
        if not source:
            return self._logits_fn(self._exact)
        with precision.computing([self.source], self.craft):
            network_fn = folding.folded(self.source)

        def crafted(x):
            with precision.computing([self.source], self.craft):
                return network_fn(x)

        logits_fn = self._logits_fn(crafted)
        half = self.craft == "mixed_float16"
        return precision.without_underflow(logits_fn) if half else logits_fn

    def _logits_fn(self, network_fn):
        return lambda x: tf.cast(network_fn(self.outside(x))["logits"], x.dtype)

    def _exact(self, x):
        return self.network(x, training=False)
