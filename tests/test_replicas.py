"""One device and two replicas: the same noise, the same weights, the same accuracy."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("replicas.py")
CASES = ["plain", "batch_norm", "weighted", "options"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(replicas, case) -> what that run saved; each runs once."""
    folder, runs = tmp_path_factory.mktemp("replicas"), {}

    def get(replicas, case):
        key = str(replicas), case
        if key not in runs:
            out = folder / f"{'-'.join(key)}.npz"
            command = [sys.executable, SCRIPT, *key, out]
            subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
            runs[key] = np.load(out)
        return runs[key]

    return get


@pytest.mark.slow
def test_replicas_draw_the_noise_of_their_place_in_the_global_batch(trained):
    np.testing.assert_array_equal(
        trained(1, "plain")["seeds"], trained(2, "plain")["seeds"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_replicas_train_to_the_weights_of_one_device(trained, case):
    one, two = trained(1, case), trained(2, case)
    assert one["step"] == two["step"] == 10
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-6)
    np.testing.assert_allclose(one["gradient_norm"], two["gradient_norm"], rtol=1e-6)
    np.testing.assert_allclose(one["weights"], two["weights"], atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_replicas_stay_equal_and_count_a_ragged_rest_once(trained, case):
    run = trained(2, case)
    assert run["apart"] == 0
    np.testing.assert_allclose(run["accuracy"], run["expected"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_metric_of_two_replicas_is_that_of_one_device(trained, case):
    one, two = trained(1, case), trained(2, case)
    logs = [name for name in one.files if name.startswith("log/")]
    assert {"log/accuracy", "log/val_accuracy", "log/val_loss"} <= set(logs)
    assert case != "weighted" or {"log/auc", "log/f1", "log/val_precision"} <= set(logs)
    for name in logs:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6, err_msg=name)
