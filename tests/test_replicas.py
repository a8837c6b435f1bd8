"""One device, replicas, workers: the same noise, weights, logs and verdicts."""

import pathlib

import numpy as np
import processes
import pytest
import replicas

SCRIPT = pathlib.Path(__file__).with_name("replicas.py")
EVERY = [*replicas.CASES]
# Workers x replicas of each -> what they train.
SHAPES = {(1, 2): EVERY, (2, 1): EVERY, (3, 1): ["trades"]}
SHAPES[2, 2] = ["trades", "hat with batch norm"]
SHAPES[2, 1] = [case for case in EVERY if case not in SHAPES[2, 2]]
pytestmark = pytest.mark.slow


def trained(folder, workers, count, cases):
    """What each of the workers saved of its training."""
    ports = ",".join(map(str, processes.free_ports(workers)))
    outs = [folder / f"{workers}x{count}-{i}.npz" for i in range(workers)]
    started = [
        processes.start(SCRIPT, i, ports, count, out, *cases) for i, out in enumerate(outs)
    ]
    for code, said in processes.ended(started):
        assert code == 0, said
    return [np.load(out) for out in outs]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one device saved."""
    return trained(tmp_path_factory.mktemp("one"), 1, 1, EVERY)[0]


@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} x {0[1]}".format)
def test_all_train_and_judge_as_one_device_does(tmp_path, one, shape):
    workers = trained(tmp_path, *shape, SHAPES[shape])
    seeds = np.concatenate([worker["seeds"] for worker in workers])
    np.testing.assert_array_equal(one["seeds"], seeds)
    for case in SHAPES[shape]:
        for worker in workers:
            check_weights(one, worker, case)
            check_replicas(workers[0], worker, case)
            check_logs(one, worker, case)
            check_verdicts(one, worker, case)


def check_weights(one, worker, case):
    assert one[f"{case}/step"] == worker[f"{case}/step"] == replicas.STEPS
    weights = one[f"{case}/weights"], worker[f"{case}/weights"]
    np.testing.assert_allclose(*weights, rtol=0, atol=1e-9, err_msg=case)


def check_replicas(chief, worker, case):
    """They stay equal, and count a ragged rest once."""
    assert worker[f"{case}/apart"] == 0
    weights = chief[f"{case}/weights"], worker[f"{case}/weights"]
    np.testing.assert_array_equal(*weights, err_msg=case)
    accuracy = worker[f"{case}/log/val_accuracy"][-1]
    np.testing.assert_allclose(accuracy, worker[f"{case}/expected"], atol=1e-6)


def check_logs(one, worker, case):
    """Every loss and metric, weighted ones too, is that of one device."""
    logs = [name for name in one.files if name.startswith(f"{case}/log/")]
    wanted = "loss", "gradient_norm", "accuracy", "val_accuracy", "val_loss", "auc", "f1"
    wanted += "val_precision", "vfd_lambda", "val_pgd3_accuracy"
    assert {f"{case}/log/{name}" for name in wanted} <= set(logs)
    for name in logs:
        np.testing.assert_allclose(worker[name], one[name], rtol=1e-6, err_msg=name)


def check_verdicts(one, worker, case):
    expected = one[f"{case}/verdicts"]
    assert 0 < expected.mean() < 1, case
    np.testing.assert_array_equal(worker[f"{case}/verdicts"], expected)
