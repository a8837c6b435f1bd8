"""The mode `report`: tables, statistics and figures of suites, finished or not."""

import glob
import os

from vfd_tf.suites.report import build, document


def run(values, words: list[str]) -> None:
    """The report of suites, also while they run: a page, tables, figures."""
    workdirs = words or sorted(
        os.path.dirname(path)
        for path in glob.glob(os.path.join(values.runs, "suite-*", "suite.json"))
    )
    single = workdirs[0] if len(workdirs) == 1 else values.runs
    out = os.path.join(single, "report")
    sections = build.sections(workdirs, out)
    path = build.write(sections, out)
    print("\n\n\n".join(document.main_table(section) for section in sections))
    print(f"\n{path}\n{os.path.join(out, build.MARKDOWN)}")
    print(f"{os.path.join(out, 'tables')}\n{os.path.join(out, 'figures')}")
