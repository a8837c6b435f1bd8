"""Suites that are killed, damaged or changed: one sentence, and nothing is lost."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import processes
import pytest
import tiny

from vfd_tf.cli import flags, main, suite
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.command import (
    CommandFailed,
    CommandStopped,
    last_words,
    passed_on,
)
from vfd_tf.suites.costs import costs
from vfd_tf.suites.graph import Graph

TRADES, VFD = "TRADES", "TRADES+VFD"
ROWS = {
    TRADES: "--method=trades --distill=none",
    VFD: "--method=trades --distill=vfd --vfd_layer=layer1",
}
ALL = (
    "--dataset=npz:data.npz --arch=net.keras --epochs=2 --batch_size=8 --epsilon=0.1 "
    "--panel_every=0 --jit_compile=false --checkpoint_steps=1"
)


class Here:
    """An engine that runs a command in this process, as soon as it is submitted."""

    slots = 1

    def __init__(self, started):
        self.started = started

    @classmethod
    def of(cls, values, started):
        return cls(started)

    def submit(self, command, after):
        future = concurrent.futures.Future()
        errors = [each.exception() for each in after if each.exception()]
        if errors:
            future.set_exception(passed_on(command.name, errors[0]))
            return future
        self.started(command.name)
        os.makedirs(os.path.dirname(command.log), exist_ok=True)
        with (
            open(command.log, "a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            code = main.main(["run.py", *command.argv])
        if code == 75:
            future.set_exception(CommandStopped(command.name))
        elif code:
            reason = last_words(command.log)
            future.set_exception(CommandFailed(command.name, code, reason, command.log))
        else:
            future.set_result(1.0)
        return future

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        pass


def written(name="mine", rows=ROWS, more="", entries="", columns="clean fgsm"):
    """A suite file in this folder."""
    lines = [f"'{row}' = '''{words}'''" for row, words in rows.items()]
    text = f'title = "Mine"\ncolumns = "{columns}"\n{entries}\n[rows]\n'
    text += "\n".join(lines) + f'\n[smoke]\nsurrogate = ""\nflags = "{ALL} {more}"\n'
    pathlib.Path(f"{name}.toml").write_text(text, encoding="utf-8")
    return f"{name}.toml"


def run(*words):
    return main.main(["run.py", "suite", *words, "--scale=smoke"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data, network and a finished suite, which tests copy."""
    folder = tiny.written(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(suite.ENGINES, "local", Here)
        assert run(written()) == 0
    return folder


@pytest.fixture
def inside(finished, tmp_path, monkeypatch):
    """The current folder: a copy of `finished`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(suite.ENGINES, "local", Here)
    return tmp_path


def found(kind, root="runs"):
    """The run directory of a kind, such as trades-none."""
    (path,) = pathlib.Path(root).glob(f"npz*-{kind}-*")
    return path


def status(folder="runs/suite-mine-smoke"):
    known = json.loads((pathlib.Path(folder) / "status.json").read_text())
    return {name: (entry["status"], entry["reason"]) for name, entry in known.items()}


def states():
    return sorted(state for state, _ in status().values())


def contents(root="runs"):
    """Weights and verdicts of all runs."""
    whole = {}
    for path in pathlib.Path(root).glob("npz*"):
        own = whole[path.name] = {}
        for which in ("best", "last"):
            model = keras.saving.load_model(path / f"{which}.keras", compile=False)
            own[which] = [array.tobytes() for array in model.get_weights()]
        if (path / "verdicts.npz").exists():
            with np.load(path / "verdicts.npz") as arrays:
                own["verdicts"] = {name: arrays[name].tobytes() for name in arrays}
    return whole


def refused(capsys, *words):
    """The one sentence that a command is refused with."""
    capsys.readouterr()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


# --- what a suite file says -------------------------------------------------------------


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--trades_bet=1", "mine, Mine: Unknown flag --trades_bet; the nearest name is"),
        ("--trades_beta=much", "'much' is not a float"),
        ("--method=trades,hat", "name several runs"),
        ("--trades_beta='1", "has a quote too few"),
        ("--flagfile=nowhere", "The --flagfile can't be opened"),
        ("--seed=3", "sets --seed for a run, which is set for all runs alike"),
        ("--workdir=there", "sets --workdir for a run"),
        ("--trades_beta=2 --max_images=3", "one --max_images"),
        ("--trades_beta=2 --epsilon=0.2", "one --eval_epsilon"),
    ],
)
def test_flags_of_a_row_that_make_no_run_of_the_suite_are_a_sentence(
    inside, capsys, words, sentence
):
    rows = {TRADES: ROWS[TRADES], "Mine": f"{ROWS[TRADES]} {words}"}
    assert sentence in refused(capsys, written(rows=rows), "--dry_run")


def test_a_sweep_over_an_unknown_flag_is_a_sentence(inside, capsys):
    path = written(entries='sweep = "--tades_beta=1,2"')
    assert "the nearest name is --trades_beta" in refused(capsys, path, "--dry_run")


def test_a_sweep_over_the_radius_is_evaluated_at_one(inside, capsys):
    path = written(entries='sweep = "--epsilon=0.1,0.2"')
    assert "one --eval_epsilon" in refused(capsys, path, "--dry_run")
    path = written(entries='sweep = "--epsilon=0.1,0.2"', more="--eval_epsilon=0.1")
    assert run(path, "--dry_run") == 0


def test_two_files_of_one_name_are_refused(inside, capsys):
    os.mkdir("other")
    written("other/mine", {TRADES: ROWS[TRADES]})
    error = refused(capsys, "mine.toml", "other/mine.toml", "--dry_run")
    assert "Two suites are called mine" in error


def test_names_of_any_characters_are_rows(inside, capsys):
    rows = {"TRÄDES 数据 A|B": ROWS[TRADES], "x" * 300: ROWS[TRADES], "TRADES ": ROWS[VFD]}
    assert run(written("ünï", rows), "--dry_run") == 0
    assert "0 runs of 3 are left" in capsys.readouterr().out


def test_a_forecast_says_nothing_of_the_classes_of_a_network_file(inside, capsys):
    assert run("mine.toml", "--dry_run", "--seed=5") == 0
    assert "made for" not in capsys.readouterr().out


# --- what needs what --------------------------------------------------------------------


def test_teachers_get_the_flags_that_say_how_and_the_suite_is_the_same(inside):
    values = flags.define()
    flags.parse(values, ["--scale=smoke", "--data_dir=there", "--checkpoint_minutes=1"])
    more, places = suite.suite_plan.passed_on(values)
    (mine,) = suite.read("mine.toml", "smoke")
    assert suite.folder_of(mine, values, more) == "runs/suite-mine-smoke"
    graph = Graph("runs", lambda experiment: "0", flags.words)
    planned = suite.PlannedSuite(mine, "there", graph, more, (0,), places)
    for node in graph.nodes.values():
        words = suite.words_of(node, graph)
        for word in ("--data_dir=there", "--checkpoint_minutes=1.0", "--jit_compile=false"):
            assert word in words, (node.name, words)
    assert "--data_dir=there" not in suite.suite_file.describe(planned)["flags"]


def test_a_run_that_is_also_needed_is_evaluated_as_its_row():
    nothing = EvaluationPlan(attacks=(), students=())
    row = EvaluationPlan(attacks=("fgsm",), epsilon=0.1, max_images=3)
    assert nothing.joined(row) == row == row.joined(nothing)
    for other in ({"epsilon": 0.2}, {"max_images": 4}, {"attack_images": (("fgsm", 2),)}):
        plan = EvaluationPlan(
            **{"attacks": ("fgsm",), "epsilon": 0.1, "max_images": 3} | other
        )
        with pytest.raises(InputError, match="in two ways"):
            row.joined(plan)


def test_no_run_is_its_own_surrogate(inside, capsys):
    rows = {"Vanilla": "--method=natural --distill=none"}
    path = written(rows=rows, columns="clean transfer-fgsm")
    assert "its own surrogate" in refused(capsys, path, "--seed=1000", "--dry_run")


def test_networks_that_do_not_fit_are_refused_before_anything_is_trained(inside, capsys):
    L = keras.layers
    for name, shape, classes in (("classes", (4, 4, 1), 5), ("shape", (8, 8, 1), 3)):
        layers = [keras.Input(shape), L.Flatten(), L.Dense(classes)]
        keras.Sequential(layers).save(f"{name}.keras")
    chance = tiny.model()
    chance.set_weights([np.zeros((16, 3)), np.array([0.0, 1.0, 0.0])])
    chance.save("chance.keras")
    path = written(columns="clean transfer-fgsm")
    for name, words in (
        ("classes", "of 5 classes"),
        ("shape", "takes images (8, 8, 1)"),
        ("chance", "near chance"),
        ("nowhere", "There is no model file"),
    ):
        assert words in refused(capsys, path, f"--surrogate={name}.keras", "--runs=new")
    error = refused(capsys, "mine.toml", "--teacher=classes.keras", "--runs=new")
    assert "The teacher classes.keras" in error
    assert not os.path.exists("new")


# --- the folder of a suite --------------------------------------------------------------


def test_rows_that_are_added_go_on_and_one_that_changes_is_another_run(inside):
    before = contents()
    assert run(written(rows=ROWS | {"PGD": "--method=pgd-at --distill=none"})) == 0
    changed = {TRADES: f"{ROWS[TRADES]} --trades_beta=2", VFD: ROWS[VFD]}
    assert run(written(rows=changed)) == 0
    after = contents()
    assert len(after) == len(before) + 2
    assert all(after[name] == own for name, own in before.items())


def test_other_flags_of_the_file_are_refused_with_what_helps(inside, capsys):
    error = refused(capsys, written(more="--momentum=0.5"))
    assert "--momentum=0.5" in error and "remove runs/suite-mine-smoke/suite.json" in error
    os.remove("runs/suite-mine-smoke/suite.json")
    assert run("mine.toml", "--rows=TRADES") == 0


def test_no_suite_is_written_into_a_run_or_where_nothing_can_be(inside, capsys):
    pathlib.Path("file").touch()
    for words, sentence in (
        ([f"--workdir={found('trades-none')}"], "is a run directory"),
        (["--runs=file"], "is a file, no folder"),
        (["--workdir=file/there"], "is a file, no folder"),
    ):
        assert sentence in refused(capsys, "mine.toml", *words)


def test_rows_alone_keep_what_is_known_of_the_others(inside):
    before = status()
    assert run("mine.toml", "--rows=TRADES") == 0
    assert status() == before


def test_a_shard_without_runs_ends_well_and_the_report_has_all(inside, capsys):
    assert run("mine.toml", "--shard=9/9") == 0
    assert main.main(["run.py", "report"]) == 0
    out = capsys.readouterr().out
    assert "0 runs of 0" in out and "3 of 3 commands are done" in out
    assert costs(Graph("runs", lambda experiment: "0", flags.words)).seconds == 0


def test_the_report_links_every_log(inside):
    text = pathlib.Path("runs/suite-mine-smoke/report/report.md").read_text()
    assert text.count("[log](../../logs/") == 3


# --- damaged runs -----------------------------------------------------------------------


def half(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("name", ["run.json", "results.json", "verdicts.npz"])
def test_a_damaged_run_fails_alone_with_a_sentence(inside, name):
    before = contents()
    half(found("trades-none") / name)
    damaged = (found("trades-none") / name).read_bytes()
    assert run("mine.toml") == 2
    known = status()
    assert states() == ["done", "done", "failed"]
    (reason,) = [reason for state, reason in known.values() if state == "failed"]
    assert name in reason and "can't be read" in reason
    page = pathlib.Path("runs/suite-mine-smoke/report/report.md").read_text()
    assert re.search(r"^\| TRADES +\| +damaged \|", page, re.MULTILINE)
    assert (found("trades-none") / name).read_bytes() == damaged
    if name != "run.json":
        os.remove(found("trades-none") / name)
        assert run("mine.toml") == 0 and contents() == before


def test_a_damaged_teacher_fails_its_children_alone(inside):
    half(found("natural-none") / "results.json")
    assert run("mine.toml") == 2
    known = {name.split(",")[0]: entry for name, entry in status().items()}
    assert known[f"mine: {TRADES}"] == ("done", None)
    assert known[f"mine: {VFD}"][0] == "failed"
    assert known[f"mine: {VFD}"][1].endswith("had failed")


def test_another_runs_directory_is_refused_and_kept(inside):
    shutil.copy(found("natural-none") / "run.json", found("trades-none") / "run.json")
    assert run("mine.toml") == 2
    (reason,) = [reason for state, reason in status().values() if state == "failed"]
    assert "holds a run with" in reason and "Natural()" in reason


def test_a_run_of_another_version_is_the_same_run(inside):
    path = found("trades-none") / "run.json"
    owner = json.loads(path.read_text())
    owner["later"] = owner["fields"]["recipe"]["later"] = 1
    del owner["fields"]["recipe"]["momentum"]
    path.write_text(json.dumps(owner))
    assert run("mine.toml") == 0


@pytest.mark.parametrize("left", ["run.json.part", "flags.txt", "lock.json"])
def test_what_a_process_that_was_killed_at_its_beginning_left_is_taken_over(inside, left):
    before, path = contents(), found("trades-none")
    shutil.rmtree(path)
    path.mkdir()
    (path / left).write_text("{")
    assert run("mine.toml") == 0
    assert contents() == before


def test_a_student_that_collapsed_is_evaluated(inside):
    """Its outputs lie in [0, 1], as probabilities would."""
    path = found("trades-none")
    student = keras.saving.load_model(path / "last.keras", compile=False)
    weights = [np.zeros_like(array) for array in student.get_weights()]
    student.set_weights([*weights[:-1], np.array([0.1, 0.2, 0.3])])
    student.save(path / "last.keras")
    results = json.loads((path / "results.json").read_text())
    del results["accuracies"], results["checksum"]
    (path / "results.json").write_text(json.dumps(results))
    (path / "verdicts.npz").unlink()
    assert run("mine.toml") == 0
    (log,) = pathlib.Path("runs/logs").glob("*trades-none*")
    assert "Warning: " in log.read_text()


def test_files_of_nobody_are_kept(inside):
    path = found("trades-none")
    for name in os.listdir(path):
        if not name.startswith("checkpoint"):
            shutil.rmtree(path / name, True)
            (path / name).unlink(missing_ok=True)
    left = os.listdir(path)
    assert run("mine.toml") == 2
    (reason,) = [reason for state, reason in status().values() if state == "failed"]
    assert "holds files but no run: move it away" in reason
    assert os.listdir(path) == left


# --- stopped ----------------------------------------------------------------------------


def test_a_command_that_was_stopped_alone_stops_the_suite_with_code_75(
    inside, monkeypatch, capsys
):
    submit = Here.submit

    def stopped(self, command, after):
        if "TRADES+VFD" not in command.name:
            return submit(self, command, after)
        future = concurrent.futures.Future()
        future.set_exception(CommandStopped(command.name))
        return future

    monkeypatch.setattr(Here, "submit", stopped)
    assert run("mine.toml") == 75
    assert "the same command continues" in capsys.readouterr().out
    assert states() == ["done", "done", "stopped"]


def started(folder, *words):
    return subprocess.Popen(
        [sys.executable, processes.ROOT / "run.py", "suite", *words, "--scale=smoke"],
        env=processes.ENVIRONMENT,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_lines_of_the_list_make_the_runs_of_the_suite(inside, capsys):
    before = contents()
    shutil.rmtree("runs")
    assert run("mine.toml", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines:
        words = shlex.split(line.partition("\t")[2])
        assert main.main(words[1:]) == 0
    assert len(lines) == 3 and contents() == before
    assert run("mine.toml") == 0
    assert "0 runs of 3 are left" in capsys.readouterr().out and contents() == before


def test_shards_make_all_runs_and_each_says_how_far_it_is(inside, capsys):
    before = contents()
    shutil.rmtree("runs")
    for shard in ("1/2", "2/2"):
        assert run("mine.toml", f"--shard={shard}") == 0
    assert contents() == before
    assert main.main(["run.py", "report"]) == 0
    assert "3 of 3 commands are done" in capsys.readouterr().out
    folders = [f"runs/suite-mine-smoke/shard-{i}-of-2" for i in (1, 2)]
    assert [len(status(folder)) for folder in folders] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [("KILL", -9), ("TERM", 75)])
def test_a_suite_that_is_killed_or_stopped_ends_as_if_unbroken(
    inside, finished, name, code
):
    shutil.rmtree("runs")
    process = started(inside, "mine.toml")
    until = time.time() + 120
    while not list(inside.glob("runs/npz*trades-vfd*/checkpoint-*")):
        assert process.poll() is None and time.time() < until
        time.sleep(0.01)
    process.send_signal(getattr(signal, f"SIG{name}"))
    ((ended, said),) = processes.ended([process], timeout=60)
    assert ended == code, said
    if name == "TERM":
        assert "the same command continues: what was finished is kept" in said
        assert states() == ["done", "done", "stopped"]
    assert run("mine.toml") == 0  # waits for a command that still saves
    assert states() == ["done"] * 3
    assert contents() == contents(finished / "runs")
    assert all(RunDirectory(str(path)).complete for path in inside.glob("runs/npz*"))
