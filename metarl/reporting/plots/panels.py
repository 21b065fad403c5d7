"""Panels of plots: the colours, markers, reference returns and legends that they share.

A plot becomes an inline SVG with the colours of the page around it, or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from metarl.runs.reader import Group

INK, RULE = "#1b2028", "#d8dde5"
"""Colours of text and of background lines; `markup` replaces them by those of the page."""

COLORS = ("#2f6db3", "#d2672a", "#2e9070", "#8c62b8", "#bf4a75", "#8a7b3c")
"""Colours of the groups of runs, in order."""

STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # names of runs and environments may hold "$"
    "svg.fonttype": "none",
    "svg.hashsalt": "metarl",
}
"""Settings of matplotlib for every plot."""

DOTTED, DASHED = (0, (1, 2)), (0, (5, 3))
"""Patterns of lines."""

LEVELS = [(pattern, alpha) for pattern in (DOTTED, (0, (5, 2, 1, 2))) for alpha in (1.0, 0.6, 0.4)]
"""Patterns and opacities of reference returns, in order."""

MARKERS = "osD^vP"
"""Markers of the groups of runs, in order: colours alone do not tell them apart for everybody."""

LONGEST_TITLE, LONGEST_LABEL = 44, 60
"""Characters of a title and of a label that fit into a panel."""

PANEL_HEIGHT, LEGEND_LINES = 3.5, 4
"""Height of a panel with its legend [inches], and the lines of a legend for which it has room."""


def group_by_env(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Sorts groups by their environment; each environment is a panel."""
    by_env: dict[str, list[Group]] = {}
    for group in groups:
        by_env.setdefault(group.env, []).append(group)
    return by_env


def make_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Returns a plot of `count` panels, two in a row."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.8 * columns, PANEL_HEIGHT * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def find_floors(members: Sequence[Group]) -> Mapping[str, float]:
    """Returns the reference returns of an environment's first evaluated group, {} without one."""
    return next((group.result["floors"] for group in members if group.result), {})


def merge_equal(floors: Mapping[str, float]) -> dict[str, float]:
    """Merges reference returns of the same value into one with all their names."""
    by_value: dict[float, list[str]] = {}
    for name, value in floors.items():
        by_value.setdefault(value, []).append(name)
    return {" = ".join(names): value for value, names in by_value.items()}


def draw_levels(axes: Axes, floors: Mapping[str, float], ls: Any = None) -> None:
    """Draws reference returns, in patterns of their own unless one is given."""
    for (name, value), (own, alpha) in zip(merge_equal(floors).items(), cycle(LEVELS)):
        axes.axhline(value, color=INK, lw=1.0, ls=ls or own, alpha=alpha, label=cut(name))


def choose_marker(index: int) -> str:
    """Returns a marker so that groups with the same colour have different ones."""
    return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def cut(text: str, longest: int = LONGEST_LABEL) -> str:
    """Cuts the middle of a text that would leave its panel no room; the page has it whole."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def add_legend(axes: Axes) -> None:
    """Puts the legend below a panel and its label; a plot grows with a long one."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None and place is not None
    below = ScaledTranslation(0.0, -0.46, figure.dpi_scale_trans)  # [inches]
    anchor = {"bbox_to_anchor": (0.0, 0.0), "bbox_transform": axes.transAxes + below}
    legend = axes.legend(loc="upper left", borderaxespad=0.0, **anchor)
    height = PANEL_HEIGHT + 0.17 * max(0, len(legend.get_texts()) - LEGEND_LINES)
    figure.set_figheight(max(figure.get_figheight(), height * place.get_gridspec().nrows))
