"""The overview of a suite: lines, a table on a terminal, status.json, the time left."""

import concurrent.futures
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from vfd_tf.hyperparameters import InputError
from vfd_tf.suites import overview as module
from vfd_tf.suites.engines import (
    Command,
    CommandFailed,
    CommandStopped,
    LocalEngine,
    ParentFailed,
)
from vfd_tf.suites.overview import Overview, read_status

NAMES = "teacher", "student", "[b]other[/b]", "last"
COMMANDS = [Command(name, (), f"logs/{name}.txt") for name in NAMES]
PREDICTED = dict.fromkeys(NAMES, 600.0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands: its time can be set."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def overview(folder, predicted=PREDICTED, stream=None, **options):
    stream = io.StringIO() if stream is None else stream
    return Overview(COMMANDS, predicted, str(folder), stream=stream, **options), stream


# --- lines ------------------------------------------------------------------------------


def test_every_event_is_a_line(tmp_path, clock):
    shown, stream = overview(tmp_path, slots=2)
    with shown:
        shown.started("teacher")
        clock.now += 300
        shown.ended("teacher", 300.0)
        shown.failed("student", CommandFailed("student", 2, "error: bad", "log"))
        shown.failed("[b]other[/b]", ParentFailed("[b]other[/b]", "student"))
        shown.failed("last", CommandStopped("last"))
    assert stream.getvalue().splitlines() == [
        "[0/4] began: teacher; 1 running, 3 waiting, about 20 min left",
        "[1/4] done: teacher (5 min); 3 waiting, about 8 min left",
        "[2/4] failed: student: error: bad, see logs/student.txt; "
        "2 waiting, 1 failed, about 5 min left",
        "[3/4] not run: [b]other[/b], student had failed; "
        "1 waiting, 2 failed, about 5 min left",
        "[4/4] stopped: last; 2 failed, 1 stopped",
    ]


def test_all_done_leaves_nothing(tmp_path):
    shown, stream = overview(tmp_path)
    for name in NAMES:
        shown.ended(name, 1.0)
    assert stream.getvalue().endswith("[4/4] done: last (1 s); nothing left\n")


def test_an_error_of_another_kind_is_named(tmp_path):
    shown, stream = overview(tmp_path)
    shown.failed("last", ValueError("why"))
    assert "failed: last: ValueError: why, see logs/last.txt" in stream.getvalue()


# --- time left --------------------------------------------------------------------------


def test_time_left_is_shared_by_slots_and_goes_by_the_pace_of_what_is_done(tmp_path, clock):
    shown, _ = overview(tmp_path, slots=2)
    assert shown.left() == 4 * 600 / 2
    shown.started("teacher")
    clock.now += 100
    assert shown.left() == (4 * 600 - 100) / 2
    shown.ended("teacher", 1200.0)  # twice as long as predicted
    assert shown.left() == 3 * 1200 / 2
    for name in NAMES[1:]:
        shown.ended(name, 600.0)
    assert shown.left() == 0


def test_time_left_is_no_shorter_than_the_longest(tmp_path):
    shown, _ = overview(tmp_path, slots=100)
    assert shown.left() == 600


def test_what_runs_longer_than_predicted_has_no_time_left(tmp_path, clock):
    shown, _ = overview(tmp_path)
    shown.started("teacher")
    clock.now += 10000
    assert shown.left() == 3 * 600


def test_what_was_complete_says_nothing_of_the_pace(tmp_path):
    shown, _ = overview(tmp_path, PREDICTED | {"teacher": 0.0})
    assert shown.left() == 3 * 600
    shown.ended("teacher", 5.0)
    assert shown.left() == 3 * 600


def test_commands_without_a_prediction_count_as_the_others(tmp_path):
    shown, _ = overview(tmp_path, {"teacher": 100.0, "student": 300.0})
    assert shown.left() == 100 + 300 + 2 * 200


def test_without_predictions_no_time_is_told(tmp_path):
    shown, stream = overview(tmp_path, {})
    shown.ended("teacher", 5.0)
    assert shown.left() is None
    assert stream.getvalue() == "[1/4] done: teacher (5 s); 3 waiting\n"


def test_the_pace_is_of_predictions_and_not_of_what_has_passed(tmp_path, clock):
    shown, _ = overview(tmp_path)
    shown.ended("teacher", 1200.0)  # twice as long as predicted
    shown.started("student")
    clock.now += 100
    assert shown.left() == 3 * 1200 - 100


def test_what_was_complete_says_nothing_of_commands_without_a_prediction(tmp_path):
    shown, _ = overview(tmp_path, {"teacher": 0.0, "student": 300.0})
    assert shown.left() == 0 + 300 + 2 * 300


def test_what_has_ended_is_not_in_the_table_of_what_runs(tmp_path, clock):
    shown, _ = overview(tmp_path)
    for name in ("teacher", "student", "last"):
        shown.started(name)
    shown.ended("teacher", 1.0)
    shown.failed("last", CommandStopped("last"))
    console = Console(file=io.StringIO(), width=100)
    console.print(shown._table())
    first = [line.split()[0] for line in console.file.getvalue().splitlines()]
    assert first == ["running", "student", "1"]


# --- status.json ------------------------------------------------------------------------


def test_status_json_follows_every_event(tmp_path, clock):
    shown, _ = overview(tmp_path / "new")
    folder = str(tmp_path / "new")
    waiting = {"status": "waiting", "seconds": None, "reason": None}
    assert read_status(folder)["last"] == waiting | {"log": "logs/last.txt"}
    shown.started("teacher")
    assert read_status(folder)["teacher"]["status"] == "running"
    shown.ended("teacher", 12.5)
    clock.now += 3
    shown.started("student")
    clock.now += 3
    shown.failed("student", CommandFailed("student", 2, "error: bad", "log"))
    shown.failed("last", CommandStopped("last"))
    found = json.loads((tmp_path / "new" / "status.json").read_text())
    assert list(found) == list(NAMES)
    brief = {name: (e["status"], e["seconds"], e["reason"]) for name, e in found.items()}
    assert brief == {
        "teacher": ("done", 12.5, None),
        "student": ("failed", 3.0, "error: bad"),
        "[b]other[/b]": ("waiting", None, None),
        "last": ("stopped", None, None),
    }
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["status.json"]


def test_what_ended_of_commands_of_other_names_is_kept(tmp_path):
    before = {
        "other": {"status": "done", "seconds": 3.0},
        "gone": {"status": "running"},
        "odd": "nothing",
        "teacher": {"status": "done", "seconds": 5.0},
    }
    (tmp_path / "status.json").write_text(json.dumps(before))
    overview(tmp_path)
    found = read_status(str(tmp_path))
    assert found.keys() == {"other", *NAMES} and found["other"] == before["other"]
    assert found["teacher"]["status"] == "waiting"


def test_a_suite_whose_process_is_gone_is_stopped_and_runs_on_another_machine(tmp_path):
    """As after SIGKILL: nobody is left to write it down."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    shown, _ = overview(tmp_path)
    shown.started("teacher")
    shown.started("student")
    shown.ended("student", 1.0)
    path = tmp_path / "status.json"
    found = json.loads(path.read_text())
    assert found["teacher"]["pid"] == os.getpid() and "pid" not in found["student"]
    for host, status in ((socket.gethostname(), "stopped"), ("elsewhere", "running")):
        found["teacher"] |= {"host": host, "pid": child.pid}
        path.write_text(json.dumps(found))
        known = read_status(str(tmp_path))
        assert known["teacher"]["status"] == status
        assert known["student"]["status"] == "done"
        assert known["last"]["status"] == "waiting"
        told = known["teacher"]["reason"] or ""
        assert ("the same command continues" in told) == (status == "stopped")


@pytest.mark.parametrize("owner", [{}, {"host": 1, "pid": "x"}, {"host": None, "pid": -1}])
def test_a_status_without_a_process_is_believed(tmp_path, owner):
    entry = {"status": "running", **owner}
    (tmp_path / "status.json").write_text(json.dumps({"a": entry, "b": "nothing"}))
    assert read_status(str(tmp_path)) == {"a": entry, "b": "nothing"}


def test_readers_bear_a_status_that_is_not_there(tmp_path):
    assert read_status(str(tmp_path)) == {}
    assert read_status(str(tmp_path / "nowhere")) == {}
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(InputError, match="remove it"):
        read_status(str(tmp_path))


def test_events_come_from_many_threads(tmp_path):
    shown, stream = overview(tmp_path)

    def run(name):
        shown.started(name)
        shown.ended(name, 1.0)

    threads = [threading.Thread(target=run, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown.counts()["done"] == 4 and len(stream.getvalue().splitlines()) == 8
    assert {entry["status"] for entry in read_status(str(tmp_path)).values()} == {"done"}


def test_where_nothing_can_be_written_the_suite_goes_on(tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    shown, _ = overview(tmp_path / "folder", stream=Gone())
    shutil.rmtree(tmp_path / "folder")
    shown.started("teacher")
    shown.ended("teacher", 1.0)
    assert shown.counts()["done"] == 1


# --- with an engine ---------------------------------------------------------------------


def test_it_follows_the_futures_of_an_engine(tmp_path):
    commands = {
        name: Command(name, argv, str(tmp_path / f"{name}.txt"))
        for name, argv in (("a", ("out=1",)), ("b", ("code=2",)), ("c", ()))
    }
    shown = Overview(commands.values(), {}, str(tmp_path), stream=io.StringIO())
    options = {"run": "commands:main", "started": shown.started}
    with shown, LocalEngine([], **options) as engine:
        futures = {}
        for name, command in commands.items():
            after = [futures["b"]] if name == "c" else []
            futures[name] = engine.submit(command, after)
            shown.follow(name, futures[name])
    found = {name: entry["status"] for name, entry in read_status(str(tmp_path)).items()}
    assert found == {"a": "done", "b": "failed", "c": "failed"}


def test_a_future_that_was_cancelled_is_stopped(tmp_path):
    shown, _ = overview(tmp_path)
    future = concurrent.futures.Future()
    shown.follow("last", future)
    future.cancel()
    assert shown.counts()["stopped"] == 1


# --- on a terminal ----------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_table_and_a_line_for_every_failure(
    tmp_path, clock, monkeypatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown, stream = overview(tmp_path, stream=Terminal(), slots=2)
    with shown:
        shown.started("teacher")
        shown.started("[b]other[/b]")
        clock.now += 60
        shown._live.refresh()
        drawn = stream.getvalue()
        assert "running" in drawn and "expected" in drawn
        row = next(line for line in drawn.splitlines() if "teacher" in line)
        assert row.split()[1:] == ["60", "s", "10", "min"]
        assert "[b]other[/b]" in drawn
        assert "0 of 4 done; 2 running, 2 waiting, about 19 min left" in drawn
        shown.ended("teacher", 60.0)
        shown.failed("[b]other[/b]", CommandFailed("[b]other[/b]", 1, "error: [x]", "log"))
    assert "done: teacher" not in stream.getvalue()
    line = "failed: [b]other[/b]: error: [x], see logs/[b]other[/b].txt"
    assert line in stream.getvalue()
    assert "1 of 4 done; 2 waiting, 1 failed" in stream.getvalue()


def test_a_dumb_terminal_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    shown, stream = overview(tmp_path, stream=Terminal())
    with shown:
        shown.started("teacher")
    assert stream.getvalue().startswith("[0/4] began: teacher; 1 running")
