"""Files of suites: students, groups, sweeps and scales, and what is no suite."""

import re

import numpy as np
import pytest
import suites
from plans import GOOD, planned, run

from vfd_tf.cli import commands, suite_file
from vfd_tf.suites.report import build
from vfd_tf.suites.suite import read


@pytest.mark.parametrize(
    "line, average, students",
    [
        ("", "none", ("last",)),
        ("", "ema", ("last", "average")),
        ('students = "average"', "ema", ("average",)),
        ('students = "last"', "ema", ("last",)),
        ('students = "last, average"', "swa", ("last", "average")),
    ],
)
def test_a_suite_may_name_the_students_that_are_evaluated(
    tmp_path, line, average, students
):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("[rows]", f"{line}\n[rows]"))
    graph, _ = planned(str(path), more=(f"--average={average}",))
    (node,) = graph.ordered()
    assert node.plan.students == students


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('title = "Mine"', "", "no title"),
        ("columns", "colums", "Did you mean 'columns'"),
        ('"clean pgd20"', "20", "must be a text"),
        ("[rows]", "[rows", "can't be read"),
        ('"--method=trades --distill=none"', "6", "text of flags"),
        ("--distill=none", "distill=none", "--name=value"),
        ("--method=trades", "--method=traeds", "Did you mean 'trades'"),
        ("pgd20", "pgd", "number of steps"),
        ("[rows]", 'sweep = "--trades_beta"\n[rows]', "one --flag=value,value"),
        ("[rows]", '[curves]\n"HAT" = "--hat_beta=1"\n[rows]', "row of [curves]"),
        ("[rows]", 'students = "averge"\n[rows]', "Did you mean 'average'"),
        ("[rows]", 'students = "average"\n[rows]', "--average=ema"),
        ("[rows]", 'against = "TRADE"\n[rows]', "Did you mean 'TRADES'"),
        ("[rows]", '[curves]\nmixed = ["TRADES"]\n[rows]', "add mixtures"),
        (
            "[rows]",
            '[curves]\nmixtures = [1]\nmixed = ["TRADE"]\n[rows]',
            "Did you mean 'TRADES'",
        ),
        ("[rows]", '[curves]\nmixed = "TRADES"\n[rows]', "must be a list"),
        ("[rows]", "[curves]\nmixtures = 0.5\n[rows]", "must be a list"),
        ("[rows]", "[curves]\nmixtures = [1.5]\n[rows]", "numbers from 0 to 1"),
        ("[rows]", '[curves]\nmixtures = ["nust:1"]\n[rows]', "Did you mean 'nuts'"),
        ('"clean pgd20"', '"transfer-autoattack"', "ensemble"),
        ('"clean pgd20"', '" , "', "no columns"),
        ('"--dataset=digits --arch=resnet8"', '["--a", "--b"]', "flags is ['--a'"),
        ("[rows]\n", 'rows = ["TRADES"]\n#', "rows is ['TRADES'"),
        ("[rows]\n", "rows = 3\n#", "rows is 3"),
        ("[rows]", 'smoke = "x"\n[rows]', "smoke is 'x', and must be a table"),
        ("[rows]", "[smoke]\nrows = 1\n[rows]", "rows is 1"),
        ("[rows]", "[smoke]\nflags = 1\n[rows]", "flags is 1"),
        ("[rows]", "max_images = 0\n[rows]", "max_images is 0"),
        ("[rows]", "max_images = -3\n[rows]", "max_images is -3"),
        ("[rows]", "images = { pgd20 = 0 }\n[rows]", "pgd20 = 0 in images"),
        ("[rows]", 'images = { pgd20 = "x" }\n[rows]', "pgd20 = 'x' in images"),
    ],
)
def test_a_file_that_is_no_suite_is_refused_in_one_sentence(
    tmp_path, capsys, old, new, words
):
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    assert run(path, "--dry_run", "--scale=smoke", f"--runs={tmp_path}/runs") == 2
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith("error: ") and words in error
    assert "Traceback" not in error


def test_the_rows_of_a_group_are_compared_with_the_one_of_its_name():
    (found,) = read("table1", "paper")
    assert [found.group(row) for row in ("Vanilla", "ALP+KD", "HAT")] == [
        "Vanilla",
        "ALP",
        "HAT",
    ]
    assert [found.base(row) for row in ("Vanilla", "ALP+KD", "HAT", "HAT+VFD-Adv")] == [
        None,
        "ALP",
        None,
        "HAT",
    ]


def test_a_sweep_of_the_base_is_the_curve_of_its_group():
    _, (found,) = planned("fig2")
    curves = suite_file.describe(found)["curves"]
    swept = [point for point in curves if point["kind"] == "sweep"]
    assert [point["label"] for point in swept] == list("123456")
    assert {(point["group"], point["which"]) for point in swept} == {("TRADES", "last")}
    mixed = [point["which"] for point in curves if point["kind"] == "mixture"]
    assert mixed == [f"last-mixture-{weight}" for weight in (0.6, 0.8, 0.9)] * 6


def test_a_scale_has_the_last_word_and_a_suites_own_table_behind_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("[rows]", "max_images = 7\n[rows]") + "[cpu]\n"
                    'max_images = 9\nflags = "--width=0.5"\n')  # fmt: skip
    (small,), (other,) = read(str(path), "smoke"), read(str(path), "cpu")
    assert (small.max_images, other.max_images) == (7, 9)  # a file's before a scale's
    assert small.flags == ("--dataset=digits", "--arch=resnet8", "--recipe=smoke")
    assert other.flags == ("--dataset=digits", "--arch=resnet8", "--width=0.5")
    assert small.images == {"autoattack": 10, "cw": 4}  # of the scale


def test_a_suite_of_clean_accuracy_alone_is_reported(tmp_path):
    path, right = tmp_path / "mine.toml", np.arange(40) < 30
    path.write_text(GOOD.replace("clean pgd20", "clean"))
    graph, (found,) = planned(str(path), root=str(tmp_path))
    whole = suite_file.describe(found)
    assert whole["columns"] == ["clean"] and whole["images"] == {"clean": 40}
    (node,) = graph.ordered()
    assert "--eval_attacks=" in commands.words_of(node, graph)
    known = {"last": {40: {"clean": right}}}
    suites.run(node.path, known, whole["threat"], dataset="digits")
    workdir = tmp_path / "mine"
    suites.save(workdir, whole, {node.name: {"status": "done"}})
    build.build([str(workdir)], str(workdir / "report"))
    text = (workdir / "report" / "report.md").read_text()
    assert re.search(r"\| TRADES +\| +75\.0 \|", text), text
    path.write_text(GOOD)
    (found,) = planned(str(path))[1]
    assert suite_file.describe(found)["images"] == {"pgd20": 40}  # as ever
