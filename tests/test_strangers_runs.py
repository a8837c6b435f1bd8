"""Runs from strangers: names are only shown, reading ends, and nobody is called."""

import io
import json
import os
import socket
import tarfile

import psutil
import pytest
import strangers
import tiny  # vfd_tf before TensorFlow
from strangers import again, refusal

from vfd_tf import archives
from vfd_tf.cli import main
from vfd_tf.training.devices import cluster

alive = strangers.alive
finished, copy = strangers.finished, strangers.copy


def test_names_in_a_run_directory_are_only_shown(copy, finished, capsys):
    """Paths as data set, helper, student and threat model."""
    outside = "../../canary"
    owner = json.loads((copy / "run/run.json").read_text())
    owner["identity"] |= {"dataset": outside, "arch": outside}
    owner["identity"]["helpers"] = {"teacher": outside, outside: outside}
    (copy / "run/run.json").write_text(json.dumps(owner))
    results = json.loads((copy / "run/results.json").read_text())
    row = {"clean": 50.0, "fgsm": 25.0}
    results["accuracies"] = {outside: {"linf:../canary n=8": row}}
    results.pop("checksum")
    (copy / "run/results.json").write_text(json.dumps(results))
    assert main.main(["run.py", "info", str(copy / "run")]) == 0
    words = [f"--plot_student={outside}", "--plot_y=fgsm", "--out=a.png"]
    assert main.main(["run.py", "plot", str(copy / "run"), *words]) == 0
    assert again(copy, finished) == 2
    refusal(capsys, "holds a run with")
    (copy / "new").mkdir()
    words = f"--continue_from={copy / 'run'}", f"--workdir={copy / 'new'}", "--epochs=2"
    assert tiny.train(copy, *words) == 2
    refusal(capsys, "is a run with")


def test_a_worker_unpacks_nothing_outside_its_folder(monkeypatch, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("../../canary")
        archive.addfile(member, io.BytesIO(b""))
    worker = cluster.Cluster()
    worker.count, worker.index = 2, 1
    monkeypatch.setattr(worker, "from_chief", lambda data: packed.getvalue())
    with pytest.raises(tarfile.FilterError):
        worker.copy_folder("worker")
    assert os.listdir("worker") == []


@pytest.mark.parametrize("name", ["run.json", "results.json", "verdicts.npz"])
def test_a_file_that_never_ends_is_not_read(copy, finished, capsys, name):
    (copy / "run" / name).unlink()
    (copy / "run" / name).symlink_to("/dev/zero")
    assert again(copy, finished) == 2
    refusal(capsys, copy / "run" / name, "no plain file")


@pytest.mark.parametrize(
    "text", [" " * (archives.LARGEST_JSON + 1), "[" * 100_000, '{"a": ' * 100_000]
)
@pytest.mark.parametrize("name", ["run/run.json", "run/results.json"])
def test_a_text_without_end_is_refused(copy, finished, capsys, name, text):
    (copy / name).write_text(text)
    assert again(copy, finished) == 2
    refusal(capsys, copy / name)


def test_a_run_and_an_evaluation_listen_to_nobody_and_call_nobody(copy, monkeypatch):
    reached = []

    def watched(name):
        whole = getattr(socket.socket, name)

        def call(self, address, *rest):
            reached.append((name, address))
            return whole(self, address, *rest)

        monkeypatch.setattr(socket.socket, name, call)

    for name in ("connect", "connect_ex", "bind", "sendto"):
        watched(name)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: reached.append(a) or look_up(*a, **k)
    )
    before = {each.laddr for each in psutil.Process().net_connections()}
    assert tiny.train(copy, "--workdir=new") == 0
    assert tiny.evaluate(copy, copy / "net.keras", "--eval_dir=results") == 0
    after = {each.laddr for each in psutil.Process().net_connections()}
    assert not reached and after <= before
