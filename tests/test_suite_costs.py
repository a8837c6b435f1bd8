"""Forecasts of a suite: its sum, what is complete, the work of a run by hand."""

import os

import numpy as np
import pytest
from plans import NO_DATA, planned, run

from vfd_tf.data import datasets
from vfd_tf.data.facts import facts
from vfd_tf.experiments import forecast, places
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.suites import costs
from vfd_tf.training.distillation import NoDistillation
from vfd_tf.training.methods import TRADES


def test_a_forecast_changes_nothing_and_its_total_is_the_sum(tmp_path, capsys):
    assert run("fig4b", "--scale=cpu", "--dry_run", f"--runs={tmp_path}") == 0
    out = capsys.readouterr().out
    assert out.count("fig4b: TRADES+VFD-Adv") == 9 and "10 runs of 10 are left" in out
    assert not os.listdir(tmp_path)


def test_what_is_complete_costs_nothing(tmp_path, monkeypatch):
    graph, (found,) = planned("fig4b", root=str(tmp_path))
    before = costs.costs(graph)
    paths = [path for _, _, path in found.points]
    for path in paths[:4]:
        node, directory = graph.nodes[path], RunDirectory(path)
        identity = places.identity(node.experiment, NO_DATA(node.experiment))
        directory.claim(identity, node.experiment.fields(), "")
        directory._merge(wall_time_s=100.0)
    after = costs.costs(graph)
    left = {cost.node.path: cost for cost in after.runs}
    assert all(left[path].training == 0 for path in paths[:4])
    assert all(left[path].evaluation > 0 for path in paths[:4])  # they have no verdicts
    assert "from 4 complete runs" in after.source
    # A run like those that took 100 seconds takes 100 seconds.
    np.testing.assert_allclose(left[paths[-1]].training, 100, rtol=1e-6)
    assert before.seconds > 0


@pytest.mark.parametrize(
    "mixtures, networks", [((0.5,), 2), (("weights:0.5",), 1), ((0.5, "nuts", 0.8), 6)]
)
def test_the_work_of_a_run_counts_every_attack_and_mixture_by_hand(mixtures, networks):
    data = facts("digits")
    plan = EvaluationPlan(
        attacks=("pgd20", "transfer-fgsm"),
        attack_images=(("pgd20", 10),),
        students=("last",),
        surrogate="there.keras",
        mixtures=tuple(map(Mix.of, mixtures)),
    )
    experiment = Experiment(
        dataset="digits", method=TRADES(), distillation=NoDistillation()
    )
    work = forecast.Work(experiment, data, plan, student=7, teachers=0, surrogate=100)
    clean = 360 * 7 + 10 * 7  # once for each number of images
    assert work.attacks["transfer-fgsm"] == 360 * 2 * 100
    assert work.attacks["pgd20"] == 10 * 40 * 7 * (1 + networks)
    assert work.attacks["clean"] == clean * (1 + networks)


@pytest.mark.parametrize("name", ["digits"])
def test_the_facts_of_a_data_set_are_those_of_the_data_set(name):
    data, known = datasets.load(name), facts(name)
    assert (len(data.train), len(data.validation), len(data.test)) == (
        len(known.train),
        len(known.validation),
        len(known.test),
    )
    assert (data.input_shape, data.num_classes) == (known.input_shape, known.num_classes)


def test_the_forecast_is_of_this_machine_where_nothing_has_run(tmp_path):
    graph, _ = planned("fig4b", root=str(tmp_path))
    assert "on this machine" in costs.costs(graph).source
