"""The runs of a suite as a list: command, state, directory, flags and log of each."""

import dataclasses
import os
import urllib.parse

from vfd_tf.suites.report.collect import Collected, Measured, Run
from vfd_tf.suites.report.suite_record import Entry, Node
from vfd_tf.suites.report.summary import student_text


@dataclasses.dataclass(frozen=True)
class Directory:
    """A run directory of a command: links are relative to the report, "" where missing."""

    path: str
    link: str
    flags: str
    problem: str
    used_by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """A command of a suite, or a run directory that no command of it names."""

    anchor: str
    node: Node
    log: str
    directories: tuple[Directory, ...]


def items(collected: Collected, out: str, prefix: str) -> list[Item]:
    """All commands of a suite in its order, then what runs there are without one."""
    suite, users = collected.suite, {}
    for measured in (*collected.entries, *collected.points):
        node = measured.item.node if measured.item.node in suite.nodes else ""
        users.setdefault(node, {}).setdefault(measured.item.directory, []).append(measured)
    found = []
    for number, (name, node) in enumerate(suite.nodes.items()):
        directories = users.get(name, {})
        found.append(_item(f"{prefix}-run-{number}", node, directories, suite, out))
    for number, (path, members) in enumerate(users.get("", {}).items(), len(found)):
        record = members[0].run.record
        status = "done" if record and record.complete else "waiting"
        node = Node(os.path.basename(path), record.command if record else "", status=status)
        anchor = f"{prefix}-run-{number}"
        found.append(_item(anchor, node, {path: members}, suite, out))
    return found


def anchors(listed: list[Item]) -> dict[str, str]:
    """Name of a command, and path of a run directory -> anchor."""
    paths = {d.path: item.anchor for item in listed for d in item.directories}
    return paths | {item.node.name: item.anchor for item in listed}


def link(path: str, out: str) -> str:
    """A relative link from the report to a file or folder; "" where there is none."""
    if not os.path.exists(path):
        return ""
    return urllib.parse.quote(os.path.relpath(path, out).replace(os.sep, "/"))


def _item(anchor, node, directories, suite, out):
    log = link(suite.path(node.log), out) if node.log else ""
    found = (_directory(members, out) for members in directories.values())
    return Item(anchor, node, log, tuple(found))


def _directory(members: list[Measured], out):
    run: Run = members[0].run
    return Directory(
        path=members[0].item.directory,
        link=link(run.path, out),
        flags=link(os.path.join(run.path, "flags.txt"), out),
        problem=run.problem,
        used_by=tuple(dict.fromkeys(_user(measured) for measured in members)),
    )


def _user(measured):
    """What a run is used for: `TRADES (averaged), seed 0`, or a point of a curve."""
    item = measured.item
    if isinstance(item, Entry):
        value = f", {item.value}" if item.value is not None else ""
        student = student_text(item.student, measured.suite)
        return f"{item.row}{student}{value}, seed {item.seed}"
    return f"{item.whose}, {item.kind} curve, {item.label}, seed {item.seed}"
