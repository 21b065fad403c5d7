"""Learners are compared by the intervals of their groups of seeds."""

import json

import numpy as np
import pytest
from run_files import evaluation, write_run

from metarl.reporting.comparison import compare
from metarl.reporting.report import write_report
from metarl.runs.reader import group_runs, load_all


def write_seeds(folder, means, shift=0.0, **settings):
    """Writes a run for each final mean return; without noise it has `shift` more."""
    paths = []
    for seed, mean in enumerate(means):
        path = write_run(folder / f"s{seed}", seed=seed, **settings)
        result = evaluation(settings.get("env", "navigation-2d"), seed)
        noise = np.random.default_rng(seed).normal(size=6)
        # before adaptation all groups are alike
        per_task = np.stack([noise, noise + mean, noise + mean])
        result["returns"] |= {"per_task": per_task.tolist(), "mean": per_task.mean(1).tolist()}
        result["returns"]["ci95"] = [[m - 1.0, m + 1.0] for m in per_task.mean(1)]
        quiet = per_task + shift
        result["without_noise"] = {
            "returns": {"per_task": quiet.tolist(), "mean": quiet.mean(1).tolist()}
            | {"ci95": [[m - 1.0, m + 1.0] for m in quiet.mean(1)]}
        }
        (path / "evaluation.json").write_text(json.dumps(result))
        paths.append(path)
    return paths


def pairs(*paths):
    return compare(group_runs(load_all(paths)))


def test_better_learner_has_its_interval_above_the_other(tmp_path):
    good = write_seeds(tmp_path / "good", [50.0, 52.0, 51.0], max_kl=0.05)
    poor = write_seeds(tmp_path / "poor", [10.0, 11.0, 12.0])
    (found,) = pairs(*poor, *good)
    assert found.env == "navigation-2d" and found.num_seeds == (3, 3)
    assert found.labels == ("maml-trpo (max_kl 0.01)", "maml-trpo (max_kl 0.05)")
    assert found.better == {
        "first episode": "",
        "final": "maml-trpo (max_kl 0.05)",
        "final, without noise": "maml-trpo (max_kl 0.05)",
    }


def test_spread_of_seeds_hides_a_difference_of_their_means(tmp_path):
    # over tasks alone, both intervals are about 1 wide; the seeds are 30 apart
    wide = write_seeds(tmp_path / "wide", [20.0, 50.0, 80.0], max_kl=0.05)
    poor = write_seeds(tmp_path / "poor", [10.0, 11.0, 12.0], shift=1000.0)
    (found,) = pairs(*wide, *poor)
    assert found.better["final"] == ""
    assert found.better["final, without noise"] == "maml-trpo (max_kl 0.01)"


def test_only_learners_of_one_environment_are_compared(tmp_path):
    here = write_seeds(tmp_path / "here", [1.0])
    there = write_seeds(tmp_path / "there", [1.0], env="ant-dir")
    untested = write_run(tmp_path / "untested", max_kl=0.05, evaluated=False)
    assert pairs(*here, *there, untested) == []


@pytest.mark.parametrize(("version", "text"), [(2, "1 and 2"), (None, "1 and unknown")])
def test_two_versions_of_an_environment_get_no_verdict(version, text, tmp_path):
    poor = write_seeds(tmp_path / "poor", [10.0, 11.0])
    good = write_seeds(tmp_path / "good", [50.0, 51.0], max_kl=0.05)
    for path in good:
        result = json.loads((path / "evaluation.json").read_text())
        (path / "evaluation.json").write_text(json.dumps(result | {"env_version": version}))
    (found,) = pairs(*poor, *good)
    assert found.versions == (1, version) and set(found.better.values()) == {None}
    write_report([*poor, *good], tmp_path / "x.html")
    assert f"navigation-2d (versions {text})" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(("count", "mark"), [(1, " (1 seed)"), (2, "")])
def test_report_marks_a_comparison_with_one_seed(count, mark, tmp_path):
    good = write_seeds(tmp_path / "good", [50.0, 50.5][:count], max_kl=0.05)
    poor = write_seeds(tmp_path / "poor", [10.0, 10.5])
    write_report([*good, *poor], tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<h2>Comparison</h2>" in text and f"<td>maml-trpo (max_kl 0.05){mark}</td>" in text
