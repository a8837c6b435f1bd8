"""What the figures share: colours, sizes, and files that are the same every time.

Colours are those of Okabe and Ito, which the colour-blind tell apart. A distillation has
one colour in all figures.
"""

import io
import re

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
