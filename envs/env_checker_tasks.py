"""Checks of an environment's tasks: how they are drawn, and that they differ."""

from __future__ import annotations

import copy

import numpy as np

from metarl.core.env import BatchEnv, supports
from metarl.core.tasks import HasTestTasks
from metarl.envs.env_checker_play import NUM_TASKS, Violation, require
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.plugins.subproc_env import SubprocEnv


def check_tasks(env: BatchEnv) -> np.ndarray:
    """Draws tasks (NUM_TASKS, D), and requires bounded ones that depend on their stream only."""
    spec = env.spec
    tasks, again, others = (
        np.asarray(spec.tasks.sample(np.random.default_rng(seed), NUM_TASKS)) for seed in (0, 0, 1)
    )
    size = len(spec.tasks.variables)
    shape = (NUM_TASKS, size)
    require(tasks.shape == shape, f"tasks.sample gave the shape {tasks.shape}, not {shape}")
    require(np.isfinite(tasks).all(), f"tasks.sample gave {tasks.tolist()}, which is not finite")
    same = np.array_equal(tasks, again)
    if isinstance(env, SubprocEnv):
        same = same and env.draws_again(tasks[0])
    require(same, "tasks.sample must depend on its stream only: the same one gave other tasks")
    for i, variable in enumerate(spec.tasks.variables):
        ok = (tasks[:, i] >= variable.low) & (tasks[:, i] <= variable.high)
        bounds = f"[{variable.low:g}, {variable.high:g}] {variable.unit}"
        require(ok.all(), f"task number {variable.name!r} leaves {bounds}: {tasks[:, i].tolist()}")
    distinct = np.unique(np.concatenate([tasks, others]), axis=0)
    require(len(distinct) > 1, f"all tasks are the same: {tasks[0].tolist()}")
    return tasks


def check_test_tasks(env: BatchEnv) -> None:
    """Requires that test tasks can be drawn, if the environment defines them."""
    if not supports(env.spec.tasks, HasTestTasks):
        return
    tasks = np.asarray(env.spec.tasks.test.sample(np.random.default_rng(0), NUM_TASKS))
    shape = (NUM_TASKS, len(env.spec.tasks.variables))
    require(tasks.shape == shape, f"tasks.test.sample gave the shape {tasks.shape}, not {shape}")
    text = f"tasks.test.sample gave {tasks.tolist()}, which is not finite"
    require(np.isfinite(tasks).all(), text)


def check_variations(env: MujocoBatchEnv, num_episodes: int, max_steps: int) -> str:
    """Requires that the numbers of each variation, alone, change the motion; returns their names.

    Raises:
        Violation: Those of a variation change nothing; the message names it.
    """
    sampled = env.spec.tasks.sample(np.random.default_rng(2), 2 * NUM_TASKS)
    end, names = len(env.goal.tasks.variables), []
    for variation in env.variations:
        start, end = end, end + len(variation.tasks(env.robot).variables)
        tasks = np.tile(sampled[0], (len(sampled), 1))
        tasks[:, start:end] = sampled[:, start:end]
        try:
            problem = check_tasks_differ(env, num_episodes, max_steps, tasks)
        except Violation as error:
            problem = str(error)
        require(not problem, f"variation {variation.name}: {problem}")
        names.append(variation.name)
    return f"{', '.join(names)} changed the motion" if names else ""


def check_tasks_differ(
    env: BatchEnv, num_episodes: int, max_steps: int, tasks: np.ndarray | None = None
) -> str:
    """Checks that tasks differ under equal streams and actions.

    Args:
        env: The environment.
        num_episodes: Episodes of each task.
        max_steps: Steps of an episode.
        tasks: The tasks (2 NUM_TASKS, D); None draws them.

    Returns:
        A warning if no difference was seen, but there was no reward that could show one.
    """
    num_tasks, spec = 2 * NUM_TASKS, env.spec
    if tasks is None:
        tasks = spec.tasks.sample(np.random.default_rng(2), num_tasks)
    env.set_tasks(tasks, num_episodes)
    streams = [np.random.default_rng(episode) for episode in range(num_episodes)]
    obs = env.reset([s for _ in range(num_tasks) for s in copy.deepcopy(streams)])
    alive, rewards = np.ones(num_tasks * num_episodes, dtype=bool), set()
    rng = np.random.default_rng(3)
    # with noise of mean zero alone, a robot would stay near its start
    drift = rng.normal(size=(num_episodes, spec.action_size))
    for t in range(max_steps + 1):
        if not _equal_over_tasks(obs, num_tasks):
            return ""
        if t == max_steps or not alive.any():
            break
        action = drift + rng.normal(size=drift.shape)
        step = env.step(np.tile(action, (num_tasks, 1)), alive)
        rewards |= set(np.asarray(step.reward)[alive].tolist())
        alive = alive & ~step.terminated & ~step.fault
        if not (_equal_over_tasks(step.reward, num_tasks) and _equal_over_tasks(alive, num_tasks)):
            return ""
        obs = step.obs
    if isinstance(env, SubprocEnv) and env.forgets_its_task_at_reset(tasks):
        raise Violation("the task is lost at reset: reset must keep what set_task has set")
    text = f"{num_tasks} tasks gave the same observations and rewards for the same actions: "
    if len(rewards) > 1:
        raise Violation(f"{text}set_task changes nothing")
    return f"{text}the reward is always {next(iter(rewards), 0.0):g}, so it may be rare"


def _equal_over_tasks(array: np.ndarray, num_tasks: int) -> bool:
    by_task = array.reshape(num_tasks, -1)
    return bool((by_task == by_task[0]).all())
