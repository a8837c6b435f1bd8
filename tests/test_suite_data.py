"""The data of a suite: from the folder that the user names, by where pixels are held."""

import json
import pathlib

import keras
import numpy as np
import tiny

from vfd_tf.cli import flags, suite
from vfd_tf.data import datasets
from vfd_tf.experiments import digests
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory

SUITE = """
title = "Mine"
columns = "clean fgsm"
[rows]
"TRADES" = "--method=trades --distill=none"
[smoke]
surrogate = ""
flags = "--dataset=npz:data.npz --arch=net.keras"
"""


def test_suite_json_counts_the_images_of_data_dir(tmp_path, monkeypatch):
    tiny.written(tmp_path)
    (tmp_path / "mine.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    asked, load = [], datasets.load
    monkeypatch.setattr(
        datasets,
        "load",
        lambda name, data_dir=None, *args, **options: (
            asked.append(data_dir) or load(name, data_dir, *args, **options)
        ),
    )
    values = flags.define()
    flags.parse(values, ["--scale=smoke", "--data_dir=there", "--runs=runs"])
    planned, _ = suite._planned(values, ["mine.toml"])
    (folder,) = suite._claim(values, planned)
    assert set(asked) == {"there"}
    assert json.loads(pathlib.Path(folder, "suite.json").read_text())["images"]["fgsm"] == 8


def test_a_digest_is_that_of_pixels_in_memory_or_on_disk_as_the_run_holds_them(tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                image = random.integers(0, 256, (4, 4, 3)).astype("uint8")
                keras.utils.save_img(tmp_path / split / name / f"{i}.png", image)
    own = {"dataset": f"dir:{tmp_path}"}
    expected = {
        h: datasets.load(f"dir:{tmp_path}", hold=h).digest for h in ("memory", "disk")
    }
    assert len(set(expected.values())) == 2
    digest = digests.of_data(None)
    assert {hold: digest(Experiment(**own, hold=hold)) for hold in expected} == expected


def test_runs_on_other_images_of_a_set_name_no_others(tmp_path):
    """A validation split takes training images; on disk a set has another digest."""
    options = {}, {"validation": 50}, {"hold": "disk"}, {"image_size": 8}
    for number, option in enumerate(options):
        experiment = Experiment(dataset="digits", **option)
        directory = RunDirectory(str(tmp_path / f"run{number}"))
        identity = experiment.identity(f"data {number}", {})
        text = flags.flagfile(experiment)
        directory.claim(identity, experiment.fields(), text)
    (tmp_path / "run0" / "flags.txt").write_text("--dataset=digits\n")  # before --hold
    known = digests.of_runs(str(tmp_path))
    for number, option in enumerate(options):
        assert known(Experiment(dataset="digits", **option)) == f"data {number}"
    assert known(Experiment(dataset="digits", hold="memory")) == "data 0"  # as auto is
    assert known(Experiment(dataset="digits", validation=51)) == ""


def test_seeds_that_leave_the_report_are_named(tmp_path, monkeypatch, capsys):
    tiny.written(tmp_path)
    (tmp_path / "mine.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["--seed=0"], ""),
        (["--seed=0"], ""),
        (["--seed=0", "--seeds=2"], ""),
        (["--seed=2"], "0, 1 in its report, which now leaves them out: --seed=0 --seeds=3"),
        (["--seed=9"], "seed 2 in its report, which now leaves them out: the command of "),
    ):
        values = flags.define()
        flags.parse(values, ["--scale=smoke", "--runs=runs", *words])
        planned, _ = suite._planned(values, ["mine.toml"])
        suite._claim(values, planned)
        notes = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Note")]
        assert len(notes) == bool(said) and all(said in note for note in notes)
