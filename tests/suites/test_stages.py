import json
from dataclasses import replace

import pytest

from metarl.core.errors import CheckpointError, ConfigError, RunExists
from metarl.runs import folder
from metarl.suites.stages import find_evaluation, next_command, prepare, read_progress
from metarl.suites.suite import read_suite


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "runs: [{env: navigation-2d, iterations: 5, trainer: {video: false, evaluate_tasks: 4}}]"
    )
    return read_suite(path, tmp_path / "runs").runs[0]


def save(run, iteration):
    (run.folder / "checkpoints" / f"it_{iteration:08d}").mkdir(parents=True)


def write_evaluation(path, iteration, num_tasks=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"checkpoint": {"iteration": iteration}, "num_tasks": num_tasks}
    path.write_text(json.dumps(result | {"returns": {"per_task": []}}))


def test_stages_follow_each_other(run):
    start = ["train", "--config", str(run.settings), "--run-dir", str(run.folder)]
    assert next_command(run) == start
    save(run, 3)
    resume = ["train", "--resume", str(run.folder), "--iterations", "5"]
    resume += ["--trainer.evaluate-tasks", "4", "--trainer.no-video"]
    assert next_command(run) == resume
    save(run, 5)
    write_evaluation(run.folder / "evaluation.json", 3)  # of an older checkpoint
    assert next_command(run) == resume
    write_evaluation(run.folder / "evaluation.json", 5)
    assert next_command(run) is None


def test_evaluation_with_other_tasks_is_another_one(run):
    save(run, 5)
    write_evaluation(run.folder / "evaluation.json", 5, num_tasks=20)
    assert find_evaluation(run) is None and next_command(run)[:2] == ["train", "--resume"]
    write_evaluation(run.folder / "evaluations" / "tasks-4_adaptations-3.json", 5)
    assert find_evaluation(run)["num_tasks"] == 4


def test_run_without_evaluation_ends_after_training(run):
    save(run, 5)
    trainer = replace(run.config.trainer, evaluate_tasks=0)
    assert next_command(replace(run, config=replace(run.config, trainer=trainer))) is None


def test_start_of_a_killed_run_is_removed(run):
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text("half")
    with folder.lock(run.folder), pytest.raises(ConfigError, match="another process"):
        prepare(run)
    prepare(run)
    assert not run.folder.exists() and "env: navigation-2d" in run.settings.read_text()


def test_folder_that_is_no_killed_run_is_kept(run):
    run.folder.mkdir(parents=True)
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(RunExists, match="seed-0 exists and is never overwritten"):
        prepare(run)
    assert (run.folder / "notes.txt").read_text() == "mine"


def test_records_without_checkpoint_are_kept(run):
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text('{"iteration": 1, "seconds": 2.5}\n')
    with pytest.raises(CheckpointError, match="has records, and no checkpoint"):
        prepare(run)
    assert read_progress(run.folder) == (1, 2.5)
