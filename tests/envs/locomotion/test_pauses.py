"""A row that pauses goes on as if it had not, with every variation and with commands."""

from contextlib import closing

import numpy as np
import pytest

from metarl.envs.registry import make

STEPS, PAUSE = 12, 5  # control steps, and the one before which row 1 pauses
ONSET = {"onset": float(PAUSE)}
WEAK = {**ONSET, "limb": 0.0, "strength": 0.5}
SETTINGS = {
    "ant-weak": WEAK,
    "ant-damage": {**WEAK, "failure": 2.0},
    "quadruped-cripple": ONSET,
    "quadruped-locked": ONSET,
    "quadruped-delay": {"delay": 2.0},
    "quadruped-push": {"interval": PAUSE + 1.0},
    "quadruped-command": {},
    "quadruped-command-weak": WEAK,
}


def play(env, task, length):
    """Returns observations and rewards of row 1, which pauses for some steps."""
    env.set_tasks(np.tile(task, (2, 1)), 1)
    env.reset([np.random.default_rng(3), np.random.default_rng(3)])
    found = []
    for step in range(STEPS):
        for _ in range(length if step == PAUSE else 0):
            env.step(np.zeros((2, env.spec.action_size)), np.array([True, False]))
        action = np.random.default_rng(step).uniform(-1.0, 1.0, env.spec.action_size)
        result = env.step(np.tile(action, (2, 1)), np.array([False, True]))
        found.append([*result.obs[1], result.reward[1]])
    return np.array(found)


@pytest.mark.parametrize("name", SETTINGS)
def test_paused_row_goes_on_as_before(name):
    with closing(make(name, threads=1)) as env:
        task = env.spec.tasks.sample(np.random.default_rng(1), 1)
        names = [v.name for v in env.spec.tasks.variables]
        for number, value in SETTINGS[name].items():
            task[:, names.index(number)] = value
        # longer than a command is held
        np.testing.assert_array_equal(play(env, task, 120), play(env, task, 0))
