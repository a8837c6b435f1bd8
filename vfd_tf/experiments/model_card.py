"""The model card of a run: a README.md that says what its students are and are worth.

Every number in it comes from the run's own files: run.json, results.json, verdicts.npz,
history.csv, flags.txt and the students. Nothing is added to them.
"""

import functools
import math
import os
import re
from fractions import Fraction

from vfd_tf import files, text
from vfd_tf.attacks.attack import radius
from vfd_tf.experiments import card_results
from vfd_tf.experiments.record import Record, damaged
from vfd_tf.experiments.run_directory import RunDirectory, key
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS

CARD = "README.md"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~&$@])")
_ALWAYS = ("epochs", "batch_size", "learning_rate", "precision")  # of a recipe
_CURVE = re.compile(r"(val_)?(\w+_)?accuracy|(val_)?loss")
_VERSIONS = ("vfd_tf", "tensorflow", "keras", "numpy", "python", "git_commit", "devices")
_LEFT_OUT = {CARD, files.LOCK}


class Markdown(str):
    """A text that is Markdown already; all other texts are escaped."""


def write(directory: RunDirectory) -> str:
    """Writes the card of a run into its directory, whole and anew; returns its path.

    Raises:
        InputError: No run directory, or a file in it that is damaged.
    """
    try:
        card = render(Record(directory.path))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(directory.path, error) from error
    path = directory.file(CARD)
    with (
        files.replaced(path) as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        file.write(card)
    return path


def render(record: Record) -> str:
    """The card of a run; the same files give the same text."""
    card = _template().render(_facts(record))
    return re.sub(r"\n{3,}", "\n\n", card).rstrip("\n") + "\n"


def escaped(value) -> str:
    """A text as Markdown that shows it as it is, on one line."""
    if isinstance(value, Markdown):
        return value
    plain = "".join(c if c.isprintable() else " " for c in str(value))
    return _SPECIAL.sub(r"\\\1", plain)


@functools.cache
def _template():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vfd_tf.experiments", "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # for HTML
    )
    return environment.get_template("model_card.md")


def _facts(record) -> dict:
    """What the template names."""
    found = card_results.evaluations(record)
    attack = record.fields.get("attack", {})
    norm, epsilon = attack.get("norm"), attack.get("epsilon")
    return {
        "label": record.label,
        "dataset": record.identity["dataset"],
        "adversarial": bool(attack),
        "formulas": _formulas(record),
        "network": _pairs("network", _network(record)),
        "data": _pairs("data", _data(record, found)),
        "training": _pairs("training", _training(record)),
        "recipe": _recipe(record),
        "curves": _curves(record),
        "attack": _pairs(record.name("attack"), _values(attack)) if attack else "",
        "threat": "its attack" if epsilon is None else f"{norm}:{radius(epsilon)}",
        "evaluated": " and ".join(dict.fromkeys(each.threat for each in found)),
        "results": [(each.title, _results(each)) for each in found],
        "warnings": card_results.warnings(record, found),
        "usage": _usage(record, found),
        "command": _command(record),
        "versions": _pairs("made by", _versions(record)),
        "files": _table(["file", "sha-256", "bytes"], _files(record), left=2),
    }


def _table(head, rows, left: int = 1) -> Markdown:
    cells = [[escaped(cell) for cell in row] for row in rows]
    return Markdown(text.markdown(head, cells, left))


def _pairs(head, rows) -> Markdown:
    """A table of names and values, without those that are not known."""
    known = [(name, value) for name, value in rows if value not in (None, "")]
    return _table([escaped(head), "value"], known, left=2)


def _fenced(content: str, language: str) -> Markdown:
    """A block of code; its fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{content}\n{fence}")


def _value(value) -> str:
    """A hyper-parameter as flags write it: 8/255, true, 100,105."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_value, value))
    exact = isinstance(value, float) and math.isfinite(value)
    if exact and float(Fraction(radius(value))) == value:
        return radius(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)


def _values(fields):
    return [(name.rstrip("_"), _value(value)) for name, value in fields.items()]


def _formulas(record):
    """(component, what it computes) of the method and the distillation."""
    found = []
    for part, table in (("method", METHODS), ("distillation", DISTILLATIONS)):
        cls = table.get(record.name(part))
        if cls:
            line = cls.__doc__.split("\n")[0]
            found.append((f"{part.capitalize()} {record.name(part)}", line))
    return found


def _network(record):
    identity = record.identity
    rows = [("architecture", identity.get("arch")), ("starts from", identity.get("init"))]
    rows.append(("width", _value(identity.get("width", ""))))
    rows.append(("normalises images", _value(identity.get("normalize", ""))))
    return rows + _measured(record)


def _measured(record):
    """Weights, images and classes of the student, where its file can be read."""
    for which in record.directory.students:
        try:
            model = network.load(record.directory.student(which))
        except InputError:
            continue
        shape = getattr(model, "input_shape", None) or ()
        size = " x ".join("any" if side is None else str(side) for side in shape[1:])
        classes = getattr(network.classifier(model), "output_shape", ("",))[-1]
        weights = f"{model.count_params():,}"
        return [("weights", weights), ("images", size), ("classes", classes)]
    return []


def _data(record, found):
    identity, flags = record.identity, _flags(record)
    held = flags.get("validation", "")
    if held == "none":
        held = "as many as --validation holds out by default"
    rows = [("data set", identity["dataset"]), ("image size", identity.get("image_size"))]
    rows += [("digest of the training images", identity.get("data"))]
    rows += [("images held out of training", held)]
    rows += [("digest of the test images", record.results.get("test_data"))]
    counts = sorted({each.images for each in found})
    return [*rows, ("test images evaluated", " and ".join(f"{n:,}" for n in counts))]


def _flags(record) -> dict[str, str]:
    """Name -> text of the flags that repeat the run; none where there is no file."""
    try:
        with open(record.file("flags.txt"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip().removeprefix("--") for line in file]
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _training(record):
    done = int(record.history[-1]["epoch"]) if record.history else 0
    wanted = record.fields.get("recipe", {}).get("epochs")
    before = record.identity.get("continues")
    rows = [("run", key(record.identity)), ("method", record.name("method"))]
    rows += [("distillation", record.name("distillation"))]
    for role, mark in record.identity["helpers"].items():
        rows.append((f"{role.replace('_', ' ')}, run or file", mark))
    rows.append(("continues", before and _value(before)))
    rows.append(("epochs", done if wanted is None else f"{done} of {wanted}"))
    rows.append(("epoch of best.keras", record.best_epoch or None))
    rows.append(("seed", record.identity.get("seed")))
    minutes = f"{record.seconds / 60:.1f} minutes" if record.seconds else None
    return [*rows, ("wall time", minutes), ("replicas", record.results.get("replicas"))]


def _recipe(record):
    rows = []
    for part, fields in record.fields.items():
        shown = record.changed(part)
        if part == "recipe":
            shown = {n: fields[n] for n in _ALWAYS if n in fields} | shown
        rows += [[part.replace("_", " "), *pair] for pair in _values(shown)]
    return _table(["part", "hyper-parameter", "value"], rows, left=3) if rows else ""


def _curves(record):
    if not record.history:
        return ""
    last, epochs = record.history[-1], {row["epoch"]: row for row in record.history}
    rows = [epochs.get(record.best_epoch, {}), last]
    names = ["epoch", *(name for name in last if _CURVE.fullmatch(name))]
    cells = [[n, *(f"{r[n]:.4g}" if n in r else "" for r in rows)] for n in names]
    return _table(["curve", "best", "last"], cells)


def _results(each):
    head = ["student", "attack", "accuracy (%)", "95 % interval", "images right"]
    return _table(head, each.table(), left=2)


def _usage(record, found):
    which = next(iter(record.directory.students), "best")
    attack = found[0].threat if found else ""
    norm, _, epsilon = attack.partition(":")
    threat = f', epsilon={epsilon}, norm="{norm}"' if re.fullmatch(_BALL, attack) else ""
    return _fenced(
        "import keras, vfd_tf\n"
        f'model = keras.saving.load_model("{which}.keras")  # images in [0, 1] -> logits\n'
        f'print(vfd_tf.evaluate(model, (x, y), ["pgd20", "autoattack"]{threat}))',
        "python",
    )


_BALL = r"(linf|l2):\d+(\.\d+)?(/\d+)?"


def _command(record):
    if not os.path.exists(record.file("flags.txt")):
        return "The flags of the run are not known: there is no flags.txt."
    return _fenced(" ".join(record.command.splitlines()), "sh")


def _versions(record):
    return [(name, record.results.get(name)) for name in _VERSIONS]


def _files(record):
    """(name, SHA-256, bytes) of every file of the run but the card, folders left out."""
    rows = []
    for name in sorted(os.listdir(record.path)):
        path = record.file(name)
        if name in _LEFT_OUT or files.PART in name or not os.path.isfile(path):
            continue
        rows.append([name, files.sha256(path), f"{os.path.getsize(path):,}"])
    return rows
