"""--surrogate=auto is one network, whichever mode trains it."""

import pytest
import tiny

from vfd_tf.cli import main
from vfd_tf.experiments.runner import Runner
from vfd_tf.hyperparameters import InputError

SETTINGS = "jit_compile", "steps_per_execution", "checkpoint_minutes", "checkpoint_steps"


@pytest.fixture
def asked(monkeypatch):
    """The experiments that would be run, with their sessions; none is."""
    found = []

    def refuse(self, experiment, session, *_):
        found.append((experiment, session))
        raise InputError("No more is needed.")

    monkeypatch.setattr(Runner, "__init__", refuse)
    return found


def test_train_and_evaluate_train_one_surrogate_in_the_same_way(tmp_path, asked):
    tiny.written(tmp_path)
    words = [
        *(*tiny.flags(tmp_path), "--surrogate=auto", "--validation=4", "--max_images=5"),
        *(f"--surrogate_arch={tmp_path / 'net.keras'}", "--arch=resnet8", "--width=0.5"),
        *("--method=trades", "--average=ema", "--awp_gamma=0.005", "--teacher_seed=7"),
        *("--steps_per_execution=2", "--checkpoint_minutes=3", "--checkpoint_steps=4"),
    ]
    assert main.main(["run.py", *words]) == 2
    assert main.main(["run.py", "evaluate", str(tmp_path / "net.keras"), *words]) == 2
    (one, its), (other, others) = asked
    assert one == other and one.recipe.average == "none" and one.seed == 7
    assert its.data.digest == others.data.digest
    assert len(its.data.validation) == 4 and its.test.digest == others.test.digest
    for name in (*SETTINGS, "root"):
        assert getattr(its, name) == getattr(others, name), name
    assert its.strategy is others.strategy and its.plan == others.plan


def test_a_place_for_results_that_is_none_is_told_before_the_surrogate_is_trained(
    tmp_path, asked, capsys
):
    tiny.written(tmp_path)
    (tmp_path / "file").write_text("precious")
    words = *tiny.flags(tmp_path), "--surrogate=auto", f"--eval_dir={tmp_path / 'file'}"
    assert main.main(["run.py", "evaluate", str(tmp_path / "net.keras"), *words]) == 2
    assert "choose another --eval_dir" in capsys.readouterr().err and not asked
