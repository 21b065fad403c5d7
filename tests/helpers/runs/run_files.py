"""Run folders and records written without training."""

from __future__ import annotations

import io
import json

import numpy as np
import yaml

from metarl.runs.logger import RunLog


def make_record(iteration, **more):
    """Returns the record of an iteration >= 1."""
    return {
        "iteration": iteration,
        "env_steps": 80_000 * iteration,
        "seconds": 2.0 * iteration,
        "steps_per_second": 40_000.0,
        "return_pre": -11.25,
        "return_post": iteration - 0.9,
        "kl": 0.00987,
        **more,
    }


def open_log(folder, **settings):
    """Returns the log of a run of 5 iterations that shows its progress to nobody."""
    return RunLog(folder, **{"total_iterations": 5, "stream": io.StringIO(), **settings})


def read_metrics(folder):
    """Returns the records of metrics.jsonl as they are in the file."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_run(path, env="navigation-2d", seed=0, records=30, evaluated=True, first=1, **settings):
    """Writes a run folder with `learner` settings; return_post of the i-th record is i + seed.

    `first` is the number of the first iteration: 0 as older versions wrote it.
    """
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
            "iteration": first + i,
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
    """Returns the contents of evaluation.json for random returns after 0, 1 and 2 adaptations."""
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
