"""The logs of `metarl serve` in a run folder, as a section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metarl.core.errors import CheckpointError
from metarl.core.machine.files import Unreadable, parse_json, read_file
from metarl.core.messages import format_number
from metarl.core.trees import check_form
from metarl.reporting.markup import escape, note, row_head, table
from metarl.runs.reader import RunData

LOGS = "live*.jsonl"
"""Files of a run folder that are such logs."""

_COUNTS = ("steps", "limited", "silences", "unusable")
"""Numbers of an episode that are added."""

_FORM = {
    "event": str,
    "time?": float,
    "return?": (float, type(None)),
    "end?": (str, type(None)),
    **{f"{name}?": int for name in _COUNTS},
    "latency_ms?": {"*": float},
    "refused?": {"*": int},
}
"""Form of a record; one of another form is skipped like a damaged line."""

_COLUMNS = ("run", "began (UTC)", "episodes", "falls", "steps", "mean return", "limited")
_COLUMNS += ("silences", "unusable", "refused", "latency [ms]", "99.9 % within")


def write_section(runs: Sequence[RunData]) -> list[str]:
    """Writes a row for each time that a run was served; nothing without a log."""
    rows = []
    for run in runs:
        for path in sorted(run.path.glob(LOGS)):
            rows += [_row(run.name, session) for session in read_sessions(path)]
    text = (
        "Each row is a run of metarl serve. Limited: controls that the limits changed. Silences: "
        "times that no observation came in mid-episode and the safe control was sent. Unusable: "
        "numbers that were not finite. Refused: messages that got no answer, or only the safe "
        "control. Latency: from an observation's arrival to its controls, median."
    )
    return [table(_COLUMNS, rows), note(text)] if rows else []


def read_sessions(path: Path) -> list[list[dict[str, Any]]]:
    """Returns the records of a log, one list for each start of a server; skips damaged lines."""
    sessions: list[list[dict[str, Any]]] = []
    for line in _read_lines(path):
        try:
            record = parse_json(line)
            check_form(record, _FORM)
        except ValueError:  # the last line of a server that was killed
            continue
        if record["event"] == "start" or not sessions:
            sessions.append([])
        sessions[-1].append(record)
    return sessions


def _read_lines(path: Path) -> list[str]:
    try:
        return read_file(path).decode("utf-8", errors="replace").splitlines()
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _row(name: str, records: Sequence[dict[str, Any]]) -> list[str]:
    episodes = [record for record in records if record["event"] == "episode"]
    summary = next((each for each in records if each["event"] == "summary"), {})
    latency, refused = summary.get("latency_ms", {}), summary.get("refused", {})
    returns = [float(each["return"]) for each in episodes if each.get("return") is not None]
    falls = sum(each.get("end") == "fall" for each in episodes)
    steps, *incidents = (sum(each.get(key, 0) for each in episodes) for key in _COUNTS)
    incidents.append(sum(refused.values()))
    return [
        row_head(name),
        escape(_format_time(records[0])),
        *(f"{count:,}" for count in (len(episodes), falls, steps)),
        format_number(sum(returns) / len(returns)) if returns else "-",
        *(f"{count:,}" for count in incidents),
        *(f"{latency[key]:.2f}" if key in latency else "-" for key in ("median", "p99.9")),
    ]


def _format_time(record: dict[str, Any]) -> str:
    """Formats the time of a record in UTC; "-" stands for one that no clock can show."""
    try:
        return f"{datetime.fromtimestamp(float(record['time']), UTC):%Y-%m-%d %H:%M}"
    except (KeyError, OverflowError, ValueError, OSError):
        return "-"
