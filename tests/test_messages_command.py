"""What users are told of mistakes at the command line, before anything is trained."""

import contextlib
import os

import pytest
from mistakes import Cases, command_line, meet

from vfd_tf import InputError, files
from vfd_tf.cli import recipes

CASES = Cases()
case = CASES.case


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


@case("a workdir that is a file", r".*afile is a file, no folder: choose another --w.*")
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
    "a flag in front of a recipe that sets it",
    r"--dataset=cifar100 has no effect before --recipe=smoke, which sets --dataset=digits: "
    r"write it behind\.",
    "--dataset=cifar100",
    "--recipe=smoke",
)
warned_at_once(
    "a flag in front of a recipe, both in two words",
    r"--epochs 7 has no effect before --recipe smoke, which sets --epochs=3: .*",
    *("--epochs", "7", "--recipe", "smoke"),
)
warned_at_once(
    "a flag of another mode",
    r"--model has no effect in the mode train\.",
    *TRADES,
    "--model=a.keras",
)


@case(
    "a recipe in a flagfile",
    r"--recipe=trades is in a --flagfile, where it is not read: write it on the command "
    r"line, before --flagfile\.",
)
def _():
    with open("mine.flags", "w") as file:
        file.write("--recipe=trades\n--epochs=1\n")
    command_line(*NATURAL, "--flagfile=mine.flags")


refused_at_once("evaluate of nothing", r"Name the model: .*", "evaluate")
refused_at_once(
    "evaluate of two models",
    r"evaluate takes one model, and there are 2 \(a\.keras, b\.keras\): .*",
    "evaluate",
    "a.keras",
    "b.keras",
)
refused_at_once(
    "evaluate of a model and another one",
    r"evaluate takes one model, and there are 2 \(a\.keras, b\.keras\): .*",
    "evaluate",
    "--model=a.keras",
    "b.keras",
)
refused_at_once("info of nothing", r"Name what to show: python run\.py info .*", "info")
refused_at_once(
    "info of what is no run", r"nowhere is neither a run directory .*", "info", "nowhere"
)
refused_at_once("a plot of nothing", r"Name the run directories to plot: .*", "plot")
refused_at_once(
    "a plot of what is no run", r"nowhere is neither a run directory .*", "plot", "nowhere"
)


@pytest.mark.parametrize("mistake, message, warning", CASES)
def test_the_user_is_told_in_one_sentence(mistake, message, warning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meet(mistake, message, warning)


@pytest.mark.parametrize(
    "words",
    [
        "--recipe=smoke --dataset=cifar100",  # behind it
        "--epochs=7 --recipe=smoke --epochs=8",  # another one behind it decides
        "--dataset=digits --recipe=smoke",  # what it sets, too
        "--method=hat --dataset=cifar100 --recipe=shared",  # in its comments alone
        "--recipe=gat --recipe=smoke",
    ],
)
def test_no_recipe_replaces(words):
    assert recipes.replaced(words.split()) == {}
