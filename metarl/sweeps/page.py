"""Results of a sweep: a page with the trials and what matters, and the best settings as YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.ticker import NullFormatter

from metarl.core.machine.files import write_atomically
from metarl.core.machine.yaml_files import dump_yaml
from metarl.core.messages import format_number
from metarl.reporting import markup
from metarl.reporting.markup import escape, note, row_head
from metarl.reporting.plots.panels import STYLE, make_panels
from metarl.sweeps.search import find_best, finished_trials
from metarl.sweeps.sweep import Interval, Sweep

BEST, PAGE = "best.yaml", "report.html"
"""Names of the files of the results."""

_STATES = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed"}


def write_results(sweep: Sweep, study: Any) -> list[Path]:
    """Writes the page, and the best settings if a trial is finished; returns the files."""
    page, best = sweep.root / PAGE, sweep.root / BEST
    write_atomically(page, draw_page(sweep, study))
    values = find_best(study)
    if values is None:
        return [page]
    write_atomically(best, describe_best(sweep, study, values))
    return [page, best]


def describe_best(sweep: Sweep, study: Any, values: Mapping[str, Any]) -> str:
    """Returns a preset with the values of the best trial."""
    tree: dict[str, Any] = {"env": sweep.env, "algo": sweep.algo}
    for name, value in {**sweep.settings, **values}.items():
        *path, leaf = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = value
    count = len(finished_trials(study))
    found = ", ".join(sweep.search)
    head = f"# Best of {count} trials of the sweep {sweep.name}, which searched for {found}:\n"
    head += f"# mean return {study.best_value:.2f} with the seeds {list(sweep.seeds)}.\n"
    return head + dump_yaml(tree)


def find_importances(study: Any) -> dict[str, float]:
    """Returns the share of each setting in what the trials are worth, the largest first.

    It is PED-ANOVA (Watanabe et al. 2023): how much the values of the best tenth of the trials
    differ from those of all. Nothing is returned for fewer than ten finished trials, or if all are
    worth the same.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 10 or len({trial.value for trial in done}) < 2:
        return {}
    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def draw_page(sweep: Sweep, study: Any) -> str:
    """Returns the page as HTML."""
    trials = finished_trials(study)
    sections = [
        _summary(sweep, study, trials),
        _importances(study),
        _plots(sweep, trials),
        _table(sweep, trials),
    ]
    about = f"{sweep.algo} in {sweep.env}: {sweep.about or 'a search for settings'}"
    return markup.page(f"Sweep {sweep.name}", about, sections)


def _summary(sweep: Sweep, study: Any, trials: Sequence[Any]) -> str:
    counts = [f"{sum(t.state.name == k for t in trials)} {v}" for k, v in _STATES.items()]
    text = f"{len(trials)} of {sweep.trials} trials: {', '.join(counts)}."
    best, rows = find_best(study), []
    if best is not None:
        rows = [[row_head(name), escape(_format(value))] for name, value in best.items()]
        text += f" The best is worth {study.best_value:.2f}; its settings are in {BEST}."
    parts = [note(text), markup.table(["setting", "best value"], rows) if rows else ""]
    return markup.section("Best settings", parts)


def _importances(study: Any) -> str:
    rows = [[row_head(n), f"{100 * x:.0f} %"] for n, x in find_importances(study).items()]
    if not rows:
        return ""
    text = "How much the values of the best tenth of the finished trials differ from those of all"
    text += " (PED-ANOVA, Watanabe et al. 2023), as a share of the sum."
    return markup.section("What matters", [markup.table(["setting", "share"], rows), note(text)])


def _plots(sweep: Sweep, trials: Sequence[Any]) -> str:
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if len(done) < 2:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, panels = make_panels(len(sweep.search))
        for axes, (name, dimension) in zip(panels, sweep.search.items(), strict=True):
            values = [trial.params[name] for trial in done]
            is_number = isinstance(dimension, Interval)
            x = values if is_number else [dimension.ends().index(value) for value in values]
            axes.plot(x, [trial.value for trial in done], "o", ms=4, alpha=0.75, mew=0)
            axes.set(xlabel=name, ylabel="mean return after adaptation")
            if not is_number:
                axes.set_xticks(range(len(dimension.ends())), map(str, dimension.ends()))
            elif dimension.log:
                axes.set_xscale("log")
                axes.xaxis.set_minor_formatter(NullFormatter())
    text = "Worth of the finished trials over each setting; the other settings differ too."
    return markup.section("Settings", [markup.plot(figure, "settings", text)])


def _table(sweep: Sweep, trials: Sequence[Any]) -> str:
    ranked = sorted(trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))
    head = ["trial", "worth", "state", *sweep.search, "run folder"]
    rows = [
        [
            row_head(trial.number),
            "" if trial.value is None else format_number(trial.value),
            _STATES[trial.state.name],
            *(escape(_format(trial.params.get(name, ""))) for name in sweep.search),
            escape(trial.user_attrs.get("folder", "")),
        ]
        for trial in ranked
    ]
    text = "Worth: mean return after adaptation on held-out tasks, over the seeds; without an "
    text += "evaluation, that of the last fifth of the training. Stopped early: its first seed had "
    text += "learned less than the median of the trials before, after as many iterations; its "
    text += "worth is the return then."
    reasons = [
        note(f"Trial {trial.number} failed: {trial.user_attrs['reason']}")
        for trial in trials
        if "reason" in trial.user_attrs
    ]
    return markup.section(
        "Trials", [markup.table(head, rows), note(text), *reasons] if rows else []
    )


def _format(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
