"""The mode `features`: students -> their features in the plane, as Figure 3 of the paper.

The data set, its images' size and the threat model are those of the flags; where --dataset
is left out, the data set is that of the run directories.
"""

import os

import numpy as np

from vfd_tf import files, text
from vfd_tf.cli import flags
from vfd_tf.cli.info import readable
from vfd_tf.data import datasets
from vfd_tf.experiments import features
from vfd_tf.experiments.record import Record
from vfd_tf.hyperparameters import InputError

PREFIX = "features"
_PARTS = ("clean", "adversarial", "both")


def run(values, words: list[str]) -> None:
    """Features of students on clean and adversarial images, in the plane by t-SNE."""
    if not words:
        raise InputError(
            "Name the students: python run.py features RUN_DIRECTORY FILE.keras."
        )
    known = flags.parameters(features.FeaturePlan, PREFIX)
    plan = features.FeaturePlan(**{field.name: values[n].value for n, field in known})
    threat, folder = flags.evaluation_plan(values), values.features_dir
    which = values.features_student
    paths = dict.fromkeys(map(os.path.normpath, words))
    records = dict(readable(paths, lambda path: (path, _record(path, which))))
    name, size = _dataset(values, [r for r in records.values() if r is not None])
    students = _students(records, which, _names(values.features_names, paths))
    files.check_writable(folder)
    data = datasets.load(
        name, values.data_dir, training=False, image_size=size, hold=values.hold
    )
    with files.owned(folder, wait=True, what="writes"):
        arrays = features.draw(
            students,
            data,
            plan,
            folder,
            epsilon=threat.epsilon,
            norm=threat.norm,
            batch_size=threat.batch_size,
        )
    print(f"\n{table(arrays)}\n\n{os.path.join(folder, features.FEATURES)}")


def _dataset(values, records) -> tuple[str, int | None]:
    """(name, image size) of the data set: those of the flags, or else of the runs."""
    found = {(r.identity["dataset"], r.identity.get("image_size")) for r in records}
    if values["dataset"].present or not records:
        return values.dataset, values.image_size
    if len(found) > 1:
        names = " and ".join(sorted(name for name, _ in found))
        raise InputError(f"The runs are of {names}: choose one with --dataset.")
    name, size = found.pop()
    return name, values.image_size or size


def _record(path, which):
    """The record of a run that has this student; None for a file."""
    if os.path.isfile(path):
        return None
    record = Record(path)
    if not os.path.exists(record.directory.student(which)):
        raise InputError(
            f"The run {path} has no {which} student: choose another --features_student, or "
            "train it on."
        )
    return record


def _names(given, paths) -> dict[str, str]:
    """Path -> name, of --features_names."""
    if given and len(given) != len(paths):
        raise InputError(
            f"--features_names names {len(given)} students, and there are {len(paths)}."
        )
    return dict(zip(paths, given, strict=True)) if given else {}


def _students(records, which, names) -> dict[str, str]:
    """Name -> file; runs are called by method and distillation where that tells them."""
    labels = [names.get(p) or _label(p, record) for p, record in records.items()]
    return {
        label if labels.count(label) == 1 else path: (
            path if record is None else record.directory.student(which)
        )
        for label, (path, record) in zip(labels, records.items(), strict=True)
    }


def _label(path, record):
    if record is None:
        return os.path.splitext(os.path.basename(path))[0]
    return record.label


def table(arrays: dict[str, np.ndarray]) -> str:
    """The accuracies and silhouettes of features.npz, as Markdown."""
    count = len(arrays["labels"])
    heads = [f"{what} (%)" for what in _PARTS[:2]]
    heads += [f"{space}, {part}" for space in ("plane", "features") for part in _PARTS]
    rows = [
        [name, *(f"{a:.2f}" for a in right), *(f"{s:.3f}" for s in apart.reshape(-1))]
        for name, right, apart in zip(
            arrays["names"], arrays["accuracy"], arrays["silhouette"], strict=True
        )
    ]
    title = f"{count} images of {', '.join(arrays['classes'])}; silhouettes by class"
    return f"{title}\n\n{text.markdown(['student', *heads], rows)}"
