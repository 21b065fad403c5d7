"""Run folders read from files alone, and sorted into groups of seeds."""

import json

import numpy as np
import pytest
import yaml

from metarl.core.errors import CheckpointError
from metarl.runs.reader import differences, grouped, load, load_all


def write_run(path, env="navigation-2d", seed=0, records=30, evaluated=True, **settings):
    """A run folder as metarl writes it, with `learner` settings; return_post of record i is i + seed."""
    path.mkdir(parents=True)
    config = {
        "env": env,
        "algo": "maml-trpo",
        "seed": seed,
        "iterations": 500,
        "sampler": {"num_tasks": 2, "threads": 0},
        "learner": {"max_kl": 0.01, **settings},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rows = [
        {
            "iteration": i,
            "env_steps": 1000 * (i + 1),
            "seconds": 2.0 * (i + 1),
            "time/collect": 1.2,
            "time/update": 0.6,
            "return_pre": -40.0,
            "return_post": float(i + seed),
            "rollout/faults": 1.0,
        }
        for i in range(records)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "run.json").write_text(
        json.dumps(
            {"versions": {"metarl": "0.1.0", "torch": "2.13.0"}, "git": "ab" * 20, "device": "cpu"}
        )
    )
    if evaluated:
        (path / "evaluation.json").write_text(json.dumps(evaluation(env, seed)))
    return path


def evaluation(
    env="navigation-2d", seed=0, num_tasks=6, variables=(("goal_x", "m"), ("goal_y", "m"))
):
    rng = np.random.default_rng(seed)
    per_task = rng.normal([[-40.0], [-12.0], [-6.0]], 3.0, (3, num_tasks))
    return {
        "env": env,
        "env_version": 1,
        "algo": "maml-trpo",
        "seed": seed,
        "num_tasks": num_tasks,
        "episodes_per_task": 4,
        "env_steps_per_rollout": [400.0, 300.0, 200.0],
        "held_out": True,
        "note": "",
        "returns": {
            "mean": per_task.mean(axis=1).tolist(),
            "stderr": [1.25, 1.5, 1.75],
            "ci95": [[-45.5, -35.25], [-15.5, -10.25], [-8.5, -4.25]],
            "per_task": per_task.tolist(),
        },
        "share_of_tasks_made_worse": [0.0, 0.25, 0.0],
        "task_variables": [{"name": name, "unit": unit} for name, unit in variables],
        "tasks": rng.uniform(-0.5, 0.5, (num_tasks, len(variables))).tolist(),
        "floors": {"stand still": -38.25, "best without the task": -38.25},
    }


def test_a_run_is_what_its_files_say(tmp_path):
    run = load(write_run(tmp_path / "a", seed=3))
    assert (run.name, run.env, run.algo, run.seed) == ("a", "navigation-2d", "maml-trpo", 3)
    assert run.config["learner.max_kl"] == 0.01
    np.testing.assert_array_equal(run.column("return_post"), np.arange(30.0) + 3.0)
    assert np.isnan(run.column("no such number")).all() and len(run.column("no such number")) == 30
    assert run.record["device"] == "cpu" and run.evaluation["num_tasks"] == 6


def test_a_half_written_last_record_is_left_out_and_null_is_nan(tmp_path):
    path = write_run(tmp_path / "a", records=2)
    with open(path / "metrics.jsonl", "a") as file:
        file.write(
            '{"iteration": 2, "return_post": null, "env_steps": 3000}\n{"iteration": 3, "env'
        )
    run = load(path)
    assert run.column("iteration").tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(run.column("return_post")[2]) and run.column("env_steps")[2] == 3000.0


def test_a_run_that_has_only_begun_has_no_records(tmp_path):
    path = write_run(tmp_path / "a", evaluated=False)
    for name in ("metrics.jsonl", "run.json"):
        (path / name).unlink()
    run = load(path)
    assert len(run.column("return_post")) == 0 and run.record == {} and run.evaluation is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.yaml", None, "is not a run folder"),
        ("config.yaml", "learning_rate: 3\n", "is not a run folder.*has no env and algo"),
        ("config.yaml", "env: [", "is not a run folder"),
        ("metrics.jsonl", "no record\n{}\n", "metrics.jsonl, line 1: no record"),
        ("metrics.jsonl", bytes(range(200, 250)), "metrics.jsonl, line 1: no record"),
        ("run.json", "{", "run.json cannot be read"),
        ("evaluation.json", "{}", "evaluation.json cannot be read.*python -m metarl evaluate"),
    ],
)
def test_what_cannot_be_read_is_named(name, text, words, tmp_path):
    path = write_run(tmp_path / "a")
    (path / name).unlink()
    if text is not None:
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [write_run(tmp_path / folder / "run", seed=i) for i, folder in enumerate("ab")]
    assert [run.name for run in load_all(paths)] == [str(path) for path in paths]


def test_seeds_are_one_group_and_other_settings_another_with_its_label(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1)
    write_run(tmp_path / "c", seed=0, max_kl=0.05)
    write_run(tmp_path / "d", env="ant-dir", seed=0)
    groups = grouped(load_all([tmp_path / name for name in "abcd"]))
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"], ["d"]]
    labels = ["maml-trpo (max_kl 0.01)", "maml-trpo (max_kl 0.05)", "maml-trpo"]
    assert [group.label for group in groups] == labels


def test_a_key_that_an_older_version_lacked_does_not_part_seeds(tmp_path):
    write_run(tmp_path / "new", seed=0, later_lr=0.5)
    write_run(tmp_path / "old", seed=1)
    groups = grouped(load_all([tmp_path / "new", tmp_path / "old"]))
    assert len(groups) == 1 and differences(groups[0].runs) == ["seed", "learner.later_lr"]


def test_the_same_seed_twice_is_two_groups_with_the_names_of_the_runs(tmp_path):
    paths = [write_run(tmp_path / name, seed=0) for name in "ab"]
    labels = [group.label for group in grouped(load_all(paths))]
    assert labels == ["maml-trpo (a)", "maml-trpo (b)"]


def test_evaluations_of_other_lengths_are_not_put_together(tmp_path):
    write_run(tmp_path / "a", seed=0)
    longer = evaluation(seed=1)
    for values in (*longer["returns"].values(), longer["env_steps_per_rollout"]):
        values.append(values[-1])
    path = write_run(tmp_path / "b", seed=1)
    (path / "evaluation.json").write_text(json.dumps(longer))
    assert len(grouped(load_all([tmp_path / "a", path]))) == 2


def test_of_one_run_a_group_shows_the_numbers_of_its_file(tmp_path):
    run = load(write_run(tmp_path / "a"))
    result = grouped([run])[0].result
    for name in ("mean", "stderr", "ci95"):
        assert result["returns"][name] == run.evaluation["returns"][name]
    assert len(result["returns"]["iqm"]) == 3 and result["faulted_episodes"] == [0, 0, 0]
