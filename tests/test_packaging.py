"""What is installed: every import is declared, and the wheel brings the recipes."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from vfd_tf.cli import flags, main, recipes

ROOT = pathlib.Path(__file__).parents[1]
NAMES = {"PIL": "pillow", "absl": "absl-py", "sklearn": "scikit-learn"}
EXTRAS = {"parsl"}  # refused with a sentence where it isn't installed
ON_DIGITS = ("demo", "smoke")
OF_OTHERS = {"importlib_resources"}  # for tensorflow-datasets, which doesn't declare it


def imported() -> set[str]:
    """Distributions that the package imports, anywhere."""
    found = set()
    for path in (ROOT / "vfd_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    others = found - set(sys.stdlib_module_names) - {"vfd_tf"}
    return {NAMES.get(name, name.replace("_", "-")) for name in others}


def declared() -> set[str]:
    """Distributions that setup.py requires."""
    text = (ROOT / "setup.py").read_text()
    listed = re.search(r"install_requires=\[(.*?)\n    \]", text, re.DOTALL)[1]
    return {re.split(r"[<>=]", name)[0] for name in re.findall(r'"([^"]+)"', listed)}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    assert imported() - EXTRAS == declared() - OF_OTHERS


def test_every_recipe_opens_with_its_command_hours_and_accuracy():
    found = recipes.paths()
    assert {"demo", "cpu", "shared", "trades", "hat"} <= set(found)
    for name, path in found.items():
        head = "".join(re.findall(r"^#.*\n", path.read_text(), re.M))
        assert head.startswith(f"# python run.py --recipe={name}"), name
        assert "Hours:" in head and "Precision: float32" in head, name
        assert name in ON_DIGITS or re.search(r"Published|Measured", head), name


@pytest.mark.parametrize("name", sorted(recipes.paths()))
@pytest.mark.parametrize("dataset", ["", "cifar100"])
def test_every_recipe_is_read_and_takes_another_data_set(name, dataset):
    values = flags.define()
    words = [f"--recipe={name}", *([f"--dataset={dataset}"] if dataset else [])]
    values(recipes.expanded(["run.py", *words]))
    for experiment in flags.experiments(values):
        own = "digits" if name in ON_DIGITS else "cifar10"
        assert experiment.dataset == (dataset or own)


def test_flags_behind_a_recipe_have_the_last_word():
    values = flags.define()
    words = ["run.py", "--epochs=3", "--recipe", "demo", "--learning_rate=0.3"]
    values(recipes.expanded(words))  # the recipe's are 20 epochs and 0.1
    (experiment, _) = flags.experiments(values)
    assert (experiment.recipe.epochs, experiment.recipe.learning_rate) == (20, 0.3)


def test_an_unknown_recipe_is_refused_with_the_nearest_name(capsys):
    assert main.main(["run.py", "--recipe=trade"]) == 2
    assert "Did you mean 'trades'?" in capsys.readouterr().err


@pytest.mark.slow
def test_an_installed_wheel_replays_a_recipe_from_anywhere(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, site, source = (tmp_path / name for name in ("wheels", "site", "source"))
    source.mkdir()
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("vfd_tf", "flags"):
        shutil.copytree(ROOT / name, source / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source]
    subprocess.run([*pip, *build], check=True, cwd=tmp_path)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    words = ["--recipe=demo", "--distill=none", "--method=natural", "--epochs=1"]
    words += ["--max_images=32", "--eval_attacks=fgsm"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [site / "bin" / "vfd", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "natural+none (best)" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "best.keras").exists()
