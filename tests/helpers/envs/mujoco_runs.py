"""Runs of MujocoBatchEnvs with recorded outcomes."""

import mujoco
import numpy as np

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe


def build(robot, *variations, goal=None, terms=None, threads=1):
    """Builds an environment of a robot with variations; runs forward if there is no goal."""
    goal, terms = goal or Forward(), terms or RewardTerms()
    return MujocoBatchEnv("test", Recipe(robot, goal, terms, variations), threads)


def momentum(env, row):
    """Returns mass [kg] and velocity of the centre of mass (3,) [m/s] of a row, from MuJoCo."""
    model, data = env._batch.get_model(row), env._batch.get_data(row)
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    return model.body_subtreemass[0], data.subtree_linvel[0].copy()


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


def assert_same_alone(env, tasks, actions, first, record, order):
    """Asserts that tasks (N, D), one at a time in some order, give the run of a batch of them.

    The batch has two episodes a task, the first observations and the record of its run.
    """
    for task in order:
        rows = slice(2 * task, 2 * task + 2)
        env.set_tasks(tasks[task : task + 1], 2)
        np.testing.assert_array_equal(env.reset(streams(len(first))[rows]), first[rows])
        single = run(env, actions[:, rows])
        for key, values in single.items():
            np.testing.assert_array_equal(values, record[key][:, rows], err_msg=key)
