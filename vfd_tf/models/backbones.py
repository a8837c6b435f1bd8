"""Backbones of `keras.applications` as networks, by name: keras:MobileNetV2.

Outside of every network images are in [0, 1]. What a family of backbones takes instead is
made of them by Keras's own layers in front of it, so that a saved student loads without
this package. Layers, initialisation and BatchNorm's momentum are Keras's.
"""

import difflib
import functools
import inspect
import itertools
import re
import warnings

import keras
import numpy as np
from keras import layers

from vfd_tf.hyperparameters import InputError, reason
from vfd_tf.models import network

PREFIX = "keras:"
# Of ImageNet's training images, RGB in [0, 1]; and BGR in [0, 255], rounded otherwise.
_MEAN, _VARIANCE = (0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2)
_MEAN_BGR = (103.939, 116.779, 123.68)
_RANGE = "input_range"


def _symmetric(x):
    """[-1, 1]."""
    return layers.Rescaling(2.0, -1.0, name=_RANGE)(x)


def _standardised(x):
    """Mean 0 and variance 1 in each channel over ImageNet."""
    return layers.Normalization(mean=_MEAN, variance=_VARIANCE, name=_RANGE)(x)


def _centred_bgr(x):
    """BGR of mean 0 over ImageNet, in units of 1/255."""
    x = keras.ops.flip(x, axis=-1)
    return layers.Rescaling(255.0, [-mean for mean in _MEAN_BGR], name=_RANGE)(x)


def _bytes(x):
    """[0, 255]: the rest is inside the backbone."""
    return layers.Rescaling(255.0, name=_RANGE)(x)


# Module of keras.applications -> what its backbones take, of RGB images in [0, 1].
RANGES = {
    "convnext": _bytes,
    "densenet": _standardised,
    "efficientnet": _bytes,
    "efficientnet_v2": _bytes,
    "inception_resnet_v2": _symmetric,
    "inception_v3": _symmetric,
    "mobilenet": _symmetric,
    "mobilenet_v2": _symmetric,
    "mobilenet_v3": _bytes,
    "nasnet": _symmetric,
    "resnet": _centred_bgr,
    "resnet_v2": _symmetric,
    "vgg16": _centred_bgr,
    "vgg19": _centred_bgr,
    "xception": _symmetric,
}


@functools.cache
def backbones() -> dict:
    """Name -> function of every backbone of `keras.applications`."""
    found = inspect.getmembers(keras.applications, inspect.isfunction)
    return {name: function for name, function in found if _family(function) in RANGES}


def _family(function) -> str:
    return function.__module__.rpartition(".")[2]


def is_name(arch: str) -> bool:
    """Whether an architecture is one of these: keras:NAME."""
    return arch.startswith(PREFIX)


def check_name(arch: str) -> None:
    """Raises `InputError` for a keras:NAME that `keras.applications` doesn't have."""
    name = arch.removeprefix(PREFIX)
    if name in backbones():
        return
    plain = {each.lower(): each for each in backbones()}
    near = difflib.get_close_matches(re.sub(r"\W|_", "", name).lower(), plain, n=1)
    hint = f" Did you mean {PREFIX + plain[near[0]]!r}?" if near else ""
    raise InputError(
        f"keras.applications has no backbone {name!r}.{hint} Choose one of: "
        f"{', '.join(PREFIX + each for each in backbones())}."
    )


def build(
    arch: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean=0.0,
    variance=1.0,
) -> keras.Model:
    """The network of keras:NAME: its backbone, average pooling, a Dense layer "logits".

    Grey images are repeated to three channels, so that Keras's weights fit.

    Args:
        width: alpha of MobileNet, V2 and V3; 1 for all others.
        mean, variance: Not used: a family has a range of its own.

    Raises:
        InputError: A width, a number of channels or a size that the backbone doesn't take.
    """
    inputs = keras.Input(input_shape, name="images")
    x = inputs
    if input_shape[-1] == 1:
        x = layers.Concatenate(name="three_channels")([inputs] * 3)
    elif input_shape[-1] != 3:
        raise InputError(
            f"{arch} takes images of 1 or 3 channels, and these have {input_shape[-1]}: "
            "choose another --arch, such as resnet18."
        )
    function = backbones()[arch.removeprefix(PREFIX)]
    x = RANGES[_family(function)](x)
    x = _backbone(arch, x.shape[1:], width, input_tensor=x).output
    logits = layers.Dense(num_classes, name="logits")(x)
    name = arch.removeprefix(PREFIX)
    return network.tap(keras.Model(inputs, logits, name=name))


def imagenet(arch: str, images: tuple[int, ...], width: float = 1.0) -> keras.Model:
    """Keras's backbone with its ImageNet weights: read from its cache, or downloaded.

    Args:
        images: Their shape, (h, w, channels).

    Raises:
        InputError: There are none, or no network to download them.
    """
    model = _backbone(arch, (*images[:2], 3), width, weights="imagenet")
    # EfficientNet's scales once more after its Normalization.
    for norm, scaling in itertools.pairwise(model.layers):
        if isinstance(norm, layers.Normalization) and isinstance(scaling, layers.Rescaling):
            norm.adapt_variance.assign(norm.adapt_variance / np.square(scaling.scale))
    return model


def _backbone(arch, shape, width, weights=None, input_tensor=None):
    """The model of `keras.applications` without its head; its errors as sentences."""
    function, options = backbones()[arch.removeprefix(PREFIX)], {}
    if width != 1:
        if "alpha" not in inspect.signature(function).parameters:
            raise InputError(f"{arch} has one width only: leave --width out.")
        options["alpha"] = width
    try:
        with warnings.catch_warnings():
            # Of sizes other than ImageNet's, which only matter to a head.
            warnings.filterwarnings("ignore", message=".*input_shape.*")
            return function(
                include_top=False,
                weights=weights,
                input_tensor=input_tensor,
                input_shape=tuple(shape),
                pooling="avg",
                **options,
            )
    except Exception as error:  # a failed download is a plain Exception
        raise InputError(_refusal(arch, shape, weights, error)) from error


def _refusal(arch, shape, weights, error) -> str:
    smallest = re.search(r"at least (\d+x\d+)", str(error))
    if smallest:
        return (
            f"{arch} takes images of at least {smallest[1]} pixels, and these have "
            f"{shape[0]}x{shape[1]}: choose another --arch, such as resnet8, or larger "
            "images."
        )
    if weights and not isinstance(error, ValueError):
        return (
            f"The ImageNet weights of {arch} can't be downloaded ({failure(error)}): "
            "connect to the network for the first run, or leave --init=imagenet out."
        )
    if weights:
        return (
            f"{arch} has no such ImageNet weights ({reason(error)}): choose another "
            "--width, or leave --init=imagenet out."
        )
    return (
        f"{arch} can't be built for images of {shape[0]}x{shape[1]} pixels "
        f"({reason(error)}): choose another --arch."
    )


def failure(error: Exception) -> str:
    """Why a download failed, without the address that Keras puts before it."""
    return str(error).rpartition(" -- ")[2].strip()[:160] or type(error).__name__
