"""The graph of a suite's runs: what they need, share and are done with; their commands."""

import dataclasses
import hashlib
import os
import pathlib
import re
import types

import numpy as np
import pytest
from plans import NO_DATA, planned, run, values_of

from vfd_tf.cli import commands, flags, suite_plan
from vfd_tf.experiments import places
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.suites.graph import Graph, Node, Run, is_done
from vfd_tf.suites.suite import SCALES, names, read
from vfd_tf.training.distillation import KD, VFD, NoDistillation
from vfd_tf.training.methods import HAT, TRADES


@pytest.mark.parametrize("scale", SCALES)
def test_every_suite_of_every_scale_is_a_graph_of_runs_that_exist(scale):
    graph, found = planned("all", scale)
    assert [each.suite.name for each in found] == names()
    for node in graph.ordered():
        assert set(node.after) <= graph.nodes.keys()
        assert all(graph.level(path) < graph.level(node.path) for path in node.after)


def test_what_runs_share_is_there_once():
    graph, (table,) = planned("table1")
    teachers = [node for node in graph.nodes.values() if "teacher" in node.name]
    assert sorted(node.name.split(" resnet8")[0] for node in teachers) == [
        "robust teacher",
        "vanilla teacher",
    ]
    assert sum("surrogate" in node.name for node in graph.nodes.values()) == 1
    # 21 rows, 12 points of curves, two teachers, a surrogate.
    assert len(graph.nodes) == 21 + 12 + 2 + 1


def test_suites_share_the_runs_that_both_ask_for_and_their_columns():
    alone = len(planned("table1")[0].nodes), len(planned("fig2")[0].nodes)
    graph = Graph("runs", NO_DATA, flags.words)
    for name in ("fig2", "table1"):
        suite_plan.PlannedSuite(*read(name, "smoke"), f"runs/{name}", graph, (), (0,))
    assert len(graph.nodes) < sum(alone)
    node = next(n for n in graph.nodes.values() if "TRADES, trades beta 6" in n.name)
    assert {"pgd20", "cw", "transfer-pgd20"} <= set(node.plan.attacks)


def test_a_run_stands_behind_the_networks_that_it_reads():
    graph = Graph("runs", NO_DATA, flags.words)
    plan = EvaluationPlan(attacks=(), students=())
    for method, distillation, roles in (
        (TRADES(), NoDistillation(), set()),
        (TRADES(), VFD(), {"vanilla teacher"}),
        (HAT(), NoDistillation(), {"vanilla teacher"}),
        (TRADES(), KD(), {"vanilla teacher", "robust teacher"}),
    ):
        experiment = Experiment(method=method, distillation=distillation)
        path = graph.add(Run("a run", (), experiment, plan))
        before = {
            graph.nodes[p].name.split(" resnet18")[0] for p in graph.nodes[path].after
        }
        assert before == roles


def test_mixtures_need_the_vanilla_teacher():
    graph = Graph("runs", NO_DATA, flags.words)
    plan = EvaluationPlan(attacks=("fgsm",), students=("last",), mixtures=(Mix.of(0.5),))
    for distillation in (NoDistillation(), VFD()):
        experiment = Experiment(method=TRADES(), distillation=distillation)
        path = graph.add(Run("a run", (), experiment, plan))
        (before,) = graph.nodes[path].after
        assert "vanilla teacher" in graph.nodes[before].name


def test_a_run_that_is_added_again_keeps_all_that_it_needs():
    graph = Graph("runs", NO_DATA, flags.words)
    experiment = Experiment(method=TRADES(), distillation=VFD())
    plan = EvaluationPlan(attacks=(), students=())
    surrogate = experiment.surrogate("resnet8")
    for other in (surrogate, None):
        path = graph.add(Run("a run", (), experiment, plan, surrogate=other))
    names = [graph.nodes[before].name for before in graph.nodes[path].after]
    assert [name.split(" resnet")[0] for name in names] == ["vanilla teacher", "surrogate"]


def test_a_level_is_one_more_than_the_highest_below():
    graph = Graph("runs", NO_DATA, flags.words)
    for path, after in (("a", ()), ("b", ("a",)), ("c", ("a", "b")), ("d", ("a",))):
        graph.add_other(Node(path, path, (), after=after))
    assert [graph.level(path) for path in "abcd"] == [0, 1, 2, 1]
    assert [node.path for node in graph.ordered()] == [*"abdc"]
    assert [*graph.only(["c"]).nodes] == [*"abc"]


def test_a_run_is_done_with_every_column_of_every_student_and_mixture(tmp_path):
    plan = EvaluationPlan(
        attacks=("fgsm", "transfer-fgsm"),
        students=("best", "last", "average"),
        surrogate="there.keras",
        mixtures=(Mix.of(0.5),),
    )
    experiment = Experiment(method=TRADES(), distillation=NoDistillation())
    node = Node("a run", str(tmp_path), (), experiment=experiment, plan=plan)
    data = types.SimpleNamespace(test=range(4))
    directory = RunDirectory(str(tmp_path))
    directory.claim({"dataset": "digits", "helpers": {}}, {}, "")
    # There is no average student, and no black-box attack on a mixture.
    columns = [(which, name) for which in ("best", "last")
               for name in ("clean", "fgsm", "transfer-fgsm")]  # fmt: skip
    columns += [("last-mixture-0.5", "clean"), ("last-mixture-0.5", "fgsm")]
    for which, name in columns:
        assert not is_done(node, data)
        known = {name: np.ones(4, bool)}
        directory.add_verdicts(which, plan.threat, "n=4", known)
        directory._merge(wall_time_s=1.0)
    assert is_done(node, data)
    vanilla = RunDirectory(str(tmp_path / "teacher"))
    node = dataclasses.replace(node, vanilla=vanilla.path)
    directory.keep_made_with("vanilla", hashlib.sha256(b"weights").hexdigest(), str)
    assert is_done(node, data)  # nothing is known of weights that are not there
    os.mkdir(vanilla.path)
    for weights, done in ((b"weights", True), (b"of another teacher", False)):
        pathlib.Path(vanilla.student("best")).write_bytes(weights)
        assert is_done(node, data) == done


def test_a_mixture_that_nothing_can_be_fitted_to_leaves_a_run_done(tmp_path):
    plan = EvaluationPlan(("fgsm",), students=("last",), mixtures=(Mix.of("nuts:0.9"),))
    experiment = Experiment(method=TRADES(), distillation=NoDistillation())
    node = Node("a run", str(tmp_path), (), experiment=experiment, plan=plan)
    data, directory = types.SimpleNamespace(test=range(4)), RunDirectory(str(tmp_path))
    known = {name: np.ones(4, bool) for name in ("clean", "fgsm")}
    directory.add_verdicts("last", plan.threat, "n=4", known)
    directory._merge(wall_time_s=1.0)
    assert not is_done(node, data)
    directory.add_fit("last-nuts-0.9", "linf:0.1", {"reason": "Of another threat."})
    assert not is_done(node, data)
    directory.add_fit("last-nuts-0.9", plan.threat, {"reason": "Right on no image."})
    assert is_done(node, data)


def test_a_command_of_the_graph_gives_the_run_whose_directory_it_names():
    graph, _ = planned("ablations", more=("--average=ema", "--nesterov"))
    for node in graph.nodes.values():
        words = commands.words_of(node, graph)
        values = values_of(*words)
        (experiment,) = flags.experiments(values)
        identity = places.identity(experiment, NO_DATA(experiment))
        assert places.path(experiment, identity, values.runs) == node.path
        given = flags.evaluation_plan(values, training=True)
        assert set(given.attacks) == set(node.plan.attacks)
        assert given.rounds() == node.plan.rounds()
        assert given.students == node.plan.students and given.mixtures == node.plan.mixtures
        assert not given.teachers  # they have commands of their own


def test_curves_need_no_surrogate():
    graph, (found,) = planned("table1")
    for point, _, path in found.points:
        names_ = [graph.nodes[before].name for before in graph.nodes[path].after]
        assert any("surrogate" in name for name in names_) != point.curve
        assert (graph.nodes[path].plan.surrogate in graph.nodes) != point.curve


def test_seeds_are_runs_of_their_own_with_the_same_teachers():
    graph, (found,) = planned("fig4b", seeds=(0, 1, 2))
    assert len({path for _, _, path in found.points}) == 3 * 9
    assert sum("teacher" in node.name for node in graph.nodes.values()) == 1


def test_shards_are_all_runs_once_each_with_what_they_need(capsys):
    lines = []
    for i in (1, 2, 3):
        words = ("fig4b", "--scale=smoke", "--list", f"--shard={i}/3")
        assert run(*words) == 0
        lines.append(set(capsys.readouterr().out.splitlines()))
    assert run("fig4b", "--scale=smoke", "--list") == 0
    assert set.union(*lines) == set(capsys.readouterr().out.splitlines())
    assert len(set.intersection(*lines)) == 1  # the teacher


def test_the_list_is_a_command_a_line_behind_its_level_and_what_it_needs_comes_first(
    capsys,
):
    assert run("table1", "--scale=smoke", "--list") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    levels = [int(level) for level, _ in rows]
    assert levels == sorted(levels) and levels[0] == 0 and levels[-1] == 1
    assert all(re.fullmatch(r"python run\.py --.*--runs=runs --wait.*", c) for _, c in rows)
