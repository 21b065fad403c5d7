"""Plots over the space of tasks: their kinds, scales and reference returns."""

import json

import numpy as np
import pytest
from run_files import evaluation, write_run

from metarl.reporting.plots.task_space import draw_task_space
from metarl.runs.reader import group_runs, load


@pytest.mark.parametrize(
    ("variables", "projections"),
    [
        ((("angle", "rad"),), ["polar"]),
        ((("speed", "m/s"),), ["rectilinear"]),
        ((("goal_x", "m"), ("goal_y", "m")), ["rectilinear"] * 2),
        ((("a", "1"), ("b", "1"), ("c", "1")), ["rectilinear"]),
    ],
)
def test_task_variables_decide_the_kind_of_plot(variables, projections, tmp_path):
    path = write_run(tmp_path / "a")
    (path / "evaluation.json").write_text(json.dumps(evaluation(variables=variables)))
    figure = draw_task_space(group_runs([load(path)])[0])
    axes = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert [a.name for a in axes] == projections
    per_task = json.loads((path / "evaluation.json").read_text())["returns"]["per_task"]
    if len(variables) == 3:
        assert axes[0].get_xlabel() == "return of a task before adaptation"
        np.testing.assert_array_equal(axes[0].lines[-1].get_ydata(), per_task[-1])
    elif len(variables) == 2:
        np.testing.assert_array_equal(axes[1].collections[0].get_array(), per_task[-1])
    else:
        drawn = next(line for line in axes[0].lines if line.get_label() == "after 2")
        assert sorted(drawn.get_ydata()[:6]) == sorted(per_task[-1])


@pytest.mark.parametrize(
    ("units", "factor", "aspect"),
    [(("m", "m"), 2.0, 1.0), (("m", "m"), 100.0, "auto"), (("m/s", "kg"), 1.0, "auto")],
)
def test_only_the_map_of_a_plane_has_equal_scales(units, factor, aspect, tmp_path):
    path = write_run(tmp_path / "a")
    found = evaluation(variables=tuple(zip("xy", units, strict=True)))
    found["tasks"] = [[i / 5, factor * (i % 2)] for i in range(6)]
    (path / "evaluation.json").write_text(json.dumps(found))
    figure = draw_task_space(group_runs([load(path)])[0])
    assert figure.axes[0].get_aspect() == aspect


def test_opaque_tasks_are_drawn_before_against_after(tmp_path):
    path = write_run(tmp_path / "a")
    found = evaluation()
    found["tasks"] = [{"level": i} for i in range(6)]
    (path / "evaluation.json").write_text(json.dumps(found))
    figure = draw_task_space(group_runs([load(path)])[0])
    assert figure.axes[0].get_xlabel() == "return of a task before adaptation"


def test_every_reference_return_is_drawn_in_its_own_way(tmp_path):
    path = write_run(tmp_path / "a")
    for variables in ((("angle", "rad"),), (("speed", "m/s"),)):
        found = evaluation(variables=variables)
        found["floors"] = {f"policy {i}": -10.0 * i for i in range(5)}
        (path / "evaluation.json").write_text(json.dumps(found))
        figure = draw_task_space(group_runs([load(path)])[0])
        lines = [each for each in figure.axes[0].lines if each.get_label()[:6] == "policy"]
        looks = {
            (line.get_linestyle(), line._dash_pattern[1][0], line.get_alpha()) for line in lines
        }
        assert len(lines) == len(looks) == 5
