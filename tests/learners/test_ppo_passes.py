"""Minibatches of passes of PPO."""

import numpy as np

from metarl.learners.ppo_passes import split


def test_split_makes_no_more_minibatches_than_rows():
    order = np.array([2, 0, 1])
    for minibatches in (3, 10**12):
        assert [part.tolist() for part in split(order, minibatches)] == [[2], [0], [1]]
    assert [part.tolist() for part in split(order, 2)] == [[2, 0], [1]]
    assert [part.tolist() for part in split(order, 2, lambda rows: 1 in rows)] == [[1]]
