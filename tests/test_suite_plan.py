"""What the command `suite` plans: rows of the paper, flags, columns, images, folders."""

import json
import os
import re

import numpy as np
import pytest
from plans import ROWS, planned, run, values_of

from vfd_tf.cli import recipes, suite, suite_file, suite_plan
from vfd_tf.experiments import places
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Experiment
from vfd_tf.experiments.mixtures import Mix
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.suite import SCALES, read
from vfd_tf.training.distillation import VFD
from vfd_tf.training.methods import TRADES, Natural


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


def test_the_vanilla_row_is_not_the_teacher():
    graph, (found,) = planned("table1")
    row = next(path for point, _, path in found.points if point.row == "Vanilla")
    assert isinstance(graph.nodes[row].experiment.method, Natural)
    assert "teacher" not in graph.nodes[row].name


def test_commands_leave_out_what_the_recipe_of_the_scale_replaces():
    """Who reads `--arch=resnet18 --recipe=smoke` takes it for a ResNet-18."""
    _, (found,) = planned("table1")
    assert found.suite.flags == ("--dataset=cifar10", "--arch=resnet18", "--recipe=smoke")
    assert found.words("--width=0.5") == ("--recipe=smoke", "--width=0.5")
    _, (vgg,) = planned("vgg16", more=("--epochs=2",))
    behind = ("--arch=vgg16", "--width=0.06", "--image_size=32", "--epochs=2")
    assert vgg.words()[-4:] == behind


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_left_out_decides_no_run(scale):
    for suite_ in read("all", scale):
        gone = recipes.replaced(suite_.flags)
        left = [word for word in suite_.flags if word not in gone]
        values, same = values_of(*suite_.flags), values_of(*left)
        assert values.flag_values_dict() == same.flag_values_dict()
    assert planned("table2", "short")[1][0].words()[0] == "--dataset=cifar100"


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


def test_attacks_of_the_command_stand_in_place_of_the_suites():
    _, (found,) = planned("table1", more=("--eval_attacks=fgsm,pgd50",))
    whole = suite_file.describe(found)
    assert whole["columns"] == ["fgsm", "clean", "pgd50"]
    assert set(whole["images"]) == {"fgsm", "pgd50"}
    assert not any("surrogate" in name for name in whole["nodes"])


def test_a_surrogate_to_be_trained_is_the_suites_own():
    with pytest.raises(InputError, match="leave --surrogate=auto out"):
        planned("table1", more=("--surrogate=auto",))


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


def test_flags_of_the_command_join_the_name_of_the_folder(tmp_path):
    (found,) = read("fig2", "cpu")
    plain = suite.folder_of(found, values_of(f"--runs={tmp_path}"), ())
    other = suite.folder_of(found, values_of(f"--runs={tmp_path}"), ("--average=ema",))
    assert os.path.basename(plain) == "suite-fig2-cpu"
    assert re.fullmatch(r"suite-fig2-cpu-[0-9a-f]{6}", os.path.basename(other))


def test_another_suite_in_the_folder_is_refused_and_nothing_is_lost(tmp_path, capsys):
    whole = {"version": 1, "name": "fig2", "scale": "smoke", "flags": []}
    (tmp_path / "suite.json").write_text(json.dumps(whole))
    assert run("fig4b", "--scale=smoke", f"--workdir={tmp_path}") == 2
    error = capsys.readouterr().err
    assert "holds the suite fig2" in error and "--workdir" in error
    assert json.loads((tmp_path / "suite.json").read_text()) == whole


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
