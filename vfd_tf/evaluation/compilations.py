"""Attacks compiled once for networks of one architecture, which take turns in it."""

import collections
import hashlib
from typing import Any

import keras
import numpy as np

from vfd_tf.evaluation.engine import Engine
from vfd_tf.models import keras_graph, network

_KEPT = 8  # architectures and settings; one of WideResNet-34-10 holds 185 MB of weights


class Compilations:
    """Gives networks of one architecture, one after the other, the same compiled attacks.

    Tracing AutoAttack takes longer than running it on a small network. An engine that was
    asked for before is invalid once the next one of its architecture is, and so are the
    models that were handed in: the first takes on the weights of the others.
    """

    def __init__(self):
        self._kept = collections.OrderedDict()

    def engine(self, model: Any, source: Any = None, **options: Any) -> Engine:
        """An `Engine` of this network, compiled before where there was one like it.

        Args:
            model, source, options: As `Engine` takes them.
        """
        keys = [_architecture(each) for each in (model, source)]
        if None in keys:
            return Engine(model, source=source, **options)
        key = (*keys, repr(sorted(options.items())))
        if key not in self._kept:
            self._kept[key] = Engine(model, source=source, **options), model, source
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key][0]
        self._kept.move_to_end(key)
        engine, own, other = self._kept[key]
        for kept, new in ((own, model), (other, source)):
            if kept is not None and kept is not new:
                kept.set_weights(new.get_weights())
        return engine.again()


def _architecture(model) -> str | None:
    """What tells one architecture from another, "" without one; None: can't be told."""
    if model is None:
        return ""
    if network.graph_of(model) is None:
        return None
    try:
        found = hashlib.sha256(model.to_json().encode())
    except (TypeError, ValueError, NotImplementedError):
        return None
    for value in _adapted(model):
        found.update(np.asarray(value).tobytes())
    return found.hexdigest()


def _adapted(model):
    """Mean and variance of each `Normalization`: constants of what was compiled.

    Those that `adapt` has found stand in no config, and `set_weights` doesn't reach them.
    """
    layers = keras_graph.layers_of(model)
    own = [layer for layer in layers if isinstance(layer, keras.layers.Normalization)]
    return [value for layer in own for value in (layer.mean, layer.variance)]
