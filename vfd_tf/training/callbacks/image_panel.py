"""A callback that shows in TensorBoard what the attack does: images and margins."""

import importlib.util
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import evaluation, losses, noise
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network
from vfd_tf.training.callbacks import curves

_ROWS = ("clean", "perturbation", "adversarial")
_BATCH = 128


class ImagePanel(keras.callbacks.Callback):
    """A panel of adversarial images, and histograms of margins, every few epochs.

    Writes to `<log_dir>/panel`, so that with the `log_dir` of `training.curves.Curves`
    the run has them beside `train` and `validation`, at the epoch as it is printed (1 for
    the first; `keras.callbacks.TensorBoard` begins at 0):

        panel               the first images: clean, perturbation, adversarial; the true
                            class on top, the predicted one below, red where wrong
        margin/clean        z_y - max_{j != y} z_j of every image, negative where wrong
        margin/adversarial  the same of the adversarial images

    The perturbation d is shown as 0.5 + d / (2 max|d|), for each image by itself. Networks
    run in inference mode; the attack on an image depends on seed and position alone, so
    that epochs compare.

    Args:
        dataset: Validation images: `Images`, arrays (x, y) or a tf.data set of batches.
        log_dir: TensorBoard's folder of the run.
        attack: Name of an evaluation protocol such as "pgd10", or an attack.
        epsilon, norm: Threat model of a named attack.
        every: Epochs between panels; the last epoch of a fit always has one.
        images: Columns of the panel.
        class_names: One for each class; default: its number.
        seed: Seed of the attack's starts.

    Raises:
        InputError: No tensorboard, a number below 1, too few class names, and what
            `evaluation` refuses; all before the first epoch.
    """

    def __init__(
        self,
        dataset: Any,
        log_dir: str,
        attack: Any = "pgd10",
        epsilon: float = 8 / 255,
        norm: str = "linf",
        every: int = 5,
        images: int = 8,
        class_names: tuple[str, ...] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError("ImagePanel needs tensorboard: pip install tensorboard.")
        for name, value in (("every", every), ("images", images)):
            if value < 1:
                raise InputError(f"ImagePanel's {name} must be at least 1; got {value}.")
        self.dataset, self.log_dir = dataset, os.path.join(log_dir, "panel")
        self.attack = evaluation.protocol(attack or "pgd10", epsilon, norm)
        self.every, self.images = every, images
        self.class_names, self.seed = class_names, seed
        self.student = self.examine = self.writer = None
        self.epoch = self.written = -1

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        student = getattr(model, "student", model)
        if student is not self.student:
            self.student, self.examine = student, _examiner(student, self.attack)

    def on_train_begin(self, logs=None) -> None:
        self.epoch = self.written = -1
        self._check()

    def _check(self):
        """Holds the first images to the input contract; the number of classes."""
        x, y = next(evaluation.batches(self.dataset, _BATCH), (None, None))
        if x is None:
            raise InputError("The data set of ImagePanel is empty.")
        classifier = network.classifier(self.student)
        classes = contract.check_batch(classifier, x, y, soft=True)
        contract.class_indices(y, classes)
        if self.class_names is not None and len(self.class_names) < classes:
            raise InputError(
                f"ImagePanel has {len(self.class_names)} class names for the {classes} "
                "classes of the model; name every class."
            )
        return classes

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        if self.epoch < 0:  # of a fit that goes on: no panel twice
            curves.remove_from(self.log_dir, epoch + 1)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.epoch = epoch
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params.get("epochs"):
            self.write(epoch)

    def on_train_end(self, logs=None) -> None:
        if self.epoch > self.written:  # the fit was ended early
            self.write(self.epoch)
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def write(self, epoch: int) -> None:
        """Writes panel and margins of the model as it is; epoch 0 is step 1."""
        margins, shown = self._examine_all()
        if self.writer is None:
            self.writer = tf.summary.create_file_writer(self.log_dir)
        picture = panel(*shown, self.class_names, f"epoch {epoch + 1}")
        with self.writer.as_default(epoch + 1), tf.summary.record_if(True):
            tf.summary.image("panel", picture[None])
            for view, values in margins.items():
                tf.summary.histogram(f"margin/{view}", values)
        self.writer.flush()
        self.written = epoch

    def _examine_all(self):
        """{view: margins [n]} of all images; x, x_adv, y and both logits of the first."""
        margins, shown, position, size = {"clean": [], "adversarial": []}, [], 0, 0
        classes = self._check()
        for x, y in evaluation.batches(self.dataset, _BATCH):
            count, y = len(x), contract.class_indices(y, classes)
            size = max(size, count)
            seeds = noise.example_seeds(self.seed, 0, position + tf.range(size))
            # Zero images fill the last batch up, so that one shape is ever traced.
            filled = np.pad(x, [[0, size - count]] + [[0, 0]] * (x.ndim - 1))
            found = self.examine(filled, np.pad(y, [[0, size - count]]), seeds)
            found = {name: value.numpy()[:count] for name, value in found.items()}
            for view in margins:
                margins[view].append(-losses.margin(y, found[view]).numpy())
            if position < self.images:
                wanted = self.images - position
                parts = x, found["x_adv"], y, found["clean"], found["adversarial"]
                shown.append([part[:wanted] for part in parts])
            position += count
        margins = {view: np.concatenate(parts) for view, parts in margins.items()}
        return margins, [np.concatenate(parts) for parts in zip(*shown, strict=True)]


def _examiner(student, attack):
    """The compiled function (x, y, seeds) -> adversarial images and logits of both."""
    tapped = network.tap(student)

    def logits_fn(x):
        return tapped(x, training=False)["logits"]

    @tf.function(reduce_retracing=True, autograph=False)
    def examine(x, y, seeds):
        x_adv = attack(logits_fn, x, y, seeds)
        return {"x_adv": x_adv, "clean": logits_fn(x), "adversarial": logits_fn(x_adv)}

    return examine


def amplified(x, x_adv) -> np.ndarray:
    """0.5 + d / (2 max|d|) with d = x_adv - x of each image: [n, h, w, c] in [0, 1]."""
    delta = x_adv - x
    largest = np.abs(delta).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + delta / (2 * np.maximum(largest, np.finfo(delta.dtype).tiny))


def panel(x, x_adv, y, logits, adversarial_logits, class_names=None, title=""):
    """The panel as one picture, uint8 [height, width, 3].

    Args:
        x, x_adv: Images [n, h, w, c] in [0, 1].
        y: Labels [n].
        logits, adversarial_logits: [n, classes], on x and on x_adv.
        class_names: One for each class; default: its number.
        title: Above the panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.7 + 1.15 * len(x), 4.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(_ROWS), len(x), squeeze=False)
    figure.suptitle(title, fontsize=9)
    for row, images in zip(axes, (x, amplified(x, x_adv), x_adv), strict=True):
        for cell, image in zip(row, images, strict=True):
            show(cell, image)
    for cell, name in zip(axes[:, 0], _ROWS, strict=True):
        cell.set_ylabel(name, fontsize=9)
    for cell, label in zip(axes[0], y, strict=True):
        cell.set_title(_name(class_names, label), fontsize=9)
    for row, scores in ((axes[0], logits), (axes[2], adversarial_logits)):
        for cell, label, predicted in zip(row, y, np.argmax(scores, -1), strict=True):
            color = "black" if predicted == label else "tab:red"
            cell.set_xlabel(_name(class_names, predicted), fontsize=9, color=color)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def show(cell, image):
    """Draws an image [h, w, c] in [0, 1] into a plot.

    Three channels are a colour; of any other number the mean is shown in grey.
    """
    image = np.clip(image, 0, 1)
    image = image if image.shape[-1] == 3 else image.mean(-1)
    cell.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    cell.set_xticks([])
    cell.set_yticks([])


def _name(class_names, label):
    return str(label) if class_names is None else str(class_names[label])
