"""Robots on terrain."""

import numpy as np

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.locomotion.terrain import KINDS, Terrain

kind_number = {kind: float(number) for number, kind in enumerate(KINDS)}


def build(robot, *variations, threads=1, **settings):
    variations = variations or (Terrain(**settings),)
    return MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms(), variations), threads)


def place(env, tasks, x, y, above):
    """Places a robot per task at x, y (M,), `above` [m] the ground; returns the ground's height."""
    env.set_tasks(np.array(tasks, dtype=float), 1)
    qpos = np.tile(env.model.qpos0, (len(tasks), 1))
    qpos[:, 0] = x
    if not env.robot.planar:
        qpos[:, 1] = y
    ground = env._world.ground.height(np.asarray(x, float), np.asarray(y, float))
    qpos[:, env.robot.height_index] = ground + above
    env.restore(qpos, np.zeros((len(tasks), env.model.nv)))
    return ground
