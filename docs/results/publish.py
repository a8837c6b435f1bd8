"""Copies a suite and the small files of its runs to docs/results/measured, with a report.

    python docs/results/publish.py runs/suite-cpu-cpu-c6e017 cpu

What is left out are weights, checkpoints, logs and events. `python run.py report
docs/results/measured/cpu` makes the report anew from what is here.
"""

import json
import os
import pathlib
import shutil
import sys

from vfd_tf.suites.report import build

MEASURED = pathlib.Path(os.path.relpath(pathlib.Path(__file__).parent / "measured"))
KEPT = ("flags.txt", "run.json", "results.json", "verdicts.npz", "history.csv", "README.md")


def publish(source: pathlib.Path, name: str) -> None:
    """Replaces docs/results/measured/NAME by a suite's folder; runs go beside it."""
    suite = json.loads((source / "suite.json").read_text())
    for directory in sorted({e["directory"] for k in _LISTS for e in suite[k]}):
        run = (source / directory).resolve()
        for kept in KEPT:
            if (run / kept).is_file():
                _copy(run / kept, MEASURED / run.name / kept, run.parent)
    target = MEASURED / name
    shutil.rmtree(target, ignore_errors=True)
    for kept in ("suite.json", "status.json"):
        _copy(source / kept, target / kept, source.resolve().parent)
    build.build([str(target)], str(target / "report"))
    for picture in target.glob("report/figures/*.png"):  # the same as the SVG
        picture.unlink()


_LISTS = ("entries", "curves")


def _copy(source, target, root):
    """A file without the path of the folder that it was in."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    if source.suffix != ".npz":
        content = content.replace(f"{root}".encode(), b"runs")
    target.write_bytes(content)


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1]), sys.argv[2])
