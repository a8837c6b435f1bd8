"""Attacks compiled once for networks of one architecture, which take turns in it."""

import collections
import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.evaluation.engine import Engine
from vfd_tf.evaluation.windows import SAME, changes
from vfd_tf.models import keras_graph, network

_KEPT = 8  # architectures and settings
_SIDE = 32  # pixels of an image whose size a model leaves open


class Compilations:
    """Gives networks of one architecture, one after the other, the same compiled attacks.

    Tracing AutoAttack takes longer than running it on a small network. What is compiled is
    a clone, which takes on the weights of each network in turn: the networks stay as they
    are, and an engine that was asked for before is invalid once the next one of its
    architecture is. A network that has no faithful clone gets an engine of its own.
    """

    def __init__(self):
        self._kept = collections.OrderedDict()  # settings -> engine
        self._clones = {}  # role, architecture -> clone, 185 MB of a WideResNet-34-10

    def engine(self, model: Any, source: Any = None, **options: Any) -> Engine:
        """An `Engine` of this network, compiled before where there was one like it.

        Args:
            model, source, options: As `Engine` takes them.
        """
        roles = [
            (role, _architecture(each), each)
            for role, each in (("model", model), ("source", source))
            if each is not None
        ]
        bounds = options.get("bounds", (0.0, 1.0))
        clones = {role: self._clone(role, name, its, bounds) for role, name, its in roles}
        if None in clones.values():
            return Engine(model, source=source, **options)
        names = tuple((role, name) for role, name, _ in roles)
        key = names, repr(sorted(options.items()))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].again()
        self._kept[key] = Engine(clones["model"], source=clones.get("source"), **options)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        used = {name for names, _ in self._kept for name in names}
        self._clones = {name: own for name, own in self._clones.items() if name in used}
        return self._kept[key]

    def _clone(self, role, architecture, model, bounds):
        """The clone of an architecture with the weights of a model, or None."""
        if architecture is None:
            return None
        # Two roles may have one architecture, and one model both.
        clone = self._clones.get((role, architecture))
        try:
            clone = _new(model) if clone is None else clone
            clone.set_weights(model.get_weights())
            keras_graph.finalize(clone)
            same = _same(model, clone, bounds)
        except Exception:  # whatever a layer of a user's own raises
            same = False
        if not same:
            return None
        self._clones[role, architecture] = clone
        return clone


def _new(model):
    """A clone on the devices of the model; its weights are yet to be set."""
    strategy = model.distribute_strategy
    if strategy is tf.distribute.get_strategy():
        return keras.models.clone_model(model)
    with strategy.scope():
        return keras.models.clone_model(model)


def _same(model, clone, bounds) -> bool:
    """Whether a clone computes what the model does, layers' own constants included."""
    image, (low, high) = model.inputs[0], bounds
    shape = [2 if image.shape[0] is None else image.shape[0]]
    shape += [_SIDE if side is None else side for side in image.shape[1:]]
    x = low + np.random.default_rng(0).random(shape) * (high - low)
    x = tf.constant(x, image.dtype)
    first, again = (
        np.asarray(network.tap(each)(x, training=False)["logits"], "float64")
        for each in (model, clone)
    )
    return changes(first, again).max() <= SAME


def _architecture(model) -> str | None:
    """What tells one architecture from another; None: can't be told."""
    if network.graph_of(model) is None or getattr(model, "run_eagerly", False):
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
