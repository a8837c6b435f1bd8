"""What the report says in sentences: what was measured, how far it is, what it means."""

from vfd_tf.suites.report import published, statistics, tables, trade_off
from vfd_tf.suites.report.collect import AUTOATTACK, images_of
from vfd_tf.suites.report.curve_kinds import CURVE_KINDS
from vfd_tf.suites.report.gains import Gain, gains
from vfd_tf.suites.report.published import CLEAN
from vfd_tf.suites.report.suite_record import STATES, SuiteRecord
from vfd_tf.suites.report.summary import AVERAGE, LAST, Row, Summary, student_text

_VERSIONS = ("vfd_tf", "tensorflow", "keras", "numpy", "python")
_SIDES = ("above", "below", "the interval includes zero", "without an interval", "outside")


def facts(summary: Summary) -> list[tuple[str, str]]:
    """What was measured, on what and by what: (name, value)."""
    suite, runs = summary.suite, summary.collected.runs.values()
    results = [run.results for run in runs if run.results]
    seeds = sorted({entry.item.seed for entry in summary.collected.entries})
    found = [("data set", suite.dataset), ("network", suite.arch)]
    found += [("threat model", suite.threat), ("scale", suite.scale)]
    found += [("test images", _images(suite)), ("seeds", ", ".join(map(str, seeds)))]
    found.append(("students", _only_student(suite)))
    found += [("swept flag", suite.sweep or ""), ("flags", " ".join(suite.flags))]
    found.append(("notes", "; ".join(suite.notes)))
    versions = [f"{name} {_distinct(results, name)}" for name in _VERSIONS]
    found.append(("versions", ", ".join(v for v in versions if not v.endswith(" "))))
    commits = [{"commit": _short(r["git_commit"])} for r in results if r.get("git_commit")]
    found.append(("commit", _distinct(commits, "commit")))
    found.append(("devices", _distinct(results, "devices")))
    return [(name, value) for name, value in found if value]


def _only_student(suite):
    """The student that all rows are of, where that is not the one of the last epoch."""
    only = suite.students[0] if len(suite.students) == 1 else LAST
    return {LAST: "", AVERAGE: "averaged"}.get(only, only)


def _images(suite):
    """`10,000; AutoAttack 1,000`: the number that most columns have, then the others."""
    counts = {column: images_of(suite, column) for column in suite.columns}
    if not counts:
        return ""
    usual = max(counts.values(), key=list(counts.values()).count)
    others = [
        f"{tables.one_line(column)} {count:,}"
        for column, count in counts.items()
        if count != usual
    ]
    return "; ".join([f"{usual:,}", *others])


def _short(commit):
    """12 digits of a commit, and whether files were changed."""
    digits, dash, dirty = str(commit).partition("-")
    return digits[:12] + dash + dirty


def _distinct(results, name):
    return " and ".join(dict.fromkeys(str(r[name]) for r in results if r.get(name)))


def progress(suite: SuiteRecord) -> dict[str, int]:
    """State -> how many commands are in it, without those of none."""
    states = [node.status for node in suite.nodes.values()]
    return {state: states.count(state) for state in STATES if state in states}


def progress_text(suite: SuiteRecord) -> str:
    """`18 of 21 commands are done, 1 running, 1 waiting, 1 failed.`"""
    counts = progress(suite)
    others = "".join(f", {n} {state}" for state, n in counts.items() if state != "done")
    total = len(suite.nodes)
    return f"{counts.get('done', 0)} of {total} commands are done{others}." if total else ""


def findings(summary: Summary) -> list[str]:
    """The sentences at the top: gains and distances of the rows with VFD.

    Where all rows are compared with one, they are those of all rows.
    """
    if summary.suite.against:
        return _of_all_rows(summary)
    over = [gain for gain in gains(summary) if gain.against == "base"]
    students = dict.fromkeys(gain.student for gain in over)
    found = [_gains(summary, [g for g in over if g.student == s], s) for s in students]
    rows = [row for row in summary.rows if row.distillation == "VFD-Adv"]
    for kind in CURVE_KINDS:
        members = [row for row in rows if kind in row.distances]
        if members:
            found.append(_distance_sentence(members, kind))
    return [sentence for sentence in found if sentence]


def _gains(summary, members: list[Gain], student):
    texts = [f"{gain.group} {_gain(gain)}" for gain in members if _gain(gain)]
    if not texts:
        return ""
    paper = any(gain.paper["robust"] is not None for gain in members)
    beside = ", in brackets the paper's" if paper else ""
    suite, whose = summary.suite, student_text(student, summary.suite)
    robust = [tables.one_line(c) for c in suite.columns if c in published.ROBUST]
    return (
        f"VFD{whose} against the method alone, in points of robust accuracy (the mean over "
        f"{', '.join(robust)}) and of clean accuracy{beside}: {'; '.join(texts)}."
    )


def _gain(gain):
    """`+4.0, +4.7 (+3.7, +4.6)`; "" where ours is missing."""
    ours, paper = ((side["robust"], side["clean"]) for side in (gain.ours, gain.paper))
    if None in ours:
        return ""
    beside = "" if None in paper else f" ({', '.join(map(tables.signed, paper))})"
    return ", ".join(map(tables.signed, ours)) + beside


def _of_all_rows(summary):
    """Which rows differ from the reference, and on which side of its curves they are."""
    found, against = [], summary.suite.against
    for column in [c for c in summary.suite.columns if c in (CLEAN, AUTOATTACK)]:
        rows = {"better": [], "worse": [], "": []}
        for row in summary.rows:
            rows[row.cells[column].against_base].append(row.title)
        said = _listed({"higher": rows["better"], "lower": rows["worse"]})
        if said:
            what = f"{tables.title(column)} accuracy against {against}'s"
            found.append(f"{what}, beyond chance in every seed: {said}.")
    for kind in tables.curves(summary.rows):
        found.append(_against_curve(kind, against, _by_side(summary.rows, kind)))
    return found


def _by_side(rows, kind):
    """The rows above a curve and below it, and how many are neither."""
    sides = {side: [] for side in _SIDES}
    for row in rows:
        distance = row.distances.get(kind)
        if distance:
            text = f"{row.title} {tables.distance_text(distance)}"
            sides[_side(distance)].append(text)
    for side in set(sides) - {"above", "below"}:
        count = len(sides[side])
        sides[side] = [f"{count} row{'s' if count > 1 else ''}"] if count else []
    return _listed(sides)


def _listed(sides):
    """`above: A, B; below: C`; "" of nothing."""
    return "; ".join(f"{side}: {', '.join(rows)}" for side, rows in sides.items() if rows)


def _distance_sentence(rows: list[Row], kind):
    texts = [f"{row.title} {_distance(row.distances[kind])}" for row in rows]
    return _against_curve(kind, "the method alone", "; ".join(texts))


def _against_curve(kind, whose, said):
    curve = CURVE_KINDS[kind].phrase.format(whose)
    return f"AutoAttack at the same clean accuracy, against {curve}: {said}."


def _distance(distance: trade_off.Distance):
    if distance.value is None:
        low, high = distance.range
        return f"outside ({distance.clean:.1f} %, the curve {low:.1f} to {high:.1f} %)"
    text = f"{tables.distance_text(distance)} points"
    return text if distance.low is None else f"{text}, {_side(distance)}"


def _side(distance: trade_off.Distance):
    """Where a row is to a curve, as far as the interval says."""
    if distance.value is None:
        return "outside"
    if distance.low is None:
        return "without an interval"
    if distance.low > 0:
        return "above"
    return "below" if distance.high < 0 else "the interval includes zero"


def explanations(summary: Summary) -> list[tuple[str, str]]:
    """How to read the numbers: (what, in plain words)."""
    found = [("Intervals", _INTERVALS)]
    if any(len(row.entries) > 1 for row in summary.rows):
        found.append(("Seeds", _SEEDS))
    if summary.comparisons:
        found.append(("▲ and ▼", _tests(summary)))
    if any(row.distances for row in summary.rows):
        found.append(("Distance to the curve", _distances(summary)))
    if gains(summary):
        found.append(("Average gains", _GAINS))
    if summary.suite.published:
        found.append(("The paper's values", _PAPER))
    if any(row.student == AVERAGE for row in summary.rows):
        found.append(("Averaged students", _AVERAGED))
    return found


_INTERVALS = (
    "The page report.html and the CSV files give Wilson's 95 % interval of every accuracy: "
    "how far the accuracy on all images of this kind may be from that on these test "
    "images. It says nothing about another training."
)
_SEEDS = (
    "A cell is the mean over the seeds, ± their standard deviation: how far two trainings "
    "with the same settings differ. The interval is that of the mean on these images."
)
_GAINS = (
    "As in section 5.2 of the paper: the difference between a row with VFD and another "
    "one, averaged over the columns of attacks. Against the best other row, the best is "
    "taken in each column by itself, which favours the others; the averages quoted in the "
    "paper's text are those of its tables under this reading."
)
_PAPER = (
    "They are those of ResNet-18 trained as the paper says. Where network, epochs or "
    "images differ, the accuracies are expected to differ too; what can be compared are "
    "the differences between rows."
)
_AVERAGED = (
    "Students whose weights are an average of those of the training, as the flags say: of "
    "all steps, the newest counting most (EMA), or of epochs (SWA). The paper has none."
)


def _tests(summary):
    count, other = summary.comparisons, summary.suite.against or "the method alone"
    chance = count * statistics.LEVEL
    several = any(len(row.entries) > 1 for row in summary.rows)
    each = (
        "; of several seeds, in each of them and in the same direction" if several else ""
    )
    fewer = ", and fewer where several seeds have to agree" if several else ""
    return (
        f"The accuracy is higher or lower than that of {other} by more than chance: "
        "McNemar's exact test on the images that only one of both gets right, p < "
        f"{statistics.LEVEL}{each}. This suite makes {count} such comparisons: were there "
        f"no difference at all, about {chance:.0f} would be marked{fewer}. The values of p "
        "are in the CSV file."
    )


def _distances(summary):
    images = images_of(summary.suite, AUTOATTACK)
    kinds = tables.curves(summary.rows)
    ways = " or ".join(f"those of {CURVE_KINDS[kind].way}" for kind in kinds)
    whose = summary.suite.against or "A method alone"
    return (
        f"{whose} trades clean for robust accuracy by its own settings. Its curve joins "
        f"its points in the order of clean accuracy: {ways}. The distance is the "
        "AutoAttack accuracy of a row minus the highest that the curve has at the same "
        f"clean accuracy or a higher one, both on the same {images:,} test images. Above "
        "zero, the row gained what the curve does not give. The interval is a 95 % "
        f"bootstrap over the images ({trade_off.RESAMPLES:,} resamples, of the row and the "
        "curve jointly). Outside means that the row has a higher clean accuracy than all "
        "of the curve, or a lower one and more robustness; resamples of the first kind are "
        "left out, and their share is given from 1 % on; those of the second count as zero."
    )
