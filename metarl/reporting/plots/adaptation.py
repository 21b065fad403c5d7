"""Adaptation: return on held-out tasks against the experience in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from metarl.evaluation.results import experience
from metarl.reporting.plots.panels import (
    COLORS,
    DASHED,
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
from metarl.runs.reader import Group


def draw_adaptation(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the return on held-out tasks against the experience in them, with 95 % intervals.

    Each environment has two panels: experience in environment steps and in episodes.

    Args:
        groups: The runs; those without an evaluation are left out.
        oracles: Returns of the oracle by environment, as `results.read_oracle` reads them.
    """
    by_env = group_by_env([group for group in groups if group.result])
    with matplotlib.rc_context(STYLE):
        figure, panels = make_panels(2 * len(by_env))
        rows = zip(by_env.items(), zip(panels[::2], panels[1::2], strict=True), strict=True)
        for (env, members), pair in rows:
            units = ("env_steps", "environment steps"), ("episodes", "episodes")
            for axes, (unit, name) in zip(pair, units, strict=True):
                for index, group in enumerate(members):
                    _draw_group(axes, group, unit, index)
                draw_levels(axes, find_floors(members))
                if oracle := oracles.get(env):
                    draw_levels(axes, {"oracle (task observed)": oracle["mean"]}, ls=DASHED)
                axes.set(xlabel=f"{name} in the new task", ylabel="return")
                axes.set_title(cut(env, LONGEST_TITLE))
                _log_if_wide(axes, members, unit)
            add_legend(pair[0])
    return figure


def _draw_group(axes: Axes, group: Group, unit: str, index: int) -> None:
    assert group.result is not None
    color, marker = COLORS[index % len(COLORS)], choose_marker(index)
    returns, x = group.result["returns"], np.array(experience(group.result)[unit], float)
    mean = np.array(returns["mean"])
    ends = np.array(returns["ci95"], float)  # None becomes NaN, which is not drawn
    axes.plot(x, mean, marker=marker, ms=3.5, color=color, label=cut(group.label))
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
