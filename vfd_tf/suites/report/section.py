"""A suite made ready for the report: its rows, figures, runs."""

import dataclasses

from vfd_tf.suites.report import collect, figures, listing, pictures, suite_record, summary


@dataclasses.dataclass(frozen=True)
class Section:
    """One suite of the report.

    Attributes:
        name: Names its files and anchors; no other section has it.
        figures: Name -> what the figure shows, and the figure.
        items: Its commands and runs.
        problems: A sentence for everything that can't be shown.
    """

    name: str
    summary: summary.Summary
    figures: dict[str, tuple[str, object]]
    items: list[listing.Item]
    problems: list[str]


def section(workdir: str, out: str, taken=()) -> Section:
    """Reads a suite.

    Raises:
        InputError: The folder holds none, or one that is damaged.
    """
    suite = suite_record.read(workdir)
    collected = collect.collect(suite)
    found = summary.summarize(collected)
    more, problems = pictures.draw(suite)
    name = _free(suite.name, taken)
    return Section(
        name=name,
        summary=found,
        figures={**figures.draw(found), **more},
        items=listing.items(collected, out, name),
        problems=problems,
    )


def _free(name, taken):
    """A name of letters, digits and dashes that no other section has."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name) or "suite"
    number, free = 1, plain
    while free in taken:
        number += 1
        free = f"{plain}-{number}"
    return free
