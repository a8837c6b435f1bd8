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

import pytest

from vfd_tf import InputError, command, files

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
