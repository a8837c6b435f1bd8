"""What runs the commands of a suite: order, devices, failures, deaths, signals, logs."""

import contextlib
import json
import math
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import processes
import psutil
import pytest

from vfd_tf.hyperparameters import InputError
from vfd_tf.suites import command as commands_of
from vfd_tf.suites import local_engine, worker
from vfd_tf.suites.engines import (
    ENGINES,
    Command,
    CommandFailed,
    CommandStopped,
    LocalEngine,
    ParentFailed,
    ParslEngine,
    visible_gpus,
)
from vfd_tf.suites.parsl_engine import retry_cost

RUN = "commands:main"  # of tests/commands.py


class Suite:
    """An engine, and what to tell it in a folder."""

    def __init__(self, engine, folder, started):
        self.engine, self.folder, self.started = engine, folder, started

    def path(self, name):
        return str(self.folder / name)

    def log(self, name):
        return (self.folder / "logs" / f"{name}.txt").read_text()

    def submit(self, name, *argv, after=()):
        command = Command(name, argv, str(self.folder / "logs" / f"{name}.txt"))
        return self.engine.submit(command, after)

    def notes(self, name="notes"):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def start(tmp_path):
    """A function that starts a local engine; all of them end with the test."""
    with contextlib.ExitStack() as ends:

        def started(devices=(), **options):
            names = []
            engine = LocalEngine(list(devices), run=RUN, started=names.append, **options)
            ends.callback(engine.close)
            return Suite(engine, tmp_path, names)

        yield started


def appears(path, timeout=30):
    """Waits for a file."""
    ends = time.monotonic() + timeout
    while not os.path.exists(path):
        assert time.monotonic() < ends, f"{path} does not appear"
        time.sleep(0.01)


def says(path, word, timeout=30):
    """Waits for a word in a file."""
    appears(path, timeout)
    ends = time.monotonic() + timeout
    while word not in path.read_text():
        assert time.monotonic() < ends, f"{path} does not say {word}"
        time.sleep(0.01)


def start_suite(kind, folder):
    """A suite of tests/commands.py in a process of its own.

    There the package is without its front, which would import TensorFlow.
    """
    front = folder / "light" / "vfd_tf" / "__init__.py"
    front.parent.mkdir(parents=True)
    front.write_text(f"__path__ = [{str(processes.ROOT / 'vfd_tf')!r}]")
    paths = map(str, (folder / "light", processes.ROOT / "tests"))
    return subprocess.Popen(
        [sys.executable, processes.ROOT / "tests" / "commands.py", kind, folder],
        env=processes.ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


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


# --- several devices --------------------------------------------------------------------


def test_two_devices_run_at_once_and_never_two_commands_on_one(start):
    suite = start(["3", "GPU-a"])
    futures = []
    for number in range(6):
        own, note = suite.path(f"{number}"), f"note={suite.path(f'notes{number}')}"
        # Every command waits for its neighbour: alone none would come to an end.
        argv = [note, f"touch={own}", f"until={suite.path(f'{number ^ 1}')}", note]
        futures.append(suite.submit(f"{number}", *argv))
    for future in futures:
        future.result()
    spans = {}
    for number in range(6):
        begin, end = suite.notes(f"notes{number}")
        assert begin["CUDA_VISIBLE_DEVICES"] in ("3", "GPU-a")
        spans.setdefault(begin["CUDA_VISIBLE_DEVICES"], []).append((begin["at"], end["at"]))
    assert [len(of_device) for of_device in spans.values()] == [3, 3]
    for of_device in spans.values():
        assert all(a[1] <= b[0] for a, b in zip(of_device, of_device[1:], strict=False))


def test_slots_of_a_cpu_share_its_cores(start, monkeypatch):
    monkeypatch.setattr(local_engine, "_cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    suite = start(workers=2)
    suite.submit("one", f"note={suite.path('notes')}").result()
    (note,) = suite.notes()
    assert note["CUDA_VISIBLE_DEVICES"] == "-1"
    assert note["TF_NUM_INTRAOP_THREADS"] == note["OMP_NUM_THREADS"] == "4"
    assert suite.engine.slots == 2 and start().engine.slots == 1


def test_a_single_slot_has_all_cores(start, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    suite = start()
    suite.submit("one", f"note={suite.path('notes')}").result()
    assert suite.notes()[0]["TF_NUM_INTRAOP_THREADS"] is None


@pytest.mark.parametrize("devices, workers", [([], 0), (["0"], 2)])
def test_slots_that_cannot_be_are_refused(devices, workers):
    with pytest.raises(InputError, match="--workers"):
        LocalEngine(devices, workers)


@pytest.mark.parametrize(
    "named, expected",
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("1,-1,0", ["1"]),
        ("GPU-8932f937,MIG-1", ["GPU-8932f937", "MIG-1"]),
    ],
)
def test_cuda_visible_devices_names_the_gpus(monkeypatch, named, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected


WHOLE = """GPU 0: NVIDIA H200 (UUID: GPU-11)
GPU 1: NVIDIA H200 (UUID: GPU-22)
"""
DIVIDED = """GPU 0: NVIDIA A100 (UUID: GPU-11)
  MIG 3g.20gb     Device  0: (UUID: MIG-aa)
  MIG 3g.20gb     Device  1: (UUID: MIG-bb)
GPU 1: NVIDIA A100 (UUID: GPU-22)
"""


@pytest.mark.parametrize(
    "text, expected",
    [(WHOLE, ["0", "1"]), (DIVIDED, ["MIG-aa", "MIG-bb", "1"]), ("", [])],
)
def test_nvidia_smi_lists_the_gpus(monkeypatch, tmp_path, text, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == expected


def test_without_nvidia_smi_there_are_no_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


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


# --- Parsl ------------------------------------------------------------------------------

CONFIG = """
import parsl
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from vfd_tf.suites.parsl_engine import retry_cost

def cost(error, task):
    lost = type(error).__name__ == "WorkerLost"  # a worker takes long to begin
    return 9 if lost else retry_cost(error, task)

config = parsl.Config(
    executors=[
        HighThroughputExecutor(
            address="127.0.0.1",
            loopback_address="127.0.0.1",
            max_workers_per_node=2,
            cores_per_worker=0.1,
            available_accelerators=["4", "5"],
            heartbeat_period=1,
            heartbeat_threshold=20,
            encrypted=False,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
    ],
    retries=1,
    retry_handler=cost,
    strategy="none",
)
"""


@pytest.fixture
def parsl_suite(tmp_path):
    """A suite by Parsl in a process of its own, and all that it starts until the end."""
    pytest.importorskip("parsl", reason="Parsl is an extra: pip install vfd_tf[parsl]")
    (tmp_path / "config.py").write_text(CONFIG)
    suite = start_suite("parsl", tmp_path)
    yield suite
    suite.kill()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == suite.pid:
                process.kill()


@pytest.mark.slow
def test_parsl_keeps_the_same_laws(parsl_suite, tmp_path):
    logs = tmp_path / "logs"
    for name in ("first", "second"):
        says(logs / f"{name}.txt", "waits", timeout=120)
    parsl_suite.send_signal(signal.SIGTERM)
    ((code, said),) = processes.ended([parsl_suite], timeout=60)
    assert code == 75, said
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    errors = outcome["errors"]
    assert [errors[n] for n in ("left", "right", "again", "good")] == [["NoneType"]] * 4
    bad = ["CommandFailed", "bad", 2, "error: bad input", str(logs / "bad.txt")]
    assert errors["bad"] == bad
    assert errors["child"] == ["ParentFailed", "child", "bad"]
    assert errors["grandchild"] == ["ParentFailed", "grandchild", "bad"]
    assert errors["killed"][:3] == ["CommandFailed", "killed", None]
    assert errors["killed"][3].startswith("its process was lost (WorkerLost")
    for name in ("first", "second", "third"):
        assert errors[name] == ["CommandStopped", name]
    assert (tmp_path / "first.saved").exists() and (tmp_path / "second.saved").exists()
    assert sorted(outcome["begun"]) == sorted(
        ["left", "right", "bad", "again", "killed", "good", "first", "second"]
    )
    assert (logs / "left.txt").read_text().splitlines() == ["raw 1", "raw 2", "raw 3"]
    assert (logs / "bad.txt").read_text().count("bad input") == 1  # not again
    assert (logs / "again.txt").read_text() == "tried\ntried\n"
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert {note["CUDA_VISIBLE_DEVICES"] for note in notes} == {"4", "5"}


def test_without_parsl_its_engine_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "parsl", None)
    with pytest.raises(InputError, match=r"needs Parsl: pip install vfd_tf\[parsl\]"):
        ParslEngine("config.py")


@pytest.mark.parametrize("text", [None, "", "config = 3", "import nowhere", "config = ("])
def test_a_parsl_configuration_that_is_none_is_refused(tmp_path, text):
    pytest.importorskip("parsl", reason="Parsl is an extra: pip install vfd_tf[parsl]")
    if text is not None:
        (tmp_path / "config.py").write_text(text)
    with pytest.raises(InputError, match=r"see examples/parsl|such as examples/parsl"):
        ParslEngine(tmp_path / "config.py")


def test_what_parsl_does_not_run_again():
    for error in (CommandStopped("a"), CommandFailed("a", 2, "", "")):
        assert retry_cost(error, {}) == math.inf
    for error in (CommandFailed("a", 1, "", ""), OSError("lost")):
        assert retry_cost(error, {}) == 1


# --- alone ------------------------------------------------------------------------------


def test_the_worker_imports_nothing_but_the_standard_library():
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r})\n"
    code += (
        "print([n for n in ('vfd_tf', 'keras', 'tensorflow', 'numpy') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr


def test_last_words_of_a_long_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"error: old\n" + b"x" * (1 << 20) + b"\nend \xff\r\n\n")
    assert commands_of.last_words(str(log)) == "end \ufffd"


def test_what_a_process_died_of():
    assert commands_of.death(-11) == "its process was killed (signal 11, SIGSEGV)"
    assert commands_of.death(-63) == "its process was killed (signal 63)"


def test_the_table_names_the_engines():
    assert list(ENGINES.items()) == [("local", LocalEngine), ("parsl", ParslEngine)]
