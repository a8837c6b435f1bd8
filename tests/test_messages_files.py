"""What users are told of mistakes in data sets, models and results from files."""

import os

import keras
import numpy as np
import pytest
from mistakes import Cases, command_line, meet
from PIL import Image

from vfd_tf.data import image_folders

CASES = Cases()
case = CASES.case


def folder_of_images(root="photos", classes=("cat", "dog"), suffix="png", **odd):
    """A folder of two 4x4 images a class; `odd`: file -> pixels or bytes instead."""
    for name in [f"{c}/{i}.{suffix}" for c in classes for i in (0, 1)]:
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(f"{root}/{name}")
    for name, content in odd.items():
        path = f"{root}/cat/{name}.{suffix}"
        if isinstance(content, bytes):
            with open(path, "wb") as file:
                file.write(content)
        else:
            Image.fromarray(content).save(path)
    return root


def image_file(name, message, suffix="png", warning=False, **odd):
    def mistake():
        image_folders.read_folder(folder_of_images(suffix=suffix, **odd))[0].everything()

    case(name, message, warning)(mistake)


DAMAGED = r"photos/cat/a\.{} can't be read as an image \({}\); replace or remove it\."
image_file("an empty image", DAMAGED.format("png", "the file is empty"), a=b"")
image_file(
    "a damaged JPEG",
    DAMAGED.format("jpg", "the file is damaged or cut short"),
    "jpg",
    a=b"\xff\xd8\xff\xe0 no more",
)
image_file(
    "a web page for an image",
    DAMAGED.format("webp", "it is damaged or of no image format"),
    "webp",
    a=b"<html>",
)
image_file(
    "transparent pixels",
    r"photos/cat/a\.png has 4 channels; save it as greyscale or RGB, without .*",
    a=np.zeros((4, 4, 4), "uint8"),
)
image_file(
    "an image of another size",
    r"photos/cat/a\.bmp is 5x4x3 pixels where photos/cat/0\.bmp is 4x4x3; resize .*",
    "bmp",
    a=np.zeros((5, 4, 3), "uint8"),
)
image_file(
    "pixels of 32 bits",
    DAMAGED.format("tiff", r"its pixels are 32-bit numbers of no known range: .*"),
    "tiff",
    a=np.zeros((4, 4), "float32"),
)


@case(
    "files that are left out",
    r"Images are read from 4 of the 6 files in photos; left out: 1 \.csv, 1 \.txt\.",
    warning=True,
)
def _():
    folder_of_images()
    for name in ("labels.csv", "cat/notes.txt"):
        open(f"photos/{name}", "w").close()
    image_folders.read_folder("photos")[0].everything()


@case(
    "images of 16 bits",
    r"4 of 4 images of photos have 16 bits a channel, of which the upper 8 are read\.",
    warning=True,
)
def _():
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        os.makedirs(os.path.dirname(f"photos/{name}"), exist_ok=True)
        Image.fromarray(np.zeros((4, 4), "uint16")).save(f"photos/{name}.png")
    image_folders.read_folder("photos")[0].everything()


@case(
    "training on test images alone",
    r"npz:test\.npz has test images alone; save x_train and y_train in it, to train on\.",
)
def _():
    np.savez("test.npz", x_test=np.zeros((4, 8, 8, 1), "uint8"), y_test=np.arange(4))
    command_line("--dataset=npz:test.npz", "--epochs=1")


def linear(path="m.keras", classes=10, shape=(8, 8, 1)):
    inputs = keras.Input(shape)
    logits = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, logits).save(path)


def evaluated(name, message, *words, before=linear):
    def mistake():
        before()
        words_ = ("--dataset=digits", "--max_images=8", "--eval_epsilon=0.1")
        command_line("evaluate", "--eval_attacks=fgsm", *words_, *words)

    case(name, message)(mistake)


def run_without_student():
    os.mkdir("run")
    with open("run/run.json", "w") as file:
        file.write("{}")


def damaged_results(name, content):
    def before():
        linear()
        os.makedirs("m.eval", exist_ok=True)
        with open("m.eval/results.json", "w") as file:
            file.write('{"tables": {}, "rows": []}')
        with open(f"m.eval/{name}", "w") as file:
            file.write(content)

    return before


MODEL = "--model=m.keras"
evaluated("no model", r"Name the model: python run\.py evaluate --model=FILE\.keras\.")
evaluated(
    "a model that isn't there", r"There is no model file no\.keras.*", "--model=no.keras"
)
evaluated(
    "a model cut short",
    r"m\.keras is damaged or cut short: copy it again, or train it anew\.",
    "--model=m.keras",
    before=lambda: (linear(), os.truncate("m.keras", 1000)),
)
evaluated(
    "a run without a student",
    r"The run run has no best\.keras yet: wait for its first epoch\.",
    "--model=run",
    before=run_without_student,
)
evaluated(
    "a model of fewer classes",
    r"m\.keras takes images \(8, 8, 1\) of 3 classes; digits has \(8, 8, 1\) and 10: .*",
    MODEL,
    before=lambda: linear(classes=3),
)
for bounds, message in (
    ("low,high", r"--bounds=low,high must be two numbers, low and high, such as -1,1\."),
    ("1,-1", r"bounds must rise from low to high; got 1 and -1\."),
):
    evaluated(f"bounds of {bounds}", message, MODEL, f"--bounds={bounds}")
evaluated(
    "a results.json cut short",
    r"m\.eval/results\.json can't be read \(.*\): remove m\.eval, or choose another .*",
    MODEL,
    before=damaged_results("results.json", "{"),
)
evaluated(
    "a verdicts.npz that is none",
    r"m\.eval/verdicts\.npz can't be read \(.*\): remove m\.eval, or choose another .*",
    MODEL,
    before=damaged_results("verdicts.npz", "no archive"),
)
evaluated(
    "a folder of another model",
    r"m\.eval/journal holds an evaluation with model_sha256 .* \(now .*\); choose .*",
    MODEL,
    before=lambda: (
        linear(),
        command_line("evaluate", MODEL, "--dataset=digits", "--max_images=8",
                     "--eval_attacks=fgsm", "--eval_epsilon=0.1"),
        linear(),
    ),
)  # fmt: skip


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)
