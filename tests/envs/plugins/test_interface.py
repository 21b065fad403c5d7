"""Properties of a plug-in that follow from draws of its tasks."""

from contextlib import closing

import numpy as np
import odd_envs
import pytest

from metarl.envs.plugins.interface import NUM_SAMPLES, find_repeats
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.plugins.task_encoding import infer_common_form


def with_default(rng, share):
    return [0.5 if rng.uniform() < share else rng.uniform() for _ in range(NUM_SAMPLES)]


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda rng: [0.5] * NUM_SAMPLES, True),
        (lambda rng: rng.choice([-1.0, 1.0], NUM_SAMPLES).tolist(), True),
        (lambda rng: [f"maze {i}" for i in rng.integers(100, size=NUM_SAMPLES)], True),
        (lambda rng: rng.integers(500, size=NUM_SAMPLES).tolist(), True),
        (lambda rng: rng.uniform(size=NUM_SAMPLES).tolist(), False),
        (lambda rng: with_default(rng, 0.01), False),
        (lambda rng: with_default(rng, 0.2), False),
        (lambda rng: with_default(rng, 0.8), True),
        (lambda rng: [lambda: 0.0] * NUM_SAMPLES, None),
    ],
)
def test_finite_sets_of_tasks_are_found(draw, expected):
    rng = np.random.default_rng(0)
    first, second = draw(rng), draw(rng)
    assert find_repeats(infer_common_form(first), first, second) is expected


def test_note_says_that_tasks_cannot_be_compared():
    with closing(SubprocEnv("mine", odd_envs.Incomparable, 1)) as env:
        assert env.spec.note.startswith("not known whether test tasks are among the training tasks")
