"""`vfd info` says what the files say, of finished and unfinished runs, and changes none."""

import hashlib
import json
import re
import shlex
import shutil

import keras
import pytest

from vfd_tf import InputError
from vfd_tf.cli import flags, info, main
from vfd_tf.experiments import run_directory
from vfd_tf.models import network

HISTORY = """epoch,loss,adv_loss,val_accuracy,val_pgd10_accuracy
1,2.0,1.5,0.3,0.2
2,1.5,1.25,0.4,0.3
3,1.25,1.0,0.5,0.25
"""
RESULTS = {
    **{"seed": 7, "best_epoch": 2, "wall_time_s": 150.0, "replicas": 1, "keras": "3.15.1"},
    **{"git_commit": "3b02cf85", "devices": "/device:CPU:0", "python": "3.11.7"},
    "accuracies": {
        "best": {"linf:8/255 n=100": {"clean": 71.0, "pgd20": 40.0}},
        "last": {
            "linf:8/255 n=100": {"clean": 72.0, "pgd20": 38.0, "worst": 37.0},
            "l2:0.5 n=50": {"clean": 74.0, "fgsm": 50.0},
        },
        "averaged": {"l2:0.5 n=50": {"clean": 76.0}},
    },
}


@pytest.fixture
def run(tmp_path):
    """A finished run: TRADES at beta 4 with VFD, and the directory of its teacher."""
    values = flags.define()
    words = "--method=trades", "--distill=vfd", "--trades_beta=4", "--epochs=3", "--seed=7"
    values(["run.py", *words, "--arch=resnet8", "--pgd_steps=5", "--vfd_lambda=0.05"])
    (experiment,) = flags.experiments(values)
    path = tmp_path / "runs" / "mine"
    directory = run_directory.RunDirectory(str(path))
    identity = experiment.identity("ef0f", {"teacher": "03f2e1d5"})
    directory.claim(identity, experiment.fields(), flags.flagfile(experiment))
    (path.parent / "cifar10-natural-none-03f2e1d5").mkdir()
    (path / "history.csv").write_text(HISTORY)
    (path / "results.json").write_text(json.dumps(RESULTS))
    (path / "tensorboard" / "train").mkdir(parents=True)
    for name, size in (("a", 1000), ("train/b", 234)):
        (path / "tensorboard" / name).write_bytes(bytes(size))
    return path


def facts(text):
    """The lines "name  value" of a text."""
    pairs = (re.split(r"  +", line, maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def tables(text):
    """title -> {row: cells} of the Markdown tables in a text."""
    found = {}
    for block in text.split("\n\n"):
        title, *lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found[title] = {first: cells for first, *cells in (rows[0], *rows[2:])}
    return found


def test_a_run_says_what_it_is_and_how_far_it_came(run):
    known = facts(info.describe(str(run)))
    assert known["run"].startswith("trades+vfd, ")
    assert known["data set"] == "cifar10" and known["architecture"].startswith("resnet8")
    assert known["method"] == "trades, beta 4"
    assert known["distillation"] == "vfd, lambda 0.05"
    assert known["attack"] == "pgd linf:8/255, steps 5"
    assert known["recipe"] == "epochs 3" and known["lambda schedule"] == "defaults"
    assert known["teacher"] == "cifar10-natural-none-03f2e1d5"
    assert known["seed"] == "7" and known["commit"] == "3b02cf85"
    assert known["epochs"] == "3 of 3, complete" and known["best epoch"] == "2"
    assert known["wall time"] == "2.5 min"
    assert known["versions"] == "keras 3.15.1, python 3.11.7"


def test_a_complete_run_is_known_without_its_checkpoint(run):
    (run / "checkpoint-00003-00000000.npz").write_bytes(b"cut short")
    known = facts(info.describe(str(run)))
    assert known["best epoch"] == "2" and known["wall time"] == "2.5 min"


def test_key_curves_of_the_best_and_the_last_epoch(run):
    known = facts(info.describe(str(run)))
    assert known["curves"].split() == ["best", "last"]
    assert known["epoch"].split() == ["2", "3"]
    assert known["loss"].split() == ["1.5", "1.25"]
    assert known["val_pgd10_accuracy"].split() == ["0.3", "0.25"]
    assert "adv_loss" not in known


def test_every_student_and_threat_model_in_the_results(run):
    found = tables(info.describe(str(run)))
    assert set(found) == {
        "test images, linf:8/255 n=100",
        "test images, l2:0.5 n=50",
    }
    linf, l2 = found.values()
    assert linf["accuracy (%)"] == ["clean", "pgd20", "worst"]
    assert linf["best"] == ["71.00", "40.00", ""]
    assert linf["last"] == ["72.00", "38.00", "37.00"]
    assert set(l2) == {"accuracy (%)", "last", "averaged"}


def test_files_with_sizes_and_the_command_that_repeats_it(run):
    text = info.describe(str(run))
    known = facts(text)
    assert known["tensorboard/"].strip() == "1,234"
    assert known["history.csv"].strip() == str(len(HISTORY))
    (words,) = re.findall(r"python run\.py (--flagfile=.*)", text)
    assert words == f"--flagfile={run}/flags.txt --runs={run.parent} --workdir={run}"
    values = flags.define()
    values(["run.py", *words.split()])
    (again,) = flags.experiments(values)
    assert again.method.beta == 4 and again.recipe.epochs == 3


def test_the_command_that_repeats_it_is_one_for_a_shell_whatever_the_path(run):
    path = run.parent / "it's a run"
    run.rename(path)
    (line,) = re.findall(r"repeat it: (.*)", info.describe(str(path)))
    assert shlex.split(line)[2:] == [
        *(f"--flagfile={path}/flags.txt", f"--runs={path.parent}", f"--workdir={path}"),
    ]


def test_a_run_that_is_being_trained(run):
    (run / "results.json").unlink()
    state = run_directory.State(epoch=2, best=0.2, best_epoch=1, seconds=90.0)
    run_directory.RunDirectory(run).checkpoints.write(state, {})
    (run / "history.csv").write_text("".join(HISTORY.splitlines(True)[:3]))
    known = facts(info.describe(str(run)))
    assert known["epochs"] == "2 of 3, not complete"
    assert known["best epoch"] == "1" and known["wall time"] == "1.5 min"
    assert known["epoch"].split() == ["1", "2"] and "commit" not in known
    for name in ("checkpoint-00002-00000000.npz", "history.csv"):
        (run / name).unlink()
    known = facts(info.describe(str(run)))
    assert known["epochs"] == "0 of 3, not complete" and "curves" not in known


def test_a_field_without_a_class_is_shown_and_a_missing_one_is_default(run):
    owner = json.loads((run / "run.json").read_text())
    owner["fields"]["method"] = {"beta": 4.0, "extra": 3}
    owner["fields"]["novelty"] = {"strength": 0.5}
    owner["identity"]["novelty"] = "Unheard(strength=0.5)"
    (run / "run.json").write_text(json.dumps(owner))
    known = facts(info.describe(str(run)))
    assert known["method"] == "trades, beta 4, extra 3"
    assert known["novelty"] == "strength 0.5"


def test_both_spellings_of_the_command_only_read(run, capsys):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}
    assert main.main(["run.py", "info", str(run)]) == 0
    first = capsys.readouterr().out
    assert main.main(["run.py", "--mode=info", str(run)]) == 0
    assert capsys.readouterr().out == first == info.describe(str(run)) + "\n"
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}


def test_a_student_file_says_what_the_model_is(make_network, tmp_path):
    path = str(tmp_path / "mine.keras")
    network.classifier(make_network(classes=7)).save(path)
    known = facts(info.describe(path))
    # 3x3x3x4 kernel, 4 x 4 of BatchNorm (half of them moving statistics), 4x7 + 7.
    assert known["weights"] == f"{108 + 16 + 35} ({108 + 8 + 35} trainable)"
    assert known["input"] == "8 x 8 x 3" and known["classes"] == "7"
    assert known["layer1"] == "8 x 8 x 4" and known["last"] == "8 x 8 x 4 (layer1)"
    assert known["float policy"] == "float32" and known["output"] == "logits"
    with open(path, "rb") as file:
        assert known["sha-256"] == hashlib.sha256(file.read()).hexdigest()


def test_a_student_without_stages_and_with_probabilities(tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, name="mine"), layers.Flatten(),
         layers.Dense(3, activation="softmax")]
    )  # fmt: skip
    model.save(tmp_path / "a.keras")
    known = facts(info.describe(str(tmp_path / "a.keras")))
    assert known["output"].startswith("probabilities")
    assert known["last"] == "6 x 6 x 2 (mine)"


def test_taps_and_preactivations_of_our_architectures(tmp_path):
    from vfd_tf import architectures

    student = network.classifier(architectures.resnet8((8, 8, 3), 10, 0.25))
    student.save(tmp_path / "a.keras")
    known = facts(info.describe(str(tmp_path / "a.keras")))
    wanted = {f"layer{i}{end}" for i in (1, 2, 3) for end in ("", "_preact")}
    assert wanted <= set(known) and known["last"].endswith("(layer3)")


NO_ACCURACIES = [
    [],
    {"last": []},
    {"last": {"nonsense": {"clean": 3.0}}},
    {"last": {"linf:0.2 n=100": {"clean": "high"}}},
    {"last": {"linf:0.2 n=100": [1.0]}},
]


@pytest.mark.parametrize("mode", ["info", "plot"])
@pytest.mark.parametrize("accuracies", NO_ACCURACIES)
def test_results_that_are_none_are_skipped_with_a_note(
    run, tmp_path, capsys, mode, accuracies
):
    odd = tmp_path / "odd"
    shutil.copytree(run, odd)
    (odd / "results.json").write_text(json.dumps({"accuracies": accuracies}))
    out = f"--out={tmp_path / 'a.png'}"
    words = [out, "--plot_y=fgsm"] if mode == "plot" else []
    code = main.main(["run.py", mode, str(odd), str(run), *words])
    notes = capsys.readouterr().err.splitlines()
    assert code == 0 and len(notes) == 1
    assert notes[0].startswith(f"Skipped: {odd}/results.json is damaged")


CHECKPOINT = "checkpoint-00003-00000000.npz"


def test_what_is_broken_is_skipped_with_a_note(run, tmp_path, capsys):
    assert main.main(["run.py", "info", str(run)]) == 0
    whole = capsys.readouterr().out
    broken = []
    for name in ("run.json", "results.json", "history.csv", CHECKPOINT, "identity"):
        broken.append(run.parent / f"broken-{name}")
        shutil.copytree(run, broken[-1])
        (broken[-1] / name).write_text("epoch,loss\n1,high\n")
    (broken[3] / "results.json").unlink()  # what checkpoints are read for
    owner = json.loads((run / "run.json").read_text())
    del owner["identity"]["dataset"]
    (broken[4] / "run.json").write_text(json.dumps(owner))
    paths = [str(path) for path in (broken[0], run, *broken[1:])]
    assert main.main(["run.py", "info", *paths]) == 0
    printed = capsys.readouterr()
    assert printed.out == whole
    notes = printed.err.splitlines()
    assert len(notes) == 5
    for path, note in zip(broken, notes, strict=True):
        assert note.startswith(f"Skipped: {path}") and note.endswith(".")
    assert main.main(["run.py", "info", *map(str, broken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_neither_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no run")
    (tmp_path / "broken.keras").write_text("no model")
    for name in ("", "notes.txt", "missing", "missing.keras"):
        with pytest.raises(InputError, match="neither a run directory"):
            info.describe(str(tmp_path / name))
    with pytest.raises(InputError, match="damaged or cut short"):
        info.describe(str(tmp_path / "broken.keras"))
    (tmp_path / "run.json").write_text('{"identity": ')
    with pytest.raises(InputError, match="can.t be read"):
        info.describe(str(tmp_path))
    assert main.main(["run.py", "info"]) == 2
    assert "Name what to show" in capsys.readouterr().err
    assert main.main(["run.py", "--mode=inof", "x"]) == 2
    assert "Did you mean 'info'" in capsys.readouterr().err
