"""The command line: one command trains, continues, reports, and refuses what can't be."""

import csv
import glob
import json
import os
import pathlib

import keras
import numpy as np
import pytest
import tiny

from vfd_tf.cli import flags, main
from vfd_tf.experiments import fitting, provenance, run_directory
from vfd_tf.experiments.session import Session
from vfd_tf.experiments.verdicts import Verdicts

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    *("--dataset=digits", "--arch=resnet8", "--width=0.25", "--batch_size=256"),
    *("--epochs=2", "--epsilon=0.2", "--pgd_steps=2", "--learning_rate=0.05"),
    *("--schedule=cosine", "--eval_attacks=fgsm", "--max_images=64"),
)


def run(root, *words):
    return main.main(["run.py", *SMALL, f"--runs={root}", *words])


def folder(root, pattern):
    (found,) = glob.glob(f"{root}/{pattern}")
    return pathlib.Path(found)


def weights(path):
    return [v.numpy() for v in keras.saving.load_model(path, compile=False).weights]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of runs: HAT + VFD, and the vanilla teacher it trained first."""
    root = tmp_path_factory.mktemp("runs")
    assert run(root, "--method=hat", "--vfd_lambda=0.02") == 0
    return root


@pytest.mark.slow
def test_a_run_leaves_what_resumes_replays_and_cites_it(finished):
    path = folder(finished, "digits-resnet8-hat-vfd-*")
    names = {p.name for p in path.iterdir()}
    assert names == {
        "best.keras", "last.keras", "flags.txt", "history.csv", "metrics.jsonl",
        "checkpoint-00002-00000000.npz", "results.json", "run.json", "tensorboard",
        "verdicts.npz", "README.md",
    }  # fmt: skip
    results = json.loads((path / "results.json").read_text())
    assert {"seed", "tensorflow", "keras", "git_commit", "wall_time_s"} <= set(results)
    assert set(results["accuracies"]["best"]["linf:0.2 n=64"]) == {"clean", "fgsm"}
    rows = list(csv.DictReader((path / "history.csv").open()))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").open()]
    assert [int(row["epoch"]) for row in rows] == [1, 2] == [x["epoch"] for x in lines]
    assert float(rows[1]["vfd_loss"]) == lines[1]["vfd_loss"]
    assert folder(finished, "digits-resnet8-natural-none-*").is_dir()


@pytest.mark.slow
def test_tensorboard_has_every_curve(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = folder(finished, "digits-resnet8-hat-vfd-*") / "tensorboard"
    tags = {}
    for part in ("train", "validation", "panel"):
        events = EventAccumulator(str(path / part), size_guidance={"tensors": 0})
        events.Reload()
        tags[part] = set(events.Tags()["tensors"])
    terms = {"clean_loss", "adv_loss", "helper_loss", "vfd_loss", "loss"}
    more = {"accuracy", "adv_accuracy", "learning_rate", "vfd_lambda", "gradient_norm"}
    more |= {f"{term}_share" for term in ("clean", "adv", "helper", "vfd")}
    more |= {"clean_distance_last", "adv_distance_last", "images_per_second"}
    more |= {"catastrophic_overfitting"}
    found = {tag.split("/")[1] for tag in tags["train"]}
    assert terms | more <= found
    groups = {tag.split("/")[0] for tag in tags["train"]}
    assert groups == {"loss", "accuracy", "vfd", "schedule", "speed"}
    assert {"panel", "margin/clean", "margin/adversarial"} <= tags["panel"]
    wanted = {"accuracy", "loss", "pgd10_accuracy"}
    assert wanted <= {tag.split("/")[1] for tag in tags["validation"]}
    events = EventAccumulator(str(path / "train"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("loss/loss")] == [1, 2]
    events = EventAccumulator(str(path))
    events.Reload()
    assert "test/best/linf:0.2 n=64/fgsm" in events.Tags()["tensors"]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


@pytest.mark.slow
def test_a_complete_run_is_only_reported(finished, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "train", None)
    assert run(finished, "--method=hat", "--vfd_lambda=0.02") == 0
    out = capsys.readouterr().out
    assert out.count("complete") == 2
    assert "hat+vfd (best)" in out


@pytest.mark.slow
def test_flags_of_a_run_replay_it(finished, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "train", None)
    flags = folder(finished, "digits-resnet8-hat-vfd-*") / "flags.txt"
    words = [f"--flagfile={flags}", f"--runs={finished}", "--max_images=64"]
    assert main.main(["run.py", *words, "--eval_attacks=fgsm"]) == 0
    assert str(flags.parent) in capsys.readouterr().out


@pytest.mark.slow
def test_another_lambda_is_another_directory_with_the_same_teacher(finished, monkeypatch):
    started, finished_hat = [], folder(finished, "digits-resnet8-hat-vfd-*")
    monkeypatch.setattr(
        fitting, "make_trainer", lambda e, s, f: started.append(f["teacher"])
    )
    monkeypatch.setattr(fitting, "train", lambda e, s, d, *_: started.append(d.path))
    monkeypatch.setattr(Verdicts, "add", lambda _: None)
    monkeypatch.setattr(Session, "report", lambda *_: "")
    assert run(finished, "--method=hat", "--vfd_lambda=0.03") == 0
    teacher, path = started
    assert pathlib.Path(path) != finished_hat
    assert pathlib.Path(teacher).parent == folder(finished, "*-natural-none-*")


@pytest.mark.slow
def test_a_directory_of_other_flags_is_refused_and_kept(finished, capsys):
    path = folder(finished, "*-natural-none-*")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}
    code = run(finished, "--method=trades", "--distill=none", f"--workdir={path}")
    message = capsys.readouterr().err
    assert code == 2 and "holds a run with" in message and "TRADES" in message
    assert before == {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


OPTIONS = (
    *("--average=ema", "--awp_gamma=0.005", "--awp_warmup=1", "--attack_warmup=2"),
    *("--clip_norm=1", "--cutmix=1", "--label_smoothing=0.1", "--warmup_epochs=1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), OPTIONS], ids=["plain", "options"])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, monkeypatch, options):
    words = "--method=trades", "--distill=none", "--epochs=3", *options
    assert run(tmp_path / "whole", *words) == 0
    tiny.interrupt_behind(monkeypatch, 1)
    assert run(tmp_path / "halves", *words) == 1
    monkeypatch.undo()
    assert run(tmp_path / "halves", *words) == 0
    whole, halves = (folder(tmp_path / name, "*trades*") for name in ("whole", "halves"))
    students = run_directory.RunDirectory(str(whole)).students
    assert students == ("best", "last", "average")[: 3 if options else 2]
    for name in (f"{which}.keras" for which in students):
        assert same(weights(whole / name), weights(halves / name))
    assert (whole / "metrics.jsonl").read_text() == (halves / "metrics.jsonl").read_text()
    results = [json.loads((p / "results.json").read_text()) for p in (whole, halves)]
    assert results[0]["accuracies"] == results[1]["accuracies"]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


@pytest.mark.slow
def test_a_teacher_file_is_used_and_a_stranger_refused(finished, tmp_path, capsys):
    teacher = folder(finished, "*-natural-none-*") / "best.keras"
    words = "--method=natural", "--epochs=1", f"--runs={tmp_path}"
    assert main.main(["run.py", *SMALL, *words, f"--teacher={teacher}"]) == 0
    assert not glob.glob(f"{tmp_path}/*-natural-none-*")
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    other.add(keras.layers.Dense(7))
    other.save(tmp_path / "other.keras")
    capsys.readouterr()
    code = main.main(["run.py", *SMALL, *words, f"--teacher={tmp_path / 'other.keras'}"])
    assert code == 2 and "7" in capsys.readouterr().err
    (tmp_path / "text.keras").write_text("no model")
    code = main.main(["run.py", *SMALL, *words, f"--teacher={tmp_path / 'text.keras'}"])
    assert code == 2 and "damaged or cut short" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--method=trade", "Did you mean 'trades'"),
        ("--distill=vdf", "Did you mean 'vfd'"),
        ("--dataset=cifar11", "cifar10"),
        ("--arch=resnet19", "resnet18"),
        ("--arch=keras:mobilenet_v2", "Did you mean 'keras:MobileNetV2'"),
        ("--arch=keras:MobileNetV2", "at least 32x32 pixels"),
        ("--teacher_arch=keras:VGG17", "Did you mean 'keras:VGG1"),
        ("--arch=nowhere.keras", "nowhere.keras"),
        ("--init=imagenet", "keras:NAME"),
        ("--init=nowhere.h5", "nowhere.h5"),
        ("--vfd_lamda=0.1", "nearest name is --vfd_lambda"),
        ("--vfd_lambda=-1", "at least 0"),
        ("--epsilon=8", "8/255"),
        ("--pgd_steps=0", "at least 1"),
        ("--epochs=many", "epochs"),
        ("--nesterov=maybe", "'maybe' is not a bool"),
        ("--epsilon=8/0", "'8/0' is not a float"),
        ("--pgd_step_size=2", "2/255"),
        ("--vfd_layer=layer9", "layer9"),
        ("--teacher_arch=vgg16", "project=True"),
        ("--cutout=8", "utout"),
        ("--average=swa --swa_start=2", "nothing to average"),
        ("--swa_start=1", "average='swa'"),
        ("--awp_warmup=1", "awp_gamma"),
        ("--lambda_warmup_epochs=3", "both a shape"),
        ("--eval_attacks=pgd20,fsgm", "Did you mean 'fgsm'"),
        ("--eval_attacks=transfer-pgd20", "--surrogate"),
        ("--eval_attacks=transfer-autoattack --surrogate=auto", "ensemble"),
        ("--attack_images=autoattack", "autoattack:1000"),
        ("--attack_images=cw:10", "--eval_attacks"),
        ("--eval_students=lats", "Did you mean 'last'"),
        ("--mixtures=2", "from 0 to 1"),
        ("--mixtures=half", "numbers from 0 to 1"),
        ("--mixtures=0.5 --eval_students=best", "add last to --eval_students"),
        ("--batch_size=5000", "smaller batch_size"),
        ("--teacher=nowhere.keras", "nowhere.keras"),
        ("--teacher_seed=0", "other weights"),
        ("stray", "stray"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, flag, words):
    assert run(tmp_path, "--method=natural", "--distill=vfd", *flag.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error
    assert "Traceback" not in error and error.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_a_run_works_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["git_commit"] is None


def test_help_lists_every_hyper_parameter_with_its_meaning(capsys):
    assert main.main(["run.py", "--help"]) == 0
    text = capsys.readouterr().out
    for name in flags.define():
        assert f"--{name} " in text
    assert "lambda of eq. 6" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "flags").glob("*.flags")), ids=lambda p: p.stem
)
def test_every_preset_parses_and_its_experiment_replays(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = flags.define()
    assert values(["run.py", f"--flagfile={path}"])
    for each in flags.experiments(values):
        again = flags.define()
        again(["run.py", *flags.flagfile(each).split("\n")[:-1]])
        assert flags.experiments(again) == [each]


def test_the_command_of_the_card_is_hat_with_vfd():
    values = flags.define()
    values(["run.py", "--method=hat", "--vfd_lambda=0.01"])
    (only,) = flags.experiments(values)
    assert flags.names(only) == {"method": "hat", "distill": "vfd", "attack": "pgd"}
    assert only.distillation.lambda_ == 0.01
    assert (only.dataset, only.arch, only.recipe.batch_size) == ("cifar10", "resnet18", 128)
    assert only.recipe.learning_rate == 0.1
    assert flags.evaluation_plan(values).attacks == ("fgsm", "pgd20")


def test_another_norm_of_evaluation_needs_a_radius(tmp_path, capsys):
    assert run(tmp_path, "--eval_norm=l2") == 2
    assert "--eval_epsilon=0.5" in capsys.readouterr().err
