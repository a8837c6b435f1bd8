"""Writes docs/methods.md: `python docs/catalogue.py`.

Formulas are the docstrings, flags and defaults the fields, costs counted; docs/methods.toml
has the published numbers, docs/results/measured/rivals ours.
"""

import csv
import dataclasses
import decimal
import inspect
import pathlib
import re
import shlex
import textwrap
import tomllib

import numpy as np

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
says how.

**Cost** is that of an image in a step of the command in the section, in forwards of the
student's size: the gradient of an image costs two, that of the weights three. The attack is
PGD-10 unless the command says otherwise; the training of teachers is not counted.

**Published** numbers are percent of the test images that are classified correctly, at L-inf
8/255 unless a row has another radius, taken from the linked page; ± is the spread there.
Only rows of one source, network and recipe compare: recipes often decide more than methods
do. The first table has CIFAR-10, and several rows of a method that several sources have;
[sources](#sources) says what is known of the recipes. A dash: none is listed here.

{ours}
"""
NOT_YET = "Ours are not measured yet for all methods; [results](results.md) has the first."
MEASURED = (
    "**Ours** are from the suite {title}: ResNet-18 at a quarter of its width, 5 epochs. "
    "Compare them with each other, never with the published ones. They are percent of the "
    "averaged student, means over the seeds that are done, on the first {images} "
    "([results](results.md)). The first table has each method's row at its "
    "default values; the sections have all rows, and the points of curves."
)
SOURCES = '<a id="sources"></a>\n\n## Sources\n'
COLUMNS = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AutoAttack"}


def page() -> str:
    """The text of docs/methods.md."""
    data = read()
    ours, said = measured()
    entries = [
        *_components("method", METHODS, data),
        *_components("distill", DISTILLATIONS, data),
    ]
    entries += [_option(key, own) for key, own in data["option"].items()]
    entries += [_mixture(key, own) for key, own in data["mixture"].items()]
    parts = [HEAD.format(ours=_wrapped(said)), _overview(entries, data["sources"], ours)]
    for title, kind in KINDS.items():
        parts.append(f"## {title}\n")
        parts += [_section(e, data["sources"], ours) for e in entries if e.kind == kind]
    return "\n".join([*parts, SOURCES, _sources(data["sources"])])


def read() -> dict:
    """docs/methods.toml, every row with the network, recipe and source of its setting.

    Numbers are decimal, with as many digits as they are written with.
    """
    data = tomllib.loads(DATA.read_text(encoding="utf-8"), parse_float=decimal.Decimal)
    for kind in KINDS.values():
        for own in data[kind].values():
            rows = own.get("published", [])
            own["published"] = [
                {**data["setting"].get(row.get("of"), {}), **row} for row in rows
            ]
    return data


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
        published, note: Rows of docs/methods.toml, and what has to be known of them.
    """

    kind: str
    key: str
    formula: str
    prose: str
    words: str
    fields: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    published: list[dict] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def trained(self) -> bool:
        return self.kind != "mixture"

    @property
    def cost(self) -> str:
        """Forwards an image in a step, and how many times those of PGD-AT."""
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
        yield Entry(kind, key, formula, prose, words, fields, *_numbers(own))


def _numbers(own):
    return own.get("published", []), own.get("note", "")


def _option(key, own):
    formula, prose, words = own["formula"], own["prose"], own["flags"]
    return Entry("option", key, formula, prose, words, [], *_numbers(own))


def _mixture(key, own):
    first, prose = _docstring(getattr(mixture, own["function"]))
    said = [p for p in prose.split("\n\n") if not p.startswith("    ")]  # no code
    words = f"mix VANILLA.keras ROBUST.keras --mix_kind={key}"
    prose = "\n\n".join([f"{first}.", *filter(None, [own.get("prose")]), *said])
    return Entry("mixture", key, own["formula"], prose, words, [], *_numbers(own))


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
    own, beside = forecast.step_forwards(experiment)
    return own, sum(beside.values())


@dataclasses.dataclass(frozen=True)
class Ours:
    """What we measured of a row of the suite, or of a point of a curve.

    Attributes:
        row: Its name.
        words: Its flags; --mixture=KIND of a mixture.
        clean, autoattack: Percent, means over seeds.
        point: Whether it is a point of a curve.
    """

    row: str
    words: tuple[str, ...]
    clean: float
    autoattack: float
    point: bool = False


def measured() -> tuple[list[Ours], str]:
    """Our rows in the suite's order, points of curves last; and what they are of."""
    (asked,) = suite.read(str(FOLDER / "results" / f"{OURS.name}.toml"), "cpu")
    found, images = {}, {}
    for key, row in _measurements(asked):
        if row["student"] == "average" and row["seed"] != "mean" and row["value"]:
            values = found.setdefault(key, {}).setdefault(row["column"], [])
            values.append(float(row["value"]))
            images[row["column"]] = int(row["images"])
    ours = [
        Ours(name, words, np.mean(of["clean"]), np.mean(of["autoattack"]), point)
        for (name, words, point), of in found.items()
        if {"clean", "autoattack"} <= of.keys()
    ]
    if not ours:
        return [], NOT_YET
    order = {row: i for i, row in enumerate(asked.rows)}
    ours.sort(key=lambda own: order.get(own.row, len(order)))
    return ours, MEASURED.format(title=asked.title, images=_images(**images))


def _measurements(asked):
    """((name, flags, whether it is a point of a curve), row) of the suite's tables."""
    tables = OURS / "report" / "tables"
    for row in _read(tables / f"{OURS.name}.csv"):
        if not row["setting"]:
            yield (row["row"], asked.rows[row["row"]], False), row
    for row in _read(tables / f"{OURS.name}-curves.csv"):
        name = f"{row['row']}, {row['curve']} {row['point']}"
        yield (name, _words(asked, row), True), row


def _read(path):
    if not path.is_file():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _words(asked, row):
    """The flags of a point of a curve, or its mixture."""
    if row["curve"] == "sweep":
        flag, _ = asked.curves[row["row"]]
        return (*asked.rows[row["row"]], f"--{flag}={row['point']}")
    return (f"--mixture={dict(mixture='probabilities').get(row['curve'], row['curve'])}",)


def _images(clean, autoattack, **_):
    under = "" if autoattack == clean else f", {autoattack:,} of them under AutoAttack"
    return f"{clean:,} test images{under}"


def _ours(entry, ours):
    """Our rows and points of an entry."""
    wanted = f"--{entry.kind}={entry.key}"
    for own in ours:
        alone = entry.kind != "method" or "--distill=none" in own.words
        of_option = entry.kind == "option" and any(
            word.startswith(f"--{entry.key}") for word in own.words
        )
        if alone and wanted in own.words or of_option:
            yield own


def _overview(entries, sources, ours):
    rows = []
    for entry in entries:
        own = next((own for own in _ours(entry, ours) if not own.point), None)
        name = f"[{entry.key}](#{_anchor(entry)})"
        last = [entry.cost, f"{own.clean:.2f} / {own.autoattack:.2f}" if own else "–"]
        for row in [row for row in entry.published if row.get("overview")] or [{}]:
            under = _under(row, sources) if row else "–"
            rows.append([name, under, *_accuracies(row, COLUMNS), *last])
            name, last = "", ["", ""]
    head = ["", "network, recipe; source", *COLUMNS.values()]
    head += ["cost (of `pgd-at`'s)", "ours, clean / AutoAttack"]
    return text.markdown(head, rows, left=2) + "\n"


def _under(row, sources):
    """Network, recipe and source of a row of the overview."""
    source = sources[row["source"]]
    said = _listed(row, "network", "recipe", "form")
    return f"{said}; {source.get('short', source['name'])}"


def _listed(row, *keys):
    radius = [f"radius {row['radius']}"] if "radius" in row else []
    return ", ".join([row[key] for key in keys if key in row] + radius)


def _accuracies(row, columns):
    return [_percent(row.get(c), row.get(f"{c}_pm")) for c in columns]


def _percent(value, spread):
    """Numbers with their own digits, at most two behind the point."""
    known = [n for n in (value, spread) if n is not None]
    shown = (str(n if n.as_tuple().exponent >= -2 else round(n, 2)) for n in known)
    return " ± ".join(shown) or "–"


def _anchor(entry):
    """The heading of an entry as GitHub and pandoc link to it."""
    return f"{entry.kind}-{entry.key.replace('_', '-')}"


def _section(entry, sources, ours):
    parts = [f'<a id="{_anchor(entry)}"></a>\n\n### `{entry.key}`\n']
    parts += [f"```text\n{entry.formula}\n```\n", f"{entry.prose}\n" if entry.prose else ""]
    parts.append(f"`python run.py {entry.words}`\n")
    if entry.trained:
        own, beside = forwards(entry.words)
        of_others = f", {beside} of other networks" if beside else ""
        parts.append(f"Per image: {own} forwards of the student{of_others}.\n")
    if entry.fields:
        rows = [[f"`{name}`", value, _cell(said)] for name, value, said in entry.fields]
        parts.append(text.markdown(["flag", "default", "meaning"], rows, left=3) + "\n")
    parts += [_numbers_of(entry, sources, ours), f"{entry.note}\n" if entry.note else ""]
    return "\n".join(part for part in parts if part)


def _numbers_of(entry, sources, ours):
    """The table of published and of our numbers, or nothing."""
    pgd20 = any("pgd20" in row for row in entry.published)
    columns = [column for column in COLUMNS if column != "pgd20" or pgd20]
    rows = []
    for row in entry.published:
        what = _cell(_listed(row, "data", "network", "recipe", "form", "said"))
        rows.append([what, *_accuracies(row, columns), _link(row, sources)])
    for own in _ours(entry, ours):
        cells = {"clean": f"{own.clean:.2f}", "autoattack": f"{own.autoattack:.2f}"}
        values = [cells.get(column, "–") for column in columns]
        rows.append([f"ours: {own.row}", *values, "[results](results.md)"])
    if not rows:
        return ""
    head = ["accuracy (%)", *map(COLUMNS.get, columns), "from"]
    return text.markdown(head, rows) + "\n"


def _link(row, sources):
    source = sources[row["source"]]
    if "model" not in row:
        return f"[{source['name']}]({source['link']})"
    link = source["models"].format(**{**row, "data": row["data"].lower().replace("-", "")})
    return f"[{source['name']}, `{row['model']}`]({link})"


def _sources(sources):
    lines = (f"- [{s['name']}]({s['link']}): {s['note']}" for s in sources.values())
    return "\n".join(_wrapped(line, subsequent_indent="  ") for line in lines) + "\n"


def _wrapped(said, **how):
    return textwrap.fill(said, 92, break_long_words=False, break_on_hyphens=False, **how)


def _cell(meaning):
    return meaning.replace("|", r"\|")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
