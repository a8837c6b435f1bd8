"""The command, stopped anywhere: exit code 75, and the same command ends as if unbroken."""

import contextlib
import json
import signal
import time

import keras
import numpy as np
import processes
import pytest
import tiny
from event_files import curves
from fits import Kill, Send, send

from vfd_tf.cli import main
from vfd_tf.evaluation import Journal
from vfd_tf.experiments import checks, fitting
from vfd_tf.experiments.run_directory import RunDirectory

TEXTS = "history.csv", "metrics.jsonl"
WORDS = "--epochs=3", "--checkpoint_steps=1"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny.written(tmp_path_factory.mktemp("tiny"))


def command(inputs, workdir, *words):
    return ["run.py", *tiny.flags(inputs), *WORDS, *words, f"--workdir={workdir}"]


def run(*args):
    return main.main(command(*args))


@pytest.fixture(scope="module")
def unbroken(inputs):
    assert run(inputs, inputs / "unbroken") == 0
    return contents(inputs / "unbroken")


def contents(folder):
    """What a run ends with; not how long it took."""
    found = {name: (folder / name).read_text() for name in TEXTS}
    found["accuracies"] = json.loads((folder / "results.json").read_text())["accuracies"]
    for part in ("train", "validation"):
        own = curves(folder / "tensorboard" / part)
        found[part] = {k: v for k, v in own.items() if not k.endswith("per_second")}
    for which in ("best", "last"):
        model = keras.saving.load_model(folder / f"{which}.keras", compile=False)
        found[which] = [array.tobytes() for array in model.get_weights()]
    for name in ("verdicts.npz", *(path.name for path in folder.glob("checkpoint-*.npz"))):
        with np.load(folder / name) as arrays:
            found[name] = {n: arrays[n].tobytes() for n in arrays if n != "manifest"}
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], name


@contextlib.contextmanager
def with_callback(monkeypatch, callback):
    """Inside, runs have one callback more, behind those that write curves."""
    callbacks = fitting.callbacks_of
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "callbacks_of", lambda *args: [*callbacks(*args), callback])
        yield


@pytest.mark.parametrize(
    "place", [("step", 0, 0), ("before", 1, 1), ("test", 1), ("end", 1), ("end", 2)]
)
def test_a_run_that_is_stopped_goes_on_to_the_same_files(
    inputs, unbroken, tmp_path, monkeypatch, capsys, place
):
    with with_callback(monkeypatch, Send(*place)):
        assert run(inputs, tmp_path / "run") == 75
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Stopped by SIGTERM; the same command continues")
    assert not RunDirectory(str(tmp_path / "run")).complete
    assert run(inputs, tmp_path / "run") == 0
    assert_same(contents(tmp_path / "run"), unbroken)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not any("part" in name or "lock" in name for name in names)


def test_a_run_says_from_which_step_it_goes_on(inputs, tmp_path, monkeypatch, capsys):
    with with_callback(monkeypatch, Send("before", 1, 1)):
        run(inputs, tmp_path / "run")
    run(inputs, tmp_path / "run")
    said = capsys.readouterr().out
    assert f"{tmp_path / 'run'}: from epoch 0 to 3" in said
    assert f"{tmp_path / 'run'}: from epoch 1, step 2 to 3" in said


def test_an_evaluation_that_is_stopped_keeps_what_it_had_finished(
    inputs, unbroken, tmp_path, monkeypatch
):
    write, made = Journal.write, []

    def stopping(*args, **fields):
        write(*args, **fields)
        made.append(args)
        send("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", stopping)
        assert run(inputs, tmp_path / "run") == 75
    assert len(made) == 1
    read, found = Journal.read, []

    def reading(*args):
        found.append(read(*args))
        return found[-1]

    monkeypatch.setattr(Journal, "read", reading)
    assert run(inputs, tmp_path / "run") == 0
    assert found[0] is not None
    assert_same(contents(tmp_path / "run"), unbroken)
    assert not (tmp_path / "run" / "journal").exists()


def test_what_was_finished_on_another_surrogate_is_not_taken(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "check_prerequisite", lambda *_: None)  # near chance
    for name in ("one", "other"):
        tiny.model(keras.layers.Conv2D(2, 3)).save(tmp_path / f"{name}.keras")
    write, read, found = Journal.write, Journal.read, []

    def stopping(self, name, *args, **fields):
        write(self, name, *args, **fields)
        if name == "transfer-fgsm":
            send("SIGTERM")

    def reading(*args):
        found.append((args[1], read(*args) is not None))
        return read(*args)

    words = "--eval_students=last", "--eval_attacks=fgsm,transfer-fgsm"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", stopping)
        one = f"--surrogate={tmp_path / 'one.keras'}"
        assert run(inputs, tmp_path / "run", *words, one) == 75
    monkeypatch.setattr(Journal, "read", reading)
    other = f"--surrogate={tmp_path / 'other.keras'}"
    assert run(inputs, tmp_path / "run", *words, other) == 0
    assert dict(found) == {"fgsm": True, "transfer-fgsm": False}


def test_a_journal_left_behind_by_a_killed_process_goes(tmp_path, monkeypatch):
    """Killed between writing the verdicts and removing what led to them."""
    folder = tiny.written(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "remove_journal", lambda self: None)
        assert tiny.train(folder) == 0
    assert (folder / "run" / "journal").exists()
    assert tiny.train(folder) == 0
    assert not (folder / "run" / "journal").exists()


def test_an_epoch_whose_curves_were_written_before_its_checkpoint_is_there_once(
    inputs, unbroken, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where the traceback is written
    for epoch in (0, 1):
        with with_callback(monkeypatch, Kill("end", epoch)):
            assert run(inputs, tmp_path / "run") == 1
    assert run(inputs, tmp_path / "run") == 0
    found = contents(tmp_path / "run")
    rows = found["history.csv"].splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3"]
    for part in ("train", "validation"):
        for tag, points in found[part].items():
            assert [step for step, _ in points] == [1, 2, 3], tag
    assert_same(found, unbroken)


def test_an_unknown_signal_is_a_sentence(inputs, tmp_path, capsys):
    for name in ("KILL", "NONE"):
        assert run(inputs, tmp_path / "run", f"--stop_signal={name}") == 2
        assert f"No signal '{name}' can be waited for" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- processes of their own -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name, words", [("TERM", []), ("USR1", ["--stop_signal=USR1"])])
def test_a_process_that_gets_a_real_signal(inputs, tmp_path, name, words):
    words = ["--epochs=40", "--schedule=constant", *words]
    folder = tmp_path / "run"
    started = processes.start(*command(inputs, folder, *words))
    wait_for(lambda: max(folder.glob("checkpoint-00002-*.npz"), default=None), started)
    started.send_signal(getattr(signal, f"SIG{name}"))
    ((code, said),) = processes.ended([started])
    assert code == 75, said
    assert said.rstrip().splitlines()[-1].startswith(f"Stopped by SIG{name}; the same")
    assert 2 <= RunDirectory(str(folder)).state().epoch < 40
    ((code, said),) = processes.ended([processes.start(*command(inputs, folder, *words))])
    assert code == 0, said
    assert run(inputs, tmp_path / "unbroken", *words) == 0
    assert_same(contents(folder), contents(tmp_path / "unbroken"))


def wait_for(found, process):
    """Until something is there, while the process runs."""
    until = time.time() + 120
    while not found():
        assert process.poll() is None and time.time() < until
        time.sleep(0.005)
