"""The smallest data set, model and run that the command line takes, in seconds."""

import keras
import numpy as np

import vfd_tf  # noqa: F401  before TensorFlow
from vfd_tf.cli import main
from vfd_tf.experiments import run_directory

L = keras.layers
CHECKPOINT = "checkpoint-00001-00000000.npz"  # of a run of one epoch


def arrays():
    """24 training and 8 test images 4x4x1 of 3 classes."""
    random, found = np.random.default_rng(0), {}
    for split, count in (("train", 24), ("test", 8)):
        found[f"x_{split}"] = random.integers(0, 256, (count, 4, 4, 1)).astype("uint8")
        found[f"y_{split}"] = np.arange(count) % 3
    return found


def model(*layers):
    """A classifier of such images, with these layers in front."""
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, L.Flatten(), L.Dense(3)])


def written(folder):
    """A folder with data.npz and net.keras."""
    np.savez(folder / "data.npz", **arrays())
    model(L.Conv2D(2, 3, name="layer1")).save(folder / "net.keras")
    return folder


def flags(folder):
    """Of a run of one epoch in `folder`, which `written` made, and its evaluation."""
    return [
        *(f"--dataset=npz:{folder / 'data.npz'}", f"--arch={folder / 'net.keras'}"),
        *("--method=natural", "--distill=none", "--epochs=1", "--batch_size=8"),
        *("--eval_attacks=fgsm", "--epsilon=0.1", "--panel_every=0"),
        *("--jit_compile=false", f"--runs={folder / 'runs'}"),
    ]


def train(folder, *words):
    return main.main(["run.py", *flags(folder), f"--workdir={folder / 'run'}", *words])


def evaluate(folder, model, *words):
    words = *flags(folder)[:1], "--eval_attacks=fgsm", "--epsilon=0.1", *words
    return main.main(["run.py", "evaluate", f"--model={model}", *words])


def interrupt_behind(monkeypatch, epoch):
    """Ctrl-C comes when this many epochs of a run are saved."""
    save = run_directory.Saver._save

    def interrupted(saver):
        save(saver)
        if saver.state.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_directory.Saver, "_save", interrupted)
