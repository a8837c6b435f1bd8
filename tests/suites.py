"""Suites on disk as a half-finished or a finished one leaves them, without any training."""

import functools
import json

import numpy as np

import vfd_tf  # noqa: F401  before TensorFlow
from vfd_tf.experiments import run_directory
from vfd_tf.suites.report import published

THREAT = "linf:8/255"
COLUMNS = (*published.ROBUST, "clean", "autoattack")
GROUPS = ("ALP", "TRADES", "MART", "HAT")
DISTILLATIONS = ("", "+KD", "+BGAT", "+LBGAT", "+VFD-Adv")
DIGEST = "a1b2c3d4"


@functools.cache
def versions():
    return run_directory.provenance()


def verdicts(percents, images, seed=0):
    """Column -> bool [n] of about these accuracies: every image has its difficulty."""
    difficulty = np.random.default_rng(99).uniform(size=images)
    random = np.random.default_rng(seed)
    return {
        column: difficulty + random.normal(0, 0.06, images) < percent / 100
        for column, percent in percents.items()
    }


def run(path, students, threat=THREAT, dataset="cifar10", arch="resnet8", epochs=6, seed=0):
    """A run directory with verdicts {which: {images: {column: bool [n]}}}."""
    directory = run_directory.RunDirectory(str(path))
    identity = {"dataset": dataset, "arch": arch, "seed": seed, "helpers": {}}
    identity |= {"method": "TRADES()", "distillation": "NoDistillation()"}
    fields = {"method": {"beta": 6.0}, "recipe": {"epochs": epochs}}
    directory.claim(identity, fields, f"--seed={seed}\n")
    rows = [
        {
            "epoch": epoch,
            "val_accuracy": 0.9 - 0.5 / epoch,
            "val_pgd10_accuracy": 0.5 - 0.3 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    directory.write_history(rows)
    directory.keep_only(DIGEST)
    for which, counts in students.items():
        for images, columns in counts.items():
            directory.add_verdicts(which, threat, f"n={images}", columns)
    directory._merge(seed=seed, wall_time_s=12.0, **versions())
    return directory


def expected(name):
    """Percents of a row, near those of the paper."""
    known = published.accuracies("table1")
    percents = {column: known[name, column] for column in (*published.ROBUST, "clean")}
    return percents | {"autoattack": 0.88 * min(percents["pgd20"], percents["cw"])}


def measured(name, images, seed, shift=0.0):
    """{images: columns} of a row: AutoAttack on a quarter of the images."""
    percents = {column: p + shift for column, p in expected(name).items()}
    columns = verdicts(percents, images, seed)
    few = {c: columns[c][: images // 4] for c in ("clean", "autoattack")}
    del columns["autoattack"]
    return {images: columns, images // 4: few}


def names(groups=GROUPS):
    """(row, group, base) of the paper's table."""
    found = [("Vanilla", "Vanilla", None)]
    for group in groups:
        found += [(group + d, group, group if d else None) for d in DISTILLATIONS]
    return found


def table(root, images=400, seeds=(0,), groups=GROUPS, students=("last",), unfinished=()):
    """Writes a suite "table1"; rows of `unfinished` {row: status} have no run."""
    workdir, entries, curves, nodes, status = root / "suite-table1", [], [], {}, {}
    unfinished = dict(unfinished)
    for seed in seeds:
        for number, (row, group, base) in enumerate(names(groups)):
            node, path = f"{row}-{seed}", root / f"cifar10-resnet8-{row}-{seed}"
            command = f"python run.py --method={group.lower()} --seed={seed} --runs={root}"
            nodes[node] = {"command": command, "log": f"logs/{node}.log"}
            status[node] = {"status": unfinished.get(row, "done"), "seconds": 65.0}
            if unfinished.get(row) == "failed":
                status[node]["reason"] = (
                    "There is not enough memory: choose a smaller --batch_size."
                )
            for student in students:
                entries.append({"row": row, "group": group, "base": base, "seed": seed,
                                "value": None, "student": student,
                                "directory": str(path), "node": node})  # fmt: skip
            if row in unfinished:
                continue
            known = {
                student: measured(row, images, 100 * seed + number, shift=2.0 * i)
                for i, student in enumerate(students)
            }
            known |= (
                _mixtures(row, images, seed) if base is None and row != "Vanilla" else {}
            )
            run(path, known, seed=seed)
            curves += _curves(root, row, path, node, images, seed) if row in GROUPS else []
    whole = {
        **{"version": 1, "name": "table1", "scale": "cpu", "kind": "table"},
        **{"title": "Table 1: CIFAR-10, ResNet-8", "published": "table1"},
        **{"dataset": "cifar10", "arch": "resnet8", "threat": THREAT, "sweep": None},
        "notes": ["trained in mixed_bfloat16, evaluated in float32"],
        "images": {**dict.fromkeys(COLUMNS, images), "autoattack": images // 4},
        **{"columns": list(COLUMNS), "entries": entries, "curves": curves, "nodes": nodes},
    }
    return save(workdir, whole, status)


def save(workdir, whole, status):
    """Writes suite.json and status.json, and the logs that they name."""
    (workdir / "logs").mkdir(parents=True, exist_ok=True)
    (workdir / "suite.json").write_text(json.dumps(whole))
    (workdir / "status.json").write_text(json.dumps(status))
    for name in whole["nodes"]:
        (workdir / "logs" / f"{name}.log").write_text("log\n")
    return workdir


def _mixtures(row, images, seed):
    """Students between vanilla and the base row: clean for robust accuracy."""
    mine, vanilla = expected(row), expected("Vanilla")
    found = {}
    for share in (0.75, 0.5):
        # Bent, as those of real networks: less robust than in proportion.
        percents = {
            column: share**2 * mine[column] + (1 - share**2) * vanilla[column]
            if column != "clean"
            else share * mine[column] + (1 - share) * vanilla[column]
            for column in ("clean", "autoattack")
        }
        found[f"last-mixture-{share:g}"] = {
            images // 4: verdicts(percents, images // 4, seed)
        }
    return found


def _curves(root, row, path, node, images, seed):
    """The points of a base row's curves; those of the sweep are runs of their own."""
    common = {"group": row, "seed": seed, "student": "last", "node": node}
    points = [
        {
            **common,
            "kind": "mixture",
            "label": which,
            "directory": str(path),
            "which": which,
        }
        for which in ("last-mixture-0.75", "last-mixture-0.5")
    ]
    for beta in (1, 2, 4):
        folder = root / f"cifar10-resnet8-{row}-beta{beta}-{seed}"
        percents = expected(row)
        percents = {"clean": percents["clean"] + 1.5 * (6 - beta),
                    "autoattack": percents["autoattack"] - 2.0 * (6 - beta)}  # fmt: skip
        count = images // 4
        run(folder, {"last": {count: verdicts(percents, count, seed + beta)}}, seed=seed)
        points.append({**common, "kind": "sweep", "label": f"beta {beta}",
                       "directory": str(folder), "which": "last"})  # fmt: skip
    return points


def sweep(root, flag="vfd_lambda", values=("0", "0.01", "0.02", "0.04"), rows=None,
          images=200, seeds=(0,)):  # fmt: skip
    """Writes a suite "fig4b": rows {name: (clean, robust) per value}."""
    rows = rows or {"TRADES+VFD-Adv": [(81 + 2 * i, 50 - i) for i in range(len(values))]}
    workdir, entries, nodes = root / f"suite-{flag}", [], {}
    for row, points in rows.items():
        for value, (clean, robust) in zip(values, points, strict=True):
            for seed in seeds:
                path = root / f"cifar10-resnet8-{row}-{flag}-{value}-{seed}"
                node = f"{row}-{value}-{seed}"
                percents = {"clean": clean, "pgd20": robust, "autoattack": robust - 4}
                known = verdicts(percents, images, seed)
                run(path, {"last": {images: known}}, seed=seed)
                nodes[node] = {"command": f"python run.py --{flag}={value} --seed={seed}"}
                entries.append({"row": row, "group": "TRADES", "base": None, "seed": seed,
                                "value": value, "student": "last",
                                "directory": str(path), "node": node})  # fmt: skip
    columns = ["pgd20", "clean", "autoattack"]
    whole = {
        **{"version": 1, "name": flag, "title": f"Sweep of {flag}", "scale": "cpu"},
        **{"kind": "sweep", "published": None, "dataset": "cifar10", "arch": "resnet8"},
        **{"threat": THREAT, "notes": [], "images": dict.fromkeys(columns, images)},
        **{"columns": columns, "sweep": flag, "entries": entries, "nodes": nodes},
    }
    return save(
        workdir, whole, {name: {"status": "done", "seconds": 5.0} for name in nodes}
    )
