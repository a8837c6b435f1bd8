"""Precision: which dtypes a classifier computes in, for a while or in a copy of it."""

import contextlib
import threading
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import startup
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network
from vfd_tf.models.keras_graph import finalize, layers_of, nodes

_HALF = "float16", "bfloat16"
_EXACT = keras.layers.InputLayer, keras.layers.Normalization, keras.layers.Rescaling
POLICIES = "float32", "mixed_bfloat16", "mixed_float16"
_TOP = 32.0  # largest gradient of an image's logits on its way back in float16
_lock = threading.RLock()  # policies are attributes of layers, which threads share


@contextlib.contextmanager
def computing(models, policy: str):
    """Inside, networks compute in a policy of `POLICIES`; weights stay float32.

    Images in float32 reach the first layer with weights, which with all before it stays in
    float32, as do the last one and all after it, the logits; BatchNorm keeps its
    statistics in float32 by itself. The values of bfloat16 near 1 are 1/256 apart, half a
    step of 2/255. Layers that compute in another dtype than float32 keep it.

    Args:
        models: Networks; None is passed over.
        policy: What traces and calls inside this context compute in.
    """
    if policy == "float32":
        yield
        return
    changed = {id(la): la for m in models if m is not None for la in _inner_layers(m)}
    with _lock:
        before = [(layer, layer.dtype_policy) for layer in changed.values()]
        try:
            for layer, _ in before:
                layer.dtype_policy = policy
            yield
        finally:
            for layer, own in before:
                layer.dtype_policy = own


def check_computes(model: keras.Model, policy: str) -> None:
    """Raises `InputError` for an unknown policy, or where no layer would compute in it.

    A function, an exported model or a single layer has none that would.
    """
    if policy not in POLICIES:
        raise InputError(f"No precision {policy!r}: there are {', '.join(POLICIES)}.")
    if policy != "float32" and not _inner_layers(model):
        raise InputError(
            f"The model {model.name!r} has no layers between the first and the last one "
            f"that could compute in {policy}: leave the precision at float32."
        )


def _inner_layers(model):
    """The layers between the first and the last one with weights, in float32 by now.

    Those of a network that lie on no way to its logits are not among them.
    """
    leaves = _leaves(network.classifier(model))
    weighted = [
        i
        for i, la in enumerate(leaves)
        if la.weights and not isinstance(la, (*_EXACT, keras.layers.BatchNormalization))
    ]
    if len(weighted) < 3:
        return []
    inner = leaves[weighted[0] + 1 : weighted[-1]]
    ends = {id(leaves[weighted[i]]) for i in (0, -1)}  # which may be called twice
    plain = [la for la in inner if id(la) not in ends and not isinstance(la, _EXACT)]
    return [la for la in plain if la.compute_dtype == "float32"]


def _leaves(model):
    """The layers that hold no others: in the order of their calls, or of their making."""
    graph = network.graph_of(model) if isinstance(model, keras.Model) else None
    if graph is None:
        own = [la for la in layers_of(model) if not isinstance(la, keras.Model)]
        return own or [model]
    called = (node.operation for node in nodes(graph))
    layers = [la for la in called if isinstance(la, keras.Layer)]
    return [leaf for la in layers for leaf in _leaves(la)]


def without_underflow(logits_fn):
    """The same function of images, with a gradient that float16 can hold.

    The gradient of each image's logits is scaled to a largest value of 32 on its way into
    the network and back at the images: near 0, where an image is classified with
    confidence, it would vanish in float16.
    """

    def function(x):
        scale = []

        @tf.custom_gradient
        def entrance(x):
            def back(gradient):
                return gradient / tf.reshape(scale[-1], [-1] + [1] * (x.shape.rank - 1))

            return tf.identity(x), back

        @tf.custom_gradient
        def exit_(logits):
            def back(gradient):
                top = tf.reduce_max(tf.abs(gradient), -1, keepdims=True)
                least = tf.constant(1e-36, top.dtype)  # whose inverse is finite
                scale.append(_TOP / tf.maximum(top, least))
                return gradient * scale[-1]

            return tf.identity(logits), back

        return exit_(logits_fn(entrance(x)))

    return function


def warn_of_hardware(policy: str) -> None:
    """Warns of a precision that the devices have no units for, slower than float32."""
    name = policy.removeprefix("mixed_")
    if policy == "float32":
        return
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        needed = (8, 0) if name == "bfloat16" else (7, 0)
        if details.get("compute_capability", needed) < needed:
            warnings.warn(
                f"{details.get('device_name', 'This GPU')} has no units for {name}: "
                "--precision=float32 is faster.",
                stacklevel=2,
            )
    elif not startup.has_cpu_units(name):
        warnings.warn(
            f"This CPU has no units for {name}, which takes several times as long on it as "
            "float32: take precision='float32' (--precision=float32).",
            stacklevel=2,
        )


def in_float32(model: keras.Model, bounds: Any = None) -> keras.Model:
    """The model, or where it computes in 16 bits a copy that computes in float32.

    One of integer images takes floats of the same range, by the same layers.

    Args:
        bounds: The range of images that was named, where one could have been.

    Raises:
        InputError: It computes in 16 bits, and no copy in float32 can be made; it takes
            integers, and the bounds are (0, 1), or no copy that takes floats can be made.
    """
    plain = network.graph_of(network.classifier(model))
    if plain is not None and network.takes_integers(plain):
        if bounds is not None and contract.checked_bounds(bounds) == (0.0, 1.0):
            raise InputError(
                f"The model {model.name!r} takes {plain.inputs[0].dtype} images: pass "
                "these and their range, bounds=(0, 255) (--bounds=0,255)."
            )
        model = _of_floats(plain)
    if not computes_in(model, *_HALF):
        return model
    plain = network.graph_of(network.classifier(model))
    if plain is None:
        raise InputError(
            f"The subclassed model {model.name!r} computes in 16 bits; verdicts need "
            "float32: call keras.config.set_dtype_policy('float32'), build it again and "
            "give it these weights."
        )
    copy = _copy_in_float32(plain)
    if computes_in(copy, *_HALF):
        raise InputError(
            f"The model {model.name!r} computes in 16 bits whatever its policy is; "
            "verdicts need float32: build it without casts to float16 or bfloat16."
        )
    return copy


def _of_floats(plain):
    """A model of integer images as one of floats, with the same layers.

    Raises:
        InputError: It computes with integers as such.
    """

    def same(layer):
        inner = network.graph_of(layer) if isinstance(layer, keras.Model) else None
        integers = inner is not None and network.takes_integers(inner)
        return with_floats(inner) if integers else layer

    def with_floats(graph):
        image = graph.inputs[0]
        floats = keras.Input(batch_shape=image.shape, dtype="float32", name=image.name)
        return keras.models.clone_model(graph, floats, clone_function=same)

    # Some integers, which both must take for the same: of uint8, 2 * 128 is 0.
    shape = [2 if side is None else side for side in plain.inputs[0].shape]
    some = np.random.default_rng(0).integers(0, 256, shape).astype(plain.inputs[0].dtype)
    try:
        model = with_floats(plain)
        if None not in plain.inputs[0].shape[1:]:
            pair = (
                m(tf.cast(some, m.inputs[0].dtype), training=False) for m in (plain, model)
            )
            one, other = (np.asarray(tf.nest.flatten(z)[0], "float64") for z in pair)
            if not np.allclose(one, other, 1e-3, 1e-3, equal_nan=True):
                raise ValueError("other outputs")
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"The model {plain.name!r} computes with {plain.inputs[0].dtype} numbers, "
            "which have no gradient: build it with a float32 input."
        ) from error
    return model


def _copy_in_float32(plain):
    """A copy of a functional model with the same weights."""

    def copy(layer):
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=copy)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # else an operation such as +, in any dtype
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    try:
        with _default("float32"):
            other = keras.models.clone_model(plain, clone_function=copy)
        other.set_weights(plain.get_weights())
        finalize(other)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise InputError(
            f"The model {plain.name!r} computes in 16 bits and can't be copied in float32 "
            f"({reason}): build it again in float32 with these weights."
        ) from error
    return other


@contextlib.contextmanager
def exact_float32():
    """Inside, no TensorFloat-32, which rounds the inputs of convolutions to 10 bits."""
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)


def dtype_of(model: keras.Model) -> str:
    """ "float64" for a model whose logits are; else "float32"."""
    output = getattr(network.graph_of(model), "output", None)
    return "float64" if getattr(output, "dtype", None) == "float64" else "float32"


def computes_in(model: keras.Model, *dtypes: str, models: bool = True) -> bool:
    """Whether any layer or operation of a model computes in one of these dtypes.

    Args:
        models: Whether models count that are nothing but a graph of layers. They may
            have the policy of the process that made or loaded them, and round images.
    """
    graph = network.graph_of(model)
    layers = layers_of(graph or model, itself=True)
    own = [layer.compute_dtype for layer in layers if models or _computes(layer)]
    if graph is not None:
        calls = nodes(graph, inputs=True)
        own += [tensor.dtype for node in calls for tensor in node.output_tensors]
    return any(dtype in dtypes for dtype in own)


def _computes(layer):
    """Whether a layer is more than the place of an input, or a graph of other layers."""
    if isinstance(layer, keras.Model):
        return network.graph_of(layer) is None
    return not isinstance(layer, keras.layers.InputLayer)


@contextlib.contextmanager
def _default(policy):
    """Inside, layers that custom layers make for themselves have this policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
