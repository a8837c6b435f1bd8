"""The mode `evaluate`: a model file in, a table and files out; it resumes and refuses."""

import csv
import hashlib
import json
import shutil
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import InputError, datasets, evaluation, files, noise
from vfd_tf.cli import evaluate, main
from vfd_tf.evaluation import Engine, Journal, protocol, wilson
from vfd_tf.models import folding

ATTACKS = "fgsm,pgd5,mim5,cw:steps=20,autoattack-rand"
COMMON = ("--dataset=digits", "--max_images=48", "--eval_epsilon=0.1")


def linear(seed=0, classes=10):
    """Least squares on the digits, as a classifier: right on most images."""
    train = datasets.load("digits").train
    x = train.floats().reshape(len(train), -1)
    keep = np.random.RandomState(seed).permutation(len(x))[:800]
    x, y = x[keep], np.eye(classes)[train.y[keep]]
    gram = x.T @ x + np.eye(64)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(classes)(L.Flatten()(inputs)))
    model.set_weights([10 * np.linalg.solve(gram, x.T @ y), np.zeros(classes)])
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    linear().save(path)
    return path


def run(path, *words):
    return main.main(["run.py", "--mode=evaluate", f"--model={path}", *COMMON, *words])


def columns(folder, title):
    """Attack -> verdicts of one table of a report."""
    with np.load(folder / "verdicts.npz") as saved:
        prefix = f"{title}|"
        names = [name for name in saved.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): saved[name] for name in names}


def table(folder, title):
    """Attack -> row of one table of a report."""
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {row["attack"]: row for row in rows if row["table"] == title}


def test_an_evaluation_waits_for_another_and_keeps_what_it_found(saved, tmp_path, capsys):
    folder, other = tmp_path / "model.eval", tmp_path / "other"
    assert run(saved, "--eval_attacks=pgd5", f"--eval_dir={other}") == 0
    capsys.readouterr()
    second = threading.Thread(target=run, args=(saved, "--eval_attacks=fgsm"))
    with files.owned(str(folder)):
        second.start()
        printed, end = "", time.monotonic() + 60
        while "another process evaluates it" not in printed and time.monotonic() < end:
            time.sleep(0.1)
            printed += capsys.readouterr().out
        shutil.copytree(other, folder, dirs_exist_ok=True)
    second.join()
    assert "another process evaluates it" in printed
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert {"fgsm", "pgd5"} <= {row["attack"] for row in rows}


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


def test_what_was_evaluated_is_not_evaluated_again(saved, capsys, monkeypatch):
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    before = capsys.readouterr().out
    calls = []
    whole = Engine.examples
    monkeypatch.setattr(
        Engine,
        "examples",
        lambda *a, **more: calls.append(a[1].attack) or whole(*a, **more),
    )
    assert run(saved, "--eval_attacks=fgsm,pgd5,mim3") == 0
    after = capsys.readouterr().out.split("\n")
    known = [x for x in before.split("\n") if x.startswith(("| fgsm", "| pgd5"))]
    assert len(known) == 2
    for line in known:  # the time it took as well
        cells = [cell.strip() for cell in line.split("|")]
        assert cells in [[cell.strip() for cell in other.split("|")] for other in after]
    kinds = [type(attack).__name__ for attack in calls]
    assert "MIM" in kinds and "FGSM" not in kinds


def test_an_evaluation_that_was_killed_goes_on_where_it_stopped(saved, monkeypatch):
    whole, seen = Engine.examples, []

    def killed(self, run, batch, **more):
        seen.append(run)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return whole(self, run, batch, **more)

    monkeypatch.setattr(Engine, "examples", killed)
    assert run(saved, "--eval_attacks=apgd-t:steps=5") == 1
    after, folder = [], saved.with_suffix(".eval")
    monkeypatch.setattr(
        Engine,
        "examples",
        lambda *a, **more: after.append(a[1]) or whole(*a, **more),
    )
    assert run(saved, "--eval_attacks=apgd-t:steps=5") == 0
    ranks = [r.rank for r in after if r.rank]
    assert ranks[0] == seen[2].rank == 4  # the two runs before are not repeated
    resumed = columns(folder, "digits, 48 test images, linf:0.1")["apgd-t:steps=5"]
    monkeypatch.undo()
    test = datasets.load("digits").test[:48]
    fresh = evaluation.evaluate(linear(), test, ["apgd-t:steps=5"], epsilon=0.1)
    np.testing.assert_array_equal(resumed, fresh.robust["apgd-t:steps=5"])


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
    odd = {"two": [z, z], "nameless": {"scores": z}}[outputs]
    keras.Model(model.inputs, odd).save(path)
    assert run(path, "--eval_attacks=fgsm") == 2
    assert "logits" in capsys.readouterr().err


def test_results_of_one_model_accumulate(saved, capsys):
    """Attacks join their table; other counts, radii and seeds stand beside it."""
    folder, one = saved.with_suffix(".eval"), "digits, 48 test images, linf:0.1"
    assert run(saved, "--eval_attacks=fgsm,pgd5,cw:steps=10") == 0
    first = table(folder, one)
    for words in (
        ("--eval_attacks=mim5",),
        ("--eval_attacks=fgsm", "--max_images=12"),
        ("--eval_attacks=fgsm", "--eval_epsilon=0.05"),
        ("--eval_attacks=pgd5", "--eval_seed=3"),
        ("--eval_attacks=fgsm,pgd5", "--eval_batch_size=16"),
    ):
        assert run(saved, *words) == 0
        assert "differ" not in capsys.readouterr().out
    found = table(folder, one)
    for name in ("clean", "fgsm", "pgd5", "cw:steps=10"):
        known, now = (dict(rows[name], seconds=0) for rows in (first, found))
        assert known == now
    test = datasets.load("digits").test[:48]
    names = ["fgsm", "pgd5", "cw:steps=10", "mim5"]
    whole = evaluation.evaluate(linear(), test, names, epsilon=0.1)
    for name, verdict in whole.verdicts().items():
        np.testing.assert_array_equal(columns(folder, one)[name], verdict)
    rows = {row["attack"]: row["accuracy"] for row in whole.rows()}
    assert {name: row["accuracy"] for name, row in found.items()} == rows
    assert list(found)[-2:] == ["worst", "worst of bounded"]
    others = [
        "digits, 12 test images, linf:0.1",
        "digits, 48 test images, linf:0.05",
        "digits, 48 test images, linf:0.1, seed 3",
    ]
    for title in others:
        assert set(table(folder, title)) <= {"clean", "fgsm", "pgd5"}
    text = (folder / "results.md").read_text()
    places = [text.index(f"\n{title}\n") for title in (one, *others)]
    assert places == sorted(places)
    tex = (folder / "results.tex").read_text()
    assert tex.count(r"\toprule") == 4 and f"% {one}\n" in tex
    with open(folder / "results.csv") as file:
        assert {row["table"] for row in csv.DictReader(file)} == {one, *others}


def test_a_row_that_changes_is_told(saved):
    verdicts = {"clean": np.ones(4, bool), "fgsm": np.array([1, 1, 0, 0], bool)}
    known = evaluation.Report()
    found = evaluation.EvaluationResult(verdicts["clean"], {"fgsm": verdicts["fgsm"]}, {})
    assert known.add("t", {}, found) == [] == known.add("t", {}, found)
    found.robust["fgsm"] = np.array([1, 0, 0, 1], bool)
    (note,) = known.add("t", {}, found)
    assert note == (
        "2 of 4 verdicts of fgsm differ from those in the report (t), which are replaced."
    )
    np.testing.assert_array_equal(known.verdicts["t|fgsm"], found.robust["fgsm"])


def test_a_damaged_journal_is_begun_anew_with_a_note(saved, capsys):
    folder = saved.with_suffix(".eval")
    title = "digits, 48 test images, linf:0.1"
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    before = columns(folder, title)
    entries = sorted((folder / "journal").glob("*.npz"))
    assert len(entries) == 2
    entries[0].write_bytes(entries[0].read_bytes()[:200])
    np.savez(entries[1], runs=1, seconds=0.0, open=np.ones(3, bool), sizes=np.ones(0))
    capsys.readouterr()
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    printed = capsys.readouterr().out
    for entry in entries:
        assert f"Note: {entry} is damaged; " in printed
    for name, verdict in columns(folder, title).items():
        np.testing.assert_array_equal(verdict, before[name])
    assert run(saved, "--eval_attacks=fgsm,pgd5") == 0
    assert "is damaged" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, hint",
    [
        ("results.json", '{"tables": ', "can't be read"),
        ("results.json", "[]", "can't be read"),
        ("results.json", '{"rows": []}', "another version"),
        ("verdicts.npz", "no archive", "can't be read"),
    ],
)
def test_a_damaged_report_is_told_before_the_work(saved, capsys, name, content, hint):
    assert run(saved, "--eval_attacks=fgsm") == 0
    folder = saved.with_suffix(".eval")
    (folder / name).write_text(content)
    capsys.readouterr()
    assert run(saved, "--eval_attacks=fgsm") == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().split("\n")
    assert hint in line and f"remove {folder}, or choose another --eval_dir" in line
    assert (folder / name).read_text() == content and "clean" not in printed.out


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


def test_print_shows_the_table_and_the_warnings():
    found = evaluation.evaluate(
        linear(), datasets.load("digits").test[:16], "fgsm", epsilon=0.1
    )
    found.warnings = ["Something is odd."]
    head, _, clean, fgsm, *rest = str(found).split("\n")
    assert "95% interval" in head and "| clean " in clean and "linf:0.1" in fgsm
    assert f" {found.accuracies()['fgsm']:.2f} " in fgsm
    assert rest == ["", "- Warning: Something is odd."]


def test_verdicts_of_other_code_are_not_reused(saved, monkeypatch, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    monkeypatch.setattr(evaluate, "_sources", lambda: "other")
    assert run(saved, "--eval_attacks=fgsm") == 2
    assert "sources other" in capsys.readouterr().err


def test_a_damaged_owner_is_told(saved, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    saved.with_suffix(".eval").joinpath("journal/owner.json").write_text("")
    assert run(saved, "--eval_attacks=fgsm") == 2
    assert "damaged" in capsys.readouterr().err


def test_rounding_of_the_folded_network_decides_no_verdict(monkeypatch):
    """Crafted on a network that calls every image broken from the start."""
    test, whole = datasets.load("digits").test[:48], folding.folded

    def wrong(model):
        function = whole(model)
        shift = tf.constant([[1e3] + 9 * [0.0]])

        def rounded(x):
            outputs = function(x)
            return {**outputs, "logits": outputs["logits"] + shift}

        return rounded

    expected = evaluation.evaluate(linear(), test, "pgd10", epsilon=0.1)
    monkeypatch.setattr(folding, "folded", wrong)
    found = evaluation.evaluate(linear(), test, "pgd10", epsilon=0.1)
    assert expected.robust["pgd10"].sum() < expected.clean.sum()
    keep = test.y != 0  # those of class 0 are never broken in the wrong network's eyes
    np.testing.assert_array_equal(
        found.robust["pgd10"][keep], expected.robust["pgd10"][keep]
    )


def test_a_model_of_other_images_or_classes_is_refused(tmp_path, capsys):
    inputs = keras.Input((8, 8, 1))
    path = tmp_path / "three.keras"
    keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs))).save(path)
    assert run(path, "--eval_attacks=fgsm") == 2
    error = capsys.readouterr().err
    assert "3 classes" in error and "digits has (8, 8, 1) and 10" in error


def test_a_folder_of_another_model_is_refused_and_kept(saved, tmp_path, capsys):
    assert run(saved, "--eval_attacks=fgsm") == 0
    results = (tmp_path / "model.eval/results.json").read_text()
    other = tmp_path / "other.keras"
    linear(1).save(other)
    folder = f"--eval_dir={tmp_path / 'model.eval'}"
    assert run(other, folder, "--eval_attacks=fgsm") == 2
    error = capsys.readouterr().err
    assert "model_sha256" in error and "another --eval_dir" in error
    assert (tmp_path / "model.eval/results.json").read_text() == results


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


def test_what_is_transferred_knows_the_surrogate_alone():
    """On KL, too, whose clean logits are then the surrogate's own."""
    test, other = datasets.load("digits").test[:48], linear(1)
    found = evaluation.evaluate(
        linear(), test, ["pgd3-kl"], epsilon=0.1, surrogate=other, examples=True
    )
    seeds = noise.example_seeds(0, 0, np.arange(48))
    x = tf.constant(test.floats())
    expected = protocol("pgd3-kl", 0.1)(other, x, test.y, seeds)
    x_adv = found.examples["transfer-pgd3-kl"]
    np.testing.assert_allclose(x_adv, expected, 0, 1e-6)


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


def test_models_of_other_ranges_are_attacked_in_theirs():
    """The same network, once for [0, 1] and once for [-1, 1]: the same verdicts."""
    model, test = linear(), datasets.load("digits").test[:48]
    kernel, bias = model.get_weights()
    other = linear()
    other.set_weights([kernel / 2, bias + kernel.sum(0) / 2])
    x, y = test.floats(), test.y
    names = "fgsm", "pgd5", "apgd-ce:steps=5", "fab-t:steps=5"
    one = evaluation.evaluate(model, (x, y), names, epsilon=0.1)
    two = evaluation.evaluate(other, (2 * x - 1, y), names, epsilon=0.1, bounds=(-1, 1))
    for name, verdict in one.verdicts().items():
        assert (verdict != two.verdicts()[name]).sum() <= 1  # rounding


def test_early_stop_changes_no_verdict():
    test = datasets.load("digits").test[:48]
    names = "pgd10", "mim10", "apgd-ce:steps=20", "square:queries=150"
    stopped = evaluation.evaluate(linear(), test, names, epsilon=0.1)
    ended = evaluation.evaluate(linear(), test, names, epsilon=0.1, early_stop=False)
    assert 0 < stopped.robust["pgd10"].mean() < stopped.clean.mean()
    for name, verdict in stopped.verdicts().items():
        np.testing.assert_array_equal(verdict, ended.verdicts()[name])


def test_the_batch_size_changes_no_verdict():
    test = datasets.load("digits").test[:40]
    names = "pgd10", "apgd-t:steps=10", "square:queries=100", "fab-t:steps=10"
    one = evaluation.evaluate(linear(), test, names, epsilon=0.1, batch_size=64)
    two = evaluation.evaluate(linear(), test, names, epsilon=0.1, batch_size=16)
    for name, verdict in one.verdicts().items():
        np.testing.assert_array_equal(verdict, two.verdicts()[name])


def test_batches_have_few_sizes_and_none_is_of_0_images():
    target, sizes, traces = Engine(linear(), batch_size=32), set(), []

    def spy(x):
        traces.append(x.shape[0])
        tf.py_function(lambda n: sizes.add(int(n)), [tf.shape(x)[0]], [])
        return {"x": x}

    for count in [*range(1, 100), *range(99, 0, -1)]:
        x = np.random.rand(count, 2)
        np.testing.assert_array_equal(target.runner.run("spy", spy, {"x": x})["x"], x)
    assert sizes == {8, 12, 16, 24, 32}
    assert len(traces) <= 2


def test_a_target_takes_images_of_several_sizes():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    logits = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    target, random = Engine(keras.Model(inputs, logits), batch_size=8), np.random.rand
    for size in (16, 20):
        for attack in ("pgd2", "square:queries=3"):
            data = random(9, size, size, 3).astype("float32"), np.arange(9) % 5
            assert len(target.correct(data, attack)) == 9


def test_crafting_in_bfloat16_is_judged_in_float32():
    test = datasets.load("digits").test[:48]
    # The same function, with a layer between its ends to compute in bfloat16.
    eyes = [L.Dense(64, kernel_initializer="identity") for _ in range(2)]
    one = linear()
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), *eyes, one.layers[-1]])
    full = evaluation.evaluate(model, test, ["pgd10"], epsilon=0.1, examples=True)
    half = evaluation.evaluate(
        model, test, ["pgd10"], epsilon=0.1, craft_precision="mixed_bfloat16", examples=True
    )
    x_adv, y = half.examples["pgd10"], test.y
    right = model.predict(x_adv, verbose=0).argmax(-1) == y
    np.testing.assert_array_equal(half.robust["pgd10"], right & half.clean)
    assert abs(int(full.robust["pgd10"].sum()) - int(right.sum())) <= 3


@pytest.mark.parametrize(
    "successes, count, low, high",
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_the_interval_is_wilson_s(successes, count, low, high):
    # Values of the usual tables of Wilson's interval, Newcombe 1998.
    np.testing.assert_allclose(wilson(successes, count), (low, high), 0, 1e-4)


def test_protocols_say_what_they_run():
    assert protocol("cw").attack.c == 1 and protocol("cw").threat == "l2, unbounded"
    assert protocol("cw_search").attack.search_steps == 9
    assert protocol("cw_linf", 0.1).objective == "margin"
    assert protocol("mim").attack.steps == 20 and protocol("mim7").attack.steps == 7
    assert protocol("pgd20-kl").objective == "kl"
    settings = protocol("pgd20:restarts=3:step_size=1/255", 0.1).attack
    assert (settings.restarts, settings.step_size, settings.epsilon) == (3, 1 / 255, 0.1)
    (runs,) = protocol("pgd20:restarts=3").stages(10).values()
    assert [run.stream for run in runs] == [None, 1, 2]
    assert protocol("pgd20:epsilon=1/255:norm=l2").threat == "l2:1/255"
    plus = protocol("autoattack-plus", 0.5, "l2")
    assert plus.threat == "l2:0.5"
    stages = {name: len(runs) for name, runs in plus.stages(10).items()}
    assert stages == {
        "apgd-ce": 5, "apgd-dlr": 5, "fab": 5, "square": 1, "apgd-t": 9, "fab-t": 9
    }  # fmt: skip
    rand = protocol("autoattack-rand").stages(10)
    assert all(run.attack.eot == 20 for runs in rand.values() for run in runs)


def test_a_journal_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="no evaluation"):
        Journal(str(tmp_path), {}, {})
