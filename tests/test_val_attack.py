"""--val_attack: which attack chooses the best student of a run."""

import csv
import json

import pytest
import tiny

from vfd_tf import InputError
from vfd_tf.cli import flags
from vfd_tf.data.facts import facts
from vfd_tf.experiments import forecast
from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.experiments.experiment import Recipe


def experiment(*words):
    values = flags.define()
    values(["run.py", "--method=pgd-at", "--distill=none", *words])
    (found,) = flags.experiments(values)
    return found


def test_the_default_leaves_the_names_of_runs():
    usual, other = experiment(), experiment("--val_attack=autoattack-quick")
    assert "val_attack" not in str(usual.identity("digest", {}))
    assert usual.identity("d", {}) == experiment("--val_attack=pgd10").identity("d", {})
    assert usual.identity("d", {}) != other.identity("d", {})
    assert other.recipe.val_attack_images is None


def test_what_is_no_attack_on_the_student_is_refused():
    with pytest.raises(InputError, match="made on a surrogate"):
        Recipe(val_attack="transfer-pgd20")
    with pytest.raises(InputError, match="attack"):
        Recipe(val_attack="autoattack-quik")


def test_a_forecast_counts_the_attack_of_the_validation():
    data, plan = facts("digits"), EvaluationPlan(attacks=())
    epochs = {}
    for words in ((), ("--val_attack=pgd20",), ("--val_attack_images=10",)):
        work = forecast.Work(experiment(*words), data, plan, 1)
        epochs[words] = work.epoch - work.steps * work.step
    images = len(data.validation)
    assert [*epochs.values()] == [images * 21, images * 41, images + 200]


@pytest.mark.slow
def test_a_run_chooses_its_best_student_by_it(tmp_path):
    folder = tiny.written(tmp_path)
    words = "--method=pgd-at", "--pgd_steps=1", "--val_attack=autoattack-quick"
    assert tiny.train(folder, *words, "--val_attack_images=2") == 0
    with open(folder / "run" / "history.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["val_autoattack-quick_accuracy"] and "val_pgd10_accuracy" not in row
    assert "catastrophic_overfitting" in row
    owner = json.loads((folder / "run" / "run.json").read_text())
    assert "val_attack='autoattack-quick'" in owner["identity"]["recipe"]
    assert (folder / "run" / "best.keras").exists()
