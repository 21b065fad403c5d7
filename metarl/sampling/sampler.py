"""Rollouts and trials: all tasks and episodes in lock-step; the one place where NumPy becomes torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from metarl.core.env import BatchEnv, SplittableEnv, Step, supports
from metarl.core.errors import EnvironmentContractError
from metarl.core.learner import C, Learner, SplittableContext
from metarl.core.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Rollout

Observer = Callable[[int, np.ndarray], None]
"""Called after every step with (rollout k, valid (M,)), for videos."""

Arrays = dict[str, np.ndarray]
"""The fields of a rollout by name, rows first: (M, T, ...) or (M,)."""


@dataclass(frozen=True)
class Key:
    """Names the streams of a trial: every episode draws from (seed, stream, iteration, k, task, episode).

    Attributes:
        seed: Seed of the run.
        stream: What the trial is for: "train", "evaluate", "video".
        iteration: Which of them.
    """

    seed: int
    stream: str
    iteration: int

    def episodes(self, k: int, num_tasks: int, num_episodes: int) -> list[np.random.Generator]:
        """The generators of rollout k, row by row (N * E)."""
        return [
            stream(self.seed, self.stream, self.iteration, k, task, episode)
            for task in range(num_tasks)
            for episode in range(num_episodes)
        ]

    def tasks(self, purpose: str, k: int, num_tasks: int) -> list[np.random.Generator]:
        """Returns the streams that a learner draws from, one for each task.

        Args:
            purpose: "begin" or "adapt".
            k: Rollouts collected so far in the trial.
            num_tasks: N.
        """
        name = f"{self.stream}/{purpose}"
        return [stream(self.seed, name, self.iteration, k, task) for task in range(num_tasks)]


class _Recording:
    """Episodes of one environment as they unfold, written into the arrays of a rollout.

    Args:
        arrays: Their rows.
        num_episodes: E, neighbouring rows of a task.
    """

    def __init__(self, arrays: Arrays, num_episodes: int):
        self.arrays, self.num_episodes = arrays, num_episodes
        self.rows, self.horizon = arrays["valid"].shape
        self.alive = np.ones(self.rows, dtype=bool)
        self.seen, self.noise, self.given = (
            torch.from_numpy(arrays[name]).unflatten(0, (-1, num_episodes)).unbind(2)
            for name in ("obs", "action", "reward")
        )

    def draw_noise(self, rngs: Sequence[np.random.Generator]) -> None:
        """Draws the noise of whole episodes; it waits where the actions will be."""
        for row, rng in enumerate(rngs):
            rng.standard_normal(dtype=np.float32, out=self.arrays["action"][row])

    def see(self, t: int, obs: np.ndarray) -> None:
        """Takes the observation before step t where the episode goes on."""
        going_on = True if self.alive.all() else self.alive[:, None]
        np.copyto(self.arrays["obs"][:, t], obs, where=going_on, casting="same_kind")

    def choose(self, t: int, chosen: Action) -> np.ndarray:
        """Takes the action of step t and returns it (M, A)."""
        action = self.arrays["action"][:, t]
        action[...] = chosen.value.numpy().reshape(self.rows, -1)
        self.arrays["log_prob"][:, t] = chosen.log_prob.numpy().reshape(self.rows)
        return action

    def take(self, t: int, step: Step) -> Feedback:
        """Takes the outcome of step t and says what the learner is told of it."""
        arrays, valid = self.arrays, self.arrays["valid"][:, t]
        valid[...] = self.alive & ~step.fault
        # nothing is believed of a row that broke down or rests, whatever stands there
        np.copyto(arrays["reward"][:, t], step.reward, where=valid, casting="same_kind")
        arrays["terminated"] |= valid & step.terminated
        arrays["truncated"] |= self.alive & step.fault
        # a failed row keeps the observation before the failure
        np.copyto(arrays["last_obs"], arrays["obs"][:, t], where=(self.alive & step.fault)[:, None])
        self.alive = valid & ~step.terminated
        last = valid if t == self.horizon - 1 else valid & step.terminated
        if last.any():
            np.copyto(arrays["last_obs"], step.obs, where=last[:, None], casting="same_kind")
        going_on = torch.from_numpy(self.alive).view(-1, self.num_episodes)
        return Feedback(self.given[t], going_on)

    def finish(self, k: int, first_task: int = 0) -> None:
        """Checks rollout k and clears what stands at invalid steps.

        Raises:
            FloatingPointError: The policy chose an action that is not finite; names the task, counted from first_task.
            EnvironmentContractError: A number of the environment is not finite; names the task.
        """
        arrays = self.arrays
        _check_finite(arrays, k, first_task, self.num_episodes)
        # not action[~valid] = 0: the mask's indices take 16 bytes a step, and a step of navigation 25
        np.copyto(arrays["action"], 0.0, where=~arrays["valid"][:, :, None])
        np.copyto(arrays["log_prob"], 0.0, where=~arrays["valid"])


def _play(
    env: BatchEnv,
    learner: Learner[C],
    context: C,
    recording: _Recording,
    rngs: Sequence[np.random.Generator],
    *,
    explore: bool = True,
    after_step: Callable[[np.ndarray], bool | None] = lambda valid: None,
) -> C:
    """Plays an episode in every row; stops where `after_step`, told which steps were valid (M,), returns True."""
    current = env.reset(rngs)
    recording.draw_noise(rngs)
    # threads of torch's pool that spin beside the physics threads slow both several times
    with one_torch_thread(), torch.inference_mode():
        feedback = None
        for t in range(recording.horizon):
            recording.see(t, current)
            seen, noise = recording.seen[t], recording.noise[t]
            chosen, context = learner.act(context, seen, noise, feedback, explore=explore)
            step = env.step(recording.choose(t, chosen), recording.alive)
            feedback, current = recording.take(t, step), step.obs
            if after_step(recording.arrays["valid"][:, t]) or not recording.alive.any():
                break
    return context


def rollout(
    env: BatchEnv,
    learner: Learner[C],
    context: C,
    key: Key,
    k: int,
    size: tuple[int, int],
    *,
    explore: bool = True,
    observer: Observer | None = None,
) -> tuple[Rollout, C]:
    """Runs one episode in each of the N * E rows of an environment whose tasks are set.

    Args:
        env: The environment, after set_tasks.
        learner: Whose `act` chooses the actions.
        context: The learner's context.
        key: The streams.
        k: Which rollout of the trial.
        size: N, E.
        explore: Draw actions; otherwise send the mode.
        observer: Called after every step, for videos.

    Returns:
        The rollout and the context after the last action. Peak memory is that of the rollout's arrays.

    Raises:
        FloatingPointError: The policy chose an action that is not finite.
        EnvironmentContractError: An observation or a reward is not finite and was not called a fault.
    """

    def after_step(valid: np.ndarray) -> None:
        if observer is not None:
            observer(k, valid)

    arrays = _allocate(env.spec, math.prod(size))
    recording, rngs = _Recording(arrays, size[1]), key.episodes(k, *size)
    options: dict[str, Any] = {"explore": explore, "after_step": after_step}
    context = _play(env, learner, context, recording, rngs, **options)
    recording.finish(k)
    return _tensors(arrays, size), context


def trial(
    env: BatchEnv,
    learner: Learner[C],
    tasks: np.ndarray,
    num_episodes: int,
    num_adaptations: int,
    key: Key,
    **options: Any,
) -> tuple[list[Rollout], C]:
    """Runs K + 1 rollouts of the same tasks with `adapt` between them.

    Args:
        env: The environment.
        learner: The learner.
        tasks: (N, D).
        num_episodes: E.
        num_adaptations: K.
        key: The streams.
        **options: explore and observer, as in `rollout`.

    Returns:
        The K + 1 rollouts and the context after the last one.
    """
    size = (len(tasks), num_episodes)
    env.set_tasks(tasks, num_episodes)
    play = partial(rollout, env, learner, key=key, size=size, **options)
    context = learner.begin(*size, key.tasks("begin", 0, len(tasks)))
    return _alternate(learner, context, num_adaptations, key, play)


def _alternate(
    learner: Learner[C],
    context: C,
    num_adaptations: int,
    key: Key,
    play: Callable[..., tuple[Rollout, C]],
) -> tuple[list[Rollout], C]:
    rollouts: list[Rollout] = []
    for k in range(num_adaptations + 1):
        if k > 0:
            num_tasks = len(rollouts[-1].valid)
            context = learner.adapt(context, rollouts[-1], key.tasks("adapt", k, num_tasks))
        collected, context = play(context=context, k=k)
        rollouts.append(collected)
    return rollouts, context


class Collector:
    """Runs trials; the way to collect much experience.

    An environment that can be split does its tasks in two halves at the same time: while the policy chooses for one,
    the physics of the other go on. The halves do not depend on the number of threads, nor then do the results. Memory
    is used again: the rollouts of a trial are overwritten by the next.

    Args:
        env: The environment.
    """

    def __init__(self, env: BatchEnv):
        self.env = env
        self._halves: Sequence[BatchEnv] = []
        self._concurrent = False
        if supports(env, SplittableEnv):
            self._halves, self._concurrent = env.split(2), env.threads > 1
        self._memory: dict[int, Arrays] = {}
        self._stop = threading.Event()

    def trial(
        self,
        learner: Learner[C],
        tasks: np.ndarray,
        num_episodes: int,
        num_adaptations: int,
        key: Key,
    ) -> tuple[list[Rollout], C]:
        """Runs K + 1 rollouts of the same tasks with `adapt` between them; see the function `trial`."""
        size = (len(tasks), num_episodes)
        context = learner.begin(*size, key.tasks("begin", 0, len(tasks)))
        self.set_tasks(tasks, num_episodes, whole=not supports(context, SplittableContext))
        play = partial(self.rollout, learner, key=key)
        return _alternate(learner, context, num_adaptations, key, play)

    def set_tasks(self, tasks: np.ndarray, num_episodes: int, *, whole: bool = False) -> None:
        """Gives tasks (N, D) to the environment, each to num_episodes neighbouring rows.

        Args:
            tasks: (N, D).
            num_episodes: E.
            whole: Do not split it: the contexts of the learner cannot be split.
        """
        envs = [self.env] if whole or len(tasks) < 2 or not self._halves else self._halves
        cuts = [len(tasks) * i // len(envs) for i in range(len(envs) + 1)]
        self._size = (len(tasks), num_episodes)
        self._parts = [(env, slice(*cut)) for env, *cut in zip(envs, cuts, cuts[1:], strict=False)]
        for env, part in self._parts:
            env.set_tasks(tasks[part], num_episodes)

    def rollout(
        self, learner: Learner[C], context: C, key: Key, k: int, *, explore: bool = True
    ) -> tuple[Rollout, C]:
        """Runs one episode in each of the N * E rows, after set_tasks; see the function `rollout`."""
        arrays, rngs = self._arrays(k), key.episodes(k, *self._size)
        episodes = self._size[1]
        self._stop.clear()

        def play(env: BatchEnv, part: slice, own: Any) -> Any:
            rows = slice(part.start * episodes, part.stop * episodes)
            shares = {name: array[rows] for name, array in arrays.items()}
            recording = _Recording(shares, episodes)
            options: dict[str, Any] = {"after_step": lambda valid: self._stop.is_set()}
            options["explore"] = explore
            after = _play(env, learner, own, recording, rngs[rows], **options)
            recording.finish(k, part.start)
            return after

        if len(self._parts) == 1:
            context = play(*self._parts[0], context)
        else:
            context = self._in_parts(play, context)
        return _tensors(arrays, self._size), context

    def _in_parts(self, play: Callable[..., Any], context: Any) -> Any:
        """Plays every part with its share of the context, at the same time if there are threads; returns the whole."""
        before = [context.slice_tasks(part.start, part.stop) for _, part in self._parts]
        work = [(*part, own) for part, own in zip(self._parts, before, strict=True)]
        with one_torch_thread():  # threads started inside take the number over
            after = self._together(play, work) if self._concurrent else [play(*w) for w in work]
        if all(new is old for new, old in zip(after, before, strict=True)):
            return context
        return type(context).join(after)

    def _together(self, play: Callable[..., Any], work: Sequence[tuple]) -> list[Any]:
        with ThreadPoolExecutor(len(work)) as pool:
            try:
                running = [pool.submit(play, *each) for each in work]
                return [each.result() for each in running]
            except BaseException:  # also a second Ctrl-C: the pool waits for what still runs
                self._stop.set()
                raise

    def _arrays(self, k: int) -> Arrays:
        spec, rows = self.env.spec, math.prod(self._size)
        arrays = self._memory.get(k)
        if arrays is None or arrays["obs"].shape[:2] != (rows, spec.horizon):
            arrays = self._memory[k] = _allocate(spec, rows)
        else:  # memory that was never used costs more than clearing: the system pages it in
            for array in arrays.values():
                array.fill(0)
        return arrays

    def snapshot(self) -> np.ndarray:
        """Returns a copy of the states of all rows (M, n), as far as pictures need them."""
        return np.concatenate([env.snapshot() for env, _ in self._parts])  # ty: ignore[unresolved-attribute]

    def close(self) -> None:
        """Gives back the halves and the memory; the environment stays open."""
        for half in self._halves:
            half.close()
        self._memory.clear()


def _allocate(spec: Any, rows: int) -> Arrays:
    steps = (rows, spec.horizon)
    return {
        "obs": _zeros((*steps, spec.obs_size), np.float32),
        "action": _zeros((*steps, spec.action_size), np.float32),
        "log_prob": _zeros(steps, np.float32),
        "reward": _zeros(steps, np.float32),
        "valid": _zeros(steps, np.bool_),
        "terminated": _zeros((rows,), np.bool_),
        "truncated": _zeros((rows,), np.bool_),
        "last_obs": _zeros((rows, spec.obs_size), np.float32),
    }


def _zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes, as torch's do: products of few rows differ with the place."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _tensors(arrays: Arrays, size: tuple[int, int]) -> Rollout:
    """The same memory as torch knows it (N, E, ...)."""
    return Rollout(
        **{name: torch.from_numpy(a.reshape(*size, *a.shape[1:])) for name, a in arrays.items()}
    )


def _check_finite(arrays: Arrays, k: int, first_task: int, num_episodes: int) -> None:
    """Blames whoever was the first to give a number that is not finite: all others may follow from it."""
    suspects = [name for name in _GIVEN if not _sums_up(arrays[name])]
    found = []
    for name in suspects:
        broken = np.argwhere(~np.isfinite(arrays[name]))
        if len(broken):
            place = tuple(broken[broken[:, 1].argmin()].tolist())
            found.append((place[1], _GIVEN.index(name), place))
    if not found:
        return
    step, which, place = min(found)
    name, (task, episode) = _GIVEN[which], divmod(place[0], num_episodes)
    where = f"task {first_task + task}, episode {episode}, step {step}"
    value = arrays[name][place]
    if name == "action":
        words = ": it diverged in adapting" if k else ""
        raise FloatingPointError(f"{where} of rollout {k}: the policy chose action {value}{words}")
    raise EnvironmentContractError(
        f"{where}: the environment gave {name} {value} and called it no fault"
    )


_GIVEN = ("obs", "action", "reward")
"""What is given in a step, in this order."""


def _sums_up(array: np.ndarray) -> bool:
    # a sum needs no second array; what is finite and sums up to infinity is found out later
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
        return bool(np.isfinite(array.sum()))
