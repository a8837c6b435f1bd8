"""The documents: scripts and commands run as printed, pointers lead somewhere."""

import csv
import glob
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from vfd_tf.cli import flags, main, recipes
from vfd_tf.suites import suite
from vfd_tf.suites.report import build, document

ROOT = pathlib.Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
README = TEXTS["README.md"]


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", TEXTS[name], re.DOTALL)


def run(folder, text):
    """Runs a script in a folder; what it prints."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_scripts_of_readme_and_evaluation_run(tmp_path, monkeypatch, capsys):
    lines, script, own = blocks("README.md", "python")
    assert len([line for line in script.splitlines() if line.strip()]) < 25
    small = "\nmodel, (x, y) = trainer.student, (val[0][:40], val[1][:40])\nval = x, y\n"
    mine = "\nmodel, teacher, (x, y) = network(), vanilla.student, train\n"
    parts = script, small, lines, blocks("docs/evaluation.md", "python")[0], mine, own
    printed = run(tmp_path, "".join(parts))
    assert "| autoattack" in printed and "| clean" in printed
    monkeypatch.chdir(tmp_path)
    for command in every_command("evaluate "):
        assert main.main([*command.split(), "--max_images=24"]) == 0
        assert "robust.eval/results.json" in capsys.readouterr().out


SMALL = ["--dataset=digits", "--width=0.25", "--epochs=1", "--pgd_steps=1"]
SMALL += ["--method=trades", "--max_images=16", "--eval_attacks=pgd20", "--panel_every=0"]


@pytest.mark.slow
def test_commands_that_need_no_gpu_run(tmp_path, monkeypatch, capsys):
    """Those of training on other data for one epoch, suites without AutoAttack, the rest
    as printed."""
    monkeypatch.chdir(tmp_path)
    suite = blocks("docs/suites.md", "toml")[0].replace("autoattack", "fgsm")
    (tmp_path / "mine.toml").write_text(suite)
    rest = [c for c in every_command("") if " evaluate " not in c]
    trains = [c for c in rest if c.split()[1].startswith("-")]
    assert len(trains) == 1 and len(rest) >= 3
    named = {"VANILLA_RUN": "*natural*", "ROBUST_RUN": "*trades-vfd*"}
    for command in sorted(rest, key=turn):
        for name, pattern in named.items():
            command = command.replace(name, pattern)
        words = [p for w in command.split() for p in (sorted(glob.glob(w)) or [w])]
        assert main.main([*words, *(SMALL if command in trains else [])]) == 0, command
    assert "trades+vfd (best)" in capsys.readouterr().out


def turn(command):
    """Trainings come first, then what looks at their runs, suites and reports."""
    mode = command.split()[1]
    last = ["suite", "report"]
    return 0 if mode.startswith("-") else 2 + last.index(mode) if mode in last else 1


@pytest.mark.slow
def test_the_script_of_vfd_runs(tmp_path):
    assert "vfd_share" in run(tmp_path, blocks("docs/vfd.md", "python")[0])


def commands(name, gpu=True):
    """The commands of a document, without comments; those for a GPU or hours say so."""
    lines = "".join(blocks(name, "sh"))
    found = re.findall(r"^python (run\.py [^#\n]*?) *(#.*)?$", lines, re.M)
    return [
        line
        for line, comment in found
        if "--help" not in line
        and (gpu or not re.search("needs a GPU|takes hours", comment))
    ]


def every_command(mode):
    """Each command of all documents that begins with this mode and needs no GPU, once."""
    found = (line for name in TEXTS for line in commands(name, gpu=False))
    return [*dict.fromkeys(line for line in found if line.startswith(f"run.py {mode}"))]


@pytest.mark.parametrize("name", [n for n in TEXTS if "```sh" in TEXTS[n]])
def test_every_command_is_understood(name):
    for line in commands(name):
        values = flags.define()
        values.set_gnu_getopt()
        words = values(recipes.expanded(line.split()))[1:]
        assert not words or words[0] in main.MODES, line
        assert flags.experiments(values)


def test_the_suite_of_the_document_is_one_and_its_table_has_every_key(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(blocks("docs/suites.md", "toml")[0])
    for scale in suite.SCALES:
        (read,) = suite.read(str(path), scale)
        assert [point.row for point in read.points()] == [*read.rows, *2 * ["TRADES"]]
    path.write_text(blocks("docs/suites.md", "toml")[1])
    (read,) = suite.read(str(path), "smoke")
    assert {read.base(row) for row in read.rows} == {None, read.against}
    named = {
        key
        for row in re.findall(r"^\| (`[^|]+) \|", TEXTS["docs/suites.md"], re.M)
        for key in re.findall(r"`\[?([a-z_\d]+)\]?`", row)
    }
    assert named >= {*suite.KEYS, *suite.SCALES, *suite.names(), suite.ALL}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        text = file.read_text() if heading else ""
        titles = re.findall(r"^#+ (.*)$", text, re.M)
        names = [re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles]
        names += re.findall(r'<a id="([^"]+)"></a>', text)
        assert not heading or heading in names, target


def test_files_that_are_named_exist():
    for name, text in TEXTS.items():
        for path in re.findall(r"`((?:vfd_tf|tests|flags|benchmarks|docs)/[\w/.]+)`", text):
            assert (ROOT / path).exists() or "NAME" in path, (name, path)


def test_the_table_of_equations_points_at_code():
    rows = re.findall(r"^\| [^|]+ \| `([\w.]+)` in `([\w/]+)\.py`", README, re.M)
    assert len(rows) == 6
    for name, path in rows:
        found = importlib.import_module(path.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert found.__doc__ or part == "__call__", name


def test_a_new_method_is_one_class(make_network, toy):
    from vfd_tf import AdversarialTrainer, attacks, losses
    from vfd_tf.hyperparameters import component, hyper
    from vfd_tf.methods import TRADES

    names = {"TRADES": TRADES, "hyper": hyper, "component": component, "losses": losses}
    exec(blocks("CONTRIBUTING.md", "python")[0], names)
    trainer = AdversarialTrainer(make_network(), names["MyMethod"](), attacks.PGD(steps=1))
    trainer.compile("sgd", run_eagerly=True)
    logs = trainer.fit(*toy, verbose=0).history
    assert {"clean_loss", "adv_loss", "hard_loss"} <= set(logs)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140 and os.path.getsize(ROOT / "README.md") < 8000


NUMBER = re.compile(r"-?[\d.]+(e-?\d+)?")
MEASURED = [p.parent for p in sorted(ROOT.glob("docs/results/measured/*/suite.json"))]


@pytest.mark.parametrize("suite_folder", MEASURED, ids=lambda path: path.name)
def test_the_tables_of_committed_reports_are_those_of_the_committed_verdicts(
    suite_folder, monkeypatch
):
    monkeypatch.chdir(ROOT)
    folder = str(suite_folder.relative_to(ROOT))
    found = build.sections([folder], f"{folder}/report")
    for name, content in document.files(found).items():
        if name.endswith(".csv"):
            committed = (suite_folder / "report" / name).read_text()
            assert cells(content) == cells(committed), name


def cells(content):
    """Lines of cells; numbers to six digits, since releases of SciPy differ in the last."""
    return [
        [f"{float(cell):.6g}" if NUMBER.fullmatch(cell) else cell for cell in row]
        for row in csv.reader(content.splitlines())
    ]


def test_numbers_of_several_seeds_in_the_results_are_those_of_a_committed_report():
    reports = [path / "report" / "report.md" for path in MEASURED]
    known = {measure for path in reports for measure in measures(path.read_text())}
    said = measures(TEXTS["docs/results.md"])
    assert len(said) > 50 and said <= known, said - known


def measures(content):
    """`54.0 ± 0.5`, and distances with their interval however it is written."""
    content = content.replace("*", "")
    number = r"([+-]?\d+\.\d)"
    intervals = re.findall(rf"{number} [\[(]{number}(?: to|,) {number}[\])]", content)
    return {*re.findall(r"\d+\.\d ± \d+\.\d", content), *map(tuple, intervals)}
