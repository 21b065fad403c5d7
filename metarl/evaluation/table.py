"""Table of an evaluation as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarl.evaluation.results import complete, experience

_COLUMNS = (
    ("adaptations", 11),
    ("episodes", 8),
    ("env steps", 9),
    ("return", 9),
    ("std.err.", 8),
    ("95 % interval", 18),
    ("IQM", 9),
    ("95 % interval", 18),
    ("made worse", 10),
)


def table(result: Mapping[str, Any]) -> str:
    """Returns a summary of one evaluation, or of an aggregate of seeds, for people."""
    result = complete(result)
    returns, met = result["returns"], experience(result)
    lines = [_heading(result), _row([title for title, _ in _COLUMNS])]
    for k, mean in enumerate(returns["mean"]):
        stderr = returns["stderr"][k]
        cells = [
            f"{k}",
            f"{met['episodes'][k]:.0f}",
            f"{met['env_steps'][k]:,.0f}",
            f"{mean:.2f}",
            "-" if stderr is None else f"{stderr:.2f}",
            _ends(returns["ci95"][k]),
            f"{returns['iqm'][k]:.2f}",
            _ends(returns["iqm_ci95"][k]),
            f"{100 * result['share_of_tasks_made_worse'][k]:.0f} %" if k else "",
        ]
        lines.append(_row(cells))
    return "\n".join(lines + _remarks(result))


def _row(cells: Sequence[str]) -> str:
    """Aligns the cells to the right of their columns."""
    return "  ".join(
        f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    ).rstrip()


def _ends(ends: Sequence[float | None]) -> str:
    low, high = ends
    return "-" if low is None else f"[{low:.1f}, {high:.1f}]"


def _heading(result: Mapping[str, Any]) -> str:
    kind = "held-out tasks" if result["held_out"] else "tasks (test = train)"
    seeds = result.get("seeds")
    over = "" if seeds is None else f"  {len(seeds)} seeds,"
    episodes = result["episodes_per_task"]
    size = f"{result['num_tasks']} {kind} x {episodes} episodes"
    size += ", deterministic" if result.get("deterministic") else ""
    return f"{result['env']}  {result['algo']}{over}  {size}{describe_training(result)}"


def describe_training(result: Mapping[str, Any]) -> str:
    """Returns the amount of training before the evaluation, "" if it is not recorded."""
    marks = result.get("checkpoints", [result.get("checkpoint")])
    if None in marks:
        return ""
    counts = [_span([mark[name] for mark in marks]) for name in ("iteration", "env_steps")]
    return f", after {counts[0]} iterations and {counts[1]} training steps"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table: seeds, oracle, reference returns, faults, note."""
    returns, lines = result["returns"], []
    if "per_seed" in returns:
        for k, means in enumerate(returns["per_seed"]):
            error = returns["stderr_over_seeds"][k]
            spread = "" if error is None else f" (std.err. over seeds {error:.2f})"
            lines.append(f"seeds after {k}: {', '.join(f'{mean:.2f}' for mean in means)}{spread}")
    if oracle := result.get("oracle"):
        ends = _ends(oracle["ci95"])
        lines.append(f"oracle (task observed): {oracle['mean']:.2f} {ends}, {oracle['run']}")
    floors = ", ".join(f"{name} {value:.1f}" for name, value in result["floors"].items())
    lines.append(f"floors: {floors or 'not known'}")
    if any(result["faulted_episodes"]):
        counts = ", ".join(map(str, result["faulted_episodes"]))
        lines.append(
            f"the simulation failed in {counts} episodes after 0..K adaptations; "
            "their returns lack the steps after the failure"
        )
    if result["note"]:
        lines.append(f"note: {result['note']}")
    return lines
