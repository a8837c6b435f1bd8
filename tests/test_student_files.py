"""Files of students give the network back, also without this package."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tappable import SHAPE, images

from vfd_tf import InputError
from vfd_tf.models import network
from vfd_tf.models.architectures import ARCHITECTURES


@pytest.mark.parametrize(
    "name, suffix",
    [("resnet8", "keras"), ("resnet8", "h5"), ("preact_resnet18", "keras")],
)
def test_a_student_file_gives_the_dict_back(name, suffix, tmp_path):
    model = ARCHITECTURES[name](SHAPE, 4, width=0.1, mean=0.4, variance=0.1)
    path = str(tmp_path / f"student.{suffix}")
    network.classifier(model).save(path)
    loaded = network.tap(network.load(path), list(model.output))
    expected, got = model(images()), loaded(images())
    assert set(got) == set(expected)
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], rtol=1e-5, atol=1e-6)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model file"):
        network.load(str(tmp_path / "none.keras"))
    for name, message in (("a.keras", "damaged or cut short"), ("a.h5", "can't be read")):
        broken = tmp_path / name
        broken.write_bytes(b"neither a zip nor HDF5")
        with pytest.raises(InputError, match=message) as refusal:
            network.load(str(broken))
        assert "\n" not in str(refusal.value)


SCRIPT = """
import json, os, sys
os.chdir(sys.argv[1])
import keras
import numpy as np
x, y = np.load("x.npy"), np.load("y.npy")
losses = {}
for name in json.load(open("names.json")):
    model = keras.saving.load_model(name + ".keras")
    np.save(name + ".npy", model.predict(x, verbose=0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    losses[name] = model.evaluate(x, y, verbose=0)
assert "vfd_tf" not in sys.modules
json.dump(losses, open("losses.json", "w"))
"""


@pytest.mark.slow
def test_student_files_work_in_a_process_without_this_package(tmp_path):
    x, y = images(6), np.array([0, 1, 2, 3, 0, 1])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "names.json").write_text(json.dumps(list(ARCHITECTURES)))
    expected = {}
    for name, build in ARCHITECTURES.items():
        model = build(SHAPE, 4, width=0.05, mean=0.4, variance=0.1)
        network.classifier(model).save(tmp_path / f"{name}.keras")
        expected[name] = model(x, training=False)["logits"].numpy().astype("float64")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        env={**environment, "KERAS_BACKEND": "tensorflow"},
        check=True,
    )
    losses = json.loads((tmp_path / "losses.json").read_text())
    for name, z in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), z, 1e-4, 1e-4)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        assert losses[name][0] == pytest.approx(-log_p[range(6), y].mean(), rel=1e-3)
        assert losses[name][1] == pytest.approx((z.argmax(-1) == y).mean(), abs=1e-6)
