"""Writes one self-contained page about runs: plots, returns, speed, settings, versions.

The page loads nothing and runs nothing: plots are inline SVG, and every text of a run is escaped.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from metarl.core.errors import ConfigError
from metarl.core.machine.files import HTML, check_output, write_atomically
from metarl.core.messages import format_number
from metarl.evaluation import results, table
from metarl.evaluation.table import format_interval
from metarl.reporting import live, markup, training
from metarl.reporting.comparison import STAGES, compare
from metarl.reporting.markup import escape, note, row_head
from metarl.reporting.plots import explanation
from metarl.reporting.plots.adaptation import draw_adaptation
from metarl.reporting.plots.learning_curves import draw_learning_curves
from metarl.reporting.plots.task_space import draw_task_space
from metarl.runs.reader import Group, RunData, group_runs, load_all


def write_report(paths: Sequence[Path], output: Path, oracles: Sequence[Path] = ()) -> list[Group]:
    """Writes the page.

    Args:
        paths: Run folders, in the order in which they appear.
        output: Path of the page; links to videos are relative to its folder.
        oracles: Evaluated runs of policies that observe the task, for comparison.

    Returns:
        The runs, sorted into groups.

    Raises:
        CheckpointError: A folder is no run, or its contents cannot be read.
        ConfigError: The page is a folder, is in none or is no .html, or no run has the
            environment of an oracle.
    """
    groups = group_runs(load_all(paths))
    check_output("--output", output, HTML)
    by_env = {g.env: g.result["oracle"] for g in groups if g.result and "oracle" in g.result}
    for group in groups:
        if group.result and group.runs[0].config.get("learner.mode") == "oracle":
            final = {name: group.result["returns"][name][-1] for name in ("mean", "ci95")}
            by_env[group.env] = {"run": group.runs[0].name, **final}
    for path in oracles:
        env = results.read(path)["env"]
        if env not in {group.env for group in groups}:
            raise ConfigError(f"--oracle {path}: it is of {env}, of which no run is given")
        by_env[env] = results.read_oracle(path, env)
    write_atomically(output, _write_page(groups, by_env, output.absolute().parent))
    return groups


def numbers(groups: Sequence[Group]) -> dict[str, Any]:
    """Returns the evaluations and comparisons that the page shows, as a tree for JSON."""
    trees = [
        {
            "env": group.env,
            "label": group.label,
            "runs": [str(run.path) for run in group.runs],
            "evaluation": group.result,
        }
        for group in groups
    ]
    comparisons = [asdict(comparison) for comparison in compare(groups)]
    return {"groups": trees, "comparisons": comparisons}


def _write_page(
    groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]], folder: Path
) -> str:
    """Writes the HTML.

    Args:
        groups: The runs.
        oracles: Returns of oracles by environment, as `results.read_oracle` reads them.
        folder: Folder of the page.

    Returns:
        The page.
    """
    runs = [run for group in groups for run in group.runs]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    sections = [
        _overview(groups, oracles),
        markup.section("Comparison", [_comparison(groups)]),
        markup.section("Learning", [_learning(groups)]),
        markup.section("Adaptation", [_adaptation(groups, oracles)]),
        markup.section("Returns over the tasks", _task_space(groups)),
        markup.section("How the policy adapts", _explanations(runs)),
        markup.section("Numbers", _numbers(groups)),
        markup.section("Other evaluations", [_other_evaluations(runs, folder)]),
        markup.section("Live robots", live.write_section(runs)),
        markup.section("Videos", [_videos(runs, folder)]),
        markup.section("Speed", training.write_speed(runs)),
        markup.section("Settings", training.write_settings(runs)),
        markup.section("Versions and machine", training.write_versions(runs)),
    ]
    envs = ", ".join(dict.fromkeys(group.env for group in groups))
    return markup.page(title, envs, sections)


def _overview(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> str:
    last = {len(group.result["returns"]["mean"]) - 1 for group in groups if group.result}
    final = f"after {last.pop()}" if len(last) == 1 else "final"
    head = ["environment", "learner", "seeds", "trained for", "before", "after 1", final]
    head += ["95 % interval", "without noise", "made worse", "best floor", "oracle"]
    rows = [_overview_row(group, oracles.get(group.env), len(head)) for group in groups]
    text = (
        "Mean return on the test tasks before and after adaptation; the interval is that of the "
        "last return. Of several seeds it is about a freshly trained seed; of one seed it lacks "
        "the spread between trainings. Without noise: last return of the policy without its noise. "
        "Trained for: environment steps, mean over seeds. Made worse: share of tasks whose return "
        "is lower after adaptation than before. Best floor: largest return of a policy that does "
        "not adapt. Oracle: return of a policy that observes the task."
    )
    runs = [run for group in groups for run in group.runs]
    hints = [*map(_describe_start, runs), *map(_hint_at_evaluation, runs)]
    return markup.table(head, rows) + note(text) + "".join(hints)


def _describe_start(run: RunData) -> str:
    """Names the run that a fine-tuned one starts from; nothing for others."""
    text = f"{run.name} starts from {run.start}."
    return f"<p>{escape(text)}</p>" if run.start else ""


def _hint_at_evaluation(run: RunData) -> str:
    """Says that a run has no evaluation, or one of an earlier time; nothing for one of its end."""
    command = f"<code>python -m metarl evaluate {escape(shlex.quote(str(run.path)))}</code>"
    if run.evaluation is None:
        return f"<p>{escape(run.name)} has no evaluation; make one with {command}</p>"
    evaluated = run.evaluation.get("checkpoint", {}).get("env_steps")
    trained = max(run.column("env_steps"), default=np.nan)
    if evaluated is None or not evaluated < trained:
        return ""
    text = f"{run.name} was evaluated after {evaluated:,} of {trained:,.0f} steps of training, so "
    text += "its returns are not those of its last iteration; evaluate it again with"
    return f"<p>{escape(text)} {command}</p>"


def _overview_row(group: Group, oracle: Mapping[str, Any] | None, num_cells: int) -> list[str]:
    steps = [run.column("env_steps")[-1] for run in group.runs if len(run.column("env_steps"))]
    mean = float(np.mean(steps)) if steps else 0.0
    length = (markup.format_steps(mean) if np.isfinite(mean) else "-") if steps else "none"
    cells = [row_head(group.env), row_head(group.label), str(len(group.runs)), length]
    result = group.result
    if result is None:
        cells.append("not evaluated")
        return cells + [""] * (num_cells - len(cells))
    returns, floors = result["returns"], result["floors"]
    has_adapted = len(returns["mean"]) > 1
    return [
        *cells,
        format_number(returns["mean"][0]),
        format_number(returns["mean"][1] if has_adapted else None),
        f"<strong>{format_number(returns['mean'][-1])}</strong>",
        format_interval(returns["ci95"][-1]),
        format_number(result["without_noise"]["returns"]["mean"][-1])
        if "without_noise" in result
        else "-",
        f"{100 * result['share_of_tasks_made_worse'][-1]:.0f} %" if has_adapted else "-",
        format_number(max(floors.values())) if floors else "-",
        format_number(oracle["mean"]) if oracle else "-",
    ]


def _comparison(groups: Sequence[Group]) -> str:
    """Writes a row for each pair of learners on one environment; nothing without a pair."""
    found = compare(groups)
    if not found:
        return ""
    rows = []
    for pair in found:
        names = [
            label + (" (1 seed)" if count == 1 else "")
            for label, count in zip(pair.labels, pair.num_seeds, strict=True)
        ]
        verdicts = [{None: "-", "": "intervals overlap"}.get(b, b) for b in pair.better.values()]
        env = pair.env
        if pair.versions[0] != pair.versions[1]:
            env += " (versions {} and {})".format(*(v or "unknown" for v in pair.versions))
        rows.append([row_head(env), *map(escape, [*names, *verdicts])])
    text = (
        "The better of two learners, where its 95 % interval lies wholly above that of the other. "
        "Returns on two versions of an environment are not compared. "
        "First episode: before adaptation, but for policies that adapt while they act. The "
        "intervals of one seed lack the spread between trainings, so a difference to it can be "
        "one of the seed alone."
    )
    return markup.table(["environment", "one", "other", *STAGES], rows) + note(text)


def _learning(groups: Sequence[Group]) -> str:
    if not any(len(run.column("env_steps")) for group in groups for run in group.runs):
        return "<p>No iteration is finished.</p>"
    caption = (
        "Return of an episode on the training tasks, with policy noise, against the environment "
        "steps of training. A thin line is one seed, smoothed; a thick line is the mean over "
        "seeds, with a band of one standard error. Dashed: before adaptation. Dotted: reference "
        "returns of policies that do not adapt."
    )
    return markup.plot(draw_learning_curves(groups), "learning", caption)


def _adaptation(groups: Sequence[Group], oracles: Mapping[str, Mapping[str, Any]]) -> str:
    evaluated = [group for group in groups if group.result]
    if not evaluated:
        return ""
    caption = (
        "Return on the test tasks, with policy noise, against the experience from which the "
        "learner has adapted to a task. Bars or bands: 95 % intervals of the mean. "
        "Dotted: reference returns of policies that do not adapt. Dashed: a policy that observes "
        "the task."
    )
    return markup.plot(draw_adaptation(evaluated, oracles), "adaptation", caption)


def _task_space(groups: Sequence[Group]) -> list[str]:
    parts = []
    for index, group in enumerate(groups):
        figure = draw_task_space(group)
        if figure is not None:
            stages = "before and after adaptation"
            caption = f"{group.env}, {group.label}: mean return of each test task {stages}."
            parts.append(markup.plot(figure, f"tasks{index}", caption))
    return ['<div class="row">', *parts, "</div>"] if parts else []


def _explanations(runs: Sequence[RunData]) -> list[str]:
    """Draws the explanations of the runs that have one; nothing without any."""
    parts = []
    for index, run in enumerate(runs):
        if run.explanation is None:
            continue
        figure = explanation.draw_explanation(run.explanation)
        if figure is not None:
            caption = f"{run.name}: {explanation.describe(run.explanation)}"
            parts.append(markup.plot(figure, f"explain{index}", caption))
    return parts


def _numbers(groups: Sequence[Group]) -> list[str]:
    parts = [part for group in groups if group.result for part in _group_numbers(group)]
    text = (
        "Episodes and env steps: experience in a task before the measured episodes. Return: mean "
        "over tasks and seeds, with its standard error. IQM: mean of the middle half of the tasks. "
        "Without noise: mean return of the policy without its noise. Made worse: share of tasks "
        "whose return is lower than before adaptation. Faulted: episodes in which the simulation "
        "failed; their returns count up to there."
    )
    return [*parts, note(text)] if parts else []


def _group_numbers(group: Group) -> list[str]:
    result = group.result
    assert result is not None
    header, *rows = table.rows(result)
    if "without_noise" in result:
        quiet = result["without_noise"]["returns"]
        header = [*header, "without noise", "95 % interval"]
        for row, mean, ends in zip(rows, quiet["mean"], quiet["ci95"], strict=True):
            row += [format_number(mean), format_interval(ends)]
    mean = header.index("return")
    cells = [[escape(cell) for cell in row] for row in rows]
    for row in cells:
        row[mean] = f"<strong>{row[mean]}</strong>"
    floors = [f"{name} {format_number(value)}" for name, value in result["floors"].items()]
    sentences = [
        f"Evaluated on {table.describe_size(result)}",
        f"Reference returns of policies that do not adapt: {', '.join(floors) or 'not known'}",
    ]
    sentences.append(f"95 % intervals: {result['intervals']}")
    if result["note"]:
        sentences.append(result["note"][0].upper() + result["note"][1:])
    return [
        f"<h3>{escape(group.env)}, {escape(group.label)}</h3>",
        markup.table(header, cells),
        note("".join(f"{sentence}. " for sentence in sentences)),
        _seeds(result),
    ]


def _seeds(result: Mapping[str, Any]) -> str:
    """Writes the mean return of each seed; nothing for one seed."""
    if len(result["seeds"]) < 2:
        return ""
    returns = result["returns"]
    columns = ["adaptations", *(f"seed {seed}" for seed in result["seeds"]), "std.err. over seeds"]
    rows = [
        [str(k), *map(format_number, means), format_number(returns["stderr_over_seeds"][k])]
        for k, means in enumerate(returns["per_seed"])
    ]
    text = "Mean return of each seed, and the standard error of their mean."
    return markup.table(columns, rows) + note(text)


def _other_evaluations(runs: Sequence[RunData], folder: Path) -> str:
    text = (
        "Evaluations of these runs with other settings: chosen tasks, another environment, without "
        "policy noise, or other numbers of tasks or adaptations. This page does not show them."
    )
    return _list_links(
        [(run, path) for run in runs for path in run.other_evaluations], folder, text
    )


def _videos(runs: Sequence[RunData], folder: Path) -> str:
    text = "Episodes before and after adaptation; an HTML file is a replay in 3-D."
    return _list_links([(run, path) for run in runs for path in run.videos], folder, text)


def _list_links(files: Sequence[tuple[RunData, Path]], folder: Path, text: str) -> str:
    """Writes links to files of runs, relative to `folder`, with a note; nothing without files."""
    items = []
    for run, path in files:
        link = quote(os.fsencode(os.path.relpath(path.resolve(), folder.resolve())))
        items.append(f'<li><a href="{escape(link)}">{escape(f"{run.name}: {path.name}")}</a></li>')
    return f"<ul>\n{''.join(items)}</ul>{note(text)}" if items else ""
