"""Verdicts of a run: what another surrogate or vanilla network took part in is dropped."""

import numpy as np
import pytest
import tiny

from vfd_tf.experiments import checks
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.experiments.verdicts import Verdicts, mixture_name

KEY = "linf:0.1 n=4"
CLEAN, WHITE, BLACK = ([1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0])


def filled(path):
    """A run with a student and a mixture, white-box and black-box columns."""
    directory = RunDirectory(str(path))
    columns = {"clean": CLEAN, "fgsm": WHITE, "transfer-fgsm": BLACK}
    verdicts = {name: np.array(right, bool) for name, right in columns.items()}
    directory.add_verdicts("last", *KEY.split(), verdicts)
    directory.add_verdicts(mixture_name("last", 0.5), *KEY.split(), verdicts)
    return directory


def black_box(which, column):
    return column.startswith("transfer-")


def mixed(which, column):
    return "mixture" in which


@pytest.mark.parametrize("role, needs", [("surrogate", black_box), ("vanilla", mixed)])
def test_the_first_network_of_a_role_and_the_same_again_drop_nothing(tmp_path, role, needs):
    directory = filled(tmp_path)
    before = directory.results["accuracies"]
    for _ in range(2):
        directory.keep_made_with(role, "a", needs)
        assert directory.results["accuracies"] == before


def test_another_surrogate_drops_the_black_box_columns_alone(tmp_path, capsys):
    directory = filled(tmp_path)
    directory.keep_made_with("surrogate", "a", black_box)
    assert directory.accuracies("last", *KEY.split())["worst"] == 0.0
    directory.keep_made_with("surrogate", "b", black_box)
    assert "another surrogate" in capsys.readouterr().out
    # 3 of 4 clean, 1 of 4 under FGSM; the worst of these is over two columns alone.
    assert directory.accuracies("last", *KEY.split()) == {"clean": 75.0, "fgsm": 25.0}
    assert set(directory.verdicts("last", *KEY.split())) == {"clean", "fgsm"}


def test_another_vanilla_network_drops_the_mixtures_alone(tmp_path):
    directory = filled(tmp_path)
    directory.keep_made_with("vanilla", "a", mixed)
    before = directory.accuracies("last", *KEY.split())
    directory.keep_made_with("vanilla", "b", mixed)
    assert directory.evaluated == ("last",)
    assert directory.accuracies("last", *KEY.split()) == before


@pytest.mark.filterwarnings("error:--teacher_epochs has no effect")
def test_mixtures_with_another_teacher_are_evaluated_anew(tmp_path, monkeypatch):
    asked, evaluated = [], Verdicts._evaluated
    monkeypatch.setattr(
        Verdicts,
        "_evaluated",
        lambda self, which, *rest: asked.append(which) or evaluated(self, which, *rest),
    )
    words = "--method=trades", "--pgd_steps=1", "--mixtures=0.5", "--eval_students=last"
    tiny.written(tmp_path)
    words = *words, "--noeval_teachers"
    for more, expected in (
        ((), ["last", "last-mixture-0.5"]),
        ((), []),
        (("--teacher_epochs=2",), ["last-mixture-0.5"]),
    ):
        asked.clear()
        assert tiny.train(tmp_path, *words, *more) == 0
        assert asked == expected


def test_a_given_teacher_is_the_vanilla_network_of_the_mixtures(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        Verdicts, "_evaluated", lambda self, *_: loaded.append(self.vanilla) or {}
    )
    tiny.written(tmp_path)
    teacher = tmp_path / "net.keras"
    words = f"--teacher={teacher}", "--mixtures=0.5", "--method=trades", "--pgd_steps=1"
    monkeypatch.setattr(checks, "check_prerequisite", lambda *_: None)  # near chance
    assert tiny.train(tmp_path, *words) == 0
    assert set(loaded) == {str(teacher)}
    assert not [*tmp_path.glob("runs/*natural*")]
