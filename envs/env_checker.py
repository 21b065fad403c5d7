"""Checks whether an environment keeps the contract of `BatchEnv`, and names each violation.

It plays random episodes through the contract alone, and so works on built-in environments, on a
user's BatchEnv and on Gymnasium environments in worker processes. A check is skipped if another one
that it depends on has failed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from metarl.core.env import BatchEnv, BoundedEnv, EnvSpec, supports
from metarl.envs.listing import describe_actions
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.mirror import describe_mirror
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.robots.inspection import inspect_robot

NUM_TASKS, NUM_EPISODES = 4, 2
COMPARED_STEPS = 100
"""Number of steps in which replays are compared; only the first episodes are played to the end."""


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: Name of the check.
        violation: Description of the violation in one line, or "".
        checked: False if the check was skipped, because one that it depends on has failed.
        note: Remark in one line, or "".
    """

    name: str
    violation: str = ""
    checked: bool = True
    note: str = ""


def report(findings: list[Finding]) -> str:
    """Formats findings as text, one per line."""
    lines = []
    for finding in findings:
        outcome = "ok" if finding.checked else "not checked"
        if finding.note:
            outcome += f" ({finding.note})"
        if finding.violation:
            outcome = f"VIOLATION: {finding.violation}"
        lines.append(f"{finding.name:24} {outcome}")
    return "\n".join(lines)


class _Violation(Exception):
    """The contract is violated; the message says how."""


@dataclass(frozen=True)
class _Play:
    """Recorded episodes; values after the end of an episode are zero.

    Attributes:
        obs: (T + 1, M, S).
        reward: (T, M).
        terminated: (T, M).
        length: (M,) numbers of valid steps.
        faults: (M,) the episode ended by a fault.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    length: np.ndarray
    faults: np.ndarray


class _Checks:
    """Runs checks and collects their findings.

    Attributes:
        findings: The outcomes so far.
        note: Note of the check that runs.
    """

    def __init__(self):
        self.findings: list[Finding] = []
        self.note = ""

    @contextmanager
    def check(self, name: str, *needs: str) -> Generator[bool]:
        """Records the outcome of a `with` body, which is given False if a check in needs failed."""
        failed = {f.name for f in self.findings if f.violation or not f.checked}
        if failed & set(needs):
            self.findings.append(Finding(name, checked=False))
            yield False
            return
        try:
            yield True
        except Exception as error:
            message = " ".join(str(error).split())
            if not isinstance(error, (_Violation, ValueError)):
                message = f"{type(error).__name__}: {message}"
            self.findings.append(Finding(name, message))
        else:
            self.findings.append(Finding(name, note=self.note))
        self.note = ""


def check(make: Callable[[int], BatchEnv]) -> list[Finding]:
    """Checks an environment.

    Args:
        make: Builds it with a number of threads or worker processes.

    Returns:
        One finding per check.
    """
    env = make(2)
    others: list[BatchEnv] = []

    def another(threads: int) -> BatchEnv:
        others.append(make(threads))
        return others[-1]

    try:
        return _check(env, another)
    finally:
        for each in (env, *others):
            each.close()


def _check(env: BatchEnv, another: Callable[[int], BatchEnv]) -> list[Finding]:
    checks = _Checks()
    tasks = np.zeros((0, 0))
    first: Any = None
    with checks.check("sizes"):
        _check_sizes(env.spec)
        checks.note = describe_actions(env.spec)
    with checks.check("tasks", "sizes") as made:
        if made:
            tasks = _check_tasks(env)
    with checks.check("episode", "tasks") as made:
        if made:
            first = _play(env, tasks)
            _check_bounds(env, first)
    with checks.check("horizon", "episode") as made:
        if made:
            _check_horizon(first)
    with checks.check("replay", "episode") as made:
        if made:
            problem = "the same task, stream and actions gave other results in a new environment"
            _compare(first, _play(another(2), tasks, COMPARED_STEPS), problem)
    with checks.check("threads", "replay") as made:
        if made:
            problem = "results with one thread or worker differ from those with two"
            _compare(first, _play(another(1), tasks, COMPARED_STEPS), problem)
    with checks.check("nothing left behind", "replay") as made:
        if made:
            _play(env, tasks[::-1].copy(), COMPARED_STEPS, first_stream=100)
            problem = "results after other episodes differ from the first results"
            _compare(first, _play(env, tasks, COMPARED_STEPS), problem)
    with checks.check("set_task survives reset", "nothing left behind") as made:
        if made:
            problem = "the task lasts one episode only: results after a second reset differ"
            _compare(first, _play(env, tasks, COMPARED_STEPS, set_tasks=False), problem)
    with checks.check("rows are independent", "threads", "nothing left behind") as made:
        if made:
            _check_alone(env, tasks, first)
    with checks.check("tasks differ", "episode") as made:
        if made:
            _check_tasks_differ(env)
    with checks.check("pickling"):
        _check_pickling(env)
    if isinstance(env, MujocoBatchEnv):
        with checks.check("robot"):
            checks.note = "; ".join(inspect_robot(env.robot))
        with checks.check("mirror"):
            checks.note = describe_mirror(env.robot)
    return checks.findings


# --- checks ---------------------------------------------------------------------------------------


def _require(ok: Any, message: str) -> None:
    if not ok:
        raise _Violation(message)


def _check_sizes(spec: EnvSpec) -> None:
    sizes = {"obs_size": spec.obs_size, "action_size": spec.action_size, "horizon": spec.horizon}
    for name, value in sizes.items():
        is_size = isinstance(value, (int, np.integer)) and value >= 1
        _require(is_size, f"spec.{name} is {value!r}; it must be a whole number >= 1")
    for name, value in {"dt": spec.dt, "action_scale": spec.action_scale}.items():
        is_positive = np.isfinite(value).all() and np.all(np.array(value) > 0)
        _require(is_positive, f"spec.{name} is {value!r}; it must be > 0")
    _require(len(spec.tasks.variables), "spec.tasks.variables is empty: a task has no numbers")


def _check_tasks(env: BatchEnv) -> np.ndarray:
    spec = env.spec
    tasks, again, others = (
        np.asarray(spec.tasks.sample(np.random.default_rng(seed), NUM_TASKS)) for seed in (0, 0, 1)
    )
    size = len(spec.tasks.variables)
    shape = (NUM_TASKS, size)
    _require(tasks.shape == shape, f"tasks.sample gave the shape {tasks.shape}, not {shape}")
    _require(np.isfinite(tasks).all(), f"tasks.sample gave {tasks.tolist()}, which is not finite")
    same = np.array_equal(tasks, again)
    if isinstance(env, SubprocEnv):
        same = same and env.draws_again(tasks[0])
    _require(same, "tasks.sample must depend on its stream only: the same one gave other tasks")
    for i, variable in enumerate(spec.tasks.variables):
        ok = (tasks[:, i] >= variable.low) & (tasks[:, i] <= variable.high)
        bounds = f"[{variable.low:g}, {variable.high:g}] {variable.unit}"
        _require(ok.all(), f"task number {variable.name!r} leaves {bounds}: {tasks[:, i].tolist()}")
    distinct = np.unique(np.concatenate([tasks, others]), axis=0)
    _require(len(distinct) > 1, f"all tasks are the same: {tasks[0].tolist()}")
    return tasks


def _check_bounds(env: BatchEnv, play: _Play) -> None:
    """Checks that observations are within the bounds that the environment declares."""
    if not supports(env, BoundedEnv):
        return
    rows = play.obs[0]
    low, high = env.obs_bounds
    for obs in (rows, *(play.obs[t + 1][play.length > t] for t in range(len(play.reward)))):
        outside = (obs < low - 1e-6 * np.abs(low)) | (obs > high + 1e-6 * np.abs(high))
        if outside.any():
            row, i = np.argwhere(outside)[0]
            space = f"[{low[i]:g}, {high[i]:g}]"
            raise _Violation(f"obs[{i}] is {obs[row, i]:g}, outside of observation_space {space}")


def _check_horizon(play: _Play) -> None:
    horizon, length = len(play.reward), play.length
    all_alike = (length == length[0]).all() and not play.faults.any()
    _require(
        length[0] == horizon or not all_alike,
        f"every episode ended after {length[0]} of {horizon} steps; if this is the environment's "
        f"own time limit, the horizon must be {length[0]}",
    )


def _check_alone(env: BatchEnv, tasks: np.ndarray, first: _Play) -> None:
    task = NUM_TASKS - 1
    rows = slice(task * NUM_EPISODES, (task + 1) * NUM_EPISODES)
    alone = _play(env, tasks[task : task + 1], COMPARED_STEPS, first_stream=rows.start)
    batch = _Play(
        first.obs[:, rows],
        first.reward[:, rows],
        first.terminated[:, rows],
        first.length[rows],
        first.faults[rows],
    )
    _compare(batch, alone, f"results of task {task} alone differ from those among others")


def _check_tasks_differ(env: BatchEnv) -> None:
    """Checks that tasks differ under equal streams and actions."""
    num_tasks, num_episodes, spec = 2 * NUM_TASKS, 2 * NUM_EPISODES, env.spec
    tasks = spec.tasks.sample(np.random.default_rng(2), num_tasks)
    env.set_tasks(tasks, num_episodes)
    streams = [np.random.default_rng(episode) for episode in range(num_episodes)]
    obs = env.reset([s for _ in range(num_tasks) for s in copy.deepcopy(streams)])
    alive = np.ones(num_tasks * num_episodes, dtype=bool)
    rng = np.random.default_rng(3)
    # with noise of mean zero alone, a robot would stay near its start
    drift = rng.normal(size=(num_episodes, spec.action_size))
    for t in range(spec.horizon + 1):
        if not _equal_over_tasks(obs, num_tasks):
            return
        if t == spec.horizon or not alive.any():
            break
        action = drift + rng.normal(size=drift.shape)
        step = env.step(np.tile(action, (num_tasks, 1)), alive)
        alive = alive & ~step.terminated & ~step.fault
        if not (_equal_over_tasks(step.reward, num_tasks) and _equal_over_tasks(alive, num_tasks)):
            return
        obs = step.obs
    if isinstance(env, SubprocEnv) and env.forgets_its_task_at_reset(tasks):
        raise _Violation("the task is lost at reset: reset must keep what set_task has set")
    raise _Violation(
        f"{num_tasks} tasks gave the same observations and rewards for the same actions: set_task "
        "changes nothing, or the reward is so rare that random actions never earn it"
    )


def _equal_over_tasks(array: np.ndarray, num_tasks: int) -> bool:
    by_task = array.reshape(num_tasks, -1)
    return bool((by_task == by_task[0]).all())


def _check_pickling(env: BatchEnv) -> None:
    value = env.make if isinstance(env, SubprocEnv) else env.spec
    try:
        # as multiprocessing does; nothing is read back
        ForkingPickler.dumps(value)
    except Exception as error:
        kind = type(value).__name__
        raise _Violation(f"its {kind} cannot be sent to another process: {error}") from error


# --- playing and comparing ------------------------------------------------------------------------


def _play(
    env: BatchEnv,
    tasks: np.ndarray,
    max_steps: int | None = None,
    *,
    set_tasks: bool = True,
    first_stream: int = 0,
) -> _Play:
    """Plays an episode in every row with random actions; row m has the stream first_stream + m.

    Raises:
        _Violation: A shape, type or number violates the contract; the message names row and step.
    """
    spec, num_rows = env.spec, len(tasks) * NUM_EPISODES
    steps = min(spec.horizon, max_steps or spec.horizon)
    if set_tasks:
        env.set_tasks(tasks, NUM_EPISODES)
    keys = range(first_stream, first_stream + num_rows)
    obs = np.zeros((steps + 1, num_rows, spec.obs_size))
    reward, terminated = np.zeros((steps, num_rows)), np.zeros((steps, num_rows), dtype=bool)
    alive, faults = np.ones(num_rows, dtype=bool), np.zeros(num_rows, dtype=bool)
    length = np.zeros(num_rows, dtype=int)
    obs[0] = _array(
        "reset's obs", env.reset([np.random.default_rng(k) for k in keys]), obs[0], alive
    )
    noise = np.stack(
        [np.random.default_rng([k, 1]).normal(size=(steps, spec.action_size)) for k in keys], axis=1
    ).astype(np.float32)
    for t in range(steps):
        step = env.step(noise[t], alive)
        where = f"step {t}: "
        fault = _array(where + "fault", step.fault, faults, alive) & alive
        valid = alive & ~fault
        obs[t + 1, valid] = _array(where + "obs", step.obs, obs[0], valid)[valid]
        reward[t, valid] = _array(where + "reward", step.reward, reward[0], valid)[valid]
        ends = _array(where + "terminated", step.terminated, terminated[0], valid)
        terminated[t] = valid & ends
        length += valid
        faults |= fault
        alive = valid & ~terminated[t]
        if not alive.any():
            break
    return _Play(obs, reward, terminated, length, faults)


def _array(name: str, given: Any, like: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Checks shape and type of an array of the environment, and that its rows are finite."""
    array = np.asarray(given)
    _require(array.shape == like.shape, f"{name} has the shape {array.shape}, not {like.shape}")
    kinds = "b" if like.dtype.kind == "b" else "fiu"
    content = "booleans" if kinds == "b" else "numbers"
    _require(array.dtype.kind in kinds, f"{name} is of type {array.dtype}; it must hold {content}")
    not_finite = rows & ~np.isfinite(array).reshape(len(rows), -1).all(axis=1)
    if not_finite.any():
        task, episode = divmod(int(np.argmax(not_finite)), NUM_EPISODES)
        raise _Violation(
            f"{name} of task {task}, episode {episode} is not finite, but fault is False"
        )
    return array


def _compare(first: _Play, again: _Play, problem: str) -> None:
    """Compares the steps that both have, bit for bit.

    Raises:
        _Violation: They differ; the message names the first difference.
    """
    steps = min(len(first.reward), len(again.reward))
    for t in range(steps + 1):
        pairs = {"obs": (first.obs[t], again.obs[t])}
        if t:
            pairs["reward"] = (first.reward[t - 1], again.reward[t - 1])
            pairs["terminated"] = (first.terminated[t - 1], again.terminated[t - 1])
        for name, (one, other) in pairs.items():
            differs = (one != other).reshape(len(one), -1)
            if differs.any():
                row, i = np.argwhere(differs)[0]
                task, episode = divmod(int(row), NUM_EPISODES)
                call = f"step {t - 1}" if t else "reset"
                values = [np.ravel(array[row])[i] for array in (one, other)]
                raise _Violation(
                    f"{problem} (task {task}, episode {episode}, {call}: "
                    f"{name} {values[0]}, then {values[1]})"
                )
