"""Runs of own architectures, of backbones by name, and from weights: the command line."""

import glob
import json
import pathlib

from vfd_tf.cli import main
from vfd_tf.experiments import fitting

# isort: split

import keras
import numpy as np
import pytest
import tiny

L = keras.layers
SMALL = (
    *(
        "--method=trades",
        "--epsilon=0.2",
        "--pgd_steps=1",
        "--epochs=2",
        "--schedule=cosine",
    ),
    *("--batch_size=256", "--learning_rate=0.05", "--eval_attacks=fgsm", "--max_images=32"),
)


def network(classes=10, shape=(8, 8, 1)):
    x = inputs = keras.Input(shape)
    for layer in (L.Conv2D(8, 3, activation="relu", name="features"), L.Dropout(0.2)):
        x = layer(x)
    x = L.Dense(16, name="hidden")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(classes, name="head")(x), name="mine")


@pytest.fixture
def path(tmp_path):
    network().save(tmp_path / "mine.keras")
    return str(tmp_path / "mine.keras")


def run(*words):
    return main.main(["run.py", *SMALL, *words])


def folder(root, pattern):
    (found,) = glob.glob(f"{root}/{pattern}")
    return pathlib.Path(found)


def student(folder, which="last"):
    return keras.saving.load_model(folder / f"{which}.keras")


@pytest.mark.slow
def test_a_file_is_student_teacher_and_surrogate(path, tmp_path, capsys, monkeypatch):
    words = "--dataset=digits", f"--arch={path}", f"--runs={tmp_path / 'runs'}"
    assert run(*words, "--vfd_layer=features") == 0
    one = folder(tmp_path, "runs/digits-mine-trades-vfd-*")
    teacher = folder(tmp_path, "runs/digits-mine-natural-none-*")
    assert [la.name for la in student(one).layers][1] == "features"
    assert main.main(["run.py", "info", str(one)]) == 0
    assert "mine sha256:" in capsys.readouterr().out
    attacked = "evaluate", str(one), "--dataset=digits", "--max_images=32"
    attacked += "--eval_attacks=fgsm", "--eval_epsilon=0.2", "--surrogate=auto"
    attacked += f"--surrogate_arch={path}", "--epochs=2", "--schedule=cosine"
    attacked += "--batch_size=256", "--learning_rate=0.05", f"--runs={tmp_path / 'runs'}"
    assert main.main(["run.py", *attacked]) == 0
    out = capsys.readouterr().out
    assert f"{teacher}: complete" in out and "transfer-fgsm" in out
    monkeypatch.setattr(fitting, "train", None)
    replay = f"--flagfile={one / 'flags.txt'}", f"--runs={tmp_path / 'runs'}"
    assert main.main(["run.py", *replay, "--eval_attacks=fgsm", "--max_images=32"]) == 0
    assert f"{one}: complete" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_with_dropout_continues_to_the_same_bits(path, tmp_path, monkeypatch):
    words = "--dataset=digits", f"--arch={path}", "--distill=none"
    assert run(*words, f"--runs={tmp_path / 'whole'}") == 0
    tiny.interrupt_behind(monkeypatch, 1)
    assert run(*words, f"--runs={tmp_path / 'halves'}") == 1
    monkeypatch.undo()
    assert run(*words, f"--runs={tmp_path / 'halves'}") == 0
    nets = [student(folder(tmp_path, f"{name}/*")) for name in ("whole", "halves")]
    for one, other in zip(*(net.get_weights() for net in nets), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 7])
def test_student_and_teacher_start_from_the_file(path, tmp_path, capsys, classes):
    """With a learning rate of 0 they are what they started from."""
    init = network(classes)
    init.save(tmp_path / "init.keras")
    words = "--dataset=digits", f"--arch={path}", f"--init={tmp_path / 'init.keras'}"
    words += f"--runs={tmp_path / 'runs'}", "--learning_rate=0", "--vfd_layer=features"
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert out.count("starts from") == 1
    assert ("drawn anew: head" in out) == (classes == 7)
    heads = []
    for method in ("trades-vfd", "natural-none"):
        one = folder(tmp_path, f"runs/digits-mine-{method}-*")
        for name in ("features", "hidden"):
            pair = (m.get_layer(name).get_weights() for m in (student(one), init))
            assert all(np.array_equal(a, b) for a, b in zip(*pair, strict=True))
        heads.append(student(one).get_layer("head").get_weights()[0])
        mark = json.loads((one / "run.json").read_text())["identity"]["init"]
        assert mark.startswith("sha256:")
    assert np.array_equal(*heads) == (classes == 10)  # another seed draws another head
    assert main.main(["run.py", "info", str(one)]) == 0
    assert f"starts from {mark}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_backbone_of_keras_runs_by_name(tmp_path, capsys):
    random = np.random.RandomState(0)
    y = random.randint(0, 3, 60)
    x = random.randint(0, 256, (60, 32, 32, 3), "uint8")
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    words = f"--dataset=npz:{tmp_path / 'd.npz'}", "--arch=keras:MobileNetV2"
    words += "--width=0.35", "--vfd_layer=block_13_expand_relu", "--batch_size=16"
    words += "--nonormalize", "--epochs=1", f"--runs={tmp_path / 'runs'}"
    words += "--method=natural", "--eval_attacks="
    with pytest.warns(UserWarning, match="--normalize has no effect"):
        assert run(*words) == 0
    one = folder(tmp_path, "runs/*-keras-MobileNetV2-natural-vfd-*")
    model = student(one)
    assert model(x[:2] / 255.0).shape == (2, 3)
    assert main.main(["run.py", "info", str(one / "last.keras")]) == 0
    assert "out_relu" in capsys.readouterr().out
