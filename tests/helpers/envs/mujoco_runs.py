"""Runs of MujocoBatchEnvs with recorded outcomes."""

import numpy as np


def streams(count):
    """Returns a stream for each of `count` rows."""
    return [np.random.default_rng(row) for row in range(count)]


def run(env, commands, alive=None):
    """Steps through commands (T, M, A) [policy output]; returns arrays by name, time axis first."""
    alive = np.ones(commands.shape[1], dtype=bool) if alive is None else np.array(alive)
    record = {name: [] for name in ("obs", "reward", "terminated", "fault", "qpos", "qvel")}
    for command in commands:
        step = env.step(command, alive)
        for name, array in vars(step).items():
            record[name].append(array.copy())
        record["qpos"].append(env.snapshot())
        record["qvel"].append(env._qvel.copy())
    return {name: np.array(values) for name, values in record.items()}


def assert_same(one, other, rows=slice(None)):
    """Asserts that two runs are equal bit for bit in the given rows."""
    for name in one:
        np.testing.assert_array_equal(one[name][:, rows], other[name][:, rows], err_msg=name)
