"""The mode `report`: which suites it finds, and where it writes."""

import shlex

import pytest
import suites
from plans import values_of

from vfd_tf.cli import main
from vfd_tf.cli import report as mode
from vfd_tf.hyperparameters import InputError


def test_the_command_reports_all_suites_of_a_folder(tmp_path, capsys):
    suites.table(tmp_path, 40, groups=("TRADES",))
    suites.sweep(tmp_path, images=40)
    (tmp_path / "suite-empty").mkdir()
    mode.run(values_of(f"--runs={tmp_path}"), [])
    printed = capsys.readouterr().out
    assert "Table 1: CIFAR-10" in printed and "Sweep of vfd_lambda" in printed
    assert printed.count("| accuracy (%)") == 2
    assert str(tmp_path / "report" / "report.html") in printed.splitlines()
    out = tmp_path / "report"
    files = {str(path.relative_to(out)) for path in out.rglob("*")}
    assert {
        "report.html",
        "report.md",
        "tables/table1.tex",
        "tables/vfd_lambda.csv",
    } <= files
    assert {"figures/table1-training.svg", "figures/vfd_lambda-sweep.png"} <= files


def test_the_command_reports_one_suite_in_its_own_folder(tmp_path, capsys):
    workdir = suites.table(tmp_path, 40, groups=())
    mode.run(values_of(), [str(workdir)])
    assert str(workdir / "report" / "report.html") in capsys.readouterr().out


def test_a_folder_with_signs_of_patterns_in_its_name_has_its_suites_reported(tmp_path):
    runs = tmp_path / "runs [1]*"
    suites.table(runs, 40, groups=())
    mode.run(values_of(f"--runs={runs}"), [])
    assert (runs / "suite-table1" / "report" / "report.html").exists()


def test_a_suite_that_can_t_be_written_into_is_reported_in_the_folder_that_is_named(
    tmp_path, monkeypatch
):
    workdir = suites.table(tmp_path, 40, groups=())
    (workdir / "report").write_text("no folder")
    with pytest.raises(InputError) as refusal:
        mode.run(values_of(f"--runs={tmp_path}"), [])
    fix = f"python run.py report {workdir} --runs=FOLDER"
    assert str(refusal.value).endswith(f": write it elsewhere with {fix}.")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(fix.replace("FOLDER", "mine"))
    assert main.main(words[1:]) == 0
    assert (tmp_path / "mine" / "report" / "report.html").exists()
    assert (workdir / "report").read_text() == "no folder"
