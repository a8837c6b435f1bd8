"""The command on several workers: one run, written by one of them, that can be resumed."""

import csv
import json
import pathlib
import re
import subprocess
import time

import numpy as np
import processes
import pytest

pytestmark = pytest.mark.slow
FLAGS = (
    "--dataset=digits",
    "--arch=resnet8",
    "--width=0.25",
    "--method=natural",
    "--distill=none",
    "--schedule=constant",
    "--learning_rate=0.02",
    "--batch_size=96",
    "--epochs=3",
    "--average=ema",
    "--eval_attacks=pgd3",
    "--max_images=100",
)
RUN = processes.ROOT / "run.py"


def workers(count, *flags, each=(), tmp=None):
    """The command, started on so many workers of this machine."""
    ports, started = processes.free_ports(count), []
    for index in range(count):
        task = {"type": "worker", "index": index}
        addresses = [f"localhost:{port}" for port in ports]
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        own = each[index] if each else ()
        environment = {"TF_CONFIG": config, **({"TMPDIR": str(tmp)} if tmp else {})}
        started.append(processes.start(RUN, *FLAGS, *flags, *own, **environment))
    return started


def history(folder):
    with open(next(pathlib.Path(folder).glob("*/history.csv"))) as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def verdicts(folder):
    return np.load(next(pathlib.Path(folder).glob("*/verdicts.npz")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(runs of one device, runs of two workers, what the workers said, their TMPDIR)."""
    folder, tmp = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("tmp")
    one = processes.start(RUN, *FLAGS, "--strategy=one_device", f"--runs={folder}/one")
    assert processes.ended([one])[0][0] == 0
    ended = processes.ended(workers(2, f"--runs={folder}/two", tmp=tmp))
    assert [code for code, _ in ended] == [0, 0], ended
    return folder / "one", folder / "two", [said for _, said in ended], tmp


def test_two_workers_train_and_judge_as_one_device_does(finished):
    one, two, *_ = finished
    for alone, shared in zip(history(one), history(two), strict=True):
        assert alone.keys() == shared.keys()
        for name in alone:
            np.testing.assert_allclose(shared[name], alone[name], rtol=0.02, atol=1e-4)
    # Float32 adds up in another order: the same verdicts but for images on the border.
    alone, shared = verdicts(one), verdicts(two)
    assert set(alone.files) == set(shared.files)
    for name in alone.files:
        assert (alone[name] != shared[name]).sum() <= 2


def test_the_chief_alone_writes_and_every_worker_says_how_far_it_is(finished):
    _, two, said, tmp = finished
    (folder,) = two.iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"best.keras", "last.keras", "average.keras", "results.json"} <= names
    assert "tensorboard" in names and not any(name.startswith("lock") for name in names)
    assert list(tmp.iterdir()) == []
    for index, text in enumerate(said):
        label = f"[worker {index}] " if index else ""
        assert len(re.findall(rf"(?m)^{re.escape(label)}epoch \d/3", text)) == 3
        assert "Traceback" not in text and "Warning" not in text
    assert json.loads((folder / "results.json").read_text())["replicas"] == 2


def test_a_worker_that_dies_stops_the_other_and_all_go_on_from_there(finished, tmp_path):
    victim = 1
    both = workers(2, f"--runs={tmp_path}")
    for line in both[victim].stdout:
        if "epoch 1/3" in line:
            break
    both[victim].kill()
    since = time.monotonic()
    said = both[1 - victim].communicate(timeout=120)[0]
    assert time.monotonic() - since < 90
    assert both[1 - victim].returncode == 1
    assert "Another worker has stopped" in said and "Traceback" not in said
    both[victim].communicate()
    ended = processes.ended(workers(2, f"--runs={tmp_path}"))
    assert [code for code, _ in ended] == [0, 0], ended
    assert re.search(r"from epoch [12] to 3", ended[0][1])
    assert history(tmp_path) == history(finished[1])
    for name in verdicts(tmp_path).files:
        np.testing.assert_array_equal(verdicts(tmp_path)[name], verdicts(finished[1])[name])


def test_workers_that_differ_are_refused_at_the_start(tmp_path):
    each = ["--weight_decay=0.001"], ["--weight_decay=0.002"]
    started = workers(2, f"--runs={tmp_path}", each=each)
    for code, said in processes.ended(started):
        assert code == 2
        assert "--weight_decay" in said and "Not all workers are alike" in said
    assert list(tmp_path.iterdir()) == []


def test_the_example_by_hand_makes_a_cluster(tmp_path):
    """Its TF_CONFIG, by a python that prints it instead of training."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $TF_CONFIG\n")
    python.chmod(0o755)
    script = processes.ROOT / "examples" / "cluster" / "by_hand.sh"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PORT": "3000"}
    said = subprocess.run(
        [script, "3"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    found = sorted(map(json.loads, said.splitlines()), key=lambda c: c["task"]["index"])
    addresses = [f"localhost:{port}" for port in (3000, 3001, 3002)]
    assert [config["task"]["index"] for config in found] == [0, 1, 2]
    assert all(config["cluster"] == {"worker": addresses} for config in found)


def test_the_example_for_kubernetes_makes_a_cluster(tmp_path):
    path = processes.ROOT / "examples" / "cluster" / "jobset.yaml"
    text = path.read_text()
    assert "completions: 4" in text and "parallelism: 4" in text
    script = text.partition("- |\n")[2].partition("                  ports:")[0]
    script = script.replace("vfd --recipe", "echo $TF_CONFIG; : --recipe")
    environment = {"PATH": "/usr/bin:/bin", "JOB_COMPLETION_INDEX": "2"}
    said = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    config = json.loads(said.stdout)
    assert config["task"] == {"type": "worker", "index": 2}
    names = [f"vfd-worker-0-{i}.vfd:2222" for i in range(4)]
    assert config["cluster"]["worker"] == names
