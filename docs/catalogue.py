"""Writes docs/methods.md: `python docs/catalogue.py`.

Formulas are the docstrings, flags and defaults the fields, costs counted; docs/methods.toml
has the published numbers, docs/results/rivals ours.
"""

import collections
import csv
import dataclasses
import inspect
import pathlib
import re
import shlex
import tomllib

import numpy as np
import tensorflow as tf

from vfd_tf import text
from vfd_tf.cli import flags
from vfd_tf.experiments import forecast
from vfd_tf.models import mixture
from vfd_tf.suites import suite
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS

FOLDER = pathlib.Path(__file__).parent
FILE, DATA = FOLDER / "methods.md", FOLDER / "methods.toml"
OURS = FOLDER / "results" / "measured" / "rivals"
HEAD = """# Methods

<!-- Written by `make catalogue` from docstrings, docs/methods.toml and docs/results. -->

What every method computes, costs and reached: formulas are those of the docstrings. Any
method joins any distillation, and options and mixtures join both; [training](training.md)
says how. **Cost** is that of an image in a step, in forwards of the student's size: the
gradient of an image costs two, that of the weights three. It is counted with PGD-10 (`gat`
with its one step), without the training of teachers. **Published** numbers are
percent on all test images, clean and under AutoAttack at L-inf 8/255 (or the radius that a
row names), from where the link leads; a dash stands where none was found. {ours}
"""
NOT_YET = "Of ours there are none yet under one recipe; see [results](results.md)."
MEASURED = (
    "**Ours** are of {title}: percent, averaged student, mean over seeds, on the first "
    "{images:,} test images ([results](results.md))."
)


def page() -> str:
    """The text of docs/methods.md."""
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    ours, said = measured()
    entries = [
        *_components("method", METHODS, data),
        *_components("distill", DISTILLATIONS, data),
    ]
    entries += [_option(key, own) for key, own in data["option"].items()]
    entries += [_mixture(key, own) for key, own in data["mixture"].items()]
    parts = [HEAD.format(ours=said), _overview(entries, ours)]
    for title, kind in KINDS.items():
        parts.append(f"## {title}\n")
        parts += [_section(e, data["sources"], ours) for e in entries if e.kind == kind]
    return "\n".join(parts)


KINDS = {
    "Methods": "method",
    "Distillations": "distill",
    "Options": "option",
    "Mixtures, without training": "mixture",
}


@dataclasses.dataclass
class Entry:
    """What a section of the page is about.

    Attributes:
        kind: "method", "distill", "option" or "mixture".
        key: Its name in flags.
        formula, prose: The first line of its docstring, and the rest; of options and
            mixtures from docs/methods.toml.
        words: The flags of its published form.
        fields: (flag, default, meaning) of its hyper-parameters.
        published: Rows of docs/methods.toml.
    """

    kind: str
    key: str
    formula: str
    prose: str
    words: str
    fields: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    published: list[dict] = dataclasses.field(default_factory=list)

    @property
    def trained(self) -> bool:
        return self.kind != "mixture"

    @property
    def cost(self) -> str:
        """Forwards an image in a step, and how many more than PGD-AT's."""
        if not self.trained:
            return "–"
        total = sum(forwards(self.words))
        return f"{total} ({total / sum(forwards(PLAIN)):.2f})"


PLAIN = "--method=pgd-at --distill=none"


def _components(kind, table, data):
    for key, cls in table.items():
        if key == "none":
            continue
        own = data[kind].get(key, {})
        base, other = own.get("with", key), key if kind == "distill" else "none"
        words = f"--method={base} --distill={other} {own.get('flags', '')}".strip()
        formula, prose = _docstring(cls)
        fields = [
            (f"--{name}", flags.text_of(f.default), f.metadata["meaning"])
            for name, f in flags.parameters(cls, key)
        ]
        yield Entry(kind, key, formula, prose, words, fields, own.get("published", []))


def _option(key, own):
    prose = f"{own['title']}: {own['link']}"
    return Entry(
        "option", key, own["formula"], prose, own["flags"], [], own.get("published", [])
    )


def _mixture(key, own):
    first, prose = _docstring(getattr(mixture, own["function"]))
    said = [p for p in prose.split("\n\n") if not p.startswith("    ")]  # no code
    words = f"mix VANILLA.keras ROBUST.keras --mix_kind={key}"
    prose = "\n\n".join([f"{first}.", *said])
    return Entry("mixture", key, own["formula"], prose, words, [], own.get("published", []))


def _docstring(thing):
    """The first line, and the paragraphs up to arguments."""
    first, _, rest = inspect.getdoc(thing).partition("\n")
    rest = re.split(r"\n(?:Args|Raises|Attributes):\n", rest)[0]
    return first.rstrip("."), rest.strip("\n").rstrip()


def forwards(words: str) -> tuple[int, int]:
    """Forwards of the student, and of the networks beside it, that an image costs."""
    values = flags.define()
    values(["run.py", *shlex.split(words)])
    (experiment,) = flags.experiments(values)
    own, _ = forecast.step_forwards(experiment)
    return own, _beside(experiment)


def _beside(experiment):
    """Forwards of the networks beside the student: frozen ones where they are read."""
    logits = tf.eye(3)
    outputs = collections.defaultdict(lambda: logits, last=logits)
    student, y = collections.defaultdict(lambda: outputs), tf.range(3)
    frozen = {name: _Read(outputs) for name in ("teacher", "robust_teacher")}
    ascended = {name: _Read(outputs) for name in frozen}
    partner, method = _Read(outputs), experiment.method
    if method.needs:
        method.terms(y, student, frozen["teacher"])
    experiment.distillation.terms(y, student, partner=partner, **frozen)
    experiment.distillation.objective(y, **ascended)
    in_loss = sum(map(len, frozen.values())) + forecast.WEIGHT_GRADIENT * len(partner)
    passes = 2 if experiment.recipe.awp_gamma else 1
    return passes * in_loss + sum(map(len, ascended.values()))


class _Read(dict):
    """View -> outputs of a network; the views that were read are its keys."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def __missing__(self, view):
        self[view] = self.outputs
        return self.outputs


def measured() -> tuple[dict[str, tuple[tuple[str, ...], float, float]], str]:
    """Row -> its flags, clean and AutoAttack percent; and what they are of, a sentence."""
    tables = OURS / "report" / "tables"
    if not tables.is_dir():
        return {}, NOT_YET
    (asked,) = suite.read(str(FOLDER / "results" / f"{OURS.name}.toml"), "cpu")
    rows = [
        (row["row"], asked.rows[row["row"]], row)
        for row in _read(tables / f"{OURS.name}.csv")
        if not row["setting"]
    ]
    rows += [
        (f"{row['row']}, {row['curve']} {row['point']}", _words(asked, row), row)
        for row in _read(tables / f"{OURS.name}-curves.csv")
    ]
    found, words, images = {}, {}, 0
    for name, its, row in rows:
        if row["student"] == "average" and row["value"]:
            column = found.setdefault(name, {}).setdefault(row["column"], [])
            column.append(float(row["value"]))
            words[name], images = its, int(row["images"])
    means = {
        name: (words[name], *(np.mean(of[column]) for column in ("clean", "autoattack")))
        for name, of in found.items()
        if {"clean", "autoattack"} <= of.keys()
    }
    return means, MEASURED.format(title=asked.title, images=images)


def _read(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _words(asked, row):
    """What a point of a curve belongs to: the flags of its row, or its mixture."""
    if row["curve"] == "sweep":
        return asked.rows[row["row"]]
    return (f"--mixture={dict(mixture='probabilities').get(row['curve'], row['curve'])}",)


def _ours(entry, ours):
    """(row, clean, AutoAttack) of our rows of an entry."""
    wanted = f"--{entry.kind}={entry.key}"
    for row, (words, clean, robust) in ours.items():
        alone = entry.kind != "method" or "--distill=none" in words
        of_option = entry.kind == "option" and any(
            word.startswith(f"--{entry.key}") for word in words
        )
        if alone and wanted in words or of_option:
            yield row, clean, robust


def _overview(entries, ours):
    rows = []
    for entry in entries:
        own = max(_ours(entry, ours), key=lambda row: row[2], default=(None, None, None))
        first = (*entry.published, {})[0]
        rows.append(
            [
                f"[{entry.key}](#{_anchor(entry)})",
                entry.cost,
                _percents(first.get("clean"), first.get("autoattack")),
                _percents(*own[1:]),
            ]
        )
    head = ["", "cost (of `pgd-at`'s)", "published, clean / AutoAttack", "ours"]
    return text.markdown(head, rows) + "\n"


def _percents(clean, robust):
    shown = ["–" if value is None else f"{value:.1f}" for value in (clean, robust)]
    return "–" if clean is None else " / ".join(shown)


def _anchor(entry):
    """The heading of an entry as GitHub and pandoc link to it."""
    return f"{entry.kind}-{entry.key.replace('_', '-')}"


def _section(entry, sources, ours):
    own, beside = forwards(entry.words) if entry.trained else (0, 0)
    parts = [f'<a id="{_anchor(entry)}"></a>\n\n### `{entry.key}`\n']
    parts += [f"```text\n{entry.formula}\n```\n", f"{entry.prose}\n" if entry.prose else ""]
    parts.append(f"`python run.py {entry.words}`\n")
    if entry.trained:
        of_others = f" and {beside} of networks beside it" if beside else ""
        parts.append(f"Cost: {own} forwards of the student{of_others} an image.\n")
    if entry.fields:
        rows = [
            [f"`{name}`", value, _cell(meaning)] for name, value, meaning in entry.fields
        ]
        parts.append(text.markdown(["flag", "default", "meaning"], rows, left=3) + "\n")
    rows = [_published(row, sources) for row in entry.published]
    rows += [
        [f"ours: {row}", f"{clean:.1f}", f"{robust:.1f}", "[results](results.md)"]
        for row, clean, robust in _ours(entry, ours)
    ]
    if rows:
        head = ["accuracy (%)", "clean", "AutoAttack", "from"]
        parts.append(text.markdown(head, rows) + "\n")
    return "\n".join(part for part in parts if part)


def _published(row, sources):
    name, link = sources[row["source"]]
    shown = [f"{row[c]:.2f}" if c in row else "–" for c in ("clean", "autoattack")]
    return [f"{row['data']}, {row['network']}", *shown, f"[{name}]({link})"]


def _cell(meaning):
    return meaning.replace("|", r"\|")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
