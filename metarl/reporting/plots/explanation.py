"""Plots of explain.json: scores of the memory's probes over a trial, and layers that moved."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.table import format_steps
from metarl.reporting.plots.panels import (
    COLORS,
    DASHED,
    DOTTED,
    INK,
    RULE,
    STYLE,
    add_legend,
    make_panels,
)

MAX_PANELS = 6
"""Task numbers that are drawn at most, those with the largest scores."""


def draw_explanation(tree: Mapping[str, Any]) -> Figure | None:
    """Draws an explanation; returns None if it has nothing to draw."""
    with matplotlib.rc_context(STYLE):
        if tree["kind"] == "parameters":
            return _draw_parameters(tree)
        return _draw_memory(tree) if tree["numbers"] else None


def describe(tree: Mapping[str, Any]) -> str:
    """Returns the caption of the plot of an explanation."""
    if tree["kind"] == "parameters":
        text = (
            "change of each layer in an adaptation, and KL divergence from the policy before if "
            "only this layer changes; bars of error are standard deviations over tasks. Right: "
            "cosines between the steps of the tasks."
        )
    else:
        text = (
            "score of a linear probe from the memory's features to a task number, on tasks that it "
            "was not fitted to, against the steps in a new task; the same from the memory's inputs "
            "of the step alone. Bands: 95 % bootstrap intervals over tasks. Dotted: tasks "
            "exchanged at random. Vertical lines: new episodes."
        )
    return " ".join([text, *(f"{each[0].upper()}{each[1:]}." for each in tree["sentences"])])


def _draw_memory(tree: Mapping[str, Any]) -> Figure:
    """Draws the scores of a probe against the steps of the trial, one panel a task number."""
    by_score = sorted(tree["numbers"], key=lambda number: -max(number["memory"]["value"]))
    names = {number["name"] for number in by_score[:MAX_PANELS]}
    numbers = [number for number in tree["numbers"] if number["name"] in names][:MAX_PANELS]
    figure, panels = make_panels(len(numbers))
    for axes, number in zip(panels, numbers, strict=True):
        _draw_number(axes, tree, number)
    return figure


def _draw_number(axes: Axes, tree: Mapping[str, Any], number: Mapping[str, Any]) -> None:
    steps, horizon = np.array(tree["steps"]), tree["horizon"]
    curves = ("memory", "memory", COLORS[0]), ("inputs", "inputs of the step alone", COLORS[1])
    for name, label, color in curves:
        curve = {key: np.array(values, float) for key, values in number[name].items()}
        for k, part in enumerate(np.split(np.arange(len(steps)), _episode_starts(steps, horizon))):
            axes.plot(steps[part], curve["value"][part], color=color, label=None if k else label)
            ends = curve["low"][part], curve["high"][part]
            axes.fill_between(steps[part], *ends, color=color, alpha=0.15, lw=0)
    exchanged = np.array(number["shuffled"]["q95"])
    axes.plot(
        steps, exchanged, color=INK, lw=0.8, ls=DOTTED, label="memory, exchanged tasks (95 %)"
    )
    axes.axhline(number["chance"], color=INK, lw=1.0, ls=DASHED, label="chance")
    for k in range(1, tree["num_episodes"]):
        axes.axvline(k * horizon, color=INK, lw=0.6, alpha=0.5)
    known = number["known_after"]
    if known is not None:
        axes.plot([known], [number["threshold"]], "o", ms=5, color=COLORS[0])
    values = [*number["memory"]["value"], *number["inputs"]["value"], *exchanged, number["chance"]]
    axes.set_ylim(max(-0.5, min(values) - 0.05), 1.05)  # a bad fit can be far below zero
    state = number["state"] + ("" if known is None else f" after {format_steps(known)}")
    title = f"{number['name'].replace('_', ' ')}: {state}"
    score = "R\u00b2" if number["score"] == "R^2" else "accuracy"
    axes.set(title=title, xlabel="steps of experience in the trial", ylabel=score)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes)


def _episode_starts(steps: np.ndarray, horizon: int) -> np.ndarray:
    """Returns the indices at which a new episode starts, except the first."""
    return np.flatnonzero(np.diff(steps // horizon)) + 1


def _draw_parameters(tree: Mapping[str, Any]) -> Figure:
    """Draws the change of each layer, its effect on the policy, and the cosines between steps."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.1))
    labels = [layer["name"] for layer in tree["layers"]]
    measures = (
        ("relative_change", "change / norm before"),
        ("kl", "KL of this layer alone [nats]"),
    )
    for axes, (name, title), color in zip(panels, measures, COLORS, strict=False):
        means, deviations = (
            np.array([layer[name][key] for layer in tree["layers"]], float)
            for key in ("mean", "std")
        )
        places = np.arange(len(labels))
        axes.barh(
            places, np.nan_to_num(means), xerr=np.nan_to_num(deviations), color=color, ecolor=INK
        )
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(left=0.0)
        axes.set(xlabel=title)
    panels[1].set_yticklabels([])
    panels[0].set_title("layers that moved")
    panels[1].set_title("effect on the policy")
    _draw_similarity(figure, panels[2], tree)
    return figure


def _draw_similarity(figure: Figure, axes: Axes, tree: Mapping[str, Any]) -> None:
    order = _order_tasks(tree["tasks"])
    cosines = np.array(tree["similarity"], float)[np.ix_(order, order)]
    picture = axes.imshow(cosines, vmin=-1.0, vmax=1.0, cmap="RdBu", interpolation="nearest")
    axes.grid(False)
    axes.set(title="cosine between steps", xlabel="task, in the order of its first number")
    for axis in (axes.xaxis, axes.yaxis):  # a task has no half
        axis.set_major_locator(MaxNLocator(5, integer=True))
    bar = figure.colorbar(picture, ax=axes)
    bar.outline.set_edgecolor(RULE)


def _order_tasks(tasks: Sequence[Sequence[float]]) -> np.ndarray:
    return np.lexsort(np.array(tasks, float).T[::-1])


def write_png(figure: Figure, path: Path) -> None:
    """Writes a plot as a picture; a killed process leaves the old file or the new one whole."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(content, format="png", dpi=150)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
