"""The engine of Parsl keeps the laws of the local one; what it refuses and runs again."""

import contextlib
import json
import math
import os
import signal
import sys

import processes
import psutil
import pytest
from engines import says, start_suite

from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.engines import CommandFailed, CommandStopped, ParslEngine
from vfd_tf.suites.parsl_engine import retry_cost

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
