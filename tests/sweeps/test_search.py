"""The search against made-up trainings: what is asked for, stopped, kept and told."""

import io
import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from metarl.cli import commands
from metarl.config.schema import build_config, from_yaml
from metarl.core.errors import ConfigError, ResourceError
from metarl.suites import runner
from metarl.suites.plan import Failure
from metarl.suites.processes import ThisMachine
from metarl.suites.runner import run_plan
from metarl.sweeps import search as search_module
from metarl.sweeps.page import describe_best, draw_page, find_importances, write_results
from metarl.sweeps.search import Search, check_sweep, find_best, finished_trials
from metarl.sweeps.sweep import Choices, Interval, Sweep

pytest.importorskip("optuna", reason="needs the extra sweep")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def sweep(tmp_path):
    return Sweep(
        "mine",
        tmp_path / "mine.yaml",
        tmp_path / "out",
        "navigation-2d",
        "maml-trpo",
        {"learner.inner_lr": Interval(0.1, 1.0), "learner.activation": Choices(("tanh", "relu"))},
        {"iterations": 40, "trainer.evaluate_tasks": 0, "trainer.video": False},
        trials=10,
    )


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(search_module, "_LOOK", 0.0)


def opened(sweep):
    sweep.root.mkdir(exist_ok=True)
    plan = Search(sweep)
    plan.begin()
    return plan


def worth(config):
    """Best at 0.6, and better with relu."""
    gap = config.learner.inner_lr - 0.6
    return -(gap**2) + 0.1 * (config.learner.activation == "relu")


def record(run, iterations, value=None):
    """Writes the metrics of the first iterations of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    value = worth(run.config) if value is None else value
    lines = [
        json.dumps({"iteration": i + 1, "seconds": 1.0, "return_post": value})
        for i in range(iterations)
    ]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def play(plan, most=1000):
    """Trains one run after another, to the end; returns the runs and those that were stopped."""
    runs, lost = [], []
    while len(runs) < most and (run := plan.take()) is not None:
        runs.append(run)
        for iterations in range(8, 41, 8):
            record(run, iterations)
            if plan.is_lost(run):
                lost.append(run)
                break
        plan.note_end(run, None)
    return runs, lost


def test_best_trial_is_found_and_bad_ones_stop_early(sweep):
    plan = opened(sweep)
    runs, lost = play(plan)
    assert len(runs) == sweep.trials == len(finished_trials(plan.study)) == plan.count()
    finished = [run for run in runs if run not in lost]
    best = max(finished, key=lambda run: worth(run.config))
    assert find_best(plan.study)["learner.inner_lr"] == best.config.learner.inner_lr
    assert plan.study.best_value == pytest.approx(worth(best.config))
    assert lost and not set(map(id, lost)) & set(map(id, runs[: search_module.WARMUP]))
    for run in lost:  # worse than the median of those before it
        before = sorted(worth(each.config) for each in runs[: runs.index(run)])
        assert worth(run.config) < before[len(before) // 2]
        assert len((run.folder / "metrics.jsonl").read_text().splitlines()) < 40
    assert plan.take() is None and plan.waiting() == []


def test_no_trial_is_stopped_where_that_is_switched_off(sweep):
    assert play(opened(replace(sweep, prune=False)))[1] == []


def test_search_goes_on_after_it_was_killed(sweep):
    first = opened(sweep)
    play(first, most=4)
    cut = first.take()
    again = opened(sweep)
    assert again.take().folder == cut.folder
    record(cut, 40)
    again.note_end(cut, None)
    runs, _ = play(again)
    assert len(runs) == sweep.trials - 5 and len(finished_trials(again.study)) == sweep.trials
    folders = {trial.user_attrs["folder"] for trial in finished_trials(again.study)}
    assert len(folders) == sweep.trials


@pytest.mark.parametrize("size", [1, 20])
def test_search_killed_while_it_wrote_goes_on(sweep, tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    sweep = replace(sweep, root=Path("out"))  # Optuna's lock is a link, which leads nowhere then
    play(opened(sweep), most=3)
    journal = sweep.root / "study.jsonl"
    journal.write_bytes(journal.read_bytes()[:-size])
    journal.with_name("study.jsonl.lock").symlink_to(journal)
    again = opened(sweep)
    play(again)
    assert len(finished_trials(again.study)) == sweep.trials
    assert len(finished_trials(opened(sweep).study)) == sweep.trials


def test_search_that_is_cut_proposes_what_a_whole_one_does(sweep, tmp_path):
    whole = [run.folder.parent.name for run in play(opened(sweep))[0]]
    other = replace(sweep, root=tmp_path / "other")
    parts = [play(opened(other), most=k)[0] for k in (3, 4, 100)]
    assert [run.folder.parent.name for part in parts for run in part] == whole


def test_further_seeds_wait_for_the_first(sweep):
    plan = opened(replace(sweep, seeds=(0, 1), trials=2))
    first, second = plan.take(), plan.take()
    assert (first.config.seed, second.config.seed) == (0, 0) and plan.take() is None
    record(first, 40, 1.0)
    plan.note_end(first, None)
    other = plan.take()
    assert other.config.seed == 1 and other.folder.parent == first.folder.parent
    record(other, 40, 2.0)
    plan.note_end(other, None)
    assert plan.study.best_value == 1.5


def test_failed_trial_counts_and_the_others_go_on(sweep):
    plan = opened(sweep)
    run = plan.take()
    plan.note_end(run, Failure(run, "metarl: error: bad", 4))
    assert len(play(plan)[0]) == sweep.trials - 1
    assert "metarl: error: bad" in draw_page(sweep, plan.study)


@pytest.mark.parametrize("value", [float("nan"), None])
def test_trial_without_a_worth_is_a_failed_one(sweep, monkeypatch, value):
    """It counts, or the search would never end."""
    plan = opened(replace(sweep, trials=2))
    returns = np.array([] if value is None else [value])
    monkeypatch.setattr(search_module, "read_returns", lambda run: returns)
    runs, _ = play(plan, most=3)
    assert len(runs) == 2 and find_best(plan.study) is None
    assert [t.user_attrs["reason"][:18] for t in finished_trials(plan.study)] == [
        "the mean return is"
    ] * 2


def test_values_that_do_not_fit_each_other_are_a_failed_trial(sweep, monkeypatch):
    plan, real = opened(sweep), Sweep.runs

    def runs(self, values):
        if values["learner.activation"] == "relu":
            raise ConfigError("relu does not fit")
        return real(self, values)

    monkeypatch.setattr(Sweep, "runs", runs)
    played, _ = play(plan)
    reasons = [t.user_attrs["reason"] for t in finished_trials(plan.study) if t.value is None]
    assert "relu does not fit" in reasons
    assert all(run.config.learner.activation == "tanh" for run in played)


def test_study_of_other_settings_is_refused(sweep):
    opened(sweep)
    other = replace(sweep, settings={**sweep.settings, "iterations": 41})
    with pytest.raises(ConfigError, match="study.jsonl: settings was .*choose another --run-dir"):
        opened(other)
    opened(replace(sweep, trials=30))  # more trials continue it


def test_damaged_study_is_refused_in_one_line(sweep):
    opened(sweep)
    (sweep.root / "study.jsonl").write_text("{\n[1\n")
    with pytest.raises(ConfigError, match="study.jsonl: cannot be read") as caught:
        opened(sweep)
    assert "\n" not in str(caught.value)


def test_sweep_without_optuna_names_the_extra(sweep, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ResourceError, match=r"pip install 'metarl-robots\[sweep\]'"):
        check_sweep(sweep)


def test_sweep_inside_a_run_is_refused(sweep):
    (sweep.root / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="--run-dir .*: is a run itself, as it has checkpoints"):
        check_sweep(sweep)


def test_what_matters_is_what_the_worth_depends_on(sweep, monkeypatch):
    monkeypatch.setitem(globals(), "worth", lambda config: config.learner.activation == "relu")
    plan = opened(replace(sweep, trials=14, prune=False))
    play(plan)
    shares = find_importances(plan.study)
    assert shares["learner.activation"] > shares["learner.inner_lr"]
    assert sum(shares.values()) == pytest.approx(1.0)


def test_results_are_a_page_and_a_preset(sweep):
    plan = opened(sweep)
    assert [path.name for path in write_results(sweep, plan.study)] == ["report.html"]
    play(plan)
    page, preset = write_results(sweep, plan.study)
    best = find_best(plan.study)
    assert build_config(None, None, {"config": preset}) == from_yaml_of(sweep.config(best))
    text = page.read_text()
    assert "stopped early" in text and f"{plan.study.best_value:.2f}" in text
    assert yaml.safe_load(describe_best(sweep, plan.study, best))["env"] == "navigation-2d"


def from_yaml_of(config):
    """A preset has no number of threads."""
    return replace(config, sampler=replace(config.sampler, threads=0))


def test_other_seeds_of_a_trial_that_failed_are_stopped(sweep):
    plan = opened(replace(sweep, seeds=(0, 1, 2), trials=1))
    first = plan.take()
    record(first, 40)
    plan.note_end(first, None)
    second, third = plan.take(), plan.take()
    plan.note_end(second, Failure(second, "out of memory", 6))
    assert plan.is_lost(third)
    plan.note_end(third, None)
    assert plan.take() is None and len(finished_trials(plan.study)) == 1


def test_values_that_failed_are_not_tried_again(sweep):
    """Else a seed that was stopped early would count for the new trial."""
    choices = {"learner.activation": Choices(("tanh", "relu"))}
    plan = opened(replace(sweep, search=choices, seeds=(0, 1, 2), trials=6))
    first = plan.take()
    record(first, 40)
    plan.note_end(first, None)
    second, third = (run for _ in range(2) if (run := plan.take()))
    assert second.folder.parent == third.folder.parent == first.folder.parent
    plan.note_end(second, Failure(second, "out of memory", 6))
    others = [run for _ in range(6) if (run := plan.take())]
    assert first.folder.parent not in {run.folder.parent for run in others}
    record(third, 10, -100.0)
    plan.note_end(third, None)
    for trial in finished_trials(plan.study):
        if trial.user_attrs["folder"] == first.folder.parent.name:
            assert trial.user_attrs["reason"] == "out of memory" and trial.value is None


def test_running_trials_with_equal_values_are_one(sweep):
    choices = {"learner.activation": Choices(("tanh", "relu"))}
    plan = opened(replace(sweep, search=choices, trials=6))
    runs = [run for _ in range(6) if (run := plan.take())]
    assert len(runs) == len({run.folder for run in runs}) == 2
    for run in runs:
        record(run, 40)
        plan.note_end(run, None)
    done = finished_trials(plan.study)
    assert len(done) == 6 and plan.take() is None
    for folder in {trial.user_attrs["folder"] for trial in done}:
        assert len({t.value for t in done if t.user_attrs["folder"] == folder}) == 1


def test_lost_run_is_stopped_and_saved(sweep, monkeypatch, tmp_path):
    """A process that trains badly gets a SIGTERM, saves and ends with 75."""
    sweep = replace(sweep, trials=1)
    plan = opened(sweep)
    monkeypatch.setattr(plan, "is_lost", lambda run: (run.folder / "ready").exists())
    script = (
        "trap 'echo stopped > stopped; exit 75' TERM; touch ready; while :; do sleep 0.02; done"
    )

    class Shell(subprocess.Popen):
        loss = refusal = ""

        def is_waiting(self):
            return False

    def spawn(machine, command, log):
        folder = plan.list_runs()[0].folder
        return Shell(["sh", "-c", f"cd {folder}; {script}"], process_group=0)

    monkeypatch.setattr(ThisMachine, "spawn", spawn)
    monkeypatch.setattr(runner, "prepare", lambda run: run.folder.mkdir(parents=True))
    out = io.StringIO()
    assert run_plan(plan, 1, "again", stream=out) == []
    assert (plan.list_runs()[0].folder / "stopped").exists()
    assert "stopped early trial-" in out.getvalue()


def test_command_searches_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "{env: navigation-2d, trials: 2, settings: {iterations: 1, trainer: {video: false, "
        "evaluate_tasks: 2}, sampler: {num_tasks: 2, num_episodes: 2}}, "
        "search: {learner.inner_lr: {low: 0.1, high: 0.5}}}"
    )
    assert commands.main(["sweep", "mine.yaml", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "mine: 2 trials" in out and out.endswith("best.yaml\n")
    best = tmp_path / "runs" / "sweeps" / "mine" / "best.yaml"
    assert build_config(None, None, {"config": best}).iterations == 1
    assert commands.main(["sweep", "mine.yaml"]) == 0
    assert "started" not in capsys.readouterr().out
    config = next((tmp_path / "runs" / "sweeps" / "mine").glob("trial-*/seed-0/config.yaml"))
    assert from_yaml(config).iterations == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_command_without_a_finished_trial_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "{env: navigation-2d, trials: 2, settings: {iterations: 1}, "
        "search: {learner.inner_lr: {low: 0.1, high: 0.5}}}"
    )

    def fail(plan, *args, **kwargs):
        plan.root.mkdir(parents=True, exist_ok=True)
        plan.begin()
        failures = []
        while run := plan.take():
            failures.append(Failure(run, "a gradient is not finite", 4))
            plan.note_end(run, failures[-1])
        return failures

    monkeypatch.setattr(runner, "run_plan", fail)
    assert commands.main(["sweep", "mine.yaml"]) == 4
    message = "mine: none of 2 trials finished (a gradient is not finite); change what is"
    assert message in capsys.readouterr().err
    assert commands.main(["sweep", "mine.yaml"]) == 2  # it tells so again
    assert "none of 2 trials finished" in capsys.readouterr().err
