"""What a run directory or a student file holds, as text; nothing is trained or changed."""

import collections
import contextlib
import os
import pathlib
import re
import sys

import numpy as np

from vfd_tf import evaluation, files, text
from vfd_tf.cli import flags
from vfd_tf.experiments.record import Record, damaged
from vfd_tf.experiments.run_directory import key
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network, outputs
from vfd_tf.models.keras_graph import layer_of, layers_of

_VERSIONS = ("vfd_tf", "tensorflow", "keras", "numpy", "python")
_PROVENANCE = {"commit": "git_commit", "devices": "devices", "replicas": "replicas"}
_KEY_CURVE = re.compile(r".*accuracy|(val_)?loss|vfd_share|learning_rate")
_TAP = re.compile(r"layer\d+(_preact)?")


def show(values, paths: list[str]) -> None:
    """What run directories and .keras files hold, at a glance."""
    if not paths:
        raise InputError("Name what to show: python run.py info RUN_DIRECTORY FILE.keras.")
    print("\n\n\n".join(readable(paths, describe)))


def readable(paths: list[str], read) -> list:
    """What `read` makes of every path, without those that it refuses: a note on stderr.

    Raises:
        InputError: It refuses all of them.
    """
    found, refused = [], []
    for path in paths:
        try:
            found.append(read(path))
        except InputError as error:
            refused.append(error)
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            refused.append(damaged(path, error))
    if not found:
        raise refused[0]
    for error in refused:
        print(f"Skipped: {error}", file=sys.stderr)
    return found


def describe(path: str) -> str:
    """The text for one run directory or one .keras file.

    Raises:
        InputError: Neither of them, or files in it that can't be read.
    """
    if os.path.isfile(path) and path.endswith((".keras", ".h5")):
        return describe_student(path)
    return describe_run(Record(path))


def parameter_text(name: str, value) -> str:
    """One hyper-parameter as `lambda 0.01`."""
    return f"{name.rstrip('_')} {flags.text_of(value)}"


def describe_run(record: Record) -> str:
    """The text for one run directory."""
    blocks = [record.path, text.columns(_facts(record), left=2), _curves(record)]
    for threat in dict.fromkeys(t for rows in record.accuracies.values() for t in rows):
        students = record.accuracies.items()
        rows = {student: known[threat] for student, known in students if threat in known}
        blocks.append(f"test images, {threat}\n{evaluation.table(rows)}")
    blocks.append(text.columns([("files", "bytes"), *_files(record.path)]))
    if os.path.exists(record.file("flags.txt")):
        blocks.append(f"repeat it: {record.command}")
    return "\n\n".join(block for block in blocks if block)


def _facts(record):
    identity, results = record.identity, record.results
    facts = [("run", f"{record.label}, {key(identity)}"), ("data set", identity["dataset"])]
    network_options = {name: identity[name] for name in ("width", "normalize")}
    facts.append(("architecture", _listed(identity["arch"], network_options)))
    facts.append(("starts from", identity.get("init")))
    facts += [
        (component.replace("_", " "), _part(record, component))
        for component in record.fields
    ]
    for role, its_key in identity["helpers"].items():
        facts.append((role.replace("_", " "), _helper(record, its_key)))
    facts += [("seed", identity["seed"]), ("epochs", _progress(record))]
    if record.history:
        facts.append(("best epoch", record.best_epoch))
        facts.append(("wall time", f"{record.seconds / 60:.1f} min"))
    versions = [f"{name} {results[name]}" for name in _VERSIONS if name in results]
    facts.append(("versions", ", ".join(versions)))
    facts += [(n, results.get(f)) for n, f in _PROVENANCE.items()]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _part(record, component):
    changed, name = record.changed(component), record.name(component)
    parameters = record.parameters(component)
    if {"norm", "epsilon"} <= set(parameters):  # the threat model is worth its default
        name += f" {parameters['norm']}:{flags.text_of(parameters['epsilon'])}"
        changed = {n: v for n, v in changed.items() if n not in ("norm", "epsilon")}
    own_name = name if name != record.class_name(component) else ""
    return _listed(own_name, changed) or "defaults"


def _listed(name, changed):
    texts = [parameter_text(*item) for item in changed.items()]
    return ", ".join([name, *texts] if name else texts)


def _helper(record, its_key):
    """The sibling directory that the key of a helper network names, or the key."""
    folder = os.path.dirname(os.path.abspath(record.path))
    found = (name for name in sorted(os.listdir(folder)) if name.endswith(f"-{its_key}"))
    return next(found, its_key)


def _progress(record):
    done = int(record.history[-1]["epoch"]) if record.history else 0
    wanted = record.parameters("recipe").get("epochs", "?")
    return f"{done} of {wanted}, {'complete' if record.complete else 'not complete'}"


def _curves(record):
    """The key curves of the best epoch and of the last one."""
    if not record.history:
        return ""
    epochs, last = {row["epoch"]: row for row in record.history}, record.history[-1]
    rows = [epochs.get(record.best_epoch, {}), last]
    lines = [("curves", "best", "last")]
    for name in ["epoch", *(name for name in last if _KEY_CURVE.fullmatch(name))]:
        lines.append((name, *(f"{row[name]:.4g}" if name in row else "" for row in rows)))
    return text.columns(lines)


def _files(path):
    """(name, bytes) of everything in a directory, a folder as a whole."""
    sizes = collections.Counter()
    for file in pathlib.Path(path).rglob("*"):
        name, *inside = file.relative_to(path).parts
        # A run that is being trained replaces its files at any moment.
        with contextlib.suppress(FileNotFoundError):
            sizes[f"{name}/" if inside else name] += file.is_file() and file.stat().st_size
    return sorted((name, f"{size:,}") for name, size in sizes.items() if size)


def describe_student(path: str) -> str:
    """The text for one .keras file."""
    model = network.load(path)
    layers = layers_of(model)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_weights)
    unfit = "probabilities (it ends in a softmax or a sigmoid); vfd_tf needs logits"
    facts = [
        ("name", model.name),
        ("input", ", ".join(_shape(x.shape) for x in getattr(model, "inputs", None) or ())),
        ("classes", str(getattr(network.classifier(model), "output_shape", "?")[-1])),
        ("weights", f"{model.count_params():,} ({trainable:,} trainable)"),
        ("float policy", ", ".join(sorted({layer.dtype_policy.name for layer in layers}))),
        ("output", unfit if outputs.ends_in_probabilities(model) else "logits"),
        ("sha-256", files.sha256(path)),
    ]
    return "\n\n".join(
        [path, text.columns(facts, left=2), text.columns(_taps(model), left=2)]
    )


def _taps(model):
    """(layer, shape of its output) of everything that is made to be layer k."""
    names = [layer.name for layer in layers_of(model)]
    names = [name for name in names if _TAP.fullmatch(name)]
    try:
        outputs = network.tap(model, [*names, "last"]).output
    except InputError as error:
        return [("layer k", f"none: {error}")]
    last = layer_of(outputs["last"])
    rows = [(name, _shape(outputs[name].shape)) for name in names]
    return [("layer k", ""), *rows, ("last", f"{_shape(outputs['last'].shape)} ({last})")]


def _shape(shape):
    return " x ".join("?" if size is None else str(size) for size in shape[1:])
