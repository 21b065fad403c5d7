"""Run folders read from their files, and sorted into groups of seeds."""

import json

import numpy as np
import pytest
import yaml
from run_files import evaluation, write_run

from metarl.core.errors import CheckpointError
from metarl.runs import published
from metarl.runs.reader import differences, group_runs, load, load_all


def test_run_has_the_contents_of_its_files(tmp_path):
    run = load(write_run(tmp_path / "a", seed=3))
    assert (run.name, run.env, run.algo, run.seed) == ("a", "navigation-2d", "maml-trpo", 3)
    assert run.config["learner.max_kl"] == 0.01
    np.testing.assert_array_equal(run.column("return_post"), np.arange(30.0) + 3.0)
    assert np.isnan(run.column("no such number")).all() and len(run.column("no such number")) == 30
    assert run.record["device"] == "cpu" and run.evaluation["num_tasks"] == 6


def test_half_written_record_is_left_out_and_null_is_nan(tmp_path):
    path = write_run(tmp_path / "a", records=2)
    with open(path / "metrics.jsonl", "a") as file:
        file.write(
            '{"iteration": 3, "return_post": null, "env_steps": 3000}\n{"iteration": 4, "env'
        )
    run = load(path)
    assert run.column("iteration").tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(run.column("return_post")[2]) and run.column("env_steps")[2] == 3000.0


def test_iterations_of_an_old_run_count_from_1(tmp_path):
    old = write_run(tmp_path / "old", records=3, first=0)
    before = (old / "metrics.jsonl").read_bytes()
    new = load(write_run(tmp_path / "new", records=3))
    assert load(old).column("iteration").tolist() == [1.0, 2.0, 3.0]
    for name, column in new.metrics.items():
        np.testing.assert_array_equal(load(old).column(name), column)
    assert (old / "metrics.jsonl").read_bytes() == before


def test_run_that_has_just_begun_has_no_records(tmp_path):
    path = write_run(tmp_path / "a", evaluated=False)
    for name in ("metrics.jsonl", "run.json"):
        (path / name).unlink()
    run = load(path)
    assert len(run.column("return_post")) == 0 and run.record == {} and run.evaluation is None


def test_published_policy_has_what_was_made_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path / "small")
    published.write(path, source="a", iteration=1, env_steps=1, omitted=[])
    folder = published.output_folder(path)
    for name in ("videos/a.mp4", "evaluations/tasks-3.json", "evaluation.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "explain.json").write_text('{"kind": "memory"}')
    run = load(path)
    assert run.videos == (folder / "videos" / "a.mp4",)
    made = (folder / "evaluations" / "tasks-3.json", folder / "evaluation.json")
    assert run.other_evaluations == made and run.explanation == {"kind": "memory"}
    assert run.evaluation["num_tasks"] == 6  # of the published folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
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
def test_unreadable_file_is_named(name, text, message, tmp_path):
    path = write_run(tmp_path / "a")
    (path / name).unlink()
    if text is not None:
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_runs_with_one_name_are_called_by_their_paths(tmp_path):
    paths = [write_run(tmp_path / folder / "run", seed=i) for i, folder in enumerate("ab")]
    assert [run.name for run in load_all(paths)] == [str(path) for path in paths]


def test_seeds_are_a_group_and_other_settings_another(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1)
    write_run(tmp_path / "c", seed=0, max_kl=0.05)
    write_run(tmp_path / "d", env="ant-dir", seed=0)
    groups = group_runs(load_all([tmp_path / name for name in "abcd"]))
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"], ["d"]]
    labels = ["maml-trpo (max_kl 0.01)", "maml-trpo (max_kl 0.05)", "maml-trpo"]
    assert [group.label for group in groups] == labels


def change_config(path, **changes):
    tree = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(tree | changes))


def test_place_of_the_training_does_not_split_seeds(tmp_path):
    places = [
        {},
        {"device": "cuda", "iterations": 7, "trainer": {"logger": "none"}},
        {"sampler": {"backend": "ray", "address": "head:6379", "workers": 4, "threads": 2}},
    ]
    paths = [write_run(tmp_path / str(seed), seed=seed) for seed in range(len(places))]
    for path, place in zip(paths, places, strict=True):
        sampler = {"backend": "local", "address": "local", "workers": 0, "threads": 0}
        change_config(path, **{"sampler": sampler, "device": "auto", **place})
    assert len(group_runs(load_all(paths))) == 1
    change_config(paths[0], sampler={"slices": 4})
    change_config(paths[1], sampler={"slices": 2})
    assert len(group_runs(load_all(paths))) == 2


def test_group_is_named_by_mode_and_observations(tmp_path):
    changes = {
        "maml-trpo": {},
        "maml-trpo-observe-task": {"observe_task": True},
        "rl2-observe-task-observe-terrain": {
            "algo": "rl2",
            "observe_task": True,
            "observe_terrain": True,
        },
        "sb3-ppo-multi-task": {"algo": "sb3-ppo", "learner": {"mode": "multi-task"}},
        "sb3-ppo-oracle": {"algo": "sb3-ppo", "learner": {"mode": "oracle"}},
        "teacher-student": {"algo": "teacher-student", "learner": {"mode": "student"}},
        "teacher-student-oracle": {"algo": "teacher-student", "learner": {"mode": "oracle"}},
        "my_learner:My": {"algo": "my_learner:My", "learner": {"mode": "oracle"}},
    }
    for number, (name, change) in enumerate(changes.items()):
        change_config(write_run(tmp_path / name, seed=number), **change)
    groups = group_runs(load_all([tmp_path / name for name in changes]))
    assert [group.label for group in groups] == list(changes)


def test_key_that_an_old_run_lacks_does_not_split_seeds(tmp_path):
    write_run(tmp_path / "new", seed=0, later_lr=0.5)
    write_run(tmp_path / "old", seed=1)
    groups = group_runs(load_all([tmp_path / "new", tmp_path / "old"]))
    assert len(groups) == 1 and differences(groups[0].runs) == ["seed", "learner.later_lr"]


def test_same_seed_twice_is_two_groups_named_by_run(tmp_path):
    paths = [write_run(tmp_path / name, seed=0) for name in "ab"]
    labels = [group.label for group in group_runs(load_all(paths))]
    assert labels == ["maml-trpo (a)", "maml-trpo (b)"]


def test_evaluations_of_other_lengths_are_not_combined(tmp_path):
    write_run(tmp_path / "a", seed=0)
    longer = evaluation(seed=1)
    others = longer["env_steps_per_rollout"], longer["share_of_tasks_made_worse"]
    for values in (*longer["returns"].values(), *others):
        values.append(values[-1])
    path = write_run(tmp_path / "b", seed=1)
    (path / "evaluation.json").write_text(json.dumps(longer))
    assert len(group_runs(load_all([tmp_path / "a", path]))) == 2


def test_group_of_one_run_has_the_numbers_of_its_file(tmp_path):
    run = load(write_run(tmp_path / "a"))
    result = group_runs([run])[0].result
    for name in ("mean", "stderr", "ci95"):
        assert result["returns"][name] == run.evaluation["returns"][name]
    assert len(result["returns"]["iqm"]) == 3 and result["faulted_episodes"] == [0, 0, 0]
