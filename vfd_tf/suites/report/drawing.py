"""What the figures share: colours, sizes, and files that are the same every time.

Colours are those of Okabe and Ito, which the colour-blind tell apart. A distillation has
one colour in all figures; where all rows are compared with one, every row has a colour and
a marker of its own.
"""

import dataclasses
import io
import re

from vfd_tf.suites.report.statistics import interval

INK, GRID, PAPER = "#20242a", "#d5d9de", "#ffffff"
COLOURS = {
    "vanilla": "#b5669a",
    "none": "#7c8087",
    "KD": "#e69f00",
    "BGAT": "#56b4e9",
    "LBGAT": "#009e73",
    "VFD-Adv": "#d55e00",
}
CLASSES = ("#2a7fc1", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7b00")
CLASSES += ("#6b5cc7", "#7c8087", "#a34a28")
DASHES = ("-", "--", ":", "-.")
_MARKERS = "os^DvPX"
STYLE = {
    "svg.hashsalt": "vfd_tf",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}
LINES = 24  # of a legend at the side
_ENTRY = 1.9  # inches of an entry of a legend
BAR = {"capsize": 2, "elinewidth": 0.8, "markersize": 5.5, "linewidth": 1.4}


def label(row) -> str:
    """What a row's colour stands for: its distillation."""
    if row.distillation != "none":
        return row.distillation
    return "vanilla" if row.name.lower() == "vanilla" else "method alone"


def colour(row) -> str:
    """The colour of a row's distillation."""
    name = {"method alone": "none"}.get(label(row), label(row))
    other = CLASSES[sum(map(ord, name)) % len(CLASSES)]  # a distillation of the user's
    return COLOURS.get(name, other)


@dataclasses.dataclass(frozen=True)
class Look:
    """How a row is told from others."""

    label: str
    colour: str
    marker: str = "o"
    dash: str = "-"


def looks(rows, against: str | None = None) -> dict[str, Look]:
    """Name of a row -> its look: by distillation, or with a reference by itself."""
    if against is None:
        return {row.name: Look(label(row), colour(row)) for row in rows}
    grey = COLOURS["none"]  # of the reference, and of its curves
    colours = [other for other in CLASSES if other != grey]
    others = dict.fromkeys(row.name for row in rows if row.name != against)
    found = {against: Look(against, grey)}
    for i, name in enumerate(others):
        turn, place = divmod(i, len(colours))
        marker = _MARKERS[(i + turn) % len(_MARKERS)]
        found[name] = Look(name, colours[place], marker, DASHES[turn % len(DASHES)])
    return found


def bar(percent: float, images: int) -> list[list[float]]:
    """Lengths of an error bar: down and up."""
    low, high = interval(percent, images)
    return [[percent - low], [high - percent]]


def legend(figure, plots, aside: bool = False) -> None:
    """One legend of all plots, every label once: below them, or at their side."""
    known = {}
    for plot in plots:
        for handle, text in zip(*plot.get_legend_handles_labels(), strict=True):
            known.setdefault(text, handle)
    beside = max(1, int(figure.get_figwidth() / _ENTRY))
    columns, place, length = min(len(known), beside), "outside lower center", None
    if aside:
        length, columns, place = 2.6, max(1, -(-len(known) // LINES)), "outside right upper"
        # The point alone, as its bars would hide its marker.
        known = {k: h[0] if isinstance(h, tuple) else h for k, h in known.items()}
    how = {"loc": place, "ncols": columns, "handlelength": length}
    figure.legend(known.values(), known.keys(), **how)


def blank(width: float, height: float):
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def style():
    """Context in which figures are made and saved."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def files_of(figure) -> dict[str, bytes]:
    """Ending -> the figure as SVG and as PNG, without dates."""
    found = {}
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out: once, and not for every file
    for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        file = io.BytesIO()
        figure.savefig(file, format=ending, metadata=metadata)
        found[ending] = file.getvalue()
    return found


def inline(svg: bytes, name: str) -> str:
    """An SVG to stand in a page: its own ids, and the colours of the page for its ink."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    return text.replace(f"fill: {PAPER}", "fill: none")
