"""What runs the commands of a suite: order, failures, deaths, signals, logs."""

import json
import os
import pathlib
import pickle
import signal
import subprocess
import threading
import time

import engines
import processes
import pytest
from engines import RUN, appears, says, start_suite

from vfd_tf.suites import local_engine
from vfd_tf.suites.engines import (
    ENGINES,
    Command,
    CommandFailed,
    CommandStopped,
    LocalEngine,
    ParentFailed,
    ParslEngine,
)

start = engines.start


# --- one device -------------------------------------------------------------------------


def test_a_future_gives_the_seconds_of_its_command(start):
    suite = start()
    began = time.monotonic()
    seconds = suite.submit("one", "out=done").result()
    assert 0 < seconds <= time.monotonic() - began


def test_ready_commands_run_in_the_order_of_submission(start):
    suite = start()
    suite.submit("gate", f"until={suite.path('go')}")
    first = suite.submit("first")
    suite.submit("behind", after=[first])
    futures = [suite.submit(f"{n}") for n in range(5)]
    pathlib.Path(suite.path("go")).touch()
    for future in futures:
        future.result()
    assert suite.started == ["gate", "first", "behind", "0", "1", "2", "3", "4"]


def test_a_command_runs_behind_all_that_it_needs(start):
    suite = start(["0", "1", "2"])
    slow = suite.submit("slow", f"until={suite.path('go')}", f"touch={suite.path('one')}")
    fast = suite.submit("fast", f"touch={suite.path('two')}")
    child = suite.submit("child", f"note={suite.path('notes')}", after=[slow, fast])
    other = suite.submit("other", after=[fast])
    other.result()
    assert not child.done() and "child" not in suite.started
    pathlib.Path(suite.path("go")).touch()
    child.result()
    assert os.path.exists(suite.path("one")) and suite.notes()


def test_one_process_runs_all_commands_of_a_device(start):
    suite = start()
    for number in range(3):
        suite.submit(f"{number}", f"note={suite.path('notes')}").result()
    notes = suite.notes()
    assert len({note["pid"] for note in notes}) == 1
    assert notes[0]["pid"] != os.getpid()
    assert notes[2]["argv"][1:] == [f"note={suite.path('notes')}"]
    assert notes[0]["imported"] == []  # TensorFlow is imported by the commands alone


def test_a_process_is_replaced_after_some_commands(start, monkeypatch):
    monkeypatch.setattr(local_engine, "_COMMANDS", 2)
    suite = start()
    for number in range(5):
        suite.submit(f"{number}", f"note={suite.path('notes')}").result()
    first, second, third, fourth, fifth = (note["pid"] for note in suite.notes())
    assert first == second != third == fourth != fifth


def test_the_log_holds_what_python_and_all_others_write(start):
    suite = start()
    suite.submit("one", "out=a", "err=b", "raw=c", "out=d").result()
    suite.submit("two", "out=of two").result()
    assert suite.log("one").split("\n") == ["a", "b", "c 1", "c 2", "c 3", "d", ""]
    assert suite.log("two") == "of two\n"
    suite.submit("one", "out=again").result()
    assert suite.log("one").endswith("d\nagain\n")


# --- failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, code, reason",
    [
        (["err=error: no such model.", "out=more", "code=2"], 2, "error: no such model."),
        (["out=the last", "out=", "code=3"], 3, "the last"),
        (["code=2"], 2, "it wrote nothing"),
        (["leave=by name"], 1, "by name"),
        (["crash=why"], 1, "ValueError: why"),
        (["kill=9"], -9, "its process was killed (signal 9, SIGKILL)"),
        (["out=word", "end=5"], 5, "its process ended with exit code 5"),
        (["end=0"], 0, "its process ended with exit code 0"),
    ],
)
def test_what_is_said_of_a_command_that_failed(start, argv, code, reason):
    suite = start()
    error = suite.submit("one", *argv).exception()
    assert type(error) is CommandFailed
    assert (error.name, error.code, error.reason) == ("one", code, reason)
    assert os.path.samefile(error.log, suite.folder / "logs" / "one.txt")
    assert error.log in str(error) and "error:" not in str(error)


def test_the_reason_is_of_this_time_not_of_the_log_before(start):
    suite = start()
    suite.submit("one", "err=error: old", "code=2").exception()
    assert suite.submit("one", "out=new", "code=1").exception().reason == "new"


def test_a_log_that_cannot_be_written_fails_its_command_alone(start):
    suite = start()
    (suite.folder / "file").touch()
    command = Command("bad", (), str(suite.folder / "file" / "log.txt"))
    for _ in range(2):
        error = suite.engine.submit(command).exception()
        assert type(error) is CommandFailed and "File exists" in error.reason
        assert suite.submit("good").result() > 0


def test_a_failed_parent_fails_its_descendants_alone(start):
    suite = start()
    bad = suite.submit("bad", "code=2")
    good = suite.submit("good")
    child = suite.submit("child", after=[good, bad])
    grandchild = suite.submit("grandchild", after=[child])
    other = suite.submit("other", after=[good])
    for future, name in ((child, "child"), (grandchild, "grandchild")):
        error = future.exception()
        assert type(error) is ParentFailed and (error.name, error.parent) == (name, "bad")
        assert str(error) == f"{name} did not run: bad had failed"
    assert other.result() > 0
    late = suite.submit("late", after=[grandchild]).exception()
    assert late.parent == "bad"
    assert suite.started == ["bad", "good", "other"]


def test_the_parent_that_failed_first_is_named(start):
    suite = start(["0", "1"])
    last = suite.submit("last", f"until={suite.path('go')}", "code=1")
    first = suite.submit("first", "code=1")
    child = suite.submit("child", after=[last, first])
    assert child.exception().parent == "first"  # though the other one runs
    pathlib.Path(suite.path("go")).touch()
    last.exception()
    assert suite.submit("late", after=[last, first]).exception().parent == "first"


def test_a_killed_worker_fails_one_command_and_another_takes_its_place(start):
    suite = start()
    note = f"note={suite.path('notes')}"
    suite.submit("before", note).result()
    killed = suite.submit("killed", "kill=9")
    after = suite.submit("after", note)
    assert killed.exception().code == -9
    assert after.result() > 0
    before, after = suite.notes()
    assert before["pid"] != after["pid"]


def test_a_worker_that_dies_idle_fails_nothing(start):
    suite = start()
    for _ in range(3):
        suite.submit("one", f"note={suite.path('notes')}").result()
        os.kill(suite.notes()[-1]["pid"], signal.SIGKILL)
    assert suite.submit("last").result() > 0


@pytest.mark.parametrize("argv", [["kill=9"], ["code=1"], ["code=2"]])
def test_retries_are_for_what_nobody_expected(start, argv):
    suite = start(retries=2)
    suite.submit("one", *argv).exception()
    assert suite.started == ["one"] * (1 if argv == ["code=2"] else 3)


def test_what_succeeds_the_second_time_has_not_failed(start):
    suite = start(retries=1)
    one = suite.submit("one", f"unless={suite.path('been')}")
    assert suite.submit("child", after=[one]).result() > 0
    assert suite.started == ["one", "one", "child"]


def test_a_command_that_is_cancelled_does_not_run(start):
    suite = start()
    suite.submit("gate", f"until={suite.path('go')}")
    one = suite.submit("one")
    child = suite.submit("child", after=[one])
    assert one.cancel()
    pathlib.Path(suite.path("go")).touch()
    assert type(child.exception()) is CommandStopped
    assert suite.started == ["gate"]


def test_a_callback_that_fails_does_not_stop_the_engine(tmp_path):
    def started(name):
        raise OSError("of the overview")

    with LocalEngine([], run=RUN, started=started) as engine:
        error = engine.submit(Command("one", (), f"{tmp_path}/one.txt")).exception()
        assert error.reason == "OSError: of the overview"


def test_futures_of_another_engine_and_a_closed_engine_are_refused(start):
    one, other = start(), start()
    with pytest.raises(ValueError, match="`submit` of this engine"):
        one.submit("child", after=[other.submit("parent")])
    one.engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        one.submit("late")


@pytest.mark.parametrize(
    "error", [CommandFailed("a", 1, "r", "l"), ParentFailed("a", "b"), CommandStopped("a")]
)
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and vars(copy) == vars(error)


# --- signals ----------------------------------------------------------------------------


def test_stop_lets_what_runs_save_and_begins_nothing(start):
    suite = start(["0", "1"])
    runs = [suite.submit(f"{n}", f"save={suite.path(f'saved{n}')}") for n in range(2)]
    waits = suite.submit("waits")
    child = suite.submit("child", after=[runs[0], waits])
    for number in range(2):
        says(suite.folder / "logs" / f"{number}.txt", "waits")
    suite.engine.stop()
    for future in (*runs, waits, child, suite.submit("late")):
        assert type(future.exception()) is CommandStopped
    assert os.path.exists(suite.path("saved0")) and os.path.exists(suite.path("saved1"))
    assert sorted(suite.started) == ["0", "1"]


def test_what_ends_or_fails_in_spite_of_stop_is_said_to(start):
    suite = start(["0"], retries=3)
    done = suite.submit("done", f"touch={suite.path('on')}", f"until={suite.path('go')}")
    appears(suite.path("on"))
    threading.Timer(0.2, pathlib.Path(suite.path("go")).touch).start()
    with pytest.MonkeyPatch.context() as patch:  # as if the signal had come too late
        patch.setattr(subprocess.Popen, "terminate", lambda process: None)
        suite.engine.stop()
    assert done.result() > 0


def test_a_command_that_is_stopped_from_outside_stops_its_children(start):
    suite = start()
    one = suite.submit("one", "code=75")
    child = suite.submit("child", after=[one])
    assert type(one.exception()) is type(child.exception()) is CommandStopped
    assert suite.submit("other").result() > 0


@pytest.mark.slow
def test_a_signal_to_the_suite_stops_it_and_one_that_is_killed_takes_all_along(tmp_path):
    suites = {}
    for name in ("SIGTERM", "SIGINT", "SIGKILL"):
        (tmp_path / name).mkdir()
        suites[name] = start_suite("local", tmp_path / name)
    for name, suite in suites.items():
        says(tmp_path / name / "first.txt", "waits")
        suite.send_signal(signal.Signals[name])
        appears(tmp_path / name / "first.saved")
    ended = dict(zip(suites, processes.ended(suites.values(), timeout=30), strict=True))
    for name in ("SIGTERM", "SIGINT"):
        assert ended[name][0] == 75, ended[name]
        outcome = json.loads((tmp_path / name / "outcome.json").read_text())
        for each in ("first", "second", "child"):
            assert outcome["errors"][each] == ["CommandStopped", each]
    assert not list(tmp_path.glob("*/second.began"))


# --- the table --------------------------------------------------------------------------


def test_the_table_names_the_engines():
    assert list(ENGINES.items()) == [("local", LocalEngine), ("parsl", ParslEngine)]
