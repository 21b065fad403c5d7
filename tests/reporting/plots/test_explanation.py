"""Axes of the plots of an explanation."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from metarl.reporting.plots import explanation


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 40])
def test_tasks_have_whole_numbers(num_tasks):
    figure = Figure()
    axes = figure.subplots()
    tree = {"tasks": [[float(i)] for i in range(num_tasks)], "similarity": np.eye(num_tasks)}
    explanation._draw_similarity(figure, axes, tree)
    for axis in (axes.xaxis, axes.yaxis):
        ticks = np.array(axis.get_ticklocs())
        np.testing.assert_array_equal(ticks, ticks.round())
