"""Files of suites: rows compared with one, mixtures, and the points of their curves."""

import json
import os

import pytest
from plans import GOOD, NO_DATA, planned

from vfd_tf.cli import commands, flags, suite_file, suite_plan
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.graph import Graph
from vfd_tf.suites.report import suite_record
from vfd_tf.suites.suite import read
from vfd_tf.training.methods import Natural


def test_mixtures_of_a_suite_are_numbers_and_texts_and_each_kind_is_a_curve(tmp_path):
    path, rows = tmp_path / "mine.toml", '"TRADES+VFD" = "--method=trades --distill=vfd"\n'
    entries = '[curves]\nmixtures = [0.8, "weights:0.5", "nuts", "0.80"]\n'
    robust = GOOD.replace('"clean pgd20"', '"autoattack clean pgd20"')
    path.write_text(robust + rows + entries)
    graph, (found,) = planned(str(path))
    curves = suite_file.describe(found)["curves"]
    assert [(point["kind"], point["label"], point["which"]) for point in curves] == [
        ("mixture", "0.8", "last-mixture-0.8"),
        ("weights", "0.5", "last-weights-0.5"),
        ("nuts", "0.985", "last-nuts-0.985"),
    ]
    (base,) = [path for point, _, path in found.points if point.row == "TRADES"]
    teacher = graph.nodes[base].vanilla
    assert isinstance(graph.nodes[teacher].experiment.method, Natural)
    workdir = tmp_path / "suite"
    workdir.mkdir()
    (workdir / "suite.json").write_text(json.dumps(suite_file.describe(found)))
    stored = suite_record.read(str(workdir)).curves
    wanted = os.path.normpath(os.path.join(workdir, os.path.relpath(teacher, found.folder)))
    assert {point.vanilla for point in stored} == {wanted}
    words = commands.words_of(graph.nodes[base], graph)
    assert "--mixtures=0.8,weights:0.5,nuts:0.985" in words


def test_mixed_rows_are_mixed_as_well_and_their_points_say_whose_they_are(tmp_path):
    path, rows = tmp_path / "mine.toml", '"TRADES+VFD" = "--method=trades --distill=vfd"\n'
    rows += '"TRADES+KD" = "--method=trades --distill=kd"\n'
    curves = '[curves]\nmixtures = [0.8]\nmixed = ["TRADES+VFD"]\n'
    path.write_text(GOOD + rows + curves + '"TRADES+KD" = "--kd_temperature=2"\n')
    _, (found,) = planned(str(path))
    points = suite_file.describe(found)["curves"]
    assert [(point["group"], point["row"], point["kind"]) for point in points] == [
        ("TRADES", "TRADES", "mixture"),
        ("TRADES", "TRADES+VFD", "mixture"),
        ("TRADES", "TRADES+KD", "sweep"),
    ]


def test_all_rows_may_be_compared_with_one_whatever_their_names(tmp_path):
    path, rows = tmp_path / "mine.toml", '"HAT" = "--method=hat --distill=none"\n'
    curves = '[curves]\nmixtures = [0.8]\n"TRADES" = "--trades_beta=1"\n'
    path.write_text(GOOD.replace("[rows]", 'against = "TRADES"\n[rows]') + rows + curves)
    _, (found,) = planned(str(path))
    whole = suite_file.describe(found)
    assert whole["against"] == "TRADES"
    bases = [(entry["row"], entry["group"], entry["base"]) for entry in whole["entries"]]
    assert bases == [("TRADES", "TRADES", None), ("HAT", "TRADES", "TRADES")]
    assert {(point["group"], point["row"]) for point in whole["curves"]} == {
        ("TRADES", "TRADES")
    }
    assert [point["kind"] for point in whole["curves"]] == ["mixture", "sweep"]


def test_points_of_curves_get_autoattack_wherever_it_stands(tmp_path):
    path, curves = tmp_path / "mine.toml", '[curves]\n"TRADES" = "--trades_beta=1"\n'
    path.write_text(GOOD.replace('"clean pgd20"', '"autoattack clean pgd20"') + curves)
    _, (found,) = planned(str(path))
    (plan,) = [plan for (point, _), plan in found.plans.items() if point.curve]
    assert plan.attacks == ("autoattack",)
    path.write_text(GOOD + curves)  # without it the last attack
    _, (found,) = planned(str(path))
    assert {plan.attacks for plan in found.plans.values()} == {("pgd20",)}


def test_suites_that_share_a_run_have_the_mixtures_and_students_of_their_own(tmp_path):
    rows = '"TRADES+VFD" = "--method=trades --distill=vfd"\n[curves]\n'
    graph, known = Graph("runs", NO_DATA, flags.words), {}
    for name, mix, students in (("a", 0.8, "last"), ("b", 0.5, "average")):
        path = tmp_path / f"{name}.toml"
        head = f'students = "{students}"\nflags = "--average=ema '
        own = GOOD.replace('flags = "', head) + rows + f"mixtures = [{mix}]\n"
        path.write_text(own)
        (each,) = read(str(path), "smoke")
        known[name] = suite_plan.PlannedSuite(each, f"runs/{name}", graph, (), (0,))
    wholes = [suite_file.describe(each) for each in known.values()]
    assert {tuple(n.plan.students) for n in graph.nodes.values() if n.plan} >= {
        ("last", "average")
    }
    asked = ("0.8", "last"), ("0.5", "average")
    for whole, (label, student) in zip(wholes, asked, strict=True):
        assert {entry["student"] for entry in whole["entries"]} == {student}
        assert [(p["label"], p["student"]) for p in whole["curves"]] == [(label, student)]


@pytest.mark.parametrize(
    "more, said",
    [
        ("[curves]\nmixtures = [0.8]\n", "mixtures has no effect, as no row is compared"),
        ('[curves]\nmixtures = [0.8]\nmixed = ["V"]\n', "V: its student is trained as"),
        (
            '[curves]\nmixtures = ["nuts"]\nmixed = ["TRADES"]\n',
            "mixtures has nuts:0.985, whose errors other attacks don't find: add auto",
        ),
    ],
)
def test_mixtures_without_effect_are_refused(tmp_path, more, said):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + '"V" = "--method=natural --distill=none"\n' + more)
    with pytest.raises(InputError, match=said):
        planned(str(path))


def test_a_sweep_of_all_rows_beside_a_curve_of_one_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    sweep = GOOD.replace("[rows]", 'sweep = "--vfd_lambda=0.01,0.02"\n[rows]')
    path.write_text(sweep + '[curves]\nTRADES = "--trades_beta=1,2"\n')
    with pytest.raises(InputError, match=r"a sweep and, in \[curves\], one of TRADES"):
        planned(str(path))


def test_a_flag_that_the_file_has_a_key_for_is_refused_with_the_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('flags = "', 'flags = "--mixtures=0.8 '))
    with pytest.raises(InputError, match=r"write mixtures = \[...\] in \[curves\]"):
        planned(str(path))
