"""Explanation of a policy as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarl.evaluation.table import format_steps


def table(tree: Mapping[str, Any]) -> str:
    """Returns the contents of explain.json as a short table for people."""
    is_memory = tree["kind"] == "memory"
    rows = _number_rows(tree) if is_memory else _layer_rows(tree)
    lines = [_heading(tree), *_align(rows), *tree["sentences"]]
    if is_memory and tree["constant"]:
        lines.append(f"equal in all tasks, so not probed: {', '.join(tree['constant'])}")
    return "\n".join(lines)


def _heading(tree: Mapping[str, Any]) -> str:
    name = {"train": "new training tasks", "test": "test tasks"}[tree["distribution"]]
    size = f"{tree['num_tasks']} {name} x "
    if tree["kind"] == "parameters":
        size += f"{tree['episodes_per_task']} episodes, {tree['num_adaptations']} adaptation steps"
    else:
        size += f"{tree['trials_per_task']} trials of {tree['num_episodes']} episodes"
    iteration = tree["checkpoint"]["iteration"]
    return f"{tree['env']}  {tree['algo']}  {size}, after {iteration:,} iterations"


def _number_rows(tree: Mapping[str, Any]) -> list[list[str]]:
    """Returns a row for each task number: its score at the start and at the end of each episode."""
    steps, horizon = list(tree["steps"]), tree["horizon"]
    ends = [(k + 1) * horizon - 1 for k in range(tree["num_episodes"])]
    shown = [steps.index(step) for step in dict.fromkeys([0, *ends])]
    rows = [
        [
            "task number",
            "score",
            "chance",
            *(f"after {steps[i]}" for i in shown),
            "inputs alone, at most",
            "known after",
        ]
    ]
    for number in tree["numbers"]:
        known = number["known_after"]
        unit = "" if number["unit"] == "1" else f" [{number['unit']}]"
        rows.append(
            [
                f"{number['name']}{unit}",
                number["score"],
                f"{number['chance']:.2f}",
                *(f"{number['memory']['value'][i]:.2f}" for i in shown),
                f"{max(number['inputs']['value']):.2f}",
                "-" if known is None else format_steps(known),
            ]
        )
    return rows


def _layer_rows(tree: Mapping[str, Any]) -> list[list[str]]:
    """Returns a row for each layer: its change, and that of the policy if only it changed."""
    rows = [["layer", "shape", "change / norm", "std", "KL alone [nats]", "std"]]
    for layer in tree["layers"]:
        shape = " x ".join(map(str, layer["shape"]))
        cells = [_format(layer[name][key]) for name in _MEASURES for key in ("mean", "std")]
        rows.append([layer["name"], shape, *cells])
    rows.append(["all", "", "", "", *(_format(tree["kl"][key]) for key in ("mean", "std"))])
    return rows


_MEASURES = ("relative_change", "kl")


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pads the cells of each column; the first is aligned at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
