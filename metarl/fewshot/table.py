"""The table of a comparison as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

SHOWN = (0, 1, 5, 10)
"""Numbers of adaptation steps that the text shows; the CSV has all."""

_WIDTH = 23


def table(result: Mapping[str, Any]) -> str:
    """Returns the table of `comparison.compare`, for people."""
    seeds, ways = len(result["seeds"]), result["ways"]
    better = "higher is better" if result["score"] == "accuracy" else "lower is better"
    size = f"{ways} ways, " if ways else ""
    size += "1 shot" if result["shots"] == 1 else f"{result['shots']} shots"
    lines = [
        f"{result['task']}: {size}, {result['iterations']:,} iterations, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} x {result['num_tasks']} held-out tasks",
        f"{result['score']} [95 % interval] after adaptation steps, {better}",
        "",
        f"{'learner':13}" + "".join(f"{k:>{_WIDTH}}" for k in SHOWN) + f"{'CPU s':>8}{'s':>8}",
    ]
    for row in result["rows"]:
        cells = "".join(f"{_cell(row, k):>{_WIDTH}}" for k in SHOWN)
        times = (sum(row[name]) / seeds for name in ("cpu_seconds", "seconds"))
        lines.append(f"{row['algo']:13}{cells}" + "".join(f"{time:8.1f}" for time in times))
    lines += [
        "",
        "s: seconds of one training; a learner without gradient steps adapts at once, in column 1",
        f"95 % intervals: {result['intervals']}",
    ]
    cut = [
        f"{row['algo']} {max(row['share_cut']):.1%}"
        for row in result["rows"]
        if any(row["share_cut"])
    ]
    if cut:
        lines.append(f"share of tasks whose error was cut at 100, after any step: {', '.join(cut)}")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], step: int) -> str:
    if step not in row["steps"]:
        return "-"
    k = row["steps"].index(step)
    low, high = row["ci95"][k]
    ends = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{row['mean'][k]:.3f}{ends}"


COLUMNS = (
    *("task", "algo", "shots", "ways", "iterations", "seeds", "step", "score"),
    *("mean", "stderr", "low", "high", "seconds", "cpu_seconds"),
)
"""Columns of the CSV."""


def to_csv(result: Mapping[str, Any]) -> str:
    """Returns a line for each learner and number of steps, with full precision."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    same = {n: result[n] for n in ("task", "shots", "ways", "iterations", "score")}
    same["seeds"] = " ".join(map(str, result["seeds"]))
    for row in result["rows"]:
        times = {n: sum(row[n]) / len(row[n]) for n in ("seconds", "cpu_seconds")}
        for k, step in enumerate(row["steps"]):
            low, high = row["ci95"][k]
            own = {"algo": row["algo"], "step": step, "mean": row["mean"][k], "low": low}
            writer.writerow({**same, **own, "high": high, "stderr": row["stderr"][k], **times})
    return out.getvalue()
