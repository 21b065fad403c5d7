"""Sections of the report about the training of runs: speed, settings, versions and machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarl.reporting.markup import escape, format_duration, format_finite, note, row_head, table
from metarl.runs.reader import RunData, differences

_TIMED = ("collect", "update")
"""Parts of an iteration whose share of the time is shown."""


def write_speed(runs: Sequence[RunData]) -> list[str]:
    """Writes a row for each run that has finished an iteration; nothing without one."""
    rows = []
    for run in runs:
        seconds, steps = run.column("seconds"), run.column("env_steps")
        if not len(seconds):
            continue
        total = seconds[-1] if seconds[-1] > 0 else np.nan  # an older version did not say it
        shares = [np.nansum(run.column(f"time/{part}")) / total for part in _TIMED]
        known = [share for share in shares if np.isfinite(share)]
        bar = "".join(f'<span style="width: {100 * share:.1f}%"></span>' for share in known)
        rows.append(
            [
                row_head(run.name),
                f"{run.column('iteration')[-1]:,.0f}",  # a published run has fewer records
                format_finite(steps[-1], "{:,.0f}"),
                format_duration(seconds[-1]) if np.isfinite(seconds[-1]) else "-",
                format_finite(steps[-1] / total, "{:,.0f}"),
                *(format_finite(100 * share, "{:.0f} %") for share in shares),
                f'<span class="bar">{bar}</span>',
                f"{np.nansum(run.column('rollout/faults')):.0f}",
            ]
        )
    if not rows:
        return []
    columns = ["run", "iterations", "env steps", "time", "steps/s", *_TIMED, "", "faulted"]
    text = (
        "Duration of training (h:mm:ss), and the part of it spent on collecting experience and on "
        "the update, which the bar shows too. Faulted: episodes in which the simulation failed."
    )
    return [table(columns, rows) + note(text)]


def write_settings(runs: Sequence[RunData]) -> list[str]:
    """Writes the settings in which runs differ, and all settings of each run."""
    parts = []
    if len(runs) > 1:
        keys = differences(runs)
        rows = [[row_head(key), *(_setting(run, key) for run in runs)] for key in keys]
        if rows:
            parts.append(table(["differs", *(run.name for run in runs)], rows))
            parts.append(note("Settings in which the runs differ; - where a run lacks one."))
        else:
            parts.append("<p>All runs have the same settings.</p>")
    for run in runs:
        lines = "\n".join(f"{key}: {value}" for key, value in run.config.items())
        summary = f"All settings of {run.name}"
        parts.append(
            f"<details><summary>{escape(summary)}</summary><pre>{escape(lines)}</pre></details>"
        )
    return parts


def _setting(run: RunData, key: str) -> str:
    return escape(str(run.config[key])) if key in run.config else "-"


def write_versions(runs: Sequence[RunData]) -> list[str]:
    """Writes software and machine of each run; nothing if no run has recorded them."""
    facts = [_read_facts(run.record) for run in runs]
    names = list(dict.fromkeys(name for of_run in facts for name in of_run))
    rows = [
        [row_head(name), *(escape(of_run.get(name, "-")) for of_run in facts)] for name in names
    ]
    if not rows:
        return []
    text = "Software and machine of each run, as recorded at its start."
    return [table(["", *(run.name for run in runs)], rows) + note(text)]


def _read_facts(record: Mapping[str, Any]) -> dict[str, str]:
    """Selects the entries of run.json that are shown, in their order."""
    facts = dict(record.get("versions", {}))
    if git := str(record.get("git") or ""):
        facts["git"] = git[:12] + (" + changes" if git.endswith("-dirty") else "")
    for name in ("device", "processor", "num_processors", "threads", "platform", "started"):
        facts[name.replace("_", " ")] = record.get(name)
    if record.get("resumed"):
        facts["resumed"] = f"{len(record['resumed'])} times"
    return {name: str(value) for name, value in facts.items() if value is not None}
