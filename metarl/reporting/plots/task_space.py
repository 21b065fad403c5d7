"""Returns over the space of tasks: around a circle, along an axis, or as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from metarl.core.messages import format_number
from metarl.reporting.plots.panels import (
    COLORS,
    DOTTED,
    INK,
    LEVELS,
    RULE,
    STYLE,
    add_legend,
    cut,
    draw_levels,
    find_floors,
    make_panels,
    merge_equal,
)
from metarl.runs.reader import Group


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
            return _draw_polar(tasks[:, 0], per_task, find_floors([group]))
        if size == 1:
            return _draw_over_axis(
                tasks[:, 0], per_task, _label_axis(variables[0]), find_floors([group])
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
    for (name, value), (ls, alpha) in zip(merge_equal(floors).items(), cycle(LEVELS)):
        level = np.full(200, value)
        axes.plot(circle, level, color=INK, ls=ls, lw=1.0, alpha=alpha, label=cut(name))
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
    draw_levels(axes, floors)
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
