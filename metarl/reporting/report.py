"""Run folders -> one self-contained page: figures, numbers with intervals, speed, settings, versions.

The page loads nothing and runs nothing: figures are inline SVG, and every word that comes from a run is escaped.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.files import write_atomically
from metarl.evaluation import results, table
from metarl.evaluation.table import format_interval as _ends
from metarl.evaluation.table import format_number as _number
from metarl.reporting import plots as figures
from metarl.runs.reader import Group, RunData, differences, group_runs, load_all

_CSS = Path(__file__).with_name("report.css")


def write_report(paths: Sequence[Path], output: Path, oracles: Sequence[Path] = ()) -> list[Group]:
    """Writes the page.

    Args:
        paths: Run folders, in the order in which they appear.
        output: The page; links to videos are relative to its folder.
        oracles: Evaluated runs of policies that observe the task, for comparison.

    Returns:
        The runs, sorted into groups.

    Raises:
        CheckpointError: A folder is no run, or what it holds cannot be read.
        ConfigError: The folder of the page does not exist, or an oracle is of an environment that no run has.
    """
    groups = group_runs(load_all(paths))
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")
    known = {g.env: g.result["oracle"] for g in groups if g.result and "oracle" in g.result}
    for group in groups:
        if group.result and group.runs[0].config.get("learner.mode") == "oracle":
            final = {name: group.result["returns"][name][-1] for name in ("mean", "ci95")}
            known[group.env] = {"run": group.runs[0].name, **final}
    for path in oracles:
        env = results.read(path)["env"]
        if env not in {group.env for group in groups}:
            raise ConfigError(f"--oracle {path}: it is of {env}, of which no run is given")
        known[env] = results.read_oracle(path, env)
    write_atomically(output, page(groups, known, output.absolute().parent))
    return groups


def numbers(groups: Sequence[Group]) -> dict[str, Any]:
    """What the page shows of the evaluations, for programs."""
    found = [
        {
            "env": group.env,
            "label": group.label,
            "runs": [str(run.path) for run in group.runs],
            "evaluation": group.result,
        }
        for group in groups
    ]
    return {"groups": found}


def page(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Writes the HTML.

    Args:
        groups: The runs.
        oracles: By environment, as `results.read_oracle` reads them.
        folder: Where the page will lie.
    """
    runs = [run for group in groups for run in group.runs]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    sections = [
        _at_a_glance(groups, oracles),
        _section("Learning", [_learning(groups)]),
        _section("Adaptation", _adaptation(groups, oracles)),
        _section("Returns over the tasks", _task_space(groups)),
        _section("Numbers", [part for group in groups for part in _numbers(group)]),
        _section("Videos", [_videos(runs, folder)]),
        _section("Speed", [_speed(runs)]),
        _section("Settings", _settings(runs)),
        _section("Versions and machine", [_versions(runs)]),
    ]
    envs = ", ".join(dict.fromkeys(group.env for group in groups))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>metarl: {_text(title)}</title>\n"
        f"<style>\n{_CSS.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_text(title)}</h1>\n<p class="muted">{_text(envs)}</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


# ------------------------------------------------------------------------------------------ sections


def _at_a_glance(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for group in groups:
        steps = [run.column("env_steps")[-1] for run in group.runs if len(run.column("env_steps"))]
        trained = _steps(float(np.mean(steps))) if steps else "none"
        cells = [_name(group.env), _name(group.label), str(len(group.runs)), trained]
        result = group.result
        if result is None:
            rows.append([*cells, "not evaluated", *[""] * 6])
            continue
        returns, floors = result["returns"], result["floors"]
        oracle = oracles.get(group.env)
        cells += [
            _number(returns["mean"][0]),
            _number(returns["mean"][min(1, len(returns["mean"]) - 1)]),
            f"<strong>{_number(returns['mean'][-1])}</strong>",
            _ends(returns["ci95"][-1]),
            f"{100 * result['share_of_tasks_made_worse'][-1]:.0f} %",
            _number(max(floors.values())) if floors else "-",
            _number(oracle["mean"]) if oracle else "-",
        ]
        rows.append(cells)
    last = {len(group.result["returns"]["mean"]) - 1 for group in groups if group.result}
    final = f"after {last.pop()}" if len(last) == 1 else "final"
    head = ["environment", "learner", "seeds", "trained for", "before", "after 1", final]
    glance = _table([*head, "95 % interval", "made worse", "best floor", "oracle"], rows)
    missing = [run for group in groups for run in group.runs if run.evaluation is None]
    return glance + "".join(
        f"<p>{_text(run.name)} has no evaluation; make one with "
        f"<code>python -m metarl evaluate {_text(str(run.path))}</code></p>"
        for run in missing
    )


def _learning(groups: Sequence[Group]) -> str:
    if not any(len(run.column("env_steps")) for group in groups for run in group.runs):
        return "<p>No iteration is finished.</p>"
    words = (
        "Return of an episode on the training tasks, policy noise on, against all environment steps; a thin line is a seed, "
        "smoothed, a thick one the mean over seeds with a band of one standard error. Dashed: before adaptation. "
        "Dotted: policies that do not adapt."
    )
    return _figure(figures.learning_curves(groups), "learning", words)


def _adaptation(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    evaluated = [group for group in groups if group.result]
    if not evaluated:
        return []
    words = (
        "Return on the test tasks against what the learner had met of a task before, per task; policy noise on. "
        "Bars: 95 % bootstrap intervals of the mean."
    )
    return [_figure(figures.adaptation(evaluated, oracles), "adaptation", words)]


def _task_space(groups: Sequence[Group]) -> list[str]:
    found = []
    for index, group in enumerate(groups):
        figure = figures.task_space(group)
        if figure is not None:
            words = f"{group.env}, {group.label}: mean return of each test task"
            found.append(_figure(figure, f"tasks{index}", words))
    return ['<div class="row">', *found, "</div>"] if found else []


def _numbers(group: Group) -> list[str]:
    result = group.result
    if result is None:
        return []
    header, *rows = table.rows(result)
    mean = header.index("return")
    cells = [[_text(cell) for cell in row] for row in rows]
    for row in cells:
        row[mean] = f"<strong>{row[mean]}</strong>"
    floors = ", ".join(f"{name} {_number(value)}" for name, value in result["floors"].items())
    parts = [f"<h3>{_text(group.env)}, {_text(group.label)}</h3>", _table(header, cells)]
    words = [table.describe_size(result), f"Floors: {floors}"]
    if result["strata"] != "none":
        words.append(f"Intervals stratified by {result['strata']}")
    if result["note"]:
        words.append(result["note"][0].upper() + result["note"][1:])
    parts.append("".join(['<p class="muted">', *(f"{_text(word)}. " for word in words), "</p>"]))
    return [*parts, _seeds(group)]


def _seeds(group: Group) -> str:
    """Final values of each seed; nothing for one."""
    result = group.result
    if result is None or len(result["seeds"]) < 2:
        return ""
    returns = result["returns"]
    columns = ["adaptations", *(f"seed {seed}" for seed in result["seeds"]), "std.err. over seeds"]
    rows = [
        [str(k), *map(_number, means), _number(returns["stderr_over_seeds"][k])]
        for k, means in enumerate(returns["per_seed"])
    ]
    return _table(columns, rows)


def _videos(runs: Sequence[RunData], folder: Path) -> str:
    items = []
    for run in runs:
        for video in run.videos:
            link = quote(Path(os.path.relpath(video.resolve(), folder.resolve())).as_posix())
            items.append(
                f'<li><a href="{_text(link)}">{_text(f"{run.name}: {video.name}")}</a></li>'
            )
    return f"<ul>\n{''.join(items)}</ul>" if items else ""


def _speed(runs: Sequence[RunData]) -> str:
    rows = []
    for run in runs:
        seconds, steps = run.column("seconds"), run.column("env_steps")
        if not len(seconds):
            continue
        shares = [np.nansum(run.column(f"time/{part}")) / seconds[-1] for part in _PARTS]
        bar = "".join(f'<span style="width: {100 * share:.1f}%"></span>' for share in shares)
        rows.append(
            [
                _name(run.name),
                f"{len(seconds):,}",
                f"{steps[-1]:,.0f}",
                _duration(seconds[-1]),
                f"{steps[-1] / seconds[-1]:,.0f}",
                *(f"{100 * share:.0f} %" for share in shares),
                f'<span class="bar">{bar}</span>',
                f"{np.nansum(run.column('rollout/faults')):.0f}",
            ]
        )
    columns = ["run", "iterations", "env steps", "time", "steps/s", *_PARTS, "", "faulted"]
    return _table(columns, rows) if rows else ""


_PARTS = ("collect", "update")


def _settings(runs: Sequence[RunData]) -> list[str]:
    parts = []
    if len(runs) > 1:
        keys = differences(runs)
        rows = [[_name(key), *(_value(run, key) for run in runs)] for key in keys]
        if rows:
            parts.append(_table(["differs", *(run.name for run in runs)], rows))
        else:
            parts.append("<p>All runs have the same settings.</p>")
    for run in runs:
        lines = "\n".join(f"{key}: {value}" for key, value in run.config.items())
        words = f"All settings of {run.name}"
        parts.append(
            f"<details><summary>{_text(words)}</summary><pre>{_text(lines)}</pre></details>"
        )
    return parts


def _value(run: RunData, key: str) -> str:
    return _text(str(run.config[key])) if key in run.config else "-"


def _versions(runs: Sequence[RunData]) -> str:
    facts = [_facts(run.record) for run in runs]
    names = list(dict.fromkeys(name for found in facts for name in found))
    rows = [[_name(name), *(_text(found.get(name, "-")) for found in facts)] for name in names]
    return _table(["", *(run.name for run in runs)], rows) if rows else ""


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What run.json says, in the order of interest."""
    found = dict(record.get("versions", {}))
    if git := str(record.get("git") or ""):
        found["git"] = git[:12] + (" + changes" if git.endswith("-dirty") else "")
    for name in ("device", "processor", "num_processors", "threads", "platform", "started"):
        found[name.replace("_", " ")] = record.get(name)
    if record.get("resumed"):
        found["resumed"] = f"{len(record['resumed'])} times"
    return {name: str(value) for name, value in found.items() if value is not None}


# ---------------------------------------------------------------------------------------------- parts


def _text(words: object) -> str:
    return html.escape(str(words), quote=True)


def _name(words: object) -> str:
    """A cell that names its row."""
    return f"\0{_text(words)}"


def _section(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{_text(title)}</h2>\n{body}\n</section>" if body else ""


def _figure(figure: Any, name: str, words: str) -> str:
    return (
        f'<figure role="group">{figures.svg(figure, name)}'
        f"<figcaption>{_text(words)}</figcaption></figure>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns are text and escaped here, cells are HTML, `_name` makes one the row's head."""
    head = "".join(
        f'<th class="name" scope="col">{_text(title)}</th>'
        if rows and rows[0][i].startswith("\0")
        else f'<th scope="col">{_text(title)}</th>'
        for i, title in enumerate(columns)
    )
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>"
    )


def _cell(words: str) -> str:
    if words.startswith("\0"):
        return f'<th scope="row">{words[1:]}</th>'
    return f"<td>{words}</td>"


def _steps(count: float) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
