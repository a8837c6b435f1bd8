"""Figures of images: features as t-SNE shows them, and sheets of adversarial examples."""

import numpy as np

from vfd_tf import files
from vfd_tf.experiments.report import drawing
from vfd_tf.experiments.report.suite import Suite
from vfd_tf.hyperparameters import InputError

FEATURES, EXAMPLES = "features.npz", "examples.npz"
_REMEDY = "remove it, and its `python run.py suite` makes it again"
_MOST = 8  # examples on a sheet


def draw(suite: Suite) -> tuple[dict[str, tuple[str, object]], list[str]]:
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
    with drawing.style():
        figure = drawing.blank(2.2 * len(names) + 0.4, 4.9)
        plots = figure.subplots(2, len(names), squeeze=False)
        for column, (points, name) in enumerate(zip(embedding, names, strict=True)):
            for plot, chosen, marker in zip(
                plots[:, column], (~adversarial, adversarial), "o^", strict=True
            ):
                _clusters(plot, points[chosen], twice[chosen], classes, marker)
                _same_window(plot, points)
            plots[0, column].set_title(str(name))
        for plot, kind in zip(plots[:, 0], ("clean", "adversarial"), strict=True):
            plot.set_ylabel(kind)
        _legend(figure, classes)
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
    labels = [f"class {name}" for name in classes]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(classes), 5))


def examples(arrays: dict[str, np.ndarray]):
    """Clean image, perturbation, adversarial image in a column, with what is predicted."""
    clean, adversarial = (arrays[name][:_MOST] for name in ("clean", "adversarial"))
    if clean.shape != adversarial.shape or clean.ndim != 4:
        raise ValueError(f"its images have the shapes {clean.shape}, {adversarial.shape}")
    change = adversarial - clean
    scale = _scale(arrays, change)
    rows = (clean, 0.5 + change * scale, adversarial)
    names = ("clean", f"perturbation x {scale:.3g}", "adversarial")
    with drawing.style():
        figure = drawing.blank(1.15 * len(clean) + 0.6, 4.2)
        plots = figure.subplots(3, len(clean), squeeze=False)
        for line, images, name in zip(plots, rows, names, strict=True):
            for plot, image in zip(line, images, strict=True):
                _show(plot, image)
            line[0].set_ylabel(name)
        for key, line in (("labels", 0), ("predictions", 2)):
            for plot, text in zip(plots[line], _texts(arrays, key), strict=False):
                plot.set_title(text, fontsize=8, fontweight="normal")
    return (
        "Adversarial examples: the clean image, the perturbation (grey is none), and their "
        "sum with what the model predicts for it.",
        figure,
    )


def _scale(arrays, change):
    """The factor that the file names, or that which fills the range."""
    if "scale" in arrays:
        return float(arrays["scale"])
    return 0.5 / max(float(np.abs(change).max()), 1e-6)


def _texts(arrays, name):
    return [str(text) for text in arrays.get(name, ())][:_MOST]


def _show(plot, image):
    image = np.clip(image, 0, 1)
    image = image if image.shape[-1] == 3 else image.mean(-1)
    plot.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    plot.set_xticks([])
    plot.set_yticks([])
    plot.grid(False)
