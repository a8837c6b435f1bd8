"""What users are told of mistakes in the data and the arguments of a fit."""

from unittest import mock

import keras
import numpy as np
import pytest
from mistakes import ENDLESS, GREY, ONE_HOT, Cases, X, Y, dataset, meet, network, trainer

CASES = Cases()
case = told = CASES.case


def fits(name, message, *data, warning=False, **arguments):
    case(name, message, warning)(lambda: trainer().fit(*data, verbose=0, **arguments))


fits(
    "grey levels",
    r"The images range from 0 to 255; attacks need float32 in \[0, 1\]: divide by 255 .*",
    GREY,
    Y,
)
fits("integer images", r"The images are uint8; .* x / 255\.", (255 * X).astype("uint8"), Y)
fits(
    "labels out of range",
    r"The labels range from 0 to 7, but the model has 3 classes, 0 to 2\.",
    X,
    np.arange(24) % 8,
)
fits(
    "one-hot labels of other classes",
    r"The labels have shape \(24, 4\): pass class indices \[n\], or distrib.*",
    X,
    np.eye(4)[Y],
)
fits(
    "labels of text", r"The labels are text or objects; number .*", X, np.array(["a"] * 24)
)
fits("fractions as labels", r"The labels are float64; .*", X, Y + 0.5)
fits("no labels", r"There are no labels: pass y, one label an image\.", X)
fits("fewer labels", r"There are 24 images and 23 labels: pass one each\.", X, Y[:-1])
fits(
    "weights of classes for images",
    r"sample_weight has shape \(8, 3\) for 8 images: pass one weight an image, .*",
    X,
    Y,
    sample_weight=ONE_HOT,
    batch_size=8,
)
fits("class weights", r"class_weight is not supported: .*", X, Y, class_weight={0: 2.0})
fits(
    "batches in a new order", r"shuffle='batch' is not supported: .*", X, Y, shuffle="batch"
)
fits(
    "a list as data",
    r"The images are a list: pass one array of them, as fit\(x, y\), or a tf\.data set .*",
    [(X, Y)],
)
fits("a list of one input", r"The images are a list: pass one array of them, .*", [X], Y)
fits("inputs by name", r"The images are a dict: pass one array .*", {"image": X}, Y)
for size in (-4, 16.0):
    fits(
        f"{size} images in a batch",
        rf"batch_size must be a whole number from 1; got {size}\.",
        X,
        Y,
        batch_size=size,
    )
fits(
    "NaN among the images",
    r"Some images are NaN or infinite: repair them, or leave them out\.",
    np.where(X.max() == X, np.nan, X),
    Y,
)
fits(
    "a later batch with NaN",
    r"A later batch has images that are NaN or infinite: repair them, or leave them out\.",
    dataset().concatenate(dataset(np.full_like(X, np.nan))),
)
fits("an endless data set", ENDLESS, dataset().repeat())
fits(
    "labels beside a data set",
    r"With a data set, labels and sample_weight belong into it: \(x, y, weight\)\.",
    dataset(),
    Y,
)
fits(
    "a split of a data set",
    r"validation_split needs arrays; pass validation_data=\.\.\. instead\.",
    dataset(),
    validation_split=0.5,
)
fits(
    "a split of everything",
    r"validation_split must be between 0 and 1; got 1\.",
    X,
    Y,
    validation_split=1,
)
fits("an empty data set", r"The data set is empty\.", dataset().take(0))
fits(
    "a later batch of grey levels",
    r"A later batch has images from 0 to 255: divide all images by 255, or clip them .*",
    dataset().concatenate(dataset(GREY)),
)
fits(
    "a later batch of other labels",
    r"A later batch has labels from 5 to 7: number the 3 classes from 0\.",
    dataset().concatenate(dataset(y=Y + 5)),
)
fits(
    "batches of two sizes",
    r"A batch of 4 images is dropped: training keeps to the usual 10; .*",
    dataset(size=10),
    warning=True,
)
fits(
    "images that never fill a batch",
    r"The last 4 of 24 images fill no batch of 10 and are never used: .*",
    X,
    Y,
    batch_size=10,
    shuffle=False,
    warning=True,
)
told("a batch size that the model fixes", r"The model takes batches of 8 images alone: .*")(
    lambda: trainer(network(batch_size=8)).fit(X, Y, batch_size=6, verbose=0)
)


@told(
    "TensorBoard that isn't installed",
    r"The TensorBoard callback needs tensorboard, which isn't installed: .*",
)
def _():
    with mock.patch("importlib.util.find_spec", return_value=None):
        trainer().fit(X, Y, callbacks=keras.callbacks.TensorBoard("logs"), verbose=0)


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)
