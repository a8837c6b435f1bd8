"""The README runs as printed."""

import pathlib
import re
import subprocess
import sys

import pytest

from vfd_tf.cli import flags

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_script_runs_and_is_under_25_lines(tmp_path):
    script, evaluation, *_ = blocks("python")
    assert len([line for line in script.splitlines() if line.strip()]) < 25
    (tmp_path / "script.py").write_text(script + evaluation)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(pathlib.Path(__file__).parents[1]), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "robust.keras").exists()
    assert "pgd20" in done.stdout


def test_every_command_parses(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    commands = re.findall(r"^python (run\.py .*?)(?:\s+#.*)?$", "".join(blocks("sh")), re.M)
    assert len(commands) >= 3
    for line in commands:
        words = line.split()
        if "--help" not in words:
            assert flags.experiments(_parsed(words))


def _parsed(words):
    values = flags.define()
    values(words)
    return values


def test_the_new_method_of_the_readme_is_a_method(make_network, toy):
    from vfd_tf import AdversarialTrainer, attacks, losses
    from vfd_tf.hyperparameters import component, hyper
    from vfd_tf.training.methods import TRADES

    names = {"TRADES": TRADES, "hyper": hyper, "component": component, "losses": losses}
    exec(blocks("python")[-1], names)
    trainer = AdversarialTrainer(make_network(), names["MyMethod"](), attacks.PGD(steps=1))
    trainer.compile("sgd", run_eagerly=True)
    logs = trainer.fit(*toy, verbose=0).history
    assert {"clean_loss", "adv_loss", "hard_loss"} <= set(logs)
