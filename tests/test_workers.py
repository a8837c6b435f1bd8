"""The command on several workers: one run, written by one of them, that can be resumed."""

import csv
import json
import pathlib
import re
import signal
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
INTERRUPTED = processes.ROOT / "tests" / "interrupted.py"


def workers(count, *flags, each=(), tmp=None, moments=None):
    """The command, started on so many workers of this machine.

    Args:
        each: Flags of each alone.
        tmp: TMPDIR of all.
        moments: Worker -> when which signal comes to it, as `interrupted.py` has it.
    """
    ports, started = processes.free_ports(count), []
    for index in range(count):
        task = {"type": "worker", "index": index}
        addresses = [f"localhost:{port}" for port in ports]
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        own = each[index] if each else ()
        environment = {"TF_CONFIG": config, **({"TMPDIR": str(tmp)} if tmp else {})}
        command = (INTERRUPTED, *moments[index]) if index in (moments or {}) else (RUN,)
        started.append(processes.start(*command, *FLAGS, *flags, *own, **environment))
    return started


def assert_complete_as(folder, other, begun):
    """All workers, started again, go on from a place to what an unbroken run ends with."""
    ended = processes.ended(workers(2, f"--runs={folder}", "--checkpoint_steps=2"))
    assert [code for code, _ in ended] == [0, 0], ended
    assert all(f"from epoch {begun} to 3" in said for _, said in ended), ended
    assert history(folder) == history(other)
    for known, new in zip(kept(other), kept(folder), strict=True):
        assert known.keys() == new.keys()
        for name in known:
            np.testing.assert_array_equal(new[name], known[name], err_msg=name)


def kept(folder):
    """Name -> array of the verdicts and of the last checkpoint, clocks and versions out."""
    (path,) = pathlib.Path(folder).glob("*/checkpoint-*.npz")
    for file in (path, path.parent / "verdicts.npz"):
        with np.load(file) as arrays:
            yield {name: arrays[name] for name in arrays.files if name != "manifest"}


def checkpoints(folder):
    """Names of the checkpoints of a run, of what is half written too."""
    return sorted(path.name for path in pathlib.Path(folder).glob("*/checkpoint-*"))


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


def test_a_worker_that_is_killed_stops_the_other_and_all_go_on_from_there(
    finished, tmp_path
):
    own = f"--runs={tmp_path}", "--checkpoint_steps=2"
    chief, victim = workers(2, *own, moments={1: ("step", 7, "SIGKILL")})
    victim.communicate()
    since = time.monotonic()
    said = chief.communicate(timeout=120)[0]
    assert time.monotonic() - since < 60
    assert victim.returncode == -signal.SIGKILL and chief.returncode == 1
    assert "Another worker has stopped" in said and "Traceback" not in said
    assert_complete_as(tmp_path, finished[1], "0, step 6")


def test_a_signal_stops_all_workers_in_an_epoch_and_they_go_on_to_the_same_bits(
    finished, tmp_path
):
    tmp, runs = tmp_path / "tmp", tmp_path / "runs"
    tmp.mkdir()
    stop = "step", 5, "SIGTERM"
    own = f"--runs={runs}", "--checkpoint_steps=2"
    started = workers(2, *own, tmp=tmp, moments={0: stop, 1: stop})
    next(line for line in started[0].stdout if "SIGTERM comes" in line)
    since = time.monotonic()
    ended = processes.ended(started)
    assert time.monotonic() - since < 20
    assert [code for code, _ in ended] == [75, 75], ended
    assert all("Stopped by SIGTERM" in said for _, said in ended)
    assert not any("Traceback" in said for _, said in ended)
    assert list(tmp.iterdir()) == []
    assert_complete_as(runs, finished[1], "0, step 6")


def test_a_chief_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    finished, tmp_path
):
    own = f"--runs={tmp_path}", "--checkpoint_steps=2"
    both = workers(2, *own, moments={0: ("checkpoint", 3, "SIGKILL")})
    ended = processes.ended(both)
    assert [code for code, _ in ended] == [-signal.SIGKILL, 1], ended
    names = [f"checkpoint-00000-0000000{step}.npz" for step in (2, 4, 6)]
    *whole, half = checkpoints(tmp_path)
    assert whole == names[:2]
    assert half.startswith(f"{names[2]}.") and half.endswith(".part")
    assert_complete_as(tmp_path, finished[1], "0, step 4")


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


@pytest.mark.parametrize("name", ["slurm.sh", "slurm_cpus.sh"])
@pytest.mark.parametrize("code", [75, 1, 0])
def test_the_examples_for_slurm_queue_again_what_was_stopped(tmp_path, name, code):
    """By an srun that only says what it was asked for and ends as the tasks would."""
    fakes = {"srun": f'echo "srun $@"; exit {code}', "scontrol": 'echo "scontrol $@"'}
    for command, line in fakes.items():
        (tmp_path / command).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / command).chmod(0o755)
    script = processes.ROOT / "examples" / "cluster" / name
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
    ended = subprocess.run(
        [script, "--epochs=3"], env=environment, capture_output=True, text=True, check=False
    )
    srun, *others = ended.stdout.splitlines()
    assert "--kill-on-bad-exit=0" in srun and srun.endswith("--runs=runs --epochs=3")
    assert "--stop_signal=USR1" in srun and "#SBATCH --signal=USR1@" in script.read_text()
    assert others == (["scontrol requeue 17"] if code == 75 else [])
    assert ended.returncode == code and not ended.stderr


def test_the_example_for_kubernetes_makes_a_cluster(tmp_path):
    path = processes.ROOT / "examples" / "cluster" / "jobset.yaml"
    text = path.read_text()
    assert "values: [75]" in text and "exec vfd" in text
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
