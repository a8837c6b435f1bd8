"""What trains: chosen by what is visible, refused in one sentence where it can't be."""

import json
import socket
import warnings

import pytest
import tensorflow as tf

from vfd_tf import InputError
from vfd_tf.cli import strategies
from vfd_tf.cli.strategies import make_strategy

SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_ID": "43210",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(strategies, "LOOK_UPS", 1)
    for name in ("TF_CONFIG", "TF_USE_LEGACY_KERAS", *SLURM):
        monkeypatch.delenv(name, raising=False)


def cluster(*addresses, index=0, task="worker", job="worker"):
    task = {"type": task, "index": index}
    return json.dumps({"cluster": {job: list(addresses)}, "task": task})


def test_one_device_where_nothing_else_is_visible(monkeypatch):
    assert make_strategy("auto").num_replicas_in_sync == 1
    monkeypatch.setenv("TF_CONFIG", cluster("localhost:2222"))
    assert make_strategy("auto") is tf.distribute.get_strategy()
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert make_strategy("auto") is tf.distribute.get_strategy()


def test_every_visible_gpu_is_mirrored_over(monkeypatch):
    monkeypatch.setitem(strategies.STRATEGIES, "auto", strategies._auto)
    monkeypatch.setattr(strategies, "_mirrored", lambda: "mirrored")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 2)
    assert make_strategy("auto") == "mirrored"


def test_a_mirror_of_one_device_says_so(capsys):
    assert make_strategy("mirrored").num_replicas_in_sync == 1
    assert "one device" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, reason",
    [
        ("worker", "JSON"),
        ("[1]", "TF_CONFIG can't be read"),
        (cluster("a:1", "b:1", index=2), "TF_CONFIG can't be read"),
        (cluster("a:1", "b:1", task="ps"), "TF_CONFIG can't be read"),
        (cluster("a:1", "b:1", job="ps", task="ps"), "TF_CONFIG names ps"),
        (cluster("a:1", "a:1"), "names a:1 twice"),
        (cluster("a:1", "b:1", index=-1), "TF_CONFIG can't be read"),
        (cluster(1, 2), "no list of addresses"),
        (json.dumps({"cluster": {"worker": "ab"}}), "no list of addresses"),
        (cluster("localhost", "b:1"), "no host:port"),
        (cluster("localhost:99999", "b:1"), "no host:port"),
        (cluster("no.such.host.invalid:2222", "b:1"), "isn't known"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=reason):
        make_strategy("auto")


def test_a_port_in_use_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", cluster(f"127.0.0.1:{port}", "127.0.0.1:1"))
        with pytest.raises(InputError, match=f"Port {port} .* is in use"):
            make_strategy("auto")


def test_several_workers_need_addresses():
    with pytest.raises(InputError, match="srun, or set TF_CONFIG"):
        make_strategy("multi_worker")


def test_slurm_tells_who_the_workers_are(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = strategies.slurm_cluster()
    addresses = [f"node{n}:{port}" for n in ("07", "08") for port in (27360, 27361)]
    assert found["cluster"] == {"worker": addresses}
    assert found["task"] == {"type": "worker", "index": 2}


def test_slurm_without_its_variables_is_refused(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(InputError, match="start them with srun"):
        make_strategy("auto")


def test_keras_2_in_the_environment_is_named_for_what_it_does(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.warns(UserWarning, match=r"tf\.keras is Keras 2"):
        make_strategy("one_device")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_strategy("one_device")
