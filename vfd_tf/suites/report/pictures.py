"""Figures of images: features as t-SNE shows them, and sheets of adversarial examples."""

import numpy as np

from vfd_tf import files
from vfd_tf.experiments.features import EXAMPLES, FEATURES
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.report import drawing
from vfd_tf.suites.report.suite_record import SuiteRecord
from vfd_tf.training.callbacks.image_panel import show

_REMEDY = "remove it, and its `python run.py suite` makes it again"
_MOST = 8  # examples on a sheet


def draw(suite: SuiteRecord) -> tuple[dict[str, tuple[str, object]], list[str]]:
    """Name -> what the figure shows, and the figure; and why others can't be drawn."""
    found, problems = {}, []
    for name, file, picture in (
        ("features", FEATURES, features),
        ("examples", EXAMPLES, examples),
    ):
        try:
            arrays = files.read_arrays(suite.path(file), _REMEDY)
            if arrays:
                with files.read_or_refused(suite.path(file), _REMEDY):
                    found[name] = picture(arrays)
        except InputError as error:
            problems.append(str(error))
    return found, problems


def features(arrays: dict[str, np.ndarray]):
    """A column of plots a model, its clean images above and adversarial ones below."""
    embedding, labels = arrays["embedding"], arrays["labels"]
    adversarial, names = arrays["adversarial"].astype(bool), arrays["names"]
    if embedding.shape != (len(names), len(adversarial), 2):
        raise ValueError(f"its embedding has the shape {embedding.shape}")
    twice = np.concatenate([labels, labels])
    classes = np.unique(labels)
    texts = [str(name) for name in arrays.get("classes", ())]
    with drawing.style():
        figure = drawing.blank(2.2 * len(names) + 0.4, 4.9)
        plots = figure.subplots(2, len(names), squeeze=False)
        for column, (points, name) in enumerate(zip(embedding, names, strict=True)):
            for line, (chosen, marker) in enumerate(
                ((~adversarial, "o"), (adversarial, "^"))
            ):
                plot = plots[line, column]
                _clusters(plot, points[chosen], twice[chosen], classes, marker)
                _same_window(plot, points)
                if "accuracy" in arrays:
                    plot.set_xlabel(f"{arrays['accuracy'][column, line]:.0f} % right")
            plots[0, column].set_title(str(name))
        for plot, kind in zip(plots[:, 0], ("clean", "adversarial"), strict=True):
            plot.set_ylabel(kind)
        _legend(figure, [texts[c] if c < len(texts) else f"class {c}" for c in classes])
    return (
        "Features of the last layer under t-SNE, made for the clean and the adversarial "
        "images of a model together: dots are clean, triangles adversarial images, colours "
        "are classes.",
        figure,
    )


def _clusters(plot, points, labels, classes, marker):
    for number, name in enumerate(classes):
        plot.scatter(
            *points[labels == name].T,
            **{"s": 5, "marker": marker, "linewidths": 0, "alpha": 0.75},
            **{"color": drawing.CLASSES[number % len(drawing.CLASSES)], "rasterized": True},
        )
    plot.set_xticks([])
    plot.set_yticks([])
    plot.grid(False)
    plot.spines[["top", "right"]].set_visible(True)


def _same_window(plot, points):
    """Both plots of a model show the same part of the plane."""
    low, high = points.min(0), points.max(0)
    room = 0.05 * (high - low) + 1e-6
    plot.set_xlim(low[0] - room[0], high[0] + room[0])
    plot.set_ylim(low[1] - room[1], high[1] + room[1])


def _legend(figure, classes):
    from matplotlib.lines import Line2D

    colours = drawing.CLASSES
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colours[i % len(colours)])
        for i in range(len(classes))
    ]
    figure.legend(handles, classes, loc="outside lower center", ncols=min(len(classes), 5))


def examples(arrays: dict[str, np.ndarray]):
    """Clean images, and below them every model's perturbations and adversarial images."""
    clean, adversarial = arrays["clean"][:_MOST], arrays["adversarial"]
    adversarial = adversarial if adversarial.ndim == 5 else adversarial[None]
    adversarial = adversarial[:, :_MOST]
    if clean.ndim != 4 or adversarial.shape[1:] != clean.shape:
        raise ValueError(f"its images have the shapes {clean.shape}, {adversarial.shape}")
    changes = adversarial - clean
    scale = 0.5 / max(float(np.abs(changes).max(initial=0)), 1e-6)
    names = arrays.get("names", ("",) * len(adversarial))
    rows = [("clean", clean, _texts(arrays, "labels"))]
    for number, (name, change, image) in enumerate(
        zip(names, changes, adversarial, strict=True)
    ):
        predicted = _texts(arrays, "predictions_adversarial", number)
        rows += [(f"change x {scale:.3g}", 0.5 + change * scale, [])]
        rows += [(f"{name}\nadversarial".strip(), image, predicted)]
    with drawing.style():
        figure = drawing.blank(1.15 * len(clean) + 0.7, 1.35 * len(rows) + 0.2)
        plots = figure.subplots(len(rows), len(clean), squeeze=False)
        for line, (name, images, texts) in zip(plots, rows, strict=True):
            for plot, image in zip(line, images, strict=True):
                show(plot, image)
                plot.grid(False)
            line[0].set_ylabel(name, fontsize=8)
            _write(line, texts, rows[0][2])
    return (
        "Test images with their classes; below, for each model, the change that the attack "
        "makes (grey is none) and the adversarial image with the predicted class, in "
        "vermilion where it is wrong.",
        figure,
    )


def _write(plots, texts, classes):
    wrong = drawing.COLOURS["VFD-Adv"]
    for plot, text, true in zip(plots, texts, classes, strict=False):
        color = drawing.INK if text == true else wrong
        plot.set_title(text, fontsize=8, fontweight="normal", color=color)


def _texts(arrays, name, number=None):
    """The classes of labels or of a model's predictions, by name where there are names."""
    places = arrays.get(name, np.zeros(0, int))
    places = places[number] if places.ndim == 2 and number is not None else places
    names = arrays.get("class_names", ())
    return [str(names[p]) if p < len(names) else str(p) for p in places[:_MOST]]
