"""Black-box columns of a suite are those of one surrogate, or are left out."""

import dataclasses
import json
import os
import types

import pytest
import suites
from plans import GOOD, planned

from vfd_tf import evaluation, files
from vfd_tf.cli import suite_file
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.graph import Node, is_done
from vfd_tf.suites.report import collect, suite_record, summary

BLACK_BOX = ("transfer-pgd20", "transfer-fgsm", "transfer-cw")


def plan(surrogate, *attacks):
    return EvaluationPlan(attacks=attacks, surrogate=surrogate)


def test_a_run_has_one_surrogate_in_one_command():
    own = plan("a.keras", "transfer-fgsm")
    assert own.joined(plan("a.keras", "transfer-cw")).surrogate == "a.keras"
    assert own.joined(plan(None, "fgsm")).surrogate == "a.keras"
    assert plan(None, "fgsm").joined(own).surrogate == "a.keras"
    with pytest.raises(InputError) as refusal:
        own.joined(plan("b.keras", "transfer-fgsm"))
    assert str(refusal.value) == (
        "One run is to be attacked from two surrogates, a.keras and b.keras: give the "
        "suites one `surrogate`, or each a --runs of its own."
    )


def test_suite_json_names_the_surrogate_of_black_box_columns_alone(tmp_path):
    path = tmp_path / "mine.toml"
    for columns, black_box in (("clean pgd20", False), ("transfer-pgd20 clean", True)):
        path.write_text(GOOD.replace("clean pgd20", columns))
        graph, (found,) = planned(str(path))
        (entry,) = suite_file.describe(found)["entries"]
        assert ("surrogate" in entry) == black_box
    (node,) = [node for node in graph.nodes.values() if "surrogate" in node.name]
    assert entry["surrogate"] == os.path.relpath(node.path, found.folder)
    workdir = tmp_path / "suite"
    workdir.mkdir()
    (workdir / "suite.json").write_text(json.dumps(suite_file.describe(found)))
    (stored,) = suite_record.read(str(workdir)).entries
    assert stored.surrogate == os.path.normpath(workdir / entry["surrogate"])


@pytest.fixture
def mixed(tmp_path):
    """A suite of which one run's black-box columns were made on another surrogate."""
    workdir = suites.table(tmp_path, 40, groups=("TRADES",))
    folder = tmp_path / "surrogate"
    folder.mkdir()
    (folder / "best.keras").write_bytes(b"network")
    whole = json.loads((workdir / "suite.json").read_text())
    for entry in whole["entries"]:
        entry["surrogate"] = "../surrogate"
        run = RunDirectory(entry["directory"])
        mark = files.sha256(str(folder / "best.keras"))
        mark = "another" if entry["row"] == "TRADES+KD" else mark
        run.keep_made_with(
            "surrogate", mark, lambda which, name: evaluation.is_transfer(name)
        )
    (workdir / "suite.json").write_text(json.dumps(whole))
    return workdir


def rows(workdir):
    found = summary.summarize(collect.collect(suite_record.read(str(workdir)))).rows
    return {row.name: row for row in found}


def test_columns_made_on_another_surrogate_are_left_out_of_the_report(mixed):
    found = rows(mixed)
    for name, row in found.items():
        for column, cell in row.cells.items():
            foreign = name == "TRADES+KD" and column in BLACK_BOX
            assert (cell.mean is None) == foreign
            assert cell.state == ("left out" if foreign else "")
    (said,) = found["TRADES+KD"].sentences
    assert "made on another surrogate" in said and said.endswith("run the suite again.")
    assert not found["TRADES"].sentences


def test_a_suite_that_does_not_know_its_surrogate_is_reported_as_it_is(mixed):
    path = mixed / "suite.json"
    whole = json.loads(path.read_text())
    for entry in whole["entries"]:
        del entry["surrogate"]
    path.write_text(json.dumps(whole))
    assert all(
        cell.mean is not None for r in rows(mixed).values() for cell in r.cells.values()
    )


def test_a_run_of_another_surrogate_is_not_done(mixed):
    data, root = types.SimpleNamespace(test=range(40)), mixed.parent
    for name, column, done in (
        ("TRADES", "transfer-fgsm", True),
        ("TRADES+KD", "transfer-fgsm", False),
        ("TRADES+KD", "fgsm", True),
    ):
        path = str(root / f"cifar10-resnet8-{name}-0")
        own = dataclasses.replace(
            plan(str(root / "surrogate"), column), epsilon=8 / 255, students=("last",)
        )
        node = Node(name, path, (), experiment=Experiment(), plan=own)
        assert is_done(node, data) == done
