"""Draws plots of run folders: learning curves, adaptation, and return over the space of tasks.

`suite` draws a CSV of a suite instead: return before and after adaptation, and wall-clock time.

python -m benchmarks.plots curves docs/curves.png RUN [RUN ...]
python -m benchmarks.plots adaptation docs/experience.png RUN [RUN ...]
python -m benchmarks.plots tasks docs/polar.png RUN [RUN ...]
python -m benchmarks.plots suite docs/families.png results/families.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from metarl.envs.registry import make
from metarl.reporting.plots.adaptation import draw_adaptation
from metarl.reporting.plots.learning_curves import draw_learning_curves
from metarl.reporting.plots.panels import COLORS, STYLE
from metarl.reporting.plots.task_space import draw_task_space
from metarl.runs.reader import group_runs, load_all
from metarl.suites.records import read_rows
from metarl.suites.tables import combine, group_rows


def draw_suite(path: Path) -> Figure:
    """Draws a row for each environment; in it return by learner, and against time of training.

    The learner with the best last rollout is at the top.
    """
    found: dict[str, list[tuple]] = {}
    for experiment in group_rows([read_rows(path)]):
        last = max(row.rollout for row in experiment.rows)
        before, after = (combine(experiment.at(rollout)) for rollout in (0, last))
        minutes = 60.0 * np.mean([row.hours for row in experiment.at(0)])
        own = found.setdefault(experiment.first.env, [])
        own.append((experiment.first.label, before, after, minutes))
    heights = [0.26 * len(own) + 1.2 for own in found.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, sum(heights)), layout="constrained")
        ratios = {"width_ratios": (1.0, 1.1), "height_ratios": heights}
        axes = figure.subplots(len(found), 2, squeeze=False, **ratios)
        for (left, right), (env, own) in zip(axes, found.items(), strict=True):
            left.set_title(env)
            _draw_env(left, right, sorted(own, key=lambda each: each[2][0]))
        left.set(xlabel="return: first episode (grey), after adaptation (blue)")
        right.set(xlabel="training [min]")
    return figure


def _draw_env(left: Any, right: Any, found: list[tuple]) -> None:
    for place, (label, before, after, minutes) in enumerate(found):
        for (mean, low, high), color in ((before, "#9aa4b2"), (after, COLORS[0])):
            left.plot([low, high], [place, place], color=color, lw=1.6)
            left.plot(mean, place, "o", ms=4, color=color)
        right.plot(minutes, after[0], "o", ms=4, color=COLORS[0])
        right.annotate(label, (minutes, after[0]), (4, 2), textcoords="offset points", size=7)
    means = np.array([mean for _, *returns, _ in found for mean, _, _ in returns])
    margin = 0.1 * np.ptp(means)  # an interval may leave the plot
    left.set_xlim(means.min() - margin, means.max() + margin)
    left.set_yticks(range(len(found)), [each[0] for each in found])
    right.set(ylabel="return after adaptation", xscale="log")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("curves", "adaptation", "tasks", "suite"))
    parser.add_argument("path", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    groups = group_runs(load_all(options.runs)) if options.kind != "suite" else []
    if options.kind == "suite":
        figure = draw_suite(options.runs[0])
    elif options.kind == "curves":
        floors = {group.env: make(group.env).spec.floors for group in groups}
        figure = draw_learning_curves(groups, floors)
    elif options.kind == "adaptation":
        figure = draw_adaptation(groups, {})
    else:
        figure = draw_task_space(groups[0])
        if figure is None:
            parser.error(f"{options.runs[0]} has no evaluation.json")
    figure.savefig(options.path, dpi=110)
    print(options.path)


if __name__ == "__main__":
    main()
