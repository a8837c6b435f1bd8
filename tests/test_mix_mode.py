"""The mode `mix`: two files in, files of both as one out, and what mix.json says."""

import json
import re
import shlex

import keras
import numpy as np
import pytest
import tiny

from vfd_tf import datasets, evaluation, files, mixture
from vfd_tf.cli import main, mix
from vfd_tf.models import network

L = keras.layers
FILES = "vanilla.keras", "robust.keras"


def linear(seed):
    """Least squares on some of the digits, of one architecture: right on most of them."""
    train = datasets.load("digits").train
    keep = np.random.default_rng(seed).permutation(len(train))[:120]
    x, y = train.floats()[keep].reshape(len(keep), -1), np.eye(10)[train.y[keep]]
    weights = np.linalg.solve(x.T @ x + np.eye(64), x.T @ y)
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(10)])
    model.set_weights([10 * weights, np.zeros(10)])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two networks of the digits, and others that don't fit."""
    folder = tmp_path_factory.mktemp("mix")
    for seed, name in enumerate(FILES):
        linear(seed).save(folder / name)
    deep = [L.Conv2D(2, 3, activation="relu"), L.Flatten(), L.Dense(10)]
    keras.Sequential([keras.Input((8, 8, 1)), *deep]).save(folder / "deep.keras")
    tiny.model().save(folder / "small.keras")
    return folder


def run(folder, out, *words, networks=FILES):
    paths = [str(folder / name) for name in networks]
    return main.main(["run.py", "mix", *paths, f"--mix_dir={out}", *words])


def told(out):
    return json.loads((out / mix.FILE).read_text())


@pytest.mark.parametrize(
    "kind, join",
    [("probabilities", mixture.mixture), ("weights", mixture.interpolation)],
)
def test_a_file_for_every_weight(kind, join, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = f"--mix_kind={kind}", "--mix_weights=0.25,0.9,0.25", "--dataset=digits"
    assert run(folder, out, *words) == 0
    names = [f"{kind}-0.25.keras", f"{kind}-0.9.keras"]
    assert sorted(path.name for path in out.iterdir()) == sorted([mix.FILE, *names])
    pair = [network.load(str(folder / name)) for name in FILES]
    x = datasets.load("digits").test.floats()[:20]
    for name, weight in zip(names, (0.25, 0.9), strict=True):
        found = network.load(str(out / name))(x)
        np.testing.assert_array_equal(found, join(*pair, weight)(x))
        entry = told(out)[name]
        assert (entry["kind"], entry["weight"]) == (kind, weight)
        assert entry["sha256"] == files.sha256(str(out / name))
        assert entry["robust"]["sha256"] == files.sha256(str(folder / "robust.keras"))
    assert not re.search("part|lock", " ".join(path.name for path in out.iterdir()))


def test_nuts_are_fitted_on_the_validation_split(folder, tmp_path, capsys):
    words = "--mix_kind=nuts", "--mix_kept=0.95,0.8", "--dataset=digits", "--epsilon=0.05"
    assert run(folder, tmp_path, *words, "--mix_attack=pgd5") == 0
    data, robust = datasets.load("digits"), network.load(str(folder / "robust.keras"))
    x, y = data.validation.floats(), data.validation.y
    moved = evaluation.perturb(robust, x, y, "pgd5", epsilon=0.05)
    clean, attacked = (robust(images).numpy() for images in (x, moved))
    out = capsys.readouterr().out
    for kept in (0.95, 0.8):
        entry = told(tmp_path)[f"nuts-{kept}.keras"]
        fit = mixture.fit_nuts(clean, attacked, y, kept=kept)
        assert {key: entry[key] for key in vars(fit)} == pytest.approx(vars(fit), rel=1e-4)
        assert entry["kept"] >= kept == entry["asked"] and f"{fit.alpha:.6g}" in out
        assert (entry["images"], entry["validation_data"]) == (
            len(y),
            data.validation.digest,
        )
        own = mixture.mixed_nuts(
            network.load(str(folder / "vanilla.keras")), robust, **fit.numbers
        )
        saved = network.load(str(tmp_path / f"nuts-{kept}.keras"))
        np.testing.assert_allclose(saved(x), own(x), rtol=1e-3, atol=1e-3)


def test_the_printed_commands_evaluate_the_files(folder, tmp_path, capsys):
    words = ("--mix_weights=0.5", "--dataset=digits", "--eval_attacks=fgsm")
    assert run(folder, tmp_path, *words, "--max_images=16", "--epsilon=8/255") == 0
    (line,) = re.findall(r"^python (run.py evaluate .+)$", capsys.readouterr().out, re.M)
    assert main.main(shlex.split(line)) == 0
    results = json.loads((tmp_path / "probabilities-0.5.eval" / "results.json").read_text())
    assert [row["attack"] for row in results["rows"]] == ["clean", "fgsm"]
    assert {row["images"] for row in results["rows"]} == {16}


def test_mixednuts_are_to_be_attacked_by_more_than_pgd(folder, tmp_path, capsys):
    words = "--mix_kind=nuts", "--dataset=digits", "--epsilon=0.05", "--mix_attack=pgd2"
    assert run(folder, tmp_path, *words) == 0
    assert f"autoattack --surrogate={folder / 'robust.keras'}" in capsys.readouterr().out
    assert run(folder, tmp_path, *words, "--eval_attacks=fgsm") == 0
    assert "surrogate" not in capsys.readouterr().out


def test_files_of_several_commands_share_a_folder(folder, tmp_path):
    for words in (["--mix_weights=0.5"], ["--mix_kind=weights", "--mix_weights=0,1"]):
        assert run(folder, tmp_path, *words) == 0
    names = ["probabilities-0.5.keras", "weights-0.keras", "weights-1.keras"]
    assert sorted(told(tmp_path)) == names


def test_of_a_run_directory_the_best_student_is_taken(tmp_path, capsys):
    tiny.written(tmp_path)
    assert tiny.train(tmp_path) == 0
    capsys.readouterr()
    out, networks = tmp_path / "out", ("net.keras", "run")
    assert run(tmp_path, out, "--mix_weights=0.5", networks=networks) == 0
    assert "its best.keras is taken" in capsys.readouterr().out
    entry = told(out)["probabilities-0.5.keras"]
    assert entry["robust"]["file"] == str(tmp_path / "run" / "best.keras")


@pytest.mark.parametrize(
    "words, networks, sentence",
    [
        ([], FILES[:1], "Name two networks"),
        ([], (*FILES, "deep.keras"), "Name two networks"),
        ([], ("none.keras", FILES[1]), "none.keras"),
        (["--mix_weights=half"], FILES, "numbers from 0 to 1"),
        (["--mix_weights=1.5"], FILES, "numbers from 0 to 1"),
        (["--mix_weights=nan"], FILES, "numbers from 0 to 1"),
        (["--mix_weights="], FILES, "numbers from 0 to 1"),
        (["--mix_kind=sum"], FILES, "mix_kind"),
        (["--mix_kind=weights"], (FILES[0], "deep.keras"), "--mix_kind=probabilities."),
        ([], (FILES[0], "small.keras"), "images"),
        (["--mix_kind=nuts", "--mix_attack=magic", "--dataset=digits"], FILES, "magic"),
        (["--mix_kind=nuts", "--mix_kept=0"], FILES, "--mix_kept must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    words, networks, sentence, folder, tmp_path, capsys
):
    assert run(folder, tmp_path, *words, networks=networks) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and sentence in error
    assert not list(tmp_path.glob("*.keras"))


@pytest.mark.parametrize(
    "name, sentence",
    [("eleven.keras", "classes"), ("exported", "subclassed")],
)
def test_networks_that_don_t_fit_are_refused_before_the_attack(
    name, sentence, folder, tmp_path, monkeypatch, capsys
):
    if name == "exported":
        linear(0).export(folder / name, verbose=False)
    else:
        eleven = [keras.Input((8, 8, 1)), L.Flatten(), L.Dense(11)]
        keras.Sequential(eleven).save(folder / name)
    monkeypatch.setattr(mix, "held_out_logits", None)
    for networks in ((name, FILES[1]), (FILES[0], name)):
        words = "--mix_kind=nuts", "--dataset=digits"
        assert run(folder, tmp_path, *words, networks=networks) == 2
        assert sentence in capsys.readouterr().err


def test_flags_of_another_kind_are_warned_about(folder, tmp_path):
    with pytest.warns(UserWarning, match="--mix_kept has no effect"):
        assert run(folder, tmp_path, "--mix_kept=0.9", "--mix_weights=0.5") == 0


def test_a_damaged_list_of_files_is_refused_and_kept(folder, tmp_path, capsys):
    (tmp_path / mix.FILE).write_text("[")
    assert run(folder, tmp_path, "--mix_weights=0.5") == 2
    assert "--mix_dir" in capsys.readouterr().err
    assert (tmp_path / mix.FILE).read_text() == "["
