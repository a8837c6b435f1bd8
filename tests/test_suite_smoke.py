"""Suites from their files to the report, at the smallest scale, in processes as usual."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.suites.suite import FOLDER

ROOT = pathlib.Path(__file__).parents[1]
ROWS = "Vanilla", "TRADES", "TRADES+VFD-Adv"


def shorter(name, rows, **entries):
    """A suite of the package with some of its rows, and other entries."""
    text = (FOLDER / f"{name}.toml").read_text()
    lines = []
    general = re.split(r"^\[(?!rows)", text, flags=re.MULTILINE)[0]
    for line in general.splitlines():
        row = re.match(r'"(.+?)" +=', line)
        key = line.partition(" =")[0]
        if row is None or row[1] in rows:
            lines.append(f"{key} = {entries.pop(key)}" if key in entries else line)
    assert not entries
    return "\n".join(lines) + "\n"


def vfd(folder, *words):
    command = [sys.executable, ROOT / "run.py", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three rows of table 1 and one point of each figure; what the command printed."""
    folder = tmp_path_factory.mktemp("suites")
    suites = {
        "table1": shorter("table1", ROWS) + "[curves]\nmixtures = [0.5]\n",
        "fig2": shorter("fig2", ROWS[1:], sweep='"--trades_beta=1"'),
        "fig3": shorter("fig3", (ROWS[0], ROWS[2]))
        + '[smoke]\nfeatures = "--features_classes=3 --features_images=10"\n',
        "fig4a": shorter("fig4a", ROWS, sweep='"--vfd_layer=layer2"'),
        "fig4b": shorter("fig4b", ROWS, sweep='"--vfd_lambda=0.02"'),
    }
    for name, text in suites.items():
        (folder / f"{name}.toml").write_text(text)
    paths = [f"{name}.toml" for name in suites]
    done = vfd(folder, "suite", *paths, "--scale=smoke", "--workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_every_run_is_made_once_and_has_its_verdicts(finished):
    folder, _ = finished
    runs = [path.parent for path in folder.glob("runs/*/run.json")]
    # Teacher and surrogate; three rows; two points of figure 2, one of 4(a), one of 4(b).
    assert len(runs) == 2 + 3 + 2 + 1 + 1
    whole = json.loads((folder / "runs/suite-table1-smoke/suite.json").read_text())
    for entry in whole["entries"]:
        path = folder / "runs/suite-table1-smoke" / entry["directory"]
        directory = RunDirectory(os.path.normpath(path))
        known = {
            column
            for images in {*whole["images"].values()}
            for column in directory.verdicts("last", whole["threat"], f"n={images}")
        }
        assert set(whole["columns"]) <= known
        assert (pathlib.Path(directory.path) / "README.md").exists()


@pytest.mark.slow
def test_the_report_has_the_rows_the_papers_numbers_and_every_figure(finished):
    folder, printed = finished
    report = folder / "runs" / "report"
    page = (report / "report.html").read_text()
    for row in ROWS:
        assert row in page and row in printed
    assert "87.5" in page  # TRADES + VFD in the paper
    figures = {path.stem for path in (report / "figures").glob("*.png")}
    for name in ("table1", "fig2", "fig3", "fig4a", "fig4b"):
        assert any(figure.startswith(name) for figure in figures), (name, figures)
    with open(report / "tables" / "table1.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["row"] for row in rows} >= set(ROWS)


@pytest.mark.slow
def test_the_same_command_finds_everything_done(finished):
    folder, _ = finished
    before = {p: p.stat().st_mtime for p in folder.glob("runs/*/verdicts.npz")}
    done = vfd(folder, "suite", "fig4b.toml", "--scale=smoke")
    assert done.returncode == 0, done.stderr
    assert "0 runs of 2 are left" in done.stdout
    assert before == {p: p.stat().st_mtime for p in folder.glob("runs/*/verdicts.npz")}


@pytest.mark.slow
def test_a_failed_run_is_a_row_with_its_reason_and_the_others_stand(tmp_path):
    text = shorter("fig4b", ROWS, sweep='"--vfd_lambda=0.02"')
    broken = '"TRADES" = "--method=trades --distill=none --vfd_layer=layer1"\n'
    broken += '"TRADES+broken" = "--method=trades --distill=vfd --vfd_layer=layer9"\n'
    (tmp_path / "mine.toml").write_text(text + broken)
    words = "--scale=smoke", "--epochs=1", "--eval_attacks=fgsm"
    done = vfd(tmp_path, "suite", "mine.toml", *words)
    assert done.returncode == 2 and "1 of 4 commands failed" in done.stderr
    (path,) = (tmp_path / "runs").glob("suite-mine-*/status.json")
    status = json.loads(path.read_text())
    failed = {name: entry for name, entry in status.items() if entry["status"] == "failed"}
    ((name, entry),) = failed.items()
    assert "TRADES+broken" in name and "layer9" in entry["reason"]
    (report,) = (tmp_path / "runs").glob("suite-mine-*/report/report.md")
    assert "layer9" in report.read_text()
