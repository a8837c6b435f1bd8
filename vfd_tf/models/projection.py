"""Projections and predictors: learned layers on top of tapped features, not shipped."""

import keras

from vfd_tf.hyperparameters import InputError

_PROJECTION = "_vfd_projection"


def project(model: keras.Model, shapes: dict) -> keras.Model:
    """A network whose outputs of these names go through learned layers to other shapes.

    Feature maps: average pooling or repetition to the height and width, then a 1x1
    convolution; vectors: a Dense layer; neither with bias. The model's own graph and its
    classifier stay as they are.

    Args:
        model: A network, image -> {"logits": ..., layer: ...}.
        shapes: Layer -> shape without the batch, (h, w, d) or (d,).

    Raises:
        InputError: A height or width that is no multiple of the other.
    """
    outputs = dict(model.output)
    for layer, shape in shapes.items():
        outputs[layer] = _projected(outputs[layer], tuple(shape), layer)
    return keras.Model(model.inputs[0], outputs, name=model.name)


def projections(model: keras.Model) -> list[keras.Layer]:
    """The learned layers that `project` put into a network."""
    return [la for la in getattr(model, "layers", []) if la.name.endswith(_PROJECTION)]


def predictor(features: int, hidden: int, name: str) -> keras.Model:
    """Dense(hidden), BatchNorm, ReLU, Dense(features): [n, features] -> the same shape.

    SimSiam's, https://arxiv.org/abs/2011.10566; weights begin as PyTorch's linear layers.
    Like losses it computes in float32, whatever the policy of the process is.
    """
    layers, exact = keras.layers, {"dtype": keras.config.floatx()}

    def dense(units, **options):
        start = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        return layers.Dense(units, kernel_initializer=start, **exact, **options)

    inputs = keras.Input((features,), **exact)
    x = dense(hidden, use_bias=False)(inputs)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **exact)(x)
    x = dense(features)(layers.ReLU(**exact)(x))
    return keras.Model(inputs, x, name=name)


def _projected(x, shape, layer):
    name = layer.replace("/", "_") + _PROJECTION
    if len(x.shape) != len(shape) + 1 or len(shape) not in (1, 3):
        raise InputError(
            f"The layer {layer!r} has shape {tuple(x.shape[1:])}, the teacher's {shape}: "
            "no projection leads from one to the other; choose another layer."
        )
    if len(shape) == 1:
        return keras.layers.Dense(shape[0], use_bias=False, name=name)(x)
    size, wanted = x.shape[1:3], shape[:2]
    if any(max(a, b) % min(a, b) for a, b in zip(size, wanted, strict=True)):
        raise InputError(
            f"The layer {layer!r} has feature maps of {size[0]}x{size[1]}, the teacher's "
            f"{wanted[0]}x{wanted[1]}: one must be a multiple of the other."
        )
    down = tuple(max(1, a // b) for a, b in zip(size, wanted, strict=True))
    up = tuple(max(1, b // a) for a, b in zip(size, wanted, strict=True))
    if max(down) > 1:
        x = keras.layers.AveragePooling2D(down, name=f"{name}_pool")(x)
    if max(up) > 1:
        x = keras.layers.UpSampling2D(up, name=f"{name}_repeat")(x)
    return keras.layers.Conv2D(shape[2], 1, use_bias=False, name=name)(x)
