"""Architectures: networks for small images, 8x8 and up, any channels and classes.

Every architecture is a function (input_shape, num_classes, width, mean, variance) ->
network, written with plain Keras layers. Its output dict has, for every stage,
`layer<i>` (after the activation) and `layer<i>_preact` (what that activation takes in),
`last` (the tap of the paper's layer k) and `logits`; the layers carry the same names, so
that a logits-only file gives the dict back. Backbones of `keras.applications` and the
architectures of files are built by functions of the same arguments, see `architecture`.
"""

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from vfd_tf import files
from vfd_tf.hyperparameters import InputError, choose
from vfd_tf.models import architecture_files, backbones, network

_BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # PyTorch's defaults, as all originals


def resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """ResNet-18 with the CIFAR stem (3x3, stride 1, no pooling): 11,173,962 weights.

    He et al. 2016, https://arxiv.org/abs/1512.03385
    """
    inputs, x = _stem_input(input_shape, mean, variance)
    x = _relu(_bn(_conv(x, _scaled(64, width))))
    stages = _stages((64, 128, 256, 512), width, blocks=2)
    x = _residual_stages(x, stages)
    return _head("resnet18", inputs, x, num_classes)


def resnet8(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """Three residual blocks of 16, 32, 64 channels: about 78,000 weights, for CPUs.

    The stem has stride 2 on images of 32 pixels and more.
    """
    inputs, x = _stem_input(input_shape, mean, variance)
    x = _relu(_bn(_conv(x, _scaled(16, width), stride=1 + (min(input_shape[:2]) >= 32))))
    stages = _stages((16, 32, 64), width, blocks=1)
    x = _residual_stages(x, stages)
    return _head("resnet8", inputs, x, num_classes)


def preact_resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """Pre-activation ResNet-18 with a final BN and ReLU: 11,172,170 weights.

    He et al. 2016, https://arxiv.org/abs/1603.05027
    """
    inputs, x = _stem_input(input_shape, mean, variance)
    x = _conv(x, _scaled(64, width))
    stages = _stages((64, 128, 256, 512), width, blocks=2)
    x = _preact_stages(x, stages)
    return _head("preact_resnet18", inputs, x, num_classes)


def vgg16(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """VGG-16 with BN and a single Dense head: 14,728,266 weights for CIFAR-10.

    Pooling is left out once a map is a single pixel. Simonyan & Zisserman 2015,
    https://arxiv.org/abs/1409.1556
    """
    inputs, x = _stem_input(input_shape, mean, variance)
    plan = (2, 64), (2, 128), (3, 256), (3, 512), (3, 512)
    for stage, (convolutions, channels) in enumerate(plan, 1):
        for i in range(1, convolutions + 1):
            tap = f"layer{stage}" if i == convolutions else None
            x = _conv(x, _scaled(channels, width), use_bias=True)
            x = _relu(_bn(x, tap and f"{tap}_preact"), tap)
        if min(x.shape[1:3]) > 1:
            x = layers.MaxPooling2D()(x)
    return _head("vgg16", inputs, x, num_classes)


def wide_resnet_34_10(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """WideResNet-34-10: 46,160,474 weights for CIFAR-10.

    Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146
    """
    shape = input_shape, num_classes, width, mean, variance
    return _wide_resnet("wide_resnet_34_10", 34, 10, *shape)


def wide_resnet_28_10(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean: Any = 0.0,
    variance: Any = 1.0,
) -> keras.Model:
    """WideResNet-28-10: 36,479,194 weights for CIFAR-10.

    Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146
    """
    shape = input_shape, num_classes, width, mean, variance
    return _wide_resnet("wide_resnet_28_10", 28, 10, *shape)


def _wide_resnet(name, depth, widen, input_shape, num_classes, width, mean, variance):
    inputs, x = _stem_input(input_shape, mean, variance)
    x = _conv(x, _scaled(16, width))
    channels = 16 * widen, 32 * widen, 64 * widen
    stages = _stages(channels, width, blocks=(depth - 4) // 6)
    x = _preact_stages(x, stages)
    return _head(name, inputs, x, num_classes)


def _scaled(channels, width):
    return max(1, round(channels * width))


def _stem_input(input_shape, mean, variance):
    inputs = keras.Input(input_shape, name="images")
    return inputs, layers.Normalization(mean=mean, variance=variance, name="normalization")(
        inputs
    )


def _conv(x, channels, kernel=3, stride=1, use_bias=False):
    """Convolution with PyTorch's symmetric padding; "same" is not, at stride 2."""
    if stride > 1 and kernel == 1:
        # Subsampled first: oneDNN's weight gradient of a strided 1x1 convolution writes
        # out of bounds below 8 channels (uxlfoundation/oneDNN#6035). As fast otherwise.
        x, stride = layers.AveragePooling2D(1, stride)(x), 1
    elif stride > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(
        channels,
        kernel,
        stride,
        padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
    )(x)


def _bn(x, name=None):
    return layers.BatchNormalization(**_BATCH_NORM, name=name)(x)


def _relu(x, name=None):
    return layers.ReLU(name=name)(x)


def _stages(channels, width, blocks):
    """[(channels, stride of each block), ...]: the first block of a stage strides."""
    strides = [1] + [2] * (len(channels) - 1)
    return [
        (_scaled(c, width), [s] + [1] * (blocks - 1))
        for c, s in zip(channels, strides, strict=True)
    ]


def _residual_stages(x, stages):
    for stage, (channels, strides) in enumerate(stages, 1):
        for i, stride in enumerate(strides, 1):
            tap = f"layer{stage}" if i == len(strides) else None
            x = _basic_block(x, channels, stride, tap)
    return x


def _basic_block(x, channels, stride, tap):
    """conv-BN-ReLU-conv-BN + shortcut, then ReLU; the ReLU is the stage's tap."""
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = _bn(_conv(x, channels, kernel=1, stride=stride))
    y = _relu(_bn(_conv(x, channels, stride=stride)))
    y = _bn(_conv(y, channels))
    return _relu(layers.Add(name=tap and f"{tap}_preact")([y, shortcut]), tap)


def _preact_stages(x, stages):
    """Pre-activation blocks and the final BN-ReLU.

    A stage's tap is the BN-ReLU of its sum: the first of the next stage, or the final one.
    """
    for stage, (channels, strides) in enumerate(stages, 1):
        for i, stride in enumerate(strides):
            tap = f"layer{stage - 1}" if i == 0 and stage > 1 else None
            x = _preact_block(x, channels, stride, tap)
    return _relu(_bn(x, f"layer{len(stages)}_preact"), f"layer{len(stages)}")


def _preact_block(x, channels, stride, tap):
    activated = _relu(_bn(x, tap and f"{tap}_preact"), tap)
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = _conv(activated, channels, kernel=1, stride=stride)
    y = _conv(activated, channels, stride=stride)
    y = _conv(_relu(_bn(y)), channels)
    return layers.Add()([y, shortcut])


def _head(name, inputs, x, num_classes):
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", name="logits")(x)
    model = keras.Model(inputs, logits, name=name)
    taps = [layer.name for layer in model.layers if layer.name.startswith("layer")]
    return network.tap(model, [*taps, "last"])


ARCHITECTURES = {
    "resnet18": resnet18,
    "preact_resnet18": preact_resnet18,
    "vgg16": vgg16,
    "wide_resnet_34_10": wide_resnet_34_10,
    "wide_resnet_28_10": wide_resnet_28_10,
    "resnet8": resnet8,
}

HELP = (
    f"architecture: {', '.join(ARCHITECTURES)}, keras:NAME (keras:MobileNetV2), FILE.keras"
)


def check(name: str) -> None:
    """Raises `InputError` unless `name` is that of an architecture, see `architecture`."""
    if backbones.is_name(name):
        backbones.check_name(name)
    elif is_file(name):
        if not os.path.isfile(name):
            raise InputError(f"There is no model file {name}, which --arch names.")
    elif name not in ARCHITECTURES and os.path.exists(name):
        raise InputError(f"{name} is no .keras file: save the model as one for --arch.")
    else:
        choose(ARCHITECTURES, name, "architecture")


def is_file(name: str) -> bool:
    """Whether an architecture is that of a file: FILE.keras."""
    return name.endswith(".keras") and not backbones.is_name(name)


def architecture(name: str) -> Callable[..., keras.Model]:
    """The function (input_shape, num_classes, width, mean, variance) -> network of a name.

    Args:
        name: One of `ARCHITECTURES`, keras:NAME for a backbone of `keras.applications`, or
            FILE.keras.
    """
    check(name)
    if backbones.is_name(name):
        return functools.partial(backbones.build, name)
    if is_file(name):
        return functools.partial(architecture_files.build, name)
    return ARCHITECTURES[name]


def mark(name: str) -> str:
    """What an architecture is known by: its name; for a file its hash, too."""
    return f"{label(name)} sha256:{files.sha256(name)[:16]}" if is_file(name) else name


def label(name: str) -> str:
    """An architecture in the name of a folder."""
    stem = os.path.splitext(os.path.basename(name))[0] if is_file(name) else name
    return re.sub(r"[^\w.]+", "-", stem).strip("-")
