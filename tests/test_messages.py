"""What users are told: every mistake and the one sentence that names its fix.

A case is a function that makes the mistake, under the message it must meet: a regular
expression that has to match the whole sentence. Cases are refused with `InputError`, in
Python before anything is trained, at the command line with exit code 2 and one line on
stderr. Cases marked `warning=True` go on, with that warning.
"""

import contextlib
import io
import os
import re
import warnings

import vfd_tf  # noqa: F401  before TensorFlow

import keras
import numpy as np
import pytest
from PIL import Image

from vfd_tf import InputError, command, files, image_files

CASES = []


def case(name, message, warning=False):
    """Registers a mistake; `message` has to match what the user reads, as a whole."""

    def register(mistake):
        CASES.append(pytest.param(mistake, message, warning, id=name))
        return mistake

    return register


def command_line(*words):
    """Runs `python run.py WORDS`; raises what it prints on stderr as an `InputError`."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = command.main(["run.py", *words])
    lines = [li for li in stderr.getvalue().splitlines() if li.startswith("error: ")]
    if code:
        assert code == 2 and len(lines) == 1, stderr.getvalue()
        raise InputError(lines[0].removeprefix("error: "))


# --- training ---------------------------------------------------------------------------


# --- attacks and evaluation -------------------------------------------------------------


# --- command line -----------------------------------------------------------------------

DIGITS = ("--dataset=digits", "--arch=resnet8", "--width=0.125", "--batch_size=256")
NATURAL = (*DIGITS, "--method=natural", "--distill=none", "--epsilon=0.2", "--epochs=1")
TRADES = (*DIGITS, "--method=trades", "--distill=none", "--lr_milestones=")


def refused_at_once(name, message, *words):
    case(name, message)(lambda: command_line(*words))


def warned_at_once(name, message, *words):
    """A warning before the refusal of `--batch_size=5000`, so that nothing is trained."""

    def mistake():
        with contextlib.suppress(InputError):
            command_line(*words, "--batch_size=5000")

    case(name, message, warning=True)(mistake)


refused_at_once(
    "an unknown flag",
    r"Unknown flag --vfd_lamda; the nearest name is --vfd_lambda\.",
    "--vfd_lamda=1",
)
refused_at_once("an unknown flag near none", r"Unknown flag --qqq; .*--help.*", "--qqq=1")
refused_at_once(
    "an unknown mode",
    r"Unexpected argument 'evalute'; .*did you mean evaluate\.",
    "evalute",
)
refused_at_once(
    "a flagfile that isn't there",
    r"The --flagfile can't be opened: .*'nope'\.",
    "--flagfile=nope",
)
refused_at_once(
    "a learning rate of inf", r".*--learning_rate must be finite.*", "--learning_rate=inf"
)
refused_at_once(
    "a radius of NaN", r".*--epsilon must be at least 0\.0; got nan\.", "--epsilon=nan"
)
refused_at_once(
    "adversarial training without a radius",
    r"An attack with epsilon=0 trains on clean images: use method='natural'.*",
    *TRADES,
    "--epsilon=0",
)
refused_at_once(
    "adversarial training without a step",
    r"An attack with step_size=0 takes no step: .*, or name one such as 2 / 255\.",
    *TRADES,
    "--epsilon=0.2",
    "--pgd_step_size=0",
)
refused_at_once(
    "a data_dir with a typo",
    r"There is no folder nowhere for --data_dir: correct it, or make it first.*",
    "--dataset=cifar10",
    "--data_dir=nowhere",
)
refused_at_once(
    "--continue_from no run",
    r"--continue_from=nowhere is no run directory .*",
    *NATURAL,
    "--continue_from=nowhere",
)
refused_at_once(
    "a place that can't be written",
    r"/proc/nope can't be written \(.*\): choose another --workdir or --runs\.",
    *NATURAL,
    "--workdir=/proc/nope",
)


@case(
    "a flagfile of bytes", r"The --flagfile is no text file; name one with a flag a line.*"
)
def _():
    with open("bytes", "wb") as file:
        file.write(bytes([0xFF, 0xFE, 0x00]) * 100)
    command_line("--flagfile=bytes")


@case("a workdir that is a file", r".*afile is a file, no folder: choose another place.*")
def _():
    open("afile", "w").close()
    command_line(*NATURAL, "--workdir=afile")


@case("a run.json cut short", r"run/run\.json can't be read \(.*\): restore it .*\.")
def _():
    os.mkdir("run")
    with open("run/run.json", "w") as file:
        file.write('{"identity": ')
    command_line(*NATURAL, "--workdir=run")


@case("a directory of another process", r"run is in use, started .*: wait for it, or .*")
def _():
    with files.owned("run"):
        command_line(*NATURAL, "--workdir=run")


warned_at_once(
    "a flag of another method",
    r"--hat_beta has no effect: it belongs to --method=hat, and --method is trades\.",
    *TRADES,
    "--hat_beta=2",
)
warned_at_once(
    "a flag that another makes idle",
    r"--lr_rise has no effect: it needs --schedule=one-cycle\.",
    *TRADES,
    "--lr_rise=0.3",
)
warned_at_once(
    "a flag of another mode",
    r"--model has no effect in the mode train\.",
    *TRADES,
    "--model=a.keras",
)


# Data sets from files, evaluations, info and plot.


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
        image_files.read_folder(folder_of_images(suffix=suffix, **odd))

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
    image_files.read_folder("photos")


@case(
    "images of 16 bits",
    r"4 of 4 images of photos have 16 bits a channel, of which the upper 8 are read\.",
    warning=True,
)
def _():
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        os.makedirs(os.path.dirname(f"photos/{name}"), exist_ok=True)
        Image.fromarray(np.zeros((4, 4), "uint16")).save(f"photos/{name}.png")
    image_files.read_folder("photos")


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
refused_at_once("info of nothing", r"Name what to show: python run\.py info .*", "info")
refused_at_once(
    "info of what is no run", r"nowhere is neither a run directory .*", "info", "nowhere"
)
refused_at_once("a plot of nothing", r"Name the run directories to plot: .*", "plot")
refused_at_once(
    "a plot of what is no run", r"nowhere is neither a run directory .*", "plot", "nowhere"
)


# --- the test itself --------------------------------------------------------------------


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if warning:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mistake()
        told = [str(w.message) for w in caught]
        assert any(re.fullmatch(message, text) for text in told), told
        return
    with pytest.raises(InputError) as refusal:
        mistake()
    text = str(refusal.value)
    assert "\n" not in text and text.endswith("."), text
    assert re.fullmatch(message, text), text
