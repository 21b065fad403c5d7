"""Learning curves: return against the environment steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.reporting.plots.panels import (
    COLORS,
    DASHED,
    INK,
    LONGEST_TITLE,
    STYLE,
    add_legend,
    choose_marker,
    cut,
    draw_levels,
    find_floors,
    group_by_env,
    make_panels,
)
from metarl.runs.reader import Group, RunData


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
    by_env = group_by_env(groups)
    with matplotlib.rc_context(STYLE):
        figure, panels = make_panels(len(by_env))
        for axes, (env, members) in zip(panels, by_env.items(), strict=True):
            for index, group in enumerate(members):
                look: dict[str, Any] = {"color": COLORS[index % len(COLORS)]}
                if len(members) > len(COLORS):
                    look |= {"marker": choose_marker(index), "markevery": 0.15, "ms": 4}
                label = cut(group.label) if len(members) > 1 else "after adaptation"
                _draw_curve(axes, group.runs, "return_post", look, label)
                label = "" if len(members) > 1 else "before"
                _draw_curve(axes, group.runs, "return_pre", look, label, faint=True)
            if len(members) > 1:
                axes.plot([], [], color=INK, ls=DASHED, lw=1.0, label="before adaptation")
            draw_levels(axes, find_floors(members) if floors is None else floors.get(env, {}))
            axes.set(xlabel="environment steps of training [million]", ylabel="return")
            axes.set_title(cut(env, LONGEST_TITLE))
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
