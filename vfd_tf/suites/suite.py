"""A suite: rows of flags, or a sweep over one of them, as a file that is data.

    title = "My table"
    flags = "--dataset=cifar10 --arch=resnet18"
    columns = "clean pgd20 autoattack"

    [rows]
    "TRADES"     = "--method=trades --distill=none"
    "TRADES+VFD" = "--method=trades --distill=vfd"

Rows are of one group whose names begin alike, up to the first "+"; the row of the group's
own name is what the others are compared with. `sweep` makes a point of every value of a
flag. `[curves]` says how the trade-off curve of each group is drawn. `against` is the row
that all others are compared with, whatever their names. A table named like a scale,
`[cpu]`, replaces entries at that scale. See docs/suites.md.
"""

import dataclasses
import pathlib
import shlex
import tomllib
from typing import Any

from vfd_tf.experiments.mixtures import Mix
from vfd_tf.hyperparameters import InputError, choose, reason

FOLDER = pathlib.Path(__file__).parent / "definitions"
STUDENTS = ("last", "average")
SCALES = ("paper", "short", "cpu", "smoke")
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Point:
    """One run that a suite asks for.

    Attributes:
        row: The row it is in, or whose trade-off curve it is on.
        words: Flags of the row and of the sweep.
        flag, value: What is swept, and its value as text.
        curve: Whether it is on a curve alone, and in no row.
    """

    row: str
    words: tuple[str, ...]
    flag: str | None = None
    value: str | None = None
    curve: bool = False

    @property
    def label(self) -> str:
        if self.flag is None:
            return self.row
        return f"{self.row}, {self.flag.replace('_', ' ')} {self.value}"


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite at a scale. Flags are tuples of words, as on the command line.

    Attributes:
        name: Of its file, without the ending.
        rows: Row -> flags.
        sweep: A flag and the values that every row is run with, or None.
        features: Flags of the picture of features, if there is one.
        mixtures: Those of base rows' students with the vanilla teacher.
        mixed: Further rows whose students are mixed so, for curves of their own.
        curves: Row -> the flag and the values of its trade-off curve.
        against: The row that all others are compared with; None: that of their group.
        published: The table of published numbers to lie beside, or None.
        surrogate: Flags of the network that black-box attacks are made on.
        students: Those that are evaluated; empty: last, and average where it is made.
        max_images: Take the first so many test images; None: all.
        images: Attack -> fewer images.
    """

    name: str
    scale: str
    title: str
    rows: dict[str, tuple[str, ...]]
    columns: tuple[str, ...]
    flags: tuple[str, ...] = ()
    sweep: tuple[str, tuple[str, ...]] | None = None
    features: tuple[str, ...] = ()
    mixtures: tuple[Mix, ...] = ()
    mixed: tuple[str, ...] = ()
    curves: dict[str, tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    against: str | None = None
    published: str | None = None
    surrogate: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    max_images: int | None = None
    images: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is drawn as: a "table", a "sweep" or "features"."""
        return "features" if self.features else "sweep" if self.sweep else "table"

    @property
    def attacks(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != "clean")

    def group(self, row: str) -> str:
        """The rows that are compared with each other, by the name of the first."""
        return self.against or row.split("+")[0].strip()

    def base(self, row: str) -> str | None:
        """The row that a row is compared with."""
        group = self.group(row)
        return group if group in self.rows and row != group else None

    def points(self) -> list[Point]:
        """All runs of one seed: those of the rows, then those of curves alone."""
        name, values = self.sweep or (None, (None,))
        found = []
        for row, words in self.rows.items():
            for value in values:
                more = () if value is None else (f"--{name}={value}",)
                found.append(Point(row, (*words, *more), name, value))
        for row, (name, values) in self.curves.items():
            for value in values:
                words = (*self.rows[row], f"--{name}={value}")
                found.append(Point(row, words, name, value, curve=True))
        return found

    def mixes(self, point: Point) -> bool:
        """Whether this point's student is mixed with the vanilla teacher."""
        mixed = {*self.bases, *self.mixed}
        return bool(self.mixtures) and not point.curve and point.row in mixed

    @property
    def bases(self) -> set[str]:
        """The rows that others are compared with."""
        return {self.base(row) for row in self.rows} - {None}


def names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != "scales")


def read(name: str, scale: str) -> list[Suite]:
    """The suites of a name, `all` of them, or the one in a file.

    Raises:
        InputError: No such suite or file, or a file that is not one.
    """
    choose(dict.fromkeys(SCALES), scale, "scale")
    if name == ALL:
        return [suite for each in names() for suite in read(each, scale)]
    path = pathlib.Path(name)
    if path.suffix != ".toml":
        choose(dict.fromkeys((*names(), ALL)), name, "suite")
        path = FOLDER / f"{name}.toml"
    of_scale, own = _read(FOLDER / "scales.toml")[scale], _read(path)
    try:
        _check_tables(own)
        return [_suite(path.stem, scale, _joined(of_scale, own, scale))]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The suite {path} can't be read ({reason(error)}); see docs/suites.md."
        ) from error


def _check_tables(own):
    """Raises `InputError` where what is joined with a scale is no table, or no text."""
    scales = [(key, own[key]) for key in SCALES if key in own]
    for key, value in scales:
        if not isinstance(value, dict):
            raise InputError(f"{key} is {value!r}, and must be a table, [{key}].")
    for table in (own, *(value for _, value in scales)):
        for key in {"rows", "flags"} & table.keys():
            _checked(key, table[key])


def _joined(of_scale, own, scale) -> dict:
    """The entries of a file at a scale.

    Flags of the scale follow those of the file; the file's own table of the scale has the
    last word.
    """
    general = {k: v for k, v in own.items() if k not in SCALES}
    last = own.get(scale, {})
    both = [each.get("flags", "") for each in (general, {**of_scale, **last})]
    rows = {**general.get("rows", {}), **last.get("rows", {})}
    return {**of_scale, **general, **last, "rows": rows, "flags": " ".join(both).strip()}


def _suite(name, scale, entries) -> Suite:
    """The suite of checked entries."""
    for key in entries:
        choose(KEYS, key, "entry")
    for key in ("title", "columns", "rows"):
        given = entries.get(key)
        if not given or isinstance(given, str) and not given.strip(", \t\n"):
            raise InputError(f"it has no {key}; see docs/suites.md.")
    read_ = {key: _checked(key, value) for key, value in entries.items()}
    _check_counts(read_)
    curves = dict(read_.pop("curves", {}))
    mixtures, mixed = _mixing(curves)
    rows = {row: _words(row, flags) for row, flags in read_.pop("rows").items()}
    named = [("[curves]", row) for row in curves] + [("mixed", row) for row in mixed]
    named += [("against", row) for row in [read_.get("against")] if row is not None]
    for what, row in named:
        choose(rows, row, f"row of {what}")
    curves = {row: _sweep(row, text) for row, text in curves.items()}
    flags = (*_words("flags", read_.pop("flags", "")),)
    for key in ("surrogate", "features"):
        read_[key] = _words(key, read_.get(key, ""))
    sweep = read_.pop("sweep", None)
    students = _parts(read_.pop("students", ""))
    for student in students:
        choose(dict.fromkeys(STUDENTS), student, "student of a suite")
    suite = Suite(
        name,
        scale,
        rows=rows,
        curves=curves,
        mixtures=mixtures,
        mixed=mixed,
        flags=flags,
        students=students,
        columns=_parts(read_.pop("columns")),
        sweep=_sweep("sweep", sweep) if sweep else None,
        **read_,
    )
    _refuse_idle_mixtures(suite)
    _refuse_two_sweeps(suite)
    return suite


def _check_counts(entries):
    """Raises `InputError` for a number of images that is none."""
    most = entries.get("max_images", 1)
    if most < 1:
        raise InputError(f"max_images is {most}, and must be at least 1.")
    for attack, count in entries.get("images", {}).items():
        if type(count) is not int or count < 1:
            raise InputError(
                f"it has {attack} = {count!r} in images: write a number, 1 or more."
            )


def _refuse_idle_mixtures(suite):
    """Raises `InputError` where no student is mixed, or no column can judge a mixture."""
    if suite.mixtures and not suite.bases | {*suite.mixed}:
        raise InputError(
            "mixtures has no effect, as no row is compared with another: name the rows to "
            'mix, mixed = ["TRADES"], or the one that all are compared with, against.'
        )
    fitted = [mix.text for mix in suite.mixtures if mix.fitted]
    if fitted and "autoattack" not in suite.columns:
        raise InputError(
            f"mixtures has {fitted[0]}, whose errors other attacks don't find: add "
            "autoattack to columns."
        )


def _refuse_two_sweeps(suite):
    """Raises `InputError` where a row's curve would get the points of the sweep, too."""
    if suite.sweep and suite.curves:
        row = next(iter(suite.curves))
        raise InputError(
            f"it has a sweep and, in [curves], one of {row}: leave out sweep, and write a "
            "row for each of its values."
        )


def _mixing(curves) -> tuple[tuple[Mix, ...], tuple[str, ...]]:
    """Takes the mixtures, and the further rows to mix, out of [curves]."""
    mixtures = tuple(dict.fromkeys(map(Mix.of, _list("mixtures", curves))))
    mixed = tuple(map(str, _list("mixed", curves)))
    if mixed and not mixtures:
        raise InputError("mixed has no effect alone: add mixtures = [0.8] to [curves].")
    return mixtures, mixed


KEYS = {
    "title": str,
    "against": str,
    "published": str,
    "flags": str,
    "columns": str,
    "sweep": str,
    "features": str,
    "surrogate": str,
    "students": str,
    "max_images": int,
    "rows": dict,
    "curves": dict,
    "images": dict,
}


def _checked(key, value) -> Any:
    kind = KEYS[key]
    if type(value) is not kind:
        raise InputError(f"{key} is {value!r}, and must be a {_KINDS[kind]}.")
    return value


_KINDS = {str: "text", int: "number", dict: "table, [name]"}


def _list(key, entries) -> list:
    """Takes a list out of a table; [] without one."""
    found = entries.pop(key, [])
    if not isinstance(found, list):
        raise InputError(f"{key} is {found!r}, and must be a list, [...].")
    return found


def _parts(text) -> tuple[str, ...]:
    """What spaces or commas part."""
    return tuple(text.replace(",", " ").split())


def _words(key, text) -> tuple[str, ...]:
    """The words of flags in one text."""
    if not isinstance(text, str):
        raise InputError(f"{key!r} is {text!r}, and must be a text of flags.")
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"{key!r} is {text!r}, and has a quote too few.") from error
    for word in words:
        if not word.startswith("--"):
            raise InputError(f"{key!r} has {word!r}: write flags as --name=value.")
    return words


def _sweep(key, text) -> tuple[str, tuple[str, ...]]:
    """(flag, values) of --name=value,value."""
    words = _words(key, text)
    name, _, values = "".join(words[:1]).removeprefix("--").partition("=")
    if len(words) != 1 or not values:
        raise InputError(f"{key!r} is {text!r}, and must be one --flag=value,value,...")
    return name, tuple(values.split(","))
