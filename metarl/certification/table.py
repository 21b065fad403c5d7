"""Table of a certificate as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl.certification.page import format_share
from metarl.core.messages import format_number
from metarl.evaluation.table import format_interval

_MARKS = {"inside": "", "outside": "outside", "unknown": "?"}


def table(certificate: Mapping[str, Any]) -> str:
    """Returns a line for each cell, and a summary, for people."""
    attempts = certificate["grid"]["attempts"]
    width = max(len(cell["name"]) for cell in certificate["cells"])
    titles = [f"survives {k + 1}" for k in range(attempts)]
    header = [f"{'cell':{width}}", *(f"{title:>10}" for title in titles), f"{'return':>9}"]
    lines = ["  ".join([*header, f"{'95 % interval':>20}", f"{'oracle':>8}", "training"])]
    for cell in certificate["cells"]:
        shares = [f"{format_share(share):>10}" for share in cell["survival"]["mean"]]
        returns, oracle = cell["returns"], cell["oracle"]
        best = format_number(oracle["returns"]["mean"][-1] if oracle else None)
        ends = f"{format_interval(returns['ci95'][-1]):>20}"
        mean = f"{format_number(returns['mean'][-1]):>9}"
        mark = _MARKS[cell["training"]]
        parts = [f"{cell['name']:{width}}", *shares, mean, ends, f"{best:>8}", mark]
        lines.append("  ".join(parts).rstrip())
    return "\n".join([*lines, *_remarks(certificate)])


def _remarks(certificate: Mapping[str, Any]) -> list[str]:
    summary, attempts = certificate["summary"], certificate["grid"]["attempts"]
    found, cells = summary["survival"], certificate["cells"]
    share = format_share(found["mean"][-1], found["ci95"][-1])
    faults = sum(sum(cell["faulted_episodes"]) for cell in cells)
    lines = [
        f"survives {share} of the episodes at attempt {attempts}, over {len(cells)} cells; "
        f"worst: {summary['worst']}",
        f"return and its interval: attempt {attempts}",
    ]
    if "unknown" in summary["by_training"]:
        lines.append("?: the training distribution of the policy is not known")
    if faults:
        lines.append(f"the simulation failed in {faults} episodes, which count as not survived")
    return lines
