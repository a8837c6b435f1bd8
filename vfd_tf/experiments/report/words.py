"""What the report says in sentences: what was measured, how far it is, what it means."""

from vfd_tf.experiments.report import statistics, tables, trade_off
from vfd_tf.experiments.report.collect import AUTOATTACK, images_of
from vfd_tf.experiments.report.gains import Gain, gains
from vfd_tf.experiments.report.suite import STATES, Suite
from vfd_tf.experiments.report.summary import AVERAGE, CURVES, Row, Summary, student_text

_VERSIONS = ("vfd_tf", "tensorflow", "keras", "numpy", "python")
_CURVE_WORDS = {
    "sweep": "the method alone at other settings",
    "mixture": "plain mixtures of the method alone and vanilla",
}


def facts(summary: Summary) -> list[tuple[str, str]]:
    """What was measured, on what and by what: (name, value)."""
    suite, runs = summary.suite, summary.collected.runs.values()
    results = [run.results for run in runs if run.results]
    seeds = sorted({entry.item.seed for entry in summary.collected.entries})
    found = [("data set", suite.dataset), ("network", suite.arch)]
    found += [("threat model", suite.threat), ("scale", suite.scale)]
    found += [("test images", _images(suite)), ("seeds", ", ".join(map(str, seeds)))]
    found += [("swept flag", suite.sweep or ""), ("flags", " ".join(suite.flags))]
    found.append(("notes", "; ".join(suite.notes)))
    versions = [f"{name} {_distinct(results, name)}" for name in _VERSIONS]
    found.append(("versions", ", ".join(v for v in versions if not v.endswith(" "))))
    commits = [{"commit": _short(r["git_commit"])} for r in results if r.get("git_commit")]
    found.append(("commit", _distinct(commits, "commit")))
    found.append(("devices", _distinct(results, "devices")))
    return [(name, value) for name, value in found if value]


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


def progress(suite: Suite) -> dict[str, int]:
    """State -> how many commands are in it, without those of none."""
    states = [node.status for node in suite.nodes.values()]
    return {state: states.count(state) for state in STATES if state in states}


def progress_text(suite: Suite) -> str:
    """`18 of 21 commands are done, 1 running, 1 waiting, 1 failed.`"""
    counts = progress(suite)
    others = "".join(f", {n} {state}" for state, n in counts.items() if state != "done")
    total = len(suite.nodes)
    return f"{counts.get('done', 0)} of {total} commands are done{others}." if total else ""


def findings(summary: Summary) -> list[str]:
    """The sentences at the top: gains and distances of the rows with VFD."""
    over = [gain for gain in gains(summary) if gain.against == "base"]
    students = dict.fromkeys(gain.student for gain in over)
    found = [_gains([g for g in over if g.student == s], s) for s in students]
    rows = [row for row in summary.rows if row.distillation == "VFD-Adv"]
    for kind in CURVES:
        members = [row for row in rows if kind in row.distances]
        if members:
            found.append(_distance_sentence(members, kind))
    return [sentence for sentence in found if sentence]


def _gains(members: list[Gain], student):
    texts = [f"{gain.group} {_gain(gain)}" for gain in members if _gain(gain)]
    if not texts:
        return ""
    paper = any(gain.paper["robust"] is not None for gain in members)
    beside = ", in brackets the paper's" if paper else ""
    return (
        f"VFD{student_text(student)} against the method alone, in points of robust and of "
        f"clean accuracy{beside}: {'; '.join(texts)}."
    )


def _gain(gain):
    """`+4.0, +4.7 (+3.7, +4.6)`; "" where ours is missing."""
    ours, paper = ((side["robust"], side["clean"]) for side in (gain.ours, gain.paper))
    if None in ours:
        return ""
    beside = "" if None in paper else f" ({', '.join(map(tables.signed, paper))})"
    return ", ".join(map(tables.signed, ours)) + beside


def _distance_sentence(rows: list[Row], kind):
    texts = [f"{row.title} {_side(row.distances[kind])}" for row in rows]
    return (
        f"AutoAttack at the same clean accuracy, against {_CURVE_WORDS[kind]}: "
        f"{'; '.join(texts)}."
    )


def _side(distance: trade_off.Distance):
    if distance.value is None:
        low, high = distance.range
        return f"outside ({distance.clean:.1f} %, the curve {low:.1f} to {high:.1f} %)"
    text = f"{tables.distance_text(distance)} points"
    if distance.low is None:
        return text
    if distance.low > 0:
        return f"{text}, above"
    return f"{text}, below" if distance.high < 0 else f"{text}, no difference to be seen"


def explanations(summary: Summary) -> list[tuple[str, str]]:
    """How to read the numbers: (what, in plain words)."""
    found = [("Intervals", _INTERVALS)]
    if any(len(row.entries) > 1 for row in summary.rows):
        found.append(("Seeds", _SEEDS))
    if summary.comparisons:
        found.append(("▲ and ▼", _tests(summary.comparisons)))
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
    "Below every accuracy stands Wilson's 95 % interval: how far the accuracy on all "
    "images of this kind may be from that on these test images. It says nothing about "
    "another training."
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


def _tests(count):
    chance = count * statistics.LEVEL
    return (
        "The accuracy is higher or lower than that of the method alone by more than "
        "chance: McNemar's exact test on the images that only one of both gets right, p < "
        f"{statistics.LEVEL}; of several seeds, in each of them. This suite makes {count} "
        f"such comparisons: were there no difference at all, about {chance:.0f} would be "
        "marked. The values of p are in the CSV file."
    )


def _distances(summary):
    images = images_of(summary.suite, AUTOATTACK)
    return (
        "A method alone trades clean for robust accuracy by its own settings. Its curve "
        "joins its points in the order of clean accuracy: those of a sweep of its "
        "parameter, or those of plain mixtures with the vanilla model. The distance is the "
        "AutoAttack accuracy of a row minus the curve's at the same clean accuracy, both "
        f"on the same {images:,} test images. Above zero, the row gained what the method "
        "alone does not give. The interval is a 95 % bootstrap over the images "
        f"({trade_off.RESAMPLES:,} resamples, of the row and the curve jointly; those in "
        "which the curve does not reach the row's clean accuracy are left out, and their "
        "share is given). Outside means that the curve has no point at that clean accuracy."
    )
