"""The summary over the cells of a certificate."""

import pytest

from metarl.certification.certify import summarise_cells
from metarl.evaluation.statistics import share_interval


def make_cell(name, training, per_task):
    mean = [sum(row) / len(row) for row in per_task]
    return {"name": name, "training": training, "survival": {"mean": mean, "per_task": per_task}}


def test_interval_of_the_summary_is_wilsons_over_tasks():
    cells = [
        make_cell("a", "inside", [[1.0, 0.5], [1.0, 1.0]]),
        make_cell("b", "outside", [[0.0, 0.5], [1.0, 1.0]]),
    ]
    summary = summarise_cells(cells)
    assert summary["survival"]["mean"] == [0.5, 1.0] and summary["worst"] == "a"
    ends = [share_interval(0.5, 2), share_interval(1.0, 2)]
    assert summary["survival"]["ci95"] == [list(pair) for pair in ends]
    # z^2 / 2 = 1.92: [1 / (1 + 1.92), 1]
    assert summary["survival"]["ci95"][1] == pytest.approx([0.3424, 1.0], abs=1e-4)
    assert summary["by_training"]["outside"] == {
        "cells": 1,
        "mean": [0.25, 1.0],
        "ci95": [list(share_interval(0.25, 2)), list(share_interval(1.0, 2))],
    }
