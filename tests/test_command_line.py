"""The command line: who owns a run, how long it takes, training longer, flags, help."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import InputError, files
from vfd_tf.cli import flags, main
from vfd_tf.experiments import continuing, forecast
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.models import network
from vfd_tf.training.methods import METHODS

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    *("--dataset=digits", "--arch=resnet8", "--width=0.125", "--batch_size=256"),
    *("--epsilon=0.2", "--pgd_steps=2", "--learning_rate=0.05", "--schedule=constant"),
    *("--eval_attacks=fgsm", "--max_images=64"),
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words):
    return main.main(["run.py", *SMALL, *words])


# --- one process a run directory ----------------------------------------------------------


def test_a_folder_has_one_owner_who_is_named_and_leaves_no_lock(tmp_path):
    folder = str(tmp_path / "run")
    with files.owned(folder):
        holder = json.loads((tmp_path / "run" / files.LOCK).read_text())
        assert holder["pid"] == os.getpid()
        message = f"in use, started {holder['started']} by process {os.getpid()} on "
        with pytest.raises(InputError, match=re.escape(message)), files.owned(folder):
            pass
    assert os.listdir(folder) == []
    with contextlib.suppress(ZeroDivisionError), files.owned(folder):
        raise ZeroDivisionError
    assert os.listdir(folder) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    (tmp_path / files.LOCK).write_text('{"host": "h", "pid": 1, "started": "then"}')
    with files.owned(str(tmp_path)):
        assert json.loads((tmp_path / files.LOCK).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_who_waits_says_for_whom_and_goes_on(tmp_path, capsys):
    order, held = [], threading.Event()

    def other():
        with files.owned(str(tmp_path)):
            held.set()
            time.sleep(1.5)
            order.append("first")

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    with files.owned(str(tmp_path), wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    told = capsys.readouterr().out
    assert told.count("another process trains it, started ") == 1 and str(tmp_path) in told


@pytest.mark.slow
def test_of_two_commands_one_trains_the_teacher_and_a_third_is_refused(tmp_path):
    runs, common = tmp_path / "runs", ["--epochs=2", "--distill=vfd"]

    def start(method):
        words = [sys.executable, str(ROOT / "run.py"), *SMALL, *common, f"--runs={runs}"]
        return subprocess.Popen(
            [*words, f"--method={method}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    both = [start("trades"), start("pgd-at")]
    while not list(runs.glob("*-vfd-*/lock.json")):
        assert all(process.poll() in (None, 0) for process in both)
        time.sleep(0.1)
    (path, *_) = runs.glob("*-vfd-*/lock.json")
    third = start("trades" if "trades" in path.parent.name else "pgd-at")
    told = [process.communicate(timeout=300) for process in (*both, third)]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum("another process trains it, started" in out for out, _ in told[:2]) <= 1
    teacher = "natural-none"
    begun = [len(re.findall(f"{teacher}.*from epoch 0", out)) for out, _ in told]
    assert sum(begun) == 1
    if third.returncode:  # it was over before the third came to it otherwise
        assert third.returncode == 2 and "is in use, started" in told[2][1]
    assert not list(runs.rglob("lock.json"))


# --- how long it takes --------------------------------------------------------------------


def test_multiply_adds_are_kernels_times_positions(make_network):
    # 3x3x3x4 at 8x8 positions, and a dense 4 x 10.
    model = network.classifier(make_network())
    assert forecast.multiply_adds(model) == 3 * 3 * 3 * 4 * 64 + 40


@pytest.mark.parametrize(
    "words, own, others",
    [
        ("--method=natural --distill=none", 3, {}),
        ("--method=pgd-at --distill=none", 10 * 2 + 3, {}),
        ("--method=trades --distill=none --pgd_steps=7", 1 + 7 * 2 + 2 * 3, {}),
        (
            "--method=trades --distill=vfd --awp_gamma=0.005",
            1 + 10 * 2 + 2 * 2 * 3,
            {"teacher": 2},
        ),
        ("--method=trades --distill=none --attack_objective=ce", 10 * 2 + 2 * 3, {}),
        ("--method=pgd-at --distill=none --add_clean_ce", 10 * 2 + 2 * 3, {}),
        ("--method=pgd-at --distill=lbgat", 10 * 2 + 3, {"partner": 3}),
        ("--method=trades --distill=rslad", 10 * 2 + 2 * 3, {"robust_teacher": 2}),
        ("--method=pgd-at --distill=none --attack=n-fgsm", 2 + 3, {}),
    ],
)
def test_the_forwards_of_a_step(words, own, others):
    values = flags.define()
    values(["run.py", *words.split()])
    (experiment,) = flags.experiments(values)
    assert forecast.step_forwards(experiment) == (own, others)


def test_the_forwards_of_an_evaluation():
    plan = EvaluationPlan(attacks=("fgsm", "pgd20"))
    assert forecast.evaluation_forwards(plan.attacks, plan, 10) == 1 + 2 + 40


class _Work:
    """10 steps of 4 units an epoch and 10 of validation; 100 units of evaluation."""

    steps, step, epoch, training, evaluation, total = 10, 4, 50, 250, 100, 350


def test_the_forecast_scales_the_measured_step_to_all_work(capsys, monkeypatch):
    clock = iter([100.0, 200.0, *(200.0 + 2 * i for i in range(1, 20))])
    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=clock.__next__))
    told = forecast.Forecast(_Work, epochs=5, later=[_Work, _Work])
    told.set_model(SimpleNamespace(train_function=SimpleNamespace(passing=False)))
    for step in range(8):
        told.on_train_batch_end(step)
    # Two steps are skipped; 2 s a step of 4 units are 0.5 s a unit.
    text = capsys.readouterr().out
    assert text.count("Expected") == 1
    left = 0.5 * (250 - 4 * 4)
    assert f"training {left / 60:.0f} min" in text or f"training {left:.0f} s" in text
    assert "evaluation at most 50 s" in text
    assert f"about {700 * 0.5 / 60:.0f} min for the 2 runs after it" in text
    assert "steps of 2 s" in text


def test_without_a_gpu_a_run_of_days_names_the_recipe_for_a_cpu(make_network, monkeypatch):
    model = network.classifier(make_network())
    images = np.zeros((8, 8, 8, 3), "float32")

    class Long:
        total = 2.5 * 86400 * 8 * forecast.multiply_adds(model)  # at 1 s a forward of 8

    clock = iter(map(float, range(100)))
    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=clock.__next__))
    text = forecast.without_gpu(model, [Long], images)
    assert "2.5 days" in text and "--recipe=cpu" in text
    assert (ROOT / "flags" / "cpu.flags").exists()
    Long.total /= 1000
    assert forecast.without_gpu(model, [Long], images) is None
    Long.total *= 1000
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["GPU:0"])
    assert forecast.without_gpu(model, [Long], images) is None


# --- training longer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A complete run of one epoch, beside the same of two."""
    root, before = tmp_path_factory.mktemp("longer"), os.getcwd()
    os.chdir(root)
    try:
        for epochs in (2, 1):
            words = "--method=natural", "--distill=none", f"--epochs={epochs}"
            assert run(*words, f"--workdir={root / str(epochs)}", f"--runs={root}") == 0
    finally:
        os.chdir(before)
    return root


NATURAL = ("--method=natural", "--distill=none")


@pytest.mark.slow
def test_training_longer_is_the_unbroken_run_under_a_constant_schedule(short, capsys):
    words = (*NATURAL, "--epochs=2", f"--runs={short}", f"--continue_from={short / '1'}")
    assert run(*words, f"--workdir={short / 'more'}") == 0
    assert f"goes on from epoch 1 of {short / '1'}\n" in capsys.readouterr().out
    for name in ("best.keras", "last.keras"):
        models = [keras.saving.load_model(short / n / name) for n in ("2", "more")]
        pairs = zip(*(model.get_weights() for model in models), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    histories = [(short / n / "metrics.jsonl").read_text() for n in ("2", "more")]
    assert histories[0] == histories[1]
    keys = [RunDirectory(str(short / n)).key for n in ("1", "2", "more")]
    assert len(set(keys)) == 3
    assert RunDirectory(str(short / "1")).state().epoch == 1
    flags = (short / "more" / "flags.txt").read_text()
    assert f"--continue_from={short / '1'}\n" in flags


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, message",
    [
        ("--epochs=1", "is a run of 1 epochs already"),
        ("--epochs=3 --seed=5", "seed 0 (now 5)"),
        ("--epochs=3 --momentum=0.5", "recipe.momentum 0.9 (now 0.5)"),
        ("--epochs=3 --width=0.25", "width 0.125 (now 0.25)"),
    ],
)
def test_another_run_is_not_continued(short, tmp_path, capsys, words, message):
    source = f"--continue_from={short / '1'}"
    assert run(*NATURAL, *words.split(), source, f"--runs={tmp_path / 'r'}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_source_that_is_no_run_is_refused(tmp_path, capsys):
    assert run(*NATURAL, "--epochs=3", f"--continue_from={tmp_path}") == 2
    assert "is no run directory" in capsys.readouterr().err


@pytest.mark.slow
def test_a_shorter_run_is_pointed_out(short):
    values = flags.define()
    values(["run.py", *SMALL, *NATURAL, "--epochs=3"])
    (experiment,) = flags.experiments(values)
    owner = RunDirectory(str(short / "1")).owner
    identity = {**owner["identity"], "recipe": experiment.recipe.brief()}
    text = continuing.hint(experiment, identity, str(short))
    assert f"--continue_from={short / '2'} " in text  # the longer of both
    assert continuing.hint(experiment, {**identity, "seed": 1}, str(short)) is None


def test_the_learning_rate_goes_on_along_the_new_schedule():
    recipe = Experiment().recipe.replace(schedule="cosine", epochs=2, learning_rate=0.1)
    source = object.__new__(continuing.Source)
    source.epoch, source.epochs, source.path = 1, 2, "runs/a"
    experiment = Experiment(recipe=recipe.replace(epochs=4))
    # Half a cosine of 4 epochs after 1, and of 2 epochs after 1.
    new, old = (0.05 * (1 + np.cos(np.pi * share)) for share in (1 / 4, 1 / 2))
    text = source.describe(experiment, steps=10)
    assert f"{new:.3g} instead of {old:.3g}" in text and "of 4 epochs" in text


# --- flags without effect -----------------------------------------------------------------


@pytest.mark.parametrize(
    "words, idle",
    [
        ("--method=trades --hat_beta=2", {"hat_beta"}),
        ("--method=trades,hat --hat_beta=2", set()),
        ("--distill=vfd --kd_rho=0.3", {"kd_rho"}),
        ("--distill=kd --kd_rho=0.3", {"kd_rho"}),
        ("--distill=kd --kd_teachers=vanilla --kd_rho=0.3", set()),
        ("--distill=kd --kd_teachers=vanilla --kd_hard=0.3", {"kd_hard"}),
        ("--attack=n-fgsm --pgd_steps=5", {"pgd_steps"}),
        ("--distill=none --lambda_shape=linear --lambda_warmup_epochs=2",
         {"lambda_shape", "lambda_warmup_epochs"}),
        ("--schedule=cosine --lr_milestones=1,2", {"lr_milestones"}),
        ("--schedule=one-cycle --lr_rise=0.3", set()),
        ("--lr_rise=0.3", {"lr_rise"}),
        ("--method=pgd-at --beta_shape=linear --beta_warmup_epochs=2",
         {"beta_shape", "beta_warmup_epochs"}),
        ("--method=trades --beta_shape=linear --beta_warmup_epochs=2", set()),
        ("--method=natural --attack=mim --mim_decay=0.5", {"attack", "mim_decay"}),
        ("--method=natural --attack_warmup=2", {"attack_warmup"}),
        ("--method=natural --distill=none --teacher_seed=4", {"teacher_seed"}),
        ("--method=natural --distill=none --teacher_seed=4 --surrogate=auto", set()),
        ("--method=natural --epsilon=0.1", set()),
        ("--method=natural --epsilon=0.1 --eval_epsilon=0.2 --eval_norm=linf", {"epsilon"}),
        ("--distill=none --method=trades --teacher=a.keras", {"teacher"}),
        ("--method=trades --add_clean_ce", {"add_clean_ce"}),
        ("--method=pgd-at --distill=none --add_clean_ce", set()),
        ("--method=pgd-at --distill=rslad --label_smoothing=0.1", {"label_smoothing"}),
        ("--method=trades --distill=rslad --label_smoothing=0.1", set()),
        ("--method=pgd-at --distill=kd --label_smoothing=0.1", set()),
        ("--method=pgd-at --distill=rslad --label_smoothing=0.1 --add_clean_ce", set()),
        ("--method=trades --attack=fgsm-rs --trades_start_noise=0.1",
         {"trades_start_noise"}),
        ("--eval_seed=3", {"eval_seed"}),
        ("--plot_y=fgsm --out=a.png", {"plot_y", "out"}),
        ("--nonesterov --noaugment", set()),
        ("--method=natural --mixtures=0.5", {"mixtures"}),
        ("--method=natural,trades --mixtures=0.5", set()),
    ],
)  # fmt: skip
def test_flags_without_effect_are_warned_about(words, idle):
    assert _warned("train", words.split()) == idle


def _warned(mode, words):
    from vfd_tf.cli import idle_flags

    values = flags.define()
    argv = ["run.py", *words]
    values(argv)
    experiments = flags.experiments(values) if mode == "train" else ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        idle_flags.warn(values, argv, mode, experiments)
    texts = [str(w.message) for w in caught]
    assert all(text.endswith(".") and "\n" not in text for text in texts)
    return {re.match(r"--(\w+) has no effect", text)[1] for text in texts}


def test_modes_warn_about_flags_of_others():
    assert _warned("plot", ["--epochs=3", "--out=a.png"]) == {"epochs"}
    assert _warned("info", ["--model=x"]) == {"model"}
    words = ["--eval_seed=1", "--epochs=3"]
    assert _warned("evaluate", words) == {"epochs"}
    assert _warned("evaluate", [*words, "--surrogate=auto"]) == set()


def test_flags_of_a_flagfile_are_shared_and_not_warned_about(tmp_path):
    (tmp_path / "a.flags").write_text("--hat_beta=2\n--kd_rho=0.3\n--method=trades\n")
    assert _warned("train", ["--flagfile=a.flags"]) == set()
    assert _warned("train", ["--flagfile=a.flags", "--hat_beta=3"]) == {"hat_beta"}


@pytest.mark.parametrize("method", [m for m in METHODS if m != "natural"])
def test_no_radius_is_no_adversarial_training(method, tmp_path, capsys):
    words = (
        f"--method={method}",
        "--distill=none",
        "--epsilon=0",
        f"--runs={tmp_path / 'r'}",
    )
    assert run(*words) == 2
    assert "epsilon=0" in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_a_step_size_of_zero_is_no_adversarial_training(tmp_path, capsys):
    words = "--method=trades", "--distill=none", "--pgd_step_size=0"
    assert run(*words, f"--runs={tmp_path / 'r'}") == 2
    assert "step_size=0" in capsys.readouterr().err and not (tmp_path / "r").exists()


# --- messages and help --------------------------------------------------------------------


def test_the_version(capsys):
    assert main.main(["run.py", "--version"]) == 0
    out = capsys.readouterr().out
    assert tf.__version__ in out and keras.__version__ in out and "vfd_tf 0." in out


def test_the_help_of_a_mode_shows_what_it_takes(capsys):
    shown = {}
    for mode in main.MODES:
        assert main.main(["run.py", mode, "--help"]) == 0
        shown[mode] = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.M))
        values = flags.define()
        assert shown[mode] == flags.taken(values, mode)
    assert set(flags.define()) == set.union(*shown.values())
    assert {"model", "bounds", "eval_seed", "dataset", "epsilon"} <= shown["evaluate"]
    assert not {"epochs", "hat_beta", "plot_x", "workdir"} & shown["evaluate"]
    assert {"epochs", "hat_beta", "continue_from"} <= shown["train"]
    assert not {"model", "plot_x", "referee"} & shown["train"]
    assert shown["info"] == {"mode"} and "plot_x" in shown["plot"]


def test_a_default_that_is_none_is_shown(capsys):
    main.main(["run.py", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in ("average", "workdir", "clip_norm"):
        (line,) = (li for li in lines if li.startswith(f"  --{name} "))
        assert line.endswith("[none]")


@pytest.mark.parametrize(
    "mode, words",
    [("train", "last checkpoint"), ("evaluate", "are kept"), ("plot", "nothing is lost"),
     ("info", "nothing was being changed")],
)  # fmt: skip
def test_ctrl_c_says_what_continues(mode, words, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.MODES, mode, interrupted)
    assert main.main(["run.py", mode]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-m", "vfd_tf"], [str(ROOT / "run.py")]])
def test_a_command_begins_without_lines_of_tensorflow(words):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *words, "--version"], capture_output=True, text=True,
        env=environment, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_warnings_are_sentences_at_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "info", "--model=x", "nothing"],
        capture_output=True, text=True,
    )  # fmt: skip
    first, second = done.stderr.splitlines()
    assert first == "Warning: --model has no effect in the mode info."
    assert second.startswith("error: nothing")


def test_what_keras_json_says_decides_no_run(capsys):
    """A run is a function of its flags and its seed."""
    settings = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
    for name, other in zip(settings, ("channels_first", "float16", 1e-3), strict=True):
        getattr(keras.config, f"set_{name}")(other)
    assert main.main(["run.py", "--version"]) == 0
    assert {n: getattr(keras.config, n)() for n in settings} == settings
