import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from metarl.core.rng import stream

REPOSITORY = Path(__file__).resolve().parents[2]


def raw(*name):
    """Returns the first 256 raw words of a stream; two streams share one with probability 4e-15."""
    return stream(*name).bit_generator.random_raw(256).tolist()


def test_stream_is_a_function_of_its_name():
    assert raw(3, "train", 5, 0, 7, 2) == raw(3, "train", 5, 0, 7, 2)


def test_stream_does_not_depend_on_other_streams():
    first, other = stream(0, "train", 1), stream(0, "train", 2)
    alternating = []
    for _ in range(8):
        other.standard_normal(1000)
        alternating.append(first.standard_normal())
    assert alternating == stream(0, "train", 1).standard_normal(8).tolist()


def test_stream_does_not_depend_on_the_process():
    code = (
        "from metarl.core.rng import stream; print(stream(1, 'init').bit_generator.random_raw(4))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] == f"{stream(1, 'init').bit_generator.random_raw(4)}\n"


def test_streams_of_neighbouring_names_share_no_number():
    names = [
        (0, "train"),
        (1, "train"),
        (-1, "train"),
        (1, "train", 0),
        (1, "train", 2),  # seed 1, iteration 2 ...
        (12, "train"),  # ... is not seed 12
        (1, "train", 12),
        (1, "train", 1, 2),
        (1, "train", 2, 1),
        (1, "train", 1, 2, 0),
        (1, "train1"),
        (1, "train", 1),
        (1, "test", 1),
        (11, "train", 1),
        (1, "", 1),
        (1, "1"),
        (1, "", 1, 1),
    ]
    words = [set(raw(*name)) for name in names]
    for (name_a, a), (name_b, b) in combinations(zip(names, words, strict=True), 2):
        assert not a & b, (name_a, name_b)


@pytest.mark.parametrize("place", ["seed", "iteration", "episode"])
def test_first_draws_of_streams_are_uniform_and_independent(place):
    names = {
        "seed": [(i, "train", 0) for i in range(2000)],
        "iteration": [(0, "train", i) for i in range(2000)],
        "episode": [(0, "train", 0, 0, 0, i) for i in range(2000)],
    }[place]
    first = np.array([stream(*name).random() for name in names])
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    # standard error of a correlation of 2,000 pairs: 0.022
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 * 0.022


def test_stream_accepts_integers_of_numpy():
    assert raw(np.int64(3), "train", np.int32(5)) == raw(3, "train", 5)


def test_stream_leaves_the_global_generator_alone():
    np.random.seed(0)
    before = np.random.get_state()
    stream(0, "train", 1).standard_normal(100)
    after = np.random.get_state()
    assert before[2:] == after[2:]
    np.testing.assert_array_equal(before[1], after[1])
    np.random.seed(1)
    assert raw(3, "train") == raw(3, "train")
