"""The report as Markdown: report.md."""

from vfd_tf import text
from vfd_tf.suites.report import curve_points, tables, words
from vfd_tf.suites.report.gains import gains
from vfd_tf.suites.report.section import Section


def main_table(section: Section) -> str:
    """The first table of a suite with its title: what the command prints."""
    summary = section.summary
    lines = [summary.suite.title, words.progress_text(summary.suite), ""]
    for rows in tables.students(summary):
        lines += [tables.markdown(summary, rows), ""]
    return "\n".join(lines).rstrip()


def markdown(sections: list[Section]) -> str:
    """All sections."""
    return "\n\n".join(_section(section) for section in sections) + "\n"


def _section(section):
    summary = section.summary
    blocks = [f"# {summary.suite.title}"]
    blocks.append("\n".join(f"- {name}: {value}" for name, value in words.facts(summary)))
    blocks.append(words.progress_text(summary.suite))
    blocks.append("\n".join(f"- {text_}" for text_ in words.findings(summary)))
    for rows in tables.students(summary):
        if rows:
            blocks.append(tables.markdown(summary, rows))
    blocks.append(_notes(section))
    found = gains(summary)
    if found:
        blocks += ["## Average gains", text.markdown(*tables.gains_rows(found), left=2)]
    heads, body = curve_points.rows(summary)
    if body:
        blocks += ["## Points of the curves", text.markdown(heads, body, left=3)]
    explained = words.explanations(summary)
    blocks.append("\n".join(f"- {what}: {said}" for what, said in explained))
    for name, (caption, _) in section.figures.items():
        blocks.append(f"![{caption}](figures/{section.name}-{name}.svg)\n\n{caption}")
    blocks += ["## Runs", _runs(section)]
    return "\n\n".join(block for block in blocks if block)


def _notes(section):
    """A sentence for every row, figure or command that something is wrong with."""
    said = [f"{row.title}: {s}" for row in section.summary.rows for s in row.sentences]
    said += curve_points.sentences(section.summary)
    said += section.problems
    return "\n".join(f"- {sentence}" for sentence in said)


def _runs(section):
    lines = []
    for item in section.items:
        links = [f"[log]({item.log})"] if item.log else []
        links += [f"[{d.path}]({d.link})" for d in item.directories if d.link]
        links += [f"[flags]({d.flags})" for d in item.directories if d.flags]
        node = item.node
        command = f": `{node.command}`" if node.command else ""
        said = ", ".join([f"{node.name} ({node.status})", *links])
        lines.append(f"- {said}{command}")
    return "\n".join(lines)


def files(sections: list[Section]) -> dict[str, str]:
    """Path below the report -> text: report.md and the tables."""
    found = {"report.md": markdown(sections)}
    for section in sections:
        name, summary = section.name, section.summary
        for rows in tables.students(summary):
            ending = "" if rows[0].student == "last" else f"-{rows[0].student}"
            found[f"tables/{name}{ending}.tex"] = tables.latex(summary, rows)
        rows = tables.long_rows(summary)
        if rows:
            found[f"tables/{name}.csv"] = text.comma_separated(rows)
        rows = curve_points.long_rows(summary)
        if rows:
            found[f"tables/{name}-curves.csv"] = text.comma_separated(rows)
    return found
