"""Plots of returns against the experience in a task: markers and axes."""

import json

import numpy as np
from run_files import evaluation, write_run

from metarl.reporting.plots.adaptation import draw_adaptation
from metarl.runs.reader import group_runs, load, load_all


def test_groups_of_one_environment_are_told_apart_without_colour(tmp_path):
    runs = [write_run(tmp_path / f"r{i}", records=3, max_kl=0.01 * (i + 1)) for i in range(8)]
    groups = group_runs(load_all(runs))
    drawn = [line for line in draw_adaptation(groups, {}).axes[0].lines[:8]]
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 8
    assert len({line.get_marker() for line in drawn[:6]}) == 6


def test_wide_experience_has_a_logarithmic_axis(tmp_path):
    wide = evaluation()
    wide["experience"] = {"episodes": [0, 1, 1000], "env_steps": [0.0, 100.0, 1e5]}
    for name, found in (("wide", wide), ("narrow", evaluation())):
        path = write_run(tmp_path / name)
        (path / "evaluation.json").write_text(json.dumps(found))
        figure = draw_adaptation(group_runs([load(path)]), {})
        scale = "symlog" if name == "wide" else "linear"
        assert [axes.get_xscale() for axes in figure.axes] == [scale] * 2
        np.testing.assert_allclose(
            figure.axes[0].lines[0].get_xdata(),
            [0.0, *[(100.0, 1e5), (400.0, 700.0)][name != "wide"]],
        )
