"""The report of the evaluations of one model, in a folder where they accumulate.

A table is of one data set, number of test images, threat model and settings (seed, range
of the images, surrogate, precision): its title names them. Attacks that are evaluated
later join the rows of their table; other settings open another one.

results.json   what the latest call depends on, its command, versions, warnings, and
               tables: title -> {dataset, images, norm, epsilon, seed, warnings, ...}
               rows: one a table and attack, {table: title, attack, accuracy, ...}
results.csv    the rows
results.md     the tables, with their warnings; results.tex: the same as LaTeX
verdicts.npz   "<title>|<attack>" -> which images the model got right: bool [n]
"""

import dataclasses
import json
import math
import os

import numpy as np

from vfd_tf import files, text
from vfd_tf.evaluation import tables
from vfd_tf.evaluation.result import EvaluationResult
from vfd_tf.hyperparameters import InputError

UNBOUNDED = ", unbounded"


@dataclasses.dataclass
class Report:
    """What the evaluations of a model have come to so far; `read` begins with a folder's.

    Attributes:
        tables: Title -> what the table is of.
        rows: Those of all tables, `EvaluationResult.rows` with their table's title.
        verdicts: "<title>|<attack>" -> bool [n].
    """

    tables: dict[str, dict] = dataclasses.field(default_factory=dict)
    rows: list[dict] = dataclasses.field(default_factory=list)
    verdicts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> "Report":
        """The report in a folder, or an empty one.

        Verdicts without a row are left out: their process ended before results.json, and
        the same command adds both.

        Raises:
            InputError: Files that are damaged, or of another version.
        """
        remedy = f"remove {folder}, or choose another --eval_dir"
        path = os.path.join(folder, "results.json")
        whole = files.read_json(path, remedy)
        if not whole:
            return cls()
        titles, rows = whole.get("tables"), whole.get("rows")
        found = files.read_arrays(os.path.join(folder, "verdicts.npz"), remedy)
        try:
            verdicts = _of_rows(found, rows)
            fit = _are_tables(titles, rows) and _fit(verdicts, titles)
        except (AttributeError, KeyError, OverflowError, TypeError):
            fit = False
        if not fit:
            raise InputError(
                f"{path} and verdicts.npz don't fit each other, or are of another version "
                f"of vfd_tf: {remedy}."
            )
        return cls(titles, rows, verdicts)

    def add(self, title: str, table: dict, evaluation: EvaluationResult) -> list[str]:
        """Joins an evaluation to the table of that title.

        Returns:
            A sentence for every row that now says something else.
        """
        notes, found = [], evaluation.verdicts()
        for name, verdict in found.items():
            before = self.verdicts.get(f"{title}|{name}", verdict)
            changed = int((before != verdict).sum())
            if changed:
                notes.append(
                    f"{changed} of {len(verdict)} verdicts of {name} differ from those in "
                    f"the report ({title}), which are replaced."
                )
        self.verdicts |= {f"{title}|{name}": verdict for name, verdict in found.items()}
        old = [row for row in self.rows if row["table"] == title]
        warnings = self.tables.get(title, {}).get("warnings", [])
        warnings = [*dict.fromkeys([*warnings, *evaluation.warnings])]
        self.tables[title] = {**table, "warnings": warnings}
        rows = self._joined(title, old, evaluation)
        others = [row for row in self.rows if row["table"] != title]
        self.rows = [*others, *({"table": title, **row} for row in rows)]
        return notes

    def _joined(self, title, old, evaluation):
        """The rows of a table with those of an evaluation, and the worst of all anew."""
        new = {row["attack"]: row for row in evaluation.rows()}
        rows = {row["attack"]: row for row in old} | new
        prefix = f"{title}|"
        columns = {
            name.removeprefix(prefix): verdict
            for name, verdict in self.verdicts.items()
            if name.startswith(prefix)
        }
        unbounded = [n for n in columns if rows[n]["threat"].endswith(UNBOUNDED)]
        whole = EvaluationResult(
            columns.pop("clean"),
            columns,
            {},
            threats={name: rows[name]["threat"] for name in columns},
            distances=dict.fromkeys(unbounded, ()),
        )
        worst = {row["attack"]: row for row in whole.rows() if _is_worst(row)}
        rows = {name: row for name, row in rows.items() if not _is_worst(row)} | worst
        return [{k: v for k, v in row.items() if k != "table"} for row in rows.values()]

    def markdown(self, title: str = "") -> str:
        """All tables, each under its title, below the title of the whole."""
        parts = [title] if title else []
        for name, table in self.tables.items():
            rows = [row for row in self.rows if row["table"] == name]
            parts.append(tables.markdown(rows, name, table["warnings"]))
        return "\n\n".join(parts)

    def latex(self) -> str:
        """All tables, a comment with its title above each."""
        parts = []
        for name in self.tables:
            rows = [row for row in self.rows if row["table"] == name]
            parts.append(f"% {name}\n{tables.latex(rows)}")
        return "\n".join(parts)

    def write(self, folder: str, facts: dict, title: str = "") -> str:
        """Writes results.json, .csv, .md, .tex and verdicts.npz; returns the Markdown."""
        shown = self.markdown(title)
        whole = {**facts, "tables": self.tables, "rows": self.rows}
        contents = {
            "results.csv": text.comma_separated(self.rows),
            "results.md": shown + "\n",
            "results.tex": self.latex(),
            "results.json": json.dumps(whole, indent=2) + "\n",
        }
        path = os.path.join(folder, "verdicts.npz")  # first, as `read` expects
        with files.replaced(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, **self.verdicts)
        for name, content in contents.items():
            path = os.path.join(folder, name)
            with files.replaced(path) as part, open(part, "w") as file:
                file.write(content)
        return shown


def _is_worst(row) -> bool:
    """Whether a row is of several attacks: worst, or worst linf:8/255."""
    return row["attack"].split(" ")[0] == "worst"


def _are_tables(titles, rows) -> bool:
    """Whether this is what `Report.write` writes; may raise for what is not."""
    texts, numbers = ("attack", "threat"), ("accuracy", "low", "high")
    maybe = "mean_distance", "median_distance", "seconds"
    return all(
        isinstance(table["images"], int)
        and all(isinstance(warning, str) for warning in table["warnings"])
        for table in titles.values()
    ) and all(
        row["table"] in titles
        and all(isinstance(row[name], str) for name in texts)
        and all(math.isfinite(row[name]) for name in numbers)
        and all(row[name] is None or math.isfinite(row[name]) for name in maybe)
        and (row["mean_distance"] is None) == (row["median_distance"] is None)
        for row in rows
    )


def _of_rows(verdicts, rows):
    """The verdicts that have a row."""
    known = {f"{row['table']}|{row['attack']}" for row in rows}
    return {name: verdict for name, verdict in verdicts.items() if name in known}


def _fit(verdicts, titles) -> bool:
    """Whether verdicts are of all images of their table."""
    columns = {name: name.rpartition("|")[0] for name in verdicts}
    return all(
        verdicts[name].dtype == bool
        and verdicts[name].shape == (titles[title]["images"],)
        and f"{title}|clean" in verdicts
        for name, title in columns.items()
    )
