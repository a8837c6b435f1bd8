"""Verdicts of a run: what another surrogate or vanilla network took part in is dropped."""

import numpy as np
import pytest
import tiny

from vfd_tf.experiments import checks, verdicts
from vfd_tf.experiments.mixtures import Mix, is_mixed
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.experiments.verdicts import Verdicts
from vfd_tf.hyperparameters import InputError
from vfd_tf.models.mixture import fit_nuts

KEY, EIGHT = "linf:0.1 n=4", "linf:0.1 n=8"
CLEAN, WHITE, BLACK = ([1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0])


def filled(path):
    """A run with a student and three mixtures, white-box and black-box columns."""
    directory = RunDirectory(str(path))
    columns = {"clean": CLEAN, "fgsm": WHITE, "transfer-fgsm": BLACK}
    known = {name: np.array(right, bool) for name, right in columns.items()}
    directory.add_verdicts("last", *KEY.split(), known)
    for entry in (0.5, "weights:0.5", "nuts"):
        directory.add_verdicts(Mix.of(entry).name("last"), *KEY.split(), known)
    return directory


def black_box(which, column):
    return column.startswith("transfer-")


def mixed(which, column):
    return is_mixed(which)


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


def test_the_worst_is_over_the_attacks_of_its_threat_model(tmp_path):
    """8 images, each attack breaks one; those of the row's own ball are the worst."""
    names = ("pgd20", "transfer-fgsm", "mim5:norm=linf:epsilon=0.1", "cw-linf")
    others = ("cw", "cw_search:steps=10", "pgd20:epsilon=0.05", "apgd-ce:norm=l2:epsilon=1")
    rows = dict(zip((*names, *others), ~np.eye(8, dtype=bool), strict=True))
    directory, clean = RunDirectory(str(tmp_path)), {"clean": np.ones(8, bool)}
    directory.add_verdicts("last", *EIGHT.split(), clean | rows)
    found = directory.accuracies("last", *EIGHT.split())
    assert found["worst"] == 50.0 and set(found) == {"clean", "worst", *rows}
    directory.keep_made_with("surrogate", "a", black_box)
    directory.keep_made_with("surrogate", "b", black_box)  # all rows are made anew
    assert directory.accuracies("last", *EIGHT.split())["worst"] == 62.5
    two = ("best", "l2:1", "n=8")
    directory.add_verdicts(*two, clean | rows)
    # Of an L2 row without a radius in their names, and C&W in L-inf, which no name means.
    own = ["pgd20", "transfer-fgsm", "cw-linf", "apgd-ce:norm=l2:epsilon=1"]
    expected = np.logical_and.reduce([rows[name] for name in own])
    assert directory.accuracies(*two)["worst"] == 100 * expected.mean() == 50.0


def test_attacks_of_other_threat_models_alone_have_no_worst(tmp_path):
    directory, right = RunDirectory(str(tmp_path)), np.ones(8, bool)
    columns = {"clean": right, "cw": right, "cw_search": right}
    directory.add_verdicts("last", *EIGHT.split(), columns)
    assert "worst" not in directory.accuracies("last", *EIGHT.split())
    assert directory.results["accuracies"]["last"][EIGHT].keys() == columns.keys()


def test_accuracies_of_an_earlier_version_become_those_of_the_verdicts(tmp_path):
    """Its worst was over other attacks; columns without verdicts stay."""
    tiny.written(tmp_path)
    assert tiny.train(tmp_path, "--eval_attacks=fgsm") == 0
    directory, old = RunDirectory(str(tmp_path / "run")), {"clean": 1.0, "worst": 1.0}
    before = directory.results["accuracies"]
    rows = {**before["best"], EIGHT: {**before["best"][EIGHT], "worst": 1.0}, KEY: old}
    directory._merge(accuracies={**before, "best": rows})
    assert tiny.train(tmp_path, "--eval_attacks=fgsm") == 0
    expected = {**before, "best": {**before["best"], KEY: old}}
    assert RunDirectory(str(tmp_path / "run")).results["accuracies"] == expected


def test_verdicts_of_other_shapes_are_no_accuracies(tmp_path):
    directory = RunDirectory(str(tmp_path))
    with pytest.raises(InputError, match="verdicts are of other images"):
        directory.add_verdicts("last", *KEY.split(), {"clean": np.ones(3, bool)})
    np.savez(directory.file("verdicts.npz"), clean=np.ones(4, bool))
    with pytest.raises(InputError, match="verdicts are of other images"):
        directory.verdicts("last", *KEY.split())


def test_another_vanilla_network_drops_the_mixtures_alone(tmp_path):
    directory = filled(tmp_path)
    directory.keep_made_with("vanilla", "a", mixed)
    before = directory.accuracies("last", *KEY.split())
    directory.keep_made_with("vanilla", "b", mixed)
    assert directory.evaluated == ("last",)
    assert directory.accuracies("last", *KEY.split()) == before


def test_accuracies_of_verdicts_that_a_killed_process_wrote_alone_are_added(
    tmp_path, monkeypatch
):
    """Killed between verdicts.npz and results.json: no column is lost, none made again."""
    tiny.written(tmp_path)
    assert tiny.train(tmp_path, "--eval_attacks=fgsm") == 0
    merge = RunDirectory._merge

    def killed(self, **entries):
        if "pgd2" in str(entries):
            raise KeyboardInterrupt
        merge(self, **entries)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "_merge", killed)
        assert tiny.train(tmp_path, "--eval_attacks=fgsm,pgd2") == 1
    assert "pgd2" not in results(tmp_path)["accuracies"]["best"][EIGHT]
    with np.load(tmp_path / "run" / "verdicts.npz") as arrays:
        share = 100 * float(arrays[f"best|{EIGHT}|pgd2"].mean())
    asked, evaluated = [], Verdicts._evaluated
    monkeypatch.setattr(
        Verdicts,
        "_evaluated",
        lambda self, which, *rest: asked.append(which) or evaluated(self, which, *rest),
    )
    assert tiny.train(tmp_path, "--eval_attacks=fgsm,pgd2") == 0
    assert "best" not in asked
    assert results(tmp_path)["accuracies"]["best"][EIGHT]["pgd2"] == share
    before = (tmp_path / "run" / "results.json").read_text()
    assert tiny.train(tmp_path, "--eval_attacks=fgsm,pgd2") == 0
    assert (tmp_path / "run" / "results.json").read_text() == before


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


WORDS = ("--method=trades", "--pgd_steps=1", "--eval_students=last", "--noeval_teachers")


def results(folder):
    return RunDirectory(str(folder / "run")).results


def logits(robust, x, y, **threat):
    """Of a network that is right under attack, and wrong on the first clean image."""
    attacked = 4.0 * np.eye(3)[y] + np.linspace(0, 1, 3)
    clean = attacked.copy()
    clean[0] = np.roll(attacked[0], 1)
    return clean, attacked


def test_each_kind_of_mixture_is_evaluated_once_and_a_student_s_numbers_are_fitted_once(
    tmp_path, monkeypatch
):
    asked, evaluated, fitted = [], Verdicts._evaluated, []
    monkeypatch.setattr(
        Verdicts,
        "_evaluated",
        lambda self, which, *rest: asked.append(which) or evaluated(self, which, *rest),
    )

    def held_out(*given, **threat):
        fitted.append((*logits(*given), given[-1]))
        return fitted[-1][:2]

    monkeypatch.setattr(verdicts, "held_out_logits", held_out)
    tiny.written(tmp_path)
    words = *WORDS, "--mixtures=0.5,weights:0.5,nuts:0.9,nuts:0.5"
    names = ["last-mixture-0.5", "last-weights-0.5", "last-nuts-0.9", "last-nuts-0.5"]
    for _ in range(2):
        assert tiny.train(tmp_path, *words) == 0
        assert asked == ["last", *names] and len(fitted) == 1
    assert set(results(tmp_path)["accuracies"]) == {"last", *names}
    fits = {which: fit["linf:0.1"] for which, fit in results(tmp_path)["fits"].items()}
    assert fits == {
        f"last-nuts-{kept}": vars(fit_nuts(*fitted[0], kept=kept)) for kept in (0.9, 0.5)
    }


def test_a_mixture_that_was_begun_goes_on_with_the_numbers_it_was_begun_with(
    tmp_path, monkeypatch
):
    """The numbers are the run's; a fit that comes out otherwise doesn't replace them."""
    monkeypatch.setattr(verdicts, "held_out_logits", logits)
    tiny.written(tmp_path)
    assert tiny.train(tmp_path, *WORDS, "--mixtures=nuts:0.9") == 0
    first = results(tmp_path)["fits"]
    monkeypatch.setattr(verdicts, "held_out_logits", None)
    words = "--mixtures=nuts:0.9", "--eval_attacks=fgsm,pgd2"
    assert tiny.train(tmp_path, *WORDS, *words) == 0
    after = results(tmp_path)
    assert after["fits"] == first
    assert {"clean", "fgsm", "pgd2"} <= set(after["accuracies"]["last-nuts-0.9"][EIGHT])


def test_where_nothing_can_be_fitted_the_mixture_is_left_out_with_a_warning(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        verdicts, "held_out_logits", lambda *given, **threat: logits(*given)[1:] * 2
    )
    tiny.written(tmp_path)
    for _ in range(2):
        assert tiny.train(tmp_path, *WORDS, "--mixtures=nuts,0.5") == 0
        out = capsys.readouterr().out
        assert "Warning: last-nuts-0.985 is left out: The robust network is wrong" in out
        assert set(results(tmp_path)["accuracies"]) == {"last", "last-mixture-0.5"}


def test_only_a_network_that_nothing_fits_is_left_out_for_good(tmp_path, monkeypatch):
    """Any other refusal ends the command, and the next one tries again."""

    def refuse(*given, strict, **threat):
        assert not strict  # a collapsed student is no mistake of the user's
        raise InputError("The images are those of another day: take others.")

    monkeypatch.setattr(verdicts, "held_out_logits", refuse)
    tiny.written(tmp_path)
    assert tiny.train(tmp_path, *WORDS, "--mixtures=nuts:0.9") == 2
    assert "fits" not in results(tmp_path)
    monkeypatch.setattr(verdicts, "held_out_logits", logits)
    assert tiny.train(tmp_path, *WORDS, "--mixtures=nuts:0.9") == 0
    assert set(results(tmp_path)["accuracies"]) == {"last", "last-nuts-0.9"}


@pytest.mark.parametrize("student", ["best", "average"])
def test_a_student_that_is_never_mixed_is_refused_before_anything_is_trained(
    student, tmp_path, capsys
):
    tiny.written(tmp_path)
    words = *WORDS, "--mixtures=0.5", f"--eval_students={student}"
    assert tiny.train(tmp_path, *words) == 2
    assert "add last to --eval_students" in capsys.readouterr().err
    assert not [*tmp_path.glob("runs/*")]


def test_a_run_without_attacks_has_no_mixtures(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "check_prerequisite", lambda *_: None)  # near chance
    tiny.written(tmp_path)
    words = f"--teacher={tmp_path / 'net.keras'}", "--distill=vfd", "--mixtures=0.5"
    assert tiny.train(tmp_path, *words) == 0
    assert set(results(tmp_path)["accuracies"]) == {"best", "last"}


def test_weights_of_other_architectures_are_refused_before_anything_is_trained(
    tmp_path, capsys
):
    tiny.written(tmp_path)
    tiny.model().save(tmp_path / "other.keras")
    words = *WORDS, f"--teacher_arch={tmp_path / 'other.keras'}", "--mixtures=weights:0.5"
    assert tiny.train(tmp_path, *words) == 2
    assert "write 0.5 instead of weights:0.5 in --mixtures" in capsys.readouterr().err
    assert not [*tmp_path.glob("runs/*")]
