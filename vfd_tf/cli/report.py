"""The mode `report`: tables, statistics and figures of suites, finished or not."""

import glob
import os
import shlex

from vfd_tf import files
from vfd_tf.suites.report import build, document


def run(values, words: list[str]) -> None:
    """The report of suites, also while they run: a page, tables, figures."""
    pattern = os.path.join(glob.escape(values.runs), "suite-*", "suite.json")
    workdirs = words or sorted(map(os.path.dirname, glob.glob(pattern)))
    told = shlex.join(["python", "run.py", "report", *workdirs, "--runs=FOLDER"])
    elsewhere = values.runs if words and values["runs"].present else None
    write(values, workdirs, elsewhere, f"write it elsewhere with {told}")


def write(values, workdirs: list[str], folder: str | None = None, remedy=None) -> None:
    """Writes the report of suites and prints their tables.

    Args:
        folder: Where the folder `report` is made; default: that of the suite, of several
            the folder of all runs.
        remedy: What to do where nothing can be written there.
    """
    single = workdirs[0] if len(workdirs) == 1 else values.runs
    out = os.path.join(folder or single, "report")
    sections = build.sections(workdirs, out)
    if remedy:
        files.check_writable(out, remedy)
    path = build.write(sections, out)
    print("\n\n\n".join(document.main_table(section) for section in sections))
    print(f"\n{path}\n{os.path.join(out, build.MARKDOWN)}")
    print(f"{os.path.join(out, 'tables')}\n{os.path.join(out, 'figures')}")
