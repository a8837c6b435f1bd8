"""AR-AT: adversarial features are led to clean ones, with BatchNorm by view."""

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import losses, noise
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.models import batch_norms, network, projection
from vfd_tf.models.keras_graph import graph_of
from vfd_tf.training.learned import State
from vfd_tf.training.methods.base import Method
from vfd_tf.types import Outputs, Tensor, Terms


@component
class ARAT(Method):
    """a CE(z(x'), y) + (1 - a) CE(z(x), y) + beta * mean_l [1 - cos(h_l(f_l(x')), f_l(x))].

    f_l is the output of layer l after ReLU and average pooling, on x without gradient;
    h_l is Dense(hidden * C), BatchNorm, ReLU, Dense(C), trained and not shipped. a is the
    accuracy on clean training images in the epoch before, 1 / classes in the first. Clean
    and adversarial images have BatchNorm of their own, the student ships the adversarial
    one. Waseda et al. 2025, https://arxiv.org/abs/2402.14648

    `layers` are by default the BatchNorm layers of the last stage, for ResNet-18 the four
    of layer4 as in the paper. For WideResNet-34-10 the code (futakw/AR-AT) has eleven
    layers, one of them a stage earlier, and beta 100.

    Where the code departs: a is the accuracy on about 1,000 images in inference mode, just
    before the epoch (here `accuracy_images=1000`, the last ones of the epoch, as training
    sees them). Its attack sees BatchNorm in training mode (`attack_bn_mode="train"`; the
    moving statistics, which it moves there, stay here) and writes its uniform start into
    the images themselves, so that both views are around noisy ones, and x' is up to two
    epsilon from the image: `image_noise=8/255`.
    """

    beta: float = hyper(30.0, "weight of the mean over layers", minimum=0.0)
    layers: str = hyper(
        "auto",
        "layers l, with commas; auto: BatchNorm of the last stage, or the last features",
    )
    hidden: float = hyper(0.25, "width of the predictors over that of the layer", 1e-3)
    accuracy_images: int | None = hyper(
        None, "a is of at least so many of the latest images; none: of the epoch", 1
    )
    image_noise: float = hyper(
        0.0, "uniform noise on all images, radius; the attack starts there", minimum=0.0
    )
    hard_label = ("adv", "clean")
    beta_term = "align"
    batch_norm = "views"

    @property
    def weights(self) -> dict[str, float]:
        return {"adv": 1.0, "clean": 1.0, "align": self.beta}

    def taps(self, model: keras.Model) -> tuple[str, ...]:
        graph = graph_of(model)
        if graph and network.channels_first(graph, graph.inputs[0].shape[1:]):
            raise InputError(
                f"ARAT pools features [n, h, w, c], but channels come first in the model "
                f"{model.name!r}: build it with data_format='channels_last'."
            )
        if self.layers == "auto":
            return batch_norms.last_stage(model) or ("last",)
        return tuple(name.strip() for name in self.layers.split(","))

    def heads(self, channels: dict[str, int]) -> dict[str, keras.Model]:
        """Layer -> h_l."""
        found = {}
        for i, (layer, size) in enumerate(channels.items(), 1):
            width = max(1, int(size * self.hidden))
            found[layer] = projection.predictor(size, width, f"predictor{i}")
        return found

    def images(self, x: Tensor, seeds: Tensor) -> Tensor:
        if not self.image_noise:
            return x
        radius = self.image_noise
        return x + noise.uniform(seeds, x.shape[1:], -radius, radius, x.dtype)

    def start(self, x: Tensor, seeds: Tensor | None) -> Tensor | None:
        return x if self.image_noise else None

    def terms(self, y: Tensor, student: Outputs, teacher: Outputs | None) -> Terms:
        clean, adv = student["clean"], student["adv"]
        a = tf.cast((self.learned or self.state(None))["adv_part"], adv["logits"].dtype)
        distances = []
        for layer, head in self.trained.items():
            target = tf.stop_gradient(pooled(network.features(clean, layer)))
            led = head(pooled(network.features(adv, layer)), training=True)
            distances.append(losses.cosine_distance(led, target))
        return {
            "adv": a * losses.cross_entropy(y, adv["logits"]),
            "clean": (1 - a) * losses.cross_entropy(y, clean["logits"]),
            "align": tf.add_n(distances) / len(distances),
        }

    def state(self, classes: int | None) -> dict[str, np.ndarray]:
        """a; correct images, images, accuracy of those that count by now."""
        start = 1 / classes if classes else 0.0
        seen = np.array([0, 0, start], "float32")
        return {"adv_part": np.float32(start), "seen": seen}

    def seen(self, y: Tensor, logits: Tensor, terms: Terms) -> State:
        hits = losses.correct(y, logits)
        return {"hits": tf.reduce_sum(tf.cast(hits, logits.dtype)), "images": tf.size(hits)}

    def after_step(self, state: State, seen: State) -> State:
        counts = state["seen"][:2] + tf.stack([seen["hits"], seen["images"]])
        full = counts[1] >= (self.accuracy_images or 1)
        recent = tf.where(full, counts[0] / counts[1], state["seen"][2])
        if self.accuracy_images:
            counts = tf.where(full, tf.zeros_like(counts), counts)
        return {"seen": tf.concat([counts, recent[None]], 0)}

    def after_epoch(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        hits, images, recent = state["seen"]
        if not self.accuracy_images:  # else images of the next epoch may fill them up
            hits = images = 0
        return {"adv_part": recent, "seen": np.array([hits, images, recent], "float32")}


def pooled(features: Tensor) -> Tensor:
    """ReLU, then the mean over positions: [n, ..., c] -> [n, c]."""
    features = tf.nn.relu(features)
    return tf.reduce_mean(features, list(range(1, features.shape.rank - 1)))
