"""Writes the report of suites: a page, Markdown, tables, figures.

report.html   everything, in one file
report.md     the same as Markdown
tables/       SUITE.csv: one row a number; SUITE.tex, SUITE-average.tex: a student's rows;
              SUITE-curves.csv: the points of trade-off curves
figures/      SUITE-FIGURE.svg and .png
"""

import os
import shutil

from vfd_tf import files
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.report import document, drawing, html
from vfd_tf.suites.report.section import Section, section

PAGE, MARKDOWN = "report.html", "report.md"


def build(workdirs: list[str], out: str) -> str:
    """Writes the report of suites into a folder, one section each.

    Args:
        workdirs: Their folders, with suite.json.
        out: Folder of the report; files of an earlier one there are replaced.

    Returns:
        The path of report.html.

    Raises:
        InputError: No folder, or one without a suite or with one that is damaged.
    """
    return write(sections(workdirs, out), out)


def sections(workdirs: list[str], out: str) -> list[Section]:
    """Reads the suites; see `build`."""
    if not workdirs:
        raise InputError(
            "There is no suite to report: run one with `python run.py suite`, or name its "
            "folder."
        )
    found = []
    for workdir in {os.path.realpath(path): path for path in workdirs}.values():
        found.append(section(workdir, out, [other.name for other in found]))
    return found


def write(found: list[Section], out: str) -> str:
    """Writes the report of these sections; returns the path of report.html."""
    drawn, contents = {}, {}
    for each in found:
        for name, (_, figure) in each.figures.items():
            with drawing.style():
                parts = drawing.files_of(figure)
            drawn[each.name, name] = parts["svg"]
            for ending, content in parts.items():
                contents[f"figures/{each.name}-{name}.{ending}"] = content
    texts = {**document.files(found), PAGE: html.page(found, drawn)}
    contents |= {name: text.encode() for name, text in texts.items()}
    files.check_writable(out)
    for folder in ("tables", "figures"):  # of suites that are no more, too
        shutil.rmtree(os.path.join(out, folder), ignore_errors=True)
        os.makedirs(os.path.join(out, folder))
    for name, content in contents.items():
        with files.replaced(os.path.join(out, name)) as part, open(part, "wb") as file:
            file.write(content)
    return os.path.join(out, PAGE)
