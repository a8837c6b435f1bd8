"""Copies a suite and the small files of its runs to docs/results/measured, with a report.

    python docs/results/publish.py runs/suite-cpu-cpu-c6e017 cpu

What is left out are weights, checkpoints, logs and events. `python run.py report
docs/results/measured/cpu` makes the report anew from what is here.

On another machine a suite goes on from what is published, after `cp -r
docs/results/measured/cifar10-* runs/`: these runs count as complete, and what others need
of them, such as the vanilla teacher, is trained anew. Leave out a run whose mixtures are
missing: they need its weights.
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
    _say_unfinished(source)
    for directory in sorted({e["directory"] for k in _LISTS for e in suite[k]}):
        run = (source / directory).resolve()
        _refuse_loss(run, MEASURED / run.name)
        for kept in KEPT:
            if (run / kept).is_file():
                _copy(run / kept, MEASURED / run.name / kept, run.parent)
    target = MEASURED / name
    shutil.rmtree(target, ignore_errors=True)
    for kept in ("suite.json", "status.json"):
        _copy(source / kept, target / kept, source.resolve().parent)
    _drop_others(target / "status.json", suite["nodes"])
    build.build([str(target)], str(target / "report"))
    for picture in target.glob("report/figures/*.png"):  # the same as the SVG
        picture.unlink()


_LISTS = ("entries", "curves")


def _drop_others(path, nodes):
    """Rows of other names were commands of the suite once, and are none of its table."""
    known = json.loads(path.read_text())
    own = {name: entry for name, entry in known.items() if name in nodes}
    path.write_text(json.dumps(own, indent=1) + "\n")


def _say_unfinished(source):
    nodes = json.loads((source / "status.json").read_text()).values()
    left = sum(node["status"] != "done" for node in nodes)
    if left:
        print(f"Warning: {left} of {len(nodes)} commands are not done: {source}")


def _refuse_loss(run, there):
    """Another suite may have published verdicts of the same run: none may get lost."""
    new, known = (_columns(folder / "results.json") for folder in (run, there))
    if known - new:
        lost = ", ".join(sorted({which for which, *_ in known - new}))
        raise SystemExit(f"{there} has verdicts ({lost}) that {run} lacks: add them there.")


def _columns(path):
    """(student, threat model and images, column) of every verdict of a run."""
    if not path.is_file():
        return set()
    known = json.loads(path.read_text()).get("accuracies", {})
    return {
        (w, on, c) for w, rows in known.items() for on, row in rows.items() for c in row
    }


def _copy(source, target, root):
    """A file without the path of the folder that it was in."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    if source.suffix != ".npz":
        content = content.replace(f"{root}".encode(), b"runs")
    target.write_bytes(content)


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1]), sys.argv[2])
