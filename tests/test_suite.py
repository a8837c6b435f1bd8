"""Suites: files that are data, graphs of commands, forecasts, slices."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import types

import numpy as np
import pytest

from vfd_tf.cli import commands, flags, main, suite, suite_file, suite_plan
from vfd_tf.data import datasets
from vfd_tf.data.facts import facts
from vfd_tf.experiments import forecast, places
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites import costs
from vfd_tf.suites.graph import Graph, Node, Run, is_done
from vfd_tf.suites.suite import SCALES, names, read
from vfd_tf.training.distillation import KD, VFD, NoDistillation
from vfd_tf.training.methods import HAT, TRADES, Natural

ROWS = ["Vanilla"] + [
    f"{base}{more}"
    for base in ("ALP", "TRADES", "MART", "HAT")
    for more in ("", "+KD", "+BGAT", "+LBGAT", "+VFD-Adv")
]
NO_DATA = lambda experiment: "0" * 16  # noqa: E731 -- the data set is not read


def values_of(*words):
    values = flags.define()
    flags.parse(values, words)
    return values


def planned(name, scale="smoke", more=(), seeds=(0,), root="runs"):
    graph = Graph(root, NO_DATA, flags.words)
    found = read(name, scale)
    return graph, [
        suite_plan.PlannedSuite(each, f"{root}/{each.name}", graph, more, seeds)
        for each in found
    ]


def run(*words):
    return main.main(["run.py", "suite", *map(str, words)])


@pytest.mark.parametrize("name", ["table1", "table2", "vgg16"])
def test_the_tables_have_the_rows_of_the_paper_in_its_order(name):
    (found,) = read(name, "paper")
    assert list(found.rows) == ROWS
    assert found.columns[-1] == "autoattack"


def test_figure_2_raises_beta_from_1_to_6_in_five_rows():
    (found,) = read("fig2", "paper")
    points = found.points()
    assert [point.value for point in points[:6]] == list("123456") and len(points) == 30


def test_figure_4b_has_lambda_from_0_to_4_percent_in_steps_of_half_a_percent():
    (found,) = read("fig4b", "paper")
    values = [float(point.value) for point in found.points()]
    np.testing.assert_allclose(values, np.arange(9) * 0.005)


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


def test_options_join_the_base_and_the_enhanced_alike():
    _, (found,) = planned("table1", more=("--average=ema", "--precision=mixed_bfloat16"))
    entries = suite_file.describe(found)["entries"]
    for student in ("last", "average"):
        assert [e["row"] for e in entries if e["student"] == student] == ROWS
    for _, _, path in found.points:
        recipe = found.graph.nodes[path].experiment.recipe
        assert (recipe.average, recipe.precision) == ("ema", "mixed_bfloat16")


def test_fewer_images_are_those_of_the_command_where_it_names_the_attack():
    _, (found,) = planned("table1", more=("--attack_images=cw:3",))
    assert suite_file.describe(found)["images"]["cw"] == 3
    assert suite_file.describe(found)["images"]["autoattack"] == 10  # as the scale says
    with pytest.raises(InputError, match="--attack_images"):
        planned("table1", more=("--attack_images=pgd50:3",))


def test_curves_need_no_surrogate():
    graph, (found,) = planned("table1")
    for point, _, path in found.points:
        names_ = [graph.nodes[before].name for before in graph.nodes[path].after]
        assert any("surrogate" in name for name in names_) != point.curve
        assert (graph.nodes[path].plan.surrogate in graph.nodes) != point.curve


def test_flags_of_a_machine_join_the_commands_and_not_the_suite(tmp_path, capsys):
    words = "fig4b", "--scale=smoke", "--list", "--checkpoint_minutes=3", "--epochs=2"
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("--checkpoint_minutes=3" in line and "--epochs=2" in line for line in lines)
    more, places_ = suite_plan.passed_on(values_of(*words[3:]))
    assert (more, places_) == (("--epochs=2",), ("--checkpoint_minutes=3.0",))


def test_flags_that_rows_set_are_said_to_have_no_effect():
    with pytest.warns(UserWarning, match="--method has no effect"):
        assert run("fig4b", "--scale=smoke", "--list", "--method=hat") == 0


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


def test_teachers_of_fewer_epochs_are_other_teachers():
    experiment = Experiment(method=TRADES(), distillation=VFD())
    short = experiment.replace(teacher_epochs=30)
    assert short.prerequisite("teacher").recipe.epochs == 30
    assert short.prerequisite("teacher").teacher_epochs is None
    keys = [places.helpers(each, "0")["teacher"] for each in (experiment, short)]
    assert keys[0] != keys[1]
    assert places.identity(experiment, "0") == places.identity(
        experiment.replace(teacher_epochs=None), "0"
    )


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


def test_the_vanilla_row_is_not_the_teacher():
    graph, (found,) = planned("table1")
    row = next(path for point, _, path in found.points if point.row == "Vanilla")
    assert isinstance(graph.nodes[row].experiment.method, Natural)
    assert "teacher" not in graph.nodes[row].name


GOOD = """
title = "Mine"
flags = "--dataset=digits --arch=resnet8"
columns = "clean pgd20"
[rows]
"TRADES" = "--method=trades --distill=none"
"""


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


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["tabel1"], "Did you mean 'table1'"),
        ([], "Name a suite"),
        (["table1", "fig2", "--workdir=here"], "there are 2 suites"),
        (["nowhere.toml"], "can't be read"),
        (["table1", "--shard=0/4", "--list"], "--shard=0/4"),
        (["table1", "--rows=TRADES+VFD-Ad", "--list"], "Did you mean 'TRADES+VFD-Adv'"),
        (["table1", "--scale=big"], "scale"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    scale = [] if any("--scale" in word for word in words) else ["--scale=smoke"]
    assert run(*words, *scale) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_another_suite_in_the_folder_is_refused_and_nothing_is_lost(tmp_path, capsys):
    whole = {"version": 1, "name": "fig2", "scale": "smoke", "flags": []}
    (tmp_path / "suite.json").write_text(json.dumps(whole))
    assert run("fig4b", "--scale=smoke", f"--workdir={tmp_path}") == 2
    error = capsys.readouterr().err
    assert "holds the suite fig2" in error and "--workdir" in error
    assert json.loads((tmp_path / "suite.json").read_text()) == whole


def test_flags_of_the_command_join_the_name_of_the_folder(tmp_path):
    (found,) = read("fig2", "cpu")
    plain = suite.folder_of(found, values_of(f"--runs={tmp_path}"), ())
    other = suite.folder_of(found, values_of(f"--runs={tmp_path}"), ("--average=ema",))
    assert os.path.basename(plain) == "suite-fig2-cpu"
    assert re.fullmatch(r"suite-fig2-cpu-[0-9a-f]{6}", os.path.basename(other))


def test_a_plan_tells_which_attacks_take_how_many_images():
    plan = EvaluationPlan(
        attacks=("fgsm", "cw", "transfer-cw", "autoattack"),
        attack_images=(("cw", 10), ("autoattack", 100)),
        surrogate="there.keras",
        max_images=50,
    )
    assert plan.rounds() == {50: ("fgsm", "autoattack"), 10: ("cw", "transfer-cw")}


def test_what_two_suites_ask_of_a_run_is_asked_once():
    one = EvaluationPlan(attacks=("fgsm",), mixtures=(Mix.of(0.5),))
    two = EvaluationPlan(attacks=("pgd20", "fgsm"), attack_images=(("pgd20", 5),))
    both = one.joined(two)
    assert both.attacks == ("fgsm", "pgd20") and both.mixtures == (Mix.of(0.5),)
    assert both.rounds() == {None: ("fgsm",), 5: ("pgd20",)}


def test_the_forecast_is_of_this_machine_where_nothing_has_run(tmp_path):
    graph, _ = planned("fig4b", root=str(tmp_path))
    assert "on this machine" in costs.costs(graph).source


def test_attacks_of_the_command_stand_in_place_of_the_suites():
    _, (found,) = planned("table1", more=("--eval_attacks=fgsm,pgd50",))
    whole = suite_file.describe(found)
    assert whole["columns"] == ["fgsm", "clean", "pgd50"]
    assert set(whole["images"]) == {"fgsm", "pgd50"}
    assert not any("surrogate" in name for name in whole["nodes"])


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
