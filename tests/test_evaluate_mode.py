"""The mode `evaluate`: a model file in, a table and files out; what it refuses."""

import csv
import hashlib
import json

import evaluations
import keras
import numpy as np
import pytest
from evaluations import columns, linear, run
from keras import layers as L

import vfd_tf
from vfd_tf import datasets
from vfd_tf.cli import main

ATTACKS = "fgsm,pgd5,mim5,cw:steps=20,autoattack-rand"
saved = evaluations.saved


def test_one_command_prints_a_table_and_writes_it_four_times(saved, capsys, tmp_path):
    examples = tmp_path / "examples.npz"
    words = f"--eval_attacks={ATTACKS}", f"--save_adversarial={examples}"
    assert run(saved, *words, "--referee=cleverhans") == 0
    printed, folder = capsys.readouterr().out, tmp_path / "model.eval"
    assert (folder / "results.md").read_text().strip() in printed
    results = json.loads((folder / "results.json").read_text())
    rows = {row["attack"]: row for row in results["rows"]}
    assert {"clean", "worst", *ATTACKS.split(",")} <= set(rows)
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows.values())
    assert rows["cw:steps=20"]["mean_distance"] > 0 and rows["fgsm"]["seconds"] > 0
    assert rows["pgd5"]["threat"] == "linf:0.1" and rows["pgd5"]["images"] == 48
    assert {"command", "attacks", "tensorflow", "git_commit"} <= set(results)
    assert len(results["owner"]["model_sha256"]) == 64
    for entry in results["referee"].values():
        assert entry["verdicts_that_differ"] == 0
        assert entry["ours"] == entry["cleverhans"]
    assert set(results["referee"]) == {"fgsm", "pgd5", "mim5"}
    with open(folder / "results.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in table] == [
        row["accuracy"] for row in results["rows"]
    ]
    tex = (folder / "results.tex").read_text()
    assert r"\toprule" in tex and r"accuracy (\%)" in tex
    assert tex.count(r"\\") == 1 + len(results["rows"])
    verdicts = columns(folder, "digits, 48 test images, linf:0.1")
    with np.load(examples) as arrays:
        model, x, y = linear(), arrays["x"], arrays["y"]
        for name in ATTACKS.split(","):
            x_adv = arrays[f"x_adv/{name}"]
            wrong = model.predict(x_adv, verbose=0).argmax(-1) != y
            broken = verdicts["clean"] & ~verdicts[name]
            assert wrong[broken].all() and x_adv.min() >= 0 and x_adv.max() <= 1
            if not name.startswith("cw"):
                assert np.abs(x_adv - x).max() <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "words, hint",
    [
        (("--model=nothing.keras",), "no model file"),
        (("--model=setup.py",), "can't be read as a Keras model"),
        (("--dataset=cifar10:",), "Unknown data set"),
        (("--eval_epsilon=8",), "8/255"),
        (("--eval_attacks=autoatack",), "Did you mean 'autoattack'"),
        (("--eval_attacks=pgd20:step=2",), "Did you mean 'steps'"),
        (("--eval_attacks=pgd20:steps=many",), "'many'"),
        (("--eval_attacks=pgd20:restarts",), "write name=value"),
        (("--eval_attacks=n-fgsm",), "for training alone"),
        (("--eval_attacks=pgd5:norm=l2",), "pgd5:norm=l2:epsilon=0.5"),
        (("--save_adversarial=nowhere/x.npz",), "no folder nowhere"),
        (("--save_adversarial=.",), "can't be written: name a file"),
    ],
)
def test_bad_input_is_one_sentence(saved, capsys, words, hint):
    assert run(saved, *words) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("error: ") and hint in line


@pytest.mark.parametrize("norm", ["norm", "eval_norm"])
def test_another_norm_needs_a_radius(saved, capsys, norm):
    words = ["run.py", "evaluate", f"--model={saved}", "--dataset=digits", "--max_images=9"]
    words += [f"--{norm}=l2", "--eval_attacks=fgsm"]
    assert main.main(words) == 2
    assert "needs a radius" in capsys.readouterr().err
    assert main.main([*words, "--eval_epsilon=0.5"]) == 0
    assert "l2:0.5" in capsys.readouterr().out


def test_files_of_layers_that_keras_does_not_have_say_where_to_go(tmp_path, capsys):
    class Twice(L.Layer):
        def call(self, x):
            return 2 * x

    inputs, path = keras.Input((8, 8, 1)), tmp_path / "odd.keras"
    for layer, hint in (Twice(), "'Twice'"), (L.Lambda(lambda x: 2 * x), "Lambda layer"):
        keras.Model(inputs, L.Dense(10)(L.Flatten()(layer(inputs)))).save(path)
        assert run(path, "--eval_attacks=fgsm") == 2
        (line,) = capsys.readouterr().err.strip().split("\n")
        assert hint in line and "evaluation.evaluate" in line


@pytest.mark.parametrize("outputs", ["two", "nameless"])
def test_files_without_logits_are_refused(tmp_path, capsys, outputs):
    model, path = linear(), tmp_path / "odd.keras"
    z = model.output
    odd = {"two": [z, z], "nameless": {"scores": z, "again": z}}[outputs]
    keras.Model(model.inputs, odd).save(path)
    assert run(path, "--eval_attacks=fgsm") == 2
    assert "logits" in capsys.readouterr().err


def test_a_place_that_is_no_folder_is_refused(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert run(saved, "--eval_attacks=fgsm", f"--eval_dir={tmp_path / 'file'}") == 2
    assert "another --eval_dir" in capsys.readouterr().err


def test_a_run_directory_stands_for_its_best_student(saved, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    assert run(folder, "--eval_attacks=fgsm") == 2
    assert "no best.keras yet" in capsys.readouterr().err
    (folder / "best.keras").write_bytes(saved.read_bytes())
    assert run(folder, "--eval_attacks=fgsm") == 0
    assert (
        f"{folder} is a run directory: its best.keras is taken." in capsys.readouterr().out
    )
    results = json.loads((folder / "best.eval/results.json").read_text())
    sha = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert results["owner"]["model_sha256"] == sha


def test_a_saved_model_is_judged_as_the_model_it_was_exported_from(saved, tmp_path, capsys):
    linear().export(tmp_path / "v1.0", verbose=False)
    for path in (saved, tmp_path / "v1.0"):
        assert run(path, "--eval_attacks=fgsm,pgd5") == 0
    title = "digits, 48 test images, linf:0.1"
    one, two = (columns(tmp_path / n, title) for n in ("model.eval", "v1.0.eval"))
    assert set(one) == {"clean", "fgsm", "pgd5"}
    for name, verdict in one.items():
        np.testing.assert_array_equal(two[name], verdict)
    linear(1).export(tmp_path / "v1.0", verbose=False)
    assert run(tmp_path / "v1.0", "--eval_attacks=fgsm") == 2
    assert "model_sha256" in capsys.readouterr().err


def test_models_of_images_without_channels_are_evaluated(tmp_path):
    model = keras.Sequential([keras.Input((8, 8)), L.LSTM(8), L.Dense(10)])
    model.save(tmp_path / "rows.keras")
    assert run(tmp_path / "rows.keras", "--eval_attacks=fgsm") == 0
    test = datasets.load("digits").test[:48]
    right = model.predict(test.floats()[..., 0], verbose=0).argmax(-1) == test.y
    found = columns(tmp_path / "rows.eval", "digits, 48 test images, linf:0.1")
    np.testing.assert_array_equal(found["clean"], right)


def test_test_images_are_enough_and_a_model_may_know_more_classes(saved, tmp_path, capsys):
    test = datasets.load("digits").test
    kept = test[test.y < 7][:40]
    np.savez(tmp_path / "seven.npz", x_test=kept.x, y_test=kept.y)
    words = f"--dataset=npz:{tmp_path / 'seven.npz'}", "--eval_attacks=fgsm"
    assert run(saved, *words) == 0
    printed = capsys.readouterr().out
    assert "has 10 classes and" in printed and "which are taken for" in printed
    assert "logits, and the labels" not in printed  # it is said once
    results = json.loads((tmp_path / "model.eval/results.json").read_text())
    right = linear().predict(kept.floats(), verbose=0).argmax(-1) == kept.y
    (row,) = [row for row in results["rows"] if row["attack"] == "clean"]
    assert row["accuracy"] == pytest.approx(100 * right.mean())
    assert row["images"] == 40
    assert main.main(["run.py", *words[:1], "--epochs=1", "--arch=resnet8"]) == 2
    assert "test images alone; save x_train" in capsys.readouterr().err


def test_a_warning_of_many_logits_replaces_the_note(saved, tmp_path, capsys):
    test = datasets.load("digits").test
    kept = test[test.y < 4][:40]
    np.savez(tmp_path / "four.npz", x_test=kept.x, y_test=kept.y)
    words = f"--dataset=npz:{tmp_path / 'four.npz'}", "--eval_attacks=fgsm"
    assert run(saved, *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The model has 10 logits, and the labels of 40 images are 0 to 3" in printed
    assert "which are taken for" not in printed


def test_a_model_of_another_range_is_attacked_in_its_own(saved, tmp_path, capsys):
    """The same classifier for [-1, 1]: the same verdicts, and examples in [-1, 1]."""
    kernel, bias = linear().get_weights()
    other = linear()
    other.set_weights([kernel / 2, bias + kernel.sum(0) / 2])
    other.save(tmp_path / "other.keras")
    path = tmp_path / "x.npz"
    words = "--eval_attacks=fgsm", f"--save_adversarial={path}"
    assert run(saved, *words) == 0
    with np.load(path) as arrays:
        x, x_adv = arrays["x"], arrays["x_adv/fgsm"]
    assert run(tmp_path / "other.keras", *words, "--bounds=-1,1") == 0
    with np.load(path) as arrays:
        np.testing.assert_allclose(arrays["x"], 2 * x - 1, 0, 1e-6)
        np.testing.assert_allclose(arrays["x_adv/fgsm"], 2 * x_adv - 1, 0, 1e-6)
    title = "digits, 48 test images, linf:0.1"
    one = columns(tmp_path / "model.eval", title)
    two = columns(tmp_path / "other.eval", f"{title}, images in [-1, 1]")
    assert {n: v.tolist() for n, v in one.items()} == {
        n: v.tolist() for n, v in two.items()
    }
    for text in ("1,-1", "0", "low,high", "0,1,2"):
        assert run(saved, *words, f"--bounds={text}") == 2
        assert "two numbers" in (error := capsys.readouterr().err) or "rise" in error


def test_a_model_of_other_images_or_classes_is_refused(tmp_path, capsys):
    inputs = keras.Input((8, 8, 1))
    path = tmp_path / "three.keras"
    keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs))).save(path)
    assert run(path, "--eval_attacks=fgsm") == 2
    error = capsys.readouterr().err
    assert "3 classes" in error and "digits has (8, 8, 1) and 10" in error


def test_logits_that_are_not_finite_are_refused(tmp_path, capsys):
    model = linear()
    kernel, bias = model.get_weights()
    model.set_weights([kernel, bias + np.nan])
    model.save(tmp_path / "nan.keras")
    assert run(tmp_path / "nan.keras", "--eval_attacks=fgsm") == 2
    assert "not finite" in capsys.readouterr().err


def test_a_softmax_is_refused_or_warned_of(tmp_path, capsys):
    model = linear()
    soft = keras.Model(model.inputs, L.Softmax()(model.output))
    soft.save(tmp_path / "soft.keras")
    assert run(tmp_path / "soft.keras", "--eval_attacks=fgsm") == 2
    assert "softmax" in capsys.readouterr().err
    assert run(tmp_path / "soft.keras", "--eval_attacks=fgsm", "--nostrict") == 0
    assert "Warning: The model" in capsys.readouterr().out
    results = json.loads((tmp_path / "soft.eval/results.json").read_text())
    assert "softmax" in results["warnings"][0]


def test_a_surrogate_adds_columns_of_examples_that_were_crafted_on_it(saved, tmp_path):
    other = tmp_path / "other.keras"
    linear(1).save(other)
    words = "--eval_attacks=fgsm,pgd10", f"--surrogate={other}"
    assert run(saved, *words, f"--save_adversarial={tmp_path / 'x.npz'}") == 0
    test = datasets.load("digits").test[:48]
    results = json.loads((tmp_path / "model.eval/results.json").read_text())
    (title,) = results["tables"]
    verdicts = columns(tmp_path / "model.eval", title)
    with np.load(tmp_path / "x.npz") as arrays:
        x, y = test.floats(), test.y
        # FGSM of a linear classifier, by hand: the sign of its own input gradient.
        kernel, bias = linear(1).get_weights()
        z = x.reshape(48, -1) @ kernel + bias
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        gradient = (p - np.eye(10)[y]) @ kernel.T
        x_adv = np.clip(x + 0.1 * np.sign(gradient).reshape(x.shape), 0, 1)
        np.testing.assert_allclose(arrays["x_adv/transfer-fgsm"], x_adv, 0, 1e-6)
        right = linear().predict(x_adv, verbose=0).argmax(-1) == y
        expected = right & verdicts["clean"]
        np.testing.assert_array_equal(verdicts["transfer-fgsm"], expected)
        assert verdicts["pgd10"].sum() <= verdicts["transfer-pgd10"].sum()
    surrogate = results["surrogate"]
    right = linear(1).predict(test.floats(), verbose=0).argmax(-1) == test.y
    assert surrogate["accuracy"] == pytest.approx(100 * right.mean())
    assert surrogate["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()


def test_a_black_box_column_alone_is_made_on_the_surrogate_that_is_named(saved, tmp_path):
    test, folder = datasets.load("digits").test[:48], tmp_path / "model.eval"
    for seed in (1, 2):
        other = tmp_path / f"{seed}.keras"
        linear(seed).save(other)
        words = "--eval_attacks=transfer-pgd5", f"--surrogate={other}"
        for _ in range(2):
            assert run(saved, *words) == 0
        (title,) = [
            name
            for name in json.loads((folder / "results.json").read_text())["tables"]
            if hashlib.sha256(other.read_bytes()).hexdigest()[:8] in name
        ]
        found = columns(folder, title)
        # The same images by `perturb`, which has no surrogate: made on that network itself.
        x_adv = vfd_tf.perturb(linear(seed), test.floats(), test.y, "pgd5", epsilon=0.1)
        right = linear().predict(x_adv, verbose=0).argmax(-1) == test.y
        assert set(found) == {"clean", "transfer-pgd5"}
        np.testing.assert_array_equal(found["transfer-pgd5"], right & found["clean"])
    assert len([*(folder / "journal").glob("*.npz")]) == 2


def test_a_table_says_which_examples_a_precision_made(tmp_path):
    layers = L.Flatten(), L.Dense(16), L.Dense(16), L.Dense(16), L.Dense(10)
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save(tmp_path / "deep.keras")
    linear().save(tmp_path / "other.keras")  # has no layer that could compute in bfloat16
    words = "--eval_attacks=fgsm", "--craft_precision=mixed_bfloat16"
    surrogate = f"--surrogate={tmp_path / 'other.keras'}"
    for more in ((), (surrogate,)):
        assert run(tmp_path / "deep.keras", *words, *more) == 0
    folder = tmp_path / "deep.eval"
    one, two = json.loads((folder / "results.json").read_text())["tables"]
    assert one.endswith(", crafted in mixed_bfloat16")
    assert ", crafted in mixed_bfloat16 but for transfer-, surrogate " in two


@pytest.mark.slow
def test_an_automatic_surrogate_is_trained_once(saved, tmp_path, capsys):
    words = (
        *("--eval_attacks=fgsm", "--surrogate=auto", "--surrogate_arch=resnet8"),
        *("--epochs=1", "--schedule=constant", f"--runs={tmp_path}/runs"),
    )
    assert run(saved, *words) == 0
    assert "from epoch 0 to 1" in capsys.readouterr().out
    assert run(saved, *words) == 0
    assert "complete" in capsys.readouterr().out
