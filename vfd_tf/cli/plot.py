"""The accuracy-robustness plot of a set of runs, and the same numbers as a table.

Runs of one method and distillation are a series. A distillation's points are held against
the line of its method's own series: above it, robustness was gained that the method's own
hyper-parameters don't give at the same clean accuracy or a higher one. So are those of
mixtures, of which a run has a series of its own.
"""

import collections
import dataclasses
import math
import os
import sys

import numpy as np

from vfd_tf import evaluation, text
from vfd_tf.attacks.attack import radius
from vfd_tf.cli.info import parameter_text, readable
from vfd_tf.cli.plot_checks import (
    common_evaluation,
    evaluated,
    evaluating,
    facets,
    is_attack,
)
from vfd_tf.evaluation.result import have_like_worst
from vfd_tf.experiments.mixtures import KINDS, Mix
from vfd_tf.experiments.record import Record
from vfd_tf.hyperparameters import InputError, name_of
from vfd_tf.suites.report import trade_off
from vfd_tf.training.distillation import DISTILLATIONS, NoDistillation

_FORMATS = (".png", ".pdf", ".svg")
_ALONE = name_of(DISTILLATIONS, NoDistillation())


def plot(values, paths: list[str]) -> None:
    """Clean against robust accuracy of run directories: a figure and a table."""
    if not values.out.lower().endswith(_FORMATS):
        raise InputError(f"--out={values.out} must end in {', '.join(_FORMATS)}.")
    if not paths:
        raise InputError("Name the run directories to plot: python run.py plot runs/*.")
    names, student = (values.plot_x, values.plot_y), values.plot_student
    unique = {os.path.realpath(path): path for path in paths}.values()
    records = readable(unique, lambda path: evaluated(Record(path), student))
    epsilon = None if values.eval_epsilon is None else radius(values.eval_epsilon)
    asked = values.eval_norm, epsilon, values.max_images
    key = common_evaluation(records, student, names, asked)
    series = group([p for record in records for p in _points(record, student, key, names)])
    norm, epsilon, images = facets(key)
    data = records[0].identity["dataset"]
    title = f"{data}, {images:,} test images, {norm}:{epsilon}, {student} student"
    print(f"{title}\n\n{table(series, names, images)}")
    try:
        draw(series, names, images, title, values.out)
    except OSError as error:
        raise InputError(f"--out={values.out} can't be written: {error}.") from error
    print(f"\n{values.out}")


def _points(record, student, key, names) -> list["Point"]:
    """A run, then its mixtures of every kind; one of weight 1 is the run itself."""
    row, found, unlike = record.accuracies[student][key], {}, {}
    own, threat = Point.of(record, row, names), key.split(" ")[0]
    for name, evaluations in record.accuracies.items():
        mix, its = Mix.named(name, student), evaluations.get(key)
        if mix is None or its is None:
            continue
        # A worst case over other attacks is another number.
        alike = "worst" not in names or have_like_worst(its, row, threat)
        if set(names) <= set(its) and alike:
            found.setdefault(mix.kind, []).append((mix.share, *(its[n] for n in names)))
        else:
            unlike[mix] = its
    if unlike:
        note = _left_out(record, student, key, names, unlike)
        print(f"Skipped: {note}", file=sys.stderr)
    itself = (1.0, own.x, own.y)
    return [own] + [
        own.mixed(kind, record.path, *values)
        for kind, mixed in found.items()
        for values in (mixed if KINDS[kind].fitted else [*mixed, itself])
    ]


def _left_out(record, student, key, names, unlike) -> str:
    """Why mixtures are not drawn that have other columns than their run."""
    row, first = record.accuracies[student][key], next(iter(unlike.values()))
    which = f"{', '.join(mix.name(student) for mix in unlike)} of {record.path}"
    columns = dict.fromkeys(c for each in (*unlike.values(), row) for c in each)
    attacks = [c for c in columns if is_attack(c) and not evaluation.is_transfer(c)]
    mixtures = ",".join(mix.text for mix in unlike)
    more = f"--eval_students={student}", f"--mixtures={mixtures}"
    if any(map(evaluation.is_transfer, row if "worst" in names else names)):
        what = "the run's 'worst' is also over" if "worst" in names else "the plot is of"
        why = (
            f"{which}: {what} black-box attacks, which mixtures never have; choose another"
        )
        if attacks:
            return f"{why} --plot_y, such as {attacks[-1]}."
        adding = evaluating(record, key, ["pgd20"], more)
        return f"{why}, such as --plot_y=pgd20, behind {adding}"
    return (
        f"{which}: the columns are {', '.join(first)}, those of the run {', '.join(row)}; "
        f"add what is missing with {evaluating(record, key, attacks, more)}"
    )


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: percentages, and the hyper-parameters that it may differ in.

    Attributes:
        mixture, path: Of a mixture its kind and the run that was mixed, else empty.
    """

    method: str
    distillation: str
    x: float
    y: float
    settings: dict = dataclasses.field(hash=False)  # (part, name) -> value
    mixture: str = ""
    path: str = ""

    def mixed(self, kind: str, path: str, share: float, x: float, y: float) -> "Point":
        """The point of a mixture of this run, by the share of its student."""
        settings = {("mixture", "share"): share}
        values = {"x": x, "y": y, "settings": settings, "mixture": kind, "path": path}
        return dataclasses.replace(self, **values)

    @classmethod
    def of(cls, record: Record, accuracies: dict, names: tuple[str, str]) -> "Point":
        """A run with its accuracies in the columns `names`."""
        components = {name: record.parameters(name) for name in record.fields}
        components["helpers"] = record.identity["helpers"]
        plain = {n: v for n, v in record.identity.items() if n not in components}
        # What a run continues, for one, is an entry of several.
        plain = {n: str(v) if isinstance(v, (dict, list)) else v for n, v in plain.items()}
        components["experiment"] = plain
        settings = {
            (p, n): v for p, values in components.items() for n, v in values.items()
        }
        method, distillation = record.name("method"), record.name("distillation")
        return cls(method, distillation, *(accuracies[n] for n in names), settings)


@dataclasses.dataclass(frozen=True)
class Series:
    """Runs of one method and distillation, in the order in which a line joins them.

    The order is that of the one hyper-parameter they differ in. Where they differ in
    several or in none there is no line, and the order is that of x.
    """

    points: tuple[Point, ...]
    differing: tuple[tuple[str, str], ...]
    run: str = ""  # that was mixed, where several were

    @classmethod
    def of(cls, points: list[Point]) -> "Series":
        keys = dict.fromkeys(key for point in points for key in point.settings)
        differing = [k for k in keys if len({p.settings.get(k) for p in points}) > 1]
        order = sorted(points, key=lambda p: p.x)
        if len(differing) == 1:
            order.sort(key=lambda p: _rank(p.settings.get(differing[0])))
        return cls(tuple(order), tuple(differing))

    @property
    def name(self) -> str:
        first = self.points[0]
        of = f" of {self.run}" if self.run else ""
        return f"{first.method}+{first.distillation} {first.mixture}".rstrip() + of

    @property
    def base(self) -> bool:
        """Whether it is a method alone, which others are held against."""
        return self.points[0].distillation == _ALONE and not self.points[0].mixture

    @property
    def joined(self) -> bool:
        return len(self.differing) == 1

    def label(self, point: Point) -> str:
        """What tells a point from the others of its series: `beta 6`."""
        values = (
            (key, point.settings[key]) for key in self.differing if key in point.settings
        )
        return ", ".join(parameter_text(name, value) for (_, name), value in values)

    def height(self, x: float) -> float | None:
        """The highest y of the series's line at x or more; None right of all of it."""
        places = np.array([(point.x, point.y) for point in self.points]).T
        found = float(trade_off.height(np.float64(x), *places))
        return found if math.isfinite(found) else None


def group(points: list[Point]) -> list[Series]:
    """The series of all methods and distillations, in the order of their first points."""
    found = {}
    for point in points:
        key = point.method, point.distillation, point.mixture, point.path
        found.setdefault(key, []).append(point)
    series = [Series.of(members) for members in found.values()]
    count = collections.Counter(each.name for each in series)
    return [
        dataclasses.replace(each, run=os.path.basename(os.path.abspath(path)))
        if path and count[each.name] > 1
        else each
        for each, (*_, path) in zip(series, found, strict=True)
    ]


def standard_error(percent: float, images: int) -> float:
    """sqrt(p (1 - p) / n) of an accuracy of n images, in points."""
    return math.sqrt(percent * (100 - percent) / images)


def table(series: list[Series], names: tuple[str, str], images: int) -> str:
    """Markdown table of all points; those of a distillation held against its method alone.

    The difference is vertical, in points, to the highest y that the line of the method's
    own series has at the point's x or more: what is below it is beaten on both axes. "on"
    the line is within one binomial standard error of the point's y. A point right of the
    series, or left of it and above all of it, is merely elsewhere on the trade-off.
    """
    base = {s.points[0].method: s for s in series if s.base}
    rows = [("accuracy (%)", *names, "std. error", "against the method alone")]
    for each in series:
        for point in each.points:
            error = standard_error(point.y, images)
            verdict = ""
            if not each.base:
                verdict = _verdict(point, base.get(point.method), error)
            numbers = (f"{value:.2f}" for value in (point.x, point.y, error))
            rows.append((f"{each.name} {each.label(point)}".strip(), *numbers, verdict))
    return text.markdown(rows[0], rows[1:])


def _verdict(point, base, error):
    if base is None:
        return f"no run of {point.method}+{_ALONE}"
    height = base.height(point.x)
    left = point.x < min(other.x for other in base.points)
    if height is None or left and point.y > height:
        return "outside the range"
    difference = point.y - height
    side = "on" if abs(difference) <= error else "above" if difference > 0 else "below"
    return f"{side}: {difference:+.2f}"


def draw(series: list[Series], names, images: int, title: str, path: str) -> None:
    """Writes the figure, 6 x 4.5 inches; error bars are one binomial standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, each in enumerate(series):
        _draw_series(axes, each, images, number)
    # Names are the user's, and a $ in them begins no formula.
    axes.set_xlabel(f"{names[0]} accuracy (%)", parse_math=False)
    axes.set_ylabel(f"{names[1]} accuracy (%)", parse_math=False)
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.margins(0.12)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    for label in axes.legend(frameon=False, fontsize=8).get_texts():
        label.set_parse_math(False)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path)


def _draw_series(axes, series, images, number):
    color, marker = f"C{number % 10}", "osD^vP*X"[number % 8]
    x, y = zip(*((point.x, point.y) for point in series.points), strict=True)
    axes.errorbar(
        x,
        y,
        yerr=[standard_error(value, images) for value in y],
        xerr=[standard_error(value, images) for value in x],
        fmt=f"{marker}-" if series.joined else marker,
        color=color,
        label=series.name,
        markersize=5,
        linewidth=1.2,
        elinewidth=0.7,
        capsize=2,
    )
    # On the outer side of each line: a distillation's is meant to run above its method's.
    side, ha, va = ((-6, -5), "right", "top") if series.base else ((6, 5), "left", "bottom")
    style = {
        "textcoords": "offset points",
        "ha": ha,
        "va": va,
        "fontsize": 7,
        "color": color,
        "parse_math": False,
    }
    for point in series.points:
        axes.annotate(series.label(point), (point.x, point.y), side, **style)


def _rank(value):
    """Orders numbers by size, and anything else after them."""
    number = isinstance(value, (int, float))
    return (0, value, "") if number else (1, 0, str(value))
