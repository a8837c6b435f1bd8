"""A suite on disk: suite.json says what it is, status.json how far its commands are."""

import dataclasses
import glob
import os
import typing

from vfd_tf import files
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.overview import STATUS, read_status

SUITE, VERSION = "suite.json", 1
KINDS = ("table", "sweep", "features")
STATES = ("done", "running", "waiting", "failed", "stopped")
_REMEDY = "run its `python run.py suite` again, which writes it"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of a row of the table, and which of its students is shown."""

    row: str
    group: str
    seed: int
    directory: str
    base: str | None = None  # the row it is compared with
    value: str | None = None  # of the swept flag
    student: str = "last"
    distillation: str | None = None  # by its flag; else what the row's name says
    node: str = ""
    surrogate: str | None = None  # the run or file that black-box columns are made on


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A point of a row's trade-off curve; most are those of the base row of their group."""

    group: str
    seed: int
    kind: str
    label: str
    directory: str
    which: str
    student: str = "last"
    node: str = ""
    row: str | None = None  # whose student it is made of; None: the base row's
    value: str | None = None  # of the swept flag, where that student is one of several
    vanilla: str | None = None  # the directory of the run it is mixed with

    @property
    def whose(self) -> str:
        """The row whose curve it is on."""
        return self.row or self.group


@dataclasses.dataclass(frozen=True)
class Node:
    """A command of the suite and how far it is."""

    name: str
    command: str
    log: str = ""
    status: str = "waiting"
    seconds: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SuiteRecord:
    """What suite.json and status.json say; `folder` is where they are."""

    folder: str
    name: str
    title: str
    kind: str
    dataset: str
    arch: str
    threat: str
    columns: tuple[str, ...] = ()
    images: dict[str, int] = dataclasses.field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    scale: str = ""
    against: str | None = None
    published: str | None = None
    sweep: str | None = None
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    curves: tuple[CurvePoint, ...] = ()
    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)

    @property
    def students(self) -> tuple[str, ...]:
        """Which students of the runs are shown."""
        return tuple(dict.fromkeys(entry.student for entry in self.entries))

    def node(self, item: Entry | CurvePoint) -> Node:
        """The command that an entry or a point of a curve comes from."""
        return self.nodes.get(item.node) or Node(item.node, "")

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)


def read(folder: str) -> SuiteRecord:
    """The suite of a folder.

    Raises:
        InputError: No suite.json, one of another version, or one that is damaged.
    """
    path = os.path.join(folder, SUITE)
    whole = files.read_json(path, _REMEDY)
    if not whole:
        raise InputError(
            f"{folder} holds no suite.json; name the folder of a suite, such as "
            "runs/suite-table1."
        )
    if whole.get("version") != VERSION:
        raise InputError(
            f"{path} is of version {whole.get('version')!r}, and this report reads version "
            f"{VERSION}: {_REMEDY}."
        )
    with _refused(path):
        places = [os.path.join(folder, name) for name in whole.get("status", ["."])]
        shards = [os.path.join(glob.escape(place), "shard-*") for place in places]
        places += [path for pattern in shards for path in glob.glob(pattern)]
        return _suite(folder, whole, _status(places))


def _status(folders):
    """What status.json says in all of them; the newest has the last word."""
    paths = {os.path.normpath(os.path.join(folder, STATUS)) for folder in folders}
    status = {}
    for path in sorted(filter(os.path.exists, paths), key=os.path.getmtime):
        found = read_status(os.path.dirname(path))
        if not all(isinstance(entry, dict) for entry in found.values()):
            raise InputError(f"{path} is damaged (an entry is not valid): {_REMEDY}.")
        status |= found
    return status


def _refused(path):
    return files.read_or_refused(path, _REMEDY)


def _suite(folder, whole, status):
    known = {field.name for field in dataclasses.fields(SuiteRecord)}
    plain = {name: value for name, value in whole.items() if name in known}
    for name, kind in (("entries", Entry), ("curves", CurvePoint)):
        items = [_one(kind, fields) for fields in whole.get(name, [])]
        plain[name] = tuple(_from(folder, item) for item in items)
    plain["columns"] = tuple(whole.get("columns", []))
    for name in ("notes", "flags"):
        plain[name] = tuple(map(str, whole.get(name, [])))
    plain["nodes"] = {
        str(name): _node(name, node, status.get(name, {}))
        for name, node in whole.get("nodes", {}).items()
    }
    suite = SuiteRecord(**{**plain, "folder": folder})
    _check(suite)
    return suite


def _one(cls, fields):
    """A record of its own fields; others, of later versions, are passed over."""
    kinds = typing.get_type_hints(cls)
    item = cls(**{name: value for name, value in fields.items() if name in kinds})
    for name, kind in kinds.items():
        value = getattr(item, name)
        if not isinstance(value, kind):
            raise ValueError(f"its {name} is {value!r}")
    return item


def _from(folder, item):
    """The item with its run directories, which are named as the folder sees them."""
    names = "directory", "vanilla", "surrogate"
    paths = {name: getattr(item, name, None) for name in names}
    return dataclasses.replace(
        item,
        **{n: os.path.normpath(os.path.join(folder, p)) for n, p in paths.items() if p},
    )


def _node(name, node, status):
    state = status.get("status", "waiting")
    seconds = status.get("seconds")
    return Node(
        name=str(name),
        command=str(node.get("command", "")),
        log=str(node.get("log") or ""),
        status=state if state in STATES else "waiting",
        seconds=seconds if isinstance(seconds, (int, float)) else None,
        reason=str(status.get("reason") or ""),
    )


def _check(suite):
    """Raises `ValueError` unless the fields of a suite are what they should be."""
    if suite.kind not in KINDS:
        raise ValueError(f"its kind is {suite.kind!r}, none of {', '.join(KINDS)}")
    texts = (suite.name, suite.title, suite.dataset, suite.arch, suite.threat)
    texts += (suite.scale, suite.published or "", suite.sweep or "", *suite.columns)
    texts += (suite.against or "",)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("one of its texts is not a text")
    counts = suite.images.values()
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError("its numbers of images are not valid")
