"""MixedNUTS: a mixture of probabilities whose robust logits are made more telling first.

Robust networks are surer where they are right than where they are wrong, even under attack.
Three numbers stretch that difference, and a weight near 1 then lets the vanilla network
overrule what the robust one is not sure of. Nothing is trained.

Bai, Zhou, Patel and Sojoudi, TMLR 2024, https://arxiv.org/abs/2402.02263; the authors' code
is https://github.com/Bai-YT/MixedNUTS.
"""

import dataclasses
import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import pairs

# The authors' grid: 8 scales and 8 powers, and the clips of CIFAR-10 and CIFAR-100 as one.
SCALES = tuple(np.geomspace(0.05, 5.0, 8).tolist())
POWERS = tuple(np.linspace(1.0, 4.0, 8).tolist())
CLIPS = tuple(np.linspace(-2.5, 0.0, 16).tolist())
KEPT = 0.985  # the authors' beta for CIFAR-10 and CIFAR-100
_LARGEST = 1e15  # of logits; those of masked classes are -inf
_TOP = 250  # of more classes, the largest logits decide mean and variance
_BELOW_ONE = 1 - 1e-9  # of a margin: probabilities may be exactly 0 and 1


@dataclasses.dataclass(frozen=True)
class Nuts:
    """The numbers of a MixedNUTS, and what they promise on the images they were fitted to.

    Attributes:
        scale, power, clip, alpha: See `mixed_nuts`.
        kept: Share of the robust network's right answers under attack that no vanilla
            network can overrule.
        errors: Share of its wrong answers on clean images that none can overrule.
    """

    scale: float
    power: float
    clip: float
    alpha: float
    kept: float
    errors: float

    @property
    def numbers(self) -> dict[str, float]:
        """The arguments of `mixed_nuts`."""
        names = "scale", "power", "clip", "alpha"
        return {name: getattr(self, name) for name in names}


class NothingToFit(InputError):
    """Logits that no numbers fit: a fact about a network, not about arguments."""


def mixed_nuts(
    vanilla: keras.Model,
    robust: keras.Model,
    scale: float,
    power: float,
    clip: float | None,
    alpha: float,
    *,
    temperature: float = 1.0,
    normalize: bool = True,
    name: str = "mixed_nuts",
) -> keras.Model:
    """MixedNUTS of two classifiers, as a classifier.

        log((1 - alpha) softmax(z_vanilla / temperature) + alpha softmax(scale g(z_robust)))
        g(z) = sign(h) |h|^power, h = GELU((z - mean(z)) / std(z) + clip)

    As in the authors' code GELU is the exact one, the variance is the unbiased one plus
    1e-8, and of more than 250 classes the 250 largest logits decide mean and variance.
    The authors evaluate at temperature 0, where the vanilla network's share is one-hot
    and has no gradient, and attack a stand-in: a softmax as vanilla share, and as nine
    tenths of the robust one softmax(z_robust), since the transformation hides gradients.
    Here an attack sees what it attacks, a softmax by default, and at temperature 0 the
    one-hot share with the gradient of the log-softmax. So trust no single attack:
    AutoAttack has other losses, and Square, which needs no gradient.

    Args:
        vanilla, robust: Classifiers with logits, functional or Sequential.
        scale, power: Above 0; at least 1, where gradients are finite.
        clip: Bias before GELU; None: no GELU. Where the largest normalised logit is at
            least -clip, it stays the largest.
        alpha: Share of the robust one, 0 to 1.
        temperature: Of the vanilla logits, from 0 on.
        normalize: False leaves mean and std out; with clip None, power 1 and scale 1 what
            remains is `mixture(vanilla, robust, alpha)`.
        name: Of the model; inside, the networks are called "vanilla" and "robust".

    Raises:
        InputError: What `mixture` refuses, and numbers outside these ranges.
    """
    vanilla, robust = pairs.pair(vanilla, robust, alpha, "alpha")
    _check("scale", scale, least=0, open_=True)
    _check("power", power, least=1)
    _check("temperature", temperature, least=0)
    if clip is not None:
        _check("clip", clip)
    image, logs = pairs.image_of(vanilla), []
    if alpha < 1:
        logits = pairs.logits_of(pairs.copied(vanilla, "vanilla"), image)
        logs.append(pairs.share_of(_sharpened(logits, temperature), 1 - alpha))
    if alpha > 0:
        logits = pairs.logits_of(pairs.copied(robust, "robust"), image)
        own = ops.log_softmax(scale * transformed(logits, power, clip, normalize))
        logs.append(pairs.share_of(own, alpha))
    return keras.Model(image, pairs.joined(logs), name=name)


def transformed(
    logits: Any, power: float, clip: float | None, normalize: bool = True
) -> Any:
    """g(z) of `mixed_nuts` for logits [n, c], symbolic or in numbers."""
    h = _normalized(logits) if normalize else logits
    if clip is not None:
        h = ops.gelu(h + clip, approximate=False)
    return h if power == 1 else ops.sign(h) * ops.power(ops.abs(h), power)


def _normalized(logits):
    """(z - mean) / std of every row; the largest logits decide both."""
    logits = ops.clip(logits, -_LARGEST, _LARGEST)
    count = logits.shape[-1]
    some = logits
    if count > _TOP:
        count, some = _TOP, ops.top_k(logits, _TOP)[0]
    variance = ops.var(some, -1, keepdims=True) * (count / max(1, count - 1))
    return (logits - ops.mean(some, -1, keepdims=True)) / ops.sqrt(variance + 1e-8)


def _sharpened(logits, temperature):
    """log softmax(z / temperature); at 0 that of a one-hot share, with a gradient."""
    if temperature:
        return ops.log_softmax(logits / temperature)
    soft = ops.maximum(ops.log_softmax(logits), pairs.LEAST)
    top = ops.one_hot(ops.argmax(logits, -1), logits.shape[-1])
    return soft + ops.stop_gradient((top - 1) * -pairs.LEAST - soft)


def _check(name, value, least=-math.inf, open_=False):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and math.isfinite(value) and (value > least if open_ else value >= least):
        return
    above = f" above {least:g}" if open_ else f" of at least {least:g}"
    wanted = f"a finite number{above if math.isfinite(least) else ''}"
    raise InputError(f"{name} must be {wanted}; got {value!r}.")


def fit_nuts(
    clean_logits: np.ndarray,
    adversarial_logits: np.ndarray,
    y: np.ndarray,
    *,
    kept: float = KEPT,
    scales: tuple[float, ...] = SCALES,
    powers: tuple[float, ...] = POWERS,
    clips: tuple[float, ...] = CLIPS,
) -> Nuts:
    """The four numbers of `mixed_nuts` for a robust network, by a grid search on margins.

    The margin m is the difference of the two largest of softmax(scale g(z)). An answer of
    the robust network stands whatever the vanilla one says where m >= (1 - alpha) / alpha.
    So the numbers are those that minimise

        P(m(x) >= (1 - alpha) / alpha | x clean and wrong)
        subject to P(m(x') >= (1 - alpha) / alpha | x' attacked and right) >= kept

    Given three numbers the largest threshold that fulfils the constraint is a quantile of
    the attacked margins, and alpha = 1 / (1 + threshold). No vanilla network is needed.
    The authors' code differs: its quantile interpolates, so that a little less than `kept`
    may remain; an answer that the transformation itself changes keeps its margin there and
    counts as overruled here; and where several numbers are best, which it prints for a
    person to choose from, those of the smallest alpha are taken here, then of the first
    clip, power and scale. Their attacked images are those of APGD-CE and APGD-T on the
    network with normalised logits, of smallest margin; here they are the caller's.

    Args:
        clean_logits, adversarial_logits: Logits [n, c] of the robust network on held-out
            images and on the same images attacked.
        y: Labels [n].
        kept: The paper's beta; 0.985 for CIFAR, 0.99 for ImageNet.
        scales, powers, clips: The grid.

    Raises:
        NothingToFit: No clean image is wrong, no attacked one is right, or too many of
            these are ties.
        InputError: Other arrays and numbers that fit nothing.
    """
    wrong, attacked, labels = _held_out(clean_logits, adversarial_logits, y)
    if not isinstance(kept, numbers.Real) or not 0 < kept <= 1:
        raise InputError(f"kept must be above 0 and at most 1; got {kept!r}.")
    grid = _grid(scales, powers, clips)
    best = None
    for clip, power in ((c, p) for c in grid["clips"] for p in grid["powers"]):
        sure = _margins(attacked, power, clip, grid["scales"], labels)
        threshold = np.quantile(sure, 1 - kept, axis=-1, method="lower")
        threshold = np.minimum(threshold, _BELOW_ONE)
        errors = _margins(wrong, power, clip, grid["scales"]) >= threshold[:, None]
        for i in np.flatnonzero(threshold > 0):
            key = float(errors[i].mean()), -float(threshold[i])
            if best is None or key < best[0]:
                share = float((sure[i] >= threshold[i]).mean())
                alpha = 1 / (1 + float(threshold[i]))
                best = key, Nuts(grid["scales"][i], power, clip, alpha, share, key[0])
    if best is None and max(grid["clips"]) < 0:
        raise InputError(
            f"No clip of {grid['clips']} leaves the robust network its answers: add 0."
        )
    if best is None:
        raise NothingToFit(
            f"More than {1 - kept:.3g} of the robust network's right answers under attack "
            "are ties of two classes, and there is nothing to fit: take another network."
        )
    return best[1]


def _held_out(clean, attacked, y):
    """Logits of clean errors, of right answers under attack, and the labels of these."""
    clean, attacked = (np.asarray(z, "float64") for z in (clean, attacked))
    y = np.asarray(y).reshape(-1)
    if clean.ndim != 2 or clean.shape != attacked.shape or len(y) != len(clean):
        raise InputError(
            f"Logits of shapes {clean.shape} and {attacked.shape} don't belong to {len(y)} "
            "labels: pass those of the same images, clean and attacked."
        )
    wrong, right = clean.argmax(-1) != y, attacked.argmax(-1) == y
    right &= ~np.isnan(attacked).any(-1)  # which predict nothing
    if not wrong.any() or not right.any():
        lack = "wrong on no clean" if not wrong.any() else "right on no attacked"
        raise NothingToFit(
            f"The robust network is {lack} image of {len(y)}, and there is nothing to fit: "
            "take more images, or another network."
        )
    return clean[wrong], attacked[right], y[right]


def _grid(scales, powers, clips):
    """The three axes as lists, each checked."""
    grid = {"scales": list(scales), "powers": list(powers), "clips": list(clips)}
    for name, values in grid.items():
        if not values:
            raise InputError(f"{name} is empty: name one value at least.")
    for scale in grid["scales"]:
        _check("scale", scale, least=0, open_=True)
    for power in grid["powers"]:
        _check("power", power, least=1)
    for clip in grid["clips"]:
        _check("clip", clip)
    return grid


def _margins(logits, power, clip, scales, y=None):
    """Margins [scales, n] of softmax(scale g(z)); negative where they are not for y."""
    g = np.asarray(transformed(logits, power, clip))
    z = np.asarray(scales)[:, None, None] * (g - g.max(-1, keepdims=True))
    p = np.exp(z)
    p /= p.sum(-1, keepdims=True)
    second, first = np.moveaxis(np.partition(p, -2, axis=-1)[..., -2:], -1, 0)
    margins = first - second
    return margins if y is None else np.where(g.argmax(-1) == y, margins, -margins)
