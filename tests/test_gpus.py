"""Devices of an engine: which GPUs there are, one command on each, shared cores."""

import os

import engines
import pytest

from vfd_tf.hyperparameters import InputError
from vfd_tf.suites import local_engine
from vfd_tf.suites.engines import LocalEngine, visible_gpus

start = engines.start


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
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.delenv(name, raising=False)
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
