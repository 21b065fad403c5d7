"""Plots of runs: learning curves, adaptation against experience, returns over the space of tasks.

They are drawn without pyplot, which would keep global state, and become an inline SVG with the
colours of the page around it, or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from metarl.core.messages import format_number
from metarl.evaluation.results import experience
from metarl.runs.reader import Group, RunData

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

_LEVELS = [(pattern, alpha) for pattern in (DOTTED, (0, (5, 2, 1, 2))) for alpha in (1.0, 0.6, 0.4)]
"""Patterns and opacities of reference returns, in order."""

MARKERS = "osD^vP"
"""Markers of the groups of runs, in order: colours alone do not tell them apart for everybody."""

LONGEST_TITLE, LONGEST_LABEL = 44, 60
"""Characters of a title and of a label that fit into a panel."""


# ---------------------------------------------------------------------------------- learning curves


def draw_learning_curves(
    groups: Sequence[Group], floors: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Draws return against training steps, one panel an environment.

    Each seed is a thin line, see `smooth`. Several seeds also have their mean, with a band of one
    standard error, over the steps that all of them reached.

    Args:
        groups: The runs.
        floors: Reference returns by environment and name; by default those of the evaluations.
    """
    by_env = _group_by_env(groups)
    with matplotlib.rc_context(STYLE):
        figure, panels = make_panels(len(by_env))
        for axes, (env, members) in zip(panels, by_env.items(), strict=True):
            for index, group in enumerate(members):
                look: dict[str, Any] = {"color": COLORS[index % len(COLORS)]}
                if len(members) > len(COLORS):
                    look |= {"marker": _choose_marker(index), "markevery": 0.15, "ms": 4}
                label = _cut(group.label) if len(members) > 1 else "after adaptation"
                _draw_curve(axes, group.runs, "return_post", look, label)
                label = "" if len(members) > 1 else "before"
                _draw_curve(axes, group.runs, "return_pre", look, label, faint=True)
            if len(members) > 1:
                axes.plot([], [], color=INK, ls=DASHED, lw=1.0, label="before adaptation")
            _draw_levels(axes, _find_floors(members) if floors is None else floors.get(env, {}))
            axes.set(xlabel="environment steps of training [million]", ylabel="return")
            axes.set_title(_cut(env, LONGEST_TITLE))
            axes.xaxis.set_major_locator(MaxNLocator(5))  # the labels of more would overlap
            add_legend(axes)
    return figure


def _draw_curve(
    axes: Axes,
    runs: Sequence[RunData],
    column: str,
    look: Mapping[str, Any],
    label: str,
    *,
    faint: bool = False,
) -> None:
    color, lines = look["color"], []
    for run in runs:
        values = run.column(column)
        if np.isfinite(values).any():
            lines.append((run.column("env_steps") / 1e6, smooth(values)))
    if not lines:
        return
    style: dict[str, Any] = {**look, "ls": DASHED, "lw": 1.0, "alpha": 0.9} if faint else {**look}
    if min(np.isfinite(y).sum() for _, y in lines) < 2:  # a line of one point is not seen
        style = {"marker": "o", "ms": 3.5, **style, "mfc": "none" if faint else color}
    if len(lines) == 1:
        axes.plot(*lines[0], label=label or None, **style)
        return
    for line in lines:
        axes.plot(*line, color=color, lw=0.6, alpha=0.35)
    grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 200)
    values = np.stack([np.interp(grid, *line) for line in lines])
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(lines))
    seeds = f"{label} ({len(lines)} seeds)" if label else None
    axes.plot(grid, mean, label=seeds, **style)
    axes.fill_between(grid, mean - error, mean + error, color=color, alpha=0.15, lw=0)


def smooth(values: np.ndarray) -> np.ndarray:
    """Computes the running mean of values (n,) over n / 10 of them, at least 1 and at most 9.

    Ignores NaN and what lies beyond the ends; a window of nothing else gives NaN.
    """
    width = max(1, min(9, len(values) // 10))
    kernel, known = np.ones(width), np.isfinite(values)
    sums = np.convolve(np.where(known, values, 0.0), kernel, "same")
    counts = np.convolve(known.astype(float), kernel, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


# --------------------------------------------------------------------------------------- adaptation


def draw_adaptation(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the return on held-out tasks against the experience in them, with 95 % intervals.

    Each environment has two panels: experience in environment steps and in episodes.

    Args:
        groups: The runs; those without an evaluation are left out.
        oracles: Returns of the oracle by environment, as `results.read_oracle` reads them.
    """
    by_env = _group_by_env([group for group in groups if group.result])
    with matplotlib.rc_context(STYLE):
        figure, panels = make_panels(2 * len(by_env))
        rows = zip(by_env.items(), zip(panels[::2], panels[1::2], strict=True), strict=True)
        for (env, members), pair in rows:
            units = ("env_steps", "environment steps"), ("episodes", "episodes")
            for axes, (unit, name) in zip(pair, units, strict=True):
                for index, group in enumerate(members):
                    _draw_group(axes, group, unit, index)
                _draw_levels(axes, _find_floors(members))
                if oracle := oracles.get(env):
                    _draw_levels(axes, {"oracle (task observed)": oracle["mean"]}, ls=DASHED)
                axes.set(xlabel=f"{name} in the new task", ylabel="return")
                axes.set_title(_cut(env, LONGEST_TITLE))
                _log_if_wide(axes, members, unit)
            add_legend(pair[0])
    return figure


def _draw_group(axes: Axes, group: Group, unit: str, index: int) -> None:
    assert group.result is not None
    color, marker = COLORS[index % len(COLORS)], _choose_marker(index)
    returns, x = group.result["returns"], np.array(experience(group.result)[unit], float)
    mean = np.array(returns["mean"])
    ends = np.array(returns["ci95"], float)  # None becomes NaN, which is not drawn
    axes.plot(x, mean, marker=marker, ms=3.5, color=color, label=_cut(group.label))
    if len(x) > 12:
        axes.fill_between(x, *ends.T, color=color, alpha=0.15, lw=0)
    else:
        axes.vlines(x, *ends.T, color=color, lw=1.2, alpha=0.6)


def _log_if_wide(axes: Axes, members: Sequence[Group], unit: str) -> None:
    """Makes an axis logarithmic from zero on if experience spans more than a factor of 30."""
    x = np.concatenate([experience(group.result or {})[unit] for group in members])
    positive = x[x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))  # not that of mathtext
        axes.set_xlim(left=-0.3 * positive.min())  # there is no negative experience


# --------------------------------------------------------------------------------------- task space


def draw_task_space(group: Group) -> Figure | None:
    """Draws the return of every task before and after adaptation over the space of tasks.

    Angles are drawn around a circle, other single numbers along an axis, two numbers as maps. For
    more, or for tasks that are no numbers, returns after adaptation are drawn against those before.

    Args:
        group: The runs.

    Returns:
        The plot; None without an evaluation.
    """
    evaluations = [run.evaluation for run in group.runs if run.evaluation is not None]
    if not evaluations:
        return None
    per_task = np.concatenate([np.array(e["returns"]["per_task"]) for e in evaluations], axis=1)
    variables = evaluations[0].get("task_variables", [])
    try:
        tasks = np.concatenate([np.array(e["tasks"], float) for e in evaluations])
        size = tasks.shape[1] if tasks.ndim == 2 and tasks.shape[1] == len(variables) else 0
    except (TypeError, ValueError):
        tasks, size = np.empty(0), 0
    with matplotlib.rc_context(STYLE):
        if size == 1 and variables[0]["unit"] == "rad":
            return _draw_polar(tasks[:, 0], per_task, _find_floors([group]))
        if size == 1:
            return _draw_over_axis(
                tasks[:, 0], per_task, _label_axis(variables[0]), _find_floors([group])
            )
        if size == 2:
            names = [_label_axis(variable) for variable in variables]
            is_plane = variables[0]["unit"] == variables[1]["unit"] and _are_alike(tasks)
            return _draw_maps(tasks, per_task, names, "equal" if is_plane else "auto")
        return _draw_before_and_after(per_task)


def _are_alike(tasks: np.ndarray) -> bool:
    """Returns whether two numbers (N, 2) have ranges of similar size, as the axes of a plane."""
    short, long = sorted(np.ptp(tasks, axis=0))
    return bool(long <= 3.0 * short)


def _label_axis(variable: Mapping[str, str]) -> str:
    name, unit = variable["name"].replace("_", " "), variable["unit"]
    return name if unit == "1" else f"{name} [{unit}]"


def _select_stages(per_task: np.ndarray) -> list[tuple[str, Any, np.ndarray]]:
    """Returns label, colour and returns (N,) of what is drawn: before, after 1, after K."""
    shown = sorted({0, min(1, len(per_task) - 1), len(per_task) - 1})
    colors = dict(zip(shown, ("#9aa3af", COLORS[0], COLORS[1]), strict=False))
    labels = {k: "before" if k == 0 else f"after {k}" for k in shown}
    return [(labels[k], colors[k], per_task[k]) for k in shown]


def _draw_polar(angles: np.ndarray, per_task: np.ndarray, floors: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(4.4, 4.9), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    order = np.argsort(angles)
    is_full = np.ptp(angles) > np.pi  # tasks all around the circle: the line is closed
    closed = np.append(order, order[0]) if is_full else order
    for label, color, values in _select_stages(per_task):
        axes.plot(angles[closed], values[closed], "o-", ms=3, lw=1.1, color=color, label=label)
    circle = np.linspace(0.0, 2.0 * np.pi, 200)
    for (name, value), (ls, alpha) in zip(_merge_equal(floors).items(), cycle(_LEVELS)):
        level = np.full(200, value)
        axes.plot(circle, level, color=INK, ls=ls, lw=1.0, alpha=alpha, label=_cut(name))
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low) if low > -0.5 * high else low - 0.1 * (high - low), high)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_rlabel_position(22.5)
    axes.spines["polar"].set_color(RULE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_over_axis(
    x: np.ndarray, per_task: np.ndarray, name: str, floors: Mapping[str, float]
) -> Figure:
    figure, (axes,) = make_panels(1)
    values_of_x = np.unique(x)
    stages = _select_stages(per_task)
    # points of a few discrete tasks are drawn side by side
    spread = 0.08 * (values_of_x[1] - values_of_x[0]) if 1 < len(values_of_x) <= 4 else 0.0
    for index, (label, color, values) in enumerate(stages):
        shift = spread * (index - (len(stages) - 1) / 2)
        axes.plot(x + shift, values, "o", ms=4, alpha=0.75, mew=0, color=color, label=label)
    if spread:
        axes.set_xticks(values_of_x)
        axes.set_xlim(values_of_x[0] - 4 * spread, values_of_x[-1] + 4 * spread)
    _draw_levels(axes, floors)
    axes.set(xlabel=name, ylabel="return of a task")
    add_legend(axes)
    return figure


def _draw_maps(
    tasks: np.ndarray, per_task: np.ndarray, names: Sequence[str], aspect: Literal["equal", "auto"]
) -> Figure:
    stages = _select_stages(per_task)
    stages = stages if len(stages) < 2 else [stages[0], stages[-1]]
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    panels = figure.subplots(1, len(stages), sharex=True, sharey=True, squeeze=False)[0]
    shown = np.stack([values for _, _, values in stages])
    scale: dict[str, Any] = {"vmin": shown.min(), "vmax": shown.max(), "cmap": "viridis"}
    for axes, (label, _, values) in zip(panels, stages, strict=True):
        points = axes.scatter(*tasks.T, c=values, s=42, linewidths=0, **scale)
        axes.set(
            title=f"{label}: mean {format_number(values.mean(), 1)}", xlabel=names[0], aspect=aspect
        )
    panels[0].set_ylabel(names[1])
    bar = figure.colorbar(points, ax=list(panels), label="return of a task")
    bar.outline.set_edgecolor(RULE)
    return figure


def _draw_before_and_after(per_task: np.ndarray) -> Figure:
    figure, (axes,) = make_panels(1)
    ends = [per_task.min(), per_task.max()]
    axes.plot(ends, ends, color=INK, ls=DOTTED, lw=1.0, label="no difference")
    for label, color, values in _select_stages(per_task)[1:]:
        axes.plot(per_task[0], values, "o", ms=4, alpha=0.75, mew=0, color=color, label=label)
    axes.set(xlabel="return of a task before adaptation", ylabel="return after adaptation")
    add_legend(axes)
    return figure


# ------------------------------------------------------------------------------------- common parts


def _group_by_env(groups: Sequence[Group]) -> dict[str, list[Group]]:
    by_env: dict[str, list[Group]] = {}
    for group in groups:
        by_env.setdefault(group.env, []).append(group)
    return by_env


PANEL_HEIGHT, LEGEND_LINES = 3.5, 4
"""Height of a panel with its legend [inches], and the lines of a legend for which it has room."""


def make_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Returns a plot of `count` panels, two in a row."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.8 * columns, PANEL_HEIGHT * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _find_floors(members: Sequence[Group]) -> Mapping[str, float]:
    return next((group.result["floors"] for group in members if group.result), {})


def _merge_equal(floors: Mapping[str, float]) -> dict[str, float]:
    """Merges reference returns of the same value into one with all their names."""
    by_value: dict[float, list[str]] = {}
    for name, value in floors.items():
        by_value.setdefault(value, []).append(name)
    return {" = ".join(names): value for value, names in by_value.items()}


def _draw_levels(axes: Axes, floors: Mapping[str, float], ls: Any = None) -> None:
    """Draws reference returns, in patterns of their own unless one is given."""
    for (name, value), (own, alpha) in zip(_merge_equal(floors).items(), cycle(_LEVELS)):
        axes.axhline(value, color=INK, lw=1.0, ls=ls or own, alpha=alpha, label=_cut(name))


def _choose_marker(index: int) -> str:
    """Returns a marker so that groups with the same colour have different ones."""
    return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def _cut(text: str, longest: int = LONGEST_LABEL) -> str:
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
