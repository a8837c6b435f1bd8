"""A linear classifier of the digits, its evaluation by the command, and what that wrote."""

import json

import keras
import numpy as np
import pytest
from keras import layers as L

from vfd_tf import datasets
from vfd_tf.cli import main

COMMON = ("--dataset=digits", "--max_images=48", "--eval_epsilon=0.1")


def linear(seed=0, classes=10):
    """Least squares on the digits, as a classifier: right on most images."""
    train = datasets.load("digits").train
    x = train.floats().reshape(len(train), -1)
    keep = np.random.RandomState(seed).permutation(len(x))[:800]
    x, y = x[keep], np.eye(classes)[train.y[keep]]
    gram = x.T @ x + np.eye(64)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(classes)(L.Flatten()(inputs)))
    model.set_weights([10 * np.linalg.solve(gram, x.T @ y), np.zeros(classes)])
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    linear().save(path)
    return path


def run(path, *words):
    return main.main(["run.py", "--mode=evaluate", f"--model={path}", *COMMON, *words])


def columns(folder, title):
    """Attack -> verdicts of one table of a report."""
    with np.load(folder / "verdicts.npz") as saved:
        prefix = f"{title}|"
        names = [name for name in saved.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): saved[name] for name in names}


def table(folder, title):
    """Attack -> row of one table of a report."""
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {row["attack"]: row for row in rows if row["table"] == title}
