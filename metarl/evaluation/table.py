"""Table of an evaluation as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarl.core.messages import format_number
from metarl.evaluation.results import complete, experience

_COLUMNS = (
    ("adaptations", 11),
    ("episodes", 8),
    ("env steps", 9),
    ("return", 9),
    ("std.err.", 8),
    ("95 % interval", 20),
    ("IQM", 9),
    ("95 % interval", 20),
    ("made worse", 10),
)
"""Title and least width [characters] of the columns of the text; faults stand below it."""


def table(result: Mapping[str, Any]) -> str:
    """Returns a summary of one evaluation, or of an aggregate of seeds, for people."""
    result = complete(result)
    return "\n".join([_heading(result), *_align(rows(result)), *_remarks(result)])


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of an evaluation, for text and for HTML.

    Args:
        result: As `results.complete` or `results.aggregate` return it.

    Returns:
        The titles of the columns, then a row of as many cells for each of 0 .. K adaptations.
    """
    returns, met = result["returns"], experience(result)
    header = [*(title for title, _ in _COLUMNS), "faulted"]
    cells = [
        [
            f"{k}",
            f"{met['episodes'][k]:,.0f}",
            f"{met['env_steps'][k]:,.0f}",
            format_number(mean),
            format_number(returns["stderr"][k]),
            format_interval(returns["ci95"][k]),
            format_number(returns["iqm"][k]),
            format_interval(returns["iqm_ci95"][k]),
            f"{100 * result['share_of_tasks_made_worse'][k]:.0f} %" if k else "",
            f"{result['faulted_episodes'][k]}",
        ]
        for k, mean in enumerate(returns["mean"])
    ]
    return [header, *cells]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns the cells that the text shows at the right of their columns."""
    widths = [max([least, *(len(row[i]) for row in rows)]) for i, (_, least) in enumerate(_COLUMNS)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def format_steps(count: int) -> str:
    """Formats a number of steps of experience."""
    return f"{count} step" if count == 1 else f"{count} steps"


def format_interval(ends: Sequence[float | None]) -> str:
    """Formats the ends of an interval like returns; "-" stands for an unknown one."""
    low, high = map(format_number, ends)
    return "-" if low == "-" else f"[{low}, {high}]"


def _heading(result: Mapping[str, Any]) -> str:
    seeds = result.get("seeds")
    over = "" if seeds is None else f"  {len(seeds)} seeds,"
    return f"{result['env']}  {result['algo']}{over}  {describe_size(result)}"


def describe_size(result: Mapping[str, Any]) -> str:
    """Describes the tasks and episodes of an evaluation, and the training before it if recorded."""
    size = (
        f"{result['num_tasks']} {_describe_tasks(result)} x {result['episodes_per_task']} episodes"
    )
    size += ", deterministic" if result.get("deterministic") else ""
    trained_on = result.get("trained_on", result["env"])
    where = "" if trained_on == result["env"] else f" on {trained_on}"
    marks = result.get("checkpoints", [result.get("checkpoint")])
    if None in marks:
        return f"{size}, trained{where}" if where else size
    spans = [_span([mark[name] for mark in marks]) for name in ("iteration", "env_steps")]
    return f"{size}, after {spans[0]} iterations and {spans[1]} training steps{where}"


def describe_floors(result: Mapping[str, Any]) -> str:
    """Lists the reference returns with their names, "" without any."""
    floors = result["floors"].items()
    return ", ".join(f"{name} {format_number(value, 1)}" for name, value in floors)


def _describe_tasks(result: Mapping[str, Any]) -> str:
    if result.get("chosen_tasks"):
        return "chosen task" if result["num_tasks"] == 1 else "chosen tasks"
    if result["held_out"] is None:  # an older version did not say
        return "tasks"
    return "held-out tasks" if result["held_out"] else "tasks (test = train)"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table: seeds, without noise, references, intervals, notes."""
    returns, lines = result["returns"], []
    if "per_seed" in returns:
        for k, means in enumerate(returns["per_seed"]):
            error = returns["stderr_over_seeds"][k]
            spread = "" if error is None else f" (std.err. over seeds {format_number(error)})"
            lines.append(f"seeds after {k}: {', '.join(map(format_number, means))}{spread}")
    if quiet := result.get("without_noise"):
        shown = ", ".join(
            f"{format_number(mean)} {format_interval(ends)}"
            for mean, ends in zip(quiet["returns"]["mean"], quiet["returns"]["ci95"], strict=True)
        )
        lines.append(f"without policy noise: {shown}")
    if distance := result.get("distance"):
        shown = ", ".join(
            f"{format_number(mean)} {format_interval(ends)}"
            for mean, ends in zip(distance["mean"], distance["ci95"], strict=True)
        )
        lines.append(f"distance from start to end of an episode [m]: {shown}")
    if oracle := result.get("oracle"):
        ends = format_interval(oracle["ci95"])
        lines.append(
            f"oracle (task observed): {format_number(oracle['mean'])} {ends}, {oracle['run']}"
        )
    lines.append(f"floors: {describe_floors(result) or 'not known'}")
    lines.append(f"95 % intervals: {result['intervals']}")
    if any(result["faulted_episodes"]):
        counts = ", ".join(map(str, result["faulted_episodes"]))
        lines.append(
            f"the simulation failed in {counts} episodes after 0..K adaptations; "
            "their returns lack the steps after the failure"
        )
    if result["note"]:
        lines.append(f"note: {result['note']}")
    return lines
