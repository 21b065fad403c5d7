"""Figures of runs: learning curves, adaptation against experience, returns over the space of tasks.

A figure is drawn without pyplot, so that nothing global is left behind, and becomes an inline SVG that follows the colours of
the page it stands on, or a file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.results import experience
from metarl.runs.reader import Group, RunData

INK, RULE = "#1b2028", "#d8dde5"
"""Of text and of lines in the background; on a page they become its own."""

COLORS = ("#2f6db3", "#d2672a", "#2e9070", "#8c62b8", "#bf4a75", "#8a7b3c")
"""Of groups, one after another."""

_STYLE: Any = {
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
    "svg.fonttype": "none",
    "svg.hashsalt": "metarl",
}

_DOTTED, _DASHED = (0, (1, 2)), (0, (5, 3))


# ------------------------------------------------------------------------------------- learning curves


def learning_curves(
    groups: Sequence[Group], floors: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Draws return against training steps, one panel an environment.

    Every seed is a thin line, smoothed over a tenth of the run at most; of several seeds there is a mean with a band of
    one standard error as far as all of them went.

    Args:
        groups: The runs.
        floors: Floors by environment; by default those of the evaluations.
    """
    by_env = _by_env(groups)
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(by_env))
        for axes, (env, members) in zip(panels, by_env.items(), strict=True):
            for index, group in enumerate(members):
                color = COLORS[index % len(COLORS)]
                label = group.label if len(members) > 1 else "after adaptation"
                _curve(axes, group.runs, "return_post", color, label)
                label = "" if len(members) > 1 else "before"
                _curve(axes, group.runs, "return_pre", color, label, faint=True)
            if len(members) > 1:
                axes.plot([], [], color=INK, ls=_DASHED, lw=1.0, label="before adaptation")
            found = _floors(members) if floors is None else floors.get(env, {})
            _lines(axes, found)
            axes.set(title=env, xlabel="environment steps of training [million]", ylabel="return")
            axes.xaxis.set_major_locator(MaxNLocator(5))  # more would touch in a run of few steps
            _legend(axes)
    return figure


def _curve(
    axes: Axes,
    runs: Sequence[RunData],
    column: str,
    color: str,
    label: str,
    *,
    faint: bool = False,
) -> None:
    lines = []
    for run in runs:
        values = run.column(column)
        if np.isfinite(values).any():
            lines.append((run.column("env_steps") / 1e6, smooth(values)))
    if not lines:
        return
    style: dict[str, Any] = {"ls": _DASHED, "lw": 1.0, "alpha": 0.9} if faint else {}
    if len(lines) == 1:
        axes.plot(*lines[0], color=color, label=label or None, **style)
        return
    for line in lines:
        axes.plot(*line, color=color, lw=0.6, alpha=0.35)
    grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 200)
    values = np.stack([np.interp(grid, *line) for line in lines])
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(lines))
    words = f"{label} ({len(lines)} seeds)" if label else None
    axes.plot(grid, mean, color=color, label=words, **style)
    axes.fill_between(grid, mean - error, mean + error, color=color, alpha=0.15, lw=0)


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over 9 values, fewer for short runs; at the ends, and beside values that are NaN, over what there is."""
    width = max(1, min(9, len(values) // 10))
    kernel, known = np.ones(width), np.isfinite(values)
    sums = np.convolve(np.where(known, values, 0.0), kernel, "same")
    counts = np.convolve(known.astype(float), kernel, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


# ------------------------------------------------------------------------------------------ adaptation


def adaptation(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the return on held-out tasks against the experience in them, in steps and in episodes, with 95 % intervals.

    Args:
        groups: The runs; those without an evaluation are left out.
        oracles: By environment, as `results.read_oracle` reads them.
    """
    by_env = _by_env([group for group in groups if group.result])
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(2 * len(by_env))
        rows = zip(by_env.items(), zip(panels[::2], panels[1::2], strict=True), strict=True)
        for (env, members), pair in rows:
            units = ("env_steps", "environment steps"), ("episodes", "episodes")
            for axes, (unit, words) in zip(pair, units, strict=True):
                for index, group in enumerate(members):
                    _adaptation(axes, group, unit, COLORS[index % len(COLORS)])
                _lines(axes, _floors(members))
                if oracle := oracles.get(env):
                    _lines(axes, {"oracle (task observed)": oracle["mean"]}, ls=_DASHED)
                axes.set(title=env, xlabel=f"{words} in the new task", ylabel="return")
                _log_if_wide(axes, members, unit)
            _legend(pair[0])
    return figure


def _adaptation(axes: Axes, group: Group, unit: str, color: str) -> None:
    assert group.result is not None
    returns, x = group.result["returns"], np.array(experience(group.result)[unit], float)
    mean = np.array(returns["mean"])
    ends = np.array(returns["ci95"], float)  # None becomes NaN, of which nothing is drawn
    axes.plot(x, mean, "o-", ms=3.5, color=color, label=group.label)
    if len(x) > 12:
        axes.fill_between(x, *ends.T, color=color, alpha=0.15, lw=0)
    else:
        axes.vlines(x, *ends.T, color=color, lw=1.2, alpha=0.6)


def _log_if_wide(axes: Axes, members: Sequence[Group], unit: str) -> None:
    """A logarithmic axis, with zero at its left, where experience spans more than a factor of 30."""
    x = np.concatenate([experience(group.result or {})[unit] for group in members])
    positive = x[x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        axes.set_xlim(left=-0.3 * positive.min())  # there is no negative experience


# ------------------------------------------------------------------------------------------ task space


def task_space(group: Group) -> Figure | None:
    """Draws the return of every task before and after adaptation over the space of tasks.

    Angles are drawn around a circle, other single numbers along an axis, two numbers as maps; for more, or for tasks that
    are no numbers, the return after adaptation stands over that before. None without an evaluation.
    """
    found = [run.evaluation for run in group.runs if run.evaluation is not None]
    if not found:
        return None
    per_task = np.concatenate([np.array(e["returns"]["per_task"]) for e in found], axis=1)
    variables = found[0].get("task_variables", [])
    try:
        tasks = np.concatenate([np.array(e["tasks"], float) for e in found])
        size = tasks.shape[1] if tasks.ndim == 2 and tasks.shape[1] == len(variables) else 0
    except (TypeError, ValueError):
        tasks, size = np.empty(0), 0
    with matplotlib.rc_context(_STYLE):
        if size == 1 and variables[0]["unit"] == "rad":
            return _polar(tasks[:, 0], per_task, _floors([group]))
        if size == 1:
            return _along(tasks[:, 0], per_task, _named(variables[0]), _floors([group]))
        if size == 2:
            return _maps(tasks, per_task, [_named(variable) for variable in variables])
        return _before_and_after(per_task)


def _named(variable: Mapping[str, str]) -> str:
    name, unit = variable["name"].replace("_", " "), variable["unit"]
    return name if unit == "1" else f"{name} [{unit}]"


def _stages(per_task: np.ndarray) -> list[tuple[str, Any, np.ndarray]]:
    """Label, colour and returns (N,) of what is drawn: before, after 1, after K."""
    shown = sorted({0, min(1, len(per_task) - 1), len(per_task) - 1})
    colors = dict(zip(shown, ("#9aa3af", COLORS[0], COLORS[1]), strict=False))
    words = {k: "before" if k == 0 else f"after {k}" for k in shown}
    return [(words[k], colors[k], per_task[k]) for k in shown]


def _polar(angles: np.ndarray, per_task: np.ndarray, floors: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(4.4, 4.9), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    order = np.argsort(angles)
    turn = np.ptp(angles) > np.pi  # around the whole circle: the line closes
    closed = np.append(order, order[0]) if turn else order
    for label, color, values in _stages(per_task):
        axes.plot(angles[closed], values[closed], "o-", ms=3, lw=1.1, color=color, label=label)
    circle = np.linspace(0.0, 2.0 * np.pi, 200)
    for name, value in _distinct(floors).items():
        axes.plot(circle, np.full(200, value), color=INK, ls=_DOTTED, lw=1.0, label=name)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low) if low > -0.5 * high else low - 0.1 * (high - low), high)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_rlabel_position(22.5)
    axes.spines["polar"].set_color(RULE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _along(x: np.ndarray, per_task: np.ndarray, name: str, floors: Mapping[str, float]) -> Figure:
    figure, (axes,) = _panels(1)
    few = np.unique(x)
    stages = _stages(per_task)
    spread = 0.08 * (few[1] - few[0]) if 1 < len(few) <= 4 else 0.0
    for index, (label, color, values) in enumerate(stages):
        beside = spread * (index - (len(stages) - 1) / 2)
        axes.plot(x + beside, values, "o", ms=4, alpha=0.75, mew=0, color=color, label=label)
    if spread:
        axes.set_xticks(few)
        axes.set_xlim(few[0] - 4 * spread, few[-1] + 4 * spread)
    _lines(axes, floors)
    axes.set(xlabel=name, ylabel="return of a task")
    _legend(axes)
    return figure


def _maps(tasks: np.ndarray, per_task: np.ndarray, names: Sequence[str]) -> Figure:
    stages = [stage for stage in _stages(per_task) if stage[0] in ("before", _last(per_task))]
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    panels = figure.subplots(1, len(stages), sharex=True, sharey=True, squeeze=False)[0]
    shown = np.stack([values for _, _, values in stages])
    scale: dict[str, Any] = {"vmin": shown.min(), "vmax": shown.max(), "cmap": "viridis"}
    for axes, (label, _, values) in zip(panels, stages, strict=True):
        points = axes.scatter(*tasks.T, c=values, s=42, linewidths=0, **scale)
        axes.set(title=f"{label}: mean {values.mean():.1f}", xlabel=names[0], aspect="equal")
    panels[0].set_ylabel(names[1])
    bar = figure.colorbar(points, ax=list(panels), label="return of a task")
    bar.outline.set_edgecolor(RULE)
    return figure


def _last(per_task: np.ndarray) -> str:
    return _stages(per_task)[-1][0]


def _before_and_after(per_task: np.ndarray) -> Figure:
    figure, (axes,) = _panels(1)
    ends = [per_task.min(), per_task.max()]
    axes.plot(ends, ends, color=INK, ls=_DOTTED, lw=1.0, label="no difference")
    for label, color, values in _stages(per_task)[1:]:
        axes.plot(per_task[0], values, "o", ms=4, alpha=0.75, mew=0, color=color, label=label)
    axes.set(xlabel="return of a task before adaptation", ylabel="return after adaptation")
    _legend(axes)
    return figure


# ----------------------------------------------------------------------------------------- common parts


def _by_env(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.env, []).append(group)
    return found


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.8 * columns, 3.5 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _floors(members: Sequence[Group]) -> Mapping[str, float]:
    return next((group.result["floors"] for group in members if group.result), {})


def _distinct(floors: Mapping[str, float]) -> dict[str, float]:
    """Floors of one value become one line with both names."""
    names: dict[float, list[str]] = {}
    for name, value in floors.items():
        names.setdefault(value, []).append(name)
    return {" = ".join(found): value for value, found in names.items()}


def _lines(axes: Axes, floors: Mapping[str, float], ls: Any = _DOTTED) -> None:
    for (name, value), alpha in zip(_distinct(floors).items(), (1.0, 0.6, 0.4), strict=False):
        axes.axhline(value, color=INK, lw=1.0, ls=ls, alpha=alpha, label=name)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.19), borderaxespad=0.0)


# ------------------------------------------------------------------------------------------------- files


def svg(figure: Figure, name: str) -> str:
    """Writes a figure for use inside a page: ids of its own, no address, the colours and fonts of the page.

    Args:
        figure: The figure.
        name: Put before every id, unique on the page: letters, digits, "-".
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family:[^;\"]*", "font-family: inherit", text)
    text = text.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    width = figure.get_figwidth() * 100
    return re.sub(
        r'<svg width="[^"]*" height="[^"]*"',
        f'<svg style="max-width: {width:.0f}px"',
        text,
        count=1,
    )
