"""Checks whether an environment keeps the contract of `BatchEnv`, and names each violation.

It plays random episodes through the contract alone, and so works on built-in environments, on a
user's BatchEnv and on Gymnasium environments in worker processes. A check is skipped if another one
that it depends on has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from metarl.core.env import BatchEnv, BoundedEnv, EnvSpec, supports
from metarl.core.errors import ResourceError
from metarl.core.messages import printable
from metarl.envs.env_checker_play import (
    NUM_EPISODES,
    NUM_TASKS,
    Play,
    Violation,
    compare,
    play,
    require,
)
from metarl.envs.env_checker_tasks import (
    check_tasks,
    check_tasks_differ,
    check_test_tasks,
    check_variations,
)
from metarl.envs.listing import describe_actions
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.mirror import describe_mirror
from metarl.envs.navigation import NavigationEnv
from metarl.envs.plugins.processes.usage import Usage, find_growth
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.plugins.values import UNBOUNDED
from metarl.envs.robots.compiling import collect_warnings
from metarl.envs.robots.guessing.inspection import WARNING, inspect_robot
from metarl.envs.robots.health import find_fall
from metarl.envs.robots.robot import Robot, bare_model
from metarl.envs.wrappers.wrapper import Wrapper

COMPARED_STEPS = 100
"""Number of steps in which replays are compared; only the first episodes are played to the end."""

QUICK_STEPS, QUICK_SECONDS = 20, 0.3
"""Steps, and time [s], of an episode of the quick check before a training."""

PATIENCE = 1.0
"""Time of a set of episodes [s] beyond which the quick check plays no further ones."""


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: Name of the check.
        violation: Description of the violation in one line, or "".
        checked: False if the check was skipped, because one that it depends on has failed.
        note: Remark in one line, or "".
        warning: What may be a mistake, in one line, or "".
    """

    name: str
    violation: str = ""
    checked: bool = True
    note: str = ""
    warning: str = ""


def report(findings: list[Finding]) -> str:
    """Formats findings as text, one per line."""
    lines = []
    for finding in findings:
        outcome = "ok" if finding.checked else "not checked"
        if finding.note:
            outcome += f" ({finding.note})"
        if finding.warning:
            outcome += f", WARNING: {finding.warning}"
        if finding.violation:
            outcome = f"VIOLATION: {finding.violation}"
        lines.append(f"{finding.name:24} {outcome}")
    return "\n".join(lines)


_LONGEST = 1000
"""Characters of a violation that are kept."""


class _Checks:
    """Runs checks and collects their findings.

    Attributes:
        findings: The outcomes so far.
        note: Note of the check that runs.
        warning: Warning of the check that runs.
    """

    def __init__(self):
        self.findings: list[Finding] = []
        self.note = self.warning = ""

    def split(self, findings: list[str]) -> None:
        """Takes findings as the note, and those that begin with WARNING as the warning."""
        warnings = [text for text in findings if text.startswith(WARNING)]
        self.note = "; ".join(text for text in findings if text not in warnings)
        self.warning = "; ".join(text.removeprefix(WARNING) for text in warnings)

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
        except ResourceError:  # the machine's fault
            raise
        except Exception as error:
            message = printable(" ".join(str(error).split()), longest=_LONGEST)
            if not isinstance(error, (Violation, ValueError)):
                message = f"{type(error).__name__}: {message}"
            self.findings.append(Finding(name, message))
        else:
            self.findings.append(Finding(name, note=self.note, warning=self.warning))
        self.note = self.warning = ""


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
    tasks, first = _check_first_episodes(checks, env)
    with checks.check("horizon", "episode") as made:
        if made:
            problem = _find_early_end(first, env.spec.horizon)
            require(not problem, problem)
    with checks.check("replay", "episode") as made:
        if made:
            problem = "the same task, stream and actions gave other results in a new environment"
            compare(first, play(another(2), tasks, COMPARED_STEPS), problem)
    with checks.check("threads", "replay") as made:
        if made:
            problem = "results with one thread or worker differ from those with two"
            compare(first, play(another(1), tasks, COMPARED_STEPS), problem)
    _check_independence(checks, env, tasks, first, COMPARED_STEPS)
    with checks.check("tasks differ", "episode") as made:
        if made:
            checks.warning = check_tasks_differ(env, 2 * NUM_EPISODES, env.spec.horizon)
    with checks.check("pickling"):
        _check_pickling(env)
    if isinstance(env, MujocoBatchEnv):
        if env.variations:
            with checks.check("variations", "episode") as made:
                if made:
                    checks.note = check_variations(env, 2 * NUM_EPISODES, env.spec.horizon)
        _check_robot(checks, env.robot)
    return checks.findings


def _check_robot(checks: _Checks, robot: Robot) -> None:
    """Checks that a robot can start in its home pose, and describes what it does."""
    with checks.check("robot"):
        with collect_warnings():
            fall = find_fall(robot, bare_model(robot))
        require(not fall, f"in its home pose the robot {fall}")
        checks.split(inspect_robot(robot))
    with checks.check("mirror"):
        checks.split([describe_mirror(robot)])


def quick_check(env: BatchEnv) -> list[Finding]:
    """Checks an environment in about a second, before a training.

    Plays the first steps of a few episodes, in this one instance. Where episodes take long, only
    some checks are done, and the last finding says so.

    Args:
        env: The environment, which afterwards is as new: its tasks are to be set.

    Returns:
        One finding per check; none for the environments of metarl.
    """
    while isinstance(env, Wrapper):
        env = env.inner
    if type(env) in (MujocoBatchEnv, NavigationEnv):
        return []
    checks = _Checks()
    tasks, first = _check_first_episodes(checks, env, QUICK_STEPS, QUICK_SECONDS)
    with checks.check("horizon", "episode") as made:
        if made:
            checks.warning = _find_early_end(first, env.spec.horizon)
    began, steps = time.monotonic(), 0 if first is None else len(first.reward)
    with checks.check("replay", "episode") as made:
        if made:
            problem = "the same task, stream and actions gave other results the second time"
            compare(first, play(env, tasks, steps), problem)
    if time.monotonic() - began > PATIENCE:
        text = "episodes are slow, so that not all was checked"
        checks.findings.append(Finding("independence", checked=False, warning=text))
        return checks.findings
    _check_independence(checks, env, tasks, first, steps)
    with checks.check("tasks differ", "episode") as made:
        if made:
            checks.warning = check_tasks_differ(env, 1, steps)
    return checks.findings


def _check_first_episodes(
    checks: _Checks, env: BatchEnv, max_steps: int | None = None, seconds: float = np.inf
) -> tuple[np.ndarray, Any]:
    """Checks sizes, tasks and episodes; returns the tasks (N, D) and the play, None on failure."""
    tasks, first = np.zeros((0, 0)), None
    with checks.check("sizes"):
        _check_sizes(env.spec)
        checks.note, checks.warning = describe_actions(env.spec), _find_half_lines(env.spec)
    with checks.check("tasks", "sizes") as made:
        if made:
            tasks = check_tasks(env)
            check_test_tasks(env)
    with checks.check("episode", "tasks") as made:
        if made:
            first = play(env, tasks, max_steps, seconds=seconds)
            _check_bounds(env, first)
    return tasks, first


def _check_independence(
    checks: _Checks, env: BatchEnv, tasks: np.ndarray, first: Any, steps: int
) -> None:
    """Checks that episodes depend neither on earlier ones nor on those beside them."""
    used: list[Usage] = []
    with checks.check("nothing left behind", "replay") as made:
        if made:
            used += _read_usage(env)
            play(env, tasks[::-1].copy(), steps, first_stream=100)
            used += _read_usage(env)
            problem = "results after other episodes differ from the first results"
            compare(first, play(env, tasks, steps), problem)
    with checks.check("set_task survives reset", "nothing left behind") as made:
        if made:
            used += _read_usage(env)
            problem = "the task lasts one episode only: results after a second reset differ"
            compare(first, play(env, tasks, steps, set_tasks=False), problem)
            used += _read_usage(env)
            checks.warning = find_growth(used, len(tasks) * NUM_EPISODES)
    needs = [f.name for f in checks.findings if f.name == "threads"]
    with checks.check("rows are independent", *needs, "nothing left behind") as made:
        if made:
            _check_alone(env, tasks, first, steps)


def _read_usage(env: BatchEnv) -> list[Usage]:
    """Returns what the first worker of a plug-in uses, [] for other environments."""
    return [env.usage()] if isinstance(env, SubprocEnv) else []


# --- checks ---------------------------------------------------------------------------------------


def _check_sizes(spec: EnvSpec) -> None:
    sizes = {"obs_size": spec.obs_size, "action_size": spec.action_size, "horizon": spec.horizon}
    for name, value in sizes.items():
        is_size = isinstance(value, (int, np.integer)) and value >= 1
        require(is_size, f"spec.{name} is {value!r}; it must be a whole number >= 1")
    for name, value in {"dt": spec.dt, "action_scale": spec.action_scale}.items():
        is_positive = np.isfinite(value).all() and np.all(np.array(value) > 0)
        require(is_positive, f"spec.{name} is {value!r}; it must be > 0")
    require(len(spec.tasks.variables), "spec.tasks.variables is empty: a task has no numbers")


def _find_half_lines(spec: EnvSpec) -> str:
    """Returns a warning about actions with one infinite end, "" without any."""
    if spec.action_range is None or spec.discrete:
        return ""
    low, high = np.array(spec.action_range, dtype=float)
    is_half = (low <= -UNBOUNDED) != (high >= UNBOUNDED)
    if not is_half.any():
        return ""
    i = int(np.argmax(is_half))
    hint = "outputs beyond the finite end are clipped; give it two finite ends"
    return f"action {i} goes from {low[i]:g} to {high[i]:g}: {hint}"


def _check_bounds(env: BatchEnv, play: Play) -> None:
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
            raise Violation(f"obs[{i}] is {obs[row, i]:g}, outside of observation_space {space}")


def _find_early_end(play: Play, horizon: int) -> str:
    """Returns what is odd about the lengths of the episodes, "" if nothing is."""
    steps, length = len(play.reward), play.length
    all_alike = (length == length[0]).all() and not play.faults.any()
    if length[0] == steps or not all_alike:
        return ""
    hint = f"if this is the environment's own time limit, the horizon must be {length[0]}"
    return f"every episode ended after {length[0]} of {horizon} steps; {hint}"


def _check_alone(env: BatchEnv, tasks: np.ndarray, first: Play, steps: int) -> None:
    task = NUM_TASKS - 1
    rows = slice(task * NUM_EPISODES, (task + 1) * NUM_EPISODES)
    alone = play(env, tasks[task : task + 1], steps, first_stream=rows.start)
    batch = Play(
        first.obs[:, rows],
        first.reward[:, rows],
        first.terminated[:, rows],
        first.length[rows],
        first.faults[rows],
    )
    compare(batch, alone, f"results of task {task} alone differ from those among others")


def _check_pickling(env: BatchEnv) -> None:
    value = env.make if isinstance(env, SubprocEnv) else env.spec
    try:
        # as multiprocessing does; nothing is read back
        ForkingPickler.dumps(value)
    except Exception as error:
        kind = type(value).__name__
        raise Violation(f"its {kind} cannot be sent to another process: {error}") from error
